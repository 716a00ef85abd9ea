"""Gemma 2: norms around every sub-layer, capped scores and logits, every other layer slides.

Gemma team 2024, section 2.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families.family import (
    Family,
    Json,
    layer_types,
    rope,
    sizes,
    sliding,
    tensors,
    written_ropes,
)

POST = MappingProxyType(
    {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default."""
    window = {"sliding_window": 4096} | dict(hf)
    caps = {
        "attention_cap": hf.get("attn_logit_softcapping", 50.0),
        "logit_cap": hf.get("final_logit_softcapping", 30.0),
    }
    return shared(hf) | rope(hf) | caps | sliding(window, lambda layer: layer % 2 == 0)


def shared(hf: Json) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common."""
    return sizes(hf, tied=True) | {
        "head_dim": hf.get("head_dim", 256),
        "post_norm": True,
        "norm_offset": 1.0,
        "embed_scale": math.sqrt(hf["hidden_size"]),
        "query_scale": hf.get("query_pre_attn_scalar", 256) ** -0.5,
    }


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return written(config) | written_ropes(config)


def written(config: DecoderConfig) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common, back."""
    scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": config.attention_cap,
        "final_logit_softcapping": config.logit_cap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


FAMILY = Family(
    "Gemma2ForCausalLM",
    "gemma2",
    read,
    write,
    tensors(mlp_norm="pre_feedforward_layernorm", post=POST),
)

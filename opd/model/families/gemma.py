"""Gemma: a GELU's gate, scaled embeddings, norms offset by one (Gemma team 2024, section 2)."""

from __future__ import annotations

import math
from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families.family import Family, Json, rope, sizes, tensors, written_ropes

TANH = "gelu_pytorch_tanh"


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default."""
    gate = hf.get("hidden_act") or TANH
    # The first checkpoints said `gelu`, and meant this one.
    known = dict(hf) | {"hidden_activation": TANH if gate == "gelu" else gate}
    head = {"head_dim": hf.get("head_dim", 256), "norm_offset": 1.0}
    scale = {"embed_scale": math.sqrt(hf["hidden_size"])}
    return sizes(known, tied=True) | rope(hf) | head | scale


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    names = "hidden_act", "hidden_activation"  # for readers of either
    return dict.fromkeys(names, TANH) | written_ropes(config)


FAMILY = Family("GemmaForCausalLM", "gemma", read, write, tensors())

"""Granite 3, dense: Llama whose embeddings, scores, residuals and logits have a scale each.

Granite team 2024, section 2.
"""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families import llama
from opd.model.families.family import Family, Json, tensors


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default."""
    return llama.read(hf) | {
        "embed_scale": float(hf.get("embedding_multiplier", 1.0)),
        "query_scale": float(hf.get("attention_multiplier", 1.0)),
        "residual_scale": float(hf.get("residual_multiplier", 1.0)),
        "logit_divisor": float(hf.get("logits_scaling", 1.0)),
    }


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
    return llama.write(config) | {
        "embedding_multiplier": config.embed_scale,
        "attention_multiplier": scale,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": config.logit_divisor,
    }


FAMILY = Family("GraniteForCausalLM", "granite", read, write, tensors())

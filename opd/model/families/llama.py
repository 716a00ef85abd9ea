"""Llama 3.x: the plain decoder, with frequencies stretched by bands (Llama team 2024)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families.family import Family, Json, rope, sizes, tensors, written_ropes


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields."""
    return sizes(hf) | rope(hf)


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    } | written_ropes(config)


FAMILY = Family("LlamaForCausalLM", "llama", read, write, tensors())

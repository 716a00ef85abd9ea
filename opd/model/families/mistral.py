"""Mistral: Llama with a window, where the config has one (Jiang et al. 2023, section 2)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families.family import Family, Json, rope, sizes, sliding, tensors, written_ropes


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; all layers slide, or none."""
    window = {"sliding_window": 4096} | dict(hf)  # transformers' default
    return sizes(hf) | rope(hf) | sliding(window, lambda layer: True)


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return {
        "hidden_act": "silu",
        "sliding_window": config.window,
    } | written_ropes(config)


FAMILY = Family("MistralForCausalLM", "mistral", read, write, tensors())

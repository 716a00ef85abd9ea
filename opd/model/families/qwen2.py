"""Qwen2 and Qwen2.5: biased projections of queries, keys and values (Yang et al. 2024)."""

from __future__ import annotations

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


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields."""
    return sizes(hf) | rope(hf) | window(hf) | {"qkv_bias": True}


def window(hf: Json) -> dict[str, Any]:
    """Layers from `max_window_layers` on slide, where `use_sliding_window` says so."""
    if not hf.get("use_sliding_window", False):
        return {}
    given = {"sliding_window": 4096} | dict(hf)  # this and 28 are transformers' defaults
    return sliding(given, lambda layer: layer >= hf.get("max_window_layers", 28))


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return {
        "hidden_act": "silu",
        "use_sliding_window": any(config.sliding),
        "sliding_window": config.window,
        "max_window_layers": sum(not each for each in config.sliding) or config.layers,
        "layer_types": layer_types(config),
    } | written_ropes(config)


FAMILY = Family("Qwen2ForCausalLM", "qwen2", read, write, tensors(bias=True))

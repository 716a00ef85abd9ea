"""OLMo 3: OLMo 2 of which three layers in four slide, and only the others are stretched.

OLMo team 2025, 2512.13961, section 3.2.
"""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families import gemma3, olmo2
from opd.model.families.family import Family, Json, layer_types, sizes, sliding


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default."""
    known = {"sliding_window": 4096, "rms_norm_eps": 1e-5} | dict(hf)
    # An older config has one base for both kinds of layers.
    base = float(hf.get("rope_theta") or 500_000.0)
    slides = sliding(known, lambda layer: (layer + 1) % 4 != 0)
    return sizes(known) | gemma3.rope(hf, base, base) | slides | olmo2.NORMS


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    kinds = {"sliding_window": config.window, "layer_types": layer_types(config)}
    usual = {"hidden_act": "silu", "attention_bias": False}
    return usual | kinds | gemma3.written_ropes(config)


FAMILY = Family("Olmo3ForCausalLM", "olmo3", read, write, olmo2.TENSORS)

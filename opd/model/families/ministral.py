"""Ministral: Mistral whose layers slide one by one (Mistral AI 2024)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families import mistral
from opd.model.families.family import Family, layer_types, tensors


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return mistral.write(config) | {"layer_types": layer_types(config)}


FAMILY = Family("MinistralForCausalLM", "ministral", mistral.read, write, tensors())

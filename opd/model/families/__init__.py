"""Families of published checkpoints: one file and one row each."""

from collections.abc import Mapping
from types import MappingProxyType

from opd.model.families import gemma2, gemma3, llama, mistral, qwen2, qwen3
from opd.model.families.family import Family

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        module.FAMILY.architecture: module.FAMILY
        for module in (llama, mistral, qwen2, qwen3, gemma2, gemma3)
    }
)

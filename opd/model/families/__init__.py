"""Families of published checkpoints: one file and one row each."""

from collections.abc import Mapping
from types import MappingProxyType

from opd.model.families import (
    gemma,
    gemma2,
    gemma3,
    granite,
    llama,
    ministral,
    ministral3,
    mistral,
    olmo2,
    olmo3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from opd.model.families.family import Family

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        module.FAMILY.architecture: module.FAMILY
        for module in (
            llama,
            mistral,
            ministral,
            ministral3,
            qwen2,
            qwen3,
            qwen3_moe,
            gemma,
            gemma2,
            gemma3,
            granite,
            olmo2,
            olmo3,
            smollm3,
        )  # fmt: skip
    }
)

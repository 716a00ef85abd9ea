"""The table of tasks: a row each, in the file of its examples and its verifier."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from opd.data import arithmetic, gsm8k, prompts, tfds_prompts
from opd.data.builder import Source

TASKS: Mapping[str, Source] = MappingProxyType(
    {
        "arithmetic": arithmetic.SOURCE,
        "gsm8k": gsm8k.SOURCE,
        "jsonl": prompts.SOURCE,
        "tfds": tfds_prompts.SOURCE,
    }
)

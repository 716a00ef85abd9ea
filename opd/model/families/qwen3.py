"""Qwen3, dense: normed queries and keys in place of biases (Yang et al. 2025)."""

from __future__ import annotations

from typing import Any

from opd.model.families import qwen2
from opd.model.families.family import Family, Json, rope, sizes, tensors


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a head has 128 dimensions unless it says."""
    head = {"head_dim": hf.get("head_dim", 128), "qk_norm": True}
    return sizes(hf) | rope(hf) | qwen2.window(hf) | head


FAMILY = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    read,
    lambda config: qwen2.write(config) | {"attention_bias": False},
    tensors(qk_norm=True),
)

"""Published sizes, for a checkpoint that isn't there: what its config.json says.

Qwen3: the config.json of Qwen/Qwen3-0.6B, -1.7B, -4B, -8B, -14B and -32B on the Hugging Face hub
(Yang et al. 2025, Qwen3 Technical Report, table 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40_960,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "attention_bias": False,
}


def _qwen3(width: int, layers: int, heads: int, mlp: int, tied: bool) -> dict[str, Any]:
    return _QWEN3 | {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "tie_word_embeddings": tied,
    }


CONFIG_JSON: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, True),
        "Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, True),
        "Qwen3-4B": _qwen3(2560, 36, 32, 9728, True),
        "Qwen3-8B": _qwen3(4096, 36, 32, 12288, False),
        "Qwen3-14B": _qwen3(5120, 40, 40, 17408, False),
        "Qwen3-32B": _qwen3(5120, 64, 64, 25600, False),
    }
)

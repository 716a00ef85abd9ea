"""Small models of every family as config.json has them, and weights that NumPy draws for them.

Nothing here needs torch.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

LENGTH = 48  # S, tokens of an input; above every window and original context below
VOCAB = 96


@dataclasses.dataclass(frozen=True)
class Case:
    """A config.json: what its family's small model has, and what is particular about this one."""

    name: str
    family: str  # the name that tables have
    architecture: str
    json: Mapping[str, Any]

    @property
    def tied(self) -> bool:
        return self.json["tie_word_embeddings"]


SMALL = MappingProxyType(
    {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
)
# The table's name, the architecture, and what a small one has beside SMALL.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "Llama": (
            "LlamaForCausalLM",
            {"model_type": "llama", "hidden_act": "silu", "attention_bias": False},
        ),
        "Mistral": (
            "MistralForCausalLM",
            {"model_type": "mistral", "hidden_act": "silu", "sliding_window": 8},
        ),
        "Qwen2": ("Qwen2ForCausalLM", {"model_type": "qwen2", "hidden_act": "silu"}),
        "Qwen3": (
            "Qwen3ForCausalLM",
            {"model_type": "qwen3", "hidden_act": "silu", "head_dim": 16, "attention_bias": False},
        ),
        "Gemma 2": (
            "Gemma2ForCausalLM",
            {
                "model_type": "gemma2",
                "hidden_activation": "gelu_pytorch_tanh",
                "head_dim": 16,
                "query_pre_attn_scalar": 4,
                "sliding_window": 8,
                "attn_logit_softcapping": 5.0,
                "final_logit_softcapping": 4.0,
                "tie_word_embeddings": True,
            },
        ),
        "Gemma 3": (
            "Gemma3ForCausalLM",
            {
                "model_type": "gemma3_text",
                "hidden_activation": "gelu_pytorch_tanh",
                "head_dim": 16,
                "query_pre_attn_scalar": 4,
                "sliding_window": 8,
                "num_hidden_layers": 3,
                "tie_word_embeddings": True,
            },
        ),
        "Qwen3-MoE": (
            "Qwen3MoeForCausalLM",
            {
                "model_type": "qwen3_moe",
                "hidden_act": "silu",
                "head_dim": 16,
                "num_experts": 5,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 24,
            },
        ),
        "Gemma": (
            "GemmaForCausalLM",
            {
                "model_type": "gemma",
                "hidden_act": "gelu_pytorch_tanh",
                "head_dim": 16,
                "tie_word_embeddings": True,
            },
        ),
        "Granite": (
            "GraniteForCausalLM",
            {
                "model_type": "granite",
                "hidden_act": "silu",
                "embedding_multiplier": 6.0,
                "attention_multiplier": 0.25,
                "residual_multiplier": 0.6,
                "logits_scaling": 1.5,
            },
        ),
        "SmolLM3": (
            "SmolLM3ForCausalLM",
            {
                "model_type": "smollm3",
                "hidden_act": "silu",
                "num_hidden_layers": 3,
                "no_rope_layers": [1, 0, 1],
                "tie_word_embeddings": True,
            },
        ),
        "OLMo 2": ("Olmo2ForCausalLM", {"model_type": "olmo2", "hidden_act": "silu"}),
        "OLMo 3": (
            "Olmo3ForCausalLM",
            {
                "model_type": "olmo3",
                "hidden_act": "silu",
                "sliding_window": 8,
                "num_hidden_layers": 4,
            },
        ),
        "Ministral": (
            "MinistralForCausalLM",
            {
                "model_type": "ministral",
                "hidden_act": "silu",
                "sliding_window": 8,
                "head_dim": 16,
            },
        ),
        "Ministral 3": (
            "Ministral3ForCausalLM",
            {"model_type": "ministral3", "hidden_act": "silu", "head_dim": 16},
        ),
    }
)
LLAMA3 = MappingProxyType(
    {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    }
)
YARN = MappingProxyType({"factor": 4.0, "original_max_position_embeddings": 24})
EVERY_OTHER = ["full_attention", "sliding_attention"]


def _case(family: str, particular: str, **json: Any) -> Case:
    architecture, usual = FAMILIES[family]
    whole = {"architectures": [architecture], **SMALL, **usual, **json}
    return Case(f"{family}, {particular}", family, architecture, MappingProxyType(whole))


def _rope(kind: str, theta: float = 10_000.0, **numbers: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **numbers}


CASES = (
    _case("Llama", "untied", rope_parameters=_rope("default", 500_000.0)),
    _case(
        "Llama", "tied, llama3", tie_word_embeddings=True, rope_parameters=_rope("llama3", **LLAMA3)
    ),
    _case(
        "Llama",
        "llama3, old config",
        rope_theta=500.0,
        head_dim=16,
        rope_scaling={"rope_type": "llama3", **LLAMA3},
    ),
    _case(
        "Llama",
        "linear, old config",
        rope_theta=100.0,
        rope_scaling={"type": "linear", "factor": 4.0},
    ),
    _case("Llama", "yarn", rope_parameters=_rope("yarn", **YARN)),
    _case("Mistral", "untied, window", rope_parameters=_rope("default", 1_000.0)),
    _case(
        "Mistral",
        "tied, no window, old config",
        tie_word_embeddings=True,
        sliding_window=None,
        rope_theta=300.0,
    ),
    _case("Qwen2", "untied", rope_parameters=_rope("default", 1_000_000.0)),
    _case(
        "Qwen2",
        "tied, window from layer 1, old config",
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
        rope_theta=1_000.0,
    ),
    _case("Qwen2", "yarn, old config", rope_theta=1_000.0, rope_scaling={"type": "yarn", **YARN}),
    _case("Qwen3", "untied", rope_parameters=_rope("default", 1_000_000.0)),
    _case(
        "Qwen3",
        "tied, yarn",
        tie_word_embeddings=True,
        rope_parameters=_rope(
            "yarn",
            500.0,
            **YARN,
            beta_fast=4.0,
            beta_slow=0.5,
            attention_factor=1.2,
            truncate=False,
        ),
    ),
    _case(
        "Qwen3",
        "window by layer",
        use_sliding_window=True,
        sliding_window=8,
        layer_types=EVERY_OTHER,
        rope_parameters=_rope("default"),
    ),
    _case("Gemma 2", "tied, window", rope_parameters=_rope("default")),
    _case(
        "Gemma 2",
        "untied, no caps, old config",
        tie_word_embeddings=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        rope_theta=200.0,
    ),
    _case(
        "Gemma 3",
        "tied, two bases",
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": _rope("default", 1_000_000.0),
            "sliding_attention": _rope("default", 100.0),
        },
    ),
    _case(
        "Gemma 3",
        "untied, linear, caps, old config",
        tie_word_embeddings=False,
        sliding_window_pattern=2,
        rope_theta=5_000.0,
        rope_local_base_freq=50.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        final_logit_softcapping=4.0,
    ),
    _case(
        "Qwen3-MoE",
        "untied, weights that add up to 1",
        norm_topk_prob=True,
        rope_parameters=_rope("default", 1_000.0),
    ),
    _case("Qwen3-MoE", "tied, old config", tie_word_embeddings=True, rope_theta=500.0),
    _case("Gemma", "tied", rope_parameters=_rope("default")),
    _case(
        "Gemma",
        "untied, old config",
        tie_word_embeddings=False,
        hidden_act="gelu",
        rope_theta=200.0,
    ),
    _case("Granite", "untied, four scales", rope_parameters=_rope("default", 1_000.0)),
    _case("SmolLM3", "tied, a layer without rotation", rope_parameters=_rope("default", 500.0)),
    _case(
        "SmolLM3",
        "untied, window where nothing turns, old config",
        tie_word_embeddings=False,
        num_hidden_layers=4,
        no_rope_layers=None,
        use_sliding_window=True,
        sliding_window=8,
        rope_theta=1_000.0,
    ),
    _case("OLMo 2", "untied", rope_parameters=_rope("default", 500.0)),
    _case("OLMo 2", "tied, old config", tie_word_embeddings=True, rope_theta=100.0),
    _case(
        "OLMo 3",
        "untied, window in three of four layers, yarn in the other",
        rope_parameters={
            "full_attention": _rope("yarn", 500.0, **YARN),
            "sliding_attention": _rope("default", 500.0),
        },
    ),
    _case(
        "OLMo 3",
        "untied, old config",
        rope_theta=500_000.0,
        layer_types=[*EVERY_OTHER, *EVERY_OTHER],
    ),
    _case(
        "Ministral",
        "untied, window by layer",
        layer_types=EVERY_OTHER,
        rope_parameters=_rope("default", 1_000.0),
    ),
    _case(
        "Ministral 3",
        "untied, yarn, queries that grow",
        rope_parameters=_rope(
            "yarn",
            500.0,
            factor=4.0,
            original_max_position_embeddings=12,
            beta_fast=4.0,
            beta_slow=0.5,
            mscale=1.0,
            mscale_all_dim=0.5,
            llama_4_scaling_beta=0.5,
        ),
    ),
)


def weights(
    shapes: Mapping[str, Sequence[int]], architecture: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Weights by tensor name, float32, large enough that attention and logits are far from flat.

    RandomState's numbers are the same in every NumPy. A tensor's depend on its name alone.
    """
    gemma = architecture.startswith("Gemma")
    found = {}
    for name, shape in shapes.items():
        draws = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        normal = draws.standard_normal(tuple(shape))
        if name == "model.norm.weight":  # the logits' size, whatever the embedding's
            value = normal + (14.0 if gemma else 15.0)
        elif name.endswith("norm.weight"):
            value = 0.3 * normal + (0.0 if gemma else 1.0)
        elif name.endswith("bias"):
            value = 0.5 * normal
        elif name.startswith(("model.embed_tokens", "lm_head")):
            value = 0.2 * normal / shape[1] ** 0.5  # or a tied model says its input again
        else:
            value = 1.5 * normal / shape[1] ** 0.5
        found[name] = value.astype(np.float32)
    return found


def tokens(rows: int, length: int = LENGTH, seed: int = 0) -> np.ndarray:
    """Input ids [rows, length], int32, none of them special."""
    return np.random.RandomState(seed).randint(3, VOCAB, (rows, length)).astype(np.int32)

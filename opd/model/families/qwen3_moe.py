"""Qwen3 with a mixture of experts in each layer (Yang et al. 2025, section 2)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families import qwen3
from opd.model.families.family import Family, Json, mixture, tensors

# What transformers takes where a config says nothing.
USUAL = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default.

    Raises:
        ValueError: layers without experts, or no experts.
    """
    if hf.get("decoder_sparse_step", 1) != 1 or hf.get("mlp_only_layers"):
        raise ValueError(
            "config.json has layers without experts (decoder_sparse_step or mlp_only_layers): "
            "experts in every layer are allowed"
        )
    known = USUAL | dict(hf)
    if "num_local_experts" in hf:  # transformers 5 writes this name
        known["num_experts"] = hf["num_local_experts"]
    head = {"head_dim": hf.get("head_dim")}  # not Qwen3's own default
    return (
        qwen3.read(hf)
        | head
        | {
            "experts": known["num_experts"],
            "experts_per_token": known["num_experts_per_tok"],
            "expert_mlp": known["moe_intermediate_size"],
            "expert_normed": bool(hf.get("norm_topk_prob", False)),
        }
    )


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return qwen3.FAMILY.write(config) | {
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_mlp,
        "norm_topk_prob": config.expert_normed,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


FAMILY = Family("Qwen3MoeForCausalLM", "qwen3_moe", read, write, mixture(tensors(qk_norm=True)))

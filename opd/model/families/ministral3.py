"""Ministral 3: Mistral whose queries grow with the position (Mistral AI 2025; Llama 4's scores)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families.family import Family, Json, rope, sizes, sliding, tensors, written_ropes

# What transformers takes where a config says nothing of the rotation.
USUAL = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default.

    Raises:
        ValueError: no growth of queries, or no context that it counts from.
    """
    given = hf.get("rope_parameters") or hf.get("rope_scaling") or USUAL
    growth, original = (
        given.get(name) for name in ("llama_4_scaling_beta", "original_max_position_embeddings")
    )
    if growth is None or original is None:
        raise ValueError(
            "config.json has rope_parameters without llama_4_scaling_beta or "
            "original_max_position_embeddings: both are needed"
        )
    base = {"rope_theta": hf.get("rope_theta")} | dict(given)
    known = {"head_dim": 128, "rms_norm_eps": 1e-5} | dict(hf) | {"rope_parameters": base}
    slides = sliding(known, lambda layer: True)
    grown = {"query_growth": float(growth), "query_growth_from": int(original)}
    return sizes(known) | rope(known, 1_000_000.0) | slides | grown


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    grown = {
        "llama_4_scaling_beta": config.query_growth,
        "original_max_position_embeddings": config.query_growth_from,
    }
    found = written_ropes(config)
    ropes = {name: {**found.get(name, {}), **grown} for name in ("rope_parameters", "rope_scaling")}
    return {"hidden_act": "silu", "sliding_window": config.window} | found | ropes


FAMILY = Family("Ministral3ForCausalLM", "ministral3", read, write, tensors())

"""Gemma 3, text: five layers of six slide, with a rotary base of their own (Gemma team 2025)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families import gemma2
from opd.model.families.family import (
    Family,
    Json,
    older_rope,
    scaling,
    sliding,
    tensors,
    written_rope,
)


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default."""
    window = {"sliding_window": 4096} | dict(hf)
    pattern = hf.get("sliding_window_pattern", 6)
    caps = {
        "attention_cap": hf.get("attn_logit_softcapping"),
        "logit_cap": hf.get("final_logit_softcapping"),
    }
    slides = sliding(window, lambda layer: (layer + 1) % pattern != 0)
    return gemma2.shared(hf) | {"qk_norm": True} | rope(hf) | caps | slides


def rope(hf: Json, base: float = 1_000_000.0, sliding_base: float = 10_000.0) -> dict[str, Any]:
    """Two bases, usually these; only the layers that see everything are stretched.

    Raises:
        ValueError: a scaling of the layers that slide.
    """
    given = hf.get("rope_parameters") or {}
    full, near = (given.get(f"{kind}_attention") or {} for kind in ("full", "sliding"))
    full = full or hf.get("rope_scaling") or {}
    if scaling(near, hf) is not None:
        raise ValueError("config.json stretches the rope of sliding layers: allowed is default")
    return {
        "rope_base": float(full.get("rope_theta") or hf.get("rope_theta") or base),
        "rope_scaling": scaling(full, hf),
        "sliding_rope_base": float(
            near.get("rope_theta") or hf.get("rope_local_base_freq") or sliding_base
        ),
    }


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return gemma2.written(config) | written_ropes(config)


def written_ropes(config: DecoderConfig) -> dict[str, Any]:
    """Two bases, as `rope` reads them."""
    near = config.rope_base if config.sliding_rope_base is None else config.sliding_rope_base
    entries = {
        "full_attention": written_rope(config.rope_base, config.rope_scaling),
        "sliding_attention": written_rope(near, None),
    }
    older = older_rope(config) | {"rope_local_base_freq": near}
    return {"rope_parameters": entries} | older


FAMILY = Family(
    "Gemma3ForCausalLM",
    "gemma3_text",
    read,
    write,
    tensors(mlp_norm="pre_feedforward_layernorm", post=gemma2.POST, qk_norm=True),
)

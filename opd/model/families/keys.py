"""What the keys of a config.json may be: a number in words, a null or a list is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

# Sizes above these are no model's; shapes, and loops over layers, stay small below them.
MOST, MOST_LAYERS = 2**24, 2**13
LARGEST = float(np.finfo(np.float32).max)


class Kind(NamedTuple):
    """What a value is allowed to be, in words and as a rule."""

    allowed: str
    holds: Callable[[Any], bool]

    @property
    def or_null(self) -> Kind:
        """The same, or nothing."""
        return Kind(f"{self.allowed}, or null", lambda value: value is None or self.holds(value))


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return -(2**53) <= value <= 2**53
    return type(value) is float and -LARGEST <= value <= LARGEST  # false of NaN


def _whole(least: int, most: int) -> Kind:
    return Kind(
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


SIZE = _whole(1, MOST)
COUNT = _whole(0, MOST)
LENGTH = _whole(1, 2**31 - 1)  # positions are int32
ABOVE_0 = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
ABOVE_1 = Kind("a number above 1", lambda value: _is_number(value) and value > 1)
NUMBER = Kind("a number", _is_number)
FLAG = Kind("true or false", lambda value: type(value) is bool)
TEXT = Kind("a text", lambda value: type(value) is str)
OBJECT = Kind("an object", lambda value: type(value) is dict)
NUMBERS = Kind(
    "a list of whole numbers",
    lambda value: type(value) is list and all(type(one) is int for one in value),
)
TEXTS = Kind(
    "a list of texts", lambda value: type(value) is list and all(type(one) is str for one in value)
)

# Those without which there is no model.
NEEDED: Mapping[str, Kind] = MappingProxyType(
    {
        "vocab_size": SIZE,
        "hidden_size": SIZE,
        "num_hidden_layers": _whole(1, MOST_LAYERS),
        "num_attention_heads": SIZE,
        "intermediate_size": SIZE,
    }
)
# Where null stands for an absent key, or for none, transformers allows it too.
OTHERS: Mapping[str, Kind] = MappingProxyType(
    {
        "model_type": TEXT,
        "num_key_value_heads": SIZE.or_null,
        "head_dim": SIZE.or_null,
        "max_position_embeddings": LENGTH,
        "rms_norm_eps": ABOVE_0,
        "tie_word_embeddings": FLAG,
        "attention_bias": FLAG.or_null,
        "mlp_bias": FLAG.or_null,
        "use_bidirectional_attention": FLAG.or_null,
        "hidden_act": TEXT.or_null,
        "hidden_activation": TEXT.or_null,
        "rope_theta": ABOVE_1.or_null,
        "rope_local_base_freq": ABOVE_1.or_null,
        "rope_parameters": OBJECT.or_null,
        "rope_scaling": OBJECT.or_null,
        "partial_rotary_factor": NUMBER.or_null,
        "use_sliding_window": FLAG.or_null,
        "sliding_window": LENGTH.or_null,
        "sliding_window_pattern": SIZE,
        "max_window_layers": COUNT,
        "layer_types": TEXTS.or_null,
        "query_pre_attn_scalar": ABOVE_0,
        "attn_logit_softcapping": ABOVE_0.or_null,
        "final_logit_softcapping": ABOVE_0.or_null,
        "embedding_multiplier": ABOVE_0,
        "attention_multiplier": ABOVE_0,
        "residual_multiplier": ABOVE_0,
        "logits_scaling": ABOVE_0,
        "num_experts": SIZE,
        "num_local_experts": SIZE,
        "num_experts_per_tok": SIZE,
        "moe_intermediate_size": SIZE,
        "norm_topk_prob": FLAG,
        "decoder_sparse_step": SIZE,
        "mlp_only_layers": NUMBERS.or_null,
        "no_rope_layers": NUMBERS.or_null,
        "no_rope_layer_interval": SIZE,
    }
)
ROPES = ("rope_parameters", "rope_scaling")
# Of a rope's object, and of one layer type's in it.
ROPE: Mapping[str, Kind] = MappingProxyType(
    {
        "rope_type": TEXT,
        "type": TEXT,
        "rope_theta": ABOVE_1.or_null,
        "partial_rotary_factor": NUMBER.or_null,
        "factor": ABOVE_0,
        "original_max_position_embeddings": LENGTH.or_null,
        "low_freq_factor": ABOVE_0,
        "high_freq_factor": ABOVE_0,
        "beta_fast": ABOVE_0,
        "beta_slow": ABOVE_0,
        "attention_factor": ABOVE_0.or_null,
        "mscale": NUMBER.or_null,
        "mscale_all_dim": NUMBER.or_null,
        "llama_4_scaling_beta": NUMBER.or_null,
        "truncate": FLAG,
        "full_attention": OBJECT.or_null,
        "sliding_attention": OBJECT.or_null,
    }
)


def check(hf: Mapping[str, Any]) -> None:
    """Refuses a config.json with a size that is missing, or a key of another kind.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    missing = [name for name in NEEDED if name not in hf]
    if missing:
        raise ValueError(f"config.json has no {missing[0]}: {NEEDED[missing[0]].allowed} is needed")
    _check(hf, NEEDED, "")
    _check(hf, OTHERS, "")
    for rope in ROPES:
        _check_rope(hf.get(rope) or {}, f"{rope}.")
    heads, kv_heads = hf["num_attention_heads"], hf.get("num_key_value_heads")
    if kv_heads is not None and heads % kv_heads:
        raise ValueError(
            f"config.json has num_key_value_heads = {kv_heads}: a number that divides "
            f"num_attention_heads = {heads} is allowed"
        )
    size = hf.get("head_dim")
    if size is not None and size % 2:
        raise ValueError(f"config.json has head_dim = {size}: an even number is allowed")


def _check(hf: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> None:
    for name, kind in kinds.items():
        if name in hf and not kind.holds(hf[name]):
            raise ValueError(
                f"config.json has {where}{name} = {hf[name]!r:.60}: {kind.allowed} is allowed"
            )


def _check_rope(rope: Mapping[str, Any], where: str) -> None:
    _check(rope, ROPE, where)
    for kind in ("full_attention", "sliding_attention"):
        _check(rope.get(kind) or {}, ROPE, f"{where}{kind}.")

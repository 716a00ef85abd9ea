"""What a family of published checkpoints is: its config and its tensors, in our terms and back.

A family's file says how `config.json` becomes a DecoderConfig and how one is written, and where in
a checkpoint each parameter lies. Nothing here reads a file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from opd.model.decoder import DecoderConfig
from opd.model.families import keys
from opd.model.rotary import SCALINGS, RopeScaling

Json = Mapping[str, Any]
Path = tuple[str, ...]  # of a parameter in our tree


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a parameter lies in a checkpoint, and how.

    A projection of ours is [inputs..., outputs...], a checkpoint's [outputs, inputs], each side
    flat: `inputs` counts the axes of the former. With `flat` it is one axis. `{layer}` in the name
    stands for a layer's number, `{expert}` for an expert's: ours are stacked, [L, ...] or
    [L, E, ...].
    """

    name: str
    inputs: int = 0
    flat: bool = False

    @property
    def stacked(self) -> int:
        """How many axes of ours are numbers of a checkpoint's tensors."""
        return ("{layer}" in self.name) + ("{expert}" in self.name)

    def names(self, ours: Sequence[int]) -> Iterator[tuple[tuple[int, ...], str]]:
        """The checkpoint's tensors of a parameter of ours, of this shape: numbers and name."""
        for numbers in np.ndindex(*ours[: self.stacked]):
            yield numbers, self.name.format(**dict(zip(("layer", "expert"), numbers)))

    def shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """The checkpoint's shape of a parameter, or of one layer of a stacked one."""
        if self.inputs:
            return math.prod(ours[self.inputs :]), math.prod(ours[: self.inputs])
        return (math.prod(ours),) if self.flat else tuple(ours)

    def where(self, index: Sequence[slice], ours: Sequence[int]) -> tuple[slice, ...]:
        """The part of the checkpoint's tensor that holds a part of ours."""
        if self.inputs:
            sides = slice(self.inputs, None), slice(0, self.inputs)
            return tuple(_merged(index[side], ours[side]) for side in sides)
        return (_merged(index, ours),) if self.flat else tuple(index)

    def theirs(self, part: np.ndarray) -> np.ndarray:
        """A part of ours as the checkpoint has it; a view, where the part is contiguous."""
        if self.inputs:
            return part.reshape(math.prod(part.shape[: self.inputs]), -1).T
        return part.reshape(-1) if self.flat else part


def _merged(index: Sequence[slice], shape: Sequence[int]) -> slice:
    """The slice of several axes laid flat, of which only the first may be cut."""
    first, *rest = (part.indices(size) for part, size in zip(index, shape, strict=True))
    inner = math.prod(shape[1:])
    assert all(part == (0, size, 1) for part, size in zip(rest, shape[1:], strict=True)), index
    return slice(first[0] * inner, first[1] * inner)


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture: its names in config.json, and both directions."""

    architecture: str
    model_type: str
    read: Callable[[Json], dict[str, Any]]  # config.json -> the fields of DecoderConfig
    write: Callable[[DecoderConfig], dict[str, Any]]  # and back, without what all families have
    tensors: Mapping[Path, Tensor]

    def fields(self, hf: Json) -> dict[str, Any]:
        """The fields of DecoderConfig that a user's config.json gives.

        Raises:
            ValueError: a key that is missing or of another kind, or what no decoder here has.
        """
        keys.check(hf)
        return self.read(hf)

    def config_json(self, config: DecoderConfig) -> dict[str, Any]:
        """A whole config.json, without token ids and versions.

        Raises:
            ValueError: the decoder has something that the family doesn't.
        """
        found = {"architectures": [self.architecture], "model_type": self.model_type}
        found |= written_sizes(config) | self.write(config)
        kept = {name: getattr(config, name) for name in ("dtype", "param_dtype", "tokens")}
        again = DecoderConfig(**self.read(found), **kept)
        if again != config:
            fields = [f.name for f in dataclasses.fields(config)]
            lost = [n for n in fields if getattr(again, n) != getattr(config, n)]
            raise ValueError(
                f"{self.architecture} can't have {lost[0]} = {getattr(config, lost[0])!r}: "
                f"allowed is {getattr(again, lost[0])!r}"
            )
        return found


# ---------------------------------------------------------------------------------- config.json

# What every decoder has: our name of a field, and config.json's.
SIZES = MappingProxyType(
    {
        "vocab": "vocab_size",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "mlp": "intermediate_size",
    }
)


def sizes(hf: Json, tied: bool = False) -> dict[str, Any]:
    """The fields that all families have; a key that is left out has transformers' default.

    Of `max_position_embeddings` they have several, of which this is the least.

    Raises:
        ValueError: something that no decoder here has.
    """
    for name in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
        if hf.get(name):
            raise ValueError(f"config.json has {name} = {hf[name]!r}: allowed is false")
    found = {ours: hf[theirs] for ours, theirs in SIZES.items()}
    return found | {
        "kv_heads": hf.get("num_key_value_heads") or hf["num_attention_heads"],
        "head_dim": hf.get("head_dim"),
        "norm_eps": hf.get("rms_norm_eps", 1e-6),
        "tied": hf.get("tie_word_embeddings", tied),
        "max_length": hf.get("max_position_embeddings", 2048),
        "activation": activation(hf),
    }


def written_sizes(config: DecoderConfig) -> dict[str, Any]:
    """The fields that all families have, as config.json has them."""
    return {theirs: getattr(config, ours) for ours, theirs in SIZES.items()} | {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.max_length,
    }


ACTIVATIONS = MappingProxyType({"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"})


def activation(hf: Json) -> str:
    """The gate's activation; Gemma's configs have it under `hidden_activation`."""
    gemma = hf.get("model_type", "").startswith("gemma")
    usual, key = ("gelu_pytorch_tanh", "hidden_activation") if gemma else ("silu", "hidden_act")
    given = hf.get(key) or usual
    if given not in ACTIVATIONS:
        raise ValueError(f"config.json has {key} = {given!r}: {', '.join(ACTIVATIONS)} are allowed")
    return ACTIVATIONS[given]


def rope(hf: Json, base: float = 10_000.0) -> dict[str, Any]:
    """Rotary base and scaling; newer configs have both in `rope_parameters`."""
    given = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    return {
        "rope_base": float(given.get("rope_theta") or hf.get("rope_theta") or base),
        "rope_scaling": scaling(given, hf),
    }


def scaling(given: Json, hf: Json) -> RopeScaling | None:
    """What a config says of stretched frequencies; None where they are plain.

    Raises:
        ValueError: a type that isn't known, a number of it that is missing, or a rotation of some
            dimensions alone.
    """
    kind = given.get("rope_type", given.get("type", "default"))
    part = given.get("partial_rotary_factor", hf.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise ValueError(f"config.json has partial_rotary_factor = {part}: allowed is 1")
    if kind == "default":
        return None
    if kind not in SCALINGS:
        known = ", ".join(("default", *SCALINGS))
        raise ValueError(f"config.json has rope type {kind!r}: {known} are allowed")
    scales = [given.get(name) for name in ("mscale", "mscale_all_dim")]
    if any(scales) and not (kind == "yarn" and all(scales)):
        raise ValueError(
            "config.json has rope_scaling.mscale: allowed is none, or with mscale_all_dim in yarn"
        )
    numbers = {ours: given.get(theirs, usual) for ours, (theirs, usual) in _NUMBERS[kind].items()}
    if "original" in numbers and numbers["original"] is None:
        numbers["original"] = hf.get("max_position_embeddings")
    if any(scales) and numbers["attention"] is None:
        above, below = (0.1 * scale * math.log(numbers["factor"]) + 1 for scale in scales)
        numbers["attention"] = above / below
    absent = [
        _NUMBERS[kind][name][0]
        for name, value in numbers.items()
        if value is None and name != "attention"
    ]
    if absent:
        raise ValueError(f"config.json has rope type {kind!r} without {absent[0]}")
    return RopeScaling(kind, **numbers)


# Of each kind: our name of a number, theirs, and what it usually is.
_ORIGINAL = ("original_max_position_embeddings", None)
_NUMBERS: Mapping[str, Mapping[str, tuple[str, Any]]] = MappingProxyType(
    {
        "linear": {"factor": ("factor", None)},
        "llama3": {
            "factor": ("factor", None),
            "original": _ORIGINAL,
            "low": ("low_freq_factor", None),
            "high": ("high_freq_factor", None),
        },
        "yarn": {
            "factor": ("factor", None),
            "original": _ORIGINAL,
            "fast": ("beta_fast", 32.0),
            "slow": ("beta_slow", 1.0),
            "attention": ("attention_factor", None),
            "truncate": ("truncate", True),
        },
    }
)


def written_rope(base: float, stretched: RopeScaling | None) -> dict[str, Any]:
    """One layer type's entry of `rope_parameters`."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if stretched is not None:
        found["rope_type"] = stretched.kind
        for ours, (theirs, _) in _NUMBERS[stretched.kind].items():
            if getattr(stretched, ours) is not None:
                found[theirs] = getattr(stretched, ours)
    return found


def written_ropes(config: DecoderConfig) -> dict[str, Any]:
    """Rotary base and scaling, under the names of newer configs and of older ones."""
    entry = written_rope(config.rope_base, config.rope_scaling)
    return {"rope_parameters": entry} | older_rope(config)


def older_rope(config: DecoderConfig) -> dict[str, Any]:
    """The names that readers have who don't know `rope_parameters`, and would take defaults."""
    entry = written_rope(config.rope_base, config.rope_scaling)
    found = {"rope_theta": entry.pop("rope_theta")}
    return found if config.rope_scaling is None else found | {"rope_scaling": entry}


def layer_types(config: DecoderConfig) -> list[str]:
    """Which layers slide, as configs have it."""
    slides = config.sliding or (False,) * config.layers
    return ["sliding_attention" if each else "full_attention" for each in slides]


def sliding(hf: Json, usual: Callable[[int], bool]) -> dict[str, Any]:
    """The window and the layers that it is for; `usual` says of a layer where a config doesn't."""
    window, layers = hf.get("sliding_window"), hf["num_hidden_layers"]
    kinds = hf.get("layer_types")
    slides = [usual(i) for i in range(layers)]
    if kinds is not None:
        unknown = sorted(set(kinds) - {"sliding_attention", "full_attention"})
        if unknown or len(kinds) != layers:
            raise ValueError(
                f"config.json has layer_types {unknown or len(kinds)}: sliding_attention or "
                f"full_attention for each of {layers} layers is allowed"
            )
        slides = [kind == "sliding_attention" for kind in kinds]
    if window is None or not any(slides):
        return {}
    return {"window": window, "sliding": tuple(slides)}


# -------------------------------------------------------------------------------------- tensors


def tensors(
    attention_norm: str | None = "input_layernorm",
    mlp_norm: str | None = "post_attention_layernorm",
    post: Mapping[str, str] = MappingProxyType({}),
    qk_norm: bool = False,
    bias: bool = False,
) -> Mapping[Path, Tensor]:
    """Every parameter's place, under the names that Llama gave them and all families kept."""
    layer = "model.layers.{layer}."
    found = {
        ("embedding",): Tensor("model.embed_tokens.weight"),
        ("unembedding",): Tensor("lm_head.weight"),
        ("final_norm", "scale"): Tensor("model.norm.weight"),
        ("layers", "o"): Tensor(layer + "self_attn.o_proj.weight", inputs=2),
    }
    norms = {"attention_norm": attention_norm, "mlp_norm": mlp_norm, **post}
    for name in ("q", "k", "v"):
        found["layers", name] = Tensor(f"{layer}self_attn.{name}_proj.weight", inputs=1)
        if bias:
            place = Tensor(f"{layer}self_attn.{name}_proj.bias", flat=True)
            found["layers", f"{name}_bias"] = place
    for name in ("gate", "up", "down"):
        found["layers", name] = Tensor(f"{layer}mlp.{name}_proj.weight", inputs=1)
    for name in ("q_norm", "k_norm") if qk_norm else ():
        found["layers", name, "scale"] = Tensor(f"{layer}self_attn.{name}.weight")
    for ours, theirs in norms.items():
        if theirs is not None:
            found["layers", ours, "scale"] = Tensor(f"{layer}{theirs}.weight")
    return MappingProxyType(found)


def mixture(dense: Mapping[Path, Tensor]) -> Mapping[Path, Tensor]:
    """The places of a decoder whose MLPs are a mixture of experts, from those of a dense one."""
    layer = "model.layers.{layer}.mlp."
    found = dict(dense) | {("layers", "router"): Tensor(f"{layer}gate.weight", inputs=1)}
    for name in ("gate", "up", "down"):
        found["layers", name] = Tensor(f"{layer}experts.{{expert}}.{name}_proj.weight", inputs=1)
    return MappingProxyType(found)

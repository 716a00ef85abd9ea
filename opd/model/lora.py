"""Low-rank adapters: W + (alpha / r) A B beside a matrix that stays as it is.

Hu et al. 2021, section 4.1. B starts at 0, so that an adapted model starts as the one it adapts.
Shapes: a matrix of ours is [inputs..., outputs...], A [inputs..., r], B [r, outputs...]; those of
layers are stacked, [L, ...].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from opd.trees import wider
from opd.types import Array, Params

# A layer's matrices, and how many of their axes are summed over.
INPUTS: Mapping[str, int] = MappingProxyType(
    {"q": 1, "k": 1, "v": 1, "o": 2, "gate": 1, "up": 1, "down": 1}
)
A, B = "{}_lora_a", "{}_lora_b"


@dataclasses.dataclass(frozen=True)
class Lora:
    """An adapter's rank, its factor alpha / rank, and the matrices that have one.

    Raises:
        ValueError: a rank below 1, a factor that is no number, or a target that is no matrix.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = tuple(INPUTS)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank is {self.rank}: a whole number of at least 1 is allowed")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"lora alpha is {self.alpha}: a number above 0 is allowed")
        unknown = [name for name in self.targets if name not in INPUTS]
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            given = ", ".join(self.targets) or "nothing"
            raise ValueError(
                f"lora targets are {given}: allowed are {', '.join(INPUTS)}, each once"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def names(self) -> tuple[str, ...]:
        """The parameters of a layer that are the adapter's."""
        return tuple(form.format(name) for name in self.targets for form in (A, B))


def trained(tree: Any, lora: Lora) -> Any:
    """The adapter's part of a tree that is laid out like the parameters."""
    return {"layers": {name: tree["layers"][name] for name in lora.names()}}


def joined(tree: Any, part: Any) -> Any:
    """The tree with another adapter."""
    return {**tree, "layers": {**tree["layers"], **part["layers"]}}


def fresh(shapes: Any, lora: Lora, key: Array) -> Any:
    """An adapter that changes nothing yet: A ~ N(0, 1 / inputs), B = 0.

    `shapes` are those of the adapted decoder's parameters.
    """
    found = {}
    for number, name in enumerate(lora.targets):
        first, second = (shapes["layers"][form.format(name)] for form in (A, B))
        inputs = math.prod(first.shape[1:-1])
        drawn = jax.random.normal(jax.random.fold_in(key, number), first.shape, jnp.float32)
        found[A.format(name)] = (drawn * inputs**-0.5).astype(first.dtype)
        found[B.format(name)] = jnp.zeros(second.shape, second.dtype)
    return {"layers": found}


def without(params: Params, lora: Lora) -> Params:
    """The parameters of the plain decoder that was adapted."""
    layers = {k: v for k, v in params["layers"].items() if k not in lora.names()}
    return {**params, "layers": layers}


def merged(params: Params, lora: Lora) -> Params:
    """The parameters of the plain decoder that computes the same: W + (alpha / r) A B.

    The sum is float32 or wider, and rounded to W's dtype once.
    """
    layers = without(params, lora)["layers"]
    for name in lora.targets:
        first, second = (params["layers"][form.format(name)] for form in (A, B))
        weight = layers[name]
        wide = jnp.promote_types(wider(first.dtype), weight.dtype)
        added = jnp.einsum(
            "lir,lro->lio",
            first.reshape(first.shape[0], -1, lora.rank).astype(wide),
            second.reshape(second.shape[0], lora.rank, -1).astype(wide),
        )
        whole = weight.astype(wide) + lora.scale * added.reshape(weight.shape)
        layers[name] = whole.astype(weight.dtype)
    return {**params, "layers": layers}

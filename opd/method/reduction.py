"""From tokens to one number: the weight of each graded token, [B, T].

All but the first move the expectation, and say how in the table below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax.numpy as jnp

from opd import masked
from opd.types import Array


def sum_tokens(mask: Array) -> Array:
    """1 / B: sum over tokens, mean over rollouts."""
    return mask / jnp.asarray(mask.shape[0], _dtype())


def constant(mask: Array) -> Array:
    """1 / (B T): the sum over a stated constant (Liu et al. 2025, Dr. GRPO, section 3.2)."""
    return mask / jnp.asarray(mask.size, _dtype())


def token_mean(mask: Array) -> Array:
    """1 / (graded tokens of the global batch) (Yu et al. 2025, DAPO, section 3.3)."""
    return mask / masked.count(mask).astype(_dtype())


def sequence_mean(mask: Array) -> Array:
    """1 / (B |y|): mean over a rollout's tokens, then over rollouts (GRPO, eq. 3)."""
    return mask / (mask.shape[0] * masked.count(mask, 1, keepdims=True)).astype(_dtype())


@dataclasses.dataclass(frozen=True)
class Reduction:
    """The weight of each graded token, f(mask [B, T]) -> [B, T].

    `of` says whose lengths it holds besides the rollout's own: None, or the `batch`'s. `bias` says
    how it moves the expectation, where it does.
    """

    value: Callable[[Array], Array]
    of: str | None = None
    bias: str | None = None


LENGTHS = "weighs tokens by the lengths drawn"
REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(sum_tokens),
    "constant": Reduction(constant, bias="divides the gradient by T"),
    "token_mean": Reduction(token_mean, "batch", bias=LENGTHS),
    "sequence_mean": Reduction(sequence_mean, bias=LENGTHS),
}


def reduce(mask: Array, kind: str) -> Array:
    """The weights [B, T] of the graded tokens of `mask` [B, T]; see REDUCTIONS for the kinds."""
    chex.assert_rank(mask, 2)
    return REDUCTIONS[kind].value(mask)


def _dtype():
    return jnp.result_type(float)

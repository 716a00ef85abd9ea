"""Baselines and normalisers, two ideas: what is subtracted, and what divides. [B, T] functions.

A baseline that doesn't depend on the rollout's own actions leaves the expectation alone. The
group's and the batch's mean do hold the rollout's own return, which shrinks the gradient by
1 - 1/n; leave-one-out doesn't. Dividing by a standard deviation biases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from opd import masked
from opd.masked import zero
from opd.types import Array

# Added to a standard deviation, in reward units: a group of equal rewards teaches nothing.
EPSILON = 1e-4


def baseline(returns: Array, mask: Array, group: Array, kind: str) -> Array:
    """What to subtract from the returns, [B, T]; one number for each rollout.

    A rollout's return is its return-to-go at the first token.

    Args:
        returns: [B, T] returns-to-go.
        mask: [B, T].
        group: [B] prompt groups.
        kind: one of BASELINES.
    """
    chex.assert_rank((returns, mask, group), (2, 2, 1))
    chex.assert_equal_shape((returns, mask))
    total = BASELINES[kind].value(returns[:, 0], group)
    return zero(jnp.broadcast_to(total[:, None], mask.shape), mask)


def normalise(advantage: Array, mask: Array, group: Array, kind: str) -> Array:
    """The advantage [B, T] on the scale that one of NORMALISERS gives it.

    What divides is the spread of the advantage itself, so that none is left without a bound.
    """
    chex.assert_rank((advantage, mask, group), (2, 2, 1))
    chex.assert_equal_shape((advantage, mask))
    return zero(NORMALISERS[kind].value(advantage, mask, group), mask)


def _group_sum(values: Array, group: Array) -> Array:
    """The sum over each row's own group, [B]."""
    return jax.ops.segment_sum(values, group, num_segments=group.shape[0])[group]


def no_baseline(total: Array, group: Array) -> Array:
    """0."""
    return jnp.zeros_like(total)


def batch_mean(total: Array, group: Array) -> Array:
    """The batch's mean return (Williams 1992's reinforcement baseline, estimated in place)."""
    return jnp.broadcast_to(jnp.mean(total), total.shape)


def group_mean(total: Array, group: Array) -> Array:
    """The prompt group's mean return (Shao et al. 2024, GRPO, section 4.1.2)."""
    return _group_sum(total, group) / _group_sum(jnp.ones_like(total), group)


def leave_one_out(total: Array, group: Array) -> Array:
    """The mean return of the group's other rollouts (Kool et al. 2019; Ahmadian et al. 2024)."""
    others = _group_sum(jnp.ones_like(total), group) - 1
    return (_group_sum(total, group) - total) / jnp.maximum(others, 1)


def no_normaliser(advantage: Array, mask: Array, group: Array) -> Array:
    """The advantage as it is."""
    return advantage


def group_std(advantage: Array, mask: Array, group: Array) -> Array:
    """A / (sigma + EPSILON), sigma^2 the group's mean over rollouts of the mean over t of A_t^2.

    A return that is one number for a rollout, less the group's mean: sigma is the population
    standard deviation of the group's returns (GRPO, section 4.1.2). Where returns differ from token
    to token it is the spread about the baseline of all that is divided, and |A_t / sigma| is
    sqrt(G T) at most.
    """
    square = zero(advantage, mask) ** 2
    first = square[:, :1]  # the others relative to it: of equal numbers the mean is exactly theirs
    of_rollout = first[:, 0] + masked.mean(square - first, mask, axis=1)
    return advantage / (jnp.sqrt(group_mean(of_rollout, group)) + EPSILON)[:, None]


def whiten(advantage: Array, mask: Array, group: Array) -> Array:
    """Mean 0 and standard deviation 1 over the graded tokens of the global batch."""
    centred = advantage - masked.mean(advantage, mask)
    return centred / (jnp.sqrt(masked.mean(centred**2, mask)) + EPSILON)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A statistic of whole rollouts, f(total [B], group [B]) -> [B], that is subtracted.

    `of` says whose: None, a `group`'s or the `batch`'s rollouts. `bias` says why it moves the
    expectation, where it does.
    """

    value: Callable[[Array, Array], Array]
    of: str | None = None
    bias: str | None = None


@dataclasses.dataclass(frozen=True)
class Normaliser:
    """What puts an advantage on a scale, f(advantage [B, T], mask, group) -> [B, T].

    `of` as in Baseline; `rollouts` says that it is a statistic of whole rollouts.
    """

    value: Callable[[Array, Array, Array], Array]
    of: str | None = None
    rollouts: bool = False


BASELINES: dict[str, Baseline] = {
    "none": Baseline(no_baseline),
    "batch": Baseline(batch_mean, "batch", "the batch mean holds the rollout's own return"),
    "group": Baseline(group_mean, "group", "the group mean holds the rollout's own return"),
    "leave_one_out": Baseline(leave_one_out, "group"),
}
NORMALISERS: dict[str, Normaliser] = {
    "none": Normaliser(no_normaliser),
    "group_std": Normaliser(group_std, "group", rollouts=True),
    "whiten": Normaliser(whiten, "batch"),
}

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
    total = BASELINES[kind].value(returns[:, 0], group, jnp.sum(mask, 1))
    return zero(jnp.broadcast_to(total[:, None], mask.shape), mask)


def normalise(advantage: Array, total: Array, mask: Array, group: Array, kind: str) -> Array:
    """The advantage [B, T] on the scale that one of NORMALISERS gives it.

    Args:
        advantage: [B, T], the baseline subtracted.
        total: [B, T] returns-to-go, before that.
        mask: [B, T].
        group: [B] prompt groups.
        kind: one of NORMALISERS.
    """
    chex.assert_rank((advantage, total, mask, group), (2, 2, 2, 1))
    chex.assert_equal_shape((advantage, total, mask))
    return zero(NORMALISERS[kind].value(advantage, total, mask, group), mask)


def _group_sum(values: Array, group: Array) -> Array:
    """The sum over each row's own group, [B, ...]."""
    return jax.ops.segment_sum(values, group, num_segments=group.shape[0])[group]


def _group_average(values: Array, group: Array) -> Array:
    """The mean over each row's own group, [B]."""
    return _group_sum(values, group) / _group_sum(jnp.ones_like(values), group)


def no_baseline(total: Array, group: Array, length: Array) -> Array:
    """0."""
    return jnp.zeros_like(total)


def batch_mean(total: Array, group: Array, length: Array) -> Array:
    """The batch's mean return (Williams 1992's reinforcement baseline, estimated in place)."""
    return jnp.broadcast_to(jnp.mean(total), total.shape)


def group_mean(total: Array, group: Array, length: Array) -> Array:
    """The prompt group's mean return (Shao et al. 2024, GRPO, section 4.1.2)."""
    return _group_average(total, group)


def length_weighted(total: Array, group: Array, length: Array) -> Array:
    """sum |y| R / sum |y| over the prompt group (Hao et al. 2025, OPO, eq. 6).

    The least variance of a constant, where a rollout's squared score grows like its length.
    """
    tokens = length.astype(total.dtype)
    return _group_sum(tokens * total, group) / jnp.maximum(_group_sum(tokens, group), 1)


def leave_one_out(total: Array, group: Array, length: Array) -> Array:
    """The mean return of the group's other rollouts (Kool et al. 2019; Ahmadian et al. 2024)."""
    others = _group_sum(jnp.ones_like(total), group) - 1
    return (_group_sum(total, group) - total) / jnp.maximum(others, 1)


def optimal_token(total: Array, square: Array, mask: Array, group: Array) -> Array:
    """sum_i W_it G_it / sum_i W_it over the group's rollouts that reach t, [B, T].

    W_it = sum_{j <= t} |onehot - pi|^2, the squared score of the tokens up to t, those of different
    tokens taken as orthogonal (Li et al. 2026, optimal token baseline). Holds the own return.

    Args:
        total: [B, T] returns-to-go.
        square: [B, T] squared norms of the tokens' scores in logit space.
        mask: [B, T].
        group: [B] prompt groups.
    """
    chex.assert_rank((total, square, mask, group), (2, 2, 2, 1))
    chex.assert_equal_shape((total, square, mask))
    weight = zero(jnp.cumsum(zero(square, mask), 1), mask)
    graded, whole = (_group_sum(each, group) for each in (weight * zero(total, mask), weight))
    return zero(graded / jnp.where(whole > 0, whole, 1), mask)


def no_normaliser(advantage: Array, total: Array, mask: Array, group: Array) -> Array:
    """The advantage as it is."""
    return advantage


def group_std(advantage: Array, total: Array, mask: Array, group: Array) -> Array:
    """A / (sigma + EPSILON), sigma^2 the group's mean over rollouts of the mean over t of A_t^2.

    A return that is one number for a rollout, less the group's mean: sigma is the population
    standard deviation of the group's returns (GRPO, section 4.1.2). Where returns differ from token
    to token it is the spread about the baseline of all that is divided, and |A_t / sigma| is
    sqrt(G T) at most.
    """
    square = zero(advantage, mask) ** 2
    first = square[:, :1]  # the others relative to it: of equal numbers the mean is exactly theirs
    of_rollout = first[:, 0] + masked.mean(square - first, mask, axis=1)
    return advantage / (jnp.sqrt(_group_average(of_rollout, group)) + EPSILON)[:, None]


def group_return(advantage: Array, total: Array, mask: Array, group: Array) -> Array:
    """A over the group's mean return, 0 where that isn't above 0; of returns of at least 0.

    Of a reward of 0 or 1 less the group's mean: the gradient of log p to order G, p the chance of
    a success (Tajwar et al. 2026, MaxRL, algorithm 1).
    """
    mean = _group_average(total[:, 0], group)[:, None]
    return zero(advantage / jnp.where(mean > 0, mean, 1), mask & (mean > 0))


def whiten(advantage: Array, total: Array, mask: Array, group: Array) -> Array:
    """Mean 0 and standard deviation 1 over the graded tokens of the global batch."""
    return over_spread(centred(advantage, total, mask, group), advantage, mask)


def centred(advantage: Array, total: Array, mask: Array, group: Array) -> Array:
    """Mean 0 over the graded tokens of the global batch."""
    return advantage - masked.mean(advantage, mask)


def over_spread(advantage: Array, of: Array, mask: Array) -> Array:
    """A over the standard deviation of `of` [B, T] over the graded tokens of the global batch."""
    around = of - masked.mean(of, mask)
    return zero(advantage / (jnp.sqrt(masked.mean(around**2, mask)) + EPSILON), mask)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A statistic of whole rollouts, f(total [B], group [B], length [B]) -> [B], subtracted.

    `of` says whose: None, a `group`'s or the `batch`'s rollouts. `bias` says why it moves the
    expectation, where it does.
    """

    value: Callable[[Array, Array, Array], Array]
    of: str | None = None
    bias: str | None = None


@dataclasses.dataclass(frozen=True)
class Normaliser:
    """What puts an advantage on a scale, f(advantage [B, T], total, mask, group) -> [B, T].

    `of` as in Baseline; `rollouts` says that it is a statistic of whole rollouts. All terms whose
    normaliser is `shared` are divided by the spread of their sum, afterwards.
    """

    value: Callable[[Array, Array, Array, Array], Array]
    of: str | None = None
    rollouts: bool = False
    shared: bool = False


BASELINES: dict[str, Baseline] = {
    "none": Baseline(no_baseline),
    "batch": Baseline(batch_mean, "batch", "the batch mean holds the rollout's own return"),
    "group": Baseline(group_mean, "group", "the group mean holds the rollout's own return"),
    "length_weighted": Baseline(
        length_weighted, "group", "the group mean by length holds the rollout's own return"
    ),
    "leave_one_out": Baseline(leave_one_out, "group"),
}
# Baselines of a state, which the vocabulary's enumeration gives: of a log-ratio alone.
OF_STATES = ("expected_kl", "optimal_kl")
# Baselines of a token, which hold the squared scores of its group's rollouts.
OF_SCORES = ("optimal_token",)
NORMALISERS: dict[str, Normaliser] = {
    "none": Normaliser(no_normaliser),
    "group_std": Normaliser(group_std, "group", rollouts=True),
    "group_return": Normaliser(group_return, "group", rollouts=True),
    "whiten": Normaliser(whiten, "batch"),
    "whiten_sum": Normaliser(centred, "batch", shared=True),
}

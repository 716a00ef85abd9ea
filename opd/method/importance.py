"""Stale or foreign states and actions: log-ratios between two policies, and what they cost.

A weight is made in two steps: `log_ratio` says which product of token ratios (LOG_RATIOS), and
`weight` what is done with it (RATIO_RULES). The second comes after credit, since PPO's gate needs
the advantage's sign. Log space throughout: a product over a prefix overflows float32 at about 45
tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from opd import masked
from opd.masked import zero
from opd.types import Array


def log_ratio(logp: Array, logp_behavior: Array, mask: Array, kind: str) -> Array:
    """log of an importance weight at every token, [B, T] nats; see LOG_RATIOS for the kinds.

    Args:
        logp: [B, T] of the policy that the expectation is meant for.
        logp_behavior: [B, T] of the policy that drew the tokens.
        mask: [B, T].
        kind: one of LOG_RATIOS.
    """
    chex.assert_rank((logp, logp_behavior, mask), 2)
    chex.assert_equal_shape((logp, logp_behavior, mask))
    return zero(LOG_RATIOS[kind].value(zero(logp - logp_behavior, mask), mask), mask)


def token(ratio: Array, mask: Array) -> Array:
    """log pi(y_t) / mu(y_t): the action drawn at t."""
    return ratio


def prefix(ratio: Array, mask: Array) -> Array:
    """sum over t' < t: the state at t."""
    return jnp.cumsum(ratio, 1) - ratio


def prefix_inclusive(ratio: Array, mask: Array) -> Array:
    """sum over t' <= t: the state and the action at t."""
    return jnp.cumsum(ratio, 1)


def trajectory(ratio: Array, mask: Array) -> Array:
    """sum over all t': the whole rollout."""
    return jnp.broadcast_to(jnp.sum(ratio, 1, keepdims=True), mask.shape)


def sequence(ratio: Array, mask: Array) -> Array:
    """mean over all t': the whole rollout's geometric mean (Zheng et al. 2025, GSPO, eq. 7)."""
    return jnp.broadcast_to(masked.mean(ratio, mask, 1, keepdims=True), mask.shape)


@dataclasses.dataclass(frozen=True)
class LogRatio:
    """A kind of importance weight: its logarithm, and whose tokens' ratios it multiplies.

    `past` are the tokens before t, `own` is the one at t, `ahead` those after it. What is no
    `product` of them, such as a mean, corrects nothing exactly.
    """

    value: Callable[[Array, Array], Array]
    past: bool = False
    own: bool = False
    ahead: bool = False
    product: bool = True


LOG_RATIOS: dict[str, LogRatio] = {
    "token": LogRatio(token, own=True),
    "prefix": LogRatio(prefix, past=True),
    "prefix_inclusive": LogRatio(prefix_inclusive, past=True, own=True),
    "trajectory": LogRatio(trajectory, past=True, own=True, ahead=True),
    "sequence": LogRatio(sequence, past=True, own=True, ahead=True, product=False),
}
# What a candidate that is enumerated, or drawn afresh from the policy itself, takes of each kind:
# its expectation given the state. Its own ratio is 1, and so is what follows on average.
STATE_PART = {"none": "none"} | {
    kind: "prefix" if ratio.past else "none" for kind, ratio in LOG_RATIOS.items() if ratio.product
}


def weight(
    log_rho: Array, advantage: Array | None, rule: str, low: float | None, high: float | None
) -> Array:
    """What an importance weight rho becomes, [B, T], detached; see RATIO_RULES.

    Args:
        log_rho: [B, T] nats.
        advantage: [B, T], whose sign the gate looks at; None where no rule has a gate.
        rule: one of RATIO_RULES.
        low: the least rho, 0 for none. Bounds are of the ratio itself: PPO's epsilon of 0.2 is
            [0.8, 1.2].
        high: the largest rho.
    """
    if advantage is not None:
        chex.assert_equal_shape((log_rho, advantage))
    return RATIO_RULES[rule].weight(log_rho, advantage, low, high)


def bounded(
    log_rho: Array, advantage: Array | None, rule: str, low: float | None, high: float | None
) -> Array:
    """Where the rule makes a weight something else than rho, [B, T] bool; arguments as `weight`'s.

    Its mean over graded tokens is the clip fraction.
    """
    return weight(log_rho, advantage, rule, low, high) != saturating_exp(log_rho)


def unbounded(log_rho: Array, advantage: Array | None, low: None, high: None) -> Array:
    """rho."""
    return saturating_exp(log_rho)


def clip(log_rho: Array, advantage: Array, low: float, high: float) -> Array:
    """rho, and 0 where it passes the bound that the advantage pushes it towards.

    The gradient of min(rho A, clip(rho, low, high) A) is rho A grad log pi, gated (Schulman et al.
    2017, PPO, eq. 7). Biased once rho leaves [low, high].
    """
    above = (log_rho > _log(high)) & (advantage > 0)
    below = (log_rho < _log(low)) & (advantage < 0)
    return zero(saturating_exp(log_rho), ~(above | below))


def clip_ungated(log_rho: Array, advantage: Array | None, low: float, high: float) -> Array:
    """clip(rho, low, high): no token is left out (MiniMax 2025, CISPO, eq. 4 and 5)."""
    return saturating_exp(jnp.clip(log_rho, _log(low), _log(high)))


def truncate(log_rho: Array, advantage: Array | None, low: None, high: float) -> Array:
    """min(rho, high) (Ionides 2008; Yao et al. 2025, truncated importance sampling)."""
    return saturating_exp(jnp.minimum(log_rho, _log(high)))


def mask_out(log_rho: Array, advantage: Array | None, low: float, high: float) -> Array:
    """rho inside [low, high] and 0 outside (Ling team 2025, IcePop)."""
    return zero(saturating_exp(log_rho), (log_rho >= _log(low)) & (log_rho <= _log(high)))


@dataclasses.dataclass(frozen=True)
class RatioRule:
    """What becomes of a ratio: `weight`'s arguments are those of the function of that name.

    `low` and `high` are the usual bounds, None where the rule has none. A rule that is `gated`
    looks at the advantage's sign, which enumerated candidates and corrections don't have.
    """

    weight: Callable[..., Array]
    low: float | None = None
    high: float | None = None
    gated: bool = False


RATIO_RULES: dict[str, RatioRule] = {
    "none": RatioRule(unbounded),
    "clip": RatioRule(clip, 0.8, 1.2, gated=True),
    "clip_ungated": RatioRule(clip_ungated, 0.0, 5.0),
    "truncate": RatioRule(truncate, high=2.0),
    "mask": RatioRule(mask_out, 0.5, 5.0),
}


def _log(bound: float) -> float:
    return math.log(bound) if bound > 0 else -math.inf


def saturating_exp(log_rho: Array) -> Array:
    """exp, at most the dtype's largest number: infinity times no advantage is no number."""
    return jnp.minimum(jnp.exp(log_rho), jnp.finfo(log_rho.dtype).max)


def counted(mask: Array, kind: str) -> Array:
    """The entries of [B, T] whose weights of a kind count: all graded, or one of each rollout.

    A weight that holds what is ahead is one number a rollout, the same at all its tokens.
    """
    return mask & (jnp.cumsum(mask, 1) == 1) if LOG_RATIOS[kind].ahead else mask


def effective_sample_size(log_weight: Array, mask: Array) -> Array:
    """ESS / N = (sum w)^2 / (N sum w^2) over the entries that `mask` keeps, in (0, 1].

    Kong 1992. Any shape; the weights are scaled by the largest first, so nothing overflows.
    """
    kept = jnp.where(mask, log_weight, -jnp.inf)
    kept = kept - jnp.max(kept)
    first = jax.nn.logsumexp(kept)
    second = jax.nn.logsumexp(2 * kept)
    return jnp.exp(2 * first - second) / jnp.sum(mask)

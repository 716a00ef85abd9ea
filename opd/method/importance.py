"""Stale or foreign states and actions: log-ratios between two policies, and what they cost.

A weight is made in two steps: `log_ratio` says which product of token ratios (LOG_RATIOS), and
`weight` what is done with it (RATIO_RULES). The second comes after credit, since PPO's gate needs
the advantage's sign. Log space throughout: a product over a prefix overflows float32 at about 45
tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

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


def weight(log_rho: Array, advantage: Array | None, rule: str, **told: Any) -> Array:
    """What an importance weight rho becomes, [B, T], detached; see RATIO_RULES.

    Args:
        log_rho: [B, T] nats.
        advantage: [B, T], whose sign a gate looks at; None where the rule has no gate.
        rule: one of RATIO_RULES.
        told: by name, what the rule asks besides: its numbers (BOUNDS), and where it `asks` them
            the mask [B, T] and the current policy's log-probabilities `logp` [B, T]. Bounds are of
            the ratio itself: PPO's epsilon of 0.2 is low=0.8, high=1.2.
    """
    if advantage is not None:
        chex.assert_equal_shape((log_rho, advantage))
    known = RATIO_RULES[rule]
    asked = {name: told[name] for name in (*known.usual, *known.asks)}
    return known.weight(log_rho, advantage, **asked)


def bounded(log_rho: Array, advantage: Array | None, rule: str, **told: Any) -> Array:
    """Where the rule makes a weight something else than rho, [B, T] bool; arguments as `weight`'s.

    Its mean over graded tokens is the clip fraction.
    """
    return weight(log_rho, advantage, rule, **told) != saturating_exp(log_rho)


def unbounded(log_rho: Array, advantage: Array | None) -> Array:
    """rho."""
    return saturating_exp(log_rho)


def clip(log_rho: Array, advantage: Array, low: float, high: float) -> Array:
    """rho, and 0 where it passes the bound that the advantage pushes it towards.

    The gradient of min(rho A, clip(rho, low, high) A) is rho A grad log pi, gated (Schulman et al.
    2017, PPO, eq. 7). Biased once rho leaves [low, high].
    """
    return zero(saturating_exp(log_rho), ~_passed(log_rho, advantage, low, high))


def dual_clip(log_rho: Array, advantage: Array, low: float, high: float, dual: float) -> Array:
    """`clip`, and 0 where rho > dual and A < 0, where PPO's own bounds no weight.

    Ye et al. 2020 (dual-clip PPO), eq. 5.
    """
    far = (log_rho > _log(dual)) & (advantage < 0)
    return zero(clip(log_rho, advantage, low, high), ~far)


def clip_ungated(log_rho: Array, advantage: Array | None, low: float, high: float) -> Array:
    """clip(rho, low, high): no token is left out (MiniMax 2025, CISPO, eq. 4 and 5)."""
    return saturating_exp(jnp.clip(log_rho, _log(low), _log(high)))


def truncate(log_rho: Array, advantage: Array | None, high: float) -> Array:
    """min(rho, high) (Ionides 2008; Yao et al. 2025, truncated importance sampling)."""
    return saturating_exp(jnp.minimum(log_rho, _log(high)))


def mask_out(log_rho: Array, advantage: Array | None, low: float, high: float) -> Array:
    """rho inside [low, high] and 0 outside (Ling team 2025, IcePop)."""
    return zero(saturating_exp(log_rho), (log_rho >= _log(low)) & (log_rho <= _log(high)))


def soft(log_rho: Array, advantage: Array, tau: float, tau_negative: float) -> Array:
    """4 sigma (1 - sigma) rho, sigma = sigma(tau (rho - 1)); tau_negative where A <= 0.

    The slope of (4 / tau) sigma(tau (rho - 1)): a gate without an edge (Gao et al. 2025, SAPO).
    """
    rho = saturating_exp(log_rho)
    away = jnp.where(advantage > 0, tau, tau_negative) * (rho - 1)
    return 4 * jax.nn.sigmoid(away) * jax.nn.sigmoid(-away) * rho


def band(log_rho: Array, advantage: Array, band: float, logp: Array) -> Array:
    """rho, and 0 where pi - mu has left [-band, band] on the side that the advantage pushes to.

    The total variation of the token and all others; a ratio is large where both probabilities are
    small (Qi et al. 2026, DPPO, its binary form).
    """
    moved = jnp.exp(logp) - jnp.exp(logp - log_rho)
    passed = ((moved > band) & (advantage > 0)) | ((moved < -band) & (advantage < 0))
    return zero(saturating_exp(log_rho), ~passed)


def geometric(log_rho: Array, advantage: Array, low: float, high: float, mask: Array) -> Array:
    """The geometric mean of a rollout's clipped ratios, and 0 at the tokens that were clipped.

    The slope of prod_t |min(rho_t A, clip(rho_t) A)|^(1 / |y|), times |y| / |A| (Zhao et al. 2025,
    GMPO, eq. 4): each ratio is bounded on the side that its advantage pushes to.
    """
    above, below = jnp.minimum(log_rho, _log(high)), jnp.maximum(log_rho, _log(low))
    inside = jnp.where(advantage > 0, above, jnp.where(advantage < 0, below, log_rho))
    mean = masked.mean(inside, mask, 1, keepdims=True)
    return zero(jnp.broadcast_to(saturating_exp(mean), mask.shape), inside == log_rho)


def taper(log_rho: Array, advantage: Array, high: float) -> Array:
    """1 where A > 0, else min(rho, high) (Le Roux et al. 2025, TOPR, eq. 8)."""
    cut = saturating_exp(jnp.minimum(log_rho, _log(high)))
    return jnp.where(advantage > 0, jnp.ones_like(cut), cut)


def flip(log_rho: Array, advantage: Array, low: float, high: float, dual: float) -> Array:
    """min(1 / rho, dual) where A > 0, else rho; gated as `clip` (Wang et al. 2025, ASPO)."""
    turned = jnp.minimum(-log_rho, _log(dual))
    rho = saturating_exp(jnp.where(advantage > 0, turned, log_rho))
    return zero(rho, ~_passed(log_rho, advantage, low, high))


def second_moment(log_rho: Array, advantage: Array | None, tau: float, mask: Array) -> Array:
    """rho, and 0 at the batch's farthest tokens: the mean of (log rho)^2 over the others is <= tau.

    Zheng et al. 2025 (M2PO), section 4: as few as that takes, by size.
    """
    square = jnp.where(mask, log_rho**2, jnp.inf).ravel()
    order = jnp.argsort(square)
    mean = jnp.cumsum(square[order]) / jnp.arange(1, square.size + 1, dtype=square.dtype)
    kept = jnp.zeros(square.shape, bool).at[order].set(mean <= tau)
    return zero(saturating_exp(log_rho), kept.reshape(mask.shape))


def _passed(log_rho: Array, advantage: Array, low: float, high: float) -> Array:
    """Where a ratio is beyond the bound that its advantage pushes it towards."""
    above = (log_rho > _log(high)) & (advantage > 0)
    below = (log_rho < _log(low)) & (advantage < 0)
    return above | below


@dataclasses.dataclass(frozen=True)
class RatioRule:
    """What becomes of a ratio: `weight` is f(log_rho, advantage, numbers and what it asks).

    `usual` has its numbers by name, each an axis. A rule that is `gated` looks at the advantage's
    sign, which enumerated candidates and corrections don't have. `asks` says what else it looks at:
    `mask`, `logp`. `of` says whose other ratios a weight holds: None, the `rollout`'s or the
    `batch`'s. `kinds` has the kinds of ratio that it means something for; empty for all.
    """

    weight: Callable[..., Array]
    usual: Mapping[str, float] = dataclasses.field(default_factory=dict)
    gated: bool = False
    asks: tuple[str, ...] = ()
    of: str | None = None
    kinds: tuple[str, ...] = ()


CLIP = {"low": 0.8, "high": 1.2}
RATIO_RULES: dict[str, RatioRule] = {
    "none": RatioRule(unbounded),
    "clip": RatioRule(clip, CLIP, gated=True),
    "dual_clip": RatioRule(dual_clip, {**CLIP, "dual": 3.0}, gated=True),
    "clip_ungated": RatioRule(clip_ungated, {"low": 0.0, "high": 5.0}),
    "truncate": RatioRule(truncate, {"high": 2.0}),
    "mask": RatioRule(mask_out, {"low": 0.5, "high": 5.0}),
    "soft": RatioRule(soft, {"tau": 1.0, "tau_negative": 1.05}, gated=True),
    "band": RatioRule(band, {"band": 0.2}, gated=True, asks=("logp",), kinds=("token",)),
    "geometric": RatioRule(
        geometric,
        {"low": math.exp(-0.4), "high": math.exp(0.4)},
        gated=True,
        asks=("mask",),
        of="rollout",
        kinds=("token",),
    ),
    "taper": RatioRule(taper, {"high": 1.0}, gated=True),
    "flip": RatioRule(flip, {**CLIP, "dual": 3.0}, gated=True),
    "second_moment": RatioRule(
        second_moment, {"tau": 0.04}, asks=("mask",), of="batch", kinds=("token",)
    ),
}
# Every rule's numbers, by name: the usual one of each rule that has it.
BOUNDS: dict[str, dict[str, float]] = {
    name: {rule: known.usual[name] for rule, known in RATIO_RULES.items() if name in known.usual}
    for name in ("low", "high", "dual", "band", "tau", "tau_negative")
}
# The rules that a correction may have: it has no advantage, and each ratio is by itself.
CORRECTION_RULES = tuple(
    name
    for name, known in RATIO_RULES.items()
    if not (known.gated or known.asks) and set(known.usual) <= {"low", "high"}
)


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

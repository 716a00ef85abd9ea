"""What an update says of its batch: figures of rollouts, ratios and losses, by their type."""

from __future__ import annotations

import jax.numpy as jnp

from opd import masked
from opd.masked import zero
from opd.method import importance
from opd.method.coefficients import Weights, bounded, losses
from opd.method.table import Method
from opd.types import Array, Max, Mean, Metrics, Rollout, Sum, TokenStats


def rollout_metrics(rollout: Rollout, stats: TokenStats, kind: str = "trajectory") -> Metrics:
    """What a rollout and its statistics say, each with the rule by which parts are joined.

    `kind` names the log-ratio whose weights `weight_max` and `ess_rule` are of.
    """

    def per_token(values: Array) -> Mean:
        return Mean(jnp.sum(zero(values, rollout.mask)), jnp.sum(rollout.mask))

    count = jnp.asarray(rollout.mask.shape[0], stats.logp_student.dtype)
    length = jnp.sum(rollout.mask, 1)
    metrics: Metrics = {
        "tokens": Sum(jnp.sum(length)),
        "length": Mean(jnp.sum(length), count),
        "length_max": Max(jnp.max(length)),
        "truncated": Mean(jnp.sum(~rollout.ended), count),
        "entropy_student": per_token(stats.entropy_student),
    }
    metrics |= ratio_metrics(rollout, stats, kind)
    if stats.kl is not None:
        metrics["kl"] = Mean(jnp.sum(zero(stats.kl, rollout.mask)), count)  # nats a sequence
        metrics["entropy_teacher"] = per_token(stats.entropy_teacher)
        at_position = jnp.sum(rollout.mask, 0)
        metrics["kl_by_position"] = Mean(jnp.sum(zero(stats.kl, rollout.mask), 0), at_position)
    if rollout.reward is not None:
        metrics["reward"] = Mean(jnp.sum(rollout.reward), count)
    return metrics


def ratio_metrics(rollout: Rollout, stats: TokenStats, kind: str) -> Metrics:
    """How far the policy is from the behavior: of the rows whose log-probabilities are known."""
    mask, logp = measurable(rollout), stats.logp_student

    def ratio(kind: str) -> Array:
        return importance.log_ratio(logp, rollout.logp_behavior, mask, kind)

    found = staleness(rollout, logp, kind)
    for name in ("token", "trajectory"):
        counted = importance.counted(mask, name)
        found[f"ess_{name}"] = importance.effective_sample_size(ratio(name), counted)
    largest = jnp.max(jnp.where(mask, ratio(kind), -jnp.inf))
    peaks = {
        "log_ratio_max": jnp.max(jnp.abs(ratio("token"))),
        "weight_max": importance.saturating_exp(largest),
    }
    none = jnp.where(jnp.any(mask), 0.0, jnp.nan)
    means: Metrics = {name: whole(value + none) for name, value in found.items()}
    return means | {name: Max(value + none) for name, value in peaks.items()}


def method_metrics(method: Method, known: Weights, stats: TokenStats, rollout: Rollout) -> Metrics:
    """What the method itself descends, and how many of its ratios a bound has changed."""
    metrics: Metrics = {
        f"loss_{signal}": whole(loss)
        for signal, loss in losses(method, known, stats, rollout.group).items()
    }
    clipped = bounded(method, known, stats, rollout.group)
    if clipped is not None:
        graded = jnp.sum(rollout.mask)
        metrics["clip_fraction"] = Mean(jnp.sum(clipped & rollout.mask), graded)
    return metrics


def staleness(rollout: Rollout, logp: Array, kind: str) -> dict[str, Array]:
    """`ess_rule` and the sampled `drift` of log-probabilities [B, T] against the behavior's."""
    mask = measurable(rollout)
    ratio = importance.log_ratio(logp, rollout.logp_behavior, mask, kind)
    kept = importance.counted(mask, kind)
    moved = -jnp.sum(importance.log_ratio(logp, rollout.logp_behavior, mask, "token"), 1)
    return {
        "ess_rule": importance.effective_sample_size(ratio, kept),
        "drift": masked.mean(moved, mask[:, 0]),
    }


def measurable(rollout: Rollout) -> Array:
    """The graded tokens whose behavior's log-probabilities are known, [B, T]."""
    return rollout.mask & ~jnp.isnan(rollout.logp_behavior)


def whole(value: Array) -> Mean:
    """A figure of the whole batch: parts of one have no such thing to join."""
    return Mean(value, jnp.ones(()))

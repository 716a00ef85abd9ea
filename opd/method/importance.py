"""Stale or foreign states and actions: log-ratios between two policies, and what they cost.

Log space throughout: a product over a prefix overflows float32 at about 45 tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
    return zero(LOG_RATIOS[kind](zero(logp - logp_behavior, mask), mask), mask)


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


LOG_RATIOS = {
    "token": token,
    "prefix": prefix,
    "prefix_inclusive": prefix_inclusive,
    "trajectory": trajectory,
}


def effective_sample_size(log_weight: Array, mask: Array) -> Array:
    """ESS / N = (sum w)^2 / (N sum w^2) over the entries that `mask` keeps, in (0, 1].

    Kong 1992. Any shape; the weights are scaled by the largest first, so nothing overflows.
    """
    kept = jnp.where(mask, log_weight, -jnp.inf)
    kept = kept - jnp.max(kept)
    first = jax.nn.logsumexp(kept)
    second = jax.nn.logsumexp(2 * kept)
    return jnp.exp(2 * first - second) / jnp.sum(mask)

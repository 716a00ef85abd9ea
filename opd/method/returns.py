"""The time axis, forwards: which future rewards a token is credited with. [B, T] functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from opd.masked import zero
from opd.types import Array


def terminal(reward: Array, mask: Array) -> Array:
    """A rollout's reward [B] paid at its last graded token: [B, T]."""
    later = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    return zero(jnp.broadcast_to(reward[:, None], mask.shape), mask & (later == 1))


def discounted(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """Return-to-go G_t = sum_{t' >= t} gamma^(t' - t) r_t' over graded tokens, [B, T].

    Sutton and Barto 2018, eq. 3.8. The exponent counts from t: nothing is weighted by its
    absolute position. gamma = 0 is r_t itself, gamma = 1 the plain sum.
    """

    def back(later: Array, now: Array) -> tuple[Array, Array]:
        total = now + gamma * later
        return total, total

    reward = zero(reward, mask)
    _, total = jax.lax.scan(back, jnp.zeros_like(reward[:, 0]), reward.T, reverse=True)
    return zero(total.T, mask)


def future(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """What is left of the return-to-go without r_t: gamma G_(t+1), [B, T]."""
    return discounted(reward, mask, gamma) - zero(reward, mask)


def broadcast(reward: Array, mask: Array) -> Array:
    """A rollout's reward [B] at every graded token, [B, T]: a terminal reward at gamma = 1."""
    return zero(jnp.broadcast_to(reward[:, None], mask.shape), mask)

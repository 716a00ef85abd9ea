"""The time axis, forwards: which future rewards a token is credited with. [B, T] functions.

A rollout's graded tokens lie side by side; what follows the last is worth nothing.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from opd import masked
from opd.masked import zero
from opd.types import Array


def terminal(reward: Array, mask: Array) -> Array:
    """A rollout's reward [B] paid at its last graded token: [B, T]."""
    chex.assert_rank((reward, mask), (1, 2))
    chex.assert_equal_shape_prefix((reward, mask), 1)
    last = mask & (masked.remaining(mask) == 1)
    return zero(jnp.broadcast_to(reward[:, None], mask.shape), last)


def discounted(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """Return-to-go G_t = sum_{t' >= t} gamma^(t' - t) r_t' over graded tokens, [B, T].

    Sutton and Barto 2018, eq. 3.8. The exponent counts from t: nothing is weighted by its
    absolute position. gamma = 0 is r_t itself, gamma = 1 the plain sum.
    """
    _same_shape(reward, mask)
    reward = zero(reward, mask)
    return zero(_backwards(reward, jnp.full_like(reward, gamma)), mask)


def future(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """What is left of the return-to-go without r_t: gamma G_(t+1), [B, T]."""
    return discounted(reward, mask, gamma) - zero(reward, mask)


def mean(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """The return-to-go over the number of tokens that it adds up, [B, T]."""
    return discounted(reward, mask, gamma) / masked.remaining(mask)


def mean_future(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """The future over the number of tokens ahead, [B, T]; 0 at the last.

    The length normalisation of Gu et al. 2024 (MiniLLM), section 2.2.
    """
    return future(reward, mask, gamma) / jnp.maximum(masked.remaining(mask) - 1, 1)


def whole(reward: Array, mask: Array, gamma: float | Array) -> Array:
    """What the whole rollout adds up to, at each of its tokens, [B, T].

    What came before a token is a baseline of its state, and its score has none of it on average.
    """
    total = discounted(reward, mask, gamma)[:, :1]
    return zero(jnp.broadcast_to(total, mask.shape), mask)


def gae(
    reward: Array, value: Array, mask: Array, gamma: float | Array, lam: float | Array
) -> Array:
    """A_t = sum_{l >= 0} (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, [B, T].

    Schulman et al. 2016, eq. 16. A rollout's last token has no V_{t+1}. lambda = 1 is the
    return-to-go less V_t, whatever V is; lambda < 1 is biased unless V is the true value.

    Args:
        reward: [B, T].
        value: [B, T], the critic's estimates, held fixed.
        mask: [B, T].
        gamma: discount.
        lam: lambda.
    """
    _same_shape(reward, value, mask)
    return discounted(_errors(reward, value, mask, gamma), mask, gamma * lam)


def vtrace(
    reward: Array,
    value: Array,
    log_rho: Array,
    mask: Array,
    gamma: float | Array,
    lam: float | Array,
    rho_bar: float | Array,
    c_bar: float | Array,
) -> tuple[Array, Array]:
    """V-trace targets v_s and advantages r_s + gamma v_{s+1} - V_s, [B, T] each.

        v_s = V_s + sum_{t >= s} gamma^(t-s) (prod_{s <= i < t} c_i) min(rho_bar, rho_t) delta_t
        c_i = lambda min(c_bar, rho_i)

    Espeholt et al. 2018 (IMPALA), eq. 1 and section 4.2, where the policy's gradient takes the
    advantage times min(rho_bar, rho_s). On-policy, with lambda = rho_bar = c_bar = 1, v_s is the
    return-to-go.

    Args:
        reward: [B, T].
        value: [B, T], the critic's estimates, held fixed.
        log_rho: [B, T], log of the token ratio of current policy and behavior.
        mask: [B, T].
        gamma: discount.
        lam: lambda.
        rho_bar: bound that sets what the fixed point is.
        c_bar: bound that sets how far an error travels.
    """
    _same_shape(reward, value, log_rho, mask)
    value = zero(value, mask)
    rho = jnp.exp(zero(jnp.minimum(log_rho, jnp.log(jnp.maximum(rho_bar, c_bar))), mask))
    error = zero(jnp.minimum(rho, rho_bar) * _errors(reward, value, mask, gamma), mask)
    target = zero(value + _backwards(error, gamma * lam * jnp.minimum(rho, c_bar)), mask)
    return target, zero(zero(reward, mask) + gamma * _next(target) - value, mask)


def _same_shape(*arrays: Array) -> None:
    """[B, T], all of them: a [B] would broadcast, as T numbers, wherever B = T."""
    chex.assert_rank(arrays, 2)
    chex.assert_equal_shape(arrays)


def _errors(reward: Array, value: Array, mask: Array, gamma: float | Array) -> Array:
    """delta_t = r_t + gamma V_{t+1} - V_t."""
    value = zero(value, mask)
    return zero(zero(reward, mask) + gamma * _next(value) - value, mask)


def _next(values: Array) -> Array:
    """The value one token later, 0 after the last."""
    return jnp.pad(values[:, 1:], ((0, 0), (0, 1)))


def _backwards(reward: Array, decay: Array) -> Array:
    """x_t = reward_t + decay_t x_{t+1}, [B, T]."""
    start = jnp.zeros_like(reward[:, 0])
    return jax.lax.scan(_back, start, (reward.T, decay.T), reverse=True)[1].T


# A function of its own, by which JAX finds the compiled loop again outside of a jit.
def _back(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
    reward, decay = now
    total = reward + decay * later
    return total, total

"""Returns against a double loop, with padding after and inside the completion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.method import returns

B, T = 3, 6


@jax.jit
def credited(reward, mask, gamma):
    """One program for all examples: gamma is traced."""
    return returns.discounted(reward, mask, gamma), returns.future(reward, mask, gamma)


def loop(reward, mask, gamma, skip=0):
    """sum over t' >= t + skip of gamma^(t' - t) r_t' over graded tokens, at graded tokens."""
    out = np.zeros(reward.shape)
    for b, t in zip(*np.nonzero(mask)):
        for later in range(t + skip, reward.shape[1]):
            if mask[b, later]:
                out[b, t] += gamma ** (later - t) * reward[b, later]
    return out


masks = st.lists(st.booleans(), min_size=B * T, max_size=B * T).map(
    lambda bits: np.reshape(bits, (B, T))
)
rewards = st.lists(
    st.floats(-4, 4, width=16, allow_subnormal=False), min_size=B * T, max_size=B * T
).map(lambda xs: np.reshape(np.float32(xs), (B, T)))
gammas = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))


@given(rewards, masks, gammas)
def test_returns_are_the_double_loop(reward, mask, gamma):
    """Whatever stands off the mask, NaN included."""
    junk = np.where(mask, reward, np.float32(np.nan))
    now, later = credited(junk, mask, np.float32(gamma))
    np.testing.assert_allclose(now, loop(reward, mask, gamma), atol=3e-5)
    np.testing.assert_allclose(later, loop(reward, mask, gamma, skip=1), atol=3e-5)


LENGTHS = np.array([6, 3, 1])
MASK = np.arange(T) < LENGTHS[:, None]
REWARD = np.random.default_rng(0).normal(size=(B, T)).astype(np.float32)


def test_gamma_zero_is_the_reward_and_gamma_one_the_sum():
    now, later = credited(REWARD, MASK, np.float32(0))
    np.testing.assert_array_equal(now, np.where(MASK, REWARD, 0))
    np.testing.assert_array_equal(later, np.zeros((B, T)))
    now, _ = credited(REWARD, MASK, np.float32(1))
    np.testing.assert_allclose(now[:, 0], np.where(MASK, REWARD, 0).sum(1), rtol=1e-6)


@pytest.mark.parametrize("shift", [1, 4])
def test_position_means_nothing(shift):
    """The same rewards later in time have the same returns: no power of an absolute position."""
    moved, mask = (
        np.concatenate([np.zeros((B, shift), x.dtype), x], axis=1) for x in (REWARD, MASK)
    )
    plain = returns.discounted(jnp.asarray(REWARD), jnp.asarray(MASK), 0.7)
    found = returns.discounted(jnp.asarray(moved), jnp.asarray(mask), 0.7)
    np.testing.assert_array_equal(found[:, shift:], plain)
    np.testing.assert_array_equal(found[:, :shift], 0)


def test_a_terminal_reward_is_paid_at_the_last_graded_token():
    reward = jnp.asarray([1.0, -2.0, np.nan])
    mask = MASK.copy()
    mask[2] = False  # a row without tokens is paid nothing
    found = returns.terminal(reward, jnp.asarray(mask))
    wanted = np.zeros((B, T))
    wanted[0, 5], wanted[1, 2] = 1, -2
    np.testing.assert_array_equal(found, wanted)


def test_a_terminal_reward_at_gamma_one_is_broadcast():
    reward = jnp.asarray([1.0, -2.0, 0.5])
    paid = returns.terminal(reward, jnp.asarray(MASK))
    spread = returns.broadcast(reward, jnp.asarray(MASK))
    np.testing.assert_array_equal(returns.discounted(paid, jnp.asarray(MASK), 1.0), spread)
    np.testing.assert_array_equal(spread, np.where(MASK, np.float32([[1], [-2], [0.5]]), 0))

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


VALUE, LOG_RHO = np.random.default_rng(1).normal(size=(2, B, T))
DENSE = np.random.default_rng(2).normal(size=(B, T))
GAE, VTRACE = jax.jit(returns.gae), jax.jit(returns.vtrace)
MEAN, MEAN_FUTURE = jax.jit(returns.mean), jax.jit(returns.mean_future)


def padded(junk):
    """Rewards, values and log-ratios with junk off the mask."""
    return (np.where(MASK, x, junk) for x in (DENSE, VALUE, LOG_RHO))


def after(b):
    """The rollout's values, and 0 after its last token."""
    return np.append(VALUE[b, : LENGTHS[b]], 0.0)


def error(b, t, gamma):
    return DENSE[b, t] + gamma * after(b)[t + 1] - after(b)[t]


@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (0.5, 0.0), (1.0, 1.0)])
def test_gae_is_the_sum_of_its_definition(junk, gamma, lam, x64):
    """Eq. 16: sum over l of (gamma lambda)^l delta_{t+l}, the rollout's own tokens only."""
    reward, value, _ = padded(junk)
    wanted = np.zeros((B, T))
    for b, t in zip(*np.nonzero(MASK)):
        for later in range(t, LENGTHS[b]):
            wanted[b, t] += (gamma * lam) ** (later - t) * error(b, later, gamma)
    np.testing.assert_allclose(GAE(reward, value, MASK, gamma, lam), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_gae_with_lambda_one_is_the_return_less_the_value(gamma, x64):
    """Whatever the critic says; with lambda = 0 it is one step's error."""
    reward, value, _ = padded(np.nan)
    wanted = loop(DENSE, MASK, gamma) - np.where(MASK, VALUE, 0)
    np.testing.assert_allclose(GAE(reward, value, MASK, gamma, 1.0), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("gamma", "lam", "rho_bar", "c_bar"),
    [(1.0, 1.0, 1.0, 1.0), (0.9, 0.8, 1.5, 0.7), (0.7, 1.0, 0.5, 2.0), (1.0, 0.0, 1.0, 1.0)],
)
def test_vtrace_is_the_sum_of_its_definition(junk, gamma, lam, rho_bar, c_bar, x64):
    """Eq. 1, term by term, each product of traces written out."""
    reward, value, log_rho = padded(junk)
    rho = np.exp(LOG_RHO)
    target, advantage = np.zeros((B, T)), np.zeros((B, T))
    for b in range(B):
        for start in range(LENGTHS[b]):
            total = VALUE[b, start]
            for t in range(start, LENGTHS[b]):
                trace = np.prod(lam * np.minimum(c_bar, rho[b, start:t]))
                step = min(rho_bar, rho[b, t]) * error(b, t, gamma)
                total += gamma ** (t - start) * trace * step
            target[b, start] = total
        following = np.append(target[b, 1 : LENGTHS[b]], 0.0)
        here = slice(LENGTHS[b])
        advantage[b, here] = DENSE[b, here] + gamma * following - VALUE[b, here]
    found = VTRACE(reward, value, log_rho, MASK, gamma, lam, rho_bar, c_bar)
    np.testing.assert_allclose(found[0], target, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found[1], advantage, rtol=1e-12, atol=1e-14)


def test_vtrace_on_policy_is_the_return(x64):
    reward, value, _ = padded(np.nan)
    target, advantage = VTRACE(reward, value, np.zeros((B, T)), MASK, 0.9, 1.0, 1.0, 1.0)
    total = loop(DENSE, MASK, 0.9)
    np.testing.assert_allclose(target, total, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(advantage, total - np.where(MASK, VALUE, 0), rtol=1e-12, atol=1e-14)


def test_vtrace_survives_a_ratio_that_overflows():
    huge = np.full((B, T), 4000.0, np.float32)
    found = VTRACE(np.float32(DENSE), np.float32(VALUE), huge, MASK, 0.9, 1.0, 1.0, 1.0)
    assert all(np.isfinite(part).all() for part in found)


@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf])
def test_means_divide_by_what_they_add_up(junk, x64):
    reward, _, _ = padded(junk)
    left = LENGTHS[:, None] - np.arange(T)
    now, later = MEAN(reward, MASK, 0.9), MEAN_FUTURE(reward, MASK, 0.9)
    wanted = loop(DENSE, MASK, 0.9) / np.maximum(left, 1)
    np.testing.assert_allclose(now, wanted, rtol=1e-12, atol=1e-14)
    wanted = loop(DENSE, MASK, 0.9, skip=1) / np.maximum(left - 1, 1)
    np.testing.assert_allclose(later, wanted, rtol=1e-12, atol=1e-14)


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
    wanted = np.where(MASK, np.float32([[1], [-2], [0.5]]), 0)
    np.testing.assert_array_equal(returns.discounted(paid, jnp.asarray(MASK), 1.0), wanted)


@pytest.mark.parametrize("junk", [0.0, np.nan])
def test_a_whole_return_is_the_rollouts_at_each_of_its_tokens(junk, x64):
    reward = np.where(MASK, DENSE, junk)
    total = np.where(MASK, DENSE, 0).sum(1, keepdims=True)
    found = jax.jit(returns.whole)(reward, MASK, 1.0)
    np.testing.assert_allclose(found, np.where(MASK, total, 0), rtol=1e-12)

"""Baselines and normalisers against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opd.method import baselines

B, T = 6, 4
GROUP = np.array([0, 0, 1, 1, 1, 2])  # the last rollout is alone
LENGTHS = np.array([4, 2, 3, 1, 4, 2])
MASK = np.arange(T) < LENGTHS[:, None]
RETURNS = np.random.default_rng(0).normal(size=(B, T)).astype(np.float32)
TOTAL = RETURNS[:, 0].astype(np.float64)


def group_of(values, b):
    return values[GROUP == GROUP[b]]


def others_of(values, b):
    return values[(GROUP == GROUP[b]) & (np.arange(B) != b)]


WANTED = {
    "none": np.zeros(B),
    "batch": np.full(B, TOTAL.mean()),
    "group": np.array([group_of(TOTAL, b).mean() for b in range(B)]),
    "length_weighted": np.array(
        [group_of(TOTAL * LENGTHS, b).sum() / group_of(LENGTHS, b).sum() for b in range(B)]
    ),
    "leave_one_out": np.array([others_of(TOTAL, b).mean() if b < 5 else 0.0 for b in range(B)]),
}


# Compiled, since leak checking compiles every eager operation anew.
BASELINE = jax.jit(baselines.baseline, static_argnums=3)
NORMALISE = jax.jit(baselines.normalise, static_argnums=4)


def subtracted(kind, values=RETURNS, mask=MASK):
    return np.asarray(BASELINE(values, mask, GROUP, kind))


def divided(kind, advantage, mask=MASK, group=GROUP, total=RETURNS):
    return np.asarray(NORMALISE(advantage, total, mask, group, kind))


def test_every_kind_is_here():
    here = "tests/method/test_baselines.py"
    assert set(WANTED) == set(baselines.BASELINES), f"add its formula to WANTED in {here}"
    assert set(NORMALISED) == set(baselines.NORMALISERS), f"add its formula to NORMALISED in {here}"


@pytest.mark.parametrize("kind", WANTED)
def test_baselines_are_their_definitions(kind):
    """One number for each rollout, on the mask; leave-one-out is the mean of the others."""
    wanted = np.where(MASK, WANTED[kind][:, None], 0)
    np.testing.assert_allclose(subtracted(kind), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", WANTED)
def test_later_returns_and_junk_off_the_mask_do_not_matter(kind):
    junk = np.where(MASK, RETURNS, np.float32(np.nan))
    np.testing.assert_array_equal(subtracted(kind, junk), subtracted(kind))


@pytest.mark.parametrize("kind", ["batch", "group", "length_weighted", "leave_one_out"])
def test_order_within_a_group_does_not_matter(kind):
    order = np.array([1, 0, 4, 2, 3, 5])
    found = subtracted(kind, RETURNS[order], MASK[order])
    np.testing.assert_allclose(found, subtracted(kind)[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["group", "length_weighted", "leave_one_out"])
def test_other_groups_do_not_matter(kind):
    other = RETURNS.copy()
    other[2:] += 5
    np.testing.assert_array_equal(subtracted(kind, other)[:2], subtracted(kind)[:2])


def test_leave_one_out_does_not_hold_the_own_return():
    other = RETURNS.copy()
    other[3] += 5
    found, plain = subtracted("leave_one_out", other), subtracted("leave_one_out")
    np.testing.assert_allclose(found[3], plain[3], atol=1e-6)
    assert np.all(found[[2, 4], 0] > plain[[2, 4], 0] + 1)


ADVANTAGE = np.random.default_rng(1).normal(1, 2, size=(B, T)).astype(np.float32)
SQUARE = np.array([np.mean(np.float64(ADVANTAGE[b, :n]) ** 2) for b, n in enumerate(LENGTHS)])
SPREAD = np.sqrt([group_of(SQUARE, b).mean() for b in range(B)])
GRADED = ADVANTAGE[MASK].astype(np.float64)
MEAN = WANTED["group"][:, None]
NORMALISED = {
    "none": ADVANTAGE,
    "group_std": ADVANTAGE / (SPREAD + 1e-4)[:, None],
    "group_return": np.where(MEAN > 0, ADVANTAGE / MEAN, 0),
    "whiten_sum": ADVANTAGE - GRADED.mean(),
    "whiten": (ADVANTAGE - GRADED.mean()) / (GRADED.std() + 1e-4),
}


@pytest.mark.parametrize("kind", NORMALISED)
@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf])
def test_normalisers_are_their_definitions(kind, junk):
    advantage = np.where(MASK, ADVANTAGE, np.float32(junk))
    wanted = np.where(MASK, NORMALISED[kind], 0)
    np.testing.assert_allclose(divided(kind, advantage), wanted, rtol=1e-4, atol=1e-6)


def test_one_return_a_rollout_is_divided_by_the_group_s_standard_deviation():
    """GRPO's: bit for bit what the returns alone make of it, whatever the lengths."""
    rows = np.broadcast_to(RETURNS[:, :1], (B, T))
    advantage = rows - subtracted("group", rows)

    @jax.jit
    def published(total):
        mean = baselines.group_mean(total, GROUP, LENGTHS)
        spread = jnp.sqrt(baselines.group_mean((total - mean) ** 2, GROUP, LENGTHS))
        return (total - mean) / (spread + baselines.EPSILON)

    wanted = np.asarray(published(RETURNS[:, 0]))[:, None]
    np.testing.assert_array_equal(divided("group_std", advantage), np.where(MASK, wanted, 0))
    spread = np.array([group_of(TOTAL, b).std() for b in range(B)])
    plain = (TOTAL - WANTED["group"]) / (spread + 1e-4)
    np.testing.assert_allclose(wanted[:, 0], plain, rtol=1e-5, atol=1e-7)


def test_a_group_of_equal_rewards_teaches_nothing():
    """Centred by its mean and divided by EPSILON: exactly zero, not NaN."""
    same = np.tile(np.float32([[1], [1], [0.5], [0.5], [0.5], [7]]), (1, T))
    advantage = same - subtracted("group", same)
    np.testing.assert_array_equal(divided("group_std", advantage), 0)


def test_terms_that_are_whitened_together_are_their_sum_whitened():
    """Each centred and over the spread of the sum: they add up to what REINFORCE++ has."""
    first, second = ADVANTAGE, RETURNS
    total = first + 0.3 * second

    @jax.jit
    def shared(values):
        return baselines.over_spread(
            baselines.centred(values, values, MASK, GROUP), jnp.asarray(total), MASK
        )

    found = shared(first) + 0.3 * shared(second)
    np.testing.assert_allclose(found, divided("whiten", total), rtol=1e-4, atol=1e-5)


def test_an_optimal_token_baseline_weighs_returns_by_the_scores_so_far():
    """Of the group's rollouts that reach a token; a rollout alone is its own baseline."""
    square = np.random.default_rng(3).uniform(size=(B, T)).astype(np.float32)
    so_far = np.cumsum(square.astype(np.float64), 1)
    wanted = np.zeros((B, T))
    for b, t in np.argwhere(MASK):
        reach = [i for i in range(B) if GROUP[i] == GROUP[b] and LENGTHS[i] > t]
        wanted[b, t] = so_far[reach, t] @ RETURNS[reach, t] / so_far[reach, t].sum()
    for junk in (0.0, np.nan):
        values = (np.where(MASK, x, np.float32(junk)) for x in (RETURNS, square))
        found = jax.jit(baselines.optimal_token)(*values, MASK, GROUP)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(wanted[5], np.where(MASK[5], RETURNS[5], 0), rtol=1e-6)


NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(
    arrays(np.float32, (B, T), elements=NUMBERS),
    arrays(np.int64, B, elements=st.integers(1, T)),
    st.sampled_from(["group_std", "whiten"]),
)
def test_what_is_divided_by_a_spread_stays_within_bounds(advantage, lengths, kind):
    """Root mean square 1 over n numbers: none of them is more than sqrt(n), whatever they are."""
    found = divided(kind, advantage, np.arange(T) < lengths[:, None])
    assert np.all(np.abs(found) <= np.sqrt(B * T) * (1 + 1e-4))

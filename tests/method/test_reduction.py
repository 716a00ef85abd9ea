"""From tokens to one number: what the weights add up to."""

import jax
import numpy as np
import pytest

from opd.method import reduction

LENGTHS = np.array([5, 1, 3, 0])
B, T = 4, 5
MASK = np.arange(T) < LENGTHS[:, None]


# Compiled, since leak checking compiles every eager operation anew.
COMPILED = {name: jax.jit(each.value) for name, each in reduction.REDUCTIONS.items()}


def weights(name, mask=MASK):
    return np.asarray(COMPILED[name](mask))


WANTED = {
    "sum": MASK / B,
    "constant": MASK / (B * T),
    "token_mean": MASK / LENGTHS.sum(),
    "sequence_mean": MASK / (B * np.maximum(LENGTHS, 1))[:, None],
}


def test_every_reduction_is_here():
    assert set(WANTED) == set(reduction.REDUCTIONS), (
        "add its weights to WANTED in tests/method/test_reduction.py"
    )


@pytest.mark.parametrize("name", WANTED)
def test_weights_are_their_definitions(name):
    np.testing.assert_allclose(weights(name), WANTED[name], rtol=1e-6)


def test_what_they_add_up_to():
    """Tokens a rollout; their share of B T; one; the share of rollouts that have a token."""
    sums = {name: weights(name).sum() for name in WANTED}
    wanted = {"sum": 9 / 4, "constant": 9 / 20, "token_mean": 1, "sequence_mean": 3 / 4}
    assert sums == pytest.approx(wanted)
    np.testing.assert_allclose(weights("sequence_mean").sum(1), [0.25, 0.25, 0.25, 0], rtol=1e-6)


@pytest.mark.parametrize("name", ["sum", "token_mean", "sequence_mean"])
def test_padding_does_not_matter(name):
    longer = np.pad(MASK, ((0, 0), (0, 4)))
    np.testing.assert_array_equal(weights(name, longer)[:, :T], weights(name))
    np.testing.assert_array_equal(weights(name, longer)[:, T:], 0)


@pytest.mark.parametrize("name", WANTED)
def test_a_batch_without_tokens_weighs_nothing(name):
    np.testing.assert_array_equal(weights(name, np.zeros((2, 3), bool)), 0)

"""The only place where a mask divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import masked

MASK = jnp.asarray([[True, False, True], [False, False, False], [True, True, True]])
JUNK = [np.nan, np.inf, -np.inf, 1e38]


def values(junk):
    clean = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3)
    return jnp.asarray(np.where(MASK, clean, np.float32(junk)))


@pytest.mark.parametrize("junk", JUNK)
def test_what_stands_off_the_mask_does_not_leak(junk):
    np.testing.assert_array_equal(masked.zero(values(junk), MASK), np.where(MASK, values(0.0), 0.0))
    assert masked.mean(values(junk), MASK) == (1 + 3 + 7 + 8 + 9) / 5
    np.testing.assert_array_equal(masked.mean(values(junk), MASK, axis=1), [2, 0, 8])
    np.testing.assert_array_equal(
        masked.mean(values(junk), MASK, axis=1, keepdims=True), [[2], [0], [8]]
    )


@pytest.mark.parametrize("junk", JUNK)
def test_neither_does_its_gradient(junk):
    """1 / n on the mask, and exactly 0 off it: not NaN, which 0 * inf would be."""
    found = jax.grad(lambda x: masked.mean(x, MASK))(values(junk))
    np.testing.assert_array_equal(found, np.where(MASK, np.float32(0.2), 0))


def test_remaining_counts_from_each_position_on():
    """Its own entry included, and never less than one."""
    np.testing.assert_array_equal(masked.remaining(MASK), [[2, 1, 1], [1, 1, 1], [3, 2, 1]])


def test_count_is_at_least_one():
    assert masked.count(MASK) == 5
    np.testing.assert_array_equal(masked.count(MASK, axis=1), [2, 1, 3])
    np.testing.assert_array_equal(masked.count(MASK, axis=1, keepdims=True), [[2], [1], [3]])


def test_dtype_is_kept():
    for dtype in (jnp.bfloat16, jnp.float32):
        assert masked.zero(values(0.0).astype(dtype), MASK).dtype == dtype
        assert masked.mean(values(0.0).astype(dtype), MASK).dtype == dtype

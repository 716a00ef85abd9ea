"""Exponents and rates of laws that are known."""

import numpy as np
import pytest

from experiments.claims import fits

X = np.array([1.0, 2, 4, 8, 16])


def test_an_exponent_is_the_laws():
    found = fits.exponent(X, np.stack([3 * X**2, 5 * X**2]))
    assert found.value == pytest.approx(2) and found.low == pytest.approx(found.high)


def test_an_interval_holds_the_spread_over_trees():
    found = fits.exponent(X, np.stack([X**k for k in (1.9, 2.0, 2.1)]))
    assert found.low < 1.9 and found.value == pytest.approx(2) and found.high > 2.1


def test_a_rate_is_the_laws():
    found = fits.rate(X, np.stack([np.exp(0.3 * X), 7 * np.exp(0.3 * X)]))
    assert found.value == pytest.approx(0.3)

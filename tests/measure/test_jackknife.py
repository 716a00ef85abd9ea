"""Intervals from replicates: quantiles, degrees of freedom, and the ratios that a sample allows."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from opd.measure import jackknife


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 31, 128, 1023, 4096])
def test_t_quantile(freedom, level):
    expected = scipy.stats.t.ppf((1 + level) / 2, freedom)
    np.testing.assert_allclose(jackknife.t_quantile(freedom, level), expected, rtol=1e-10)


@pytest.mark.parametrize("freedom, level", [(0, 0.95), (5, 0.0), (5, 1.0)])
def test_no_such_quantile(freedom, level):
    with pytest.raises(ValueError, match="t_quantile"):
        jackknife.t_quantile(freedom, level)


def replicates(values):
    """Of the mean of values [N]."""
    return np.append(values.mean(), (values.sum() - values) / (len(values) - 1))


def test_degrees_of_freedom_fall_with_the_kurtosis():
    rng = np.random.default_rng(0)
    assert jackknife.freedom(np.tile([1.0, -1.0], 10)) == 19  # kurtosis 1: as many as there can be
    assert jackknife.freedom(np.ones(8)) == 7
    values = rng.normal(size=4000)
    assert 3500 < jackknife.freedom(values) <= 3999  # 2 N / (3 - 1)
    assert jackknife.freedom(rng.standard_t(3, size=4000)) < 1500
    one = np.zeros(100)
    one[0] = 1.0
    assert jackknife.freedom(one) == 2  # 2 N / (N - 2)
    assert jackknife.freedom(np.array([1.0, 1.0])) == jackknife.freedom(np.array([0.0, 1.0])) == 1


def test_an_interval_has_the_quantile_of_its_level():
    values = np.tile([1.0, -1.0], 10) + 3
    for level in (0.5, 0.95):
        found = jackknife.hull(replicates(values), level=level)
        low, high = scipy.stats.t.interval(level, 19, 3, scipy.stats.sem(values))
        np.testing.assert_allclose([found.low, found.high], [low, high])
    assert jackknife.hull(replicates(values), floor=2.9).low == 2.9
    assert jackknife.hull(replicates(values), floor=3.5).low == 3.0  # never above the value


def test_constant_replicates_have_no_width():
    for value in (2.0, 0.1):  # rounding moves the mean of the latter
        found = jackknife.hull(np.full(8, value))
        np.testing.assert_allclose(dataclasses.astuple(found), value, rtol=1e-12)


def pair(below, noise=1.0, groups=40, seed=0):
    """Replicates of the means of two samples: the first of mean 1, the second of mean `below`."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(2, groups))
    samples -= samples.mean(1, keepdims=True)  # the means exactly as they are said to be
    scale = np.array([[0.1], [noise]]) * math.sqrt(groups)
    return tuple(map(replicates, np.array([[1.0], [below]]) + scale * samples))


def test_a_ratio_is_bounded_where_what_it_is_over_is_clear_of_zero():
    above, below = pair(2.0, noise=0.1)
    found = jackknife.fieller(above, below)
    assert found.value == pytest.approx(0.5) and 0.3 < found.low < 0.5 < found.high < 0.7
    inverse = jackknife.fieller(below, above)
    np.testing.assert_allclose(
        [inverse.low, inverse.high], [1 / found.high, 1 / found.low], rtol=0.02
    )


def test_a_ratio_is_open_above_or_not_bounded_where_it_is_not():
    assert math.isfinite(jackknife.fieller(*pair(2.5)).high)
    ends = jackknife.fieller(*pair(1.5))  # within two standard errors of 0
    assert 0 < ends.low < ends.value and ends.high == math.inf
    noise = jackknife.fieller(pair(1.5, 1.0)[1], pair(0.1, 1.0, seed=3)[1])
    assert (noise.low, noise.high) == (-math.inf, math.inf) and math.isfinite(noise.value)
    for below in (-1e-9, -1.0, -9.0):
        found = jackknife.fieller(*pair(below))
        np.testing.assert_equal(dataclasses.astuple(found), (math.nan, -math.inf, math.inf))


def test_a_constant_ratio_has_no_width_whatever_it_is_over():
    _, below = pair(2.0, noise=0.1)
    np.testing.assert_allclose(
        dataclasses.astuple(jackknife.fieller(1.5 * below, below)), 1.5, rtol=1e-12
    )
    np.testing.assert_equal(dataclasses.astuple(jackknife.fieller(0 * below, below)), (0, 0, 0))


def test_a_ratio_of_squares_reaches_further_up():
    above, below = pair(2.0, noise=0.1)
    plain, grown = jackknife.fieller(above, below), jackknife.fieller(above, below, 0.01)
    assert grown.low == plain.low and grown.high > 1.2 * plain.high
    assert jackknife.fieller(above, below, 0.0).high == plain.high  # no square, nothing grows


@pytest.mark.parametrize("below", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_fieller_sets_cover_however_weak_the_reference(below):
    """Given for every sample: a ratio that is shown where its reference is clear selects."""
    rng = np.random.default_rng(1)
    truth, missed, samples = (2.0 / below if below else math.inf), 0, 400
    for _ in range(samples):
        values = rng.normal(size=(2, 40)) * math.sqrt(40) + np.array([[2.0], [below]])
        found = jackknife.fieller(*map(replicates, values))
        missed += not found.low <= truth <= found.high
    assert missed <= scipy.stats.binom.ppf(1 - 1e-4, samples, 0.05)


def correlated(value, factor, groups=40):
    """Replicates of two means of ratio `value`; the second of mean 1, a standard error from 0.

    The noise of the first less `value` times the second's is `factor` times the second's.
    """
    noise, apart = np.random.default_rng(5).normal(size=(2, groups))
    noise = (noise - noise.mean()) / noise.std() * math.sqrt(groups)
    below = 1 + noise
    return replicates(value * below + factor * noise + 0.01 * (apart - apart.mean())), replicates(
        below
    )


@pytest.mark.parametrize(
    "value, factor, bounded",
    [
        (1.0, -2.0, True),  # what is left out lies below, and reaches beyond 0
        (10.0, -2.0, False),  # below, but smaller ratios than it are allowed
        (1.0, 4.0, False),  # above
        (-10.0, 4.0, False),  # above an estimate that can't be true
    ],
)
def test_what_a_set_leaves_out_bounds_it_only_where_nothing_smaller_can_be(value, factor, bounded):
    found = jackknife.fieller(*correlated(value, factor))
    assert found.value == pytest.approx(value) and found.high == math.inf
    assert (-math.inf < found.low < value) if bounded else found.low == -math.inf


def test_a_ratio_has_the_degrees_of_freedom_of_what_is_left_of_it():
    values = np.random.default_rng(6).standard_t(2, size=30) + 9
    found = jackknife.fieller(replicates(values), np.full(31, 2.0))
    rest = replicates(values)[1:]
    reach = jackknife.t_quantile(jackknife.freedom(rest)) * scipy.stats.sem(values) / 2
    assert jackknife.freedom(rest) < 20
    ends = values.mean() / 2 - reach, values.mean() / 2 + reach
    np.testing.assert_allclose([found.low, found.high], ends, rtol=1e-9)

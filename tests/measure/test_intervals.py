"""The figures against brute force on the gradients themselves, and the laws of the intervals."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from opd.measure import intervals
from opd.measure.intervals import Branches, Moments, RowSpec, estimate

FIGURES = [
    "cosine",
    "relative_error",
    "total",
    "across",
    "within",
    "cross",
    "snr",
    "mean_square",
]


def gradients(seed=0, groups=24, columns=3, size=7, mean=1.0):
    """Y [N, K, M]: columns that share noise and nearly share a mean, with skewed noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(groups, 1, size))
    own = rng.exponential(size=(groups, columns, size)) - 1
    offset = mean * rng.normal(size=size) + 0.2 * rng.normal(size=(columns, size))
    return offset + shared + own


def moments(values, group_size=2, sketch=None):
    sums = values.sum(0)
    projected = values if sketch is None else values @ sketch
    return Moments(values @ values.swapaxes(1, 2), sums @ sums.T, projected, group_size)


def brute(values, i, p, r, group_size):
    """All figures of row i with partner p and reference r, straight from their definitions."""
    n = len(values)

    def inner(a, b):  # <E a, E b> from pairs of distinct groups
        return sum(a[g] @ b[h] for g in range(n) for h in range(n) if g != h) / (n * (n - 1))

    def spread(a, b):
        return group_size * np.trace(np.cov(a.T, b.T)[: a.shape[1], a.shape[1] :])

    y, partner, reference = values[:, i], values[:, p], values[:, r]
    q = inner(y - reference, y - reference) / inner(reference, reference)
    return {
        "cosine": inner(y, reference) / math.sqrt(inner(y, y) * inner(reference, reference)),
        "relative_error": math.copysign(math.sqrt(abs(q)), q),
        "total": spread(y, y),
        "across": spread(partner, partner),
        "within": spread(y - partner, y - partner),
        "cross": 2 * spread(y - partner, partner),
        "snr": inner(y, y) / spread(y, y),
        "mean_square": inner(y, y),
    }


def test_figures_are_their_definitions():
    values = gradients()
    found = estimate(moments(values), [RowSpec(1, 0, 2), RowSpec(0, 0, 1)])
    for figures, (i, p, r) in zip(found, [(1, 0, 2), (0, 0, 1)]):
        for name, expected in brute(values, i, p, r, 2).items():
            if name == "cosine":  # its bias is taken off
                continue
            np.testing.assert_allclose(figures[name].value, expected, atol=1e-10, err_msg=name)


def test_replicates_leave_one_group_out():
    values = gradients()
    replicates = intervals._replicates(moments(values))
    for g in range(len(values)):
        rest = intervals._replicates(moments(np.delete(values, g, axis=0)))
        for name in ("product", "covariance", "second"):
            left = getattr(replicates, name)[1 + g]
            np.testing.assert_allclose(left, getattr(rest, name)[0], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["total", "cross", "mean_square", "snr"])
def test_interval_is_the_hull_of_its_definitions(name):
    """Student's t, Hall's cubic solved numerically, and the growing error of squared norms."""
    values = gradients(groups=15, mean=2.0)
    n, size = len(values), 2
    found = estimate(moments(values, size), [RowSpec(1, 0, 2)])[0][name]
    rows = [brute(np.delete(values, g, axis=0), 1, 0, 2, size)[name] for g in range(n)]
    whole, rest = brute(values, 1, 0, 2, size)[name], np.array(rows)
    pseudo = n * whole - (n - 1) * rest
    s = pseudo.std(ddof=1)
    skew = np.mean((pseudo - pseudo.mean()) ** 3) / s**3
    t = scipy.stats.t.ppf(0.975, satterthwaite(pseudo)) / math.sqrt(n)
    ends = [whole - t * s, whole + t * s]
    for target in (-t, t):
        roots = np.roots([skew**2 / 27, skew / 3, 1, skew / (6 * n) - target])
        ends.append(whole - s * roots[np.abs(roots.imag).argmin()].real)
    # What the plug-in mean makes of the same square.
    y = values[:, 1]
    mean, spread = y.mean(0), size * y.var(0, ddof=1).sum()
    square = {"mean_square": mean @ mean, "snr": mean @ mean / spread}.get(name)
    if square is not None:
        ends.append(whole + t * s + (t * s) ** 2 / (4 * square))
    np.testing.assert_allclose([found.low, found.high], [min(ends), max(ends)], rtol=1e-6)


def satterthwaite(pseudo):
    """Degrees of freedom of a jackknife variance, from the kurtosis of what it sums."""
    kurtosis = scipy.stats.kurtosis(pseudo, fisher=False)
    return math.floor(min(len(pseudo) - 1, 2 * len(pseudo) / (kurtosis - 1)))


def ends_of_ratio(above, below, square=None):
    """The ratios rho with (above - rho below)^2 <= t^2 Var, by looking for the ends."""
    n = len(above) - 1

    def spread(rho, grown):
        a, b = (np.std(x[1:]) * math.sqrt(n - 1) for x in (above, below))
        both = np.cov(above[1:], below[1:], ddof=0)[0, 1] * (n - 1)
        whole, here = (a**2 - 2 * x * both + x**2 * b**2 for x in (rho, value))
        return whole + (here * (rho - value) * below[0] / square if grown else 0)

    value = above[0] / below[0]
    t = scipy.stats.t.ppf(0.975, satterthwaite(above[1:] - value * below[1:]))

    def outside(rho, grown=False):
        return (above[0] - rho * below[0]) ** 2 - t**2 * spread(rho, grown)

    step = 1e3 * abs(value) + 1
    low = scipy.optimize.brentq(outside, value - step, value - 1e-12)
    return low, scipy.optimize.brentq(outside, value + 1e-12, value + step, (square is not None,))


@pytest.mark.parametrize("name", ["relative_error", "cosine"])
def test_a_ratio_of_expectations_is_a_fieller_set(name):
    values = gradients(groups=20, mean=4.0)
    n, size = len(values), 2
    figures = estimate(moments(values, size), [RowSpec(1, 0, 2)])[0]
    samples = [values, *(np.delete(values, g, axis=0) for g in range(n))]
    squares = {
        key: np.array([brute(sample, i, i, i, size)["mean_square"] for sample in samples])
        for key, i in (("row", 1), ("reference", 2))
    }
    noise = (values[:, 1] - values[:, 2]).var(0, ddof=1).sum() / n
    if name == "relative_error":
        errors = [brute(sample, 1, 0, 2, size)["relative_error"] for sample in samples]
        above = np.sign(errors) * np.square(errors) * squares["reference"]
        ends = ends_of_ratio(above, squares["reference"], above[0] + noise)
        ends = [math.copysign(math.sqrt(abs(x)), x) for x in ends]
    else:
        norms = np.sqrt(squares["row"] * squares["reference"])
        product = norms * [brute(sample, 1, 0, 2, size)["cosine"] for sample in samples]
        cosine = product / norms
        bias = (n - 1) * (cosine[1:].mean() - cosine[0])
        np.testing.assert_allclose(figures["cosine"].value, cosine[0] - bias, rtol=1e-9)
        norms -= (n - 1) * (norms[1:].mean() - norms[0])
        apart = norms - product
        ends = [1 - x for x in ends_of_ratio(apart, norms, apart[0] + noise / 2)][::-1]
    np.testing.assert_allclose([figures[name].low, figures[name].high], ends, rtol=1e-6)


def test_a_ratio_of_snrs_is_a_fieller_set():
    values = gradients(groups=20, mean=4.0)
    samples = [values, *(np.delete(values, g, axis=0) for g in range(20))]
    above, below = (
        np.array([brute(sample, i, i, i, 1)["snr"] for sample in samples]) for i in (1, 2)
    )
    snr = intervals.ratio(moments(values), 1, 2)["snr"]
    ends = ends_of_ratio(above, below, above[0] + 1 / 20)
    np.testing.assert_allclose([snr.low, snr.high], ends, rtol=1e-6)


def test_parts_add_up_and_a_deterministic_row_is_all_across():
    values = gradients()
    sampled, own = estimate(moments(values), [RowSpec(1, 0), RowSpec(0, 0)])
    parts = sum(sampled[name].value for name in ("across", "within", "cross"))
    np.testing.assert_allclose(parts, sampled["total"].value, rtol=1e-12)
    assert own["across"].value == own["total"].value
    for name in ("within", "cross"):
        assert dataclasses.astuple(own[name]) == (0, 0, 0)


def test_branches():
    # Column 0 is a row, 1 and 2 are copies of its partner, 3 and 4 of its deviation.
    values = gradients(columns=5)
    n = len(values)
    for spread in ((3, 4), (3, None)):
        found = estimate(moments(values), [RowSpec(0, Branches(1, 2, *spread))])[0]
        centred = values - values.mean(0)
        across = 2 * np.sum(centred[:, 1] * centred[:, 2]) / (n - 1)
        within = 2 * np.sum(values[:, 3] * values[:, spread[1] or 3]) / n
        np.testing.assert_allclose(found["across"].value, across, rtol=1e-10)
        np.testing.assert_allclose(found["within"].value, within, rtol=1e-10)
        parts = sum(found[name].value for name in ("across", "within", "cross"))
        np.testing.assert_allclose(parts, found["total"].value, rtol=1e-12)


def test_products_of_distinct_groups_are_unbiased_for_no_mean_at_all():
    values = np.random.default_rng(0).normal(size=(400, 12, 2, 5))  # 400 samples of 12 groups
    squares = [estimate(moments(y), [RowSpec(0)])[0]["mean_square"].value for y in values]
    error = np.std(squares) / math.sqrt(len(squares))
    assert abs(np.mean(squares)) < 4 * error  # the plug-in mean is 5/12, some 40 errors away
    assert min(squares) < 0  # shown as such


@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(3, 40),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    mean=st.sampled_from([0.0, 0.3, 3.0]),
)
def test_every_value_lies_inside_its_own_interval(seed, groups, scale, mean):
    values = scale * gradients(seed, groups, mean=mean)
    sample = moments(values)
    found = estimate(sample, [RowSpec(1, 0, 0), RowSpec(2, Branches(0, 1, 2), 1), RowSpec(0, 0, 0)])
    measured = [row[name] for row in found for name in FIGURES]
    for interval in [*measured, *intervals.ratio(sample, 1, 0).values()]:
        if interval is not None:
            assert interval.low < interval.high or interval.low == interval.value
            assert not math.isnan(interval.low) and not math.isnan(interval.high)
            if not math.isnan(interval.value):
                assert interval.low <= interval.value <= interval.high
    for row in found:  # only what is relative to a mean may be lost in noise
        for name in set(FIGURES) - {"cosine", "relative_error"}:
            assert all(map(math.isfinite, dataclasses.astuple(row[name])))
        assert -1 <= row["cosine"].low and row["cosine"].high < math.inf
    for row in (found[0], found[2]):
        assert min(row[name].low for name in ("total", "across", "within")) >= 0


def test_units():
    values = gradients(mean=3.0)
    rows = [RowSpec(1, 0, 2)]
    one, ten = (estimate(moments(c * values), rows)[0] for c in (1.0, 10.0))
    for name in FIGURES:
        factor = 1 if name in ("cosine", "relative_error", "snr") else 100
        left = np.array(dataclasses.astuple(ten[name]))
        np.testing.assert_allclose(left, factor * np.array(dataclasses.astuple(one[name])))
    # An update's variance times its rollouts: the same Y of twice the rollouts counts double.
    double = estimate(moments(values, group_size=4), rows)[0]
    np.testing.assert_allclose(double["total"].value, 2 * one["total"].value)
    np.testing.assert_allclose(double["snr"].value, one["snr"].value / 2)


def test_order_of_groups_does_not_matter():
    values = gradients(mean=3.0)
    shuffled = values[np.random.default_rng(1).permutation(len(values))]
    one, two = (estimate(moments(y), [RowSpec(1, 0, 2)])[0] for y in (values, shuffled))
    for name in FIGURES:
        left, right = dataclasses.astuple(one[name]), dataclasses.astuple(two[name])
        np.testing.assert_allclose(left, right, rtol=1e-9)


def test_join_appends_groups():
    values = gradients(mean=3.0)
    whole = moments(values)
    joined = intervals.join([moments(values[:10]), moments(values[10:])], whole.total_gram)
    assert joined.groups == len(values)
    np.testing.assert_array_equal(joined.gram, whole.gram)
    np.testing.assert_array_equal(joined.sketch, whole.sketch)


def test_a_sketch_moves_ends_only_and_a_wide_one_hardly():
    values = gradients(groups=200, size=300, mean=0.3)
    rows = [RowSpec(1, 0, 0)]
    exact = estimate(moments(values), rows)[0]
    rng = np.random.default_rng(3)
    sketch = rng.choice([-1.0, 1.0], size=(300, 2048)) / math.sqrt(2048)
    noisy = estimate(moments(values, sketch=sketch), rows)[0]
    for name in FIGURES:
        rtol = 1e-4 if name == "cosine" else 1e-9  # its bias is estimated by the replicates
        np.testing.assert_allclose(noisy[name].value, exact[name].value, rtol=rtol)
        width = noisy[name].high - noisy[name].low
        np.testing.assert_allclose(width, exact[name].high - exact[name].low, rtol=0.15)


def test_products_with_the_sum_add_up_to_its_square_whatever_the_sketch():
    values = gradients(groups=30)
    sketch = np.random.default_rng(4).normal(size=(7, 2))  # as noisy as they come
    found = intervals._replicates(moments(values, sketch=sketch))
    n, sums = len(values), values.sum(0) @ values.sum(0).T
    squares = (values @ values.swapaxes(1, 2)).sum(0)
    # Summed over g: T - C_g - C_g' + Gram_g, less the squares that are left.
    expected = ((n - 2) * sums + squares - (n - 1) * squares) / ((n - 1) * (n - 2))
    np.testing.assert_allclose(found.product[1:].sum(0), expected, rtol=1e-10)


def test_no_partner_no_parts_and_no_reference_no_bias():
    found = estimate(moments(gradients(mean=3.0)), [RowSpec(0)])[0]
    absent = {name for name in FIGURES if found[name] is None}
    assert absent == {"across", "within", "cross", "cosine", "relative_error"}


def test_what_is_relative_to_a_reference_in_noise_is_stated_and_not_bounded():
    values = gradients(groups=40, mean=3.0)
    values[:, 2] -= values[:, 2].mean(0)  # no signal at all: |mu|^2 comes out negative
    sample = moments(values)
    clear, lost, against = estimate(
        sample, [RowSpec(0, None, 1), RowSpec(2, None, 1), RowSpec(0, None, 2)]
    )
    assert all(math.isfinite(clear[name].high) for name in ("cosine", "relative_error"))
    assert lost["mean_square"].low < 0 and math.isfinite(lost["relative_error"].high)
    for row in (lost, against):
        np.testing.assert_equal(dataclasses.astuple(row["cosine"]), (math.nan, -1, 1))
    nothing = math.nan, -math.inf, math.inf
    np.testing.assert_equal(dataclasses.astuple(against["relative_error"]), nothing)
    np.testing.assert_equal(dataclasses.astuple(intervals.ratio(sample, 0, 2)["snr"]), nothing)
    assert math.isfinite(intervals.ratio(sample, 2, 0)["snr"].high)
    # A positive estimate that isn't told from 0: no ratio is too large to be true.
    values[:, 2] += 0.35
    weak = estimate(moments(values), [RowSpec(2, None, 1), RowSpec(0, None, 2)])
    assert weak[0]["mean_square"].low < 0 < weak[0]["mean_square"].value
    error = weak[1]["relative_error"]
    assert 0 < error.low < error.value and error.high == math.inf
    snr = intervals.ratio(moments(values), 0, 2)["snr"]
    assert 0 < snr.low < snr.value and snr.high == math.inf


def test_an_unbiased_row_covers_no_error_and_full_cosine():
    rng = np.random.default_rng(5)
    base = 1 + rng.normal(size=(256, 7))
    values = np.stack([base, base + rng.normal(size=base.shape), base * 1.5], axis=1)
    found = estimate(moments(values), [RowSpec(1, 0, 0), RowSpec(2, None, 0), RowSpec(0, None, 0)])
    unbiased, longer, same = found
    assert unbiased["relative_error"].low <= 0 <= unbiased["relative_error"].high
    assert unbiased["cosine"].low <= 1 <= unbiased["cosine"].high
    assert unbiased["cosine"].low > 0.9
    np.testing.assert_allclose(dataclasses.astuple(longer["relative_error"]), 0.5, rtol=1e-9)
    np.testing.assert_allclose(dataclasses.astuple(longer["cosine"]), 1, rtol=1e-9)
    assert dataclasses.astuple(same["relative_error"]) == (0, 0, 0)


def test_a_row_without_variance_has_no_snr():
    values = gradients()
    values[:, 0] = 0.0
    sample = moments(values)
    found = estimate(sample, [RowSpec(0, 0, 1)])[0]
    assert found["snr"] is None
    np.testing.assert_equal(dataclasses.astuple(found["cosine"]), (math.nan, -1, 1))
    assert dataclasses.astuple(found["total"]) == (0, 0, 0)
    assert intervals.ratio(sample, 0, 1) == {"total": None, "snr": None}


def test_ratio_is_paired_and_inverts():
    rng = np.random.default_rng(6)
    base = 1 + rng.standard_t(5, size=(200, 7))
    values = np.stack([base, base + 0.1 * rng.normal(size=base.shape)], axis=1)
    sample = moments(values)
    there, back = intervals.ratio(sample, 1, 0), intervals.ratio(sample, 0, 1)
    np.testing.assert_allclose(there["total"].low, 1 / back["total"].high, rtol=1e-9)
    np.testing.assert_allclose(there["total"].value, 1 / back["total"].value, rtol=1e-12)
    rows = estimate(sample, [RowSpec(0), RowSpec(1)])
    for name, figure in ("total", "total"), ("snr", "snr"):
        expected = rows[1][figure].value / rows[0][figure].value
        np.testing.assert_allclose(there[name].value, expected, rtol=1e-12)
        alone = (
            rows[1][figure].high / rows[0][figure].low - rows[1][figure].low / rows[0][figure].high
        )
        assert there[name].high - there[name].low < alone / 3


SECONDS = [[2.0, 2.2, 1.9, 2.6], [1.0, 1.2, 1.1, 1.1], [3.0, 3.1, 3.3, 2.9]]


def compared(values, i, j, pairs, seconds=None):
    """log SNR_i / SNR_j and its ends, from leaving each group out and from the clock's repeats."""
    n = len(values)

    def log(rows):
        totals = [brute(rows, k, k, k, 1)["total"] for k in (i, j)]
        return math.log(totals[1] / totals[0])

    whole, rest = log(values), np.array([log(np.delete(values, g, axis=0)) for g in range(n)])
    pseudo = n * whole - (n - 1) * rest
    s, skew = pseudo.std(ddof=1), np.mean((pseudo - pseudo.mean()) ** 3) / pseudo.std(ddof=1) ** 3
    freedom = math.floor(min(n - 1, 2 * n / (scipy.stats.kurtosis(pseudo, fisher=False) - 1)))
    level = 1 - 0.05 / (2 * pairs)
    t = scipy.stats.t.ppf(level, freedom) / math.sqrt(n)
    ends = [whole - t * s, whole + t * s]
    for target in (-t, t):
        roots = np.roots([skew**2 / 27, skew / 3, 1, skew / (6 * n) - target])
        ends.append(whole - s * roots[np.abs(roots.imag).argmin()].real)
    value, low, high = whole, min(ends) - intervals.ROUNDING, max(ends) + intervals.ROUNDING
    if seconds is not None:
        times = np.log(np.array(seconds[j]) / np.array(seconds[i]))
        reach = scipy.stats.t.ppf(level, len(times) - 1) * scipy.stats.sem(times)
        value = whole + times.mean()
        low = value - math.hypot(whole - low, reach)
        high = value + math.hypot(high - whole, reach)
    return np.exp([value, low, high])


@pytest.mark.parametrize("columns", [(0, 1), (2, 0, 1)])
def test_comparisons_are_their_definitions(columns):
    values = gradients(groups=20)
    seconds = [SECONDS[column] for column in columns]
    found = intervals.compare(moments(values), columns, seconds)
    pairs = list(itertools.combinations(range(len(columns)), 2))
    assert [(each.first, each.second) for each in found] == pairs
    for each in found:
        i, j = columns[each.first], columns[each.second]
        for figure, times in ((each.snr, None), (each.snr_per_second, SECONDS)):
            expected = compared(values, i, j, len(pairs), times)
            np.testing.assert_allclose(dataclasses.astuple(figure), expected, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 64, 4096])
def test_rollouts_of_a_batch_are_by_signal_and_noise(batch):
    """As much learning takes B + 1 / SNR rollouts; the signal is the quietest row's."""
    values = gradients(groups=400, mean=1.5)
    (found,) = intervals.compare(moments(values, 2), [0, 1], batches=[batch])
    (ratio,) = found.rollouts
    totals = [2 * values[:, column].var(0, ddof=1).sum() for column in (0, 1)]
    quiet = values[:, int(np.argmin(totals))]
    signal = np.sum(quiet.mean(0) ** 2) - quiet.var(0, ddof=1).sum() / len(quiet)
    expected = (batch + totals[1] / signal) / (batch + totals[0] / signal)
    np.testing.assert_allclose(ratio.value, expected, rtol=1e-9)
    assert ratio.low <= ratio.value <= ratio.high


def test_rollouts_of_a_batch_cover_and_lie_between_one_and_the_snrs():
    """Rows of one mean, of noise 1 and 3 a number: how often the truth is inside."""
    rng = np.random.default_rng(3)
    mean = np.full(6, 0.3)
    batches = (1, 16, 256)
    truth = [(b + 6 * 9 / (mean @ mean)) / (b + 6 / (mean @ mean)) for b in batches]
    inside, trials = np.zeros(len(batches)), 200
    for _ in range(trials):
        noise = rng.normal(size=(80, 2, 6)) * np.array([1.0, 3.0])[:, None]
        (found,) = intervals.compare(moments(mean + noise, 1), [0, 1], batches=batches)
        ends = np.array([dataclasses.astuple(ratio) for ratio in found.rollouts])
        assert np.all(np.diff(ends[:, 0]) < 0) and np.all(ends[:, 0] > 1)
        inside += (ends[:, 1] <= truth) & (truth <= ends[:, 2])
    assert np.all(inside / trials > 0.93)


def test_a_signal_that_is_lost_in_noise_leaves_room_from_nothing_to_the_whole_ratio():
    noise = np.random.default_rng(4).normal(size=(100, 2, 8)) * np.array([1.0, 3.0])[:, None]
    noise -= noise.mean(0)  # |mean|^2 comes out below 0
    (found,) = intervals.compare(moments(noise), [0, 1], batches=[1000])
    (ratio,) = found.rollouts
    np.testing.assert_allclose(ratio.value, found.snr.value)  # as if there were none
    assert ratio.high >= found.snr.high and ratio.low < 4


def test_the_proxy_is_the_mean_square_and_the_ratio_leaves_groups_out_of_both():
    values = gradients(groups=30)
    squares = np.random.default_rng(8).exponential(size=(30, 3)) + 1
    found = intervals.beside_proxy(moments(values), squares, 1)
    np.testing.assert_allclose(found["logit_square"].value, squares[:, 1].mean())
    kept = [np.delete(np.arange(30), g) for g in range(30)]
    ratios = [
        2 * values[rows, 1].var(0, ddof=1).sum() / squares[rows, 1].mean()
        for rows in (np.arange(30), *kept)
    ]
    ratio, logs = found["total_per_logit_square"], np.log(ratios)
    np.testing.assert_allclose(ratio.value, ratios[0])
    reach = np.sqrt(29 / 30 * np.sum((logs[1:] - logs[1:].mean()) ** 2))
    assert ratio.low < ratios[0] * np.exp(-1.9 * reach)
    assert ratios[0] * np.exp(1.9 * reach) < ratio.high < ratios[0] * np.exp(4 * reach)
    squares[:, 1] = 0.0
    assert intervals.beside_proxy(moments(values), squares, 1)["total_per_logit_square"] is None


def test_a_comparison_inverts():
    sample = moments(gradients())
    (there,) = intervals.compare(sample, [0, 1], SECONDS[:2], batches=[3])
    (back,) = intervals.compare(sample, [1, 0], SECONDS[1::-1], batches=[3])
    np.testing.assert_allclose(there.rollouts[0].value, 1 / back.rollouts[0].value, rtol=1e-9)
    for one, other in ((there.snr, back.snr), (there.snr_per_second, back.snr_per_second)):
        inverted = 1 / other.value, 1 / other.high, 1 / other.low
        np.testing.assert_allclose(dataclasses.astuple(one), inverted, rtol=1e-9)


def test_one_clock_for_two_rows_cancels_and_one_repeat_has_no_interval():
    sample = moments(gradients())
    (same,) = intervals.compare(sample, [0, 1], [SECONDS[0], SECONDS[0]])
    assert dataclasses.astuple(same.snr_per_second) == dataclasses.astuple(same.snr)
    (alone,) = intervals.compare(sample, [0, 1], [[2.0], [1.0]])
    np.testing.assert_allclose(alone.snr_per_second.value, alone.snr.value / 2)
    assert math.isnan(alone.snr_per_second.low) and math.isnan(alone.snr_per_second.high)
    (untimed,) = intervals.compare(sample, [0, 1])
    assert untimed.snr_per_second is None
    assert dataclasses.astuple(untimed.snr) == dataclasses.astuple(alone.snr)


def test_rounding_tells_no_rows_apart_and_a_part_in_a_hundred_may():
    values = gradients(groups=60)
    for factor, same in ((1.0, True), (1 + 1e-6, True), (1.005, False)):
        values[:, 1] = factor * values[:, 0]
        (found,) = intervals.compare(moments(values), [0, 1])
        assert (found.snr.low <= 1 <= found.snr.high) == same


def test_a_row_without_variance_is_not_compared():
    values = gradients()
    values[:, 0] = 0.0
    found = intervals.compare(moments(values), [0, 1, 2], SECONDS)
    assert [each.snr is None for each in found] == [True, True, False]
    assert [each.snr_per_second is None for each in found] == [True, True, False]


def test_trust_is_a_matter_of_groups_and_kind_and_not_of_the_sample():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(512, 1, 20))
    for groups, alone, sums in ((127, False, False), (128, True, False), (511, True, False)):
        for scale in (1.0, 30.0):  # four groups make up nearly all of it
            sample = values[:groups].copy()
            sample[:4] *= scale
            rows = estimate(moments(sample), [RowSpec(0, sums=False), RowSpec(0, sums=True)])
            assert [row["trusted"] for row in rows] == [alone, sums]
            assert [row["trusted_from"] for row in rows] == [128, 512]
    (known, unknown) = estimate(moments(values), [RowSpec(0, sums=False), RowSpec(0)])
    assert known["trusted"] and unknown["trusted"] and unknown["trusted_from"] == 512


def test_rows_are_compared_from_64_groups_on():
    values = np.random.default_rng(7).normal(size=(64, 2, 20))
    assert intervals.comparable(moments(values))
    assert not intervals.comparable(moments(values[:63]))
    values[:4, 1] *= 30
    assert intervals.comparable(moments(values))  # whatever the sample's tail


def test_effective_groups_are_those_that_make_up_total_or_within():
    # Mean 0 exactly, so that a group's share is its square, to the order of 1 / N.
    signs = np.tile([1.0, -1.0], 50)[:, None]
    sizes = np.ones(100)
    plain = signs * sizes[:, None]
    sizes[:4] = 1000.0
    few = signs * sizes[:, None]
    values = np.stack([plain, few, plain + 1e-9 * few], axis=1)
    rows = estimate(moments(values), [RowSpec(0, 0), RowSpec(1, 1), RowSpec(2, 0)])
    counts = [row["effective_groups"] for row in rows]
    np.testing.assert_allclose(counts, [100, 4, 4], rtol=0.1)  # the last by its `within` alone
    assert [row["heavy_tail"] for row in rows] == [False, True, True]
    nothing = estimate(moments(np.zeros((5, 1, 3))), [RowSpec(0, 0)])[0]
    assert nothing["effective_groups"] == 5 and not nothing["heavy_tail"]


@pytest.mark.parametrize("carried, sign", [(12, False), (8, True)])
def test_less_than_a_tenth_of_the_groups_is_a_sign_of_a_heavy_tail(carried, sign):
    values = 1e-3 * np.tile([1.0, -1.0], 50)[:, None, None]
    values[:carried] *= 1e6
    row = estimate(moments(values), [RowSpec(0)])[0]
    assert row["effective_groups"] == pytest.approx(carried, rel=0.1)
    assert row["heavy_tail"] == sign


def test_a_group_that_takes_away_from_a_part_is_no_share_of_it():
    # Branches: the copies' covariance has groups of either sign.
    values = np.zeros((40, 4, 1))
    values[:, 0, 0] = np.tile([1.0, -1.0], 20)
    values[:, 3, 0] = 1.0
    values[:10, 3, 0] = -1.0  # with the spread of column 2: ten products are negative
    values[:, 2, 0] = 1.0
    row = estimate(moments(values), [RowSpec(0, Branches(0, 1, 2, 3))])[0]
    assert row["effective_groups"] == pytest.approx(30, rel=0.05)


def test_t_interval():
    values = np.random.default_rng(8).normal(size=(20, 3, 2))
    found = intervals.t_interval(values)
    low, high = scipy.stats.t.interval(0.95, 19, values.mean(0), scipy.stats.sem(values))
    np.testing.assert_allclose(found.value, values.mean(0))
    np.testing.assert_allclose(found.low, low)
    np.testing.assert_allclose(found.high, high)


# At the second position two groups have items left, at the third one, at the last none.
COUNTS = np.array([[2, 1, 0, 0], [2, 0, 0, 0], [1, 3, 2, 0]])
SUMS = np.array([[4.0, 1.0, np.nan, 0], [2.0, np.nan, 0.0, 0], [3.0, 9.0, 1.0, 0]])


@pytest.mark.parametrize("interval", [intervals.t_interval, intervals.mean_interval])
def test_means_over_items(interval):
    found = interval(SUMS, COUNTS)
    np.testing.assert_allclose(found.value, [9 / 5, 10 / 4, 1 / 2, np.nan])
    for end in (found.low, found.high):
        assert np.isnan(end).tolist() == [False, False, True, True]
    assert np.all(found.low[:2] < found.value[:2]) and np.all(found.high[:2] > found.value[:2])


def test_t_interval_over_items():
    found = intervals.t_interval(SUMS, COUNTS)
    # By hand: residuals 1 - 2.5 and 9 - 7.5, one degree of freedom.
    reach = scipy.stats.t.ppf(0.975, 1) * math.sqrt(2 * (1.5**2 + 1.5**2)) / 4
    np.testing.assert_allclose(found.high[1] - found.value[1], reach)


def test_mean_interval_is_never_inside_the_t_interval_and_for_the_normal_hardly_wider():
    values = np.random.default_rng(8).normal(5, 1, size=(40, 300))
    wide, narrow = intervals.mean_interval(values), intervals.t_interval(values)
    np.testing.assert_allclose(wide.value, narrow.value)
    assert np.all(wide.low <= narrow.low + 1e-12) and np.all(wide.high >= narrow.high - 1e-12)
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert np.median(ratio) < 1.1


def test_mean_interval_turns_with_the_sign_of_skewed_values():
    values = np.random.default_rng(9).exponential(size=(12, 5)) - 0.5
    up, down = intervals.mean_interval(values), intervals.mean_interval(-values)
    np.testing.assert_allclose(up.low, -down.high)
    np.testing.assert_allclose(up.high, -down.low)
    t = intervals.t_interval(values)
    assert np.all(up.high - up.value > 1.05 * (t.high - t.value))  # where the tail is


def test_mean_interval_of_what_is_never_negative_has_the_mean_s_logarithm():
    values = np.random.default_rng(10).lognormal(size=8)
    found = intervals.mean_interval(values)
    rest = np.log((values.sum() - values) / 7)
    whole = math.log(values.mean())
    pseudo = 8 * whole - 7 * rest
    t = scipy.stats.t.ppf(0.975, satterthwaite(pseudo))
    assert found.high >= math.exp(whole + t * scipy.stats.sem(pseudo)) - 1e-9
    assert isinstance(float(found.value), float) and np.ndim(found.low) == 0
    shifted = np.append(values, -1e-9)  # one that is negative: no logarithm
    assert intervals.mean_interval(shifted).high < found.high
    spread = np.array([0.1, 0.2, 0.1, 9.0])
    assert intervals.mean_interval(spread).low < 0 == intervals.mean_interval(spread, floor=0.0).low


@pytest.mark.parametrize("prompts", [8, 16, 32])
def test_mean_interval_covers_the_mean_of_log_normal_prompts(prompts):
    """Where the t interval covers in 82 to 88 %: experiments/coverage has the table."""
    values = np.random.default_rng(11).lognormal(-0.5, 1.0, size=(prompts, 600))
    found = intervals.mean_interval(values)
    missed = int(np.sum((found.low > 1) | (found.high < 1)))
    assert missed <= scipy.stats.binom.ppf(1 - 1e-4, 600, 0.06)
    t = intervals.t_interval(values)
    assert np.mean((t.low <= 1) & (t.high >= 1)) < 0.92


def test_proportion_interval():
    zeros_and_ones = np.array([[1.0, 1, 1, 0, 0, 1, 1, 1, 0, 1], [1.0] * 10, [0.0] * 10]).T
    found = intervals.proportion_interval(zeros_and_ones)
    np.testing.assert_allclose(found.value, [0.7, 1, 0], atol=1e-12)
    assert np.all(found.low < found.high) and np.all(found.low >= 0) and np.all(found.high <= 1)
    # Wilson's equation: the ends are where (p - x)^2 = t^2 x (1 - x) / n.
    for x in (found.low[0], found.high[0]):
        t = scipy.stats.t.ppf(0.975, 9)
        np.testing.assert_allclose((0.7 - x) ** 2, t**2 * x * (1 - x) / 10)
    spread = np.tile([0.4, 0.6], 5)  # many rollouts a prompt
    halves = intervals.proportion_interval(spread)
    draws, t = 0.25 / scipy.stats.sem(spread) ** 2, scipy.stats.t.ppf(0.975, 9)
    for x in (halves.low, halves.high):
        np.testing.assert_allclose((0.5 - x) ** 2, t**2 * x * (1 - x) / draws)
    two = intervals.proportion_interval(np.array([0.0, 1.0]))
    assert two.low < 0.5 < two.high


@pytest.mark.parametrize("values", [0.5, [0.5], [], [0.5, -0.1], [1.0, 1.5], [0.5, np.nan]])
def test_what_is_no_sample_of_proportions(values):
    with pytest.raises(ValueError, match="proportions: shape"):
        intervals.proportion_interval(np.array(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gram": np.ones((2, 3, 3))}, "N >= 3"),
        ({"gram": np.ones((24, 3, 2))}, r"\[N, K, K\]"),
        ({"total_gram": np.ones((2, 2))}, "total_gram, sketch"),
        ({"sketch": np.ones((5, 3, 7))}, "total_gram, sketch"),
        ({"sketch": np.full((24, 3, 7), np.nan)}, "sketch: .*finite"),
        ({"group_size": 0}, "group_size 0"),
        *(({name: "one"}, f"{name}: .*finite") for name in ("gram", "total_gram", "sketch")),
    ],
)
def test_bad_moments(change, message):
    sample = moments(gradients())
    for name, value in change.items():
        if isinstance(value, str):  # a single number that isn't finite, the last
            array = getattr(sample, name).copy()
            array.flat[-1] = math.inf
            change = {name: array}
    with pytest.raises(ValueError, match=message):
        estimate(dataclasses.replace(sample, **change), [RowSpec(0)])


@pytest.mark.parametrize(
    "row", [RowSpec(3), RowSpec(0, -1), RowSpec(0, Branches(0, 1, 7)), RowSpec(0, 0, 3)]
)
def test_bad_columns(row):
    with pytest.raises(ValueError, match=r"within \[0, 3\)"):
        estimate(moments(gradients()), [row])


def test_other_bad_input():
    sample = moments(gradients())
    with pytest.raises(ValueError, match="columns 0, 3"):
        intervals.ratio(sample, 0, 3)
    with pytest.raises(ValueError, match=r"columns \(0, 3\)"):
        intervals.compare(sample, [0, 3])
    for seconds in ([[1.0]], [[1.0, 2.0], [1.0]]):
        with pytest.raises(ValueError, match="seconds of"):
            intervals.compare(sample, [0, 1], seconds)
    with pytest.raises(ValueError, match="group sizes"):
        intervals.join([sample, dataclasses.replace(sample, group_size=4)], sample.total_gram)
    for mean in (intervals.mean_interval, intervals.t_interval):
        with pytest.raises(ValueError, match="shapes"):
            mean(np.ones((3, 2)), np.ones(3))
        with pytest.raises(ValueError, match=r"shapes \(\)"):
            mean(np.float64(1.0))


def test_two_readings_of_a_clock_have_an_interval_and_one_has_none():
    """log 2 and log 8 around log 4: Student's t of one degree of freedom, 12.7 standard errors."""
    two = intervals._log_clock([2.0, 8.0], [1.0, 1.0], 0.95)
    assert two.value == pytest.approx(math.log(4))
    assert two.high - two.value == pytest.approx(12.706205 * math.log(2), rel=1e-5)
    one = intervals._log_clock([2.0], [1.0], 0.95)
    assert one.value == pytest.approx(math.log(2)) and math.isnan(one.low) and math.isnan(one.high)

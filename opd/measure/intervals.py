"""From the moments of K estimators to their variance, SNR and bias, with 95 % intervals.

The unit of independence is the prompt group g = 1..N: one prompt, G rollouts. Y_gi in R^M is
estimator i's gradient averaged over the group's rollouts. The Y are never kept, their inner
products are. With S = sum_g Y_g, A = sum_g <Y_gi, Y_gj> and T = <S_i, S_j>:

    <mu_i, mu_j>        (T - A) / (N (N - 1))        products of distinct groups: unbiased
    tr Cov(Y_i, Y_j)    (A - T / N) / (N - 1)

Without group g, A loses its Gram matrix and T turns into T - C_g - C_g' + Gram_g, where
C_g = <Y_gi, S_j>. The part of C_g that is not exact comes from the sketch; a constant then makes
sum_g C_g equal T. All figures are functions of these two matrices, so that the delete-one-group
jackknife costs O(N K^2 W).

An interval is the hull of up to three: the jackknife's with Student's t quantile (Tukey 1958),
Hall's, which corrects it for skewness (Hall 1992, J. R. Stat. Soc. B 54:221), and for squared
norms one whose standard error grows with the square itself. Which to use was decided by measuring
coverage: experiments/coverage. A bootstrap is not among them: SNR may lie outside of its own.

Rows that are unbiased for one goal have one mean mu, so that their SNRs stand to each other as
their totals do, inverted. `compare` takes that ratio on the same rollouts, for all pairs of a goal,
with intervals that hold together. Its study is experiments/choices.

Shapes: N groups, G rollouts in a group, K columns (estimators and their partners), W sketch width.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray

LEVEL = 0.95  # the usual one; coverage was measured at it
# An interval may be trusted from this many groups on, and from this many effective groups on:
# (sum_g d_g)^2 / sum_g d_g^2 with d_g group g's share of the variance. Heavy tails lower the
# latter. Both from experiments/coverage.
MIN_GROUPS = 128
MIN_EFFECTIVE_GROUPS = 48
# Rows are compared from so many effective groups on: a ratio of totals on the same rollouts needs
# fewer than a total. From experiments/choices.
MIN_COMPARED_GROUPS = 16
# Gradients are float32: rows that are equal but for rounding must not be told apart.
ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What one pass over N prompt groups leaves of K columns of gradients; float64 on the host."""

    gram: Array  # [N, K, K], <Y_gi, Y_gj>
    total_gram: Array  # [K, K], <S_i, S_j>, S = sum_g Y_g
    sketch: Array  # [N, K, W], linear in Y_g, E <sketch(x), sketch(y)> = <x, y>
    group_size: int  # G, rollouts behind each Y_g

    @property
    def groups(self) -> int:
        """N."""
        return len(self.gram)

    @functools.cached_property
    def _replicates(self) -> _Replicates:
        return _replicates(self)


@dataclasses.dataclass(frozen=True)
class Branches:
    """A partner that was not enumerated but estimated by fresh continuations.

    Columns `first` and `second` are sum_t b_t and sum_t b_t', where b_t and b_t' estimate
    g_t = E[h_t|s_t] without bias and independently given the rollout. Columns `spread` and
    `spread_second` have E <spread, spread_second> = (1/G) sum_t E tr Var(h_t|s_t): for instance
    sum_t e_t (h_t - b_t) and sum_t e_t (h_t - b_t') with one random sign e_t. None: `spread` twice.
    """

    first: int
    second: int
    spread: int
    spread_second: int | None = None


@dataclasses.dataclass(frozen=True)
class RowSpec:
    """Which columns make up a row of the report."""

    column: int
    partner: int | Branches | None = None  # E[h_t|s_t]; a deterministic row is its own
    reference: int | None = None  # whose expectation this one is compared with


@dataclasses.dataclass(frozen=True, eq=False)
class Interval:
    """A measured figure at 95 %; low <= value <= high. Arrays where it was measured along an axis.

    NaN stands for what can't be said.
    """

    value: float | Array
    low: float | Array
    high: float | Array


Figures = dict[str, Interval | bool | int | None]


# ---------------------------------------------------------------------------------- quantiles


@functools.lru_cache(maxsize=4096)  # a number of groups or prompts each: more than a run has
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level, T Student's with an integer number of degrees of freedom.

    The finite series in theta = atan(t / sqrt(freedom)) (Abramowitz and Stegun 26.7.3-4), solved
    by bisection. ValueError unless freedom >= 1 and 0 < level < 1.
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"t_quantile({freedom}, {level}): must be >= 1 and within (0, 1)")
    odd = freedom % 2
    steps = np.arange(1, (freedom - 1) // 2 if odd else freedom // 2)
    factors = 2 * steps / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps)
    terms = np.concatenate([[1.0], np.cumprod(factors)])
    powers = 2 * np.arange(len(terms)) + odd

    def inside(theta: float) -> float:
        if freedom == 1:
            return 2 * theta / math.pi
        series = math.sin(theta) * float(terms @ math.cos(theta) ** powers)
        return 2 / math.pi * (theta + series) if odd else series

    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halvings: beyond the 52 bits of a float
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


# --------------------------------------------------------------------------------- replicates


@dataclasses.dataclass(frozen=True, eq=False)
class _Replicates:
    """Entry 0 of the first axis is the whole sample, entry g the sample without group g."""

    product: Array  # [N + 1, K, K], <mu_i, mu_j>, from distinct groups
    covariance: Array  # [N + 1, K, K], tr Cov(Y_i, Y_j), of one group
    second: Array  # [N + 1, K, K], mean_g <Y_gi, Y_gj>
    groups: int
    group_size: int


def join(parts: Sequence[Moments], total_gram: Array) -> Moments:
    """Moments of all groups of `parts`; `total_gram` [K, K] is of the sums over all of them.

    The sums can't be had from the parts' own: <S + S', S + S'> has cross products.
    ValueError if group sizes differ.
    """
    sizes = sorted({part.group_size for part in parts})
    if len(sizes) != 1:
        raise ValueError(f"join: group sizes {sizes}, must be one")
    gram = np.concatenate([part.gram for part in parts])
    sketch = np.concatenate([part.sketch for part in parts])
    return Moments(gram, total_gram, sketch, sizes[0])


def _check(moments: Moments) -> None:
    shape = moments.gram.shape
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] < 3:
        raise ValueError(f"gram: shape {shape}, must be [N, K, K] with N >= 3 groups")
    if moments.total_gram.shape != shape[1:] or moments.sketch.shape[:2] != shape[:2]:
        given = moments.total_gram.shape, moments.sketch.shape
        raise ValueError(f"total_gram, sketch: shapes {given} do not go with gram {shape}")
    if moments.group_size < 1:
        raise ValueError(f"group_size {moments.group_size}: must be >= 1")
    for name in ("gram", "total_gram", "sketch"):
        if not np.all(np.isfinite(getattr(moments, name))):
            raise ValueError(f"{name}: holds a number that is not finite")


def _replicates(moments: Moments) -> _Replicates:
    _check(moments)
    gram = np.asarray(moments.gram, np.float64)
    total = np.asarray(moments.total_gram, np.float64)
    sketch = np.asarray(moments.sketch, np.float64)
    count = moments.groups
    # <Y_gi, S_j> = Gram + <Y_gi, S_j - Y_gj>; only the last needs the sketch.
    other = sketch @ sketch.sum(0).T - sketch @ sketch.swapaxes(1, 2)
    with_sum = gram + other
    with_sum += (total - with_sum.sum(0)) / count
    whole = gram.sum(0)
    squares = np.concatenate([whole[None], whole - gram])
    sums = np.concatenate([total[None], total - with_sum - with_sum.swapaxes(1, 2) + gram])
    n = np.concatenate([[count], np.full(count, count - 1)])[:, None, None]
    return _Replicates(
        product=(sums - squares) / (n * (n - 1)),
        covariance=(squares - sums / n) / (n - 1),
        second=squares / n,
        groups=count,
        group_size=moments.group_size,
    )


def _difference(products: Array, i: int, j: int) -> Array:
    """<x_i - x_j, x_i - x_j> from all <x, x>."""
    return products[:, i, i] + products[:, j, j] - 2 * products[:, i, j]


# ---------------------------------------------------------------------------------- intervals


def _hull(
    replicates: Array,
    square: float | None = None,
    mirrored: bool = False,
    floor: float = -math.inf,
    t: float | None = None,
) -> Interval:
    """The interval of a figure from its replicates [N + 1], at 95 % unless `t` says otherwise.

    t       value -+ e,  e = t se,  se^2 = (N - 1)/N sum_g (replicate_g - their mean)^2
    Hall    Hall's cubic transform of t, with the skewness of N value - (N - 1) replicate_g
    square  for |delta|^2: its standard error grows like |delta|, so that value + e is too low.
            With se proportional to |estimated delta|, of square `square` (noise and all), the
            upper end is value + e + e^2 / (4 square). `mirrored`: for minus such a square.

    `floor`: a number that the figure can't be below, 0 for a variance. `t`: the quantile, that of
    N - 1 degrees of freedom at 95 % if None.
    """
    value, rest = float(replicates[0]), replicates[1:]
    n = len(rest)
    t = t_quantile(n - 1) if t is None else t
    deviation = rest - rest.mean()
    reach = t * math.sqrt((n - 1) / n * float(deviation @ deviation))
    if reach == 0:
        return Interval(value, value, value)
    ends = [value - reach, value + reach, *_hall(value, rest, t)]
    if square is not None and square > 0:
        more = reach + reach**2 / (4 * square)
        ends.append(value - more if mirrored else value + more)
    return Interval(value, float(max(min(ends), min(floor, value))), float(max(ends)))


def _hall(value: float, rest: Array, t: float) -> tuple[float, float]:
    """Solves T = W + a W^2 / 3 + a^2 W^3 / 27 + a / (6 N) for W at T = -+ t / sqrt(N); a skewness.

    W = (value - truth) / s, s the standard deviation of the pseudo-values.
    """
    n = len(rest)
    pseudo = n * value - (n - 1) * rest
    deviation = pseudo - pseudo.mean()
    squares = deviation * deviation  # `**` is slow
    s = math.sqrt(float(squares.sum()) / (n - 1))
    if s == 0:  # a constant's replicates, whose mean rounding has moved
        return value, value
    skewness = float(squares @ deviation) / (n * s**3)
    if abs(skewness) < 1e-6:  # at 0 it is 0 / 0, and so near to it no correction
        return value, value  # the t interval already
    ends = np.array([1, -1]) * t / math.sqrt(n)
    w = 3 / skewness * (np.cbrt(1 + skewness * (ends - skewness / (6 * n))) - 1)
    return float(value - s * w[0]), float(value - s * w[1])


def _mean_square(sample: _Replicates, i: int) -> Interval:
    square = sample.product[0, i, i] + sample.covariance[0, i, i] / sample.groups
    return _hull(sample.product[:, i, i], square)


def _snr(sample: _Replicates, i: int) -> Interval | None:
    total = sample.group_size * sample.covariance[:, i, i]
    if np.any(total <= 0):
        return None
    values = sample.product[:, i, i] / total
    return _hull(values, values[0] + 1 / (sample.groups * sample.group_size))


def _comparison(sample: _Replicates, i: int, r: int) -> tuple[Interval | None, Interval | None]:
    """Relative error and cosine of the expectations of i and r; None where they say nothing."""
    own, reference = sample.product[:, i, i], sample.product[:, r, r]
    if _mean_square(sample, r).low <= 0 or np.any(reference <= 0):
        return None, None
    # Twice the square of what noise alone makes of a difference of directions, as `square` needs.
    noise = _difference(sample.covariance, i, r)[0] / sample.groups
    q = _difference(sample.product, i, r) / reference
    squared = _hull(q, q[0] + noise / reference[0])
    error = Interval(*(_signed_root(x) for x in dataclasses.astuple(squared)))
    if _mean_square(sample, i).low <= 0 or np.any(own <= 0):
        return error, None
    norms = np.sqrt(own * reference)
    cosine = sample.product[:, i, r] / norms
    return error, _hull(cosine, 1 - cosine[0] + noise / (2 * norms[0]), mirrored=True)


def _signed_root(x: float) -> float:
    return math.copysign(math.sqrt(abs(x)), x)


def _parts(sample: _Replicates, i: int, partner: int | Branches | None) -> dict[str, Array | None]:
    """total, across, within, cross [N + 1]: the last three add up to the first."""
    scale = sample.group_size
    covariance = scale * sample.covariance
    total = covariance[:, i, i]
    if partner is None:
        return {"total": total, "across": None, "within": None, "cross": None}
    if isinstance(partner, Branches):
        across = covariance[:, partner.first, partner.second]
        other = partner.spread if partner.spread_second is None else partner.spread_second
        within = scale * sample.second[:, partner.spread, other]
        return {
            "total": total,
            "across": across,
            "within": within,
            "cross": total - across - within,
        }
    across = covariance[:, partner, partner]
    within = _difference(covariance, i, partner)
    cross = 2 * (covariance[:, i, partner] - across)
    return {"total": total, "across": across, "within": within, "cross": cross}


def _effective(part: Array) -> float:
    """How many groups make up a part [N + 1] of a variance: (sum d)^2 / sum d^2.

    Its pseudo-values are the groups' shares d_g of it; N where all are 0.
    """
    groups = len(part) - 1
    share = np.maximum(groups * part[0] - (groups - 1) * part[1:], 0)
    return float(share.sum() ** 2 / (share @ share)) if np.any(share > 0) else float(groups)


def _needed(parts: dict[str, Array | None], groups: int) -> int:
    """From how many groups on a row's intervals may be trusted, as far as this sample can tell.

    Its parts' effective groups decide, those of `total` and of `within`.
    """
    effective = float(groups)
    for name in ("total", "within"):
        if parts[name] is not None:
            effective = min(effective, _effective(parts[name]))
    return max(MIN_GROUPS, math.ceil(MIN_EFFECTIVE_GROUPS * groups / effective))


def estimate(moments: Moments, rows: Sequence[RowSpec]) -> list[Figures]:
    """Variance, its parts, SNR and bias of each row, with 95 % intervals over prompt groups.

        mean_square     |mu|^2, from products of distinct groups; may come out negative
        total           G tr Cov(Y): an update's variance times its number of rollouts
        across          G tr Cov(Y_p), p the partner
        within          G tr Cov(Y - Y_p)
        cross           2 G tr Cov(Y - Y_p, Y_p); the three add up to total on this very sample
        snr             |mu|^2 / total, of one rollout
        relative_error  sign(q) sqrt|q|, q = |mu - mu_r|^2 / |mu_r|^2, r the reference
        cosine          <mu, mu_r> / (|mu| |mu_r|); unbiased numerator and squares, so may pass 1

    With `Branches` for a partner: across = G tr Cov(first, second), within = G mean_g <spread,
    spread_second>, cross the rest. An unbiased row's relative_error covers 0, its cosine 1.

    Args:
        moments: of N >= 3 groups.
        rows: columns of `moments`, for each row.

    Returns:
        One dict for each row: the figures above as `Interval`, or None: the parts without a
        partner, snr without variance, relative_error and cosine without a reference or where the
        95 % interval of the reference's mean_square reaches 0, cosine also where the row's own
        does. `trusted_from`: the number of groups from which on the intervals may be trusted,
        max(MIN_GROUPS, N MIN_EFFECTIVE_GROUPS / effective groups); `trusted`: whether N is there.

    Raises:
        ValueError: shapes that do not go together, fewer than three groups, a column out of range.
    """
    sample = moments._replicates
    return [_row(sample, spec) for spec in rows]


def _row(sample: _Replicates, spec: RowSpec) -> Figures:
    partner = spec.partner
    named = dataclasses.astuple(partner) if isinstance(partner, Branches) else (partner,)
    columns = sample.product.shape[1]
    for column in (spec.column, spec.reference, *named):
        if column is not None and not 0 <= column < columns:
            raise ValueError(f"column {column}: must be within [0, {columns})")
    parts = _parts(sample, spec.column, partner)
    # A covariance of two copies may come out below 0, and so may its interval.
    floors = dict.fromkeys(parts, -math.inf) | {"total": 0.0}
    if not isinstance(partner, Branches):
        floors |= {"across": 0.0, "within": 0.0}
    error, cosine = None, None
    if spec.reference is not None:
        error, cosine = _comparison(sample, spec.column, spec.reference)
    needed = _needed(parts, sample.groups)
    return {
        "cosine": cosine,
        "relative_error": error,
        **{
            name: None if part is None else _hull(part, floor=floors[name])
            for name, part in parts.items()
        },
        "snr": _snr(sample, spec.column),
        "mean_square": _mean_square(sample, spec.column),
        "trusted": sample.groups >= needed,
        "trusted_from": needed,
    }


def ratio(moments: Moments, i: int, j: int) -> dict[str, Interval | None]:
    """total_i / total_j and snr_i / snr_j, paired on the same rollouts: `total` and `snr`.

    The interval of the former is taken on the log scale, so that (i, j) and (j, i) agree on
    whether 1 is inside. None where a total is 0; snr also where the interval of j's mean_square
    reaches 0. ValueError as in `estimate`.
    """
    sample = moments._replicates
    columns = sample.product.shape[1]
    if not (0 <= i < columns and 0 <= j < columns):
        raise ValueError(f"columns {i}, {j}: must be within [0, {columns})")
    total_i, total_j = sample.covariance[:, i, i], sample.covariance[:, j, j]
    if np.any(total_i <= 0) or np.any(total_j <= 0):
        return {"total": None, "snr": None}
    total = _exponential(_hull(np.log(total_i / total_j)))
    if _mean_square(sample, j).low <= 0 or np.any(sample.product[:, j, j] <= 0):
        return {"total": total, "snr": None}
    snr_i, snr_j = sample.product[:, i, i] / total_i, sample.product[:, j, j] / total_j
    snr = snr_i / snr_j
    return {"total": total, "snr": _hull(snr, snr[0] + 1 / (sample.groups * snr_j[0]))}


# ----------------------------------------------------------------------- rows of one goal, in pairs


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two rows that are unbiased for one goal: by what factor the first has the SNR of the second.

    The intervals of all pairs of the goal hold together at the level asked for. None: a total is 0.
    """

    first: int  # places in the columns that were compared
    second: int
    snr: Interval | None  # SNR_first / SNR_second = total_second / total_first
    snr_per_second: Interval | None  # that times seconds_second / seconds_first


def compare(
    moments: Moments,
    columns: Sequence[int],
    seconds: Sequence[Sequence[float]] | None = None,
    level: float = LEVEL,
) -> list[Comparison]:
    """Every pair of rows with one expectation: same rollouts, same repeats of the clock.

        log SNR_i / SNR_j          log total_j - log total_i, as |mu|^2 is one number; jackknife
        log seconds_j / seconds_i  its mean over repeats, which are interleaved; Student's t

    Each interval is at 1 - (1 - level) / pairs, so that all of a kind hold at once at `level`
    (Bonferroni). They are formed on the log scale: (i, j) and (j, i) agree. The jackknife's is the
    hull of t and Hall with 2 N / (kurtosis - 1) degrees of freedom, at most N - 1, the kurtosis
    that of the groups' influence: with heavy tails the standard error is itself uncertain
    (Satterthwaite 1946, Biometrics Bull. 2:110). The ends of a sum lie as far out as the root of
    the summed squares of its parts' (Zou and Donner 2008, Stat. Med. 27:1693).

    Args:
        moments: of N >= 3 groups.
        columns: of the rows, whose expectations are one.
        seconds: of each row, in each repeat; None: `snr_per_second` is None. Of a single repeat the
            value is known and the ends are NaN.
        level: of all intervals of a kind together.

    Returns:
        One comparison for each pair, in the order of itertools.combinations.

    Raises:
        ValueError: as `estimate`; seconds that are not one list a row, or not of one length.
    """
    sample = moments._replicates
    count = sample.product.shape[1]
    if not all(0 <= column < count for column in columns):
        raise ValueError(f"columns {tuple(columns)}: must be within [0, {count})")
    if seconds is not None and (len(seconds) != len(columns) or len(set(map(len, seconds))) > 1):
        raise ValueError(f"seconds of {len(seconds)} rows: must be a list of one length for each")
    pairs = list(itertools.combinations(range(len(columns)), 2))
    alone = 1 - (1 - level) / max(len(pairs), 1)
    totals = [sample.covariance[:, column, column] for column in columns]
    comparisons = []
    for i, j in pairs:
        snr = per_second = None
        if np.all(totals[i] > 0) and np.all(totals[j] > 0):
            log = _log_ratio(totals[j], totals[i], alone)
            snr = _exponential(log)
            if seconds is not None:
                per_second = _exponential(_sum(log, _log_clock(seconds[j], seconds[i], alone)))
        comparisons.append(Comparison(i, j, snr, per_second))
    return comparisons


def comparable(moments: Moments, column: int) -> bool:
    """Whether enough groups make up a row's total for `compare`'s intervals to hold.

    MIN_COMPARED_GROUPS effective ones, (sum_g d_g)^2 / sum_g d_g^2 with d_g group g's share.
    ValueError as in `estimate`.
    """
    total = moments._replicates.covariance[:, column, column]
    return _effective(total) >= MIN_COMPARED_GROUPS


def _log_ratio(above: Array, below: Array, level: float) -> Interval:
    """log above / below from their replicates [N + 1]; rounding is no difference."""
    log = np.log(above / below)
    hull = _hull(log, t=t_quantile(_freedom(log[1:]), level))
    return Interval(hull.value, hull.low - ROUNDING, hull.high + ROUNDING)


def _freedom(rest: Array) -> int:
    """Degrees of freedom 2 N / (kurtosis - 1) of a jackknife variance, at most N - 1."""
    n, squares = len(rest), (rest - rest.mean()) ** 2
    excess = n * float(squares @ squares) - float(squares.sum()) ** 2  # (kurtosis - 1) sum^2
    if excess <= 0:
        return n - 1
    return max(1, min(n - 1, int(2 * n * float(squares.sum()) ** 2 / excess)))


def _log_clock(above: Sequence[float], below: Sequence[float], level: float) -> Interval:
    """log above / below over paired repeats; NaN ends of a single one."""
    log = np.log(np.asarray(above, np.float64) / np.asarray(below, np.float64))
    value, repeats = float(log.mean()), len(log)
    if repeats < 2:
        return Interval(value, math.nan, math.nan)
    reach = t_quantile(repeats - 1, level) * float(log.std(ddof=1)) / math.sqrt(repeats)
    return Interval(value, value - reach, value + reach)


def _sum(a: Interval, b: Interval) -> Interval:
    value = a.value + b.value
    down = math.hypot(a.value - a.low, b.value - b.low)
    return Interval(value, value - down, value + math.hypot(a.high - a.value, b.high - b.value))


def _exponential(log: Interval) -> Interval:
    return Interval(*(math.exp(end) for end in dataclasses.astuple(log)))


# ------------------------------------------------------------------------- means over prompts


def mean_interval(values: Array, counts: Array | None = None) -> Interval:
    """The mean of values [N, ...] over N independent groups or prompts, and its t interval.

    With `counts` [N, ...], values are sums of so many items each, and the mean is over items:
    sum_g values / sum_g counts, a ratio whose interval is the linearised one (Cochran 1977,
    section 6). Groups with no items are left out. NaN where a mean or an end can't be had: no
    items, or fewer than two groups.
    """
    values = np.asarray(values, np.float64)
    counts = np.ones(values.shape) if counts is None else np.asarray(counts, np.float64)
    if values.shape != counts.shape or values.ndim == 0:
        raise ValueError(f"values, counts: shapes {values.shape}, {counts.shape} must be equal")
    groups, items = (counts > 0).sum(0), counts.sum(0)
    known = np.where(counts > 0, values, 0.0)
    mean = np.where(items > 0, known.sum(0) / np.where(items > 0, items, 1), np.nan)
    residual = known - counts * mean
    used = np.maximum(groups, 2)
    se = np.sqrt(used / (used - 1) * (residual**2).sum(0)) / np.where(items > 0, items, 1)
    quantile = np.vectorize(t_quantile, otypes=[float])(used - 1)
    reach = np.where(groups > 1, quantile * se, np.nan)
    return Interval(mean, mean - reach, mean + reach)


def proportion_interval(values: Array) -> Interval:
    """The mean of values [N, ...] within [0, 1] over N prompts, by Wilson's score with t quantile.

    For accuracies: unlike the t interval it keeps its width where all prompts agree. The number
    of draws is N, or more where values are spread less than zeros and ones would be:
    p (1 - p) / se^2 (a design effect, Kish 1965). ValueError outside [0, 1] or below two prompts.
    """
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) < 2 or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"proportions: shape {values.shape}, must be >= 2 prompts within [0, 1]")
    n, p = len(values), values.mean(0)
    variance = values.var(0, ddof=1) / n
    draws = np.where(variance > 0, p * (1 - p) / np.where(variance > 0, variance, 1), n)
    draws, q = np.maximum(draws, n), t_quantile(n - 1) ** 2
    centre = (p + q / (2 * draws)) / (1 + q / draws)
    reach = np.sqrt(q * (p * (1 - p) / draws + q / (4 * draws**2))) / (1 + q / draws)
    # Rounding may push an end past the mean where all prompts agree.
    return Interval(p, np.minimum(centre - reach, p), np.maximum(centre + reach, p))

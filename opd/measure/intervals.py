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

How replicates become an interval: `jackknife`. Which to use was decided by measuring coverage:
experiments/coverage. A bootstrap is not among them: SNR may lie outside of its own.

Whether intervals are to be trusted is said from the number of groups and from what kind of row it
is, never from the sample's own tail: with heavy tails that would pick the samples that missed it.
What a sample does show of a tail is said as just that.

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

from opd.measure.jackknife import LEVEL, Interval, fieller, hull, t_quantile

Array = np.ndarray

# From how many groups on the intervals of a row are trusted; the second of a row whose weights add
# up or multiply over tokens, whose tail is heavier. From experiments/coverage.
MIN_GROUPS, MIN_GROUPS_OF_SUMS = 128, 512
# Rows are compared from so many groups on: a ratio of totals on the same rollouts needs fewer than
# a total. From experiments/choices.
MIN_COMPARED_GROUPS = 64
# A sign of a heavy tail: less than this share of the groups make up a row's variance.
FEW = 0.1
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
    sums: bool = True  # its weights add up or multiply over tokens, or who knows


Figures = dict[str, Interval | bool | int | float | None]


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


def _mean_square(sample: _Replicates, i: int) -> Interval:
    square = sample.product[0, i, i] + sample.covariance[0, i, i] / sample.groups
    return hull(sample.product[:, i, i], square)


def _snr(sample: _Replicates, i: int) -> Interval | None:
    total = sample.group_size * sample.covariance[:, i, i]
    if np.any(total <= 0):
        return None
    values = sample.product[:, i, i] / total
    return hull(values, values[0] + 1 / (sample.groups * sample.group_size))


def _relative_error(sample: _Replicates, i: int, r: int) -> Interval:
    """Of the expectation of i to that of r, the signed root of a ratio of squares."""
    error, reference = _difference(sample.product, i, r), sample.product[:, r, r]
    noise = _difference(sample.covariance, i, r)[0] / sample.groups
    squared = fieller(error, reference, error[0] + noise)
    return Interval(*(math.copysign(math.sqrt(abs(x)), x) for x in dataclasses.astuple(squared)))


def _cosine(sample: _Replicates, i: int, r: int) -> Interval:
    """Of the expectations of i and r, less the jackknife's estimate of its bias.

    1 - cosine = (norms - product) / norms is a ratio of figures that aren't negative. It lies
    within [0, 2], which is all that is known where a squared norm is lost in noise.
    """
    squares = sample.product[:, i, i], sample.product[:, r, r]
    if np.any(squares[0] <= 0) or np.any(squares[1] <= 0):
        return Interval(math.nan, -1.0, 1.0)
    product, norms = sample.product[:, i, r], np.sqrt(squares[0] * squares[1])
    noise = _difference(sample.covariance, i, r)[0] / sample.groups
    value = float(_less_bias(product / norms)[0])
    norms = _less_bias(norms)
    # Half the noise: of directions' difference 1 - cosine is half the square.
    apart = fieller(norms - product, norms, norms[0] - product[0] + noise / 2)
    if not math.isfinite(apart.high):
        return Interval(math.nan, -1.0, min(1 - apart.low, 1.0))
    return Interval(value, min(max(1 - apart.high, -1.0), value), max(1 - apart.low, value))


def _less_bias(replicates: Array) -> Array:
    """All of them moved by the jackknife's estimate of the bias (Quenouille 1956)."""
    groups = len(replicates) - 1
    return replicates + (groups - 1) * (replicates[0] - replicates[1:].mean())


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
        partner, snr without variance, relative_error and cosine without a reference. Where the
        reference is lost in noise these two are not bounded (`jackknife.fieller`).
        `trusted_from`: the number of groups from which on the intervals may be trusted, MIN_GROUPS
        or MIN_GROUPS_OF_SUMS; `trusted`: whether N is there. Neither depends on the sample.
        `effective_groups`: how many groups make up `total` (or `within`, if those are fewer),
        (sum_g d_g)^2 / sum_g d_g^2 with d_g group g's share; `heavy_tail`: whether that is less
        than FEW of N, a sign of a heavy tail. Without one the tail may still be missing from the
        sample.

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
    compared: Figures = {"cosine": None, "relative_error": None}
    if spec.reference is not None:
        pair = spec.column, spec.reference
        compared = {
            "cosine": _cosine(sample, *pair),
            "relative_error": _relative_error(sample, *pair),
        }
    shares = [parts[name] for name in ("total", "within") if parts[name] is not None]
    effective = min(map(_effective, shares))
    needed = MIN_GROUPS_OF_SUMS if spec.sums else MIN_GROUPS
    return {
        **compared,
        **{
            name: None if part is None else hull(part, floor=floors[name])
            for name, part in parts.items()
        },
        "snr": _snr(sample, spec.column),
        "mean_square": _mean_square(sample, spec.column),
        "trusted": sample.groups >= needed,
        "trusted_from": needed,
        "effective_groups": effective,
        "heavy_tail": effective < FEW * sample.groups,
    }


def ratio(moments: Moments, i: int, j: int) -> dict[str, Interval | None]:
    """total_i / total_j and snr_i / snr_j, paired on the same rollouts: `total` and `snr`.

    The interval of the former is taken on the log scale, so that (i, j) and (j, i) agree on
    whether 1 is inside; the latter's may be unbounded (`jackknife.fieller`). None where a total
    is 0. ValueError as in `estimate`.
    """
    sample = moments._replicates
    columns = sample.product.shape[1]
    if not (0 <= i < columns and 0 <= j < columns):
        raise ValueError(f"columns {i}, {j}: must be within [0, {columns})")
    total_i, total_j = sample.covariance[:, i, i], sample.covariance[:, j, j]
    if np.any(total_i <= 0) or np.any(total_j <= 0):
        return {"total": None, "snr": None}
    snr_i, snr_j = sample.product[:, i, i] / total_i, sample.product[:, j, j] / total_j
    return {
        "total": _exponential(hull(np.log(total_i / total_j))),
        "snr": fieller(snr_i, snr_j, snr_i[0] + 1 / sample.groups),
    }


def beside_proxy(moments: Moments, squares: Array, column: int) -> dict[str, Interval | None]:
    """A row's total beside the proxy that is cheap to have, and their ratio.

        logit_square             E sum_t |dJ/dlogits_t|^2 of one rollout: no backward through the
                                 model, tokens taken as uncorrelated, the mean left in
        total_per_logit_square   total / logit_square, jackknifed together on the log scale

    The proxy orders rows as their totals do where the latter is the same for all of them.

    Args:
        moments: of N >= 3 groups.
        squares: [N, K], each group's mean over its rollouts of sum_t |dJ/dlogits_t|^2.
        column: the row's.

    Returns:
        Both; the ratio is None where total or proxy is 0.
    """
    sample, own = moments._replicates, np.asarray(squares, np.float64)[:, column]
    found = {"logit_square": mean_interval(own, floor=0.0), "total_per_logit_square": None}
    means = np.append(own.mean(), (own.sum() - own) / (len(own) - 1))
    total = sample.group_size * sample.covariance[:, column, column]
    if np.all(total > 0) and np.all(means > 0):
        found["total_per_logit_square"] = _exponential(hull(np.log(total / means)))
    return found


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
    # Predicted rollouts of the second over the first's, for as much learning, at each batch size.
    rollouts: tuple[Interval, ...] | None = None


def compare(
    moments: Moments,
    columns: Sequence[int],
    seconds: Sequence[Sequence[float]] | None = None,
    level: float = LEVEL,
    batches: Sequence[int] = (),
) -> list[Comparison]:
    """Every pair of rows with one expectation: same rollouts, same repeats of the clock.

        log SNR_i / SNR_j          log total_j - log total_i, as |mu|^2 is one number; jackknife
        log seconds_j / seconds_i  its mean over repeats, which are interleaved; Student's t
        rollouts_j / rollouts_i    (B + 1 / SNR_j) / (B + 1 / SNR_i): `_at_batch`

    Each interval is at 1 - (1 - level) / pairs, so that all of a kind hold at once at `level`
    (Bonferroni). They are formed on the log scale: (i, j) and (j, i) agree. The ends of a sum lie
    as far out as the root of the summed squares of its parts' (Zou and Donner 2008, Stat. Med.
    27:1693).

    Args:
        moments: of N >= 3 groups.
        columns: of the rows, whose expectations are one.
        seconds: of each row, in each repeat; None: `snr_per_second` is None. Of a single repeat the
            value is known and the ends are NaN.
        level: of all intervals of a kind together.
        batches: rollouts B of an update, for which to predict `rollouts`; those of all B hold
            together.

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
    sharpest = min(columns, key=lambda column: sample.covariance[0, column, column], default=0)
    comparisons = []
    for i, j in pairs:
        snr = per_second = rollouts = None
        if np.all(totals[i] > 0) and np.all(totals[j] > 0):
            log = _log_ratio(totals[j], totals[i], alone)
            snr = _exponential(log)
            if seconds is not None:
                per_second = _exponential(_sum(log, _log_clock(seconds[j], seconds[i], alone)))
            half = (1 + alone) / 2  # two intervals are put together
            first = _snr_of(sample, columns[i], sharpest, half)
            apart = _exponential(_log_ratio(totals[j], totals[i], half))
            rollouts = tuple(_at_batch(first, apart, batch) for batch in batches)
        comparisons.append(Comparison(i, j, snr, per_second, rollouts))
    return comparisons


def _snr_of(sample: _Replicates, column: int, sharpest: int, level: float) -> Interval:
    """SNR of a row, |mu|^2 taken from the row of its goal that has the least noise."""
    total = sample.group_size * sample.covariance[:, column, column]
    noise = sample.covariance[0, sharpest, sharpest] / sample.groups
    values = sample.product[:, sharpest, sharpest] / total
    return hull(values, float(values[0] + noise / total[0]), level=level)


def _at_batch(snr: Interval, ratio: Interval, batch: int) -> Interval:
    """(B + 1 / SNR_j) / (B + 1 / SNR_i), from SNR_i and from SNR_i / SNR_j.

    With B rollouts an update, as much learning takes (1 + noise / B) times as many updates as
    without noise, noise = 1 / SNR in rollouts (McCandlish et al. 2018, sections 2.2 and 2.3, the
    Hessian as the identity). Small batches pay for all of a row's variance, large ones for none of
    it. Monotone in both: its ends are among those at the ends of either. An SNR below 0 is 0.
    """

    def value(snr: float, ratio: float) -> float:
        signal = batch * max(snr, 0.0)
        return (signal + ratio) / (signal + 1)

    ends = [value(s, r) for s in (snr.low, snr.high) for r in (ratio.low, ratio.high)]
    return Interval(value(snr.value, ratio.value), min(ends), max(ends))


def comparable(moments: Moments) -> bool:
    """Whether there are enough groups for `compare`'s intervals to hold, MIN_COMPARED_GROUPS."""
    return moments.groups >= MIN_COMPARED_GROUPS


def _log_ratio(above: Array, below: Array, level: float) -> Interval:
    """log above / below from their replicates [N + 1]; rounding is no difference."""
    log = hull(np.log(above / below), level=level)
    return Interval(log.value, log.low - ROUNDING, log.high + ROUNDING)


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
    with np.errstate(over="ignore"):  # an end beyond all floats bounds nothing
        return Interval(*(float(np.exp(end)) for end in dataclasses.astuple(log)))


# ------------------------------------------------------------------------- means over prompts


def mean_interval(values: Array, counts: Array | None = None, floor: float = -math.inf) -> Interval:
    """The mean of values [N, ...] over N independent groups or prompts, skewed as they may be.

    With `counts` [N, ...], values are sums of so many items each, and the mean is over items:
    sum_g values / sum_g counts. Groups with no items are left out. The interval is `hull`'s, put
    together with that of the mean's logarithm where no value is negative: a few prompts of a KL
    say little of how high its mean may be. NaN where a mean or an end can't be had: no items, or
    fewer than two groups. `floor`: a number that the mean can't be below, 0 for a KL.
    """
    values, counts = _counted(values, counts)
    flat = values.reshape(len(values), -1), counts.reshape(len(values), -1)
    means = [_mean(*column, floor) for column in zip(flat[0].T, flat[1].T)]
    ends = np.array([dataclasses.astuple(mean) for mean in means]).T
    return Interval(*(end.reshape(values.shape[1:])[()] for end in ends))


def _mean(values: Array, counts: Array, floor: float) -> Interval:
    values, counts = values[counts > 0], counts[counts > 0]
    if len(values) < 2:
        mean = float(values[0] / counts[0]) if len(values) else math.nan
        return Interval(mean, math.nan, math.nan)
    total, items = values.sum(), counts.sum()
    replicates = np.append(total / items, (total - values) / (items - counts))
    linear = hull(replicates, floor=floor)
    if np.any(values < 0) or np.any(replicates <= 0):
        return linear
    log = _exponential(hull(np.log(replicates)))
    return Interval(linear.value, min(linear.low, log.low), max(linear.high, log.high))


def t_interval(values: Array, counts: Array | None = None) -> Interval:
    """The mean of values [N, ...] and its t interval, for values near to normal: seeds, chains.

    `counts` as in `mean_interval`, the interval then the linearised one (Cochran 1977, section 6).
    """
    values, counts = _counted(values, counts)
    groups, items = (counts > 0).sum(0), counts.sum(0)
    known = np.where(counts > 0, values, 0.0)
    mean = np.where(items > 0, known.sum(0) / np.where(items > 0, items, 1), np.nan)
    residual = known - counts * mean
    used = np.maximum(groups, 2)
    se = np.sqrt(used / (used - 1) * (residual**2).sum(0)) / np.where(items > 0, items, 1)
    quantile = np.vectorize(t_quantile, otypes=[float])(used - 1)
    reach = np.where(groups > 1, quantile * se, np.nan)
    return Interval(mean, mean - reach, mean + reach)


def _counted(values: Array, counts: Array | None) -> tuple[Array, Array]:
    values = np.asarray(values, np.float64)
    counts = np.ones(values.shape) if counts is None else np.asarray(counts, np.float64)
    if values.shape != counts.shape or values.ndim == 0:
        raise ValueError(f"values, counts: shapes {values.shape}, {counts.shape} must be equal")
    return values, counts


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

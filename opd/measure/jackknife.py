"""From a figure's delete-one replicates to its 95 % interval, and to that of a ratio of two.

Replicates [N + 1]: entry 0 is the figure of the whole sample, entry g that without group g. What
any interval here can't know is what the sample lacks: with heavy tails it is too short until the
groups that make up the figure are many. experiments/coverage has how often the intervals cover.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

Array = np.ndarray

LEVEL = 0.95  # the usual one; coverage was measured at it


@dataclasses.dataclass(frozen=True, eq=False)
class Interval:
    """A measured figure at 95 %; low <= value <= high. Arrays where it was measured along an axis.

    NaN stands for what can't be said, an infinite end for one that the sample doesn't bound.
    """

    value: float | Array
    low: float | Array
    high: float | Array


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


def freedom(rest: Array) -> int:
    """Degrees of freedom 2 N / (kurtosis - 1) of a jackknife variance, at most N - 1.

    The kurtosis is that of the groups' influence: where few groups carry a figure, its standard
    error is itself uncertain (Satterthwaite 1946, Biometrics Bull. 2:110). `rest`: the replicates
    [N] without the whole sample's.
    """
    n, squares = len(rest), (rest - rest.mean()) ** 2
    excess = n * float(squares @ squares) - float(squares.sum()) ** 2  # (kurtosis - 1) sum^2
    if excess <= 0:
        return n - 1
    return min(n - 1, int(2 * n * float(squares.sum()) ** 2 / excess))  # 2 or more


def hull(
    replicates: Array,
    square: float | None = None,
    floor: float = -math.inf,
    level: float = LEVEL,
) -> Interval:
    """The interval of a figure from its replicates [N + 1].

    t       value -+ e,  e = t se,  se^2 = (N - 1)/N sum_g (replicate_g - their mean)^2, t of
            `freedom` degrees
    Hall    Hall's cubic transform of t, with the skewness of N value - (N - 1) replicate_g
    square  for |delta|^2: its standard error grows like |delta|, so that value + e is too low.
            With se proportional to |estimated delta|, of square `square` (noise and all), the
            upper end is value + e + e^2 / (4 square).

    `floor`: a number that the figure can't be below, 0 for a variance.
    """
    value, rest = float(replicates[0]), replicates[1:]
    n = len(rest)
    t = t_quantile(freedom(rest), level)
    deviation = rest - rest.mean()
    reach = t * math.sqrt((n - 1) / n * float(deviation @ deviation))
    if reach == 0:
        return Interval(value, value, value)
    ends = [value - reach, value + reach, *_hall(value, rest, t)]
    if square is not None and square > 0:
        ends.append(value + reach + reach**2 / (4 * square))
    return Interval(value, float(max(min(ends), min(floor, value))), float(max(ends)))


def _hall(value: float, rest: Array, t: float) -> tuple[float, float]:
    """Solves T = W + a W^2 / 3 + a^2 W^3 / 27 + a / (6 N) for W at T = -+ t / sqrt(N); a skewness.

    W = (value - truth) / s, s the standard deviation of the pseudo-values (Hall 1992, J. R. Stat.
    Soc. B 54:221).
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


def fieller(above: Array, below: Array, square: float | None = None) -> Interval:
    """above / below, two figures that aren't negative, from their replicates [N + 1].

    The ratios rho that the sample doesn't speak against (Fieller 1954, J. R. Stat. Soc. B 16:175):

        (above - rho below)^2 <= t^2 Var(above - rho below),  t of `freedom` degrees

    An interval where `below` is clear of 0, and else all but one: what is left of that is either
    not bounded above, or not bounded at all. Then the ends are infinite, and the value is NaN where
    the estimate of `below` isn't even positive. Always stated, so that no sample is picked out.

    `square`: where `above` is |delta|^2, the square of the estimated delta, noise and all: the
    variance then grows with rho as the square does.
    """
    if below[0] <= 0:
        return Interval(math.nan, -math.inf, math.inf)
    n, value = len(above) - 1, float(above[0] / below[0])
    a, b = above[1:] - above[1:].mean(), below[1:] - below[1:].mean()
    residual = a - value * b
    scale = t_quantile(freedom(residual)) ** 2 * (n - 1) / n
    # With rho = value + x: quadratic x^2 + 2 linear x - constant <= 0.
    quadratic = float(below[0] ** 2 - scale * (b @ b))
    linear, constant = float(scale * (residual @ b)), float(scale * (residual @ residual))
    if quadratic > 0:
        low = value + _roots(quadratic, linear, constant)[0]
        if square is not None and square > 0:
            linear -= constant * float(below[0]) / (2 * square)
        return Interval(value, low, value + _roots(quadratic, linear, constant)[1])
    if quadratic < 0 and linear**2 + quadratic * constant > 0 and linear < 0:
        high, low = (value + x for x in _roots(quadratic, linear, constant))
        if high < 0:  # below it a ratio of figures that aren't negative can't be
            return Interval(value, low, math.inf)
    return Interval(value, -math.inf, math.inf)


def _roots(quadratic: float, linear: float, constant: float) -> tuple[float, float]:
    """The roots of quadratic x^2 + 2 linear x - constant, the lower one first."""
    reach = math.sqrt(linear**2 + quadratic * constant)
    roots = (-linear - reach) / quadratic, (-linear + reach) / quadratic
    return min(roots), max(roots)

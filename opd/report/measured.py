"""A measured figure with its 95 % interval, and how it is written down.

Digits follow the interval: two significant digits of its half width, three of the value at most.
A figure that is undefined is an en dash, never a zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

DASH = "–"
INFINITY = "∞"
BARE = {DASH, INFINITY, f"-{INFINITY}"}  # without a power of ten
NOT_BOUNDED = "not bounded"


@dataclasses.dataclass(frozen=True)
class Measured:
    """value, low, high at 95 %; an end is infinite where the sample doesn't bound the figure.

    None where no interval was formed.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def known(self) -> bool:
        """Whether there is an interval that excludes anything."""
        ends = self.low, self.high
        return None not in ends and any(map(math.isfinite, ends))

    def covers(self, number: float) -> bool:
        """Whether the interval covers a number; without an interval nothing is excluded."""
        return not self.known or self.low <= number <= self.high

    def scaled(self, factor: float) -> Measured:
        """The figure in another unit; the factor is positive."""
        assert factor > 0, factor
        ends = (None if end is None else end * factor for end in (self.low, self.high))
        return Measured(self.value * factor, *ends)


def _finite(number: Any) -> float | None:
    if number is None or isinstance(number, bool) or not math.isfinite(number):
        return None
    return float(number)


def _end(figure: Mapping[str, Any], name: str, unbounded: float) -> float | None:
    if name not in figure:
        return None
    end = _finite(figure[name])
    return unbounded if end is None else end


def measured(figure: Any) -> Measured | None:
    """Reads {value, low, high} or a plain number; None where the value is null or not finite.

    An end that is null, as JSON has no infinity, bounds nothing.
    """
    if isinstance(figure, Measured):
        return figure
    if isinstance(figure, Mapping):
        value = _finite(figure.get("value"))
        low, high = (_end(figure, *end) for end in (("low", -math.inf), ("high", math.inf)))
        return None if value is None else Measured(value, low, high)
    value = _finite(figure)
    return None if value is None else Measured(value)


def overlap(a: Measured, b: Measured) -> bool:
    """Whether two intervals meet; true where one is missing, since nothing is then settled."""
    if not (a.known and b.known):
        return True
    return a.low <= b.high and b.low <= a.high


def inverse(figure: Measured | None) -> Measured | None:
    """1 / a ratio, its ends exchanged; None unless all that is known of it is positive."""
    if figure is None or figure.value <= 0:
        return None
    if not figure.known:  # neither is the inverse
        return Measured(1 / figure.value, figure.low, figure.high)
    if -math.inf < figure.low <= 0:
        return None
    high = 1 / figure.low if figure.low > 0 else math.inf
    return Measured(1 / figure.value, 1 / figure.high, high)


def within(figure: Measured) -> str:
    """The size that a ratio's interval allows a difference in either direction: `1.3 times`."""
    if not figure.known or figure.low <= 0 or figure.high == math.inf:
        return "any size"
    return f"{at_most(max(figure.high, 1 / figure.low), 3)} times"


def at_most(number: float, digits: int = 2) -> str:
    """A bound above 0 to so many significant digits, rounded up."""
    step = 10.0 ** (_exponent(number) + 1 - digits)
    return f"{math.ceil(number / step - 1e-9) * step:.{digits}g}"


def _exponent(number: float) -> int:
    return math.floor(math.log10(abs(number))) if number else 0


def _fixed(number: float, decimals: int) -> str:
    number = round(number, decimals)
    text = f"{number:.{max(decimals, 0)}f}"
    return text.lstrip("-") if not number else text  # no -0.0


def _significant(number: float, digits: int) -> str:
    return _fixed(number, digits - 1 - _exponent(number))


def written(figure: Any) -> tuple[str, str, str]:
    """The strings of value, low, high; one power of ten for all three, as in 1.2e-5.

    An end that isn't bounded is an infinity.
    """
    figure = measured(figure)
    if figure is None:
        return DASH, DASH, DASH
    numbers = [figure.value, figure.low, figure.high]
    power = _exponent(_largest(numbers))
    if -3 <= power < 5:
        return tuple(_digits(numbers))
    moved = [None if number is None else number / 10.0**power for number in numbers]
    return tuple(text if text in BARE else f"{text}e{power}" for text in _digits(moved))


def _largest(numbers: Iterable[float | None]) -> float:
    return max(abs(x) for x in numbers if x is not None and math.isfinite(x))


def _bare(number: float | None) -> str | None:
    """What is written for an end without digits; None for one that has some."""
    if number is None:
        return DASH
    return None if math.isfinite(number) else INFINITY if number > 0 else f"-{INFINITY}"


def _digits(numbers: list[float | None]) -> list[str]:
    value, low, high = numbers
    ends = [end for end in (low, high) if _bare(end) is None]
    if len(ends) < 2:
        digits = 2 if ends else 3
        return [_bare(number) or _significant(number, digits) for number in numbers]
    if high == low:
        return [_significant(number, 3) for number in numbers]
    if low > 0 and high / low > 5:  # a skewed interval: fixed digits would print its low end as 0
        return [_significant(number, 2) for number in numbers]
    decimals = min(1 - _exponent((high - low) / 2), 2 - _exponent(_largest(numbers)))
    return [_fixed(number, decimals) for number in numbers]


def prose(figure: Any, unit: str = "") -> str:
    """`0.81 (0.71 to 0.92)`, as a sentence takes it."""
    value, low, high = written(figure)
    if value == DASH or DASH in (low, high):
        return f"{value}{unit}"
    return f"{value}{unit} ({_range(low, high)})"


def _range(low: str, high: str) -> str:
    if high == INFINITY:
        return NOT_BOUNDED if low == f"-{INFINITY}" else f"at least {low}"
    return f"at most {high}" if low == f"-{INFINITY}" else f"{low} to {high}"


def times(figure: Measured) -> str:
    """A ratio in words: `3.2 times (1.9 to 5.4)`."""
    value, low, high = written(figure)
    return f"{value} times" if DASH in (low, high) else f"{value} times ({_range(low, high)})"

"""What a claim is, what measuring one finds, and what a rule makes of the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from opd.measure.intervals import Interval

HOLDS, CAVEAT, FAILS, OPEN = "holds", "holds with caveat", "fails", "not settled"
VERDICTS = (HOLDS, CAVEAT, FAILS, OPEN)


@dataclasses.dataclass(frozen=True)
class Number:
    """A measured number: its name in words, its value, and an interval that has it.

    The interval is the range over trees where every value is enumerated (nothing was drawn, so
    there is no error to cover), and a 95 % confidence interval where the name says so.
    """

    name: str
    value: float
    low: float
    high: float


def exactly(name: str, value: float) -> Number:
    """A number that was enumerated on one tree."""
    return Number(name, float(value), float(value), float(value))


def worst(name: str, values: Sequence[float] | np.ndarray) -> Number:
    """The largest of enumerated values, with their range: for errors that must vanish."""
    found = np.ravel(np.asarray(values, float))
    return Number(name, float(found.max()), float(found.min()), float(found.max()))


def spread(name: str, values: Sequence[float] | np.ndarray) -> Number:
    """The median of enumerated values, with their range."""
    found = np.ravel(np.asarray(values, float))
    return Number(name, float(np.median(found)), float(found.min()), float(found.max()))


def estimated(name: str, interval: Interval) -> Number:
    """An estimate with its 95 % interval; the name says so."""
    ends = (float(x) for x in dataclasses.astuple(interval))
    return Number(f"{name} (95 %)", *ends)


Numbers = Mapping[str, Number]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is spent on a claim."""

    trees: int  # trees, each with its own seed
    starts: int  # random starts of a search
    draws: int  # rollouts of a Monte Carlo estimate

    @property
    def seeds(self) -> range:
        return range(self.trees)


QUICK, FULL = Effort(trees=3, starts=20, draws=20_000), Effort(trees=12, starts=80, draws=200_000)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was measured. `decides` names the number that the verdict hangs on."""

    numbers: Numbers
    decides: str
    where: str  # trees, students and sizes, in words
    seeds: Sequence[int]
    example: str | None = None  # a counterexample that can be read, in Markdown
    figure: Figure | None = None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Verdicts on the claim as it is stated and on its repaired form."""

    verdict: str
    caveat: str | None = None  # the condition that the source doesn't state
    repaired: str | None = None

    def __post_init__(self):
        assert self.verdict in VERDICTS and self.repaired in (None, *VERDICTS), self
        assert (self.verdict == CAVEAT) == (self.caveat is not None), self


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim as the source states it, how it is measured, and the rule that judges it.

    `measure` and `judge` are None where nothing but a training can settle it; `needs` then says
    what training has to be run. A claim with both may have `needs` too, for what is left.
    """

    id: str
    title: str
    stated: str
    measure: Callable[[Effort], Finding] | None = None
    judge: Callable[[Numbers], Judgement] | None = None
    repaired: str | None = None
    wrong: str | None = None  # what would make the verdict wrong, and what was done about it
    advice: str | None = None  # what a practitioner should do, where it fails or needs a caveat
    needs: str | None = None


def trained(id: str, title: str, stated: str, needs: str) -> Claim:
    """A claim that only a training can settle."""
    return Claim(id, title, stated, needs=needs)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A claim, what was found and what the rule said; no finding where it must be trained."""

    claim: Claim
    finding: Finding | None
    judgement: Judgement
    seconds: float

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def number(self) -> Number | None:
        """What the verdict hangs on."""
        return None if self.finding is None else self.finding.numbers[self.finding.decides]

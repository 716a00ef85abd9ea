"""Which row to use for a goal: what the pairs of `results.json` say, and no more.

The unbiased rows of a goal are compared in pairs on the same rollouts, by their SNR per second. A
row is behind where a pair's interval lies beyond 1; the intervals of a goal's pairs hold together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opd.report.goals import Entry, Goal, Results, goal
from opd.report.measured import Measured, inverse, measured

PER_ROLLOUT, PER_SECOND = "snr_ratio", "snr_per_second_ratio"
AT_BATCH = "rollouts_ratio"  # a list, one for each batch size


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of a goal at a probe; rows are `untrusted` where it has too few groups."""

    ratios: Mapping[tuple[str, str, str], Measured | None]  # figure, row, other row
    untrusted: frozenset[str] = frozenset()
    count: int = 0
    batch: int | None = None  # rollouts of an update of the config's
    batches: tuple[int, ...] = ()
    curves: Mapping[tuple[str, str], tuple[Measured | None, ...]] = dataclasses.field(
        default_factory=dict
    )

    def ratio(self, figure: str, row: str, other: str) -> Measured | None:
        """How many times the other row's figure a row has; None where that is undefined."""
        ratio = self.ratios.get((figure, row, other))
        return ratio if ratio is not None else inverse(self.ratios.get((figure, other, row)))

    def rollouts(self, row: str, other: str) -> dict[int, Measured | None]:
        """By batch size, how many times the other row's rollouts a row is predicted to need."""
        if (other, row) in self.curves:
            return dict(zip(self.batches, self.curves[other, row], strict=True))
        curve = self.curves.get((row, other), ())
        return dict(zip(self.batches, map(inverse, curve), strict=bool(curve)))

    def settles(self, *rows: str) -> bool:
        """Whether what the pairs say about these rows may be believed."""
        return self.untrusted.isdisjoint(rows)


@dataclasses.dataclass(frozen=True)
class Behind:
    """A row that is told to be behind another, by how many times."""

    name: str
    ahead: str
    ratio: Measured


@dataclasses.dataclass(frozen=True)
class Choice:
    """The row of the highest SNR per second, its equals as far as can be told, and those behind.

    `equals`: the rows that none is told to be ahead of, with how many times their SNR per second
    the best one has. `undefined` have no ratio to any row.
    """

    best: str | None
    equals: tuple[tuple[str, Measured], ...] = ()
    behind: tuple[Behind, ...] = ()
    untrusted: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """What may be chosen: the best row, then its equals."""
        return () if self.best is None else (self.best, *(name for name, _ in self.equals))


def pairs(results: Results, where: str, key: Goal) -> Pairs:
    """The pairs of a goal at a probe; none where it has a single unbiased row."""
    for record in results.get("choices") or []:
        if record.get("probe", "start") == where and goal(record) == key:
            return _read(record)
    return Pairs({})


def _read(record: Mapping[str, Any]) -> Pairs:
    ratios = {
        (figure, *pair["rows"]): measured(pair.get(figure))
        for pair in record["pairs"]
        for figure in (PER_ROLLOUT, PER_SECOND)
    }
    curves = {
        tuple(pair["rows"]): tuple(map(measured, pair[AT_BATCH]))
        for pair in record["pairs"]
        if pair.get(AT_BATCH)
    }
    return Pairs(
        ratios,
        frozenset(record.get("untrusted") or ()),
        record.get("count") or len(record["pairs"]),
        record.get("batch"),
        tuple(record.get("batches") or ()),
        curves,
    )


def choose(rows: Sequence[Entry], compared: Pairs) -> Choice:
    """The choice among the unbiased rows of a goal, from their pairs."""
    names = [row["name"] for row in rows if not row.get("biased")]
    untrusted = tuple(name for name in names if not compared.settles(name))
    heard = [name for name in names if compared.settles(name)]
    scores = {name: _score(name, heard, compared) for name in heard}
    undefined = tuple(name for name in heard if scores[name] is None) if heard[1:] else ()
    ranked = sorted(
        (name for name in heard if scores[name] is not None), key=lambda name: -scores[name]
    )
    if not ranked:
        return Choice(None, untrusted=untrusted, undefined=undefined)
    best, equals, behind = ranked[0], [], []
    for name in ranked[1:]:
        ahead = next((other for other in ranked if _ahead(other, name, compared)), None)
        if ahead is None:
            equals.append((name, compared.ratio(PER_SECOND, best, name)))
        else:  # the best of those that are
            behind.append(Behind(name, ahead, compared.ratio(PER_SECOND, ahead, name)))
    return Choice(best, tuple(equals), tuple(behind), untrusted, undefined)


def _score(name: str, names: Iterable[str], compared: Pairs) -> float | None:
    """The mean log ratio to the other rows, by which they rank as their ratios do; None without."""
    ratios = [compared.ratio(PER_SECOND, name, other) for other in names if other != name]
    logs = [math.log(ratio.value) for ratio in ratios if ratio is not None]
    return math.fsum(logs) / (len(logs) + 1) if logs else None


def _ahead(row: str, other: str, compared: Pairs) -> bool:
    ratio = compared.ratio(PER_SECOND, row, other)
    return ratio is not None and ratio.low is not None and ratio.low > 1


def over_best(choice: Choice, compared: Pairs) -> dict[str, Measured]:
    """SNR per second of each compared row over the best one's, for a figure or a table."""
    if choice.best is None:
        return {}
    names = [*(name for name, _ in choice.equals), *(row.name for row in choice.behind)]
    ratios = {name: compared.ratio(PER_SECOND, name, choice.best) for name in names}
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    return {choice.best: Measured(1.0)} | known if known else {}

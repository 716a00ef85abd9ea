"""What rows aim at: entries of results.json under their goals, and the goals in words.

A goal is what a row's parts say (signal, divergence, argument, coefficient, gamma, to whom) and on
whose states. Rows are compared within one goal only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from opd.report.measured import measured

Entry = Mapping[str, Any]
Results = Mapping[str, Any]

DIVERGENCES = {
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "jeffreys": "Jeffreys divergence",
    "jsd": "JSD",
    "skew": "skew KL",
    "skew_reverse": "skew reverse KL",
    "total_variation": "total variation",
}
SIGNALS = ("reward", "divergence", "entropy")  # in the order of a sum's words


@dataclasses.dataclass(frozen=True)
class Part:
    """One summand of a goal, as results.json has it.

    The fields are those of `opd.method.facts.Part`, on purpose twice: a report is made from the
    file alone, whoever wrote it.
    """

    signal: str
    divergence: str | None = None
    argument: float | None = None
    coef: float = 1.0
    gamma: float = 0.0
    to: str | None = None

    @property
    def words(self) -> str:
        """`sequence reverse KL`, `skew KL, argument 0.1`, `reward`, without the coefficient."""
        if self.divergence is None:
            usual = 1.0 if self.signal == "reward" else 0.0
            name = self.signal.replace("_", " ")
            return name if self.gamma == usual else f"{name}, γ = {_number(self.gamma)}"
        words = DIVERGENCES.get(self.divergence, self.divergence.replace("_", " "))
        if self.gamma == 1:
            words = f"sequence {words}"
        elif self.gamma:
            words = f"discounted {words}, γ = {_number(self.gamma)}"
        if self.argument is not None:
            words += f", argument {_number(self.argument)}"
        return words


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a row is unbiased for, or aims at, and on whose states.

    They are the `current` student's or a `behavior`'s, which is then named.
    """

    parts: tuple[Part, ...]
    states: str = "current"
    behavior: str | None = None

    @property
    def label(self) -> str:
        """As a heading: `Myopic reverse KL`, `Reward + 0.1 × reverse KL to the teacher`.

        Different goals have different labels.
        """
        parts = sorted(self.parts, key=lambda part: SIGNALS.index(part.signal))
        if len(parts) == 1 and parts[0].coef == 1:
            (part,) = parts
            words = part.words
            if part.divergence == "reverse_kl" and not part.gamma:
                words = f"myopic {words}"  # of the divergences, it alone may feel the future too
            if part.to not in (None, "teacher"):
                words += f" to the {part.to}"
        else:
            words = ""
            for part in parts:
                sign = (" + " if part.coef >= 0 else " − ") if words or part.coef < 0 else ""
                size = "" if abs(part.coef) == 1 else f"{_number(abs(part.coef))} × "
                words += f"{sign}{size}{part.words}" + (f" to the {part.to}" if part.to else "")
        words = words.strip()
        label = words[:1].upper() + words[1:]
        return label if self.behavior is None else f"{label} (states: {self.behavior})"

    @property
    def meaning(self) -> str:
        """What one wants who wants this, in a few words."""
        if len(self.parts) != 1:
            return "raise all of it at once, in these proportions"
        (part,) = self.parts
        if part.signal == "reward":
            return "raise the expected reward"
        if part.divergence is None:
            return ""
        whom = part.to or "teacher"
        if part.gamma == 0:
            return f"match the {whom} at each state for itself (γ = 0)"
        if part.gamma == 1:
            return f"match the {whom}'s distribution over whole completions (γ = 1)"
        return f"match the {whom} with some credit for the states that follow"

    @property
    def order(self) -> tuple:
        """Reading order: divergences by how much of the future they feel, rewards, sums."""
        first = self.parts[0] if self.parts else Part("none")
        reward = first.signal == "reward"
        other = first.divergence != "reverse_kl"
        rank = (len(self.parts), reward, first.gamma, other, self.states != "current")
        return (*rank, self.label)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def goal(entry: Entry) -> Goal:
    """The goal of an entry, or of a choice, of results.json."""
    aim = entry.get("goal") or {}
    parts = tuple(Part(**part) for part in aim.get("parts") or ())
    return Goal(parts, aim.get("states") or "current", aim.get("behavior"))


def probe(results: Results, name: str) -> list[Entry]:
    """The estimators of one probe, `start` or `late`."""
    return [e for e in results.get("estimators") or [] if e.get("probe", "start") == name]


def by_goal(entries: Iterable[Entry]) -> dict[Goal, list[Entry]]:
    """Rows under their goals, goals in reading order, the highest SNR per second first."""
    goals: dict[Goal, list[Entry]] = {}
    for entry in entries:
        goals.setdefault(goal(entry), []).append(entry)
    ordered = sorted(goals, key=lambda key: key.order)
    return {key: sorted(goals[key], key=_descending) for key in ordered}


def _descending(entry: Entry) -> tuple[float, str]:
    figure = measured(entry.get("snr_per_second"))
    return (math.inf if figure is None else -figure.value, entry["name"])

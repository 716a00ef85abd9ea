"""Looks for counterexamples from random starts, and makes those that it finds readable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Value = Callable[[Array], float]  # of a point [n]: above 0 is a counterexample


@dataclasses.dataclass(frozen=True)
class Found:
    """The best point that a search saw, and how often its starts ended above 0."""

    point: Array
    value: float
    starts: int
    successes: int
    evaluations: int

    @property
    def share(self) -> float:
        return self.successes / self.starts


def search(
    value: Value, size: int, starts: int, steps: int, seed: int, scale: float = 1.0
) -> Found:
    """Climbs from normal starts by normal steps that adapt, (1 + 1) with a fifth of successes.

    Rechenberg 1973. A start is given up once it is above 0, since that is what is looked for.

    Args:
        value: what to raise; NaN is as low as can be.
        size: n.
        starts: how many.
        steps: the most evaluations of a start.
        seed: of starts and steps.
        scale: standard deviation of a start's coordinates.
    """
    rng = np.random.default_rng(seed)
    best, best_value, successes, evaluations = np.zeros(size), -np.inf, 0, 0
    for _ in range(starts):
        point, width = scale * rng.normal(size=size), 0.5 * scale
        now = _at(value, point)
        for _ in range(steps - 1):
            evaluations += 1
            if now > 0:
                break
            tried = point + width * rng.normal(size=size)
            there = _at(value, tried)
            width *= 1.5 if there > now else 0.9
            if there > now:
                point, now = tried, there
        successes += now > 0
        if now > best_value:
            best, best_value = point, now
    return Found(best, best_value, starts, successes, evaluations + starts)


def _at(value: Value, point: Array) -> float:
    found = float(value(point))
    return found if np.isfinite(found) else -np.inf


def simplify(value: Value, point: Array, floor: float = 0.0) -> Array:
    """The point with coordinates set to 0, a whole number or one decimal, while value > floor.

    Greedy, over the coordinates until none changes; the roundest that will do comes first.
    """
    point, changed = np.array(point, float), True
    while changed:
        changed = False
        for i, x in enumerate(point):
            for simpler in (0.0, float(round(x)), round(x, 1)):
                if _roundness(simpler) >= _roundness(x):
                    break
                tried = point.copy()
                tried[i] = simpler
                if _at(value, tried) > floor:
                    point, changed = tried, True
                    break
    return point


def _roundness(x: float) -> int:
    """0 for 0, 1 for a whole number, 2 for one decimal, 3 for the rest."""
    return 0 if x == 0 else 1 if x == round(x) else 2 if x == round(x, 1) else 3

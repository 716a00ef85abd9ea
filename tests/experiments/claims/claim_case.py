"""Made-up numbers, to try the rules of verdicts on."""

import dataclasses

from experiments.claims.claim import Number


def n(value, low=None, high=None):
    """A number with an interval; alone, with none around it."""
    low, high = (value, value) if low is None else (low, high)
    return Number("made up", value, low, high)


@dataclasses.dataclass(frozen=True)
class Case:
    """Numbers, by the names that the claim gives them, and what the rule must say."""

    numbers: dict
    verdict: str
    repaired: str | None = None

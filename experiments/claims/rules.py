"""What the rules of verdicts share. A rule sees numbers only, never the trees they came from."""

from __future__ import annotations

from experiments.claims.claim import FAILS, HOLDS, OPEN, Number

EXACT = 1e-9  # relative error of an identity in float64
CLEAR = 1e-3  # relative error from which on two gradients are different ones


def identity(error: Number) -> str:
    """Holds where a relative error vanishes on every tree, fails where it is clear on one."""
    return settle(error.high <= EXACT, error.high > CLEAR)


def different(error: Number) -> bool:
    """Whether two gradients differ on every tree."""
    return error.low > CLEAR


def settle(holds: bool, fails: bool) -> str:
    """One verdict from two findings, which can't both be true; neither is `not settled`."""
    assert not (holds and fails)
    return HOLDS if holds else FAILS if fails else OPEN


def above(number: Number, bound: float) -> bool:
    """Whether a number's whole interval is above a bound."""
    return number.low > bound


def below(number: Number, bound: float) -> bool:
    """Whether a number's whole interval is below a bound."""
    return number.high < bound


def near(number: Number, wanted: float, slack: float) -> bool:
    """Whether a number's whole interval is within `slack` of what is wanted."""
    return above(number, wanted - slack) and below(number, wanted + slack)

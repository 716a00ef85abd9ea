"""What "all else equal" means: which rows differ in one axis alone.

The axes of a row are those of its entry in results.json: every axis, the rollouts' under `origin`
and each term's under `terms`. Two rows differ in one axis alone where their origins are equal and
each pair of their terms either is equal or differs in that axis, by the same two values. An axis
brings others along: those of BRINGS that mean nothing at one of the two values, and are null there.
So `opd_topk@k=8` differs from `opd` in its expectation alone, which brings k, tail and topk_from;
from `opd_resampled@k=4` it differs in k as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Axes = Mapping[str, Any]

BRINGS: dict[str, tuple[str, ...]] = {
    "expectation": ("k", "tail", "topk_from"),
    "gamma": (),
    "signal": ("divergence", "argument", "own", "penalty"),
}


def step(a: Axes | None, b: Axes | None, axis: str) -> tuple[Any, Any] | None:
    """The two values of the one axis in which a and b differ; None where they differ otherwise.

    `axis`: one of BRINGS, of the terms. Rows that are equal do not differ.
    """
    if not a or not b or a["origin"] != b["origin"] or len(a["terms"]) != len(b["terms"]):
        return None
    steps = set()
    for one, other in zip(a["terms"], b["terms"], strict=True):
        apart = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
        if not apart:
            continue
        brought = {key for key in BRINGS[axis] if None in (one.get(key), other.get(key))}
        if axis not in apart or apart - brought - {axis}:
            return None
        steps.add((one[axis], other[axis]))
    return steps.pop() if len(steps) == 1 else None

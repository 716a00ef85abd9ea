"""B17: the two-term law, applied to a rollout's summed gradient."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
    worst,
)
from experiments.claims.lab import lab, vectors
from experiments.claims.search import search, simplify
from experiments.claims.variance.shared import (
    LONG,
    MAIN,
    SMALLEST,
    TABULAR,
    Parts,
    at,
    free,
    parts,
    read,
)
from opd.measure import exact
from opd.measure.exact import Problem

STEPS = 60
WANTED = 0.3  # of tr Var(S), that the two terms leave out in the example


def missing(point: np.ndarray) -> float:
    """The cross term's share of tr Var(S), by the oracle, less WANTED."""
    here = at(SMALLEST, point)
    found = exact.decompose(here, exact.sampled(here).h)
    return found.cross / found.total - WANTED if found.total > 1e-6 else -np.inf


def split(here: Problem) -> Parts:
    """The parts of the library's sampled row."""
    h = vectors(here, "opd_sampled", "opd")
    return parts(here, h["opd_sampled"], h["opd"])


def off(found: Parts) -> float:
    """|across + within - total| / total."""
    return abs(found.across + found.within - found.total) / found.total


def measure(effort: Effort) -> Finding:
    """tr Var(S) against two parts and three, with and without shared parameters."""
    found = search(missing, free(SMALLEST), effort.starts, STEPS, seed=0)
    here = at(SMALLEST, simplify(missing, found.point) if found.successes else found.point)
    small = split(here)
    shared = [split(lab(shape, i).problem) for shape in (MAIN, LONG) for i in effort.seeds]
    tabular = [split(lab(TABULAR, i).problem) for i in effort.seeds]
    numbers = {
        "error": exactly("relative error of Var(G) + within, the example", off(small)),
        "random": spread("the same, random trees, shared parameters", [off(x) for x in shared]),
        "tabular": worst("the same, tabular students", [off(x) for x in tabular]),
        "three": worst("relative error with the cross term", [x.gap for x in (*shared, small)]),
    }
    h = vectors(here, "opd_sampled", "opd")
    text = (
        f"{SMALLEST}: total {small.total:.3f}, across {small.across:.3f}, within "
        f"{small.within:.3f}, cross {small.cross:.3f}.\n\n"
        + read(here, S=h["opd_sampled"].sum(1), G=h["opd"].sum(1))
    )
    where = "; ".join(map(str, (SMALLEST, MAIN, LONG, TABULAR)))
    return Finding(numbers, "error", where, effort.seeds, text)


def judge(numbers: Numbers) -> Judgement:
    """An identity that one tree refutes; on tabular students alone it would hold."""
    most = max(numbers["error"].high, numbers["random"].high)
    verdict = rules.settle(most <= rules.EXACT, most > rules.CLEAR)
    return Judgement(verdict, repaired=rules.identity(numbers["three"]))


CLAIM = Claim(
    "B17",
    "two terms for a whole rollout",
    "The variance of a rollout's summed sampled gradient is that of the enumerated sum plus the "
    "expected variance within states.",
    measure,
    judge,
    repaired="It is that plus a cross term, twice the sum over t < t' of E <h_t - g_t, g_t'>, of "
    "either sign.",
    wrong="An error in `within` would leave a gap as well: on tabular students, where the cross "
    "term vanishes, the same code has none, and with the cross term the gap closes.",
    advice="Read the cross column of the probe; two columns don't add up to the variance.",
)

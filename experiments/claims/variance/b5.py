"""B5: fresh actions, independent of those that choose the next state, have no cross term."""

from __future__ import annotations

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.lab import lab, vectors
from experiments.claims.variance.shared import LONG, MAIN, parts, redrawn
from experiments.claims.variance.shared import spread as variance

SHAPES = (MAIN, LONG)
ROW = "opd_resampled@k=1"


def measure(effort: Effort) -> Finding:
    """tr Var(S') over every rollout and every tuple of fresh tokens, against the two parts."""
    errors, own = [], []
    for shape in SHAPES:
        for seed in effort.seeds:
            here = lab(shape, seed).problem
            h = vectors(here, "opd_sampled", "opd")
            found = parts(here, h["opd_sampled"], h["opd"])
            total, two = variance(*redrawn(here, ROW)), found.across + found.within
            errors.append(abs(total - two) / two)
            own.append(abs(found.total - two) / two)
    numbers = {
        "error": worst("relative error of Var(G) + within, fresh actions", errors),
        "own": spread("the same, the rollout's own actions", own),
    }
    return Finding(numbers, "error", "; ".join(map(str, SHAPES)), effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity, and one that isn't there without fresh actions: else nothing was restored."""
    verdict = rules.identity(numbers["error"])
    restored = rules.above(numbers["own"], rules.CLEAR)
    return Judgement(verdict if restored else rules.OPEN)


CLAIM = Claim(
    "B5",
    "fresh actions restore it",
    "If the graded action is drawn afresh, independent of the one that chooses the next state, a "
    "rollout's gradient has exactly the variance Var(G) + within.",
    measure,
    judge,
    wrong="Adding the draws' variance to that of their mean would assume what is claimed. All "
    "tuples of fresh tokens over all positions are enumerated together, through the library's "
    "inverse CDF, and the variance of the sums is taken.",
)

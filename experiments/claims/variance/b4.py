"""B4: tabular students hide the cross term: its trace is zero, the matrix is not."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules, trees
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
from experiments.claims.lab import Shape, lab, vectors
from experiments.claims.search import search, simplify
from experiments.claims.variance.shared import TABULAR, TABULAR_LONG, at, free, parts
from opd.measure import exact
from opd.measure.exact import Problem

SHAPES = (TABULAR, TABULAR_LONG)
SMALL = Shape(vocab=2, depth=2, eos=None, student="tabular")
STEPS = 60


def covariance(here: Problem, x: np.ndarray) -> np.ndarray:
    """Cov of x [N, M] over rollouts."""
    centred = x - here.joint @ x
    return np.einsum("n,ni,nj->ij", here.joint, centred, centred)


def added(here: Problem, sampled: np.ndarray, enumerated: np.ndarray) -> np.ndarray:
    """Eigenvalues, ascending, of Cov(S) - Cov(G), over the largest of Cov(S)."""
    both = [covariance(here, x.sum(1)) for x in (sampled, enumerated)]
    return np.linalg.eigvalsh(both[0] - both[1]) / np.linalg.eigvalsh(both[0])[-1]


def along(here: Problem, sampled: np.ndarray, enumerated: np.ndarray) -> tuple[float, float]:
    """The variances of S and G along the direction to which the least eigenvalue belongs."""
    both = [covariance(here, x.sum(1)) for x in (sampled, enumerated)]
    direction = np.linalg.eigh(both[0] - both[1])[1][:, 0]
    return tuple(float(direction @ x @ direction) for x in both)


def loss(point: np.ndarray) -> float:
    """How far below 0 the least eigenvalue is, by the oracle, less 5 %."""
    here = at(SMALL, point)
    sampled, enumerated = exact.sampled(here).h, exact.enumerated(here).h
    return float(-added(here, sampled, enumerated)[0] - 0.05)


def example() -> Problem:
    """A small tree found from random starts, made round."""
    found = search(loss, free(SMALL), 10, STEPS, seed=0)
    return at(SMALL, simplify(loss, found.point) if found.successes else found.point)


def measure(effort: Effort) -> Finding:
    """cross from its definition, and the least eigenvalue, with the library's rows."""
    cross, least = [], []
    for shape in SHAPES:
        for seed in effort.seeds:
            here = lab(shape, seed).problem
            h = vectors(here, "opd_sampled", "opd")
            found = parts(here, h["opd_sampled"], h["opd"])
            cross.append(abs(found.cross) / found.total)
            least.append(added(here, h["opd_sampled"], h["opd"])[0])
    here = example()
    h = vectors(here, "opd_sampled", "opd")
    small = added(here, h["opd_sampled"], h["opd"])[0]
    numbers = {
        "trace": worst("|cross| / tr Var(S)", cross),
        "least": exactly("least eigenvalue of Cov(S) - Cov(G) of the example", small),
        "random": spread("the same on random trees", least),
    }
    where = "; ".join(map(str, (*SHAPES, SMALL))) + "; over the largest eigenvalue of Cov(S)"
    noisier, quieter = along(here, *h.values())
    text = (
        f"{SMALL}: along one direction the variance is {noisier:.3f} sampled and {quieter:.3f} "
        f"enumerated.\n\n{trees.table(here)}"
    )
    return Finding(numbers, "least", where, effort.seeds, text)


def judge(numbers: Numbers) -> Judgement:
    """Both: no trace on any tree, and one tree with a direction that gets noisier."""
    trace = numbers["trace"].high
    hidden = trace <= rules.EXACT and rules.below(numbers["least"], -rules.CLEAR)
    return Judgement(rules.settle(hidden, trace > rules.CLEAR))


CLAIM = Claim(
    "B4",
    "tabular students hide it",
    "With a tabular student the cross term's trace is zero, so enumerating never raises the total "
    "variance; yet it can raise the variance along a direction of the parameters.",
    measure,
    judge,
    wrong="An eigenvalue that is a rounding error: it is at least 5 % of the largest on the "
    "example. The trace is summed over t < t' from its definition, and is clear for students that "
    "share parameters (B17).",
    advice="Don't test a variance claim on a tabular policy only: its states are orthogonal.",
)

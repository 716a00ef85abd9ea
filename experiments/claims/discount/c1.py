"""C1: the product rule, full gradient = myopic + visitation."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.discount.shared import FULL, MYOPIC, VISITATION
from experiments.claims.lab import Shape, lab, mean, relative, vectors
from opd.measure import exact

SHAPES = (Shape(), Shape(vocab=2, depth=4, eos=None, prompts=2, width=2))


def measure(effort: Effort) -> Finding:
    """The gradient of V by complex steps, against two rows added up and one that is both."""
    summed, whole, shares = [], [], []
    for shape in SHAPES:
        for seed in effort.seeds:
            here = lab(shape, seed, inside=bool(seed % 2)).problem
            wanted = exact.target_gradient(here, "sequence")
            h = vectors(here, MYOPIC, VISITATION, FULL)
            myopic, visitation, full = (mean(here, h[row]) for row in h)
            summed.append(relative(myopic + visitation, wanted))
            whole.append(relative(full, wanted))
            shares.append(np.linalg.norm(visitation) / np.linalg.norm(wanted))
    numbers = {
        "error": worst("relative error of myopic + visitation against grad V", summed),
        "row": worst("relative error of E opd@gamma=1 against grad V", whole),
        "share": spread("|visitation| / |grad V|", shares),
    }
    where = "; ".join(map(str, SHAPES)) + "; teachers inside and outside the student's family"
    return Finding(numbers, "error", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity, of which both parts must be there to be told apart."""
    seen = rules.above(numbers["share"], rules.CLEAR)
    right = seen and numbers["row"].high <= rules.EXACT and numbers["error"].high <= rules.EXACT
    wrong = max(numbers["row"].high, numbers["error"].high) > rules.CLEAR
    return Judgement(rules.settle(right, wrong))


CLAIM = Claim(
    "C1",
    "full = myopic + visitation",
    "The gradient of a rollout's expected KL is that of the KLs at the states it visits, plus the "
    "score of each token times the KL of what follows.",
    measure,
    judge,
    wrong="A visitation term too small to be missed: its share of the gradient is printed, and "
    "the rule asks for it. The oracle differentiates V's value and knows of no product rule.",
)

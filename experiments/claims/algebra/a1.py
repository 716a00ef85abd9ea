"""A1: the reverse-KL gradient is a policy gradient with weight log p - log pi."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, worst
from experiments.claims.lab import Shape, lab, mean, relative, vectors
from opd.measure import exact

SHAPES = (Shape(), Shape(vocab=4, student="tabular"))


def measure(effort: Effort) -> Finding:
    """-grad sum_s d(s) KL_s, d held fixed, by complex steps; E of the library's sampled row."""
    errors = []
    for shape in SHAPES:
        for seed in effort.seeds:
            problem = lab(shape, seed).problem
            slope = -exact.divergence_gradient(exact.REVERSE, problem.logits, problem.logp_teacher)
            wanted = np.einsum("s,sv,svm->m", problem.reach, slope, problem.jacobian)
            h = vectors(problem, "opd_sampled")["opd_sampled"]
            errors.append(relative(mean(problem, h), wanted))
    numbers = {"error": worst("relative error of E w grad log pi against -grad KL", errors)}
    return Finding(numbers, "error", "; ".join(map(str, SHAPES)), effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity: holds at 1e-9."""
    return Judgement(rules.identity(numbers["error"]))


CLAIM = Claim(
    "A1",
    "reverse KL is a policy gradient",
    "The gradient of the per-state reverse KL is a policy gradient whose weight is "
    "log p - log pi of the token.",
    measure,
    judge,
    wrong="Two sides that share an algebra slip would agree: the oracle's side is a complex-step "
    "derivative of the KL's value and knows neither the score nor the weight.",
)

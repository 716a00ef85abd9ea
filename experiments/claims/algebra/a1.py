"""A1: the reverse-KL gradient is a policy gradient with weight log p - log pi."""

from __future__ import annotations

from experiments.claims import rules
from experiments.claims.algebra.shared import SHAPES, problems, through, where
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, worst
from experiments.claims.lab import Shape, mean, relative, vectors
from opd.measure import exact

ALL = (*SHAPES, Shape(vocab=2, depth=4, eos=1, student="tabular"))


def measure(effort: Effort) -> Finding:
    """-grad sum_s d(s) KL_s, d held fixed, by complex steps; E of the library's two rows."""
    errors: dict[str, list[float]] = {"opd_sampled": [], "opd": []}
    for problem in problems(effort, ALL):
        slope = -exact.divergence_gradient(exact.REVERSE, problem.logits, problem.logp_teacher)
        wanted = through(problem, problem.reach[:, None] * slope)
        for row, h in vectors(problem, *errors).items():
            errors[row].append(relative(mean(problem, h), wanted))
    numbers = {
        "error": worst("relative error of E w grad log pi against -grad KL", errors["opd_sampled"]),
        "sum": worst("the same of sum_v pi w grad log pi", errors["opd"]),
    }
    return Finding(numbers, "error", where(*ALL), effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity of both rows: holds at 1e-9."""
    error = max(numbers.values(), key=lambda number: number.high)
    return Judgement(rules.identity(error))


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

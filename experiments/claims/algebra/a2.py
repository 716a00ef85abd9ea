"""A2: the self-entropy term vanishes: over the whole vocabulary, and on a top-k set it does not."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.claims import rules
from experiments.claims.algebra.shared import WHERE, problems, slope
from experiments.claims.claim import (
    CAVEAT,
    HOLDS,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    spread,
    worst,
)
from experiments.claims.lab import cotangents, gradients, relative
from opd.measure import exact
from opd.measure.exact import Problem

Array = np.ndarray


def with_and_without(problem: Problem) -> dict[int, Array]:
    """The library's cotangents [2, N, T, V] on top-k sets, with and without the term, by k.

    `truncate` is autodiff of the truncated sum, which has the term; `drop` leaves it out.
    """
    size = problem.logits.shape[1]
    sizes = (1, size - 1, size)
    rows = [f"opd_topk@k={k},tail={tail}" for k in sizes for tail in ("truncate", "drop")]
    found = cotangents(problem, rows)
    return {k: found[2 * i : 2 * i + 2] for i, k in enumerate(sizes)}


def minus_mass_slope(problem: Problem, k: int) -> Array:
    """-d pi(A) / d logits [N, T, V] of the top-k set A, by complex steps."""
    kept = exact.topk_set(problem.logp, problem.logp_teacher, k)

    def mass(logits: Array) -> Array:
        return np.where(kept, np.exp(exact.log_softmax(logits)), 0.0).sum((-1, -2))

    return exact.at_states(problem.tree, -slope(mass, problem.logits))


def strength(problem: Problem, cotangent: Array) -> float:
    """|E gradient| of a row's cotangents [N, T, V]."""
    return float(np.linalg.norm(problem.joint @ gradients(problem, cotangent).sum(1)))


def measure(effort: Effort) -> Finding:
    """Both forms of the library on all of V tokens and on k of them; their difference by name."""
    whole, subset, named, agreed = [], [], [], []
    for problem in problems(effort):
        twin = dataclasses.replace(problem, logp_teacher=problem.logp)
        found, same = with_and_without(problem), with_and_without(twin)
        *subsets, size = found
        whole.append(relative(*found[size]))
        for k in subsets:
            kept, dropped = found[k]
            subset.append(relative(kept, dropped))
            named.append(relative(kept - dropped, minus_mass_slope(problem, k)))
            agreed.append(strength(twin, same[k][0]) / strength(problem, kept))
    numbers = {
        "whole": worst("relative size of the term over all V tokens", whole),
        "subset": spread("relative size of the term on a top-k set", subset),
        "named": worst("relative error of the term on a set A against -grad pi(A)", named),
        "agreed": spread("|gradient of the truncated sum| at pi = p, over that at our p", agreed),
    }
    return Finding(numbers, "subset", f"k 1 and V - 1; {WHERE}", effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Holds where the term vanishes over all tokens; a caveat where it doesn't on a subset."""
    found, repaired = rules.identity(numbers["whole"]), rules.identity(numbers["named"])
    if found == HOLDS and rules.different(numbers["subset"]):
        caveat = "the sum over tokens runs over the whole vocabulary, not over a top-k set"
        return Judgement(CAVEAT, caveat, repaired)
    return Judgement(found, repaired=repaired)


CLAIM = Claim(
    "A2",
    "the self-entropy term vanishes",
    "Differentiating the log pi inside the reverse KL adds nothing to its gradient, since the "
    "score has mean zero.",
    measure,
    judge,
    repaired="On a set A of tokens the term is -grad pi(A), a push of mass off the set.",
    wrong="Two rows of one library could share the mistake: the term on a set is also had by a "
    "complex step of pi(A), and the row with the term is the gradient of the truncated sum "
    "(A4). Sets of one token and of all but one were tried.",
    advice="Don't differentiate a KL that is summed over top-k tokens: it moves a student that "
    "equals its teacher. Detach the coefficient, renormalise, give the rest one bucket, or draw a "
    "token from it (tail=drop, renormalise, bucket, sample; only the last is unbiased).",
)

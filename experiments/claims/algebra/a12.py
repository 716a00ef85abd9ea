"""A12: "RL nudges only the sampled token": true of the weight a(v), false of the logits."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.algebra.shared import WHERE, problems
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.lab import cotangents
from opd.measure.exact import Problem

Array = np.ndarray
SAMPLED = ("reinforce", "opd_sampled")
LEAST = 1e-9  # of a cotangent: a token without a reward is not pushed


def elsewhere(cotangent: Array, own: Array) -> Array:
    """Share of sum_v |dJ/dlogit_v| on tokens that were not sampled: [n, V] twice -> [n]."""
    size = np.abs(cotangent)
    return np.where(own, 0.0, size).sum(-1) / size.sum(-1)


def not_onehot(cotangent: Array, own: Array, probs: Array) -> Array:
    """Size of what no push a(v) of the sampled token alone can give, over the cotangent's: [n].

    a - (sum a) pi with a one-hot is a multiple of pi off the token; the rest of it is left over.
    """
    rest, pi = (np.where(own, 0.0, x) for x in (cotangent, probs))
    factor = (rest * pi).sum(-1) / (pi * pi).sum(-1)
    left = np.linalg.norm(rest - factor[:, None] * pi, axis=-1)
    return left / np.linalg.norm(cotangent, axis=-1)


def pushed(problem: Problem, found: Array) -> tuple[Array, Array, Array]:
    """Cotangents [n, V] of graded positions that are pushed, their own tokens and pi."""
    tree = problem.tree
    at = tree.mask & (np.abs(found).sum(-1) > LEAST)
    own = tree.tokens[at][:, None] == np.arange(found.shape[-1])
    return found[at], own, problem.probs[tree.visited[at]]


def measure(effort: Effort) -> Finding:
    """Where the library's cotangents of sampled rows lie, and of the enumerated one."""
    share, onehot, enumerated, touched = [], [], [], []
    for problem in problems(effort):
        *sampled, whole = cotangents(problem, [*SAMPLED, "opd"])
        for found in sampled:
            cotangent, own, probs = pushed(problem, found)
            share += list(elsewhere(cotangent, own))
            touched += list((cotangent != 0).mean(-1))
            onehot += list(not_onehot(cotangent, own, probs))
        enumerated.append(np.median(not_onehot(*pushed(problem, whole))))
    numbers = {
        "elsewhere": spread("share of a sampled token's |dJ/dlogits| on other tokens", share),
        "touched": spread("share of the vocabulary whose logits are moved", touched),
        "onehot": worst("relative part of it that no one-hot a(v) gives", onehot),
        "enumerated": spread("the same of the enumerated row, median over states", enumerated),
    }
    return Finding(numbers, "elsewhere", WHERE, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Holds where other logits stay; repaired where a(v) is one-hot, and enumerated isn't."""
    other, onehot = numbers["elsewhere"], numbers["onehot"]
    return Judgement(
        rules.settle(other.high <= rules.EXACT, rules.above(other, rules.CLEAR)),
        repaired=rules.settle(
            onehot.high <= rules.EXACT and rules.different(numbers["enumerated"]),
            onehot.high > rules.CLEAR,
        ),
    )


CLAIM = Claim(
    "A12",
    "RL nudges only the sampled token",
    "The gradient of a sampled-token loss moves the sampled token and no other, while "
    "distillation's moves the whole vocabulary.",
    measure,
    judge,
    repaired="It is true of the weight a(v), which is one-hot for a sampled token and not for the "
    "enumerated row; the logits all move, by a - (sum a) pi.",
    wrong="With two tokens every push is one-hot: all trees have three or four. The weight is not "
    "read from the code but sought in the cotangent, up to the multiple of pi that it is free in.",
    advice="Don't take sparsity for granted: each sampled token moves the whole row of logits, "
    "half of the push lies on other tokens, and shared parameters carry it to other states.",
)

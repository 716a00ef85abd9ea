"""B1: the law of total variance for one (state, action) draw; equality only when degenerate."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.lab import lab, vectors
from experiments.claims.variance.shared import LONG, MAIN, TABULAR, Parts
from opd.measure import exact
from opd.measure.exact import Problem

SHAPES = (MAIN, TABULAR)


def one_draw(here: Problem, own: bool = False) -> Parts:
    """tr Var of h at one random position of a rollout, and its two parts.

    The state's law is d(s) over the mean length. `own`: the position is uniform among the
    rollout's own, which is another law once the action decides whether the rollout ends.
    """
    h = vectors(here, "opd_sampled", "opd")
    mask, length = here.tree.mask, here.tree.length
    each = length[:, None] if own else here.joint @ length
    weight = np.where(mask, here.joint[:, None] / each, 0.0)
    sampled, enumerated = h["opd_sampled"], h["opd"]
    average = np.einsum("nt,ntm->m", weight, sampled)
    square = ((sampled - average) ** 2, (enumerated - average) ** 2, (sampled - enumerated) ** 2)
    total, across, within = (float((weight * x.sum(-1)).sum()) for x in square)
    return Parts(total, across, within, 0.0)


def other_root(logits: np.ndarray) -> np.ndarray:
    """Teacher's logits of token 0, another's than pi's, at which two tokens are pushed alike.

    (1 - pi) w(0) = -pi w(1), by bisection between p = 1 - pi and the end away from pi.
    """
    prob = 1 / (1 + np.exp(-logits))
    inner, outer = -logits, -np.sign(logits) * 50.0
    for _ in range(100):
        x = (inner + outer) / 2
        zero, one = (-np.logaddexp(0, -y) for y in (x, -x))  # log p of both tokens
        push = (1 - prob) * (zero - np.log(prob)) + prob * (one - np.log1p(-prob))
        inner, outer = np.where(push > 0, x, inner), np.where(push > 0, outer, x)
    return inner


def alike(seed: int, agree: bool) -> Problem:
    """A student whose h(v) is the same for all v: its teacher is itself, or opposes it so."""
    now = lab(LONG, seed, sharp=0.5).problem
    own = now.logits[:, 0] - now.logits[:, 1]
    other = own if agree else other_root(own)
    teacher = exact.log_softmax(np.stack([other, np.zeros(len(other))], -1))
    return exact.problem(now.tree, now.logits, teacher, now.jacobian)


def measure(effort: Effort) -> Finding:
    """total, across and within from the library's two rows, each from its definition."""
    problems = [lab(shape, seed).problem for shape in SHAPES for seed in effort.seeds]
    found = [one_draw(here) for here in problems]
    same = [one_draw(alike(seed, True)) for seed in effort.seeds]
    opposed = [one_draw(alike(seed, False)) for seed in effort.seeds]
    numbers = {
        "error": worst("relative error of across + within against total", [x.gap for x in found]),
        "extra": spread("within / total, random trees", [x.within / x.total for x in found]),
        "agree": worst("within where pi = p", [x.within for x in same]),
        "alike": worst(
            "within / total where p != pi and h(v) is constant in v",
            [x.within / x.total for x in opposed],
        ),
        "own": spread(
            "relative error where a rollout's own positions are equally likely and EOS ends it",
            [one_draw(here, own=True).gap for here in problems],
        ),
    }
    where = "; ".join(map(str, (*SHAPES, LONG)))
    return Finding(numbers, "error", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity, whose second part is clear on random trees and 0 where h(v) is constant."""
    zero = max(numbers["agree"].high, numbers["alike"].high)
    exactly_then = rules.above(numbers["extra"], rules.CLEAR) and zero <= rules.EXACT
    error = numbers["error"].high
    return Judgement(
        rules.settle(
            error <= rules.EXACT and exactly_then,
            error > rules.CLEAR or zero > rules.CLEAR or numbers["extra"].low < -rules.CLEAR,
        )
    )


CLAIM = Claim(
    "B1",
    "law of total variance, one draw",
    "For one (state, action) draw the sampled term has the enumerated term's variance plus the "
    "expected variance within a state, and the second is zero only where the term is the same for "
    "all tokens.",
    measure,
    judge,
    wrong="A draw whose action isn't pi's given its state. Where EOS ends rollouts, one position "
    "picked uniformly from a rollout's own is such a draw: short rollouts are over-weighted, and "
    "the identity is off (printed). Positions are therefore weighed alike over all rollouts. "
    "'The same for all tokens' isn't agreement with the teacher: a teacher that pushes two tokens "
    "alike, and is another policy, was built.",
    needs="one random position a rollout in a transformer",
)

"""C8: is the myopic field a gradient? Only if its Jacobian is symmetric."""

from __future__ import annotations

from functools import partial

import jax
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
from experiments.claims.discount.shared import FEW_RUNS, FULL, MYOPIC, expected
from experiments.claims.lab import Lab, Shape, lab, mean, problem, relative, vectors
from experiments.claims.search import search, simplify
from opd.measure import exact

SHAPE = Shape(width=2)
HALF = "opd@gamma=0.5"
# Two parameters that matter: the log-odds of two tokens at each of two states, one after the other.
LEAST = Shape(vocab=2, depth=2, eos=0, student="by_depth")
ODDS = np.kron(np.eye(2), [[-0.5, 0.5]])  # [2, M]: a unit of log-odds, at either state
WANTED, STEPS = 0.5, 40  # the asymmetry that is looked for, and steps a start


@partial(jax.jit, static_argnums=(0, 1), compiler_options=FEW_RUNS)
def slope(shape: Shape, row: str, theta, logp_teacher, reward):
    """The field's Jacobian [M, M], forward mode through the library's own functions."""
    return jax.jacfwd(lambda x: expected(shape, row, x, logp_teacher, reward))(theta)


def jacobian(start: Lab, row: str) -> np.ndarray:
    here = start.problem
    return np.asarray(slope(start.shape, row, start.theta, here.logp_teacher, here.reward))


def asymmetry(matrix: np.ndarray) -> float:
    """|J - J^T| / |J|, Frobenius: 0 for a gradient."""
    return relative(matrix.T, matrix)


def least(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The student's parameters [M] and the teacher [S, V], from both log-odds of either."""
    return point[:2] @ ODDS, exact.log_softmax((point[2:] @ ODDS).reshape(2, 2))


def in_odds(point: np.ndarray) -> np.ndarray:
    """The myopic field's Jacobian in the two log-odds, [2, 2]."""
    found = slope(LEAST, MYOPIC, *least(point), np.zeros(len(LEAST.tree.tokens)))
    return ODDS @ np.asarray(found) @ ODDS.T


def curled(point: np.ndarray) -> float:
    return asymmetry(in_odds(point)) - WANTED


def measure(effort: Effort) -> Finding:
    """Asymmetry at three discounts on random trees, and the smallest example at gamma = 0."""
    found = {row: [] for row in (MYOPIC, HALF, FULL)}
    traced = []
    for seed in effort.seeds:
        start = lab(SHAPE, seed)
        for row in found:
            found[row].append(asymmetry(jacobian(start, row)))
        here = start.problem
        field = expected(SHAPE, MYOPIC, start.theta, here.logp_teacher, here.reward)
        traced.append(relative(np.asarray(field), mean(here, vectors(here, MYOPIC)[MYOPIC])))
    hit = search(curled, 4, effort.starts, STEPS, seed=0)
    example, size = None, hit.value + WANTED
    if hit.successes:
        point = simplify(curled, hit.point)
        matrix = in_odds(point)
        size = asymmetry(matrix)
        example = (
            f"{LEAST}, in the log-odds of token 1 at the two states: the myopic field's Jacobian "
            f"is {np.round(matrix, 3).tolist()}. The first state's odds set how often the second "
            "is trained; the second's never enter the first's.\n\n"
            + trees.table(problem(LEAST, *least(point)))
        )
    numbers = {
        "zero": spread("|J - J^T| / |J| at gamma = 0", found[MYOPIC]),
        "half": spread("at gamma = 0.5", found[HALF]),
        "one": worst("at gamma = 1", found[FULL]),
        "example": exactly("at gamma = 0, the smallest example", size),
        "traced": worst("relative error of the traced field against lab.vectors", traced),
    }
    where = f"{SHAPE}; smallest: {LEAST}, {effort.starts} starts of at most {STEPS} steps"
    return Finding(numbers, "zero", where, effort.seeds, example)


def judge(numbers: Numbers) -> Judgement:
    """A field with an asymmetric Jacobian is no gradient, of whatever function."""
    zero, half, one = (numbers[name] for name in ("zero", "half", "one"))
    if numbers["traced"].high > rules.EXACT:  # another field than the library's
        return Judgement("not settled", repaired="not settled")
    verdict = rules.settle(zero.high <= rules.EXACT, rules.different(zero))
    only = one.high <= rules.EXACT and rules.different(zero) and rules.different(half)
    repaired = rules.settle(only, one.high > rules.CLEAR or half.high <= rules.EXACT)
    return Judgement(verdict, repaired=repaired)


CLAIM = Claim(
    "C8",
    "is the myopic field a gradient",
    "The direction that gamma = 0 follows is the gradient of some function of the parameters.",
    measure,
    judge,
    repaired="Of the discounts 0, 0.5 and 1 only gamma = 1 follows a gradient, that of the "
    "sequence's KL.",
    wrong="A Jacobian spoilt by differences or by a second copy of the field: it is taken in "
    "forward mode through the library's functions, and the field agrees with lab.vectors. At "
    "gamma = 1 the same code gives a symmetric one.",
    advice="No loss curve need fall under gamma = 0. Judge it by the sequence's KL on fresh "
    "rollouts, and don't use line searches or methods that need a potential.",
)

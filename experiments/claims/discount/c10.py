"""C10: -KL is no potential-based shaping; matching is the task if the teacher is optimal for it."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.discount.shared import FULL, VISITATION
from experiments.claims.lab import Shape, lab, mean, problem, relative, rollout, vectors
from opd.measure import exact
from opd.measure.exact import Problem

SHAPES = (Shape(depth=4, width=2), Shape(student="tabular"))
ALPHA = 0.5
TASK = "reinforce"
ADDED = "reinforce@reference.penalty=k1,reference.gamma=1,reference.coef="
SOFT, SHAPED = f"{ADDED}{ALPHA:g}", f"{ADDED}1"
ROWS = (TASK, VISITATION, FULL, SOFT, SHAPED)  # asked for together: they compile once


def soft_optimal(here: Problem) -> tuple[np.ndarray, float]:
    """log p(v|s) of p(y) = exp(R(y) / alpha) / Z, and log Z: sums over leaves, backwards."""
    tree = here.tree
    after, total = np.zeros(tree.child.shape), np.zeros(len(tree.child))
    for s in reversed(range(len(total))):
        paid = here.reward[tree.leaf[s]] / ALPHA
        after[s] = np.where(tree.leaf[s] >= 0, paid, total[tree.child[s]])
        total[s] = np.logaddexp.reduce(after[s])
    return after - total[:, None], float(total[0])


def shaping(here: Problem, potential: np.ndarray) -> np.ndarray:
    """A table whose log ratio to the student is Phi(s') - Phi(s), Phi 0 at the end."""
    later = np.where(here.tree.child >= 0, potential[here.tree.child], 0.0)
    return here.logp + later - potential[:, None]


def returns(here: Problem) -> tuple[float, float]:
    """E R, and E R + alpha H of whole rollouts."""
    paid, joint = float(here.joint @ here.reward), here.joint
    return paid, paid - ALPHA * float(joint @ np.log(joint))


def best(here: Problem) -> Problem:
    """The teacher in the student's place."""
    return exact.problem(
        here.tree, here.logp_teacher, here.logp_teacher, here.jacobian, reward=here.reward
    )


def angle(found: np.ndarray, wanted: np.ndarray) -> float:
    """The sine of the angle between two gradients."""
    scale = found @ wanted / (wanted @ wanted)
    return relative(scale * wanted, found)


def means(here: Problem, reference: np.ndarray) -> dict[str, np.ndarray]:
    """Every row's expectation [M], with a table [S, V] in the reference policy's place."""
    h = vectors(here, *ROWS, batch=rollout(here, reference=reference))
    return {row: mean(here, h[row]) for row in ROWS}


def one(shape: Shape, seed: int) -> dict[str, float]:
    """All readings on one tree."""
    start = lab(shape, seed, inside=False)
    here = start.problem
    logp, constant = soft_optimal(here)
    task = problem(shape, start.theta, logp, here.reward)
    # A reference of log-probability 0 everywhere: the penalty is the rollout's entropy.
    other, optimal = (means(each, np.zeros(here.logits.shape)) for each in (here, task))
    potential = np.random.default_rng(seed).normal(size=len(here.logits))
    shaped = means(here, shaping(here, potential))[SHAPED]
    paid, soft = returns(best(task))
    return {
        "value": abs(returns(here)[1] - ALPHA * (constant - float(exact.objective(task)))),
        "soft": relative(ALPHA * optimal[FULL], optimal[SOFT]),
        "other": angle(other[FULL], other[SOFT]),
        "shaped": relative(shaped, other[TASK]),
        "moved": relative(other[TASK] + other[VISITATION], other[TASK]),
        "regret": soft - returns(best(here))[1],
        "short": float(here.reward.max()) - paid,
    }


def measure(effort: Effort) -> Finding:
    """Gradients of the task, of shaped tasks and of matching two teachers, at random students."""
    found = [one(shape, seed) for shape in SHAPES for seed in effort.seeds]

    def of(name: str) -> list[float]:
        return [each[name] for each in found]

    numbers = {
        "soft": worst("relative error, alpha grad -KL against grad (E R + alpha H)", of("soft")),
        "value": worst(
            "|E R + alpha H - (const - alpha KL)|, the soft-optimal teacher", of("value")
        ),
        "other": spread(
            "sine of the angle of grad -KL and grad (E R + alpha H), another teacher", of("other")
        ),
        "regret": spread("E R + alpha H lost by matching another teacher", of("regret")),
        "shaped": worst("relative change of grad E R by a potential's differences", of("shaped")),
        "moved": spread("relative change of grad E R by -KL as a reward", of("moved")),
        "short": spread("best R less E R of the soft-optimal teacher's match", of("short")),
    }
    where = f"{'; '.join(map(str, SHAPES))}; alpha {ALPHA}; R of 0 and 1; other teachers random"
    return Finding(numbers, "other", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Identities for the optimal teacher and for true shaping, differences for all else."""
    zero = ("soft", "value", "shaped")
    there = ("other", "regret", "moved")
    exactly = all(numbers[name].high <= rules.EXACT for name in zero)
    clear = all(rules.above(numbers[name], rules.CLEAR) for name in there)
    wrong = any(numbers[name].high > rules.CLEAR for name in zero)
    if exactly and clear and rules.above(numbers["short"], rules.CLEAR):
        return Judgement("holds with caveat", CAVEAT)
    none = all(numbers[name].high <= rules.EXACT for name in there)
    return Judgement(rules.settle(exactly and clear, wrong or none))


CAVEAT = (
    "optimal means p(y) proportional to exp(R(y) / alpha), and the task is E R + alpha H: of E R "
    "alone even that teacher's perfect match falls short"
)
CLAIM = Claim(
    "C10",
    "-KL is no potential-based shaping",
    "A reward of -KL is no potential-based shaping: matching the teacher is the task only if the "
    "teacher is optimal for the task.",
    measure,
    judge,
    wrong="A test that would call any reward a shaping, or none: true differences of a random "
    "potential, through the same row of the library, leave grad E R as it is. The soft-optimal "
    "teacher is made by sums over leaves and knows nothing of the rows.",
    advice="Match a teacher when it is as good as you need. To go beyond it add the reward with a "
    "weight (rl_with_teacher), or let the teacher be the reference of a regularised reward.",
)

"""B15: a black-box reward, all actions by branched continuations: variance against rollouts."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
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
from experiments.claims.lab import Shape, lab, mean, relative, vectors
from experiments.claims.variance.shared import LONG
from opd.measure import exact
from opd.measure.exact import Problem

SMALL, WIDE = (Shape(vocab=v, depth=2, eos=None) for v in (4, 16))
DEEP = Shape(vocab=2, depth=6, eos=None)
SHAPES = (SMALL, WIDE, LONG, DEEP)
BRANCHES = (1, 4, 16)


def rewarded(shape: Shape, seed: int) -> Problem:
    """A lab whose 0/1 reward isn't the same for all rollouts."""
    here = lab(shape, seed, sharp=0.5).problem
    reward = here.reward.copy()
    reward[[0, -1]] = 1, 0
    return dataclasses.replace(here, reward=reward)


def continued(here: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a continuation's reward from (s, v) [S, V], children first."""
    tree, probs = here.tree, here.probs
    moments = np.zeros((2, *probs.shape))
    final = np.where(tree.leaf >= 0, here.reward[tree.leaf], 0.0)
    for s in reversed(range(len(probs))):
        later = (probs[tree.child[s]] * moments[:, tree.child[s]]).sum(-1)
        moments[:, s] = np.where(tree.child[s] >= 0, later, np.stack([final[s], final[s] ** 2]))
    return moments[0], moments[1] - moments[0] ** 2


def tilted(here: Problem, value: np.ndarray) -> Problem:
    """The problem with a teacher p ~ pi exp(Q): its w is Q less a constant, which moves nothing.

    So the library's enumerated row pushes pi(v) Q(v): the sum over all actions.
    """
    return dataclasses.replace(here, logp_teacher=exact.log_softmax(here.logp + value))


@dataclasses.dataclass(frozen=True)
class Compared:
    """All actions against REINFORCE on one tree."""

    error: float  # of the means
    variance: np.ndarray  # [branches], tr Var over REINFORCE's
    floor: float  # the same with the expectations known
    cost: np.ndarray  # [branches], rollouts and continuations that are rewarded, a rollout

    @property
    def product(self) -> np.ndarray:
        """Variance at as many rewarded rollouts as REINFORCE has."""
        return self.variance * self.cost


def compared(here: Problem) -> Compared:
    """tr Var of sum_t sum_v pi(v) Qhat(s_t, v) score(v), Qhat the mean of M continuations."""
    value, noise = continued(here)
    known = vectors(tilted(here, value), "opd", "reinforce")["opd"]
    single = vectors(here, "opd", "reinforce")["reinforce"]
    plain, floor = (exact.group_variance(here, x.sum(1)) for x in (single, known))
    push = here.probs**2 * (here.score**2).sum(-1)  # Qhat's are independent over states and tokens
    branch = float(here.reach @ (push * noise).sum(-1))
    each = np.array(BRANCHES)
    vocab, length = here.logits.shape[1], here.joint @ here.tree.length
    return Compared(
        relative(mean(here, known), mean(here, single)),
        (floor + branch / each) / plain,
        floor / plain,
        1 + each * vocab * length,
    )


def drawn(product: np.ndarray) -> Figure:
    """Variance at equal rollouts of each tree [seeds, shapes, branches], by its size."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for j, m in enumerate(BRANCHES):
        label = f"{m} continuation{'s' if m > 1 else ''} an action"
        place = np.tile(np.arange(len(SHAPES)) + 0.15 * (j - 1), len(product))
        axes.semilogy(place, product[..., j].ravel(), "o", markersize=4, label=label)
    axes.axhline(1, color="black", linewidth=0.8, label="REINFORCE")
    axes.set_xticks(range(len(SHAPES)), [f"V {x.vocab}, H {x.depth}" for x in SHAPES])
    axes.set_xlabel("vocabulary V and tokens a rollout H")
    axes.set_ylabel("tr Var x rollouts / REINFORCE's")
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    return figure


def measure(effort: Effort) -> Finding:
    """Over sizes: by how much the variance falls, and what is left at equal rollouts."""
    found = [[compared(rewarded(shape, i)) for shape in SHAPES] for i in effort.seeds]
    product = np.array([[x.product for x in row] for row in found])  # [seeds, shapes, branches]
    small, wide, long, deep = product.min(-1).T  # the best number of continuations
    every = [x for row in found for x in row]
    numbers = {
        "variance": spread(
            "tr Var / REINFORCE's, one continuation an action", [x.variance[0] for x in every]
        ),
        "floor": spread("tr Var / REINFORCE's, expectations known", [x.floor for x in every]),
        "small": spread(f"tr Var x rollouts / REINFORCE's, {SMALL}", small),
        "wide": spread(f"tr Var x rollouts / REINFORCE's, {WIDE}", wide),
        "long": spread(f"tr Var x rollouts / REINFORCE's, {LONG}", long),
        "deep": spread(f"tr Var x rollouts / REINFORCE's, {DEEP}", deep),
        "error": worst("relative error of the means", [x.error for x in every]),
    }
    where = "; ".join(map(str, SHAPES)) + f"; {BRANCHES} continuations an action, the best of them"
    return Finding(numbers, "deep", where, effort.seeds, figure=drawn(product))


def judge(numbers: Numbers) -> Judgement:
    """Less variance; at equal rollouts more of it, where a rollout has more than a few tokens."""
    falls = rules.below(numbers["variance"], 1) and numbers["error"].high <= rules.EXACT
    dear = rules.above(numbers["deep"], 1)
    verdict = rules.settle(falls and dear, rules.below(numbers["deep"], 1) or not falls)
    if verdict == HOLDS and numbers["small"].low < 1:
        return Judgement(
            CAVEAT,
            "a rollout has more than a few tokens: on the smallest trees branching can pay",
        )
    return Judgement(verdict)


CLAIM = Claim(
    "B15",
    "a black-box reward can't be Rao-Blackwellised cheaply",
    "For a reward that can only be asked for whole rollouts, summing over all actions by branched "
    "continuations lowers the variance, but by less than the rollouts that it costs.",
    measure,
    judge,
    wrong="One scheme was counted: all actions at all states. Cheaper ones (branching at few "
    "states, a learned critic) aren't ruled out. REINFORCE is without a baseline, which favours "
    "branching. Continuations are counted as whole rollouts; by tokens they cost about half as "
    "much. It is the length that makes it dear: as the vocabulary of a nearly uniform student "
    "grows, the variance falls about as fast as the rollouts add up.",
    advice="With a black-box reward use more rollouts and a baseline; enumerate where the signal "
    "is a teacher's.",
)

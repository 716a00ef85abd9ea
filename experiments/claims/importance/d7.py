"""D7: the teacher as behavior policy: where its ratios explode, and what no correction leaves."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
from experiments.claims.claim import (
    CAVEAT,
    FAILS,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    spread,
    worst,
)
from experiments.claims.importance.shared import SHAPES, on_states, rank_correlation, weight
from experiments.claims.lab import Lab, lab, mean, relative, rollout, vectors
from opd.measure import exact
from opd.measure.exact import Problem

ROWS = ("teacher_behavior", "teacher_behavior@importance=prefix", "sft@behavior=teacher")
APART = (0.3, 1.0, 3.0)  # the teacher's distance in parameters
AGREE, DISAGREE = 0.1, 1.0  # nats of KL(pi || p) at a state
EXPLODES = 10.0  # times the variance of the states that agree
FORWARD = ("forward_kl",)


def teacher(student: Lab) -> Problem:
    """The teacher as the policy that draws."""
    here = student.problem
    return exact.problem(
        here.tree,
        here.logp_teacher,
        here.logp_teacher,
        here.jacobian,
        here.prompt_prob,
        here.reward,
    )


def by_state(here: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Var_p of the library's token ratio pi / p, KL(pi || p) and KL(p || pi), [S] each."""
    rho = weight(here.logp - here.logp_teacher)
    law = np.exp(here.logp_teacher)
    spread = (law * (rho - (law * rho).sum(-1, keepdims=True)) ** 2).sum(-1)
    both = (
        exact.divergence(loss, here.logits, here.logp_teacher) for loss in (exact.REVERSE, FORWARD)
    )
    return spread, *both


def expectations(here: Problem, behavior: Problem) -> dict[str, float]:
    """Relative errors of rows on the teacher's rollouts, uncorrected or not, against targets."""
    h = vectors(here, *ROWS, batch=rollout(here, behavior))
    plain, corrected, nll = (mean(here, h[row], behavior) for row in ROWS)
    reverse, forward = (on_states(here, behavior, loss) for loss in (exact.REVERSE, FORWARD))
    return {
        "enumerated": relative(plain, reverse),
        "nll": relative(nll, forward),
        "turned": relative(plain, forward),
        "corrected": relative(corrected, on_states(here, here)),
        "states": relative(plain, on_states(here, here)),
    }


def explosion(points: list[tuple[np.ndarray, ...]]) -> float:
    """Median Var(rho) of the states that disagree, over that of those that agree."""
    spread, reverse, _ = (np.concatenate(x) for x in zip(*points, strict=True))
    return float(np.median(spread[reverse > DISAGREE]) / np.median(spread[reverse < AGREE]))


def drawn(points: list[tuple[np.ndarray, ...]]) -> Figure:
    """Variance of the ratio against the KL, all states of all trees."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    spread, reverse, forward = (np.concatenate(x) for x in zip(*points, strict=True))
    axes.plot(reverse, spread, ".", ms=3, label="against KL(student || teacher)")
    axes.plot(forward, spread, ".", ms=3, label="against KL(teacher || student)")
    line = np.logspace(-4, np.log10(reverse.max()), 50)
    axes.plot(line, np.expm1(line), "k--", lw=0.8, label="exp(KL) - 1")
    axes.set(xlabel="KL of a state, nats", ylabel="Var of pi / p, tokens by p")
    axes.set(xscale="log", yscale="log", xlim=(1e-4, None), ylim=(1e-4, None))
    axes.legend(fontsize=7)
    return figure


def measure(effort: Effort) -> Finding:
    """Ratios state by state; expectations on the teacher's rollouts."""
    points, errors = [[] for _ in effort.seeds], []
    for shape in SHAPES:
        for seed in effort.seeds:
            for apart in APART:
                student = lab(shape, seed, apart=apart, inside=seed % 2 == 0)
                points[seed].append(by_state(student.problem))
                errors.append(expectations(student.problem, teacher(student)))
    each = [point for seed in points for point in seed]
    numbers = {
        "explosion": spread(
            f"median Var(rho) of states with KL(pi || p) > {DISAGREE:g} nats, over that of those "
            f"with < {AGREE:g}, by seed",
            [explosion(seed) for seed in points],
        ),
        "rank": spread(
            "rank correlation of Var(rho) and KL(pi || p) over a tree's states",
            [rank_correlation(spread, reverse) for spread, reverse, _ in each],
        ),
        "other": spread(
            "rank correlation of Var(rho) and KL(p || pi) over a tree's states",
            [rank_correlation(spread, forward) for spread, _, forward in each],
        ),
        "calm": spread(
            f"largest Var(rho) of a state with KL(pi || p) < {AGREE:g} nats, by seed",
            [max(v[kl < AGREE].max(initial=0) for v, kl, _ in seed) for seed in points],
        ),
        "enumerated": worst(
            "relative error of enumerated x 1 against reverse KL on the teacher's states",
            [one["enumerated"] for one in errors],
        ),
        "turned": spread(
            "relative error of enumerated x 1 against forward KL on the teacher's states",
            [one["turned"] for one in errors],
        ),
        "nll": worst(
            "relative error of the likelihood of the teacher's tokens against forward KL there",
            [one["nll"] for one in errors],
        ),
        "corrected": worst(
            "relative error of enumerated x prefix against reverse KL on the student's states",
            [one["corrected"] for one in errors],
        ),
        "states": spread(
            "relative error of enumerated x 1 against reverse KL on the student's states",
            [one["states"] for one in errors],
        ),
    }
    where = "; ".join(map(str, SHAPES)) + f"; teachers {APART} away, inside and outside the family"
    return Finding(numbers, "turned", where, effort.seeds, figure=drawn(each))


def judge(numbers: Numbers) -> Judgement:
    """Explodes by a factor of ten; whose divergence is left is a matter of identities."""
    explodes = rules.above(numbers["explosion"], EXPLODES)
    tame = rules.below(numbers["explosion"], EXPLODES)
    nll = rules.identity(numbers["nll"])
    turned = rules.identity(numbers["turned"])
    kept = rules.identity(numbers["enumerated"])
    identities = {nll, kept, rules.identity(numbers["corrected"])}
    repaired = rules.settle(
        explodes and identities == {"holds"} and rules.different(numbers["states"]),
        "fails" in identities or tame,
    )
    if tame or (nll, turned) == (FAILS, FAILS):
        return Judgement(FAILS, repaired=repaired)
    if explodes and nll == "holds" and turned == FAILS:
        return Judgement(
            CAVEAT,
            "only where the teacher's tokens are given their likelihood; with the vocabulary "
            "summed over, what is left is the reverse KL, on the teacher's states",
            repaired=repaired,
        )
    return Judgement(rules.settle(explodes and nll == turned == "holds", False), repaired=repaired)


CLAIM = Claim(
    "D7",
    "the teacher as behavior policy",
    "On the teacher's rollouts importance ratios explode where student and teacher disagree, so "
    "that the correction is left out, which turns the objective into the forward KL.",
    measure,
    judge,
    repaired="On the teacher's rollouts Var(pi / p) is over ten times as large at states with a "
    "KL(pi || p) above 1 nat as at those below 0.1. Without a correction the enumerated row "
    "follows the reverse KL on the teacher's states, and the likelihood of the teacher's tokens "
    "the forward KL there; with the prefix's ratio the former is the on-policy gradient.",
    wrong="Disagreement may be measured the other way round: by KL(p || pi) ranks agree less, "
    "since a student that misses the teacher's tokens has ratios near 0. A rare action can make "
    "the ratio explode where the KL is small (D9): the largest such is given. Teachers near and "
    "far, of the family and not.",
    advice="With a teacher's rollouts and its logits sum over the vocabulary: the objective stays "
    "the reverse KL, and only the states are the teacher's.",
    needs="the same with transformers, and what the teacher's states cost at the end",
)

"""C3: near the teacher the dropped visitation term fades against the kept one, in first order."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, estimated, worst
from experiments.claims.discount.shared import MYOPIC, VISITATION
from experiments.claims.lab import Shape, lab, mean, problem, vectors
from opd.measure import exact
from opd.measure.exact import Problem

# More states than parameters, or every residual were within reach.
SHAPES = (Shape(depth=4, width=2), Shape(vocab=2, depth=5, eos=None, width=2))
EPS = np.logspace(-4, -1.5, 6)
SLACK = 0.1  # of an exponent: a tenth of what tells 0, 1 and 2 apart


def matched(shape: Shape, seed: int) -> list[Problem]:
    """Students at theta* + eps u, the teacher's parameters being theta*."""
    start = lab(shape, seed)
    ray = start.teacher - start.theta
    return [start.at(start.teacher - eps * ray) for eps in EPS]


def unmatched(shape: Shape, seed: int) -> Problem:
    """A student whose parameters can't reduce any of its residual: the teacher is z + eps B.

    The myopic term is -sum_s d(s) J_s^T F_s (z_s - z'_s), F = diag pi - pi pi^T, z' the teacher's
    logits. B is random, less its projection on J in that metric.
    """
    start = lab(shape, seed)
    here = start.problem
    root = np.sqrt(here.reach[:, None] * here.probs)

    def scaled(tables: np.ndarray) -> np.ndarray:  # [S, V, K] -> [S V, K]
        centred = tables - np.einsum("sv,svk->sk", here.probs, tables)[:, None]
        return (root[..., None] * centred).reshape(root.size, -1)

    table = np.random.default_rng(seed).normal(size=here.logits.shape)
    fit, *_ = np.linalg.lstsq(scaled(here.jacobian), scaled(table[..., None]), rcond=None)
    off = table - here.jacobian @ fit[:, 0]
    return problem(shape, start.theta, exact.log_softmax(here.logits + EPS[-1] * off))


def sizes(here: Problem) -> tuple[float, float, float]:
    """|myopic|, |visitation| of the library's rows, and V."""
    h = vectors(here, MYOPIC, VISITATION)
    kept, dropped = (float(np.linalg.norm(mean(here, h[row]))) for row in h)
    return kept, dropped, float(exact.objective(here))


def measure(effort: Effort) -> Finding:
    """Exponents in eps, with the interval over trees; and a residual that is out of reach."""
    pairs = [(shape, seed) for shape in SHAPES for seed in effort.seeds]
    rays = np.array([[sizes(here) for here in matched(*pair)] for pair in pairs])
    kept, dropped, cost = rays.transpose(2, 0, 1)
    off = [sizes(unmatched(*pair)) for pair in pairs]
    numbers = {
        "ratio": estimated(
            "exponent of |visitation| / |myopic|", fits.exponent(EPS, dropped / kept)
        ),
        "dropped": estimated("exponent of |visitation|", fits.exponent(EPS, dropped)),
        "kept": estimated("exponent of |myopic|", fits.exponent(EPS, kept)),
        "cost": estimated("exponent of V", fits.exponent(EPS, cost)),
        "off": worst("|myopic| / |visitation|, residual out of reach", [a / b for a, b, _ in off]),
    }
    where = f"{'; '.join(map(str, SHAPES))}; eps from 10^-4 to 10^-1.5"
    return Finding(numbers, "ratio", where, effort.seeds, figure=figure(kept, dropped))


def figure(kept: np.ndarray, dropped: np.ndarray) -> Figure:
    drawn = Figure((5, 3), layout="constrained")
    axes = drawn.subplots()
    curves = ("myopic", kept, "C0-"), ("visitation", dropped, "C1-")
    for name, values, style in (*curves, ("visitation / myopic", dropped / kept, "k-")):
        for i, line in enumerate(values):
            axes.loglog(EPS, line, style, lw=0.8, label=None if i else name)
    axes.set(xlabel="distance eps to the teacher", ylabel="gradient norm (nats); ratio")
    axes.legend(fontsize=7)
    return drawn


def judge(numbers: Numbers) -> Judgement:
    """The exponent is 1 on rays to the teacher; a caveat where the kept term is gone elsewhere."""
    first = rules.near(numbers["ratio"], 1, SLACK)
    verdict = rules.settle(first, rules.below(numbers["ratio"], 1 - SLACK))
    if first and rules.below(numbers["off"], 1):
        return Judgement("holds with caveat", CAVEAT)
    return Judgement(verdict)


CAVEAT = (
    "the student's parameters can reduce the residual; where they can't, the kept term is zero and "
    "the dropped one is all there is, however small the residual"
)
CLAIM = Claim(
    "C3",
    "dropped term first order",
    "What gamma = 0 drops is of first order in the residual of student and teacher, relative to "
    "what it keeps, so it fades as they agree.",
    measure,
    judge,
    wrong="A range too far from the limit, or a residual of a special kind: the range is two and a "
    "half decades, the rays are random, and a second family has residuals that no parameter "
    "reduces: a table of the teacher's that is orthogonal to the student's Jacobian.",
    advice="It is a limit, so measure the ratio (the rows kl_advantage@gamma=1 and opd in one "
    "probe). Training leaves residuals in flat directions, where it can stay near 1 for long (C4).",
)

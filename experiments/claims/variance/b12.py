"""B12: -KL_t as a control variate: does it lower the variance, near the teacher and far from it?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    exactly,
    spread,
    worst,
)
from experiments.claims.lab import Shape, lab, mean, relative, vectors
from experiments.claims.search import search, simplify
from experiments.claims.variance.shared import LONG, MAIN, at, free, read
from opd.measure import exact
from opd.measure.exact import Problem

ONE = Shape(vocab=2, depth=1, eos=None, student="constant")
STEPS = 60
ROWS = ("opd_sampled", "opd", "opd_baseline")
NEAR = np.logspace(-3, -1, 5)  # distance from the teacher, in units of a random direction
FAR = np.array([0.3, 1.0, 3.0])


def raised(point: np.ndarray) -> float:
    """How much more than twofold the baseline makes tr Var(S), by the oracle."""
    here = at(ONE, point)
    without, having = (
        exact.group_variance(here, exact.sampled(here, baseline=b).h.sum(1)) for b in (False, True)
    )
    average = here.joint @ exact.enumerated(here).h.sum(1)
    clear = without > 0.1 * float(average @ average)  # not next to a state without any noise
    return having / without - 2 if clear else -np.inf


def variances(here: Problem) -> np.ndarray:
    """tr Var of the sampled, the enumerated and the baseline row, whole rollouts."""
    return np.array([exact.group_variance(here, h.sum(1)) for h in vectors(here, *ROWS).values()])


def bias(here: Problem) -> float:
    """Relative distance of the means of the rows with and without the baseline."""
    h = vectors(here, *ROWS)
    return relative(mean(here, h["opd_baseline"]), mean(here, h["opd_sampled"]))


def ray(shape: Shape, seed: int, distances: np.ndarray) -> np.ndarray:
    """`variances` [n, 3] at so many distances from the teacher."""
    made = lab(shape, seed, sharp=0.5)
    away = made.theta - made.teacher
    return np.array([variances(made.at(made.teacher + x * away)) for x in distances])


def drawn(ratio: np.ndarray) -> Figure:
    """tr Var with the baseline over without, against distance; one line a tree."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for index, line in enumerate(ratio):
        label = "random trees" if index == 0 else None
        axes.semilogx([*NEAR, *FAR], line, color="C0", alpha=0.6, label=label)
    axes.axhline(1, color="black", linewidth=0.8, label="no change")
    axes.set_xlabel("distance from the teacher, in units of a random direction")
    axes.set_ylabel("tr Var with -KL baseline / without")
    axes.legend()
    return figure


def measure(effort: Effort) -> Finding:
    """One state, searched; and rays from a teacher that can be matched."""
    found = search(raised, free(ONE), effort.starts, STEPS, seed=0)
    here = at(ONE, simplify(raised, found.point) if found.successes else found.point)
    sampled, _, baseline = variances(here)
    along = np.array(
        [ray(s, i, np.append(NEAR, FAR)) for s in (MAIN, LONG) for i in effort.seeds]
    )  # [trees, distances, 3]
    ratio = along[..., 2] / along[..., 0]
    far = ratio[:, len(NEAR) :]
    numbers = {
        "ratio": exactly("tr Var with the baseline / without, the example", baseline / sampled),
        "starts": exactly("share of starts that end above 2", found.share),
        "far": spread("the same ratio at distances of 0.3, 1 and 3", far),
        "raised": exactly("share of those above 1", float(np.mean(far > 1))),
        "enumerated": spread(
            "tr Var with the baseline / enumerated, there",
            along[:, len(NEAR) :, 2] / along[:, len(NEAR) :, 1],
        ),
        "order": estimated(
            "order in the distance of |ratio - 1| near the teacher",
            fits.exponent(NEAR, np.abs(ratio[:, : len(NEAR)] - 1)),
        ),
        "near": worst("|ratio - 1| at a distance of 0.001", np.abs(ratio[:, 0] - 1)),
        "bias": worst(
            "relative error of its mean",
            [bias(lab(s, i).problem) for s in (MAIN, LONG) for i in effort.seeds],
        ),
    }
    h = vectors(here, *ROWS)
    text = f"{ONE}: tr Var {baseline:.3g} with the baseline, {sampled:.3g} without.\n\n" + read(
        here, without=h["opd_sampled"].sum(1), having=h["opd_baseline"].sum(1)
    )
    where = "; ".join(map(str, (ONE, MAIN, LONG))) + f"; {effort.starts} starts"
    return Finding(numbers, "ratio", where, effort.seeds, text, drawn(ratio))


def judge(numbers: Numbers) -> Judgement:
    """Fails by one example above 1. Repaired: unbiased, and a change of first order in distance."""
    fails = rules.above(numbers["ratio"], 1 + rules.CLEAR)
    vanishes = rules.above(numbers["order"], 0.5) and numbers["near"].high < 0.05
    unbiased = numbers["bias"].high <= rules.EXACT
    repaired = rules.settle(
        unbiased and vanishes,
        numbers["bias"].high > rules.CLEAR or rules.below(numbers["order"], 0.5),
    )
    return Judgement(rules.settle(False, fails), repaired=repaired)


CLAIM = Claim(
    "B12",
    "-KL as a control variate",
    "Subtracting the state's expected weight, -KL_t, from the sampled token's weight lowers the "
    "variance and is a safe default.",
    measure,
    judge,
    repaired="The -KL_t baseline adds no bias, and its effect on the variance vanishes as the "
    "student nears a teacher that it can match; away from it the variance may rise or fall.",
    wrong="The variance of whole rollouts could rise for the cross term's sake only: the example "
    "has one state, where there is none. What would lower it for sure is a mean weighted by the "
    "squared score.",
    advice="Don't turn it on unmeasured: compare opd_baseline with opd_sampled in a probe. Where "
    "the teacher's logits are at hand, as they must be for -KL_t, enumerate.",
    needs="its effect in transformers",
)

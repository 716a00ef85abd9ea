"""C4: does the myopic term stay the dominant driver of exact training?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    exactly,
    spread,
)
from experiments.claims.discount.shared import (
    FULL,
    MYOPIC,
    RATE,
    STEPS,
    TRAINED,
    VISITATION,
    along,
    costs,
    runs,
)
from opd.measure.intervals import t_interval

EVERY = 20  # steps between two readings of the ratio
# V 10 % higher is a harm worth a second look; trees differ by far more.
HARM = float(np.log(1.1))


def ratios(start, path: np.ndarray) -> np.ndarray:
    """|visitation| / |myopic| at every EVERY-th student of a training by the myopic row."""
    kept = np.diff(path, axis=0)[::EVERY] / RATE
    dropped = along(start, VISITATION, path[:-1:EVERY])
    return np.linalg.norm(dropped, axis=-1) / np.linalg.norm(kept, axis=-1)


def last_costs(done) -> np.ndarray:
    """V at the end of each training."""
    return np.array([costs(start, path[-1:])[0] for start, path in done])


def measure(effort: Effort) -> Finding:
    """Ratio of the terms along trainings by the myopic row; final V of both rows from one start."""
    trees = 8 * effort.trees
    largest, curves, worse = ([], []), [], ([], [])
    for shape in TRAINED:
        both = zip(runs(shape, MYOPIC, trees), runs(shape, FULL, trees), strict=True)
        for kind, (myopic, full) in enumerate(both):
            lines = np.array([ratios(start, path) for start, path in myopic])
            curves.append((shape.student, kind, lines))
            largest[kind].extend(lines.max(1))
            worse[kind].extend(np.log(last_costs(myopic) / last_costs(full)))
    numbers = {
        "largest": spread("largest |visitation| / |myopic|, a teacher in reach", largest[0]),
        "share": exactly(
            "share of those trees on which it passes 1", np.mean(np.array(largest[0]) > 1)
        ),
        "largest_off": spread("the same, a teacher out of reach", largest[1]),
        "worse": estimated(
            "log(V of gamma = 0 / V of gamma = 1) at the end, in reach", t_interval(worse[0])
        ),
        "worse_off": estimated("the same, out of reach", t_interval(worse[1])),
    }
    where = (
        f"{'; '.join(map(str, TRAINED))}; {trees} trees each, {STEPS} steps of plain ascent at "
        f"rate {RATE} along exact expectations"
    )
    return Finding(numbers, "largest", where, range(trees), figure=figure(curves))


def figure(curves) -> Figure:
    drawn = Figure((5, 3), layout="constrained")
    axes = drawn.subplots()
    steps = EVERY * np.arange(STEPS // EVERY)
    for name, kind, lines in curves:
        middle, low, high = np.quantile(lines, (0.5, 0.1, 0.9), axis=0)
        style = "C0" if name == "recurrent" else "C1"
        label = f"{name}, teacher {'out of' if kind else 'in'} reach"
        axes.semilogy(steps, middle, style + ("--" if kind else "-"), label=label)
        axes.fill_between(steps, low, high, color=style, alpha=0.12)
    axes.axhline(1, color="k", lw=0.6)
    axes.set(xlabel="update", ylabel="|visitation| / |myopic|")
    axes.legend(fontsize=7)
    return drawn


def judge(numbers: Numbers) -> Judgement:
    """One tree on which the dropped term is the larger refutes it; harm is judged on average."""
    largest, worse = numbers["largest"], numbers["worse"]
    verdict = rules.settle(rules.below(largest, 1), largest.high > 1 + rules.CLEAR)
    repaired = rules.settle(rules.below(worse, HARM), rules.above(worse, HARM))
    return Judgement(verdict, repaired=repaired)


CLAIM = Claim(
    "C4",
    "myopic stays the dominant driver",
    "All through training the myopic term stays the larger part of the full gradient.",
    measure,
    judge,
    repaired="Where the student can match the teacher, training on the myopic term alone ends with "
    "a V that is on average at most 10 % above the full gradient's.",
    wrong="One unlucky student, or a ratio that is large only where nothing is left to learn: two "
    "families and many trees, and the final V of both gradients beside the ratio. Steps that "
    "overshoot: a tenth of the rate over ten times the steps gave the same. Out of reach of the "
    "teacher the myopic term vanishes at its own fixed point, and the ratio has no bound.",
    advice="Don't take a small visitation term for granted; gamma = 0 is a good default all the "
    "same. Try gamma = 1 late where the student is too small for the teacher.",
    needs="the ratio and the final KL at both discounts in a transformer's training, by the probe "
    "at checkpoints; experiments/gamma has final KLs on one task",
)

"""B11: noise at the optimum: variance and SNR as the student nears a teacher it can match."""

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
    spread,
)
from experiments.claims.lab import Shape, lab, vectors
from experiments.claims.variance.shared import LONG, MAIN, snr
from opd.measure import exact

DISTANCES = np.logspace(-4.5, -2, 6)
ROWS = {"sampled": "opd_sampled", "enumerated": "opd", "terminal reward": "reinforce"}
SLACK = 0.1  # of an order: 0, 1 and 2 are to be told apart


def ray(shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """tr Var(S) and SNR [rows, distances] at pi = p + eps u, u a random direction."""
    made = lab(shape, seed, sharp=0.5)
    away = made.theta - made.teacher
    variance, ratio = np.zeros((2, len(ROWS), len(DISTANCES)))
    for i, x in enumerate(DISTANCES):
        here = made.at(made.teacher + x * away)
        for j, h in enumerate(vectors(here, *ROWS.values()).values()):
            variance[j, i], ratio[j, i] = exact.group_variance(here, h.sum(1)), snr(here, h)
    return variance, ratio


def drawn(variance: np.ndarray, ratio: np.ndarray) -> Figure:
    """Both against the distance, on log axes; medians over trees, and their range."""
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    names = "tr Var of a rollout's gradient", "SNR of a rollout"
    for axes, values, name in zip(figure.subplots(1, 2), (variance, ratio), names, strict=True):
        for j, label in enumerate(ROWS):
            line = values[:, j]
            axes.loglog(DISTANCES, np.median(line, 0), marker="o", markersize=3, label=label)
            axes.fill_between(DISTANCES, line.min(0), line.max(0), alpha=0.2)
        axes.set_xlabel("distance from the teacher")
        axes.set_ylabel(name)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right")
    return figure


def measure(effort: Effort) -> Finding:
    """Orders in the distance, fitted over two and a half decades."""
    found = [ray(shape, seed) for shape in (MAIN, LONG) for seed in effort.seeds]
    variance, ratio = (np.array(x) for x in zip(*found, strict=True))  # [trees, rows, distances]

    def order(name: str, values: np.ndarray):
        return estimated(f"order in the distance of {name}", fits.exponent(DISTANCES, values))

    gain = ratio[:, 1] / ratio[:, 0]
    numbers = {
        "sampled": order("tr Var, sampled", variance[:, 0]),
        "enumerated": order("tr Var, enumerated", variance[:, 1]),
        "snr": order("SNR, sampled", ratio[:, 0]),
        "gain": order("SNR of enumerated / SNR of sampled", gain),
        "limit": spread("SNR of enumerated / SNR of sampled, at the least distance", gain[:, 0]),
        "reward": order("tr Var, a terminal reward", variance[:, 2]),
    }
    where = f"{MAIN}; {LONG}; teacher of the student's family, distances 3e-5 to 0.01"
    return Finding(numbers, "sampled", where, effort.seeds, figure=drawn(variance, ratio))


def judge(numbers: Numbers) -> Judgement:
    """Orders of 2, 2, 0 and 0."""
    wanted = {"sampled": 2, "enumerated": 2, "snr": 0, "gain": 0}
    holds = all(rules.near(numbers[name], x, SLACK) for name, x in wanted.items())
    fails = any(
        rules.above(numbers[name], x + SLACK) or rules.below(numbers[name], x - SLACK)
        for name, x in wanted.items()
    )
    return Judgement(rules.settle(holds, fails))


CLAIM = Claim(
    "B11",
    "noise at the optimum",
    "As the student nears its teacher, the variance of the sampled and of the enumerated gradient "
    "vanishes with the square of the distance, so that neither's SNR, nor their ratio, is lost.",
    measure,
    judge,
    wrong="A teacher that can't be matched: the distance then has no zero to fall to. Here it is "
    "of the student's family. What is near depends on the policies: sharp ones reach their order "
    "later. A terminal reward's variance, by the "
    "same code, stays (order 0).",
)

"""D3: dropping the weight is fine for small drift: the order of the bias."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.claim import (
    CAVEAT,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    spread,
)
from experiments.claims.importance.shared import SHAPES, older, on_states, sequence_kl
from experiments.claims.lab import Lab, lab, mean, relative, rollout, vectors
from opd.measure import exact
from opd.measure.intervals import t_interval

DRIFTS = np.logspace(-2.5, 0, 6)  # of parameters: sqrt of the KL over two decades and a half
ROWS = ("opd", "opd_sampled", "reinforce")
SMALL = 0.01  # nats a sequence, where a size is read off
FINE = 0.1  # of the gradient's length: what we let pass as fine
SLACK = 0.1  # of an exponent: 1 is told from 0.5 and from 2


def biases(student: Lab, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """sqrt of KL(old || new) of sequences, and each row's relative bias without a weight."""
    here = student.problem
    wanted = dict.fromkeys(ROWS, on_states(here, here))
    wanted["reinforce"] = exact.target_gradient(here, "reward")
    found: dict[str, list[float]] = {row: [] for row in ROWS}
    distance = []
    for drift in DRIFTS:
        behavior = older(student, seed, drift)
        distance.append(np.sqrt(sequence_kl(behavior, here)))
        h = vectors(here, *ROWS, batch=rollout(here, behavior))
        for row in ROWS:
            found[row].append(relative(mean(here, h[row], behavior), wanted[row]))
    return np.array(distance), {row: np.array(values) for row, values in found.items()}


def at_small(distance: np.ndarray, bias: np.ndarray) -> float:
    """The bias at a KL of SMALL, on the line through its two neighbours on log axes."""
    return float(np.exp(np.interp(np.log(SMALL) / 2, np.log(distance), np.log(bias))))


def drawn(found: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> Figure:
    """Bias against sqrt KL, all trees."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(ROWS):
        for number, (distance, bias) in enumerate(found):
            label = f"{row}, no weight" if number == 0 else None
            axes.plot(distance, bias[row], ".-", color=f"C{index}", lw=0.6, label=label)
    ends = np.array([1e-3, 1.0])
    axes.plot(ends, ends, "k--", label="slope 1")
    axes.axhline(FINE, color="grey", lw=0.6)
    axes.set(
        xlabel="sqrt of KL(old || new) of a sequence, nats^(1/2)",
        ylabel="bias / length of gradient",
        xscale="log",
        yscale="log",
    )
    axes.legend(fontsize=7)
    return figure


def measure(effort: Effort) -> Finding:
    """Slopes per tree on log axes, and the bias at a small drift."""
    found = [
        biases(lab(shape, seed, inside=seed % 2 == 0), seed)
        for shape in SHAPES
        for seed in effort.seeds
    ]
    numbers = {}
    for row in ROWS:
        slopes = np.array([fits.slopes(x, bias[row][None])[0] for x, bias in found])
        numbers[f"order {row}"] = estimated(
            f"exponent of the bias of {row} in sqrt KL", t_interval(slopes)
        )
        numbers[f"size {row}"] = spread(
            f"relative bias of {row} at {SMALL:g} nats a sequence",
            [at_small(x, bias[row]) for x, bias in found],
        )
    where = "; ".join(map(str, SHAPES)) + ", teachers inside and outside the family"
    return Finding(numbers, "order opd", where, effort.seeds, figure=drawn(found))


def judge(numbers: Numbers) -> Judgement:
    """Holds where the bias vanishes and is below a tenth at 0.01 nats, on every tree."""
    orders = [numbers[f"order {row}"] for row in ROWS]
    sizes = [numbers[f"size {row}"] for row in ROWS]
    first = all(rules.near(order, 1, SLACK) for order in orders)
    said = rules.settle(first, any(rules.below(order, 0.5) for order in orders))
    if said == rules.HOLDS and max(size.high for size in sizes) > FINE:
        of = ", ".join(f"{row} {numbers[f'size {row}'].high:.0%}" for row in ROWS)
        return Judgement(
            CAVEAT,
            "small means small in the square root of a whole rollout's KL: at 0.01 nats the bias "
            f"reaches, of the gradient's length, {of}",
        )
    return Judgement(said)


CLAIM = Claim(
    "D3",
    "dropping the weight is fine for small drift",
    "Where the behavior policy is only slightly older, the importance weight can be left out at a "
    "negligible bias.",
    measure,
    judge,
    wrong="A range too short to tell orders apart, or a drift along one kind of direction: two "
    "decades and a half, random directions, two shapes, teachers inside and outside the family.",
    advice="Watch the drift of whole sequences, in nats, and read its square root: a hundredth of "
    "a nat is no small drift for a row without weights. The enumerated row is biased in the states "
    "alone, the least of the three.",
)

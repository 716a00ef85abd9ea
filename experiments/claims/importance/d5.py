"""D5: the effective sample size tells when to refresh: does it rank errors?"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    spread,
)
from experiments.claims.importance.shared import (
    SHAPES,
    log_ratio,
    mean_square_error,
    older,
    on_states,
    rank_correlation,
)
from experiments.claims.lab import Lab, lab, rollout, vectors
from opd.measure.exact import Problem
from opd.method import facts, importance, table

ROWS = (
    "opd",
    "opd_sampled",
    "opd_sampled@importance=token",
    "opd_sampled@importance=trajectory",
)
UNWEIGHTED = ROWS[:2]
ROLLOUTS = 128  # that the error and the ESS are of
DRIFTS = 40  # a tree
SHARP = 3.0  # of a student's parameters, against 1
SIZES = 0.05, 4.0  # of the parameters' drift, uniform on a log scale
HALF = 0.4, 0.6  # of ESS / N: where the damage is compared
STRONG = 0.8  # a rank correlation that a rule could be built on
WEAK = 0.5


_ess = jax.jit(importance.effective_sample_size)


def effective(here: Problem, behavior: Problem, kind: str, rng: np.random.Generator) -> float:
    """The library's ESS / N of a row's kind of weight, on rollouts drawn from the behavior."""
    drawn = rng.choice(len(behavior.joint), ROLLOUTS, p=behavior.joint / behavior.joint.sum())
    mask = importance.counted(jnp.asarray(here.tree.mask[drawn]), kind)
    return float(_ess(log_ratio(here, behavior, kind)[drawn], mask))


def scatter(
    student: Lab, seed: int, drifts: int, sizes: tuple[float, float] = SIZES
) -> dict[str, np.ndarray]:
    """[2, drifts] by row: ESS / N, and the squared error over that of fresh rollouts."""
    here = student.problem
    wanted = on_states(here, here)
    rng = np.random.default_rng(seed)
    fresh = vectors(here, *ROWS)
    base = {row: mean_square_error(here, h, wanted, ROLLOUTS) for row, h in fresh.items()}
    kinds = {row: facts.weighs(table.parse(row)) for row in ROWS}
    found: dict[str, list[tuple[float, float]]] = {row: [] for row in ROWS}
    for number in range(drifts):
        drift = np.exp(rng.uniform(*np.log(sizes)))
        behavior = older(student, 1000 * seed + number, drift)
        h = vectors(here, *ROWS, batch=rollout(here, behavior))
        ess = {kind: effective(here, behavior, kind, rng) for kind in set(kinds.values())}
        for row in ROWS:
            error = mean_square_error(behavior, h[row], wanted, ROLLOUTS) / base[row]
            found[row].append((ess[kinds[row]], error))
    return {row: np.array(points).T for row, points in found.items()}


def ranks(points: np.ndarray) -> float:
    """How well a low ESS ranks a large error."""
    return rank_correlation(-points[0], points[1])


def drawn(found: list[dict[str, np.ndarray]]) -> Figure:
    """Error against ESS, all trees, by row."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(ROWS):
        ess, error = np.concatenate([one[row] for one in found], axis=1)
        axes.plot(ess, error, ".", ms=3, color=f"C{index}", label=row)
    axes.set(xlabel="ESS / N of 128 rollouts", ylabel="squared error / a fresh batch's")
    axes.set_yscale("log")
    axes.legend(fontsize=6)
    return figure


def measure(effort: Effort) -> Finding:
    """Rank correlations over drifts of all sizes and of one size; the damage at ESS / N = 1/2."""
    each = [(shape, seed) for shape in SHAPES for seed in effort.seeds]
    soft, sharp = (
        [lab(shape, seed, sharp=size, inside=seed % 2 == 0) for shape, seed in each]
        for size in (1.0, SHARP)
    )
    found = [scatter(one, seed, DRIFTS) for one, (_, seed) in zip(soft, each, strict=True)]
    equal, edgy = (
        [
            ranks(points)
            for one, (_, seed) in zip(students, each, strict=True)
            for points in scatter(one, seed, DRIFTS // 2, sizes).values()
        ]
        for students, sizes in ((soft, (1.0, 1.0)), (sharp, SIZES))
    )
    half = np.concatenate([one[row] for one in found for row in ROWS], axis=1)
    half = half[1, (half[0] > HALF[0]) & (half[0] < HALF[1])]
    numbers = {
        row: spread(
            f"rank correlation of 1 - ESS and the error of {row}",
            [ranks(one[row]) for one in found],
        )
        for row in ROWS
    }
    numbers["sharp"] = spread("rank correlation of 1 - ESS and the error, sharp students", edgy)
    numbers["equal"] = spread("the same among drifts of one size, all rows", equal)
    numbers["half"] = spread(
        "squared error over a fresh batch's at ESS / N of 0.4 to 0.6, all rows", half
    )
    where = "; ".join(map(str, SHAPES)) + f"; soft (1) and sharp ({SHARP:g}) parameters, "
    where += f"{DRIFTS} random drifts a tree (sharp ones half as many), {ROLLOUTS} rollouts"
    return Finding(numbers, "sharp", where, effort.seeds, figure=drawn(found))


def judge(numbers: Numbers) -> Judgement:
    """Holds where it ranks every row's errors on every tree, fails where it misleads on one."""
    each = [numbers[name] for name in (*ROWS, "sharp")]
    said = rules.settle(
        all(rules.above(one, STRONG) for one in each), any(one.low < 0 for one in each)
    )
    plain = [numbers[row].value for row in UNWEIGHTED]
    repaired = rules.settle(min(plain) > STRONG, max(plain) < WEAK)
    return Judgement(said, repaired=repaired)


CLAIM = Claim(
    "D5",
    "ESS tells when to refresh",
    "The effective sample size of the importance weights says when stale rollouts must be drawn "
    "anew: the lower it is, the larger the estimator's error.",
    measure,
    judge,
    repaired="It is an alarm for drift where no weight is used: of a soft student, and over drifts "
    "of all sizes, its rank correlation with the error of `opd` or `opd_sampled` is above 0.8 on "
    "most trees.",
    wrong="Any two numbers that grow with the drift correlate: correlations among drifts of one "
    "size are given beside, and are weaker. Soft students flatter it: sharp ones were tried, and "
    "are where it ranks errors the wrong way.",
    advice="Use ESS as an alarm, with a threshold set for the row and the model at hand: at one "
    "half the error was anything from less than a fresh batch's to a hundred times it. It knows "
    "the policies only, not the objective; the probe's bias against a fresh batch does.",
    needs="the refresh rule against fixed schedules at equal rollouts",
)

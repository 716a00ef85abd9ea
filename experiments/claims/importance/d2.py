"""D2: trajectory products explode with the horizon, and so do prefix products."""

from __future__ import annotations

import math

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
    worst,
)
from experiments.claims.importance.shared import log_ratio, older, products, weight
from experiments.claims.lab import Shape, lab

SHAPE = Shape(vocab=2, depth=8, eos=None)
DRIFT = 2.0  # of the recurrent student's parameters
HORIZONS = np.arange(2, SHAPE.depth + 1)
LONG = (1, 2, 4, 8, 16, 32, 64)
# Logit gaps of a constant student to its behavior: H chi^2 of a token's ratio from 1e-4 to 70.
GAPS = (0.02, 0.2, 2.0)
STOPPED = 0.1  # of the mean rate: a tree that grows less than this has stopped
KINDS = ("trajectory", "prefix")


def moments(seed: int) -> dict[str, np.ndarray]:
    """E rho^2 under the behavior at the last token of each horizon, by kind of product."""
    student = lab(SHAPE, seed)
    here, behavior = student.problem, older(student, seed, DRIFT)
    return {
        kind: np.array(
            [
                behavior.joint
                @ weight(log_ratio(here, behavior, kind, horizon)[:, horizon - 1]) ** 2
                for horizon in HORIZONS
            ]
        )
        for kind in KINDS
    }


def constant(gap: float, horizon: int) -> float:
    """E rho^2 of whole rollouts of a two-token student without memory, mu even.

    Sequences of as many ones have one weight: one of each kind is enough, at any length.
    """
    longest = max(LONG)
    place, count = np.arange(longest), np.arange(longest + 1)
    ones = place < count[:, None]
    logp = np.where(ones, -np.log1p(np.exp(-gap)), -np.log1p(np.exp(gap)))
    mask = np.broadcast_to(place < horizon, ones.shape)
    log_rho = products(logp, np.full(ones.shape, -math.log(2)), mask, "trajectory")
    chance = np.array([math.comb(horizon, k) for k in count]) / 2.0**horizon
    return float(chance @ weight(log_rho)[:, 0] ** 2)


def misfit(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square of log y about its line in x."""
    rest = np.log(y) - np.polyval(np.polyfit(x, np.log(y), 1), x)
    return float(np.sqrt((rest**2).mean()))


def drawn(found: list[dict[str, np.ndarray]], long: np.ndarray) -> Figure:
    """Variances against the horizon."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for seed, one in enumerate(found[:3]):
        axes.plot(HORIZONS, one["trajectory"] - 1, "o-", ms=3, color=f"C{seed}", lw=0.8)
    for gap, row, style in zip(GAPS, long, (":", "--", "-"), strict=True):
        axes.plot(LONG, row - 1, style, color="k", label=f"constant, logit gap {gap:g}")
    axes.plot([], [], "o-", ms=3, color="C0", label="recurrent, three seeds")
    axes.set(xlabel="horizon H, tokens", ylabel="Var of the trajectory weight", yscale="log")
    axes.legend(fontsize=7)
    return figure


def curvature(found: list[dict[str, np.ndarray]], kind: str) -> list[float]:
    """Misfit of exp(k H) over that of H^k, of the mean log E rho^2 with each tree left out."""
    logs = np.log([one[kind] for one in found])
    means = [np.exp(np.delete(logs, leave, 0).mean(0)) for leave in range(len(logs))]
    return [misfit(HORIZONS, mean) / misfit(np.log(HORIZONS), mean) for mean in means]


def measure(effort: Effort) -> Finding:
    """Exponential against power law, on trees; long horizons by classes of equal weight."""
    seeds = range(8 * effort.trees)  # a tree is cheap here, and they differ more than elsewhere
    found = [moments(seed) for seed in seeds]
    long = np.array([[constant(gap, horizon) for horizon in LONG] for gap in GAPS])
    power = long[:, :1] ** np.array(LONG)
    whole = np.array([one["trajectory"] for one in found])
    numbers = {
        kind: spread(
            f"misfit of exp(k H) over misfit of H^k, mean log E rho^2 of the {kind}, "
            "each tree left out in turn",
            curvature(found, kind),
        )
        for kind in KINDS
    }
    numbers |= {
        "rate": estimated(
            "growth rate of the trajectory's E rho^2, per token", fits.rate(HORIZONS, whole)
        ),
        "late": spread(
            "the same over the last four horizons, by tree",
            fits.slopes(np.exp(HORIZONS[-4:]), whole[:, -4:]),
        ),
        "moment": worst(
            "relative error of E rho^2 against (E r^2)^H, up to 64 tokens", abs(long / power - 1)
        ),
        "small": spread(
            "exponent k of Var ~ H^k while H chi^2 < 0.01",
            fits.slopes(np.array(LONG), long[:1] - 1),
        ),
    }
    where = f"{SHAPE}, horizons 2 to {SHAPE.depth}, behavior {DRIFT:g} away; constant students, "
    where += f"V 2, logit gaps {', '.join(f'{gap:g}' for gap in GAPS)}, horizons 1 to 64"
    return Finding(numbers, "rate", where, seeds, figure=drawn(found, long))


def judge(numbers: Numbers) -> Judgement:
    """Exponential where it fits better than a power does, and the rate is above 0."""
    kinds = [numbers[kind] for kind in KINDS]
    grows = rules.above(numbers["rate"], 0) and numbers["moment"].high <= rules.EXACT
    holds = grows and all(rules.below(kind, 1) for kind in kinds)
    fails = any(rules.above(kind, 1) for kind in kinds) or rules.below(numbers["rate"], 0)
    conditions = []
    if rules.near(numbers["small"], 1, 0.1):
        conditions.append("once H chi^2 of a token's ratio has passed about 1 (before, it is ~ H)")
    if numbers["late"].low < STOPPED * numbers["rate"].value:
        conditions.append("as long as further tokens disagree (on some trees the growth stops)")
    if holds and conditions:
        return Judgement(CAVEAT, ", and ".join(conditions))
    return Judgement(rules.settle(holds, fails and not holds))


CLAIM = Claim(
    "D2",
    "trajectory products explode with the horizon",
    "The variance of a trajectory's importance weight grows exponentially with its length, and a "
    "prefix's product is no better.",
    measure,
    judge,
    wrong="Eight tokens may be too few to tell an exponential from a power: single trees are (some "
    "fit a power better), their mean is not, and constant students go to 64 tokens, over four "
    "decades of chi^2, which is where the linear regime shows.",
    advice="Look at the drift of a whole rollout (ESS / N = 1 / E rho^2), not of a token: products "
    "are harmless while it is far below one nat, and hopeless soon after.",
)

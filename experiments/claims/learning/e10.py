"""E10: exposure bias goes by rolling out again, not by long backups: {fresh, never} x {gamma}."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
from experiments.claims.claim import (
    CAVEAT,
    Claim,
    Effort,
    Finding,
    Judgement,
    Number,
    Numbers,
    estimated,
)
from experiments.claims.lab import Lab, Shape, lab
from experiments.claims.learning.training import climb, kl_by_position
from opd.measure import exact
from opd.measure.intervals import Interval, t_interval

Array = np.ndarray

# A student that can be its teacher, and two that can't; all share parameters between states.
RECURRENT = Shape(depth=4, eos=None, width=2)
BY_DEPTH = Shape(depth=3, eos=0, student="by_depth")
SETTINGS = {
    "reach": ((RECURRENT, True),),
    "limited": ((RECURRENT, False), (BY_DEPTH, False)),
}
# An arm's row, and whether it stays with the start's rollouts. The future's credit takes the ratio
# of its own token, without which stale rollouts push a score whose mean isn't 0; it is 1 on fresh
# rollouts.
NOW, LATER = "opd", "minillm@importance=token"
ARMS = {
    "fresh, gamma 0": (NOW, False),
    "fresh, gamma 1": (LATER, False),
    "never, gamma 0": (NOW, True),
    "never, gamma 1": (LATER, True),
}
STEPS, RATE, SHARP, APART = 500, 0.1, 1.0, 2.0
EACH = 12  # trees for each of the effort's: they are trained side by side


def trained(shape: Shape, inside: bool, seeds: range) -> dict[str, list[exact.Problem]]:
    """The students at the end of each arm, from the same starts."""
    labs: list[Lab] = [lab(shape, seed, SHARP, APART, inside) for seed in seeds]
    return {
        arm: [
            each.at(theta)
            for each, theta in zip(labs, climb(row, labs, STEPS, RATE, stale), strict=True)
        ]
        for arm, (row, stale) in ARMS.items()
    }


def measure(effort: Effort) -> Finding:
    """KL on the student's own fresh rollouts, arm over arm, tree by tree."""
    seeds = range(EACH * effort.trees)
    ends = {
        name: [trained(shape, inside, seeds) for shape, inside in settings]
        for name, settings in SETTINGS.items()
    }
    values = {
        name: {
            arm: np.concatenate([[*map(exact.objective, each[arm])] for each in found])
            for arm in ARMS
        }
        for name, found in ends.items()
    }

    def factor(what: str, name: str, upper: str, lower: str) -> Number:
        logs = t_interval(np.log(values[name][upper] / values[name][lower]))
        reach = {"reach": "teacher in reach", "limited": "teacher out of reach"}[name]
        interval = Interval(*np.exp(dataclasses.astuple(logs)))
        return estimated(f"factor by which {what} the KL, geometric mean, {reach}", interval)

    numbers = {
        f"{what}_{name}": factor(text, name, upper, lower)
        for what, text, upper, lower in (
            ("refresh", "fresh rollouts lower", "never, gamma 0", "fresh, gamma 0"),
            ("backup", "gamma 1 without them lowers", "never, gamma 0", "never, gamma 1"),
            ("both", "gamma 1 with them lowers", "fresh, gamma 0", "fresh, gamma 1"),
        )
        for name in SETTINGS
    }
    where = (
        f"{RECURRENT}, teachers of its family and others, and {BY_DEPTH}, others; "
        f"{len(seeds)} trees each, {STEPS} enumerated updates at {RATE}"
    )
    profile = {
        arm: np.mean([kl_by_position(p) for p in ends["limited"][0][arm]], 0) for arm in ARMS
    }
    return Finding(numbers, "refresh_limited", where, seeds, figure=drawn(profile))


def drawn(profile: dict[str, Array]) -> Figure:
    """KL by position, teacher out of reach."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for (arm, kl), style in zip(profile.items(), ("o-", "s-", "o--", "s--"), strict=True):
        axes.plot(np.arange(len(kl)), kl, style, markersize=4, label=arm)
    axes.set(
        xlabel="position t, tokens",
        ylabel="KL at t on own rollouts, nats",
        xticks=np.arange(RECURRENT.depth),
        title="recurrent student, teacher out of reach",
    )
    axes.legend(fontsize="small", title="rollouts, gamma", title_fontsize="small")
    return figure


def judge(numbers: Numbers) -> Judgement:
    """Fresh rollouts lower the KL, gamma 1 instead doesn't; a caveat if it does beside them."""
    refresh, instead, beside = (
        [numbers[f"{what}_{name}"] for name in SETTINGS] for what in ("refresh", "backup", "both")
    )
    needed = all(rules.above(x, 1) for x in refresh)
    # To stand in for fresh rollouts it would have to do half of what they do, on a log scale.
    idle = all(x.high**2 < y.value for x, y in zip(instead, refresh, strict=True))
    replaced = any(rules.above(x, 1) and x.low**2 > y.value for x, y in zip(instead, refresh))
    if needed and idle and any(rules.above(x, 1) for x in beside):
        return Judgement(
            CAVEAT,
            "the student can become its teacher: where it can't, the KL still grows with the "
            "position on fresh rollouts, and gamma = 1 on them lowers it further",
        )
    fails = any(rules.below(x, 1) for x in refresh) or replaced
    return Judgement(rules.settle(needed and idle, fails))


CLAIM = Claim(
    "E10",
    "exposure bias goes by rolling out again",
    "The divergence that a student shows on its own rollouts, after it was trained on others, goes "
    "away by drawing the rollouts anew and not by crediting tokens with the future.",
    measure,
    judge,
    wrong="On states that the start visits with every token possible, a student that can be its "
    "teacher gets there in the end without fresh rollouts: the factor is of trainings of a stated "
    "length, and twice the length gives the same verdict. Without fresh rollouts gamma = 1 has "
    "the future of the start's policy; without the token's ratio it diverges on many trees.",
    advice="Draw fresh rollouts first. If the KL on them still grows with the position when "
    "training has converged, the student can't be its teacher: then try gamma = 1.",
    needs="a language model trained on one batch of rollouts or on fresh ones, at gamma 0 and 1",
)

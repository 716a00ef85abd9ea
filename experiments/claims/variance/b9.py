"""B9: terminal rewards against local credit: variance and SNR against the horizon, and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.claim import (
    CAVEAT,
    HOLDS,
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
from experiments.claims.lab import Shape, lab, vectors
from experiments.claims.variance.chain import chain, draw
from experiments.claims.variance.horizon import GROUP, REWARDS, TERMINAL, checked, figures
from experiments.claims.variance.shared import LONG, snr
from experiments.claims.variance.shared import spread as variance

HORIZONS = np.array([32, 128, 512])
VOCAB, APART, COUNT = 3, 1.5, 512
SHORT, TREES = Shape(vocab=3, depth=1, eos=None), 10  # trees a seed
NAMES = {
    "none": "no baseline",
    "batch": "batch mean",
    "others": "mean of the group's others",
    "critic": "exact critic, lambda 1",
    "local": "exact critic, lambda 0",
}
GRADED = {"sum": "the sequence's log-ratio", "token": "whether one token is right"}
SIGMAS = np.logspace(-1, 1, 5)


def noisy(seed: int) -> np.ndarray:
    """What noise of +-sigma adds to REINFORCE's tr Var on a tree, over what there was, [sigmas]."""
    here = lab(LONG, seed).problem

    def pushed(reward: np.ndarray) -> np.ndarray:
        noisy = dataclasses.replace(here, reward=reward)
        return vectors(noisy, "opd_sampled", "reinforce")["reinforce"].sum(1)

    plain = variance(here.joint, pushed(here.reward))
    both = [np.stack([pushed(here.reward + s), pushed(here.reward - s)]) for s in SIGMAS]
    prob = np.stack([here.joint, here.joint]) / 2
    return np.array([variance(prob, x) / plain - 1 for x in both])


def better(shape: Shape, seeds: Sequence[int]) -> float:
    """Share of random trees on which REINFORCE's SNR is above the sampled row's.

    The reward is a random 0/1 of each rollout, which must not be the same for all.
    """
    found = []
    for seed in seeds:
        here = lab(shape, seed).problem
        if np.ptp(here.reward) > 0:
            h = vectors(here, "opd_sampled", "reinforce")
            found.append(snr(here, h["reinforce"]) > snr(here, h["opd_sampled"]))
    return float(np.mean(found))


def drawing(found: dict[str, dict[str, np.ndarray]]) -> Figure:
    """SNR against the horizon, medians over chains; one panel a reward."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(REWARDS), sharey=True)
    for axes, (reward, arms) in zip(panels, found.items(), strict=True):
        for name, label in {"enumerated": "enumerated", "sampled": "sampled", **NAMES}.items():
            style = "o-" if name in ("enumerated", "sampled") else "s--"
            axes.loglog(HORIZONS, np.median(arms[name][..., 1], 0), style, ms=4, label=label)
        axes.set_title(f"reward: {GRADED[reward]}", fontsize="medium")
        axes.set_xticks(HORIZONS, map(str, HORIZONS))
        axes.minorticks_off()
        axes.set_xlabel("tokens a rollout")
    panels[0].set_ylabel("SNR of one rollout")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize="small")
    return figure


def measure(effort: Effort) -> Finding:
    """Orders in the horizon; on a tree, orders in the noise."""
    found: dict[str, dict[str, np.ndarray]] = {}  # reward -> arm -> [seeds, horizons, 2]
    drawn = [draw(chain(VOCAB, i, APART), COUNT, int(HORIZONS[-1]), i) for i in effort.seeds]
    for reward in REWARDS:
        table = [[figures(x, int(h), reward) for h in HORIZONS] for x in drawn]
        found[reward] = {
            name: np.array([[cell[name] for cell in row] for row in table]) for name in table[0][0]
        }

    def order(text: str, values: np.ndarray):
        return estimated(f"order in the horizon of {text}", fits.exponent(HORIZONS, values))

    short, four = (better(x, range(TREES * len(effort.seeds))) for x in (SHORT, LONG))
    dense = found["sum"]
    numbers = {
        name: order(f"SNR, {text}", dense[name][..., 1])
        for name, text in {
            "enumerated": "enumerated",
            "sampled": "sampled",
            "to_go": "sampled, gamma 1",
        }.items()
    }
    for reward, arms in found.items():
        for name in TERMINAL:
            text = f"SNR, reward {GRADED[reward]}, {NAMES[name]}"
            numbers[f"{reward}_{name}"] = order(text, arms[name][..., 1])
    longest = [arms[n][:, -1, 1] for arms in found.values() for n in TERMINAL if n != "local"]
    numbers |= {
        "longest": spread(
            f"SNR of sampled / that of the best terminal arm but lambda 0, {HORIZONS[-1]} tokens",
            dense["sampled"][:, -1, 1] / np.max(longest, 0),
        ),
        "short": exactly("share of random trees of 1 token on which RL's SNR is higher", short),
        "four": exactly("share of random trees of 4 tokens on which it is", four),
        "across": order("tr Var, enumerated", dense["enumerated"][..., 0]),
        "sampled_variance": order("tr Var, sampled", dense["sampled"][..., 0]),
        "none_variance": order(f"tr Var, {GRADED['sum']}, no baseline", dense["none"][..., 0]),
        "batch_variance": order(f"tr Var, {GRADED['sum']}, batch mean", dense["batch"][..., 0]),
        "noise": order("what reward noise adds to tr Var", dense["score"][..., 0]),
        "sigma": estimated(
            "order in sigma of what reward noise adds to tr Var",
            fits.exponent(SIGMAS, np.array([noisy(i) for i in effort.seeds])),
        ),
        "check": worst("relative error of this code on a tree", checked(chain(VOCAB, 0, APART))),
    }
    where = (
        f"a table of logits by last token, V {VOCAB}, no EOS, {COUNT} rollouts in groups of "
        f"{GROUP}, {', '.join(map(str, HORIZONS))} tokens; {SHORT}; {LONG}"
    )
    return Finding(numbers, "sum_none", where, effort.seeds, figure=drawing(found))


ARMS = tuple(f"{reward}_{name}" for reward in REWARDS for name in TERMINAL if name != "local")
CREDITED = tuple(f"{reward}_local" for reward in REWARDS)


def judge(numbers: Numbers) -> Judgement:
    """Every terminal arm falls behind the sampled row, the more so the longer, and noise adds.

    With a critic that gives credit by token it need not: that is a condition.
    """
    sampled = numbers["sampled"]
    behind = all(rules.below(numbers[name], sampled.low) for name in ARMS)
    noise = rules.above(numbers["noise"], 0.5) and rules.near(numbers["sigma"], 2, 0.1)
    sound = numbers["check"].high <= rules.EXACT
    holds = behind and noise and sound and rules.above(numbers["longest"], 1)
    fails = sound and any(rules.above(numbers[name], sampled.high) for name in ARMS)
    verdict = rules.settle(holds, fails)
    conditions = []
    if numbers["short"].high > 0:
        conditions.append("a rollout has more than a few tokens")
    if any(not rules.below(numbers[name], sampled.low) for name in CREDITED):
        conditions.append(
            "no critic turns the terminal reward into credit by token: with an exact one and "
            "lambda = 0 the log-ratio paid at the end has the sampled row's order"
        )
    if verdict == HOLDS and conditions:
        return Judgement(CAVEAT, "; ".join(conditions))
    return Judgement(verdict)


CLAIM = Claim(
    "B9",
    "real RL is worse",
    "A terminal reward, noisy and broadcast over its rollout, gives RL's gradient a lower "
    "signal-to-noise ratio than sampled distillation's, the more so the longer the rollout.",
    measure,
    judge,
    wrong="A short rollout: at one token RL is the quieter on a good share of random trees "
    "(printed). The orders are of chains that forget their past, over the horizons "
    "named: longer rollouts may have others. Taking off a group's mean is taking off the "
    "others', times 1 - 1/G, and has its SNR. The code was run on a whole tree and gave the "
    "oracle's figures.",
    advice="For a terminal reward use a baseline, the best there is; a good critic with a small "
    "lambda is what dense rewards give for nothing.",
    needs="learned critics, and the horizon's effect in transformers",
)

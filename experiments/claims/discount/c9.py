"""C9: gamma > 0 rewards steering into easy or short subtrees."""

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
    spread,
)
from experiments.claims.discount.shared import (
    ENDLESS,
    FULL,
    MYOPIC,
    RATE,
    STEPS,
    TRAINED,
    average,
    costs,
    lengths,
    path_logits,
    runs,
)
from experiments.claims.lab import lab, vectors
from opd.measure import exact
from opd.measure.intervals import Interval, t_interval

SWEPT = TRAINED[1]
GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
STILL = 0.01  # a change of length that is none: half of what is seen out of reach


def row(gamma: float) -> str:
    return MYOPIC if gamma == 0 else f"opd@gamma={gamma:g}"


def change(done, base, read) -> np.ndarray:
    """log(reading / reading at gamma = 0) of the last students, tree by tree."""
    pairs = zip(done, base, strict=True)
    return np.array([np.log(read(s, p[-1:])[0] / read(s, q[-1:])[0]) for (s, p), (_, q) in pairs])


def per_token(start, path: np.ndarray) -> np.ndarray:
    """KL a token: V over the mean length."""
    return costs(start, path) / lengths(start, path)


def at_first(start, path: np.ndarray) -> np.ndarray:
    """KL of the first token's law, whose logits have no other use on ENDLESS."""
    here = start.problem
    return exact.divergence(exact.REVERSE, path_logits(start, path), here.logp_teacher)[:, 0]


def paid(start, path: np.ndarray) -> np.ndarray:
    return average(start, path, start.problem.reward)


def snr(here, h: np.ndarray) -> float:
    """|E S|^2 / tr Var S of one rollout."""
    parts = exact.decompose(here, h)
    return float(parts.mean @ parts.mean) / parts.total


def noise(effort: Effort) -> list[float]:
    """SNR at gamma = 1 over that at gamma = 0, the enumerated row, at the start."""
    found = []
    for seed in effort.seeds:
        here = lab(SWEPT, seed, inside=False).problem
        h = vectors(here, MYOPIC, FULL)
        found.append(snr(here, h[FULL]) / snr(here, h[MYOPIC]))
    return found


def measure(effort: Effort) -> Finding:
    """Exact trainings from one start at each gamma, read against those at gamma = 0."""
    trees = 8 * effort.trees
    in_reach, off = runs(SWEPT, MYOPIC, trees)
    swept = {g: runs(SWEPT, row(g), trees) for g in GAMMAS}
    (other_in, other), (full_other_in, other_off) = (
        runs(TRAINED[0], name, trees) for name in (MYOPIC, FULL)
    )
    _, endless = runs(ENDLESS, MYOPIC, trees)
    _, endless_full = runs(ENDLESS, FULL, trees)

    def of(done, base, read) -> Interval:
        return t_interval(change(done, base, read))

    full_in, full = swept[1.0]
    shorter = [of(swept[g][1], off, lengths) for g in GAMMAS]
    cheaper = [of(swept[g][1], off, costs) for g in GAMMAS]
    rewards = [
        paid(s, p[-1:])[0] - paid(s, q[-1:])[0] for (s, p), (_, q) in zip(full, off, strict=True)
    ]
    numbers = {
        "shorter": estimated("log length, gamma = 1 less gamma = 0, out of reach", shorter[-1]),
        "half": estimated("the same, gamma = 0.5", shorter[2]),
        "recurrent": estimated("the same, gamma = 1, recurrent", of(other_off, other, lengths)),
        "fading": estimated(
            "the same, recurrent, a teacher in reach", of(full_other_in, other_in, lengths)
        ),
        "within": estimated(
            "the same, gamma = 1, a teacher in reach", of(full_in, in_reach, lengths)
        ),
        "cost": estimated("log V, gamma = 1 less gamma = 0, out of reach", cheaper[-1]),
        "token": estimated("log of KL a token, likewise", of(full, off, per_token)),
        "first": estimated(
            "log of the first token's KL, no EOS", of(endless_full, endless, at_first)
        ),
        "easy": estimated("log V there", of(endless_full, endless, costs)),
        "reward": estimated(
            "E R of a random reward, gamma = 1 less gamma = 0", t_interval(np.array(rewards))
        ),
        "snr": spread("SNR at gamma = 1 / SNR at gamma = 0, at the start", noise(effort)),
    }
    where = (
        f"{SWEPT}; {TRAINED[0]}; {ENDLESS}; {trees} trees each, {STEPS} steps of plain ascent at "
        f"rate {RATE} along exact expectations; gamma {GAMMAS}"
    )
    return Finding(numbers, "shorter", where, range(trees), figure=figure(shorter, cheaper))


def figure(shorter: list[Interval], cheaper: list[Interval]) -> Figure:
    drawn = Figure((5, 3), layout="constrained")
    axes = drawn.subplots()
    for name, line in ("mean length", shorter), ("V (nats a rollout)", cheaper):
        middle, low, high = (
            np.exp([getattr(x, end) for x in line]) for end in ("value", "low", "high")
        )
        axes.errorbar(GAMMAS, middle, (middle - low, high - middle), marker="o", label=name)
    axes.axhline(1, color="k", lw=0.6)
    axes.set(xlabel="gamma", ylabel="final value / value at gamma = 0")
    axes.legend(fontsize=8)
    return drawn


def judge(numbers: Numbers) -> Judgement:
    """Short: rollouts shrink. Easy: the first token is given up while V falls."""
    short = rules.below(numbers["shorter"], 0) and rules.below(numbers["recurrent"], 0)
    easy = rules.above(numbers["first"], 0) and rules.below(numbers["easy"], 0)
    other = rules.above(numbers["shorter"], 0) or rules.below(numbers["first"], 0)
    if short and easy and rules.near(numbers["within"], 0, STILL):
        return Judgement("holds with caveat", CAVEAT)
    return Judgement(rules.settle(short and easy, other))


CAVEAT = (
    "the student can't match the teacher, or doesn't yet: the pull fades as they agree, and where "
    "they can all discounts end at the teacher"
)
CLAIM = Claim(
    "C9",
    "gamma rewards easy or short subtrees",
    "A discount above 0 rewards steering into subtrees that are short, or easy to imitate, over "
    "matching the teacher where one is.",
    measure,
    judge,
    wrong="Shorter rollouts could just be the better match. So there are trees without an EOS, and "
    "a first token whose logits serve nothing else: gamma = 1 gives up its match, which gamma = 0 "
    "has for free, for an easier future. Steps that overshoot shorten rollouts too, with students "
    "that could match the teacher; at a tenth of the rate the lengths out of reach are the same.",
    advice="Use gamma = 0 unless V itself is the goal; with gamma > 0 watch the length and the KL "
    "a token, not V alone.",
    needs="a transformer on a task with long completions: experiments/gamma saw no length move at "
    "3.5 tokens",
)

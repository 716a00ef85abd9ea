"""B3: "guaranteed to be a reduction, never an increase": tr Var(S) < tr Var(G) is looked for."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
    worst,
)
from experiments.claims.lab import Shape, lab, vectors
from experiments.claims.search import Found, search, simplify
from experiments.claims.variance.shared import MAIN, SMALLEST, at, free, read
from opd.measure import exact
from opd.measure.exact import Problem

# From the smallest up: one free parameter, two tokens, two of them a rollout.
SHAPES = (SMALLEST, Shape(vocab=2, depth=2, eos=None, student="recurrent", width=1), MAIN)
STEPS = 60


def gain(shape: Shape):
    """1 - tr Var(S) / tr Var(G), by the oracle: above 0 where enumerating makes it worse."""

    def value(point: np.ndarray) -> float:
        here = at(shape, point)
        parts = exact.decompose(here, exact.sampled(here).h)
        return 1 - parts.total / parts.across - 0.05 if parts.across > 1e-6 else -np.inf

    return value


def ratio(here: Problem) -> float:
    """tr Var of the library's sampled row over that of its enumerated one, whole rollouts."""
    h = vectors(here, "opd_sampled", "opd")
    sampled, enumerated = (exact.group_variance(here, h[row].sum(1)) for row in h)
    return sampled / enumerated


def looked_for(shape: Shape, effort: Effort) -> Found:
    """From random starts within the budget."""
    return search(gain(shape), free(shape), effort.starts, STEPS, seed=0)


def smallest(shape: Shape, found: Found) -> Problem:
    """What a search found, made round."""
    return at(shape, simplify(gain(shape), found.point))


def per_position(effort: Effort) -> list[float]:
    """The least tr Var(h_t) / tr Var(g_t) over positions t > 0, on random trees."""
    found = []
    for seed in effort.seeds:
        here = lab(SHAPES[-1], seed).problem
        h = vectors(here, "opd_sampled", "opd")
        found += [
            exact.group_variance(here, h["opd_sampled"][:, t])
            / exact.group_variance(here, h["opd"][:, t])
            for t in range(1, SHAPES[-1].depth)
        ]
    return found


def measure(effort: Effort) -> Finding:
    """Searches each shape; the smallest shape's example is made round and read back."""
    found = {shape: looked_for(shape, effort) for shape in SHAPES}
    hits = [shape for shape in SHAPES if found[shape].successes]
    ratios = {shape: ratio(at(shape, found[shape].point)) for shape in SHAPES}
    example, least = None, min(ratios.values())
    if hits:
        here = smallest(hits[0], found[hits[0]])
        least = ratio(here)
        h = vectors(here, "opd_sampled", "opd")
        example = (
            f"{hits[0]}: tr Var(S) / tr Var(G) = {least:.3f}. Enumerating takes the noise of a "
            "token out of its own term, and with it what made up for the state that the token "
            f"leads to.\n\n{read(here, S=h['opd_sampled'].sum(1), G=h['opd'].sum(1))}"
        )
    numbers = {
        "ratio": exactly("tr Var(sampled) / tr Var(enumerated) of the example", least),
        "share": spread(
            "share of starts that end below 1, by shape", [f.share for f in found.values()]
        ),
        "position": worst(
            "tr Var(g_t) / tr Var(h_t), one position", 1 / np.array(per_position(effort))
        ),
    }
    where = "; ".join(map(str, SHAPES)) + f"; {effort.starts} starts of at most {STEPS} steps each"
    return Finding(numbers, "ratio", where, effort.seeds, example)


def judge(numbers: Numbers) -> Judgement:
    """Fails by one example below 1; a search that finds none proves nothing."""
    fails = rules.below(numbers["ratio"], 1 - rules.CLEAR)
    repaired = rules.settle(
        numbers["position"].high <= 1 + rules.EXACT, numbers["position"].high > 1 + rules.CLEAR
    )
    return Judgement(rules.settle(False, fails), repaired=repaired)


CLAIM = Claim(
    "B3",
    "never an increase",
    "Summing over the vocabulary in closed form is guaranteed to reduce the variance of a "
    "rollout's gradient, and never increases it.",
    measure,
    judge,
    repaired="At one position of a rollout, its state random, enumerating never increases the "
    "variance: tr Var(h_t) >= tr Var(g_t).",
    wrong="An example that is a rounding error, or a property of the oracle's formulas: it is at "
    "least 5 % below 1, made round, and the library's own rows are measured on it.",
    advice="Measure the cross term (the probe prints it) before trusting that enumeration pays on "
    "whole rollouts; per state it always does.",
)

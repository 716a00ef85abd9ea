"""D8: the sampler's law is not quite the trainer's: does a truncated token ratio repair it?"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.importance.shared import SHAPES, on_states
from experiments.claims.lab import lab, mean, relative, rollout, vectors
from opd.measure.exact import Problem

PLAIN, ENUMERATED = "opd_sampled", "opd"
TRUNCATED = "opd_sampled@importance=token,ratio_rule=truncate,high=2"
TOKEN, PREFIX = "opd_sampled@importance=token", "opd_sampled@importance=prefix_inclusive"
ROWS = (PLAIN, ENUMERATED, TRUNCATED, TOKEN, PREFIX)
TEMPERATURE = 0.9
REPAIRED, BARELY = 0.1, 0.5  # of the bias that is left


def rounded(logits: np.ndarray) -> np.ndarray:
    """Logits that went through bfloat16."""
    return np.asarray(jnp.asarray(logits).astype(jnp.bfloat16).astype(jnp.float64))


SAMPLERS = {"bfloat16": rounded, f"temperature {TEMPERATURE}": lambda x: x / TEMPERATURE}


def biases(here: Problem, sampler: Problem) -> dict[str, float]:
    """Relative bias of each row on the sampler's rollouts, whose log-probabilities it knows."""
    h = vectors(here, *ROWS, batch=rollout(here, sampler))
    found = {row: mean(here, h[row], sampler) for row in ROWS}
    wanted = on_states(here, here)
    same = relative(found[TOKEN], found[ENUMERATED])
    return {row: relative(found[row], wanted) for row in ROWS} | {"same": same}


def measure(effort: Effort) -> Finding:
    """Two mismatches; what each row's expectation is off by, enumerated."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SAMPLERS}
    for shape in SHAPES:
        for seed in range(2 * effort.trees):
            here = lab(shape, seed, inside=seed % 2 == 0).problem
            for name, law in SAMPLERS.items():
                sampler = dataclasses.replace(here, logits=law(here.logits))
                found[name].append(biases(here, sampler))
    every = [one for name in SAMPLERS for one in found[name]]
    numbers = {
        "left": spread(
            "share of the sampled row's bias that a truncated token ratio leaves",
            [one[TRUNCATED] / one[PLAIN] for one in every],
        ),
        "enumerated": spread(
            "bias of the enumerated row over the sampled row's, neither corrected",
            [one[ENUMERATED] / one[PLAIN] for one in every],
        ),
        "same": worst(
            "relative error of E(sampled x token ratio) against E(enumerated x 1)",
            [one["same"] for one in every],
        ),
        "prefix": worst(
            "relative bias with the inclusive prefix's ratio", [one[PREFIX] for one in every]
        ),
    }
    for name in SAMPLERS:
        for label, row in (
            ("sampled", PLAIN),
            ("truncated", TRUNCATED),
            ("enumerated", ENUMERATED),
        ):
            numbers[f"{name}, {label}"] = spread(
                f"relative bias, {name}, {label}", [one[row] for one in found[name]]
            )
    where = "; ".join(map(str, SHAPES)) + "; the sampler's log-probabilities are known"
    return Finding(numbers, "left", where, range(2 * effort.trees))


def judge(numbers: Numbers) -> Judgement:
    """Repaired where a tenth of the bias is left at most; not where half of it is on some tree."""
    both = max(numbers["left"].high, numbers["enumerated"].high)
    exact_parts = max(numbers["same"].high, numbers["prefix"].high)
    repaired = rules.settle(exact_parts <= rules.EXACT, exact_parts > rules.CLEAR)
    return Judgement(rules.settle(both <= REPAIRED, both > BARELY), repaired=repaired)


CLAIM = Claim(
    "D8",
    "sampler and trainer don't agree",
    "Where the sampler's probabilities differ from the trainer's (precision, temperature), "
    "truncated importance sampling of tokens takes away the sampled estimator's bias, and the "
    "enumerated one hardly needs it.",
    measure,
    judge,
    repaired="A token's ratio takes away the action's part of the bias and leaves the states', "
    "which is the enumerated row's; the inclusive prefix's ratio takes away all of it.",
    wrong="A cap that binds would leave a bias of its own: untruncated ratios leave the same. The "
    "sizes are given beside the shares: by rounding alone all of them are small.",
    advice="Record the sampler's own log-probabilities. Rounding costs little with any of them; a "
    "temperature is another policy, and a ratio of tokens leaves its states.",
    needs="the mismatch of a real sampler, and whether training notices it",
)

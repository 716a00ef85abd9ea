"""B2: the three-term identity for the variance of a rollout's summed gradient."""

from __future__ import annotations

import numpy as np

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
    worst,
)
from experiments.claims.lab import Shape, lab, vectors
from experiments.claims.variance.shared import LONG, MAIN, Parts, parts
from opd.measure import exact, intervals
from opd.measure.exact import Problem
from opd.measure.intervals import Interval, Moments, RowSpec
from opd.method import facts, table

SHAPES = (MAIN, LONG, Shape(vocab=2, depth=3, eos=None, prompts=2))
ROWS = ("opd_sampled", "opd_baseline", "opd_sampled@divergence=jsd,argument=0.5")
PARTNERS = tuple(facts.partner(table.parse(row)).name for row in ROWS)
FUTURE = "opd_sampled@gamma=1"


def identities(here: Problem) -> tuple[list[Parts], Parts]:
    """The parts of each row with the partner that the table names; and of one with a future.

    The last has no enumerated partner in the table: the oracle's E[h_t|s_t] stands in.
    """
    h = vectors(here, *ROWS, FUTURE, *dict.fromkeys(PARTNERS))
    future = exact.at_states(here.tree, exact.partner(here, h[FUTURE]))
    pairs = zip(ROWS, PARTNERS, strict=True)
    return [parts(here, h[a], h[b]) for a, b in pairs], parts(here, h[FUTURE], future)


def probed(here: Problem, draws: int) -> Interval:
    """The cross term as the probe estimates it from drawn rollouts, over tr Var(S)."""
    h = vectors(here, *ROWS, FUTURE, *dict.fromkeys(PARTNERS))
    both = np.stack([h["opd_sampled"].sum(1), h["opd"].sum(1)], 1)  # [N, 2, M]
    drawn = both[np.random.default_rng(0).choice(len(both), draws, p=here.joint)]
    total = drawn.sum(0)
    moments = Moments(drawn @ drawn.swapaxes(1, 2), total @ total.T, drawn, group_size=1)
    (figures,) = intervals.estimate(moments, [RowSpec(0, partner=1)])
    size = exact.group_variance(here, both[:, 0])
    cross = figures["cross"]
    return Interval(cross.value / size, cross.low / size, cross.high / size)


def measure(effort: Effort) -> Finding:
    """Each part from its own definition; their sum against tr Var(S)."""
    problems = [lab(shape, seed).problem for shape in SHAPES for seed in effort.seeds]
    found, future = zip(*map(identities, problems), strict=True)
    cross = [rows[0].cross / rows[0].total for rows in found]
    numbers = {
        "error": worst(
            "relative error of across + within + cross", [x.gap for rows in found for x in rows]
        ),
        "cross": spread("cross / total, sampled row", cross),
        "enumerated": exactly("cross / total of the first tree", cross[0]),
        "probed": estimated(
            f"the same, from {effort.draws} drawn rollouts", probed(problems[0], effort.draws)
        ),
        "future": spread("relative error where h_t holds the future", [x.gap for x in future]),
    }
    return Finding(numbers, "error", "; ".join(map(str, SHAPES)), effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity: holds at 1e-9."""
    return Judgement(rules.identity(numbers["error"]))


CLAIM = Claim(
    "B2",
    "three-term identity",
    "Where each term depends on its state and the action drawn there only, a rollout's summed "
    "gradient has the variance across + within + cross, with cross twice the sum over t < t' of "
    "E <h_t - g_t, g_t'>.",
    measure,
    judge,
    wrong="A part that was had by subtraction would make it true by construction: each is computed "
    "from its definition, the partner is the row that the table names. Its condition matters: "
    "with gamma = 1 the three parts miss part of the variance (printed).",
)

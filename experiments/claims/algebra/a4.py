"""A4: RL and OPD are one algebraic object: every row of the table against its published loss."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.claims import rules
from experiments.claims.claim import (
    FAILS,
    HOLDS,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
    worst,
)
from experiments.claims.published import errors
from opd.measure import losses
from opd.measure.losses import LOSSES, B, Case, T, V
from opd.method import table

Array = np.ndarray


def off_score(cotangent: Array) -> float:
    """|sum over tokens| of a cotangent [..., V] over its size: 0 for any sum of scores."""
    return float(np.linalg.norm(cotangent.sum(-1)) / np.linalg.norm(cotangent))


def logit_mse(case: Case) -> Array:
    """The gradient of the squared distance of logits, a loss that is no function of policies."""
    return np.asarray(2 * (jnp.asarray(case.logits) - case.teacher))


def measure(effort: Effort) -> Finding:
    """All rows and settings that have a published loss, at each seed."""
    names, found, outside = list(LOSSES), [], []
    for seed in effort.seeds:
        found += errors(seed, list(LOSSES)).values()
        outside.append(off_score(logit_mse(losses.draw(seed))))
    rows = {table.parse(name).row for name in names}
    signals = [{term.signal for term in table.ROWS[row].terms} for row in rows]
    numbers = {
        "error": worst("relative error of a row's gradient against autodiff of its loss", found),
        "rows": exactly("rows of the table", len(rows)),
        "missing": exactly(
            "rows of the table without a published loss", len(table.ROWS) - len(rows)
        ),
        "reward": exactly("rows with a reward", sum("reward" in s for s in signals)),
        "settings": exactly("rows and settings", len(names)),
        "outside": spread("part of a logit MSE's gradient that no weights give", outside),
    }
    where = f"{B} rollouts in groups of 2 with rewards, off-policy, of 1 to {T} tokens, V {V}"
    return Finding(numbers, "error", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity for every row; nothing is settled while a row has no published loss."""
    found, missing = rules.identity(numbers["error"]), numbers["missing"].value
    return Judgement(rules.settle(found == HOLDS and not missing, found == FAILS))


CLAIM = Claim(
    "A4",
    "RL and OPD are one algebraic object",
    "The gradients of RL and of distillation are one expression, a weighted sum of scores, in "
    "which methods differ by their weights a(v) only.",
    measure,
    judge,
    wrong="Losses that were written to fit the code: they are written from the papers on plain "
    "logits, with clips and gates as published, and share nothing with the library. A form so "
    "wide that anything fits: a loss of raw logits doesn't, as its gradient has a part that no "
    "weights give.",
)

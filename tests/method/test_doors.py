"""A [B] is no [B, T]: where B = T it would broadcast, as T numbers for each rollout, unseen."""

import dataclasses

import numpy as np
import pytest

from opd.method import baselines, importance, local, reduction, returns, table, weighing
from opd.method.coefficients import coefficients, weights
from opd.types import Rollout, TokenStats

B = T = 3
ROW, TABLE = np.ones(B, np.float32), np.ones((B, T), np.float32)
MASK, GROUP = np.ones((B, T), bool), np.zeros(B, np.int32)
ROLLOUT = Rollout(
    prompt=np.zeros((B, 1), np.int32),
    prompt_mask=np.ones((B, 1), bool),
    tokens=np.zeros((B, T), np.int32),
    mask=MASK,
    logp_behavior=TABLE,
    ended=np.ones(B, bool),
    group=GROUP,
    row=np.arange(B),
    reward=ROW,
    logp_proximal=TABLE,
    logp_reference=TABLE,
    value=TABLE,
)
STATS = TokenStats(TABLE, TABLE, TABLE, TABLE, TABLE)
OPD = table.parse("opd_baseline")
RULE = local.Rule("reverse_kl")
DRAWN = local.Rule("reverse_kl", expectation="resampled", k=2)

# Each door with an argument of a wrong shape.
REFUSED = {
    "terminal, a reward of every token": lambda: returns.terminal(TABLE, MASK),
    "terminal, of fewer rollouts": lambda: returns.terminal(ROW[:1], MASK),
    "discounted": lambda: returns.discounted(ROW, MASK, 1.0),
    "discounted, a column": lambda: returns.discounted(ROW[:, None], MASK, 1.0),
    "future": lambda: returns.future(ROW, MASK, 1.0),
    "mean": lambda: returns.mean(ROW, MASK, 1.0),
    "whole": lambda: returns.whole(ROW, MASK, 1.0),
    "mean_future": lambda: returns.mean_future(ROW, MASK, 1.0),
    "gae, reward": lambda: returns.gae(ROW, TABLE, MASK, 1.0, 1.0),
    "gae, value": lambda: returns.gae(TABLE, ROW, MASK, 1.0, 1.0),
    "vtrace, value": lambda: returns.vtrace(TABLE, ROW, TABLE, MASK, 1.0, 1.0, 1.0, 1.0),
    "vtrace, ratio": lambda: returns.vtrace(TABLE, TABLE, ROW, MASK, 1.0, 1.0, 1.0, 1.0),
    "baseline": lambda: baselines.baseline(ROW, MASK, GROUP, "group"),
    "baseline, mask": lambda: baselines.baseline(TABLE, MASK[0], GROUP, "group"),
    "baseline, group": lambda: baselines.baseline(TABLE, MASK, TABLE, "group"),
    "normalise": lambda: baselines.normalise(ROW, TABLE, MASK, GROUP, "whiten"),
    "normalise, mask": lambda: baselines.normalise(TABLE, TABLE, MASK[0], GROUP, "group_std"),
    "normalise, group": lambda: baselines.normalise(TABLE, TABLE, MASK, TABLE, "group_std"),
    "normalise, total": lambda: baselines.normalise(TABLE, ROW, MASK, GROUP, "group_return"),
    "optimal_token": lambda: baselines.optimal_token(TABLE, ROW, MASK, GROUP),
    "log_ratio": lambda: importance.log_ratio(ROW, TABLE, MASK, "token"),
    "log_ratio, behavior": lambda: importance.log_ratio(TABLE, ROW, MASK, "token"),
    "weight": lambda: importance.weight(TABLE, ROW, "clip", low=0.8, high=1.2),
    "bounded": lambda: importance.bounded(ROW, TABLE, "clip", low=0.8, high=1.2),
    "of_statistics": lambda: weighing.of_statistics(STATS, ROW, "agreement", boost=1.0),
    "of_positions": lambda: weighing.of_positions(ROW, "prefix", part=0.5),
    "of_outcome": lambda: weighing.of_outcome(TABLE, GROUP, "right", 0.5),
    "reduce": lambda: reduction.reduce(MASK[0], "sum"),
    "candidate_weights": lambda: local.candidate_weights(RULE, ROW, TABLE, None),
    "candidate_weights, uniforms": lambda: local.candidate_weights(DRAWN, TABLE, TABLE, ROW[:2]),
    "divergence": lambda: local.divergence(RULE, TABLE, ROW),
    "coefficients, group": lambda: coefficients(OPD, weights(OPD, ROLLOUT), STATS, TABLE),
} | {
    f"weights, {field}": lambda field=field, wrong=wrong: weights(
        OPD, dataclasses.replace(ROLLOUT, **{field: wrong})
    )
    for field, wrong in {
        "mask": MASK[0],
        "logp_behavior": ROW,
        "logp_proximal": ROW,
        "logp_reference": ROW,
        "value": ROW,
        "reward": TABLE,
        "ended": MASK,
        "group": TABLE,
    }.items()
} | {
    f"coefficients, {field}": lambda field=field: coefficients(
        OPD, weights(OPD, ROLLOUT), dataclasses.replace(STATS, **{field: ROW}), GROUP
    )
    for field in ("logp_student", "logp_teacher", "kl", "value")
}  # fmt: skip


@pytest.mark.parametrize("door", REFUSED)
def test_a_wrong_shape_is_refused(door):
    with pytest.raises(AssertionError, match="rank|shape"):
        REFUSED[door]()

"""The arms of the horizon's claim: rows with local credit and with a terminal reward, on chains."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.claims.lab import relative
from experiments.claims.variance.chain import (
    Chain,
    Drawn,
    enumerated,
    gradients,
    one_token,
    summed,
)
from experiments.claims.variance.shared import spread as variance
from opd.measure import exact, intervals
from opd.measure.intervals import Moments, RowSpec

GROUP = 4  # rollouts a group
CRITIC = "reinforce@baseline=value,returns=gae,lam={}"
LOCAL = {"enumerated": "opd", "sampled": "opd_sampled", "to_go": "opd_sampled@gamma=1"}
# The last has the least noise and, its critic being exact, the mean of all that hold the reward.
TERMINAL = {
    "none": "reinforce",
    "batch": "reinforce@baseline=batch",
    "others": "rloo",
    "critic": CRITIC.format(1),
    "local": CRITIC.format(0),
}
SCORE = "k1_loss"  # sum_t grad log pi(y_t): what one unit of a reward's noise is multiplied by
ROWS = (*LOCAL.values(), *TERMINAL.values(), SCORE)
REWARDS = {"sum": summed, "token": one_token}


def moments(x: np.ndarray) -> Moments:
    """Of gradients [N, K, M] of rollouts, by groups of GROUP."""
    mean = x.reshape(-1, GROUP, *x.shape[1:]).mean(1)
    total = mean.sum(0)
    return Moments(mean @ mean.swapaxes(1, 2), total @ total.T, mean, GROUP)


def figures(drawn: Drawn, horizon: int, reward: str) -> dict[str, tuple[float, float]]:
    """tr Var of a rollout and SNR of each row, as the probe estimates them."""
    found = gradients(drawn, ROWS, horizon, REWARDS[reward](drawn, horizon), GROUP)
    made = intervals.estimate(
        moments(np.stack(list(found.values()), 1)), [RowSpec(i) for i in range(len(ROWS))]
    )
    by_row = dict(zip(ROWS, made, strict=True))
    signal = by_row[TERMINAL["local"]]["mean_square"].value
    terminal = {
        name: (by_row[row]["total"].value, signal / by_row[row]["total"].value)
        for name, row in TERMINAL.items()
    }
    local = {
        name: (by_row[row]["total"].value, by_row[row]["snr"].value) for name, row in LOCAL.items()
    }
    if reward == "sum":  # of the same mean as the sum of w, broadcast
        local["to_go"] = (local["to_go"][0], signal / local["to_go"][0])
    return {**local, **terminal, "score": (by_row[SCORE]["total"].value, 0.0)}


def checked(of: Chain) -> list[float]:
    """Errors of this code on a tree, every rollout in place of drawn ones, against the oracle.

    Of each reward: tr Var of the rows, and the means of the terminal arms.
    """
    length, errors = 4, []
    plain = enumerated(of, length)
    tokens = plain.tree.tokens
    every = Drawn(of, tokens, np.where(np.arange(length) == 0, 0, 1 + np.roll(tokens, 1, axis=1)))
    terminal = [TERMINAL[name] for name in ("none", "critic", "local")]
    for reward in REWARDS.values():
        graded = reward(every, length)
        here = dataclasses.replace(plain, reward=graded.reward)
        found = gradients(every, (*LOCAL.values(), *terminal), length, graded, 1)
        oracle = (
            exact.enumerated(here),
            exact.sampled(here),
            exact.sampled(here, gamma=1.0),
            exact.reinforce(here),
        )
        for row, wanted in zip((*LOCAL.values(), terminal[0]), oracle, strict=True):
            size = exact.group_variance(here, wanted.h.sum(1))
            errors.append(abs(variance(here.joint, found[row]) - size) / size)
        mean = exact.target_gradient(here, "reward")
        errors += [relative(here.joint @ found[row], mean) for row in terminal]
    mean = exact.target_gradient(plain, "sequence")  # of the sum of w, broadcast or to go
    return [*errors, relative(plain.joint @ found[LOCAL["to_go"]], mean)]

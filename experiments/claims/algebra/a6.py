"""A6: -KL_t and -log pi/p of the token are not the same reward: the myopic term is between them."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.algebra.shared import WHERE, problems
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.lab import mean, relative, vectors
from opd.measure import exact

GAMMAS = (0.0, 0.5, 1.0)
ROWS = tuple(f"{row}@gamma={g:g}" for row in ("kl_advantage", "opd_sampled") for g in GAMMAS)


def measure(effort: Effort) -> Finding:
    """Expected gradients of both rewards at each discount; their difference against the myopic."""
    apart, named, later = [], [], []
    for here in problems(effort):
        h = vectors(here, *ROWS, "opd")
        found = {row: mean(here, h[row]) for row in h}
        myopic = exact.target_gradient(here, "myopic")
        for gamma in GAMMAS:
            state, token = (
                found[f"kl_advantage@gamma={gamma:g}"],
                found[f"opd_sampled@gamma={gamma:g}"],
            )
            wanted = exact.target_gradient(here, "discounted", gamma=gamma)
            apart.append(relative(state, token))
            named += [relative(token - state, myopic), relative(token - state, found["opd"])]
            later.append(np.linalg.norm(state - (wanted - myopic)) / np.linalg.norm(wanted))
    numbers = {
        "apart": spread("relative difference of the expected gradients, gamma 0, 0.5, 1", apart),
        "named": worst("relative error of the difference against the myopic gradient", named),
        "later": worst("relative error of -KL_t's gradient against the future's part", later),
    }
    return Finding(numbers, "apart", WHERE, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Fails where the two differ clearly on a tree."""
    return Judgement(
        rules.identity(numbers["apart"]),
        repaired=rules.settle(
            max(numbers["named"].high, numbers["later"].high) <= rules.EXACT,
            max(numbers["named"].high, numbers["later"].high) > rules.CLEAR,
        ),
    )


CLAIM = Claim(
    "A6",
    "-KL_t and the sampled log ratio as rewards",
    "The enumerated -KL_t and the sampled -log pi/p are the same per-token reward but for noise, "
    "as the one is the other's expectation.",
    measure,
    judge,
    repaired="At every discount their expected gradients differ by exactly the myopic term: both "
    "credit a token with what comes later, and only the log ratio with the token itself.",
    wrong="A difference at one discount only: gamma 0, 0.5 and 1 give the same one, and it is the "
    "enumerated row's own gradient as well as the oracle's.",
    advice="The mean of a reward may replace it only where it doesn't depend on the action that "
    "is graded. Use the sampled log ratio, or enumerate now and let -KL_t stand for later tokens "
    "only.",
)

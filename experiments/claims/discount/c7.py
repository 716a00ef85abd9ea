"""C7: a reward at the end with gamma = 0: what is learned?"""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.discount.shared import RATE, STEPS, average, lengths, rewarded, train
from experiments.claims.lab import Lab, Shape, lab, vectors

FIXED = Shape(eos=None, width=2)  # the last token is at one position
FREE = Shape(depth=4, width=2)  # EOS may end it anywhere
SHORT, LONG = "reinforce@gamma=0", "reinforce"


def earlier(start: Lab) -> float:
    """The largest |h_t| before a rollout's last token over the largest at it."""
    here = start.problem
    sizes = np.linalg.norm(vectors(here, SHORT)[SHORT], axis=-1)
    last = np.arange(start.shape.depth) == here.tree.length[:, None] - 1
    return float(np.where(last, 0.0, sizes).max() / np.where(last, sizes, 0.0).max())


def gains(labs: list[Lab], row: str) -> list[float]:
    """E R at the end of exact training less E R at the start."""
    found = zip(labs, train(labs, row), strict=True)
    paid = [average(start, path[[0, -1]], start.problem.reward) for start, path in found]
    return [last - first for first, last in paid]


def measure(effort: Effort) -> Finding:
    """Rewards that the first token decides, that all tokens decide, and that none does."""
    fixed = [lab(FIXED, seed) for seed in effort.seeds]
    free = [lab(FREE, seed) for seed in effort.seeds]
    first = [rewarded(each, (FIXED.tree.tokens[:, 0] == 1).astype(float)) for each in fixed]
    none = [rewarded(each, np.ones(len(FREE.tree.tokens))) for each in free]
    stopped = [
        np.diff(lengths(start, path[[0, -1]]))[0]
        for start, path in zip(none, train(none, SHORT), strict=True)
    ]
    numbers = {
        "earlier": worst(
            "largest |h_t| before the last token / at it", [earlier(each) for each in fixed + free]
        ),
        "first": worst("|gain in E R|, the first token decides", np.abs(gains(first, SHORT))),
        "long": spread("the same at gamma = 1", gains(first, LONG)),
        "all": spread("gain in E R, all tokens decide", gains(fixed, SHORT)),
        "all_long": spread("the same at gamma = 1", gains(fixed, LONG)),
        "stopped": spread("change of mean length, no token decides and EOS may end it", stopped),
    }
    where = f"{FIXED}; {FREE}; {STEPS} steps of plain ascent at rate {RATE}, exact expectations"
    return Finding(numbers, "first", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Nothing before the last token; a caveat where the last token, or when to stop, is learned."""
    silent = max(numbers["earlier"].high, numbers["first"].high) <= rules.EXACT
    there = rules.above(numbers["long"], rules.CLEAR)  # so that it could have been learned
    heard = max(numbers["earlier"].high, numbers["first"].high) > rules.CLEAR
    last = numbers["all"].high > rules.CLEAR
    if silent and there and last:
        return Judgement("holds with caveat", CAVEAT)
    return Judgement(rules.settle(silent and there, heard))


CAVEAT = (
    "the last token decides nothing: it alone is paid, so that its own choice is learned, and with "
    "an EOS so is to stop early"
)
CLAIM = Claim(
    "C7",
    "sparse reward with gamma = 0",
    "With a reward at the end of a rollout only, gamma = 0 learns nothing.",
    measure,
    judge,
    wrong="A tree on which nothing could be learned, or parameters that the last token shares with "
    "the first: gamma = 1 raises E R on the same trees, and the students are recurrent.",
    advice="Terminal rewards need gamma = 1, or a critic that brings the reward forward. gamma = 0 "
    "is for signals that grade each token.",
    needs="what gamma = 0 does to the length of a transformer's rollouts under a verifier",
)

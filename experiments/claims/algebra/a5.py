"""A5: a detached -KL_t for a reward in PPO or GRPO teaches nothing at gamma = 0."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules, trees
from experiments.claims.algebra.shared import (
    WHERE,
    at_point,
    cosine,
    point_size,
    problems,
)
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
from experiments.claims.lab import (
    Shape,
    coupled,
    group_mean,
    mean,
    problem,
    relative,
    rollout,
    vectors,
)
from experiments.claims.search import search, simplify
from opd.measure import exact
from opd.measure.exact import Problem

Array = np.ndarray
SMALLEST = Shape(vocab=2, depth=1, eos=None, student="constant")
STEPS = 60
PPO = "baseline=value,returns=gae,lam=0.95,importance=token,ratio_rule=clip"
NOW = ("kl_advantage", f"kl_advantage@{PPO}")  # gamma = 0: plain, and in PPO with a critic
LATER, RLOO = "kl_advantage@gamma=1", "kl_advantage@gamma=1,baseline=leave_one_out"
GRPO = "kl_advantage@gamma=1,baseline=group,normaliser=group_std"
RIGHT = ("opd_sampled", f"opd_sampled@{PPO}", "opd_sampled@gamma=1")
RIGHT_RLOO = "opd_sampled@gamma=1,baseline=leave_one_out"


def detached(here: Problem) -> Array:
    """E of the policy gradient on r_t = -KL_t, detached, gamma = 0, by the oracle: [M]."""
    cost = exact.divergence(exact.REVERSE, here.logits, here.logp_teacher)
    return mean(here, exact.policy_gradient(here, exact.at_states(here.tree, -cost), 0.0).h)


def stuck(point: Array) -> float:
    """|grad KL| - 0.1 where the detached reward's gradient is zero: above 0 where it's stuck."""
    here = problem(SMALLEST, *at_point(SMALLEST, point))
    size = np.linalg.norm(exact.target_gradient(here, "myopic"))
    return size - 0.1 if np.linalg.norm(detached(here)) <= rules.EXACT * size else -np.inf


def share(found: Array, wanted: Array) -> float:
    """How much of the wanted gradient is found: 1 for all of it."""
    return float(found @ wanted / (wanted @ wanted))


def critic(here: Problem) -> Array:
    """Some critic's estimates [S]: any will do."""
    return np.random.default_rng(0).normal(size=len(here.logits))


def measure(effort: Effort) -> Finding:
    """Expected gradients of both rewards, plain, in PPO and in groups; and the least example."""
    nothing, ahead, along, repaired = [], [], [], []
    for here in problems(effort):
        myopic = exact.target_gradient(here, "myopic")
        full = exact.target_gradient(here, "sequence")
        h = vectors(here, *NOW, LATER, *RIGHT, batch=rollout(here, value=critic(here)))
        found = {row: mean(here, h[row]) for row in h}
        found |= {
            row: group_mean(here, g) for row, g in coupled(here, RLOO, GRPO, RIGHT_RLOO).items()
        }
        nothing += [np.linalg.norm(found[row]) / np.linalg.norm(myopic) for row in NOW]
        ahead += [relative(found[row], full - myopic) for row in (LATER, RLOO)]
        along += [cosine(found[row], full) for row in (LATER, GRPO)]
        repaired += [relative(found[row], myopic) for row in RIGHT[:2]]
        repaired += [relative(found[row], full) for row in (RIGHT[2], RIGHT_RLOO)]
    hit = search(stuck, point_size(SMALLEST), effort.starts, STEPS, seed=0)
    here = problem(SMALLEST, *at_point(SMALLEST, simplify(stuck, hit.point)))
    wanted = exact.target_gradient(here, "myopic")
    found = {row: mean(here, h) for row, h in vectors(here, "kl_advantage", "opd_sampled").items()}
    example = (
        f"{SMALLEST}: -grad KL is {np.round(wanted, 3)}; detached -KL as the reward gives "
        f"{np.round(found['kl_advantage'], 3) + 0.0}, log p/pi of the token "
        f"{np.round(found['opd_sampled'], 3)}.\n\n{trees.table(here)}"
    )
    numbers = {
        "share": exactly(
            "share of -grad KL that a detached -KL_t gives, in the example",
            share(found["kl_advantage"], wanted),
        ),
        "hits": exactly("share of starts that end in an example", hit.share),
        "nothing": worst("|E gradient| over |grad KL| at gamma 0, plain and in PPO", nothing),
        "ahead": worst("relative error at gamma 1, plain and RLOO, against the future's", ahead),
        "along": spread("cosine with the whole gradient at gamma 1, plain and GRPO", along),
        "repaired": worst("relative error with log p/pi(y_t) as the reward", repaired),
    }
    where = f"{WHERE}; {SMALLEST}, {effort.starts} starts of at most {STEPS} steps"
    return Finding(numbers, "share", where, effort.seeds, example)


def judge(numbers: Numbers) -> Judgement:
    """Fails by one example in which less than the whole gradient is left."""
    found = numbers["share"]
    verdict = rules.settle(rules.near(found, 1, rules.EXACT), rules.below(found, 1 - rules.CLEAR))
    return Judgement(verdict, repaired=rules.identity(numbers["repaired"]))


CLAIM = Claim(
    "A5",
    "swap the reward for -KL and keep the PPO or GRPO loop",
    "An RL loop becomes distillation by putting the per-token negative reverse KL in the place of "
    "its reward.",
    measure,
    judge,
    repaired="With the token's own log p/pi for a reward the loop has the reverse KL's gradient: "
    "per state at gamma 0, the sequence's at gamma 1.",
    wrong="A bug that zeroes the row: at gamma 1 the same row gives exactly the future's part of "
    "the gradient, in groups too, and a critic changes nothing.",
    advice="NEVER feed a detached, enumerated -KL_t to PPO or GRPO: it is a number of the state, "
    "hence a baseline, and its expected gradient at gamma 0 is ZERO however far the teacher is; "
    "at gamma 1 only what the token does to later states is learned, which may point away from the "
    "whole gradient, and the last token learns nothing. Use the log ratio of the sampled token as "
    "the reward (opd_sampled), or differentiate the KL (opd).",
)

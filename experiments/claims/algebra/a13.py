"""A13: distillation as RL with R = -log pi(y)/p(y): whether R is held fixed, on and off policy."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.claims import rules
from experiments.claims.algebra.shared import WHERE, labs, slope, through
from experiments.claims.claim import (
    CAVEAT,
    HOLDS,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    spread,
    worst,
)
from experiments.claims.lab import Lab, mean, relative, rollout, vectors
from opd.measure import exact
from opd.measure.exact import Problem

Array = np.ndarray
# The score times R held fixed; R's own gradient, -grad log pi(y), is k1's.
FIXED, RATIO, OWN = "reinforce", "reinforce@importance=trajectory", "k1_loss"
DRIFT = 0.3  # standard deviation of what the behavior's parameters differ by


def rewarded(here: Problem) -> Problem:
    """With -log pi(y)/p(y) of each sequence for its reward."""
    other = exact.sequence_prob(here.tree, here.logp_teacher)
    return dataclasses.replace(here, reward=np.log(other / here.given))


def means(here: Problem, behavior: Problem) -> dict[str, Array]:
    """Expectations [M] of the library's rows over a behavior's rollouts, by row."""
    h = vectors(here, FIXED, RATIO, OWN, batch=rollout(here, behavior))
    return {row: mean(here, h[row], behavior) for row in h}


def own_gradient(here: Problem, behavior: Problem) -> Array:
    """grad of E_mu R, mu held fixed [M], by complex steps."""

    def value(logits: Array) -> Array:
        return -np.log(exact.sequence_prob(here.tree, logits)) @ behavior.joint

    return through(here, slope(value, here.logits))


def older(found: Lab, seed: int) -> Problem:
    """A policy of the student's family nearby."""
    step = np.random.default_rng([seed, 13]).normal(size=found.theta.shape)
    return found.at(found.theta + DRIFT * step)


def measure(effort: Effort) -> Finding:
    """The rows on the student's own rollouts and on an older policy's, against -grad KL(y)."""
    on, off, named, fixed, free, ratio = [], [], [], [], [], []
    for number, found in enumerate(labs(effort)):
        here, behavior = rewarded(found.problem), older(found, number)
        wanted = exact.target_gradient(here, "sequence")
        size = np.linalg.norm(wanted)
        own, old = means(here, here), means(here, behavior)
        on += [relative(own[FIXED], wanted), relative(own[FIXED] + own[OWN], wanted)]
        off.append(np.linalg.norm(old[OWN]) / size)
        named.append(relative(old[OWN], own_gradient(here, behavior)))
        fixed.append(relative(old[FIXED], wanted))
        free.append(relative(old[FIXED] + old[OWN], wanted))
        ratio.append(relative(old[RATIO], wanted))
    numbers = {
        "on": worst("relative error on-policy, R held fixed and not", on),
        "off": spread("off-policy: |R's own gradient| over |grad KL(pi(y) || p(y))|", off),
        "fixed": spread("off-policy: relative error with R held fixed", fixed),
        "free": spread("off-policy: relative error with R differentiated too", free),
        "named": worst(
            "off-policy: relative error of R's own gradient, against its value's", named
        ),
        "ratio": worst("off-policy: relative error with R fixed and the rollout's ratio", ratio),
    }
    return Finding(numbers, "off", f"{WHERE}; behavior {DRIFT} away", effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Holds on-policy; a caveat where R's own gradient counts off-policy, or R fixed is biased."""
    errors = max(numbers["on"].high, numbers["named"].high)
    found = rules.settle(errors <= rules.EXACT, errors > rules.CLEAR)
    repaired = rules.identity(numbers["ratio"])
    if found == HOLDS and rules.different(numbers["off"]):
        return Judgement(CAVEAT, "the rollouts are drawn from the current policy", repaired)
    return Judgement(found, repaired=repaired)


CLAIM = Claim(
    "A13",
    "distillation is RL with R = -log pi(y)/p(y)",
    "Distillation is RL whose reward is -log pi(y)/p(y) of the whole sequence; that the reward "
    "holds the policy itself changes nothing.",
    measure,
    judge,
    repaired="Off-policy it is so with the whole rollout's ratio and the reward held fixed.",
    wrong="A behavior so close, or so far, that one of the two effects drowns: both are of the "
    "gradient's size at a drift of 0.3, and R's own gradient is a complex step of its value.",
    advice="Hold the log ratio fixed and draw rollouts afresh. Without a ratio, on an older "
    "policy's rollouts, differentiating the reward adds a push away from those rollouts, and "
    "holding it fixed is biased too.",
)

"""E5: the ceiling: RL can pass the teacher's expected reward, distillation cannot."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.claims import rules, trees
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
from experiments.claims.lab import Lab, Shape, lab, problem
from experiments.claims.learning.training import climb, expected_reward, teachers_reward
from experiments.claims.search import search, simplify
from opd.measure import exact

Array = np.ndarray

SHARED = (Shape(), Shape(vocab=4, depth=2, eos=None, student="by_depth"))
# The smallest student that can't be its teacher: one free parameter, two tokens, two a rollout.
SMALLEST = Shape(vocab=2, depth=2, eos=None, student="constant")
GRID = np.linspace(-6, 6, 12)  # starts, in logits of token 0, of the example's last check
STEPS, RATE = 4000, 0.5
FEW, LONG = 100, 40  # updates of a training within the search, and evaluations of its starts
SAME = 0.02  # of a reward between 0 and 1: what long trainings leave, and less than any gain
MARGIN = 0.1  # what the search looks for
EACH = 4  # labs for each of the effort's trees: they are trained side by side


def gains(labs: list[Lab], row: str, steps: int = STEPS) -> Array:
    """E R at the end of training less the teacher's, [labs]."""
    ends = climb(row, labs, steps, RATE)
    problems = [each.at(theta) for each, theta in zip(labs, ends, strict=True)]
    return np.array([expected_reward(p) - teachers_reward(p) for p in problems])


def right(each: Lab) -> Lab:
    """The same lab, where the teacher's likeliest answer is the one that is rewarded."""
    now = each.problem
    given = exact.sequence_prob(now.tree, now.logp_teacher)
    reward = (np.arange(len(given)) == given.argmax()).astype(float)
    return dataclasses.replace(each, problem=dataclasses.replace(now, reward=reward))


def at(teacher: Array, theta: Array) -> Lab:
    """The smallest student at theta [2], a teacher of logits [6], and a reward of 1 for 0 0."""
    reward = (SMALLEST.tree.tokens == 0).all(1).astype(float)
    logp_teacher = exact.log_softmax(teacher.reshape(-1, 2))
    return Lab(SMALLEST, theta, teacher, problem(SMALLEST, theta, logp_teacher, reward))


def gain(teacher: Array) -> float:
    """How far distillation from an even start ends above a teacher whose mode is right."""
    here = at(teacher, np.zeros(2))
    if not np.array_equal(right(here).problem.reward, here.problem.reward):
        return -np.inf
    return gains([here], "opd", FEW)[0] - MARGIN


def example(effort: Effort) -> tuple[float, float, str | None]:
    """The found teacher's gain, at the best of many starts, the share of hits, and the tables."""
    found = search(gain, 6, effort.starts, LONG, seed=0)
    teacher = simplify(gain, found.point) if found.successes else found.point
    labs = [at(teacher, np.array([x, 0.0])) for x in GRID]
    ends = [each.at(theta) for each, theta in zip(labs, climb("opd", labs, STEPS, RATE))]
    best = min(ends, key=exact.objective)
    gained = expected_reward(best) - teachers_reward(best)
    text = (
        f"{SMALLEST}; the answer 0 0, the teacher's likeliest, is worth 1, all others 0. Expected "
        f"reward of the teacher {teachers_reward(best):.3f}, of the distilled student "
        f"{expected_reward(best):.3f}.\n\n{trees.table(best)}"
    )
    return gained, found.share, text if found.successes else None


def measure(effort: Effort) -> Finding:
    """Trainings to the end where pi = p can be had; a search, and random teachers, where not."""
    seeds = range(EACH * effort.trees)
    distilled, added = [], []
    for shape in SHARED:
        labs = [lab(shape, seed, apart=0.3) for seed in seeds]
        distilled += list(np.abs(gains(labs, "opd")))
        room = [1 - teachers_reward(each.problem) for each in labs]
        added += list(gains(labs, "reinforce") / room)
    gained, share, text = example(effort)
    limited = {
        shape: [right(lab(shape, seed, apart=2.0, inside=False)) for seed in seeds]
        for shape in (*SHARED, SMALLEST)
    }
    above = [np.mean(gains(labs, "opd") > SAME) for labs in limited.values()]
    numbers = {
        "gain": exactly("E R of the example's distilled student less its teacher's", gained),
        "share": exactly("share of the search's starts that find one", share),
        "random": spread(
            "share of random teachers, right at their mode, that a student passes which can't be "
            "them, by student",
            above,
        ),
        "distilled": worst(
            "|E R of the distilled student less its teacher's|, in reach", distilled
        ),
        "rl": spread("share of what the teacher misses that REINFORCE adds, in reach", added),
    }
    where = (
        f"{'; '.join(map(str, SHARED))}, with teachers of their own family 0.3 away and "
        f"with others; {SMALLEST}; {len(seeds)} teachers each, {STEPS} enumerated updates at "
        f"{RATE}; {effort.starts} starts of at most {LONG} evaluations"
    )
    return Finding(numbers, "gain", where, seeds, text)


def judge(numbers: Numbers) -> Judgement:
    """Fails by one distilled student above its teacher; a search that finds none proves nothing."""
    fails = rules.above(numbers["gain"], SAME)
    ceiling, rl = numbers["distilled"], numbers["rl"]
    holds = rules.below(ceiling, SAME) and rules.above(rl, 0.5)
    refuted = ceiling.high > 5 * SAME or rules.below(rl, 0.5)
    return Judgement(rules.settle(False, fails), repaired=rules.settle(holds, refuted))


CLAIM = Claim(
    "E5",
    "the teacher is the ceiling",
    "Reinforcement learning can end above its teacher's expected reward; on-policy distillation "
    "cannot.",
    measure,
    judge,
    repaired="Where the student can be its teacher, distillation ends at the teacher's expected "
    "reward, and REINFORCE on the reward itself above it.",
    wrong="The example's student could be on its way, or in a poor local optimum: it is trained "
    "from 12 starts to the end, and the one of the lowest KL is shown. A teacher that is nearly "
    "always wrong would be no teacher: the search asks that its likeliest answer is the right one. "
    "A student that can be its teacher has no such example: that is the repaired form.",
    advice="Measure the student's own reward: a small student sharpens what it can't copy, for "
    "better where the teacher's mode is right and for worse where it is wrong. To pass the "
    "teacher on purpose, use its reward.",
    needs="a language model with a teacher of a known fault: verifier reward, distillation, and "
    "distillation then RL",
)

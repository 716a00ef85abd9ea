"""A11: SFT, REINFORCE, RLOO, GRPO, PPO and GAE as published, and which of them are biased."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
from experiments.claims.algebra.shared import SHAPES, slope, through, turned
from experiments.claims.claim import (
    CAVEAT,
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
from experiments.claims.lab import (
    Lab,
    coupled,
    group_mean,
    lab,
    mean,
    relative,
    rollout,
    vectors,
)
from experiments.claims.published import errors as published_errors
from opd.measure import exact
from opd.measure.exact import Problem
from opd.measure.losses import LOSSES
from opd.method import baselines, table

Array = np.ndarray
FAMILIES = ("sft", "reinforce", "rloo", "grpo", "dr_grpo", "ppo")
SIZE = 4  # rollouts a group: with 2 or 3, 0/1 rewards have one spread only
CENTRED = "grpo@normaliser=none"
LENGTH = "grpo@normaliser=none,reduction=sequence_mean"
SIZES = (2, 4, 16, 64)
HARD, LARGEST = 0.05, SIZES[-1]
WHOLE, SHORT = (f"ppo@reduction=sum,lam={lam}" for lam in ("1", "0.5"))


def of_families(seed: int) -> list[float]:
    """Errors of these families' rows against the losses of their papers."""
    rows = [name for name in LOSSES if table.parse(name).row in FAMILIES]
    return list(published_errors(seed, rows).values())


def sequence_forward_kl(here: Problem) -> Array:
    """-grad KL(p(y) || pi(y)) [M], by complex steps."""
    data = here.prompt_prob[here.tree.prompt] * exact.sequence_prob(here.tree, here.logp_teacher)

    def value(logits: Array) -> Array:
        return np.log(exact.sequence_prob(here.tree, logits)) @ data

    return through(here, slope(value, here.logits))


def true_value(here: Problem) -> Array:
    """E[R | s] [S]."""
    tree, found = here.tree, np.zeros(len(here.logits))
    for s in reversed(range(len(found))):  # children come later
        ends, goes = tree.leaf[s] >= 0, tree.child[s] >= 0
        after = np.where(ends, here.reward[tree.leaf[s]], 0.0)
        after = after + np.where(goes, found[tree.child[s]], 0.0)
        found[s] = here.probs[s] @ after
    return found


def graded(here: Problem, seed: int) -> Problem:
    """The same with rewards that are any number."""
    reward = np.random.default_rng(seed).normal(size=here.reward.shape)
    return dataclasses.replace(here, reward=reward)


def sft_error(found: Lab) -> float:
    """Of SFT on the teacher's rollouts against the forward KL of sequences."""
    here = found.problem
    teacher = dataclasses.replace(here, logits=here.logp_teacher)
    h = vectors(here, "sft", batch=rollout(here, teacher))["sft"]
    return relative(mean(here, h, teacher), sequence_forward_kl(here))


def with_critics(here: Problem, wanted: Array) -> tuple[list[float], float]:
    """Errors that must vanish: REINFORCE, lambda 1, a true critic; and a wrong one's, lambda .5."""
    wrong = np.random.default_rng(1).normal(size=len(here.logits))
    errors = []
    for value in (wrong, true_value(here)):
        batch = rollout(here, value=value)
        h = vectors(here, "reinforce", WHOLE, SHORT, batch=batch)
        errors.append({row: relative(mean(here, h[row]), wanted) for row in h})
    first, second = errors
    exactly_right = [first["reinforce"], first[WHOLE], second[WHOLE], second[SHORT]]
    return exactly_right, first[SHORT]


@lru_cache
def advantage(size: int) -> Array:
    """The library's advantage of a success, where k of a group's rollouts succeed: [size + 1]."""
    reward = np.arange(size) < np.arange(size + 1)[:, None]
    group, mask = jnp.zeros(size, int), jnp.ones((size, 1), bool)

    def normalised(total: jax.Array) -> jax.Array:
        centred = total - baselines.baseline(total, mask, group, "group")
        return baselines.normalise(centred, total, mask, group, "group_std")

    found = jax.vmap(normalised)(jnp.asarray(reward[..., None].astype(float)))
    return np.asarray(found)[:, 0, 0]


def prompt_weight(solved: float, size: int) -> float:
    """What GRPO weighs a prompt's gradient by, its 0/1 reward 1 in a share `solved` of rollouts.

    With k successes in a group the advantages are one number for these and one for the rest; the
    gradient is E k a(k) / G times the difference of their mean scores, without a normaliser
    solved (1 - solved) times it.
    """
    count = np.arange(size + 1)
    chance = np.array([math.comb(size, k) for k in count]) * solved**count
    chance = chance * (1 - solved) ** (size - count)
    return float((chance * count * advantage(size)).sum() / size / (solved * (1 - solved)))


def draw() -> Figure:
    """The weight of a prompt against the share of its rollouts that succeed."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    solved = np.linspace(0.01, 0.99, 49)
    for size in SIZES:
        weight = np.array([prompt_weight(p, size) for p in solved])
        axes.plot(solved, weight / prompt_weight(0.5, size), label=f"groups of {size}")
    axes.plot(solved, 0.5 / np.sqrt(solved * (1 - solved)), "k--", label="1 / std of the reward")
    axes.set_ylim(0, 6)
    axes.set_xlabel("share of the prompt's rollouts that succeed")
    axes.set_ylabel("weight of the prompt (1 at a half)")
    axes.legend()
    return figure


def measure(effort: Effort) -> Finding:
    """Against the papers' losses, and expectations against grad E R by enumeration of groups."""
    published, sft, right, critic = [], [], [], []
    length: list[float] = []
    std: dict[str, list[float]] = {"binary": [], "prompts": [], "graded": []}
    for seed in effort.seeds:
        published += of_families(seed)
        one, two = (lab(shape, seed) for shape in SHAPES)
        sft += [sft_error(one), sft_error(two)]
        tried = one.problem, two.problem, graded(one.problem, seed)
        for kind, here in zip(std, tried, strict=True):
            wanted = exact.target_gradient(here, "reward")
            exactly_right, wrong_critic = with_critics(here, wanted)
            right += exactly_right
            critic.append(wrong_critic)
            groups = coupled(here, "rloo", "grpo", CENTRED, LENGTH, size=SIZE)
            found = {row: group_mean(here, group) for row, group in groups.items()}
            right.append(relative(found["rloo"], wanted))
            right.append(relative(found[CENTRED], (1 - 1 / SIZE) * wanted))
            std[kind].append(turned(found["grpo"], wanted))
            if kind != "prompts":  # whose rollouts have one length
                length.append(turned(found[LENGTH], wanted))
    numbers = {
        "published": worst("relative error against autodiff of the published losses", published),
        "sft": worst("relative error of SFT against -grad KL(p(y) || pi(y))", sft),
        "right": worst("relative error of unbiased ones against grad E R", right),
        "std": spread(
            "sine of the angle that GRPO's std turns grad E R by: graded rewards", std["graded"]
        ),
        "prompts": spread("the same, two prompts and rewards of 0 and 1", std["prompts"]),
        "binary": worst("the same, one prompt and rewards of 0 and 1", std["binary"]),
        "hard": exactly(
            f"weight of a prompt solved at {HARD} over one at 0.5, GRPO's std, groups of {LARGEST}",
            prompt_weight(HARD, LARGEST) / prompt_weight(0.5, LARGEST),
        ),
        "length": spread("sine of the angle that GRPO's 1/|y| turns it by", length),
        "critic": spread("relative error of GAE at lambda 0.5 with a wrong critic", critic),
    }
    where = f"{'; '.join(map(str, SHAPES))}; groups of {SIZE}; losses on 4 rollouts, V 7"
    return Finding(numbers, "std", where, effort.seeds, figure=draw())


def judge(numbers: Numbers) -> Judgement:
    """Holds where all errors vanish; a caveat by one tree where something turns the gradient."""
    errors = max(numbers[name].high for name in ("published", "sft", "right"))
    found = rules.settle(errors <= rules.EXACT, errors > rules.CLEAR)
    turning = [name for name in ("std", "length", "critic") if numbers[name].high > rules.CLEAR]
    if found == HOLDS and turning:
        says = {
            "std": "GRPO without its division by the group's spread",
            "length": "GRPO without 1/|y|",
            "critic": "GAE with lambda 1 or a true critic",
        }
        return Judgement(CAVEAT, "; ".join(says[name] for name in turning))
    return Judgement(found)


CLAIM = Claim(
    "A11",
    "SFT and the RL methods as published",
    "SFT descends the forward KL to its data, and REINFORCE, RLOO, GRPO, and PPO with GAE climb "
    "the expected reward, as published.",
    measure,
    judge,
    wrong="An angle is taken after the best rescaling, so that a mere factor is no bias. Rewards "
    "of 0 and 1 on one prompt show none: the spread depends on the number of successes alone, "
    "which weighs prompts and not rollouts; two prompts, or graded rewards, show it. PPO's clip "
    "does nothing on-policy: it is tried off-policy, against its loss.",
    advice="Keep the group's mean (or leave one out) and drop the division by its spread and by "
    "|y|, or know what they do: in large groups the spread favours prompts that nearly always or "
    "hardly ever succeed, and 1/|y| favours short right answers and long wrong ones.",
)

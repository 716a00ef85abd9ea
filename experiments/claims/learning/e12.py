"""E12: the teacher's log ratio as the reward of a PPO or GRPO loop."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.claim import (
    CAVEAT,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    spread,
    worst,
)
from experiments.claims.lab import (
    STUDENTS,
    Lab,
    Shape,
    coupled,
    group_mean,
    lab,
    mean,
    problem,
    relative,
    rollout,
    vectors,
)
from opd.measure import exact
from opd.measure.exact import Problem
from opd.types import Rollout

Array = np.ndarray

SHAPES = (Shape(), Shape(vocab=4, depth=2, eos=None, student="by_depth"))
# The reward is log p - log pi of the whole rollout where a row takes a reward, of the token else.
CLIPPED = "opd_sampled@gamma=1,importance=token,ratio_rule=clip"
ALONE = (
    "reinforce",
    "ppo@reduction=sum,lam=1",
    "opd_sampled@gamma=1",
    "opd_sampled@gamma=1,baseline=value,returns=gae,lam=1",
    CLIPPED,
)
PUBLISHED, UNSCALED, OTHERS, PPO = "grpo", "grpo@normaliser=none", "rloo", "ppo"
BY_TOKEN = "opd_sampled@gamma=1,baseline=group,normaliser=group_std"
LOW, HIGH = 0.8, 1.2
GROUPED = (PUBLISHED, UNSCALED, OTHERS, PPO, BY_TOKEN)
GROUP = 3
NEARER = np.geomspace(1e-3, 1e-1, 5)  # the student's distance from its teacher
STALE = 0.3  # how far the policy is that has drawn a clipped row's rollouts


def swapped(now: Problem) -> Problem:
    """The same problem, its reward each rollout's log ratio of teacher and student."""
    ratio = exact.at_actions(now.tree, now.logp_teacher - now.logp)
    return dataclasses.replace(now, reward=ratio.sum(1))


def with_critic(now: Problem, seed: int, behavior: Problem | None = None) -> Rollout:
    """All rollouts, with a critic that knows nothing: its values are random."""
    value = np.random.default_rng(seed).normal(size=len(now.logits))
    return rollout(now, behavior, value=value)


def alone(now: Problem, wanted: Array, batch: Rollout) -> list[float]:
    """Relative errors of rows that look at one rollout."""
    return [relative(mean(now, h), wanted) for h in vectors(now, *ALONE, batch=batch).values()]


@partial(jax.jit, static_argnums=0)
def surrogate(shape: Shape, theta: jax.Array, logp_teacher, logp_behavior, prob) -> jax.Array:
    """PPO's clipped objective (Schulman et al. 2017, eq. 7) with the log ratio as the reward."""
    tree = shape.tree
    at, tokens = np.maximum(tree.visited, 0), np.maximum(tree.tokens, 0)
    logp = jax.nn.log_softmax(STUDENTS[shape.student].logits(shape, theta))[at, tokens]
    reward = jnp.where(tree.mask, logp_teacher[at, tokens] - logp, 0.0)
    advantage = jax.lax.stop_gradient(jnp.cumsum(reward[:, ::-1], 1)[:, ::-1])
    ratio = jnp.exp(logp - logp_behavior)
    kept = jnp.minimum(ratio * advantage, jnp.clip(ratio, LOW, HIGH) * advantage)
    return prob @ jnp.where(tree.mask, kept, 0.0).sum(1)


def clipped(here: Lab, seed: int) -> float:
    """Relative error of the clipped row on stale rollouts against autodiff of the surrogate."""
    now, rng = here.problem, np.random.default_rng(seed)
    behavior = here.at(here.theta + STALE * rng.normal(size=here.shape.size))
    batch = with_critic(now, seed, behavior)
    given = jnp.asarray(now.logp_teacher), batch.logp_behavior, jnp.asarray(behavior.joint)
    wanted = jax.grad(partial(surrogate, here.shape))(jnp.asarray(here.theta), *given)
    found = mean(now, vectors(now, *ALONE, batch=batch)[CLIPPED], behavior)
    return relative(found, np.asarray(wanted))


def grouped(now: Problem, batch: Rollout) -> dict[str, Array]:
    """Mean updates of rows that look at their group, [M]."""
    found = coupled(now, *GROUPED, size=GROUP, batch=batch)
    return {row: group_mean(now, groups) for row, groups in found.items()}


def turn(found: Array, wanted: Array) -> float:
    """The sine of the angle between them: the relative error once the length is put right."""
    along = found @ wanted / (wanted @ wanted) * wanted
    return float(np.linalg.norm(found - along) / np.linalg.norm(found))


def approach(shape: Shape, seed: int) -> Array:
    """Sizes of the mean update with and without the std, on a ray to the teacher, [2, NEARER]."""
    here = lab(shape, seed)
    ray = np.random.default_rng(seed).normal(size=shape.size)
    sizes = []
    for far in NEARER:
        now = swapped(problem(shape, here.teacher + far * ray, here.problem.logp_teacher))
        found = grouped(now, with_critic(now, seed))
        sizes.append([np.linalg.norm(found[row]) for row in (PUBLISHED, OTHERS)])
    return np.array(sizes).T


def measure(effort: Effort) -> Finding:
    """Rows with the reward swapped against the gradient of the sequence KL."""
    errors, clips, turns, lengths, tokens, critic = [], [], [], [], [], []
    for shape in SHAPES:
        for seed in effort.seeds:
            here = lab(shape, seed)
            now = swapped(here.problem)
            wanted = exact.target_gradient(now, "sequence")
            batch = with_critic(now, seed)
            found = grouped(now, batch)
            # The group's mean holds the rollout's own reward: known, and no change of direction.
            whole = found[UNSCALED] * GROUP / (GROUP - 1)
            errors += alone(now, wanted, batch)
            errors += [relative(whole, wanted), relative(found[OTHERS], wanted)]
            clips.append(clipped(here, seed))
            turns.append(turn(found[PUBLISHED], wanted))
            critic.append(turn(found[PPO], wanted))
            lengths.append(np.linalg.norm(found[PUBLISHED]) / np.linalg.norm(found[UNSCALED]))
            tokens.append(np.linalg.norm(found[BY_TOKEN]) / np.linalg.norm(found[UNSCALED]))
    sizes = np.array([approach(SHAPES[0], seed) for seed in effort.seeds])  # [seeds, 2, NEARER]
    numbers = {
        "swapped": worst("relative error of swapped rows against -grad of the sequence KL", errors),
        "clipped": worst("relative error of the clipped row against autodiff of PPO's loss", clips),
        "turn": spread("sine of the angle that the group's std turns the mean update by", turns),
        "length": spread("factor that the group's std puts on the mean update", lengths),
        "tokens": spread(
            "the same factor where each token has its own return-to-go, not its rollout's", tokens
        ),
        "critic": spread(
            "sine of the angle that PPO's lambda 0.95 and token mean turn it by, random critic",
            critic,
        ),
        "scaled": estimated(
            "exponent of the mean update in the distance to the teacher, std",
            fits.exponent(NEARER, sizes[:, 0]),
        ),
        "plain": estimated(
            "exponent of the mean update in the distance to the teacher, no std",
            fits.exponent(NEARER, sizes[:, 1]),
        ),
    }
    where = (
        f"{'; '.join(map(str, SHAPES))}; groups of {GROUP}, all of them; rollouts of a policy "
        f"{STALE} away for the clipped row; {NEARER[0]:g} to {NEARER[-1]:g} from the teacher"
    )
    return Finding(numbers, "turn", where, effort.seeds, figure=drawn(sizes))


def drawn(sizes: Array) -> Figure:
    """The mean update's size on the way to the teacher."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for line, label, style in zip(
        sizes.mean(0), ("group mean and std (GRPO)", "leave-one-out (RLOO)"), ("o-", "s-")
    ):
        axes.loglog(NEARER, line, style, markersize=4, label=label)
    axes.loglog(
        NEARER, NEARER * sizes[:, 1].mean(0)[0] / NEARER[0], ":", color="grey", label="slope 1"
    )
    axes.set(
        xlabel="distance from the teacher, in parameters", ylabel="size of the mean update, norm"
    )
    axes.legend(fontsize="small")
    return figure


def judge(numbers: Numbers) -> Judgement:
    """Identities at 1e-9; a caveat where the group's std turns the update or stops it shrinking."""
    swapped, clipped = (rules.identity(numbers[name]) for name in ("swapped", "clipped"))
    same = swapped == clipped == rules.HOLDS
    turned = rules.above(numbers["turn"], rules.CLEAR)
    if same and (turned or rules.below(numbers["scaled"], 0.5)):
        return Judgement(
            CAVEAT,
            "the group's standard deviation is left out: with it the mean update points elsewhere "
            "and doesn't shrink as the student comes near its teacher",
            swapped,
        )
    return Judgement(rules.settle(same, rules.FAILS in (swapped, clipped)), repaired=swapped)


CLAIM = Claim(
    "E12",
    "swap the reward in a PPO or GRPO loop",
    "A PPO or GRPO loop becomes a distillation loop when its reward is replaced by the teacher's "
    "log ratio of the drawn tokens.",
    measure,
    judge,
    repaired="Without a division by the group's standard deviation, and at lambda 1 where there "
    "is a critic, the mean update on fresh rollouts is the gradient of the sequence KL, up to a "
    "constant factor.",
    wrong="Clipping on stale rollouts is PPO's own bias, with any reward: it is compared with "
    "PPO's loss instead. So are lambda below 1 and the token mean: with a critic that knows "
    "nothing they turn the update about as much, which a good critic mends and the std doesn't. "
    "The turn could be one group size's: groups of 2 and 4 turn it as well.",
    advice="Put the log ratio in as the reward, summed over the rollout or token by token, and "
    "turn the std normalisation off (rloo, or grpo with normaliser=none). Never divide returns-"
    "to-go of single tokens by the group's std: a group of equal rollouts has none to divide by.",
    needs="the trainer's own loops, ppo, grpo and reinforce with this reward, against opd",
)

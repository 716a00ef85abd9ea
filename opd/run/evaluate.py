"""Held-out evaluation of a policy: accuracy sampled and greedy, sequence KL, length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from opd import draws
from opd.data import pipeline
from opd.data.pipeline import Example, Task
from opd.engine import programs, sharding
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.masked import zero
from opd.measure import intervals
from opd.types import Model, Params, Rollout

# (parameters, how many completions to show) -> figures and completions.
Judge = Callable[[Params, int], tuple[dict[str, Any], list[dict[str, Any]]]]

# (rollout, the batch of its prompts, group size) -> the rollout with its reward [B].
Grader = Callable[[Rollout, pipeline.Batch, int], Rollout]

# Evaluation draws from keys of its own: training's steps count from 0, a probe's from PROBE_STEP.
EVALUATION_STEP = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class World:
    """What stays the same throughout a run: the mesh, the task and how rollouts are made."""

    mesh: Mesh
    task: Task
    sampling: Sampling
    how: Pass
    group_size: int
    seed: int


def draw(
    world: World,
    model: Model,
    params: Params,
    batch: pipeline.Batch,
    step: int,
    seed: int,
    group_size: int,
    sampling: Sampling | None = None,
) -> Rollout:
    """A rollout of G completions for each prompt of a batch, rewarded where the task verifies."""
    key = draws.key(seed, step, "action")
    drawn = complete(world, model, params, batch, key, group_size, sampling or world.sampling)
    return reward(world.task, drawn, batch["answers"], group_size)


def complete(
    world: World,
    model: Model,
    params: Params,
    batch: pipeline.Batch,
    key: jax.Array,
    group_size: int,
    sampling: Sampling,
    **mixed: Any,
) -> Rollout:
    """A rollout of G completions for each prompt of a batch, graded by nobody.

    `mixed` is what else programs.rollout takes: a partner that some tokens come from.
    """
    rows = programs.batch_rows(batch["prompt"], batch["prompt_mask"], group_size)
    rows = sharding.shard_batch(jax.tree.map(jnp.asarray, rows), world.mesh)
    return programs.rollout(world.mesh, model, params, **rows, key=key, how=sampling, **mixed)


def reward(task: Task, rollout: Rollout, answers: list[str], group_size: int) -> Rollout:
    """The rollout with its verifier's rewards; as it is where nobody grades."""
    if task.verifier is None:
        return rollout
    repeated = [answer for answer in answers for _ in range(group_size)]
    graded = pipeline.verify(task, np.asarray(rollout.tokens), np.asarray(rollout.mask), repeated)
    return rewarded(rollout, graded)


def rewarded(rollout: Rollout, reward: Any) -> Rollout:
    """The rollout with rewards [B] in float32, laid out as its rows are."""
    laid = jax.device_put(jnp.asarray(reward, jnp.float32), rollout.ended.sharding)
    return dataclasses.replace(rollout, reward=laid)


def evaluate(
    world: World,
    student: Model,
    teacher: tuple[Model, Params] | None,
    examples: tuple[Example, ...],
    params: Params,
    samples: int = 0,
    grade: Grader | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures over held-out prompts with 95 % intervals over prompts, and some completions.

    `kl` is the sequence KL(student || teacher) in nats: per-state KLs enumerated and summed over
    the student's own completions. `grade` is who grades the training where that isn't the
    verifier: `reward` is then its mean, and what the completions have.
    """
    batch = pipeline.encode_prompts(world.task, examples)
    drawn = draw(world, student, params, batch, EVALUATION_STEP, world.seed, 1)
    best = None
    if drawn.reward is not None:
        greedy = dataclasses.replace(world.sampling, temperature=0.0)
        best = draw(world, student, params, batch, EVALUATION_STEP, world.seed, 1, greedy)
    found = figures([drawn], None if best is None else [best])
    earned = drawn.reward
    if grade is not None:
        earned = grade(drawn, batch, 1).reward
        found["reward"] = intervals.mean_interval(np.asarray(earned))
    if teacher is not None:
        head = programs.teacher(world.mesh, *teacher, drawn)
        stats = programs.score(world.mesh, student, params, drawn, head, world.how)
        found["kl"] = intervals.mean_interval(np.asarray(jnp.sum(zero(stats.kl, drawn.mask), 1)))
    tokens, mask = np.asarray(drawn.tokens), np.asarray(drawn.mask)
    shown = [
        {
            "prompt": example.prompt,
            "completion": pipeline.decode_completion(world.task, tokens[i], mask[i]),
            "answer": example.answer,
            "reward": None if earned is None else float(earned[i]),
        }
        for i, example in enumerate(examples[:samples])
    ]
    return found, shown


def figures(drawn: Sequence[Rollout], best: Sequence[Rollout] | None) -> dict[str, Any]:
    """Length, truncation and, where completions are graded, accuracy: intervals over rollouts.

    `drawn` are parts of one sample, `best` the same prompts' likeliest completions.
    """
    length = np.concatenate([np.asarray(jnp.sum(part.mask, 1)) for part in drawn])
    ended = np.concatenate([np.asarray(part.ended) for part in drawn])
    found: dict[str, Any] = {
        "length": intervals.mean_interval(length),
        "truncated": intervals.proportion_interval(~ended),
    }
    if best is not None:
        for name, parts in (("accuracy", drawn), ("accuracy_greedy", best)):
            reward = np.concatenate([np.asarray(part.reward) for part in parts])
            found[name] = intervals.proportion_interval(reward)
    return found


def sampled_accuracy(
    world: World, model: Model, params: Params, examples: tuple[Example, ...]
) -> float:
    """The verifier's mean over one completion a prompt."""
    batch = pipeline.encode_prompts(world.task, examples)
    drawn = draw(world, model, params, batch, EVALUATION_STEP, world.seed, 1)
    return float(jnp.mean(drawn.reward))

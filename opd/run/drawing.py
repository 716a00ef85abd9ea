"""The context of a run, and how rollouts are drawn and graded in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from opd import draws, processes
from opd.data import pipeline
from opd.data.functions import RewardError
from opd.data.pipeline import Example, Task
from opd.engine import programs, sharding
from opd.engine.steps import Sampling
from opd.engine.vocab import Head, Pass
from opd.types import Model, Params, Rollout

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
    scoring: Pass
    group_size: int
    seed: int


class Player(NamedTuple):
    """Who draws, or whose head grades: a model and its parameters."""

    model: Model
    params: Params


def prepared(world: World, workdir: Path) -> World:
    """The world with its data under the workdir: found there, or written."""
    task = processes.after_first(lambda: pipeline.keep(world.task, workdir))
    return dataclasses.replace(world, task=task)


def draw(
    world: World,
    player: Player,
    batch: pipeline.Batch,
    step: int,
    seed: int,
    group_size: int,
    sampling: Sampling | None = None,
    told: bool = False,
) -> Rollout:
    """A rollout of G completions for each prompt of a batch, rewarded where the task verifies.

    `told` as `complete` takes it.
    """
    key = draws.key(seed, step, "action")
    drawn = complete(world, player, batch, key, group_size, sampling or world.sampling, told=told)
    return reward(world.task, drawn, batch["answers"], group_size, batch["texts"])


def complete(
    world: World,
    player: Player,
    batch: pipeline.Batch,
    key: jax.Array,
    group_size: int,
    sampling: Sampling,
    told: bool = False,
    **mixed: Any,
) -> Rollout:
    """A rollout of G completions for each prompt of a batch, graded by nobody.

    `told` is whether the player reads the teacher's prompts, where these are others. `mixed` is
    what else programs.rollout takes: a partner that some tokens come from.
    """
    read, other = batch_prompts(batch, group_size)
    if told and other is not None:
        read, other = other, read
    names = ("prompt", "prompt_mask")
    rows = programs.batch_rows(batch["prompt"], batch["prompt_mask"], group_size)
    rows |= dict(zip(names, read, strict=True))
    rows = sharding.shard_batch(jax.tree.map(jnp.asarray, rows), world.mesh)
    given = {**rows, "key": key, "sampling": sampling, "group_size": group_size, **mixed}
    rollout = programs.rollout(world.mesh, *player, **given)
    beside = {} if other is None else dict(zip(("told", "told_mask"), other, strict=True))
    if "taught" in batch:
        beside["taught"] = np.repeat(batch["taught"], group_size, axis=0)
    if not beside:
        return rollout
    laid = sharding.shard_batch({k: jnp.asarray(v) for k, v in beside.items()}, world.mesh)
    rollout = dataclasses.replace(rollout, **laid)
    return rollout.as_told if told else rollout


Prompts = tuple[np.ndarray, np.ndarray]  # ids and mask, [B, P] each


def batch_prompts(batch: pipeline.Batch, group_size: int) -> tuple[Prompts, Prompts | None]:
    """A batch's prompts, each G times: the students', and the teacher's where these are others."""

    def repeated(*names: str) -> Prompts:
        ids, mask = (np.repeat(batch[name], group_size, axis=0) for name in names)
        return ids, mask

    told = repeated("told", "told_mask") if "told" in batch else None
    return repeated("prompt", "prompt_mask"), told


def head(world: World, teacher: Player, rollout: Rollout) -> Head:
    """A teacher's side of the vocabulary on a rollout: of its own prompts where it is told any."""
    return programs.head(world.mesh, *teacher, rollout.as_told)


def reward(
    task: Task,
    rollout: Rollout,
    answers: list[str],
    group_size: int,
    texts: list[str] | None = None,
) -> Rollout:
    """The rollout with its verifier's rewards; as it is where nobody grades.

    `texts` are the prompts, where a message can name them.
    """
    if task.verifier is None:
        return rollout

    def verified(rows: np.ndarray, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        theirs, asked = (
            listed and [listed[row // group_size] for row in rows] for listed in (answers, texts)
        )
        return pipeline.verify(task, tokens, mask, theirs, asked)

    return graded(rollout, verified)


def graded(
    rollout: Rollout, grade: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> Rollout:
    """The rollout with rewards of its rows: each process grades those on its own devices.

    `grade` is of rows [n], their tokens and mask [n, T].

    Raises:
        RewardError: it raised that, at any process.
    """
    rows, (tokens, mask) = sharding.own_rows(rollout.tokens, rollout.mask)
    reward = np.full(len(rollout.tokens), np.nan, np.float32)
    reward[rows] = processes.together(lambda: grade(rows, tokens, mask), RewardError)
    return rewarded(rollout, reward)


def rewarded(rollout: Rollout, reward: Any) -> Rollout:
    """The rollout with rewards [B] in float32, laid out as its rows are."""
    laid = sharding.put(jnp.asarray(reward, jnp.float32), rollout.ended.sharding)
    return dataclasses.replace(rollout, reward=laid)


def sampled_accuracy(
    world: World, player: Player, examples: tuple[Example, ...], told: bool = False
) -> float:
    """The verifier's mean over one completion a prompt; `told` as `complete` takes it."""
    batch = pipeline.encode_prompts(world.task, examples)
    drawn = draw(world, player, batch, EVALUATION_STEP, world.seed, 1, told=told)
    return float(jnp.mean(drawn.reward))

"""Held-out evaluation of a policy: accuracy sampled and greedy, sequence KL, length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from opd.data import pipeline
from opd.data.pipeline import Example
from opd.engine import programs
from opd.masked import zero
from opd.measure import intervals
from opd.run.drawing import EVALUATION_STEP, Grader, World, draw
from opd.types import Model, Params, Rollout

# (parameters, how many completions to show) -> figures and completions.
Judge = Callable[[Params, int], tuple[dict[str, Any], list[dict[str, Any]]]]


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
        head = programs.head(world.mesh, *teacher, drawn)
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

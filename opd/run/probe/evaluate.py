"""Held-out evaluation of a policy: accuracy sampled and greedy, sequence KL, length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from opd import processes
from opd.data import pipeline
from opd.data.pipeline import Example
from opd.engine import programs
from opd.fields import setting
from opd.masked import zero
from opd.measure import intervals
from opd.run import drawing
from opd.run.drawing import EVALUATION_STEP, Grader, Player, World, draw
from opd.types import Rollout

Judged = tuple[dict[str, Any], list[dict[str, Any]]]


class Judge(Protocol):
    """Figures of a policy, and as many completions of it as are to be shown."""

    def __call__(self, policy: Player, samples: int = 0, teacher: Player | None = None) -> Judged:
        """`evaluate`, on prompts of the judge's own."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Held-out evaluation."""

    split: str = "test"
    # An accuracy's interval is then +-0.06 at the most.
    prompts: int = setting(256, at_least=2)
    # Completions written to samples.jsonl at each evaluation.
    samples: int = setting(8, at_least=0)
    every: int = setting(20, at_least=1)  # updates
    # Evaluations without a better one after which training stops; 0: never.
    patience: int = setting(0, at_least=0)
    teacher: bool = False  # measure the KL to the teacher for methods too that need none


def evaluate(
    world: World,
    examples: tuple[Example, ...],
    policy: Player,
    samples: int = 0,
    teacher: Player | None = None,
    *,
    grade: Grader | None = None,
    told: bool = False,
) -> Judged:
    """Figures over held-out prompts with 95 % intervals over prompts, and some completions.

    `kl` is the sequence KL(policy || teacher) in nats: per-state KLs enumerated and summed over
    the policy's own completions. `grade` is who grades the training where that isn't the
    verifier: `reward` is then its mean, and what the completions have. `told` is whether the
    policy reads the teacher's prompts, where these are others.
    """
    batch = pipeline.encode_prompts(world.task, examples)
    which = (world, policy, batch, EVALUATION_STEP, world.seed, 1)
    drawn = draw(*which, told=told)
    best = None
    if drawn.reward is not None:
        greedy = dataclasses.replace(world.sampling, temperature=0.0)
        best = draw(*which, greedy, told=told)
    judged = figures([drawn], None if best is None else [best])
    earned = drawn.reward
    if grade is not None:
        earned = grade(drawn, batch, 1).reward
        judged["reward"] = intervals.mean_interval(processes.on_host(earned))
    if teacher is not None:
        head = drawing.head(world, teacher, drawn)
        stats = programs.score(world.mesh, *policy, drawn, head, world.scoring)
        kl = processes.on_host(jnp.sum(zero(stats.kl, drawn.mask), 1))
        judged["kl"] = intervals.mean_interval(kl, floor=0.0)
    tokens, mask, earned = processes.on_host((drawn.tokens, drawn.mask, earned))
    shown = [
        {
            "prompt": example.prompt,
            "completion": pipeline.decode_completion(world.task, tokens[i], mask[i]),
            "answer": example.answer,
            "reward": None if earned is None else float(earned[i]),
        }
        for i, example in enumerate(examples[:samples])
    ]
    return judged, shown


def figures(drawn: Sequence[Rollout], best: Sequence[Rollout] | None) -> dict[str, Any]:
    """Length, truncation and, where completions are graded, accuracy: intervals over rollouts.

    `drawn` are parts of one sample, `best` the same prompts' likeliest completions.
    """
    length = np.concatenate([processes.on_host(jnp.sum(part.mask, 1)) for part in drawn])
    ended = np.concatenate([processes.on_host(part.ended) for part in drawn])
    judged: dict[str, Any] = {
        "length": intervals.mean_interval(length, floor=0.0),
        "truncated": intervals.proportion_interval(~ended),
    }
    if best is not None:
        for name, parts in (("accuracy", drawn), ("accuracy_greedy", best)):
            reward = np.concatenate([processes.on_host(part.reward) for part in parts])
            judged[name] = intervals.proportion_interval(reward)
    return judged

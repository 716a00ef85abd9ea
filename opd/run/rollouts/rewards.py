"""Who grades a training's completions: the task's verifier, a user's function, a reward model.

All of them are graders, (rollout, batch of its prompts, group size) -> the rollout with `reward`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from opd import processes
from opd.data import functions, pipeline
from opd.data.pipeline import Batch, Task
from opd.engine import programs
from opd.model.scalar import Scalar
from opd.run import drawing
from opd.run.drawing import Grader, World
from opd.run.players import folder, trained
from opd.run.players.trained import Trained
from opd.types import Params, Rollout

# (prompt, completion, final answer or None) -> reward.
Function = Callable[[str, str, str | None], float]
KEY = "config.reward.function"


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Who grades a training's completions; the task's verifier where neither is given."""

    function: str | None = None  # MODULE:NAME, f(prompt, completion, answer) -> float
    from_: str | None = None  # key `from`: WORKDIR[@STEP|@best] of a training of a reward model
    pairs: str | None = None  # FILE.jsonl of prompt, chosen, rejected: what a reward model learns

    @property
    def others(self) -> bool:
        """Whether someone other than the task's verifier grades."""
        return self.function is not None or self.from_ is not None

    def check(self, path: str) -> None:
        """Refuses two graders.

        Raises:
            ValueError: both are given.
        """
        if self.function is not None and self.from_ is not None:
            raise ValueError(f"{path}.function and {path}.from are both given: allowed is one")


@dataclasses.dataclass(frozen=True)
class RewardPlan:
    """Who grades, looked at before anything is compiled."""

    config: RewardConfig
    function: Function | None = None
    model: Scalar | None = None
    trained: Trained | None = None  # of the model

    @property
    def inputs(self) -> dict[str, Any] | None:
        """What rewards depend on beside the config: contents of files; None where it says it all.

        Of a reward model's own training these are the pairs.

        A function is known by the file it is written in and by the module it is taken from; what
        these import is not looked at.

        Raises:
            ValueError: a file that can't be read.
        """
        if self.function is not None:
            return {"sha256": functions.digest(KEY, self.config.function)}
        if self.trained is not None:
            return self.trained.identity
        if self.config.pairs is not None:
            return {"sha256": functions.sha256(self.config.pairs)}
        return None


def look(config: RewardConfig, task: Task) -> RewardPlan:
    """Who is to grade the task's completions.

    Raises:
        ValueError: a function that can't be had, a workdir without a reward model, or one of
            another tokenizer or of shorter sequences.
    """
    if config.function is not None:
        return RewardPlan(config, function=function(config.function))
    if config.from_ is not None:
        source = trained.find(config.from_, "reward")
        model = Scalar(folder.decoder(source.workdir / "models" / "reward", task))
        return RewardPlan(config, model=model, trained=source)
    return RewardPlan(config)


def grader(plan: RewardPlan, world: World) -> Grader:
    """Who grades, ready to: a reward model's parameters are read onto the mesh."""
    if plan.function is not None:
        return functools.partial(_by_function, world.task, plan.config.function, plan.function)
    if plan.model is not None:
        params = plan.trained.params(plan.model, world.mesh)
        return functools.partial(_by_model, world, plan.model, params)
    return verifier(world)


# --- the verifier ----------------------------------------------------------------------------


def verifier(world: World) -> Grader:
    """The task's own grader."""
    return functools.partial(_by_verifier, world.task)


def _by_verifier(task: Task, rollout: Rollout, batch: Batch, group_size: int) -> Rollout:
    return drawing.reward(task, rollout, batch["answers"], group_size, batch["texts"])


# --- a user's function -----------------------------------------------------------------------


def function(name: str) -> Function:
    """The function that MODULE:NAME names; modules of the current folder are found, as with -m.

    Raises:
        ValueError: no such module or name, nothing to call, or nothing to call with three texts.
    """
    return functions.imported(KEY, name, "prompt, completion, answer")


def _by_function(
    task: Task, name: str, function: Function, rollout: Rollout, batch: Batch, group_size: int
) -> Rollout:
    """A completion at a time; one that was cut is graded as any other.

    Raises:
        RewardError: the function raised, or returned something other than a finite number.
    """

    def grade(rows: np.ndarray, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        graded = []
        for row, drawn, own in zip(rows, tokens, mask):
            prompt, answer = (batch[key][row // group_size] for key in ("texts", "answers"))
            completion = pipeline.decode_completion(task, drawn, own)
            texts = (prompt, completion, answer or None)
            shown = {"prompt": prompt, "completion": completion}
            graded.append(functions.reward(f"{KEY} = {name!r}", function, *texts, **shown))
        return np.asarray(graded, np.float32)

    return drawing.graded(rollout, grade)


# --- a reward model --------------------------------------------------------------------------


def _by_model(
    world: World, model: Scalar, params: Params, rollout: Rollout, batch: Batch, group_size: int
) -> Rollout:
    """The value at a completion's last graded token.

    A sequence that comes twice earns the first one's score: rounding differs from row to row, and
    a group's standard deviation would make rewards of it.
    """
    earned = programs.reward_of(world.mesh, model, params, rollout)
    scores, tokens, mask = processes.on_host((earned, rollout.sequence, rollout.sequence_mask))
    _, first, which = np.unique(
        np.where(mask, tokens, -1), axis=0, return_index=True, return_inverse=True
    )
    return drawing.rewarded(rollout, scores[first][which.reshape(-1)])

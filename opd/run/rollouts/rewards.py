"""Who grades a training's completions: the task's verifier, a user's function, a reward model.

All of them are graders, (rollout, batch of its prompts, group size) -> the rollout with `reward`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import numbers
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from opd.data import pipeline, verifiers
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


class RewardError(RuntimeError):
    """What a run can't be graded by: found out only as it graded."""


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
            return {"sha256": _sources(self.config.function)}
        if self.trained is not None:
            return self.trained.identity
        if self.config.pairs is not None:
            return {"sha256": _sha256(self.config.pairs)}
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
    return drawing.reward(task, rollout, batch["answers"], group_size)


# --- a user's function -----------------------------------------------------------------------


def function(name: str) -> Function:
    """The function that MODULE:NAME names; modules of the current folder are found, as with -m.

    Raises:
        ValueError: no such module or name, or nothing to call.
    """
    return _imported(name)[1]


def _imported(name: str) -> tuple[ModuleType, Function]:
    """The module and the function of MODULE:NAME."""
    return verifiers.imported("config.reward.function", name)


def _by_function(
    task: Task, name: str, function: Function, rollout: Rollout, batch: Batch, group_size: int
) -> Rollout:
    """A completion at a time; one that was cut is graded as any other.

    Raises:
        RewardError: the function raised, or returned something other than a finite number.
    """
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    graded = []
    for row in range(len(tokens)):
        prompt, answer = (batch[key][row // group_size] for key in ("texts", "answers"))
        completion = pipeline.decode_completion(task, tokens[row], mask[row])
        what = f"config.reward.function = {name!r}, prompt {prompt!r:.60}"
        try:
            value = function(prompt, completion, answer or None)
        except Exception as error:  # a user's function raises what it likes
            raise RewardError(f"{what}: raised {_line(error)}") from error
        if not _is_finite(value):
            shown = " ".join(repr(value).split())[:60]
            raise RewardError(f"{what}: returned {shown}; allowed is a finite number")
        graded.append(value)
    return drawing.rewarded(rollout, np.asarray(graded, np.float32))


def _is_finite(value: Any) -> bool:
    """Whether it is one number that float32 holds."""
    if not isinstance(value, (numbers.Real, np.generic, np.ndarray, jax.Array)):
        return False
    array = np.asarray(value)
    is_number = array.ndim == 0 and array.dtype.kind in "biuf"
    return is_number and abs(float(array)) <= float(np.finfo(np.float32).max)


def _line(error: Exception) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _sources(name: str) -> str:
    """SHA-256 over the files of MODULE:NAME."""
    module, there = _imported(name)
    files = {getattr(module, "__file__", None)}
    with contextlib.suppress(TypeError):  # no source of its own: an object, a builtin
        files.add(inspect.getsourcefile(inspect.unwrap(there)))
    files.discard(None)
    return hashlib.sha256("".join(sorted(map(_sha256, files))).encode()).hexdigest()


def _sha256(file: str) -> str:
    """The digest of a file's content.

    Raises:
        ValueError: it can't be read.
    """
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None


# --- a reward model --------------------------------------------------------------------------


def _by_model(
    world: World, model: Scalar, params: Params, rollout: Rollout, batch: Batch, group_size: int
) -> Rollout:
    """The value at a completion's last graded token.

    A sequence that comes twice earns the first one's score: rounding differs from row to row, and
    a group's standard deviation would make rewards of it.
    """
    scores = np.asarray(programs.reward_of(world.mesh, model, params, rollout))
    tokens, mask = np.asarray(rollout.sequence), np.asarray(rollout.sequence_mask)
    _, first, which = np.unique(
        np.where(mask, tokens, -1), axis=0, return_index=True, return_inverse=True
    )
    return drawing.rewarded(rollout, scores[first][which.reshape(-1)])

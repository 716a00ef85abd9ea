"""Who grades a training's completions: the task's verifier, a user's function, a reward model.

All of them are graders, (rollout, batch of its prompts, group size) -> the rollout with `reward`.
"""

from __future__ import annotations

import contextlib
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
from opd.run.players import players
from opd.run.settings.config import RewardConfig
from opd.run.store import checkpoint
from opd.types import Params, Rollout

# (prompt, completion, final answer or None) -> reward.
Function = Callable[[str, str, str | None], float]


class RewardError(RuntimeError):
    """What a run can't be graded by: found out only as it graded."""


def given(config: RewardConfig) -> bool:
    """Whether someone other than the task's verifier grades."""
    return config.function is not None or config.from_ is not None


def check(config: RewardConfig, task: Task) -> None:
    """Refuses what can't grade the task's completions.

    Raises:
        ValueError: a function that can't be had, a workdir without a reward model, or one of
            another tokenizer or of shorter sequences.
    """
    if config.function is not None:
        function(config.function)
    if config.from_ is not None:
        model(config.from_, task)


def grader(config: RewardConfig, world: World) -> Grader:
    """Who grades, as the config says.

    Raises:
        ValueError: what `check` finds wrong.
    """
    if config.function is not None:
        said = config.function
        return functools.partial(_by_function, world.task, said, function(said))
    if config.from_ is not None:
        scalar = model(config.from_, world.task)
        params = players.restored(scalar, config.from_, world, "reward")
        return functools.partial(_by_model, world, scalar, params)
    return functools.partial(_by_verifier, world.task)


def identity(config: RewardConfig) -> dict[str, Any] | None:
    """What rewards depend on beside the config: contents of files; None where it says it all.

    Of a reward model's own training these are the pairs.

    A function is known by the file it is written in and by the module it is taken from; what these
    import is not looked at.

    Raises:
        ValueError: what `check` and `players.trained` refuse.
    """
    if config.function is not None:
        return {"sha256": _sources(config.function)}
    if config.from_ is not None:
        _, folder, step = players.trained(config.from_, "reward")
        return {"step": step, "sha256": checkpoint.contents(folder / str(step))}
    if config.pairs is not None:
        return {"sha256": _sha256(config.pairs)}
    return None


# --- the verifier ----------------------------------------------------------------------------


def _by_verifier(task: Task, rollout: Rollout, batch: Batch, group_size: int) -> Rollout:
    return drawing.reward(task, rollout, batch["answers"], group_size)


# --- a user's function -----------------------------------------------------------------------


def function(said: str) -> Function:
    """The function that MODULE:NAME names; modules of the current folder are found, as with -m.

    Raises:
        ValueError: no such module or name, or nothing to call.
    """
    return _found(said)[1]


def _found(said: str) -> tuple[ModuleType, Function]:
    """The module and the function of MODULE:NAME."""
    return verifiers.imported("config.reward.function", said)


def _by_function(
    task: Task, said: str, function: Function, rollout: Rollout, batch: Batch, group_size: int
) -> Rollout:
    """A completion at a time; one that was cut is graded as any other.

    Raises:
        RewardError: the function raised, or returned something other than a finite number.
    """
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    graded = []
    for row in range(len(tokens)):
        prompt, answer = (batch[name][row // group_size] for name in ("texts", "answers"))
        completion = pipeline.decode_completion(task, tokens[row], mask[row])
        what = f"config.reward.function = {said!r}, prompt {prompt!r:.60}"
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
    found = np.asarray(value)
    number = found.ndim == 0 and found.dtype.kind in "biuf"
    return number and abs(float(found)) <= float(np.finfo(np.float32).max)


def _line(error: Exception) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _sources(said: str) -> str:
    """SHA-256 over the files of MODULE:NAME."""
    module, there = _found(said)
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


def model(given: str, task: Task) -> Scalar:
    """The reward model of a workdir that trained one.

    Raises:
        ValueError: no such workdir or step, one that trained a policy, another tokenizer than the
            task's, or a model that doesn't read the task's sequences.
    """
    workdir, *_ = players.trained(given, "reward")
    return Scalar(players.decoder_of(workdir / "models" / "reward", task))


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

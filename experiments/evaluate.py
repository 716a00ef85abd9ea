"""Score a checkpoint of a training run on held-out prompts, or a Hugging Face folder on a task.

python -m experiments.evaluate --workdir=DIR [--step=N|best] [--split=NAME] [--prompts=N]
python -m experiments.evaluate --path=DIR --task=FILE.jsonl|tfds:NAME|gsm8k:DIR|arithmetic
    [--split=NAME] [--prompts=N] [--length=N] [--verifier=NAME] [--temperature=X] [--system=TEXT]
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from opd.run.settings import command

if TYPE_CHECKING:
    from opd.run.probe import score
    from opd.run.settings.config import Config
    from opd.run.training import train

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run of experiments.train")
_STEP = flags.DEFINE_string("step", None, "an update that has a checkpoint, or best; the last one")
_SPLIT = flags.DEFINE_string("split", None, "the split to score on; the run's own, or the task's")
_PROMPTS = flags.DEFINE_integer(
    "prompts", None, "prompts at most; the run's own number, or all", lower_bound=1
)
_PATH = flags.DEFINE_string("path", None, "a Hugging Face folder, in place of --workdir")
_TASK = flags.DEFINE_string("task", None, "of --path: what to score it on, as above")
_LENGTH = flags.DEFINE_integer("length", 256, "of --path: tokens at most", lower_bound=1)
_VERIFIER = flags.DEFINE_string(
    "verifier", None, "of --path: exact, final_answer, math, regex:PATTERN or MODULE:NAME"
)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "of --path: of what is sampled")
_SYSTEM = flags.DEFINE_string("system", None, "of --path: the chat's system message")
_ARGUMENTS = flags.DEFINE_string("arguments", None, "of --path: the chat template's, a JSON object")
_DATE = flags.DEFINE_string(
    "date", None, "of --path: YYYY-MM-DD, for a chat template that asks; today"
)
_CHAT = flags.DEFINE_bool("chat", None, "of --path: write prompts as a chat; where it can be")
_DTYPE = flags.DEFINE_string("dtype", None, "of --path: bfloat16 or float32; the checkpoint's")
_SEED = flags.DEFINE_integer("seed", 0, "of --path: of the draws", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch", 64, "of --path: prompts at once", lower_bound=1)
# What belongs to one of the two alone.
_OF_WORKDIR = (_STEP,)
_OF_PATH = (
    _TASK, _LENGTH, _VERIFIER, _TEMPERATURE, _SYSTEM, _ARGUMENTS, _DATE, _CHAT, _DTYPE, _SEED,
    _BATCH,
)  # fmt: skip


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be run.

    Raises:
        ValueError: a user's mistake; nothing has been compiled or written.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    from opd.run.probe import score
    from opd.run.settings import launch
    from opd.run.training import train

    launch.parse(argv)
    if _WORKDIR.value and _PATH.value:
        raise ValueError("--workdir and --path are both given: allowed is one of them")
    if _PATH.value:
        _refuse("--path", _OF_WORKDIR)
        return functools.partial(job_of_path, score.check(_asked()))
    if not _WORKDIR.value:
        raise ValueError(
            "--workdir is missing; it is the folder of a training run (or give --path)"
        )
    _refuse("--workdir", _OF_PATH)
    workdir = Path(_WORKDIR.value)
    config = train.begun(workdir, _SPLIT.value, _PROMPTS.value)
    step = train.step_there(workdir, _STEP.value)
    return functools.partial(job, config, workdir, train.check(config, workdir), step)


def _refuse(given: str, others: tuple[command.Flag, ...]) -> None:
    """Refuses flags that mean nothing beside the one that is given."""
    for flag in others:
        if flag.present:
            raise ValueError(f"--{flag.name}: means nothing with {given}")


def _asked() -> score.Asked:
    from opd.data.chat import ChatConfig
    from opd.run.probe import score

    if not _TASK.value:
        raise ValueError(f"--task is missing; allowed are {score.spelled()}")
    return score.Asked(
        path=Path(_PATH.value),
        task=_TASK.value,
        split=_SPLIT.value,
        prompts=_PROMPTS.value,
        length=_LENGTH.value,
        verifier=_VERIFIER.value,
        temperature=_TEMPERATURE.value,
        chat=ChatConfig(_CHAT.value, _SYSTEM.value, _ARGUMENTS.value, _DATE.value),
        dtype=_DTYPE.value,
        seed=_SEED.value,
        batch=_BATCH.value,
    )


def job_of_path(plan: score.Plan) -> None:
    """A folder's scores, as JSON."""
    from opd.run.probe import score
    from opd.run.settings import launch

    launch.keep_compiled()
    print(json.dumps(score.score(plan), indent=1))


def job(config: Config, workdir: Path, plan: train.Plan, step: int | str) -> None:
    """The scores, as JSON."""
    from opd.run.settings import launch
    from opd.run.training import train

    launch.keep_compiled()
    print(json.dumps(train.score(config, workdir, plan, step), indent=1))


if __name__ == "__main__":
    command.main(prepare)

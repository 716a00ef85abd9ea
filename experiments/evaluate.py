"""Score a checkpoint of a training run on held-out prompts.

python -m experiments.evaluate --workdir=DIR [--step=N|best] [--split=NAME] [--prompts=N]
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from opd.run import launch, train
from opd.run.config import Config

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run of experiments.train")
_STEP = flags.DEFINE_string("step", None, "an update that has a checkpoint, or best; the last one")
_SPLIT = flags.DEFINE_string("split", None, "the split to score on; the run's own")
_PROMPTS = flags.DEFINE_integer("prompts", None, "prompts at most; the run's own number")


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be run.

    Raises:
        ValueError: a user's mistake; nothing has been compiled or written.
    """
    launch.parse(sys.argv if argv is None else argv, __doc__)
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; it is the folder of a training run")
    workdir = Path(_WORKDIR.value)
    config = train.begun(workdir, _SPLIT.value, _PROMPTS.value)
    step = train.step_there(workdir, _STEP.value)
    return functools.partial(job, config, workdir, train.check(config, workdir), step)


def job(config: Config, workdir: Path, plan: train.Plan, step: int | str) -> None:
    """The scores, as JSON."""
    launch.keep_compiled(workdir)
    print(json.dumps(train.score(config, workdir, plan, step), indent=1))


if __name__ == "__main__":
    launch.run(prepare)

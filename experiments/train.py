"""Train with any method of the table; the same command goes on where it was left.

python -m experiments.train --config=configs/debug.py --workdir=DIR [--config.method.name=ROW]
    [--config.KEY=VALUE ...]
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

_WORKDIR = flags.DEFINE_string("workdir", None, "folder that the run writes into, and goes on from")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print the config and stop")
_LIST_METHODS = flags.DEFINE_bool("list_methods", False, "print the methods table and stop")


def prepare(argv: list[str] | None = None) -> Callable[[], None] | None:
    """Parses and checks; hands back what is to be run, if anything is.

    Raises:
        ValueError: a user's mistake; nothing has been compiled or written.
    """
    config = launch.parse(sys.argv if argv is None else argv, __doc__)
    if _LIST_METHODS.value:
        print(launch.methods())
        return None
    if config is None:
        raise ValueError("--config is missing; for instance --config=configs/debug.py")
    if _PRINT_CONFIG.value:
        print(json.dumps(launch.as_dict(config), indent=1))
        return None
    if not _WORKDIR.value:
        raise ValueError("--workdir is missing; it is the folder that the run writes into")
    workdir = Path(_WORKDIR.value)
    plan = train.check(config, workdir)
    launch.make_folder("workdir", workdir)
    return functools.partial(job, config, workdir, plan)


def job(config: Config, workdir: Path, plan: train.Plan) -> None:
    """The run, and where it ended."""
    launch.keep_compiled(workdir)
    try:
        done = train.train(config, workdir, plan)
    except train.Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    if done is not None:
        print(json.dumps(done, indent=1))


if __name__ == "__main__":
    launch.run(prepare)

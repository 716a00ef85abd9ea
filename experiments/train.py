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
from typing import TYPE_CHECKING

from absl import flags

from opd.run.settings import command

if TYPE_CHECKING:
    from opd.run.settings.config import Config
    from opd.run.training import train

_WORKDIR = flags.DEFINE_string("workdir", None, "folder that the run writes into, and goes on from")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print the config and stop")
_LIST_METHODS = flags.DEFINE_bool("list_methods", False, "print the methods table and stop")
_LIST_AXES = flags.DEFINE_bool("list_axes", False, "print what a method can be told and stop")


def prepare(argv: list[str] | None = None) -> Callable[[], None] | None:
    """Parses and checks; hands back what is to be run, if anything is.

    Raises:
        ValueError: a user's mistake; nothing has been compiled or written.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    from opd.run.settings import launch
    from opd.run.training import train

    listing = _PRINT_CONFIG, _LIST_METHODS, _LIST_AXES
    found = launch.asked(argv, _WORKDIR, *listing, "configs/debug.py")
    if found is None:
        return None
    config, workdir = found
    plan = train.check(config, workdir)
    launch.make_folder("workdir", workdir)
    if config.models is not None:
        launch.make_folder("config.models", Path(config.models))
    return functools.partial(job, config, workdir, plan)


def job(config: Config, workdir: Path, plan: train.Plan) -> None:
    """The run, and where it ended."""
    from opd.run.settings import launch
    from opd.run.training import train

    launch.keep_compiled()
    try:
        done = train.train(config, workdir, plan)
    except train.Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    if done is not None:
        print(json.dumps(done, indent=1))


if __name__ == "__main__":
    command.main(prepare)

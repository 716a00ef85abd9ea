"""Compare gradient estimators side by side, then train with them.

python -m experiments.compare --config=configs/quickstart.py --workdir=DIR [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from opd.run.settings import command

if TYPE_CHECKING:
    from opd.run.comparing import compare
    from opd.run.settings.config import Config

_WORKDIR = flags.DEFINE_string("workdir", None, "folder that the run writes into")
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
    from opd.run.comparing import compare
    from opd.run.settings import launch

    flags_ = _WORKDIR, _PRINT_CONFIG, _LIST_METHODS, _LIST_AXES
    found = launch.asked(argv, *flags_, "configs/quickstart.py")
    if found is None:
        return None
    config, workdir = found
    plan = compare.check(config, workdir)
    launch.make_folder("workdir", workdir)
    if config.models is not None:
        launch.make_folder("config.models", Path(config.models))
    return functools.partial(job, config, workdir, plan)


def job(config: Config, workdir: Path, plan: compare.Plan) -> None:
    """The run, its table and where its report is."""
    import rich

    from opd.report import page as report
    from opd.run.comparing import compare
    from opd.run.settings import launch

    launch.keep_compiled()
    results = compare.compare(config, workdir, plan)
    rich.print(report.table(results))
    print(f"report: {workdir / 'report.html'}")


if __name__ == "__main__":
    command.main(prepare)

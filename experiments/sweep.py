"""Train every point of a sweep, and put what came of it into one table and one plot.

python -m experiments.sweep --sweep=configs/sweeps/NAME.py --workdir=DIR [--jobs=N] [--dry_run]

With --launcher it prints a command a point that hands the training to a cluster; once they have
run, --read makes the table and the plot without training anything:

... --workdir=DIR --dry_run --launcher="slurm --name=NAME --nodes=2 --gpus=8" | bash
... --workdir=DIR --read
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from opd.run.settings import command

_SWEEP = flags.DEFINE_string("sweep", None, "a sweep file: configs/sweeps/NAME.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of all points, of the table and the plot")
_JOBS = flags.DEFINE_integer("jobs", 1, "trainings at a time", lower_bound=1)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the commands and stop")
_LAUNCHER = flags.DEFINE_string(
    "launcher",
    None,
    "with --dry_run: print what hands the points to a cluster; tpu, xpk or slurm, then the flags "
    "of scripts/launch_NAME",
)
_READ = flags.DEFINE_bool("read", False, "train nothing; make the table of what is finished")


def prepare(argv: list[str] | None = None) -> Callable[[], None] | None:
    """Parses and checks; hands back what is to be run, if anything is.

    Raises:
        ValueError: a user's mistake; nothing has been run or written.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    from opd.run.settings import launch
    from opd.run.sweeping import sweep

    launch.parse(argv, together=False)
    for flag in (_SWEEP, _WORKDIR):
        if not flag.value:
            raise ValueError(f"--{flag.name} is missing")
    config, points = sweep.load(Path(_SWEEP.value))
    workdir = Path(_WORKDIR.value)
    if _LAUNCHER.value is not None and not _DRY_RUN.value:
        raise ValueError("--launcher starts nothing: with --dry_run it prints what would")
    if _DRY_RUN.value:
        if _LAUNCHER.value is not None:
            commands = sweep.launched(_LAUNCHER.value, config, points, workdir)
        else:
            commands = [sweep.command(config, point, workdir) for point in points]
        print("\n".join(map(shlex.join, commands)))
        return None
    if _READ.value:
        if not (workdir / "points").is_dir():
            raise ValueError(f"--workdir={workdir}: no sweep has run there")
        return functools.partial(job, functools.partial(sweep.read, points, workdir), workdir)
    launch.make_folder("workdir", workdir)
    train = functools.partial(sweep.run, config, points, workdir, _JOBS.value)
    return functools.partial(job, train, workdir)


def job(recorded: Callable[[], list[dict[str, Any]]], workdir: Path) -> None:
    """The points' records, their table and their plot; exit code 1 where a point failed."""
    import rich
    import rich.table

    from opd.run.sweeping import sweep

    records = recorded()
    sweep.write(records, workdir)
    shown = rich.table.Table("point", "KL", "accuracy", "error")
    for record, row in zip(records, sweep.table(records), strict=True):
        values = ("" if row[key] is None else f"{row[key]:.3g}" for key in ("kl", "accuracy"))
        shown.add_row(sweep.name(record["point"]), *values, row["error"] or "")
    rich.print(shown)
    failed = sum(row["error"] is not None for row in sweep.table(records))
    if failed:
        print(f"error: {failed} of {len(records)} points failed", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command.main(prepare)

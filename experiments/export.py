"""Write a trained student as a Hugging Face folder, for transformers, vLLM and the rest.

python -m experiments.export --workdir=RUN [--step=N|best] --path=DIR
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from opd.run import launch, models, players

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run of experiments.train")
_STEP = flags.DEFINE_string("step", None, "an update that has a checkpoint, or best; the last one")
_PATH = flags.DEFINE_string("path", None, "the folder to write, which is new or empty")


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be run.

    Raises:
        ValueError: a user's mistake; nothing has been written.
    """
    launch.parse(sys.argv if argv is None else argv, __doc__)
    for name, value in (("workdir", _WORKDIR.value), ("path", _PATH.value)):
        if not value:
            raise ValueError(f"--{name} is missing")
    given = _WORKDIR.value + (f"@{_STEP.value}" if _STEP.value else "")
    players.trained(given)
    path = Path(_PATH.value)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--path={path}: is there already; give a new folder")
    return lambda: job(given, path)


def job(given: str, path: Path) -> None:
    """The export, and where it is."""
    models.save_model(models.from_run(given), path)
    print(path)


if __name__ == "__main__":
    launch.run(prepare)

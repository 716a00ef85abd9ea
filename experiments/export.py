"""Write a trained student as a Hugging Face folder, for transformers, vLLM and the rest.

python -m experiments.export --workdir=RUN [--step=N|best] --path=DIR [--adapter]
    [--dtype=float32]

Parameters are written in the dtype of the folder that the student came from, or in --dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from opd.run.settings import command

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run of experiments.train")
_STEP = flags.DEFINE_string("step", None, "an update that has a checkpoint, or best; the last one")
_PATH = flags.DEFINE_string("path", None, "the folder to write, which is new or empty")

_ADAPTER = flags.DEFINE_bool("adapter", False, "the adapter alone, in PEFT's form")

_DTYPE = flags.DEFINE_enum(
    "dtype", None, ("bfloat16", "float32"), "of what is written; the student's folder's"
)


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be run.

    Raises:
        ValueError: a user's mistake; nothing has been written.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    from opd.run.players import folder, hub_export, trained
    from opd.run.settings import launch

    launch.parse(argv)
    for name, value in (("workdir", _WORKDIR.value), ("path", _PATH.value)):
        if not value:
            raise ValueError(f"--{name} is missing")
    given = _WORKDIR.value + (f"@{_STEP.value}" if _STEP.value else "")
    workdir = trained.find(given).workdir
    if _ADAPTER.value and folder.described(workdir / "models" / "student").lora is None:
        raise ValueError(f"--adapter: the student of {workdir} has none")
    if _ADAPTER.value and _DTYPE.value:
        raise ValueError("--dtype: means nothing with --adapter, which is written as trained")
    path = Path(_PATH.value)
    hub_export.refuse_taken(path)
    return lambda: job(given, path)


def job(given: str, path: Path) -> None:
    """The export, and where it is."""
    from opd.run.players import models

    save = models.save_adapter if _ADAPTER.value else models.save_model
    save(models.from_run(given, dtype=_DTYPE.value), path)
    print(path)


if __name__ == "__main__":
    command.main(prepare)

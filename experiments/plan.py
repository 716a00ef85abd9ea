"""What a config's update would take on chips that nobody has paid for yet: a prediction.

python -m experiments.plan --config=configs/scale/NAME.py --chips=v5e-256|h200x8
    [--report=FILE] [--config.KEY=VALUE ...]

Of the chips' peaks (`experiments/scale/chips.py`), matmul FLOPs counted by hand, and memory traffic
that can't be avoided. Bytes between chips and memory are what the compiler said: of --report, a
result of `experiments.compile_tpu` for the same config and chips; without one they are left out,
and the prediction says so.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from opd.run.settings import command

if TYPE_CHECKING:
    from experiments.scale.job import Job

_CHIPS = flags.DEFINE_string("chips", None, "kind and number: v5e-256, v6e-256, v5p-64, h200x8")
_REPORT = flags.DEFINE_string("report", None, "what experiments.compile_tpu wrote with --json")


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be predicted.

    Raises:
        ValueError: a user's mistake.
    """
    argv = sys.argv if argv is None else argv
    command.helped(argv, __doc__)
    from experiments.scale import chips, job
    from opd.run.settings import launch

    config = launch.parse(argv)
    if config is None:
        raise ValueError("--config is missing; --config=configs/scale/qwen3_8b_to_0_6b.py, say")
    if _CHIPS.value is None:
        raise ValueError("--chips is missing; --chips=v5e-256, say")
    kind, count = chips.chips(_CHIPS.value)
    found = job.of(config, job.nowhere(count))
    compiled = {} if _REPORT.value is None else _read(Path(_REPORT.value), kind, count, found)
    return functools.partial(run, found, kind, compiled)


def _read(file: Path, kind: str, count: int, job: Job) -> Mapping[str, Any]:
    """The programs of a report, which must be of these chips and this mesh."""
    try:
        report = json.loads(file.read_text())
        topology, chips, mesh = (report[key] for key in ("topology", "chips", "mesh"))
        programs = report["programs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--report={file}: no report of experiments.compile_tpu ({error})"
        ) from None
    theirs, ours = (topology.partition(":")[0], chips, mesh), (kind, count, dict(job.mesh.shape))
    if theirs != ours:
        raise ValueError(f"--report={file}: is of {theirs}: {ours} is allowed")
    return programs


def run(job: Job, kind: str, compiled: Mapping[str, Any]) -> None:
    """Prints what is predicted."""
    from experiments.scale import predict

    print(predict.said(job, kind, compiled))


if __name__ == "__main__":
    command.main(prepare)

"""A long run, and many in one process: do memory, step time, files and memory maps stay flat?

python -m experiments.reliability.long [--updates=2000] [--points=50]

The first is the debug config as a command, looked at from outside once a second; programs compiled
are counted from JAX's own log. The second trains points of a sweep one after another in this
process, each with a rate and a seed of its own, and looks after each.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from experiments.reliability import page
from opd import disk
from opd.run.settings import config as configs
from opd.run.training import train

ROOT = Path(__file__).parents[2]
BLOCKS = 10  # means of neighbours, so that what is fitted is independent
COMPILED = re.compile(rb"Finished XLA compilation of")


@dataclasses.dataclass(frozen=True)
class Look:
    """A process, seen from outside."""

    at: float  # seconds, or the number of a point
    resident: float  # MiB
    files: int
    maps: int


def look(process: int, at: float) -> Look:
    """What a process holds now."""
    proc = Path(f"/proc/{process}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    maps = (proc / "maps").read_bytes().count(b"\n")
    resident = int(status["VmRSS"].split()[0]) / 1024
    return Look(at, resident, len(list((proc / "fd").iterdir())), maps)


def slope(x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    """The change of y over the range of x, from means of blocks, with a 95 % interval.

    Of the last three quarters: what is allocated at the start is no leak.
    """
    x, y = (np.asarray(one, float)[len(one) // 4 :] for one in (x, y))
    blocks = [part for part in np.array_split(np.arange(len(x)), BLOCKS) if len(part)]
    means = np.array([[x[part].mean(), y[part].mean()] for part in blocks]).T
    if np.ptp(means[1]) == 0:  # no noise, and no slope
        return {"mean": float(y.mean()), "change": 0.0, "low": 0.0, "high": 0.0}
    fit = scipy.stats.linregress(*means)
    width, wide = x[-1] - x[0], scipy.stats.t.ppf(0.975, len(blocks) - 2)
    low, high = ((fit.slope + sign * wide * fit.stderr) * width for sign in (-1, 1))
    return {"mean": float(y.mean()), "change": fit.slope * width, "low": low, "high": high}


def command(updates: int, folder: Path) -> list[str]:
    """The long run: the debug config, checkpoints and evaluations at their usual cadence."""
    keys = {"updates": updates, "checkpoint.every": 50, "evaluate.every": 100}
    given = [f"--config.{key}={value}" for key, value in keys.items()]
    asked = [sys.executable, "-m", "experiments.train", "--config=configs/debug.py"]
    return [*asked, f"--workdir={folder / 'run'}", *given]


def one_run(updates: int) -> dict[str, Any]:
    """A run of so many updates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"JAX_LOG_COMPILES": "1"}
        with open(folder / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                command(updates, folder), cwd=ROOT, env=environment, stderr=stderr,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            looks, began, compiled = [], time.monotonic(), []
            metrics = folder / "run" / "metrics.jsonl"
            while process.poll() is None:
                time.sleep(1)
                if not metrics.exists():
                    continue
                try:
                    looks.append(look(process.pid, time.monotonic() - began))
                except (OSError, KeyError):  # it has just ended
                    break
                done = metrics.read_bytes().count(b"\n")
                compiled.append((done, len(COMPILED.findall((folder / "stderr").read_bytes()))))
        if process.wait():
            raise RuntimeError((folder / "stderr").read_text()[-2000:])
        seconds = [line["seconds"] for line in disk.read_jsonl(metrics)]
    steps = np.diff(seconds)
    # A first evaluation and a first checkpoint compile too: both are behind after 100 updates.
    settled = [number for done, number in compiled if done > 100]
    at = [one.at for one in looks]
    return {
        "updates": updates,
        "compiled_later": settled[-1] - settled[0] if settled else None,
        "milliseconds": slope(range(len(steps)), 1000 * steps),
        "resident_MiB": slope(at, [one.resident for one in looks]),
        "files": slope(at, [one.files for one in looks]),
        "maps": slope(at, [one.maps for one in looks]),
    }


def many(points: int) -> dict[str, Any]:
    """So many trainings in this process."""
    base = configs.build(
        runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    )
    looks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for point in range(points):
            rate = 1e-3 * math.exp(0.01 * point)
            config = dataclasses.replace(
                base, seed=point, models=str(folder / "models"),
                optimizer=dataclasses.replace(base.optimizer, learning_rate=rate),
            )  # fmt: skip
            train.train(config, folder / str(point))
            gc.collect()
            looks.append(look(os.getpid(), point))
            print(looks[-1], flush=True)
    at = [one.at for one in looks]
    return {
        "points": points,
        "resident_MiB": slope(at, [one.resident for one in looks]),
        "files": slope(at, [one.files for one in looks]),
        "maps": slope(at, [one.maps for one in looks]),
    }


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = ["| what | mean | change | 95 % interval |", "|---|---|---|---|"]
    for part, of in (("run", "updates"), ("many", "points")):
        one = record[part]
        for name, figure in one.items():
            if isinstance(figure, Mapping):
                change, low, high = (f"{figure[key]:.3g}" for key in ("change", "low", "high"))
                what = f"{name.replace('_', ', ')} over {one[of]} {of}"
                lines.append(f"| {what} | {figure['mean']:.4g} | {change} | {low} to {high} |")
    lines.append(f"\nPrograms compiled after update 100: {record['run']['compiled_later']}.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Both, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--points", type=int, default=50)
    options = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    record = {"run": one_run(options.updates), "many": many(options.points)}
    page.write("long", record, table)


if __name__ == "__main__":
    main()

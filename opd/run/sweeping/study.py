"""A study: the points of a sweep as arms, compared in pairs, seed by seed.

An arm is what a point overrides besides its seed. Points of one seed share prompts, random numbers,
teacher and start, so that arms differ by their overrides alone: differences are taken seed by seed
and their intervals are Student's t over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import platform
import runpy
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opd import disk
from opd.measure.intervals import Interval, t_interval
from opd.run import drawing
from opd.run.players import players
from opd.run.probe import evaluate
from opd.run.settings import config as configs
from opd.run.sweeping import sweep
from opd.run.training import checks

BySeed = Mapping[int, float]
Key = TypeVar("Key", bound=Hashable)
# The figures of an evaluation, and whether more of it is better (1) or less (-1).
FIGURES = {"kl": -1, "accuracy": 1, "accuracy_greedy": 1, "length": 0}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
STYLE = {"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What a point left."""

    point: sweep.Point
    evaluations: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]

    @property
    def seed(self) -> int:
        return self.point["seed"]

    @property
    def rollouts(self) -> int:
        """Rollouts that were drawn."""
        return self.evaluations[-1]["rollouts"]

    def last(self, figure: str) -> float | None:
        """A figure of the last evaluation."""
        interval = self.evaluations[-1].get(figure)
        return None if interval is None else interval["value"]

    def at_last_use(self, metric: str) -> float:
        """A metric at the last update on each batch of rollouts, averaged over the batches."""
        batches = itertools.groupby(self.metrics, lambda line: line["rollouts"])
        return float(np.mean([list(lines)[-1][metric] for _, lines in batches]))


Arm = Mapping[int, Trained]  # by seed


def read(workdir: Path, points: Iterable[sweep.Point]) -> list[Trained]:
    """What the points of a sweep left in its folder.

    Raises:
        ValueError: a point that isn't finished.
    """
    trained = []
    for point in points:
        folder = workdir / "points" / sweep.name(point)
        if not (folder / "done.json").is_file():
            raise ValueError(f"{folder}: not finished (done.json is missing)")
        lines = (disk.read_jsonl(folder / f"{name}.jsonl") for name in ("evaluations", "metrics"))
        trained.append(Trained(point, *lines))
    return trained


def arms(trained: Iterable[Trained], key: Callable[[sweep.Point], Key]) -> dict[Key, Arm]:
    """The trained points by arm and seed, in their order."""
    by_arm: dict[Key, dict[int, Trained]] = {}
    for one in trained:
        arm = by_arm.setdefault(key(one.point), {})
        if one.seed in arm:
            raise ValueError(f"{key(one.point)}: two points with seed {one.seed}")
        arm[one.seed] = one
    return by_arm


def last(arm: Arm, figure: str) -> dict[int, float]:
    """A figure of the last evaluation, by seed; empty where a seed lacks it."""
    values = {seed: one.last(figure) for seed, one in arm.items()}
    return {} if None in values.values() else values


def over_seeds(values: BySeed) -> Interval:
    """The mean over seeds and its t interval."""
    return t_interval(np.array(list(values.values()), float))


def paired(values: BySeed, base: BySeed) -> Interval:
    """The mean over seeds of values - base, and its t interval.

    Raises:
        ValueError: the seeds differ.
    """
    if values.keys() != base.keys():
        raise ValueError(f"seeds {sorted(values)} can't be paired with {sorted(base)}")
    return over_seeds({seed: values[seed] - base[seed] for seed in base})


def worse(difference: Interval, better: int) -> bool:
    """Whether a difference lies wholly on the worse side; `better` is 1 where more is better."""
    return bool(difference.high < 0 if better > 0 else difference.low > 0)


def first_worse(by: Mapping[int, BySeed], better: int) -> int | None:
    """The first number whose values are worse than the smallest's by more than the paired interval.

    None where none is.
    """
    least, *rest = sorted(by)
    return next((m for m in rest if worse(paired(by[m], by[least]), better)), None)


def curve(arm: Arm, figure: str) -> dict[str, Any]:
    """A figure against rollouts: lists of rollouts, and of mean, low and high over seeds."""
    lines = list(arm.values())
    rollouts = [at["rollouts"] for at in lines[0].evaluations]
    if any([at["rollouts"] for at in one.evaluations] != rollouts for one in lines):
        raise ValueError("the seeds of an arm were evaluated at different numbers of rollouts")
    values = [[at[figure]["value"] for at in one.evaluations] for one in lines]
    mean = t_interval(np.array(values))
    return {"rollouts": rollouts, "mean": mean.value, "low": mean.low, "high": mean.high}


def figures(arm: Arm, base: Arm | None) -> dict[str, Any]:
    """The last evaluation of an arm: each figure by seed, over seeds, and less the base's."""
    record = {}
    for figure in FIGURES:
        values = last(arm, figure)
        if values:
            record[figure] = {"seeds": list(values.values()), "over_seeds": over_seeds(values)}
            if base is not None and last(base, figure):
                record[figure]["difference"] = paired(values, last(base, figure))
    return record


def at_last_use(arm: Arm, metric: str) -> Interval:
    """A metric at the last use of a batch of rollouts, over seeds."""
    return over_seeds({seed: one.at_last_use(metric) for seed, one in arm.items()})


def facts(arm: Arm) -> dict[str, Any]:
    """What the points of an arm have in common."""
    shared = {
        (one.point.get("optimizer.learning_rate"), one.rollouts, one.evaluations[-1]["update"])
        for one in arm.values()
    }
    if len(shared) != 1:
        raise ValueError(
            f"the seeds of an arm differ in rate, rollouts or updates: {sorted(shared)}"
        )
    return dict(zip(("learning_rate", "rollouts", "updates"), shared.pop(), strict=True))


def start(arm: Arm) -> dict[str, Any]:
    """The start of an arm, which is that of all: each figure of its evaluation, by seed."""
    first = [one.evaluations[0] for one in arm.values()]
    return {name: [at[name]["value"] for at in first] for name in FIGURES if name in first[0]}


def teachers(
    file: Path, seeds: Iterable[int], models: Path, workdir: Path
) -> list[dict[str, Interval]]:
    """Each seed's teacher's held-out figures, of a config file as the points of a sweep have them.

    `models` is the sweep's folder of players.
    """
    values, judged = runpy.run_path(str(file))["get_config"]().to_dict(), []
    for seed in seeds:
        config = configs.build(values | {"seed": seed})
        ready = checks.ready(config, ())
        world = drawing.prepared(ready.world, workdir)
        if config.teacher.is_student:
            student = players.make(ready.student, world, workdir, str(models))
            teacher = players.make_teacher(ready.teacher, student, world, workdir)
        else:
            teacher = players.make(ready.teacher, world, workdir, str(models))
        held_out = world.task.split(config.evaluate.split)[: config.evaluate.prompts]
        judged.append(evaluate.evaluate(world, held_out, teacher, told=True)[0])
    return judged


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def rounded(value: Any, digits: int = 5) -> Any:
    """The same with every number that isn't whole to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Study:
    """A question: the sweep that answers it, what is said of its arms, and the picture of that.

    `folder` is the study's own, where results.json and the picture go.
    """

    folder: Path
    sweep: Path
    summary: Callable[[Sequence[Trained]], Mapping[str, Any]]
    draw: Callable[[Mapping[str, Any]], Figure]

    def train(self, workdir: Path, jobs: int) -> None:
        """Trains all points and leaves NAME.json: what `write` can't read from the points.

        Studies of one config may share a workdir, and with it their teachers and starts.

        Raises:
            RuntimeError: points that failed.
        """
        file, points = sweep.load(self.sweep)
        began = time.perf_counter()
        records = sweep.run(file, points, workdir, jobs)
        failed = [one for one in records if "error" in one]
        for one in failed:
            print(f"{sweep.name(one['point'])}: {one['error']}", file=sys.stderr)
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(points)} points failed")
        seconds = time.perf_counter() - began
        seeds = list(dict.fromkeys(point["seed"] for point in points))
        judged = teachers(file, seeds, workdir / "models", workdir / "judged")
        ran = {
            "command": f"python -m experiments.{self.folder.name}.run --workdir=DIR --jobs={jobs}",
            "seconds": round(seconds),
            "environment": environment(),
            "config": str(file),
            "seeds": seeds,
            "teacher": {name: [one[name].value for one in judged] for name in judged[0]},
        }
        disk.dump_json(ran, workdir / f"{self.folder.name}.json")

    def write(self, workdir: Path) -> None:
        """results.json and the picture, of what `train` has left."""
        _, points = sweep.load(self.sweep)
        ran = json.loads((workdir / f"{self.folder.name}.json").read_text())
        results = rounded(disk.strict(ran | self.summary(read(workdir, points))))
        disk.dump_json(results, self.folder / "results.json")
        with matplotlib.rc_context(STYLE):
            self.draw(results).savefig(self.folder / f"{self.folder.name}.png", dpi=110)

    def main(self, argv: Sequence[str] | None = None) -> None:
        """The command line of a study."""
        parser = argparse.ArgumentParser(prog=f"python -m experiments.{self.folder.name}.run")
        parser.add_argument("--workdir", type=Path, required=True, help="folder of all points")
        parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
        parser.add_argument("--read", action="store_true", help="train nothing, write anew")
        options = parser.parse_args(argv)
        if not options.read:
            self.train(options.workdir, options.jobs)
        self.write(options.workdir)


def dots(ax: Axes, x: Sequence[float], intervals: Sequence[Mapping[str, float]], **paint: Any):
    """Means over seeds with their intervals, joined by a line."""
    value = np.array([one["value"] for one in intervals], float)
    ends = np.array([[one["low"], one["high"]] for one in intervals], float).T
    ax.errorbar(x, value, np.abs(ends - value), marker="o", ms=3.5, lw=1.2, capsize=2, **paint)


def band(ax: Axes, curve: Mapping[str, Any], **paint: Any) -> None:
    """A curve of means over seeds, and the band of its intervals."""
    (line,) = ax.plot(curve["rollouts"], curve["mean"], marker="o", ms=2.5, lw=1.3, **paint)
    ax.fill_between(
        curve["rollouts"], curve["low"], curve["high"], color=line.get_color(), alpha=0.15, lw=0
    )


def level(ax: Axes, values: Sequence[float], label: str) -> None:
    """A dotted line at the mean of values."""
    ax.axhline(float(np.mean(values)), color="0.4", ls=":", lw=1, label=label)

"""Many trainings of one config: a point a set of overrides, each in a workdir of its own.

A sweep file has CONFIG, the path of a config file, and `get_sweep()`, a list of points; a point is
a mapping from keys without `config.` in front to values: {"method.gamma": 0.5, "seed": 1}.
"""

from __future__ import annotations

import concurrent.futures
import csv
import hashlib
import io
import itertools
import json
import runpy
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from opd import disk
from opd.measure import intervals
from opd.run.store import progress

Point = dict[str, Any]
# What a table has of each point beside its overrides.
FIGURES = ("kl", "accuracy", "accuracy_greedy", "length", "truncated")
LAUNCHERS = ("slurm", "tpu", "xpk")  # scripts/launch_NAME


def product(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the values: {"a": (1, 2), "b": (3, 4)} has four points."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def zipped(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The values side by side: {"a": (1, 2), "b": (3, 4)} has two points."""
    return [dict(zip(axes, values)) for values in zip(*axes.values(), strict=True)]


def crossed(*sweeps: Sequence[Point]) -> list[Point]:
    """Every combination of points of several sweeps."""
    parts = itertools.product(*sweeps)
    return [{key: part[key] for part in point for key in part} for point in parts]


def load(file: Path) -> tuple[Path, list[Point]]:
    """A sweep file's config and its points.

    Raises:
        ValueError: no such file, or one that isn't a sweep.
    """
    if not file.is_file():
        raise ValueError(f"--sweep={file}: no such file")
    try:
        module = runpy.run_path(str(file))
        config, points = Path(module["CONFIG"]), list(module["get_sweep"]())
    except Exception as error:  # the file is the user's and raises what it likes
        raise ValueError(f"--sweep={file}: {type(error).__name__}: {error}") from None
    if not config.is_file():
        raise ValueError(f"--sweep={file}: CONFIG = {config}: no such file")
    if not points or not all(isinstance(point, Mapping) and point for point in points):
        raise ValueError(f"--sweep={file}: get_sweep() has no points, or empty ones")
    names = [name(point) for point in points]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"--sweep={file}: the point {twice} comes twice")
    return config, points


def name(point: Point) -> str:
    """A folder's name for a point: what is overridden, shortened where that is long."""
    overrides = ",".join(f"{key}={value}" for key, value in point.items()).replace("/", "_")
    if len(overrides) <= 100:  # eCryptfs allows 143 bytes
        return overrides
    return f"{overrides[:90]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def training(config: Path, point: Point, workdir: Path) -> list[str]:
    """A point's program and its flags; points of the same players share them."""
    overrides = {"models": workdir / "models"} | point
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    folder = f"--workdir={workdir / 'points' / name(point)}"
    return ["experiments.train", f"--config={config}", *flags, folder]


def command(config: Path, point: Point, workdir: Path) -> list[str]:
    """The training of a point, on this machine."""
    return [sys.executable, "-m", *training(config, point, workdir)]


def launched(
    launcher: str, config: Path, points: Sequence[Point], workdir: Path
) -> list[list[str]]:
    """The command of each point that hands its training to a cluster.

    `launcher` is the name of one and its flags, "slurm --name=NAME --nodes=2 --gpus=8". Jobs are
    called NAME-0, NAME-1 and so on; of `tpu` the name is the machine's, and stays.

    Raises:
        ValueError: no such launcher, or flags that it refuses.
    """
    try:
        which, *flags = shlex.split(launcher) or [""]
    except ValueError as error:
        raise ValueError(f"--launcher={launcher}: {error}") from None
    if which not in LAUNCHERS:
        raise ValueError(f"--launcher={launcher}: it begins with one of {', '.join(LAUNCHERS)}")
    script = str(Path("scripts") / f"launch_{which}")
    commands = []
    for number, point in enumerate(points):
        numbered = [
            f"{flag}-{number}" if which != "tpu" and flag.startswith("--name=") else flag
            for flag in flags
        ]
        commands.append([script, *numbered, "--", *training(config, point, workdir)])
    # Flags are the same for all, and the last name is the longest.
    tried = [*commands[-1][:1], "--dry_run", *commands[-1][1:]]
    refused = subprocess.run(tried, capture_output=True, text=True, check=False)
    if refused.returncode:
        last = refused.stderr.strip().splitlines()[-1].removeprefix("error: ")
        raise ValueError(f"--launcher={launcher}: {last}")
    return commands


def run(config: Path, points: Sequence[Point], workdir: Path, jobs: int) -> list[dict[str, Any]]:
    """Trains all points, `jobs` at a time; one that fails doesn't stop the others.

    A point that is finished is skipped by its own training, which then changes nothing. Returns one
    record a point: its overrides under `point`, `done` or `error`.
    """
    (workdir / "points").mkdir(parents=True, exist_ok=True)
    with (
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
        progress.progress("sweep", len(points)) as advance,
    ):

        def one(point: Point) -> dict[str, Any]:
            ended = subprocess.run(
                command(config, point, workdir),
                capture_output=True,
                text=True,
                check=False,
            )
            (workdir / "points" / f"{name(point)}.log").write_text(ended.stdout + ended.stderr)
            advance()
            if ended.returncode == 0 and (found := finished(point, workdir)):
                return found
            lines = ended.stderr.strip().splitlines() or ["it left without a word"]
            errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
            return {"point": point, "error": f"exit code {ended.returncode}: {errors[0]}"}

        return list(pool.map(one, points))


def finished(point: Point, workdir: Path) -> dict[str, Any] | None:
    """The record of a point whose training is over; None before."""
    file = workdir / "points" / name(point) / "done.json"
    return {"point": point, "done": json.loads(file.read_text())} if file.is_file() else None


def read(points: Sequence[Point], workdir: Path) -> list[dict[str, Any]]:
    """One record a point, as `run` has them, of trainings that ran elsewhere."""
    return [
        finished(point, workdir) or {"point": point, "error": "not finished"} for point in points
    ]


def table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One flat row a point: its overrides, step, rollouts, figures with their ends, and error."""
    rows, axes = [], _axes(records)
    for record in records:
        done = record.get("done") or {}
        row = {axis: record["point"].get(axis) for axis in axes}
        row |= {"step": done.get("step"), "rollouts": done.get("rollouts")}
        for figure in FIGURES:
            interval = (done.get("eval") or {}).get(figure) or {}
            row[figure] = interval.get("value")
            row[f"{figure}_low"], row[f"{figure}_high"] = interval.get("low"), interval.get("high")
        rows.append(row | {"error": record.get("error")})
    return rows


def _axes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the points override; a point may leave some of it as the config has it."""
    return list(dict.fromkeys(key for record in records for key in record["point"]))


def plot(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> Figure:
    """KL and accuracy of every point against the first axis that isn't the seed.

    Points that differ in the seed alone share a colour. A bar is the 95 % interval of their mean
    over seeds; of a single one, its own over evaluation prompts. A line runs through the means
    where the axis has numbers.
    """
    inner = [axis for axis in axes if axis != "seed"] or list(axes)
    across = inner[0]
    places = list(dict.fromkeys(row[across] for row in rows))
    others = [axis for axis in inner[1:] if not _follows(rows, axis, across)]
    numeric = all(type(place) in (int, float) for place in places)
    # Places that span more would crowd at one end.
    log = numeric and min(places) > 0 and max(places) > 8 * min(places)
    at = {place: place if numeric else index for index, place in enumerate(places)}
    width = np.ptp(list(at.values()))
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2), (("kl", "sequence KL, nats"), ("accuracy", "accuracy, sampled"))
    ):
        lines: dict[str, dict[Any, list[Mapping[str, Any]]]] = {}
        for row in rows:
            legend = ", ".join(
                f"{other}={row[other]}" for other in others if row[other] is not None
            )
            points = lines.setdefault(legend, {})
            if row[key] is not None:
                points.setdefault(at[row[across]], []).append(row)
        for number, (legend, points) in enumerate(lines.items()):
            colour, aside = f"C{number % 10}", number - (len(lines) - 1) / 2
            # A little aside: bars at one place would hide each other.
            moved = {x: x * 1.03**aside if log else x + 0.012 * width * aside for x in points}
            dots = [(moved[x], row[key]) for x, here in points.items() for row in here]
            means = [(moved[x], *_mean(points[x], key)) for x in sorted(points)]
            if means:
                x, value, low, high = map(np.asarray, zip(*means))
                axis.plot(*zip(*dots), ".", color=colour, markersize=5, alpha=0.5)
                axis.errorbar(
                    x, value, (value - low, high - value), fmt="-o" if numeric else "D",
                    color=colour, markersize=4, linewidth=1.2, capsize=2.5, label=legend,
                )  # fmt: skip
        if log:
            axis.set_xscale("log")
            axis.minorticks_off()
        if log or not numeric:
            labels = [str(place) for place in places]
            axis.set_xticks(list(at.values()), labels)
            if len("".join(labels)) > 30:  # they would run into each other
                axis.tick_params("x", labelrotation=20)
                for text in axis.get_xticklabels():
                    text.set_horizontalalignment("right")
        axis.set_xlabel(across)
        axis.set_ylabel(label)
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= {line: handle for handle, line in zip(*axis.get_legend_handles_labels())}
    if handles:
        figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=2, fontsize=8,
            frameon=False,
        )  # fmt: skip
    return figure


def _follows(rows: Sequence[Mapping[str, Any]], axis: str, across: str) -> bool:
    """Whether an axis has one value at each place of another, and so tells no lines apart."""
    return len({(row[across], row[axis]) for row in rows}) == len({row[across] for row in rows})


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float, float]:
    """A figure's mean over seeds and its ends; a single seed's own."""
    if len(rows) == 1:
        return rows[0][key], rows[0][f"{key}_low"], rows[0][f"{key}_high"]
    mean = intervals.t_interval([row[key] for row in rows])
    return mean.value, mean.low, mean.high


def write(records: Sequence[Mapping[str, Any]], workdir: Path) -> None:
    """sweep.json, sweep.csv and sweep.png: the table of all points, and a picture of it."""
    rows = table(records)
    plot(rows, _axes(records)).savefig(workdir / "sweep.png", dpi=140)
    disk.dump_json(rows, workdir / "sweep.json")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    sheet = csv.DictWriter(text, keys, lineterminator="\n")
    sheet.writeheader()
    sheet.writerows(rows)
    disk.replace_file(workdir / "sweep.csv", text.getvalue().encode())

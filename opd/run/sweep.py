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
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from opd.run import writers

Point = dict[str, Any]
# What a table has of each point beside its overrides.
FIGURES = ("kl", "accuracy", "accuracy_greedy", "length", "truncated")


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
        found = runpy.run_path(str(file))
        config, points = Path(found["CONFIG"]), list(found["get_sweep"]())
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
    said = ",".join(f"{key}={value}" for key, value in point.items()).replace("/", "_")
    if len(said) <= 100:
        return said
    return f"{said[:90]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def command(config: Path, point: Point, workdir: Path) -> list[str]:
    """The training of a point; points of the same players share them."""
    given = {"models": workdir / "models"} | point
    flags = [f"--config.{key}={value}" for key, value in given.items()]
    run = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    return [*run, *flags, f"--workdir={workdir / 'points' / name(point)}"]


def run(config: Path, points: Sequence[Point], workdir: Path, jobs: int) -> list[dict[str, Any]]:
    """Trains all points, `jobs` at a time; one that fails doesn't stop the others.

    A point that is finished is skipped by its own training, which then changes nothing. Returns one
    record a point: its overrides under `point`, `done` or `error`.
    """
    (workdir / "points").mkdir(parents=True, exist_ok=True)
    with (
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
        writers.progress("sweep", len(points)) as advance,
    ):

        def one(point: Point) -> dict[str, Any]:
            found = subprocess.run(
                command(config, point, workdir),
                env={"JAX_COMPILATION_CACHE_DIR": str(workdir.resolve() / "cache")} | os.environ,
                capture_output=True,
                text=True,
                check=False,
            )
            (workdir / "points" / f"{name(point)}.log").write_text(found.stdout + found.stderr)
            advance()
            finished = workdir / "points" / name(point) / "done.json"
            if found.returncode == 0 and finished.is_file():
                return {"point": point, "done": json.loads(finished.read_text())}
            said = found.stderr.strip().splitlines() or ["it left without a word"]
            errors = [line for line in said if line.startswith("error: ")] or said[-1:]
            return {"point": point, "error": f"exit code {found.returncode}: {errors[0]}"}

        return list(pool.map(one, points))


def table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One flat row a point: its overrides, step, rollouts, figures with their ends, and error."""
    rows = []
    for record in records:
        done = record.get("done") or {}
        row = dict(record["point"]) | {"step": done.get("step"), "rollouts": done.get("rollouts")}
        for figure in FIGURES:
            found = (done.get("eval") or {}).get(figure) or {}
            row[figure] = found.get("value")
            row[f"{figure}_low"], row[f"{figure}_high"] = found.get("low"), found.get("high")
        rows.append(row | {"error": record.get("error")})
    return rows


def plot(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> Figure:
    """KL and accuracy of every point against the first axis that isn't the seed.

    A dot is a point with its interval over evaluation prompts; points that differ in the seed
    alone share a colour, and a line runs through their means.
    """
    inner = [axis for axis in axes if axis != "seed"] or list(axes)
    across, others = inner[0], inner[1:]
    places = list(dict.fromkeys(row[across] for row in rows))
    numeric = all(isinstance(place, (int, float)) for place in places)
    at = {place: place if numeric else index for index, place in enumerate(places)}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2), (("kl", "sequence KL, nats"), ("accuracy", "accuracy, sampled"))
    ):
        lines: dict[str, dict[Any, list[float]]] = {}
        for row in rows:
            if row[key] is not None:
                label_ = ", ".join(f"{other}={row[other]}" for other in others)
                lines.setdefault(label_, {}).setdefault(row[across], []).append(row[key])
        for number, (label_, found) in enumerate(lines.items()):
            x = [at[place] for place in found]
            means = [sum(values) / len(values) for values in found.values()]
            axis.plot(x, means, color=f"C{number % 10}", label=label_ or None, linewidth=1.2)
        for row in rows:
            if row[key] is None:
                continue
            label_ = ", ".join(f"{other}={row[other]}" for other in others)
            colour = f"C{list(lines).index(label_) % 10}"
            ends = [[row[key] - row[f"{key}_low"]], [row[f"{key}_high"] - row[key]]]
            axis.errorbar(
                at[row[across]], row[key], ends, fmt="o", color=colour, markersize=4, alpha=0.6
            )
        if not numeric:
            axis.set_xticks(list(at.values()), [str(place) for place in places])
        axis.set_xlabel(across)
        axis.set_ylabel(label)
        if others and lines:
            axis.legend(fontsize=8, frameon=False)
    return figure


def write(records: Sequence[Mapping[str, Any]], workdir: Path) -> None:
    """sweep.json, sweep.csv and sweep.png: the table of all points, and a picture of it."""
    rows = table(records)
    plot(rows, list(records[0]["point"])).savefig(workdir / "sweep.png", dpi=140)
    writers.dump_json(rows, workdir / "sweep.json")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    sheet = csv.DictWriter(text, keys, lineterminator="\n")
    sheet.writeheader()
    sheet.writerows(rows)
    writers.replace_file(workdir / "sweep.csv", text.getvalue().encode())

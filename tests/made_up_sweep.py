"""Finished points of a sweep, made up: for tests of what reads them."""

import json

from opd.run.sweeping import sweep


def make_up(workdir, point, evaluations, rollouts, staleness=()):
    """A finished point: an evaluation for each number of rollouts, a metric's line an update."""
    folder = workdir / "points" / sweep.name(point)
    folder.mkdir(parents=True)
    for at, figures in zip(rollouts, evaluations, strict=True):
        said = {name: {"value": v, "low": v - 1, "high": v + 1} for name, v in figures.items()}
        line = {"update": at, "rollouts": at} | said
        with open(folder / "evaluations.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    lines = [
        {"update": number + 1, "rollouts": batch, "ess_trajectory": ess, "drift": 1 - ess}
        | {"ess_token": 1.0}
        for number, (batch, ess) in enumerate(staleness)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "done.json").write_text("{}")

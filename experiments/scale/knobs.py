"""Keys of a config that make a program smaller, one step of each: what `--try` compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.scale import job, measure
from experiments.scale.chips import Chip
from experiments.scale.job import Job
from opd.engine import sharding
from opd.run.settings.config import Config


def smaller(job_: Job, name: str) -> dict[str, Config]:
    """Configs that differ from a job's by one key, which makes one of its programs smaller."""
    config = job_.config
    student, teacher = config.student, config.teacher
    found: dict[str, Config] = {}

    def player(which: str, **keys: Any) -> None:
        was = getattr(config, which)
        if any(getattr(was, key) != value for key, value in keys.items()):
            said = ", ".join(f"{which}.{key} = {value}" for key, value in keys.items())
            found[said] = dataclasses.replace(config, **{which: dataclasses.replace(was, **keys)})

    least = sharding.row_shards(job_.mesh)
    if name == "rollout":
        player("student", gather=False)
    if name == "teacher":
        rows = job_.rows if teacher.rows is None else teacher.rows
        if rows > least:
            player("teacher", rows=max(least, rows // 4))
        if teacher.attention == "plain":
            player("teacher", attention="auto")
    if name == "update":
        parts = 2 * config.optimizer.microbatches
        if job_.rows // parts % least == 0 and job_.rows % parts == 0:
            halved = dataclasses.replace(config.optimizer, microbatches=parts)
            found[f"optimizer.microbatches = {parts}"] = dataclasses.replace(
                config, optimizer=halved
            )
        player("student", remat="full")
        if student.attention == "plain":
            player("student", attention="auto")
    return found


def tried(job_: Job, chip: Chip, name: str) -> dict[str, Mapping[str, Any]]:
    """What a program that doesn't fit would take with each of these, and whether it fits then."""
    devices = list(job_.mesh.devices.flat)
    found = {}
    for said, config in smaller(job_, name).items():
        report = measure.measured(job.of(config, devices), chip, name)
        found[said] = {key: report[key] for key in ("fits", "hbm_used")}
    return found

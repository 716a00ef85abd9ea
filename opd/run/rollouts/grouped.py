"""Whole prompt groups on the host: taken from rollouts, put together anew, kept in a file."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from opd import disk, processes
from opd.types import Rollout

# Prompt groups by the rollout's field, [U, G, ...] each: without `group` and `row`.
Groups = dict[str, np.ndarray]


def split(rollout: Rollout, group_size: int) -> Groups:
    """A rollout's fields on the host, a row of arrays a group."""
    groups = {}
    rollout = processes.on_host(rollout)
    for field in dataclasses.fields(Rollout):
        value = getattr(rollout, field.name)
        if value is not None and field.name not in ("group", "row"):
            array = np.array(value)  # a copy, to be written to
            groups[field.name] = array.reshape(-1, group_size, *array.shape[1:])
    return groups


def joined(groups: Groups) -> Rollout:
    """Groups as one rollout, numbered anew."""
    count, size = groups["mask"].shape[:2]
    row = np.arange(count * size, dtype=np.int32)
    flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in groups.items()}
    return Rollout(group=row // np.int32(size), row=row, **flat)


def level(reward: np.ndarray) -> np.ndarray:
    """Which groups' rewards [U, G] are all equal."""
    return np.all(reward == reward[:, :1], axis=1)


def path_of(folder: Path, name: str, identity: Any) -> Path:
    """The file of groups of an identity."""
    digest = hashlib.sha256(disk.dumps(identity).encode()).hexdigest()
    return folder / f"{name}-{digest[:12]}.npz"


def read(path: Path, identity: Any) -> Groups | None:
    """The groups that are there, if they are these and whole."""
    try:
        description = json.loads(path.with_suffix(".json").read_text())
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    if description != {"identity": identity, "sha256": hashlib.sha256(content).hexdigest()}:
        return None
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def write(path: Path, identity: Any, groups: Groups) -> None:
    """The arrays, and then what says that they are whole."""
    content = io.BytesIO()
    np.savez(content, **groups)
    disk.replace_file(path, content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    disk.dump_json({"identity": identity, "sha256": digest}, path.with_suffix(".json"))

"""results.json and the README's tables of the studies here, each part written by its command."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import tables
from opd import disk

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PACKAGES = ("jax", "jaxlib", "orbax-checkpoint")


def read(part: str) -> dict[str, Any]:
    """A part's record; empty before there is one."""
    if not RESULTS.is_file():
        return {}
    return json.loads(RESULTS.read_text(encoding="utf-8")).get(part, {})


def write(part: str, record: Mapping[str, Any], table: Callable[[Mapping[str, Any]], str]) -> None:
    """Puts a part's record beside the others', and its table into the README."""
    records = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    environment = {"python": platform.python_version(), **versions}
    records[part] = dict(record) | {"environment": environment}
    disk.dump_json(records, RESULTS)
    readme = HERE / "README.md"
    text = tables.replaced(readme.read_text(encoding="utf-8"), {part: table(record)})
    readme.write_text(text, encoding="utf-8")

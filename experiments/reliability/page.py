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
PACKAGES = ("jax", "jaxlib", "orbax-checkpoint")


def write(part: str, record: Mapping[str, Any], table: Callable[[Mapping[str, Any]], str]) -> None:
    """Puts a part's record beside the others', and its table into the README."""
    results = HERE / "results.json"
    records = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    environment = {"python": platform.python_version(), **versions}
    records[part] = dict(record) | {"environment": environment}
    disk.dump_json(records, results)
    readme = HERE / "README.md"
    text = tables.replaced(readme.read_text(encoding="utf-8"), {part: table(record)})
    readme.write_text(text, encoding="utf-8")

"""Measures every case against transformers and writes results.json, README.md and a README block.

python -m experiments.parity.run  # needs the extra `oracles`
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.parity import cases, measure, memory, page
from experiments.parity.cases import Case
from opd import disk

HERE = Path(__file__).parent
COMMAND = "python -m experiments.parity.run"
SIZE = 400 * memory.MEBIBYTE
VERSIONS = ("transformers", "torch", "jax", "jaxlib", "flax", "safetensors", "numpy")


def measured(case: Case) -> dict[str, Any]:
    """All properties of a case, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as work:
        given = measure.scene(case, Path(work))
        return {
            "name": case.name,
            "family": case.family,
            "scale": float(np.sqrt(np.mean(np.square(given.wanted, dtype=np.float64)))),
            "distinct": min(len(set(row.tolist())) for row in measure.continued(given)),
            "found": {name: one.measure(given) for name, one in measure.PROPERTIES.items()},
        }


def loaded(dtype: str) -> dict[str, Any]:
    """Memory and time of loading a checkpoint of SIZE bytes."""
    with tempfile.TemporaryDirectory() as work:
        return memory.measure(Path(work) / "model", dtype, SIZE)


def main() -> None:
    """Everything, into this folder and the project's README."""
    began = time.perf_counter()
    found = []
    for case in cases.CASES:
        found.append(measured(case))
        print(found[-1]["name"], found[-1]["found"], flush=True)
    results = {
        "command": COMMAND,
        "environment": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS},
            "platform": jax.default_backend(),
            "cores": os.cpu_count(),
        },
        "properties": {
            name: {"title": one.title, "about": one.about, "limit": one.limit}
            for name, one in measure.PROPERTIES.items()
        },
        "cases": found,
        "memory": {dtype: loaded(dtype) for dtype in ("bfloat16", "float32")},
    }
    results["seconds"] = round(time.perf_counter() - began)
    disk.dump_json(results, HERE / "results.json")
    write(json.loads((HERE / "results.json").read_text(encoding="utf-8")))


def write(results: dict[str, Any]) -> None:
    """The page, and the block of the project's README."""
    (HERE / "README.md").write_text(page.page(results), encoding="utf-8")
    readme = HERE.parents[1] / "README.md"
    whole = page.replaced(readme.read_text(encoding="utf-8"), results)
    readme.write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    main()

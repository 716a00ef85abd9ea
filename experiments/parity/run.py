"""Measures every case against transformers and writes results.json, README.md and a README block.

python -m experiments.parity.run [--new]  # needs the extra `oracles`

--new: of the versions that the results were measured with, only the cases that they lack.
"""

from __future__ import annotations

import argparse
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


def environment() -> dict[str, Any]:
    """What results depend on beside the cases."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in VERSIONS},
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Everything, into this folder and the project's README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--new", action="store_true", help="only cases that the results lack")
    new = parser.parse_args().new
    before = json.loads((HERE / "results.json").read_text(encoding="utf-8")) if new else {}
    if new and before["environment"] != environment():
        parser.error("--new: the results are of other versions; allowed is to measure all of it")
    began = time.perf_counter()
    known = {case["name"]: case for case in before.get("cases", ())}
    for case in cases.CASES:
        if case.name not in known:
            known[case.name] = measured(case)
            print(case.name, known[case.name]["found"], flush=True)
    results = {
        "command": COMMAND,
        "environment": environment(),
        "properties": {
            name: {"title": one.title, "about": one.about, "limit": one.limit}
            for name, one in measure.PROPERTIES.items()
        },
        "cases": [known[case.name] for case in cases.CASES],
        "memory": before.get("memory")
        or {dtype: loaded(dtype) for dtype in ("bfloat16", "float32")},
    }
    results["seconds"] = round(time.perf_counter() - began) + before.get("seconds", 0)
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

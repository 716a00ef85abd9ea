"""Compare gradient estimators side by side, then train with them.

python -m experiments.compare --config=configs/quickstart.py --workdir=DIR [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import rich
from absl import flags

from opd.run import compare, launch, report

_WORKDIR = flags.DEFINE_string("workdir", None, "folder that the run writes into")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print the config and stop")
_LIST_METHODS = flags.DEFINE_bool("list_methods", False, "print the methods table and stop")


def main(argv: list[str] | None = None) -> int:
    """Parses, checks, runs; 2 for a user's mistake."""
    config = launch.parse(sys.argv if argv is None else argv)
    if _LIST_METHODS.value:
        print(launch.methods())
        return 0
    if config is None:
        raise ValueError("--config is missing; for instance --config=configs/quickstart.py")
    if _PRINT_CONFIG.value:
        print(json.dumps(launch.as_dict(config), indent=1))
        return 0
    if _WORKDIR.value is None:
        raise ValueError("--workdir is missing; it is the folder that the run writes into")
    workdir = Path(_WORKDIR.value)
    jax.config.update("jax_compilation_cache_dir", str(workdir / "cache"))
    results = compare.compare(config, workdir)
    rich.print(report.table(results))
    print(f"report: {workdir / 'report.html'}")
    return 0


if __name__ == "__main__":
    launch.run(main)

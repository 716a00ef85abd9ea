"""Does it hold with the oldest versions that setup.py allows, and with the newest there are?

python -m experiments.reliability.supply NAME --python=PYTHON [--rooms=method,training,...]
python -m experiments.reliability.supply --lowest

PYTHON is the interpreter of an environment that has the extra `test`. Of the newest: one that was
installed today. Of the oldest: one that a resolver made which takes the lowest versions of what
setup.py names (uv: --resolution=lowest-direct); --lowest prints these. The fast tests of each room
run there, and one training on the debug config; rooms not asked for keep what was recorded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import setuptools

from experiments.reliability import page

ROOT = Path(__file__).parents[2]
ROOMS = ("method", "measure", "engine", "training")
TRAINING = ("-m", "experiments.train", "--config=configs/debug.py")
# Run where the versions are asked for: names on the command line, versions as JSON.
VERSIONS = """
import importlib.metadata, json, platform, sys
found = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version()} | found))
"""


def asked() -> list[str]:
    """What an installation with its tests requires, as setup.py writes it."""
    given: dict[str, Any] = {}
    kept, setuptools.setup = setuptools.setup, lambda **found: given.update(found)
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = kept
    return [*given["install_requires"], *given["extras_require"]["test"]]


def split(requirement: str) -> tuple[str, str]:
    """A requirement's name and the least version that it allows."""
    name, _, least = requirement.partition(">=")
    return name.partition("[")[0], least


def versions(python: str) -> dict[str, str]:
    """What an environment has of what setup.py names, jaxlib, and its Python."""
    names = ["jaxlib", *(split(one)[0] for one in asked())]
    done = subprocess.run(
        [python, "-c", VERSIONS, *names], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def tested(python: str, room: str) -> dict[str, Any]:
    """How many of a room's fast tests passed; of a training, its exit code as a failure or none."""
    if room == "training":
        with tempfile.TemporaryDirectory() as folder:
            command = [python, *TRAINING, f"--workdir={folder}/run"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(done.stderr[-2000:], file=sys.stderr)
        return {"passed": int(not done.returncode), "failed": int(bool(done.returncode))}
    command = [python, "-m", "pytest", "-q", "-m", "not slow", f"tests/{room}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-4000:], file=sys.stderr)
    return counts(done.stdout)


def counts(said: str) -> dict[str, int]:
    """What pytest's last line counts; errors are failures.

    Raises:
        ValueError: it has no such line.
    """
    last = (said.strip().splitlines() or [""])[-1]
    found = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", last)}
    if "passed" not in found and "failed" not in found:
        raise ValueError(f"pytest ended with {last[:200]!r}")
    wrong = sum(found.get(word, 0) for word in ("failed", "error", "errors"))
    return {"passed": found.get("passed", 0), "failed": wrong, "skipped": found.get("skipped", 0)}


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = ["| versions | Python | jax | rest | tests | training |", "|---|---|---|---|---|---|"]
    for name, one in record.items():
        if name == "environment":
            continue
        had = one["versions"]
        rest = ", ".join(f"{key} {had[key]}" for key in ("flax", "optax", "numpy", "grain"))
        rooms = [f"{room}: {_said(one['rooms'][room])}" for room in ROOMS if room in one["rooms"]]
        tests = "; ".join(each for each in rooms if not each.startswith("training"))
        trained = _said(one["rooms"]["training"]) if "training" in one["rooms"] else "not tried"
        row = (f"{name}, {one['date']}", had["python"], had["jax"], rest, tests, trained)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _said(count: Mapping[str, int]) -> str:
    return f"{count['passed']} passed, {count['failed']} failed"


def main(argv: Sequence[str] | None = None) -> None:
    """Tests one environment, and writes what came out beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="what the environment is called: oldest, newest")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rooms", default=",".join(ROOMS))
    parser.add_argument("--lowest", action="store_true", help="print the lowest versions and stop")
    options = parser.parse_args(argv)
    if options.lowest:
        print("\n".join("==".join(split(one)) for one in asked()))
        return
    rooms = options.rooms.split(",")
    if options.name is None or not {*rooms} <= {*ROOMS}:
        parser.error(f"NAME is missing, or --rooms={options.rooms}: allowed are {','.join(ROOMS)}")
    had = versions(options.python)
    for room in rooms:
        found = tested(options.python, room)
        record = {key: one for key, one in page.read("supply").items() if key != "environment"}
        before = record.get(options.name, {})
        same = before.get("versions") == had
        kept = before["rooms"] if same else {}
        today = datetime.date.today().isoformat()
        one = {"date": today, "versions": had, "rooms": kept | {room: found}}
        page.write("supply", record | {options.name: one}, table)


if __name__ == "__main__":
    main()

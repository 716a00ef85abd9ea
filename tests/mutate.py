"""Breaks the core on purpose and sees whether a test notices: a mutation score, sampled and seeded.

python tests/mutate.py [--count=200] [--seed=0] [--files=GLOB,...] [--jobs=1] [--out=FILE.json]

Each mutant is one changed node of a copy of the repository (`tests/mutants.py`). It is killed by
its module's own tests, or else by the wider ones, or survives. Those that compute the same are
listed with a reason in tests/equivalent_mutants.json and count as neither. An hour or two for 200.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent import futures
from pathlib import Path
from queue import Queue

import mutants
from mutants import Mutant

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
CORE = (
    "opd/masked.py", "opd/draws.py", "opd/method/*.py", "opd/measure/*.py", "opd/engine/vocab.py",
    "opd/engine/steps.py", "opd/engine/sampling.py", "opd/engine/metrics.py",
)  # fmt: skip
# Tests of a module that don't lie where its name says, beside those that do.
ALSO = {
    "opd/engine/steps.py": ("tests/engine/test_critic.py", "tests/engine/test_arrays.py"),
    "opd/engine/metrics.py": ("tests/engine/test_steps.py",),
    "opd/method/axes.py": ("tests/method/test_table.py", "tests/method/test_facts.py"),
    "opd/method/rows.py": ("tests/method/test_table.py", "tests/contract/test_rows.py"),
    "opd/measure/losses.py": ("tests/contract/test_published_losses.py",),
}
# What notices the rest, by the module's room: the rooms that stand on it, soonest first.
WIDER = {
    "opd": ("tests/floor0", "tests/method", "tests/measure", "tests/engine"),
    "opd/method": ("tests/method", "tests/contract", "tests/engine", "tests/floor0"),
    "opd/measure": (
        "tests/measure", "tests/test_interface.py", "tests/report", "tests/run/probe",
        "tests/experiments",
    ),
    "opd/engine": (
        "tests/engine", "tests/contract", "tests/floor0", "tests/test_interface.py",
        "tests/run/rollouts", "tests/run/probe", "tests/run/training/test_train.py",
    ),
}  # fmt: skip
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"
)
SLOWEST = 1800  # seconds for tests; what takes longer is in no case called killed


def own_tests(path: str) -> list[str]:
    """A module's own tests: those of its name, and what `ALSO` adds."""
    module = Path(path)
    room = "floor0" if module.parent.name == "opd" else module.parent.name
    named = ROOT / "tests" / room / f"test_{module.stem}.py"
    tests = [named.relative_to(ROOT).as_posix()] if named.is_file() else []
    return tests + list(ALSO.get(path, ()))


def files(globs: Sequence[str]) -> list[str]:
    """The modules that globs name.

    Raises:
        ValueError: a glob that names none.
    """
    paths = []
    for glob in globs:
        named = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(glob))
        if not named:
            raise ValueError(f"--files: nothing is called {glob}")
        paths += [path for path in named if not path.endswith("__init__.py")]
    return paths


def passes(copy: Path, tests: Sequence[str]) -> bool:
    """Whether tests pass in a copy.

    Raises:
        subprocess.TimeoutExpired: they take too long.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=SLOWEST)
    return run.returncode == 0


def check(copy: Path, tests: Iterable[str]) -> None:
    """Leaves where tests of an unbroken copy fail."""
    if not passes(copy, list(tests)):
        sys.exit("the tests fail though nothing is broken")


def wider_tests(path: str) -> tuple[str, ...]:
    """The fast tests of the rooms that stand on a module's."""
    return (*WIDER[Path(path).parent.as_posix()], "-m", "not slow and not deep")


def judged(copy: Path, mutant: Mutant) -> dict:
    """What kills a mutant: `own` or `wider` tests, or nothing; `time` if they took too long."""
    began, target = time.perf_counter(), copy / mutant.path
    target.write_text(mutants.source(ROOT, mutant), encoding="utf-8")
    killed_by, own = None, own_tests(mutant.path)
    try:
        if own and not passes(copy, own):
            killed_by = "own"
        elif not passes(copy, wider_tests(mutant.path)):
            killed_by = "wider"
    except subprocess.TimeoutExpired:
        killed_by = "time"
    shutil.copy(ROOT / mutant.path, target)
    names = ("path", "line", "function", "statement", "before", "after")
    seconds = round(time.perf_counter() - began, 1)
    fate = {"killed_by": killed_by, "seconds": seconds}
    return {name: getattr(mutant, name) for name in names} | fate


def summary(records: Sequence[dict]) -> str:
    """The score, by module and in all, and the survivors."""
    lines = ["| module | mutants | killed by its own tests | killed |", "|---|---|---|---|"]
    paths = sorted({record["path"] for record in records})
    for path in [*paths, None]:
        mine = [record for record in records if path in (None, record["path"])]
        own = sum(record["killed_by"] == "own" for record in mine)
        killed = sum(record["killed_by"] in ("own", "wider") for record in mine)
        shares = " | ".join(f"{100 * count / len(mine):.1f} %" for count in (own, killed))
        lines.append(f"| {path or 'all'} | {len(mine)} | {shares} |")
    alive = [record for record in records if record["killed_by"] in (None, "time")]
    words = "{path}:{line} {function}: {statement}: {before}  ->  {after} ({killed_by})"
    return "\n".join([*lines, "", *(words.format(**record) for record in alive)])


def main(argv: Sequence[str] | None = None) -> None:
    """Samples mutants, tries each, and says the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default=",".join(CORE))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="every mutant's fate, as JSON")
    options = parser.parse_args(argv)
    equal = {tuple(one["key"]) for one in json.loads(EQUIVALENT.read_text(encoding="utf-8"))}
    everything = [
        m for path in files(options.files.split(",")) for m in mutants.mutants(ROOT, path)
    ]
    sampled = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    chosen = [mutant for mutant in sampled if mutant.key not in equal]
    same = len(sampled) - len(chosen)
    print(f"{len(sampled)} of {len(everything)} mutants, {same} of them listed as equivalent")
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for job in range(options.jobs):
            shutil.copytree(ROOT, Path(folder) / str(job), ignore=LEFT_OUT)
            copies.put(Path(folder) / str(job))

        def attempt(mutant: Mutant) -> dict:
            copy = copies.get()
            try:
                return judged(copy, mutant)
            finally:
                copies.put(copy)

        # A suite that fails as it is would kill everything. The wider ones take long: they are
        # tried at the end, where one of them is what killed.
        sound = functools.partial(check, copies.queue[0])
        sound(sorted({test for mutant in chosen for test in own_tests(mutant.path)}))
        records = []
        with futures.ThreadPoolExecutor(options.jobs) as pool:
            for record in pool.map(attempt, chosen):
                records.append(record)
                fate = record["killed_by"] or "SURVIVES"
                where = f"{record['path']}:{record['line']}"
                change = f"{record['before']}  ->  {record['after']}"
                print(f"{len(records)}/{len(chosen)} {fate} {where} {change}", flush=True)
                if options.out:  # each time: the first n of a sample are a sample
                    record = {"seed": options.seed, "mutants": len(everything), "sampled": records}
                    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for suite in {
            wider_tests(each["path"]) for each in records if each["killed_by"] == "wider"
        }:
            sound(suite)
    print(summary(records))


if __name__ == "__main__":
    main()

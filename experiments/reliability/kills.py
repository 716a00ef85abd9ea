"""Kill -9 at random moments, start again with the same command: does the run end as if unharmed?

python -m experiments.reliability.kills [--kills=20] [--seed=0] [--settings=NAME,...]

Each setting is trained once in peace and once under kills, as commands. What must be the same, bit
for bit: parameters, optimizer and memory of the last checkpoint, every line of metrics, probes and
evaluations but for fields that measure time, and the sampled completions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.reliability import page
from opd import disk
from opd.run.store import checkpoint
from opd.run.training import log
from tests.run.players import folders

ROOT = Path(__file__).parents[2]
UPDATES = 40
COMMON = {"updates": UPDATES, "checkpoint.every": 2, "evaluate.every": 10}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "critic, rollouts in flight, average, probe": {
        "method.name": "ppo", "reuse.updates": 5, "optimizer.ema": 0.9, "probe.every": 10,
        "probe.rows": "opd",
    },
    "buffer": {"method.name": "dagger", "buffer.size": 12},
    "redraws in flight": {"method.name": "dapo", "reuse.updates": 2},
    "LoRA of a folder": {"student.lora.rank": 2},
}  # fmt: skip
# The tail of a kill's moment: up to how many seconds after what is waited for.
LATEST = {"starting": 6.0, "updating": 0.5, "writing": 0.03}


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: what it waited for, and where the run stood."""

    moment: str
    update: int  # of the last line of metrics
    unfinished: bool  # whether a checkpoint was being written


def command(flags: Mapping[str, Any], folder: Path, workdir: Path) -> list[str]:
    """The command of a setting: on the debug config, or on folders made up in `folder`."""
    keys = dict(flags)
    config = "configs/debug.py"
    if "student.lora.rank" in keys:
        config = "configs/hub.py"
        keys |= {
            "teacher.path": folder / "teacher", "student.path": folder / "student",
            "data.prompts": folder / "prompts.jsonl", "data.max_completion": 6, "prompts": 4,
            "evaluate.prompts": 4,
        }  # fmt: skip
    keys |= {"models": folder / "models"} | COMMON
    given = [f"--config.{key}={value}" for key, value in keys.items()]
    asked = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    return [*asked, f"--workdir={workdir}", *given]


def make(folder: Path) -> None:
    """Two small folders and prompts, for the setting that needs them."""
    folders.write(folder / "teacher", vocab=417, width=24)
    folders.write(folder / "student", seed=1)
    folders.write_prompts(folder / "prompts.jsonl", 40)


def finish(asked: Sequence[str]) -> None:
    """Runs a command to its end.

    Raises:
        RuntimeError: it fails.
    """
    run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(asked)} left with {run.returncode}: {run.stderr[-2000:]}")


def harm(asked: Sequence[str], workdir: Path, moment: str, rng: random.Random) -> Kill | None:
    """Starts a command and kills it at a moment; None where it was finished before."""
    before = _update(workdir)
    process = subprocess.Popen(
        asked, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    reached = {
        "starting": lambda: True,
        "updating": lambda: _update(workdir) > before,
        "writing": lambda: _writing(workdir),
    }[moment]
    while process.poll() is None and not reached():
        time.sleep(0.001)
    time.sleep(rng.uniform(0, LATEST[moment]))
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return None
    return Kill(moment, _update(workdir), _writing(workdir))


def _update(workdir: Path) -> int:
    """The update of the last whole line of metrics; 0 before there is one."""
    try:
        lines = (workdir / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
        return json.loads(lines[-1])["update"] if lines else 0
    except OSError:
        return 0


def _writing(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def kills(setting: str, count: int, rng: random.Random, folder: Path, to: str) -> Iterator[Kill]:
    """Kills a run into a workdir `count` times, or until it is finished, and lets it finish."""
    workdir = folder / to
    asked = command(SETTINGS[setting], folder, workdir)
    for _ in range(count):
        kill = harm(asked, workdir, rng.choice(list(LATEST)), rng)
        if kill is None:
            break
        yield kill
    finish(asked)


def differences(one: Path, other: Path) -> list[str]:
    """What two finished workdirs differ in, by name; nothing where every bit is the same."""
    found = []
    for name in log.FILES:
        lines = [
            [
                {k: v for k, v in line.items() if k not in log.TIMES}
                for line in disk.read_jsonl(d / name)
            ]
            for d in (one, other)
        ]
        if lines[0] != lines[1]:
            found.append(name)
    last = [checkpoint.steps(workdir / "checkpoints")[-1] for workdir in (one, other)]
    if last[0] != last[1]:
        return [*found, "the last checkpoint"]
    for part in ("tree", "memory"):
        trees = [_leaves(workdir / "checkpoints" / str(last[0]) / part) for workdir in (one, other)]
        if trees[0].keys() != trees[1].keys():
            found.append(part)
            continue
        found += [
            f"{part}{path}" for path in trees[0] if not _equal(trees[0][path], trees[1][path])
        ]
    return found


def _leaves(folder: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint's item, by its path."""
    if not folder.is_dir():
        return {}
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.resolve())
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and one.tobytes() == other.tobytes()


def attempt(setting: str, count: int, seed: int) -> dict[str, Any]:
    """One setting under kills, against the same in peace; a run that ends early is begun again."""
    rng = random.Random(f"{setting} {seed}")
    done: list[Kill] = []
    wrong: set[str] = set()
    runs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        finish(command(SETTINGS[setting], folder, folder / "whole"))
        while len(done) < count:
            done += kills(setting, count - len(done), rng, folder, f"killed{runs}")
            wrong |= set(differences(folder / "whole", folder / f"killed{runs}"))
            runs += 1
    return {
        "runs": runs,
        "kills": len(done),
        "by_moment": {moment: sum(k.moment == moment for k in done) for moment in LATEST},
        "unfinished": sum(kill.unfinished for kill in done),
        "updates": [kill.update for kill in done],
        "differences": sorted(wrong),
    }


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    moments = " | ".join(LATEST)
    lines = [
        f"| setting | kills | {moments} | amid a checkpoint | differences |",
        "|---" * (len(LATEST) + 4) + "|",
    ]
    for setting, one in record["settings"].items():
        counts = " | ".join(str(one["by_moment"][moment]) for moment in LATEST)
        wrong = ", ".join(one["differences"]) or "none"
        lines.append(f"| {setting} | {one['kills']} | {counts} | {one['unfinished']} | {wrong} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Tries the settings and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=25, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default=";".join(SETTINGS), help="names, by semicolons")
    options = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for setting in options.settings.split(";"):
        found = attempt(setting, options.kills, options.seed)
        print(setting, found, flush=True)
        how = {"seed": options.seed, "updates": UPDATES}
        record = page.read("kills")
        kept = record["settings"] if how.items() <= record.items() else {}
        page.write("kills", how | {"settings": {**kept, setting: found}}, table)


if __name__ == "__main__":
    main()

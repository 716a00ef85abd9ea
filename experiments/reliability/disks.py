"""A disk that is full or read-only: does what was finished survive, and does the run go on later?

python -m experiments.reliability.disks [--seed=0]     (as root: it mounts a tmpfs of its own)

The debug config trains on a small disk until that refuses: in the preparation of data, in a
checkpoint, in a line of metrics. It must leave with code 3 and say what to do, or with 2 where it
finds the disk read-only at the start. With room again the same command must end as a run that
nobody disturbed, bit for bit. A comparison's report likewise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reliability import kills, page

ROOT = Path(__file__).parents[2]
ROOMY = 64 * 1024  # KiB
# Of the whole run's size, which a disk of this share doesn't hold.
SHARES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)


@contextlib.contextmanager
def mounted(folder: Path, kib: int) -> Iterator[None]:
    """A disk of its own at a folder."""
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def command(job: str, folder: Path, workdir: Path) -> list[str]:
    """A training or a comparison on the debug config, its players elsewhere."""
    asked = [sys.executable, "-m", f"experiments.{job}", "--config=configs/debug.py"]
    given = [f"--workdir={workdir}", f"--config.models={folder / 'models'}"]
    if job == "train":
        given += [f"--config.{key}={value}" for key, value in kills.COMMON.items()]
    return [*asked, *given]


def ended(asked: Sequence[str], folder: Path) -> tuple[int, str]:
    """The exit code of a command, and its last line on standard error."""
    # Of the study's own, which starts without any.
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    run = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True)
    return run.returncode, (run.stderr.strip().splitlines() or [""])[-1]


def full(job: str, kib: int, folder: Path, whole: Path) -> dict[str, Any]:
    """On a disk of so many KiB, and then on a larger one."""
    disk = folder / "disk"
    asked = command(job, folder, disk / "run")
    with mounted(disk, kib):
        code, said = ended(asked, folder)
        refused = _record(job, f"full at {kib} KiB", code, said, disk / "run")
        _mount("-o", f"remount,size={ROOMY}k", str(disk))
        return refused | _after(job, asked, folder, whole, disk / "run")


def read_only(job: str, folder: Path, whole: Path, rng: random.Random) -> dict[str, Any]:
    """Killed amid the training, and started again on a disk that has become read-only."""
    disk = folder / "disk"
    asked = command(job, folder, disk / "run")
    with mounted(disk, ROOMY):
        kills.harm(asked, disk / "run", "updating", rng)
        _mount("-o", "remount,ro", str(disk))
        code, said = ended(asked, folder)
        refused = _record(job, "read-only", code, said, disk / "run")
        _mount("-o", f"remount,rw,size={ROOMY}k", str(disk))
        return refused | _after(job, asked, folder, whole, disk / "run")


def _record(job: str, disk: str, code: int, said: str, workdir: Path) -> dict[str, Any]:
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())
    said = said.replace(str(workdir), "DIR")
    return {"job": job, "disk": disk, "code": code, "said": said, "checkpoints": steps}


def _after(
    job: str, asked: Sequence[str], folder: Path, whole: Path, workdir: Path
) -> dict[str, Any]:
    """The same command with room again."""
    code, said = ended(asked, folder)
    if code:
        return {"again": code, "differences": [said]}
    if job == "train":
        return {"again": code, "differences": kills.differences(whole, workdir)}
    missing = [name for name in ("results.json", "report.html") if not (workdir / name).is_file()]
    return {"again": code, "differences": missing}


def table(record: Mapping[str, Any]) -> str:
    """The README's table."""
    lines = [
        "| job | disk | exit code | checkpoints left | again | differences |",
        "|---|---|---|---|---|---|",
    ]
    for one in record["cases"]:
        steps = ", ".join(map(str, one["checkpoints"])) or "none"
        wrong = ", ".join(one["differences"]) or "none"
        row = (one["job"], one["disk"], one["code"], steps, one["again"], wrong)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Every case, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if os.geteuid():
        sys.exit("error: only root may mount a disk")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rng = random.Random(options.seed)
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for job in ("train", "compare"):
            whole = folder / f"whole-{job}"
            code, said = ended(command(job, folder, whole), folder)
            if code:
                sys.exit(f"error: {said}")
            size = sum(path.stat().st_blocks for path in whole.rglob("*")) // 2
            shares = SHARES if job == "train" else SHARES[::3]
            for share in shares:
                cases.append(full(job, int(share * size), folder, whole))
                print(cases[-1], flush=True)
            if job == "train":
                cases.append(read_only(job, folder, whole, rng))
                print(cases[-1], flush=True)
    page.write("disks", {"seed": options.seed, "cases": cases}, table)


if __name__ == "__main__":
    main()

"""Commands in several processes of this machine: four fake CPU devices each, gloo between them."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
DEBUG = "--config=configs/debug.py"
LOCAL = "127.0.0.1"
FILES = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "probe.jsonl")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind((LOCAL, 0))
        return found.getsockname()[1]


def start(command: str, *flags: str, devices: int = 4) -> subprocess.Popen:
    """One process of a command."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{command}", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def begin(command: str, *flags: str, own=((), ()), devices: int = 4) -> list[subprocess.Popen]:
    """A command in as many processes as `own` has tuples of flags that are theirs alone."""
    shared = (f"--coordinator={LOCAL}:{free_port()}", f"--processes={len(own)}")
    return [
        start(command, *flags, *shared, f"--process={number}", *theirs, devices=devices)
        for number, theirs in enumerate(own)
    ]


def ended(running: list[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; none outlives a failed test."""
    try:
        said = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def succeed(running: list[subprocess.Popen]) -> list[str]:
    """What each printed, once all have left with 0."""
    found = ended(running)
    assert [code for code, _, _ in found] == [0] * len(found), found
    return [out for _, out, _ in found]


def until(there, running: list[subprocess.Popen], timeout: float = 300) -> None:
    """Waits for something to be there while processes run."""
    last = time.monotonic() + timeout
    while not there():
        assert time.monotonic() < last and all(one.poll() is None for one in running), [
            one.communicate() for one in running if one.poll() is not None
        ]
        time.sleep(0.05)


def jsonl(file: Path) -> list[dict]:
    """Records of a file; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def alike(one: object, other: object, close: float = 1e-5, name: str = "") -> None:
    """Asserts the same texts, counts and tokens, and numbers that differ by `close` at most.

    Relative, or absolute below 1. An interval's ends may differ by a hundred times that: of few
    groups they are differences of nearly equal numbers, on one device and on eight too. Fields
    that measure time are left out.
    """
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            if "second" not in key:
                loose = 100 if key in ("low", "high") else 1
                alike(one[key], other[key], loose * close, f"{name}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for number, pair in enumerate(zip(one, other)):
            alike(*pair, close, f"{name}[{number}]")
    elif isinstance(one, float) and other is not None:
        assert np.isclose(one, other, rtol=close, atol=close), (name, one, other)
    else:
        assert one == other, (name, one, other)


def same(one: Path, other: Path, close: float = 1e-5) -> None:
    """Asserts that two workdirs ended alike: tokens and texts exactly, numbers to `close`."""
    for name in FILES:
        alike(jsonl(one / name), jsonl(other / name), close, name)
    ends = [json.loads((workdir / "done.json").read_text()) for workdir in (one, other)]
    for end in ends:
        del end["params_sha256"], end["resumed_from"]
    alike(*ends, close)

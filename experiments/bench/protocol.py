"""What the measured processes speak: JSON lines over standard input and output.

The first line is the work; the answer says that it is ready, and in which versions. Every later
line asks something: `step` is answered with milliseconds and peak memory, `settle` gives back what
a compiler has left behind. Nothing but the standard library is imported here, since a peer's
environment has nothing of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TextIO

MEBIBYTE = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Work(Protocol):
    """What a side does again and again; made before the memory's level is read."""

    def before(self) -> None:
        """What comes before a step and isn't part of it."""

    def step(self) -> None:
        """One step, finished when this returns."""


def resident() -> dict[str, float]:
    """Resident memory of this process, MiB: `VmRSS` now, and `VmHWM`, the most there was."""
    found = {}
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024 / MEBIBYTE
    return found


def level() -> float:
    """Resident memory after giving back what is free, MiB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident()["VmRSS"]


def forget_peak() -> bool:
    """Makes VmHWM start anew from now; false where the system doesn't allow it."""
    try:
        CLEAR.write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of installed packages; those that aren't installed left out."""
    found = {"python": sys.version.split()[0]}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def fewer_cores(threads: int) -> None:
    """Keeps this process, and the threads that it makes from now on, to so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


Question = Callable[[Any, int], Any]  # of the work, and how often: the answer, as JSON has it


def serve(
    build: Callable[[dict[str, Any]], Work],
    packages: Iterable[str],
    questions: Mapping[str, Question] = MappingProxyType({}),
) -> None:
    """Answers the process that started this one until it closes the line."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    given = json.loads(sys.stdin.readline())
    fewer_cores(given["threads"])
    work = build(given)
    before = level()
    _say(out, {"ready": versions(packages), "level": before})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["ask"] == "step":
            _say(out, _timed(work, before))
        elif asked["ask"] == "settle":
            _say(out, {"answer": level() - before})
        else:
            _say(out, {"answer": questions[asked["ask"]](work, asked["repeats"])})


def _timed(work: Work, before: float) -> dict[str, Any]:
    work.before()
    reset = forget_peak()
    began = time.perf_counter()
    work.step()
    taken = 1e3 * (time.perf_counter() - began)
    return {"ms": taken, "memory": resident()["VmHWM"] - before, "peak_is_of_step": reset}


def _say(out: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    print(json.dumps(versions(sys.argv[1:])))

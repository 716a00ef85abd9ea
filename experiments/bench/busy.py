"""How many cores other processes used meanwhile, from Linux's counters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
LIMIT = 0.2  # cores; above it a ratio says something about the others, too
# Fields of /proc/stat's first line that are no work: idle and iowait; guests are in user already.
IDLE, GUEST = (3, 4), (8, 9)


class Usage(NamedTuple):
    """Counters at one moment, in seconds."""

    at: float
    all: float  # of all cores: everything that isn't idle, time that the host took included
    own: float  # of the processes that are ours


def usage(pids: Iterable[int], proc: Path = PROC) -> Usage:
    """The counters now; `pids` are ours, with children that have ended."""
    tick = os.sysconf("SC_CLK_TCK")
    line = (proc / "stat").read_text(encoding="utf-8").splitlines()[0]
    fields = [int(field) for field in line.split()[1:]]
    all_ = sum(field for at, field in enumerate(fields) if at not in IDLE + GUEST)
    own = 0
    for pid in pids:
        # The name stands in brackets and may hold blanks; utime is field 14 of proc(5).
        after = (proc / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        own += sum(map(int, after[11:15]))
    return Usage(time.perf_counter(), all_ / tick, own / tick)


def others(before: Usage, after: Usage) -> float:
    """Cores that others used between two moments; 0 at least, since counters are rounded."""
    seconds = after.at - before.at
    return max((after.all - before.all - (after.own - before.own)) / seconds, 0.0)

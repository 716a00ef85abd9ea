"""Bounds on what a stranger's program may take: seconds, and bytes of memory."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_STATM = Path("/proc/self/statm")  # in pages; Linux


class OutOfTime(Exception):
    """What a block gets that takes too long."""

    def __str__(self) -> str:
        return "it takes too long"


@contextlib.contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Ends the block by `OutOfTime` after `seconds`, by MemoryError beyond `memory` bytes more.

    Between two steps of the interpreter: one step that never ends is not ended. Memory is bounded
    on Linux alone, for the whole process, and no tighter than it is already.
    """
    with _less_memory(memory), _alarm(seconds):
        yield


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """A thread that raises in this one: signals would do so in the main thread alone."""
    here = ctypes.c_ulong(threading.get_ident())
    raises = ctypes.pythonapi.PyThreadState_SetAsyncExc
    over, lock = False, threading.Lock()

    def ring() -> None:
        with lock:
            if not over:
                raises(here, ctypes.py_object(OutOfTime))

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
            raises(here, None)  # what has rung and was not heard yet
        timer.cancel()


@contextlib.contextmanager
def _less_memory(memory: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    if soft == resource.RLIM_INFINITY or used + memory < soft:
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

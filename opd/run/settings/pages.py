"""Large pages for a command's memory, where Linux gives them to those who ask.

A step's temporaries, of a real vocabulary half a GiB, are taken from Linux and given back at every
step: a page fault each for pages of 4 KiB, and one for 512 of these in pages of 2 MiB. glibc's
allocator (2.35 and later) asks for large ones if a variable says so when a process begins, so a
command begins twice. A GPU's or TPU's memory knows nothing of it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES, LARGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
SINCE = (2, 35)  # of glibc


def begin_with_large_pages() -> None:
    """Begins this process again, as it was called, with large pages; or returns at once.

    It returns where they aren't to be had or needn't be asked for, and where GLIBC_TUNABLES says
    anything of them: `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` keeps small ones. So it does for
    `python -c`, which may have done something before.
    """
    given = os.environ.get(TUNABLES, "")
    if LARGE in given or sys.orig_argv[1:2] == ["-c"] or not _asking_helps():
        return
    both = ":".join(filter(None, (given, f"{LARGE}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {TUNABLES: both})


def asked(environment: Mapping[str, str]) -> bool:
    """Whether a process in this environment asks for large pages."""
    return f"{LARGE}=1" in environment.get(TUNABLES, "").split(":")


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which nobody asks for large pages."""
    parts = environment.get(TUNABLES, "").split(":")
    kept = ":".join(part for part in parts if part and not part.startswith(LARGE))
    rest = {name: value for name, value in environment.items() if name != TUNABLES}
    return rest | ({TUNABLES: kept} if kept else {})


def _asking_helps() -> bool:
    """Whether Linux leaves it to programs, and the allocator is one that asks."""
    library, version = platform.libc_ver()
    numbers = version.split(".")
    if library != "glibc" or not all(map(str.isdecimal, numbers)):
        return False
    if tuple(map(int, numbers)) < SINCE or not sys.executable:
        return False
    return ENABLED.exists() and "[madvise]" in ENABLED.read_text()

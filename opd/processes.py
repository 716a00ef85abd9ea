"""Which of several processes this one is, and what all of them do together.

One program runs on every host, with the same config; JAX makes one mesh of all their devices. All
read the same data and hold the same numbers on the host; the first alone writes and speaks. With
one process nothing here does anything.

What is said to be done together is a meeting: every process calls it, in the same order, or the
others wait until it is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

WAIT = 300  # seconds that processes wait for each other at the start
# Seconds without a sign of life after which a process is taken for dead; JAX then ends the others.
HEARTBEAT = 30
LAST = 60  # seconds that processes wait for each other at the end
# What the error says of an operation that another process's end has cut short.
CUT = (
    "gloo",
    "nccl",
    "coordination",
    "connection closed",
    "connection reset",
    "socket closed",
    "barrier timed out",
)


class Apart(ValueError):
    """Processes that don't belong to one run; every one of them raises it."""


# --- beginning ----------------------------------------------------------------------------------


def wanted(
    coordinator: str | None, processes: int | None, process: int | None, distributed: bool
) -> dict[str, Any] | None:
    """What JAX is told of the processes, from the flags of those names; None: there is one.

    Raises:
        ValueError: flags that are half given, or that contradict each other.
    """
    flags = {"coordinator": coordinator, "processes": processes, "process": process}
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if distributed:
        if given:
            raise ValueError(f"{given[0]}: means nothing with --distributed")
        return {}
    if not given:
        return None
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if missing:
        raise ValueError(
            f"{given[0]} without {missing[0]}: allowed are --coordinator=HOST:PORT, --processes=N "
            "and --process=I together, or --distributed"
        )
    port = re.fullmatch(r".+:(\d{1,5})", coordinator)
    if port is None or not 0 < int(port[1]) < 2**16:
        raise ValueError(f"--coordinator={coordinator}: allowed is HOST:PORT of the first process")
    if not 0 <= process < processes:
        raise ValueError(f"--process={process}: allowed is 0 to {processes - 1} (--processes)")
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        "cluster_detection_method": "deactivate",
    }


def start(wanted: Mapping[str, Any]) -> None:
    """Joins the other processes, as `wanted` says, or else as the cluster's environment does.

    On a CPU each has the devices that JAX_NUM_CPU_DEVICES says, and gloo between them.

    Where not all come in time this process ends, with one line and code 2.

    Raises:
        ValueError: no cluster that JAX knows, or an address that can't be had.
    """
    import jax

    late = threading.Timer(WAIT, _late, [wanted.get("coordinator_address", "the cluster's first")])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **wanted,
            initialization_timeout=WAIT + LAST,  # JAX would abort then, with a page of its own
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=LAST,
        )
    except Exception as error:  # JAX and what it asks for a cluster raise what they like
        reason = " ".join(str(error).split())[:300]
        if wanted:
            address = wanted["coordinator_address"]
            raise ValueError(f"--coordinator={address}: no run could begin ({reason})") from None
        raise ValueError(
            f"--distributed: JAX finds no cluster here ({reason}); allowed are SLURM, TPU pods, "
            "GKE and the like, or --coordinator, --processes and --process"
        ) from None
    finally:
        late.cancel()
    # JAX would have this signal for itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _late(where: str) -> None:
    """Ends a process that the others didn't come to."""
    print(f"error: not all processes came to {where} within {WAIT} s", file=sys.stderr)
    leave(2)


def count() -> int:
    """How many processes there are."""
    jax = sys.modules.get("jax")  # a start without it is a process alone
    return jax.process_count() if jax is not None and jax.distributed.is_initialized() else 1


def first() -> bool:
    """Whether this is the one that writes and speaks."""
    return count() == 1 or sys.modules["jax"].process_index() == 0


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Within it the first process alone prints: all have the same to say."""
    if first():
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


# --- meetings -----------------------------------------------------------------------------------


def gathered(text: str) -> list[str]:
    """Every process's text, in their order: together."""
    if count() == 1:
        return [text]
    import numpy as np
    from jax.experimental import multihost_utils

    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.zeros(max(1, int(np.max(sizes))), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, np.ravel(sizes), strict=True)]


def barrier() -> None:
    """Waits until all processes are here: together."""
    gathered("")


def told(value: T) -> T:
    """The first process's value, anything that JSON has, for all: together."""
    return value if count() == 1 else json.loads(gathered(json.dumps(value))[0])


def some(flag: bool) -> bool:
    """Whether it is so at any process: together."""
    return flag if count() == 1 else "1" in gathered(str(int(flag)))


def agree(values: Mapping[str, str]) -> None:
    """Refuses processes whose values, by name, are not the same: together.

    Raises:
        Apart: names one that differs.
    """
    theirs = [json.loads(one) for one in gathered(json.dumps(dict(values)))]
    for process, other in enumerate(theirs[1:], 1):
        for name in {**theirs[0], **other}:
            here, there = (each.get(name, "not given") for each in (theirs[0], other))
            if here != there:
                raise Apart(
                    f"processes disagree on {name}: {here} at process 0, {there} at process "
                    f"{process}; allowed is one config, one data and one version"
                )


def mistake(said: str | None) -> str | None:
    """What is wrong at this process, or else at another one: together."""
    found = gathered(said or "")
    others = (f"process {number}: {text}" for number, text in enumerate(found) if text)
    return said or next(others, None)


def together(act: Callable[[], T], kind: type[Exception]) -> T:
    """What the act gives here, once it has failed nowhere: together.

    Raises:
        kind: it raised that, here or at another process.
    """
    if count() == 1:
        return act()
    made, said = None, None
    try:
        made = act()
    except kind as error:
        said = str(error)
    said = mistake(said)
    if said is not None:
        raise kind(said)
    return made


def after_first(act: Callable[[], T]) -> T:
    """An act that leaves files which it finds the second time: first alone, then all. Together."""
    if first():
        made = act()
    barrier()
    return made if first() else act()


# --- arrays -------------------------------------------------------------------------------------


def on_host(tree: Any) -> Any:
    """A tree with its arrays whole, as NumPy's: together where devices of others have parts."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    leaves, form = jax.tree.flatten(tree)
    split = [at for at, leaf in enumerate(leaves) if count() > 1 and _is_split(leaf)]
    if split:
        parts = [leaves[at] for at in split]
        everywhere = [NamedSharding(part.sharding.mesh, PartitionSpec()) for part in parts]
        for at, whole in zip(split, jax.jit(_same, out_shardings=everywhere)(parts), strict=True):
            leaves[at] = whole
    return jax.tree.unflatten(form, jax.device_get(leaves))


def _is_split(leaf: Any) -> bool:
    """Whether devices of other processes have parts of it that ours lack."""
    is_array = isinstance(leaf, sys.modules["jax"].Array)
    return is_array and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _same(tree: Any) -> Any:
    return tree


# --- ends ---------------------------------------------------------------------------------------


def cut_short(error: BaseException) -> bool:
    """Whether an error says that another process has ended."""
    if count() == 1:
        return False
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in CUT):
            return True
        error = error.__cause__ or error.__context__
    return False


def leave(code: int) -> None:
    """Ends this process at once: waiting for the others, as JAX would, holds all of them up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

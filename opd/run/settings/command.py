"""How a command begins and ends: flags that all have, --help, exit codes.

absl and ml_collections leave with code 1 and a traceback on a bad flag, an unknown key or a
missing file. Here every mistake is a message on standard error and exit code 2. What --help needs
is imported here alone: the rest (`launch`, and all that runs) takes seconds, and comes later.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from opd import disk, processes
from opd.data.functions import RewardError
from opd.data.served import Gone
from opd.run.settings import pages

ARGV: list[str] = []  # where config_flags finds the keys that are given; `launch` fills it
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "a config file: configs/NAME.py", sys_argv=ARGV
)
GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "a gin file of keys, after the config file: configs/gin/NAME.gin; repeatable"
)
GIN_BINDINGS = flags.DEFINE_multi_string(
    "gin_bindings", [], "keys after those: 'optimizer.learning_rate = 1e-3'; repeatable"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "of several processes: HOST:PORT at which the first one is found"
)
PROCESSES = flags.DEFINE_integer("processes", None, "of several processes: their number", 1)
PROCESS = flags.DEFINE_integer("process", None, "of several processes: which this is, from 0", 0)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "one of several processes, as SLURM, a TPU pod or GKE has it"
)
Flag = flags.FlagHolder[Any]
HELP = ("-h", "-help", "--help", "--helpfull")


def helped(argv: list[str], about: str) -> None:
    """Leaves after --help: what the command is about, and its flags."""
    if any(argument in HELP for argument in argv[1:]):
        helps = (flags.FLAGS.module_help(sys.modules[__name__]), flags.FLAGS.main_module_help())
        print("\n\n".join([about.strip(), *helps]))
        sys.exit(0)


def main(prepare: Callable[[], Callable[[], None] | None]) -> None:
    """`run`, of a process that is a command and nothing else."""
    pages.begin_with_large_pages()
    run(prepare)


def run(prepare: Callable[[], Callable[[], None] | None]) -> None:
    """Runs what `prepare` hands back, and leaves: 0, 2 for a mistake, 3 for a disk or server.

    A ValueError of `prepare` is the user's, said in at most three lines. One of the run itself is
    ours, and keeps its traceback, unless a full, read-only or broken disk is behind it; a
    RewardError is the user's whenever it comes. Of several processes all leave with 2 for a
    mistake at any, or where they don't belong together; with 4 where another one has ended.
    """
    try:
        _run(prepare)
        sys.stdout.flush()
    except BrokenPipeError:  # who read what we print has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if processes.count() == 1:
            raise
        if processes.cut_short(error):
            print(f"error: {ENDED}", file=sys.stderr)
            processes.leave(4)
        traceback.print_exc()
        processes.leave(1)
    sys.exit(0)


ENDED = (
    "another process of this run has ended: start all of them again with the same command, and "
    "they go on from what was saved"
)


def _run(prepare: Callable[[], Callable[[], None] | None]) -> None:
    job, mistake = None, None
    try:
        job = prepare()
    except ValueError as error:
        mistake = message(error)
    mistake = processes.mistake(mistake)
    if mistake is not None:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
    if job is None:
        return
    with _threads_are_quiet():
        try:
            if processes.count() > 1:
                processes.agree(_versions())
            with processes.one_voice():
                job()
        except (RewardError, processes.Apart) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except Gone as error:
            print(
                f"error: {error}: what was finished is saved; give the same command again once the "
                "server is there",
                file=sys.stderr,
            )
            sys.exit(3)
        except Exception as error:
            _leave_if_refused(error)
            raise


def _versions() -> dict[str, str]:
    """What runs here: JAX by its versions, this package by its sources."""
    sources = hashlib.sha256()
    for file in sorted(Path(disk.__file__).parent.rglob("*.py")):
        sources.update(file.read_bytes())
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib")}
    return versions | {"opd's sources": sources.hexdigest()[:12]}


def message(error: ValueError) -> str:
    """A user's mistake in three lines at most, each cut in its middle where it is endless."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    longest = 1000  # what was given may be anything; what is allowed stands at the end
    half = longest // 2
    short = [one if len(one) <= longest else f"{one[:half]} ... {one[-half:]}" for one in lines]
    return "\n".join(short[:3])


def _leave_if_refused(error: Exception) -> None:
    """Leaves with code 3 and one line where the disk refused what was written."""
    reason = disk.refusal(error)
    if reason is None:
        return
    print(
        f"error: {reason}: what was finished before is whole; make room there, or allow writing, "
        "and give the same command again",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(3)  # threads that still want to write would have a traceback each


@contextlib.contextmanager
def _threads_are_quiet() -> Iterator[None]:
    """What the disk refused is said once, by `run`: not by each thread and library on its way."""
    logger = logging.getLogger("absl")

    def heard(record: logging.LogRecord) -> bool:
        errors = [*([record.exc_info[1]] if record.exc_info else []), *(record.args or ())]
        return not any(isinstance(one, Exception) and disk.refusal(one) for one in errors)

    logger.addFilter(heard)
    try:
        yield
    finally:
        logger.removeFilter(heard)

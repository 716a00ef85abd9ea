"""The command line: absl flags, ml_collections and gin, with a user's mistakes on one line.

The config file comes first, then gin files, gin bindings, and last keys given as flags.

absl and ml_collections leave with code 1 and a traceback on a bad flag, an unknown key or a
missing file. Here every mistake is a message on standard error and exit code 2.
"""

from __future__ import annotations

import ast
import contextlib
import json
import keyword
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from opd import disk, fields
from opd.data.functions import RewardError
from opd.method import facts, table
from opd.run.settings import config as configs
from opd.run.settings import gin_config
from opd.run.settings.config import Config

_ARGV: list[str] = []  # where config_flags finds the keys that are given; `parse` fills it
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "a config file: configs/NAME.py", sys_argv=_ARGV
)
_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "a gin file of keys, after the config file: configs/gin/NAME.gin; repeatable"
)
_GIN_BINDINGS = flags.DEFINE_multi_string(
    "gin_bindings", [], "keys after those: 'optimizer.learning_rate = 1e-3'; repeatable"
)
Flag = flags.FlagHolder[Any]
HELP = ("-h", "-help", "--help", "--helpfull")


def run(prepare: Callable[[], Callable[[], None] | None]) -> None:
    """Runs what `prepare` hands back, and leaves: 0, 2 for a user's mistake, 3 for the disk's no.

    A ValueError of `prepare` is the user's, said in at most three lines. One of the run itself is
    ours, and keeps its traceback, unless a full, read-only or broken disk is behind it; a
    RewardError is the user's whenever it comes.
    """
    try:
        job = prepare()
    except ValueError as error:
        print(f"error: {message(error)}", file=sys.stderr)
        sys.exit(2)
    if job is not None:
        with _threads_are_quiet():
            try:
                job()
            except RewardError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
            except Exception as error:
                _leave_if_refused(error)
                raise
    sys.exit(0)


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


def parse(argv: list[str], about: str = "") -> Config | None:
    """The config that the command line asks for; None without a config file and gin.

    `about` is what --help says first; after it, SystemExit.

    Raises:
        ValueError: a flag, key, value or file that is wrong.
    """
    if any(argument in HELP for argument in argv[1:]):
        helps = (flags.FLAGS.module_help(sys.modules[__name__]), flags.FLAGS.main_module_help())
        print("\n\n".join([about.strip(), *helps]))
        sys.exit(0)
    file, keys = _checked_file(argv)
    argv, lists = _literal_tuples(argv)
    if file is None and any(re.match(r"-{1,2}gin_(file|bindings)(=|$)", one) for one in argv):
        file = gin_config.__file__
        argv = [argv[0], f"--config={file}", *argv[1:]]
    _ARGV[:] = map(_quoted, argv)
    try:
        rest = flags.FLAGS(_ARGV)[1:]
        values = None if _CONFIG.value is None else _CONFIG.value.to_dict()
    except Exception as error:  # absl, ml_collections and the file itself raise what they like
        raise ValueError(_one_line(error, file)) from None
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; settings are given as --config.KEY=VALUE")
    if values is None:
        return None
    gin_config.bind(values, gin_config.read(_GIN_FILE.value, _GIN_BINDINGS.value), keys)
    try:
        return configs.build(values)
    except ValueError as error:
        for key in lists:
            if str(error).startswith(key):
                example = f"--{key}='A;B' or --{key}=\"('A', 'B')\""
                raise ValueError(f"{error}\nseveral values are given as {example}") from None
        raise


def asked(
    argv: list[str],
    about: str,
    workdir: Flag,
    print_config: Flag,
    list_methods: Flag,
    list_axes: Flag,
    example: str,
) -> tuple[Config, Path] | None:
    """A job's config and workdir; None where a listing was asked for, which is printed.

    Raises:
        ValueError: what `parse` finds wrong, or no config or workdir.
    """
    config = parse(argv, about)
    for listing, listed in ((list_methods, methods), (list_axes, axes)):
        if listing.value:
            print(listed())
            return None
    if config is None:
        raise ValueError(f"--config is missing; for instance --config={example}")
    if print_config.value:
        print(json.dumps(fields.to_dict(config), indent=1))
        return None
    if not workdir.value:
        raise ValueError("--workdir is missing; it is the folder that the run writes into")
    return config, Path(workdir.value)


def make_folder(flag: str, folder: Path) -> None:
    """Makes a folder that the user named, and its parents.

    Raises:
        ValueError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--{flag}={folder}: it can't be made ({error.strerror})") from None


def keep_compiled(workdir: Path) -> None:
    """Keeps compiled programs in the workdir, unless JAX was told where."""
    key = "jax_compilation_cache_dir"
    if getattr(jax.config, key) is None:
        jax.config.update(key, str(workdir / "cache"))


def _checked_file(argv: list[str]) -> tuple[str | None, set[str]]:
    """The value of --config, whose file is there, and the keys given as flags, which are known."""
    file, keys = None, set()
    for at, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            continue
        if name == "config":
            file = value if equals else argv[at + 1] if at + 1 < len(argv) else None
        elif re.match(r"(no)?config\.", name):
            keys.add(name.removeprefix("no").removeprefix("config."))
            configs.kind_of(name.removeprefix("no").removeprefix("config."))
    if file is not None and not Path(file.split(":")[0]).is_file():
        raise ValueError(f"--config={file}: no such file")
    return file, keys


def _literal_tuples(argv: list[str]) -> tuple[list[str], list[str]]:
    """Lists of values as config_flags reads them, and the keys that had one: A;B is ('A', 'B').

    Names of methods hold commas and equals signs: only a semicolon parts them.
    """
    written, lists = list(argv), []
    for at, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        if not fields.is_tuple(configs.kind_of(name.removeprefix("config."))):
            continue
        lists.append(name)
        if equals:
            written[at] = f"--{name}={literal(value)}"
        elif at + 1 < len(argv):
            written[at + 1] = literal(argv[at + 1])
    return written, lists


def literal(text: str) -> str:
    """A list of values as a flag has it, A;B or ('A', 'B'), in the second form."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = [_number_or_text(part.strip()) for part in text.split(";") if part.strip()]
    return repr(tuple(value) if isinstance(value, (list, tuple)) else (value,))


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _quoted(argument: str) -> str:
    """A key that is a word of Python's, `student.from`, as config_flags reads it."""
    name, equals, value = argument.partition("=")
    if not re.match(r"-{1,2}(no)?config\.", name):
        return argument
    first, *parts = name.split(".")
    quoted = (f'["{part}"]' if keyword.iskeyword(part) else f".{part}" for part in parts)
    return first + "".join(quoted) + equals + value


def _one_line(error: Exception, file: str | None) -> str:
    """One line of whatever was raised while flags and the config's file were read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Traceback (most recent call last):" in lines:  # ml_collections puts it into the message
        return f"--config={file}: {lines[-1]}"[:400]
    if isinstance(error, flags.Error):
        return " ".join(lines)[:400]
    return f"--config={file}: {type(error).__name__}: {' '.join(lines)}"[:400]


def methods() -> str:
    """The methods table in plain text: name, label, goal, needs, paper."""
    lines = []
    for name, row in table.ROWS.items():
        method = table.parse(name)
        needed = ", ".join(facts.needs(method)) or "nothing"
        bias, refused = facts.bias(method), facts.refused(method)
        lines.append(f"{name:17} {row.label}")
        goal = facts.describe(facts.goal(method))
        lines.append(f"{'':17} goal: {goal}" + (f"; biased: {bias}" if bias else ""))
        lines.append(f"{'':17} needs: {needed}; paper: {row.paper}")
        if refused:
            lines.append(f"{'':17} not for training: {refused}")
    lines.append("")
    lines.append(f"axes, as ROW@axis=value,...: {', '.join(table.AXES)}")
    signals = ", ".join(table.AXES["signal"].choices)
    lines.append(f"of one term, as ROW@SIGNAL.axis=value: {signals}")
    return "\n".join(lines)


def axes() -> str:
    """The axes in plain text: what each one says, its values, what brings it in, what is usual."""
    parts = {"origin": "Of a method, once:", "term": "Of each of its terms:"}
    lines = []
    for of, heading in parts.items():
        lines += ["", heading][not lines :]
        for axis in table.AXES.values():
            if axis.of == of:
                where = f"; with {axis.where}" if axis.where else ""
                lines.append(f"{axis.name:17} {axis.says}")
                lines.append(f"{'':17} {axis.allowed}{where}; usual: {axis.usual}")
    return "\n".join(lines)

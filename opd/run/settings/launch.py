"""What the command line asks for: absl flags, ml_collections and gin, mistakes on one line.

The config file comes first, then gin files, gin bindings, and last keys given as flags.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import sys
from pathlib import Path
from typing import Any

from absl import flags

from opd import fields, processes
from opd.engine import backend
from opd.method import facts, table
from opd.run.settings import command, gin_config
from opd.run.settings import config as configs
from opd.run.settings.config import Config


def parse(argv: list[str], together: bool = True) -> Config | None:
    """The config that the command line asks for; None without a config file and gin.

    Where the flags say that this is one of several processes, it joins the others.

    Args:
        argv: the command and its flags.
        together: whether the command can run in several processes.

    Raises:
        ValueError: a flag, key, value or file that is wrong.
    """
    file, keys = _checked_file(argv)
    argv, lists = _literal_tuples(argv)
    if file is None and any(re.match(r"-{1,2}gin_(file|bindings)(=|$)", one) for one in argv):
        file = gin_config.__file__
        argv = [argv[0], f"--config={file}", *argv[1:]]
    command.ARGV[:] = map(_quoted, argv)
    try:
        rest = flags.FLAGS(command.ARGV)[1:]
        values = None if command.CONFIG.value is None else command.CONFIG.value.to_dict()
    except Exception as error:  # absl, ml_collections and the file itself raise what they like
        raise ValueError(_one_line(error, file)) from None
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; settings are given as --config.KEY=VALUE")
    _join(together)
    if values is None:
        return None
    gin_config.bind(
        values, gin_config.read(command.GIN_FILE.value, command.GIN_BINDINGS.value), keys
    )
    try:
        return configs.build(values)
    except ValueError as error:
        for key in lists:
            if str(error).startswith(key):
                example = f"--{key}='A;B' or --{key}=\"('A', 'B')\""
                raise ValueError(f"{error}\nseveral values are given as {example}") from None
        raise


def _join(allowed: bool) -> None:
    """Joins the other processes, if there are any."""
    told = command.COORDINATOR.value, command.PROCESSES.value, command.PROCESS.value
    wanted = processes.wanted(*told, command.DISTRIBUTED.value)
    if wanted is None:
        return
    if not allowed:
        flag = "distributed" if command.DISTRIBUTED.value else "coordinator"
        raise ValueError(f"--{flag}: this command runs in one process; allowed is none")
    processes.start(wanted)


def asked(
    argv: list[str],
    workdir: command.Flag,
    print_config: command.Flag,
    list_methods: command.Flag,
    list_axes: command.Flag,
    example: str,
) -> tuple[Config, Path] | None:
    """A job's config and workdir; None where a listing was asked for, which is printed.

    Raises:
        ValueError: what `parse` finds wrong, or no config or workdir.
    """
    config = parse(argv)
    for listing, listed in ((list_methods, methods), (list_axes, axes)):
        if listing.value:
            with processes.one_voice():
                print(listed())
            return None
    if config is None:
        raise ValueError(f"--config is missing; for instance --config={example}")
    if print_config.value:
        with processes.one_voice():
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


def keep_compiled() -> None:
    """Keeps compiled programs for the next start, and says where."""
    print(backend.keep_compiled(), file=sys.stderr, flush=True)


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

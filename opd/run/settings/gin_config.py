"""Gin as a front end of the one frozen config: read by gin's own parser, bound to our keys.

A key is spelled as ml_collections has it, `optimizer.learning_rate = 1e-3`, with or without
`config.` in front; one of the top needs that, `config.updates = 5`: in gin a name without a dot is
a macro, `rate = 1e-3`, which `%rate` stands for. Files may include others, by paths from the
current folder. Nothing is imported, called or kept in gin's global state.
"""

from __future__ import annotations

import dataclasses
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from gin import config_parser

from opd import fields
from opd.run.settings import config as configs
from opd.run.settings.config import Config

VALUES = "a literal ('text', 1e-3, True, None, a list of those) or a %macro"


@dataclasses.dataclass(frozen=True)
class _Macro:
    """A value that another line gives."""

    name: str


class _Delegate(config_parser.ParserDelegate):
    """What gin's parser makes of %NAME and @NAME."""

    def macro(self, name: str) -> _Macro:
        return _Macro(name)

    def configurable_reference(self, name: str, evaluate: bool) -> Any:
        raise SyntaxError(f"@{name} would call code; allowed is {VALUES}")


@dataclasses.dataclass(frozen=True)
class _Line:
    """One `key = value`, and where it was read."""

    key: str
    value: Any
    where: str
    macro: bool


def get_config() -> ml_collections.ConfigDict:
    """The defaults: what is bound to where no config file is given."""
    return configs.config_dict(Config())


def read(files: Sequence[str], bindings: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and their values, of files and, after them, of bindings; the last one counts.

    Of a macro the last value counts as well, wherever that is.

    Raises:
        ValueError: one line: where, what was given, and what is allowed.
    """
    lines = [line for file in files for line in _of_file(file, f"--gin_file={file}", ())]
    for text in bindings:
        lines += _lines(text, f"--gin_bindings={' '.join(text.split())}", None, ())
    macros = {line.key: line for line in lines if line.macro}
    used: set[str] = set()
    values = {line.key: _value(line, macros, used) for line in lines if not line.macro}
    for name in macros:
        if name not in used:
            raise ValueError(
                f"{macros[name].where}: {name} is a macro, and no %{name} uses it; a key of the "
                "top is written config.KEY = VALUE"
            )
    return values


def bind(values: dict[str, Any], bound: Mapping[str, Any], flags: set[str]) -> None:
    """Puts bound values into nested ones, in place, but for the dotted keys that flags have set."""
    for key, value in bound.items():
        if key in flags:
            continue
        *parts, last = key.split(".")
        nested = values
        for part in parts:
            nested = nested.setdefault(part, {})
            if not isinstance(nested, dict):
                break  # not a part: `configs.build` refuses it
        else:
            nested[last] = value


def _of_file(file: str, asked: str, including: tuple[str, ...]) -> list[_Line]:
    if file in including:
        raise ValueError(f"{asked}: it includes itself")
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except OSError as error:
        raise ValueError(f"{asked}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{asked}: cannot be read ({error})") from None
    return _lines(text, file, file, (*including, file))


def _lines(text: str, asked: str, file: str | None, including: tuple[str, ...]) -> list[_Line]:
    """All bindings of a text that was `asked` for so; each of a file's has its line, FILE:LINE."""
    lines = []
    for statement in _statements(text, asked, file):
        where = asked if file is None else f"{file}:{statement.location.line_num}"
        if isinstance(statement, config_parser.IncludeStatement):
            include = f"{where}: include {statement.filename!r}"
            lines += _of_file(statement.filename, include, including)
        elif isinstance(statement, config_parser.ImportStatement):
            raise ValueError(f"{where}: {statement.format()} would run code; allowed is include")
        elif isinstance(statement, config_parser.BindingStatement):
            lines.append(_line(statement, where))
    return lines


def _statements(text: str, asked: str, file: str | None) -> Iterator[Any]:
    """What gin's parser finds, in order.

    Raises:
        ValueError: it is no gin.
    """
    try:
        yield from config_parser.ConfigParser(text, _Delegate())
    except SyntaxError as error:
        place = f":{error.lineno}" if file is not None and error.lineno else ""
        what = (error.msg or "no gin").strip().splitlines()[-1].strip()
        if "Failed to parse token" in what or "Unable to parse value" in what:
            what = f"{what.rstrip('.')}; allowed is {VALUES}"
        raise ValueError(f"{asked}{place}: {what}") from None
    except (tokenize.TokenError, TypeError) as error:  # no end, or a list as a mapping's key
        raise ValueError(f"{asked}: {error.args[0]}") from None


def _line(statement: config_parser.BindingStatement, where: str) -> _Line:
    """A binding as one of our keys, or as a macro.

    Raises:
        ValueError: a scope, an unknown key, or a part where a key is asked for.
    """
    scope, selector, name, value, _ = statement
    if not name:
        return _Line(f"{scope}/{selector}" if scope else selector, value, where, True)
    if scope:
        raise ValueError(f"{where}: {scope}/{selector}.{name}: a scope; allowed is a key without")
    key = f"{selector}.{name}".removeprefix("config.")
    try:
        kind = configs.kind_of(key)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if dataclasses.is_dataclass(kind):
        keys = ", ".join(fields.to_dict(kind()))
        raise ValueError(f"{where}: config.{key} is a part, not a key; its keys are {keys}")
    return _Line(key, value, where, False)


def _value(line: _Line, macros: Mapping[str, _Line], used: set[str]) -> Any:
    """The line's value, macros replaced; notes which were used."""

    def replaced(value: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(part, inside) for part in value)
        if not isinstance(value, _Macro):
            return value
        if value.name in inside:
            raise ValueError(f"{line.where}: the macro %{value.name} stands for itself")
        if value.name not in macros:
            known = ", ".join(macros) or "none"
            raise ValueError(f"{line.where}: no macro %{value.name}; there are: {known}")
        used.add(value.name)
        return replaced(macros[value.name].value, (*inside, value.name))

    return replaced(line.value, ())

"""JSONL files, read strictly: every complaint names the file and the line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One ("FILE:LINE", object) for each line; blank ones hold nothing.

    Raises:
        ValueError: no such file, not UTF-8, a line that isn't one JSON object, or a key that comes
            twice in one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path}: is empty, needs at least one line: a JSON object")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
        except UnicodeDecodeError:
            raise ValueError(f"{where}: not UTF-8") from None
        except _Twice as error:
            raise ValueError(f"{where}: has {error.args[0]!r} twice: allowed is once") from None
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "a number or a nesting beyond what can be read")
            raise ValueError(
                f"{where}: not JSON ({reason}): allowed is one object a line"
            ) from None
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
        yield where, value


class _Twice(ValueError):
    """A key that comes twice in an object: the first value would vanish."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return values


def text_field(
    where: str, line: Mapping[str, Any], name: str, empty: bool = False, allowed: str | None = None
) -> str:
    """The string `line[name]`, which isn't empty unless that is allowed; `allowed` says so.

    Raises:
        ValueError: it is missing, empty or something else, or no UTF-8 can hold it.
    """
    if name not in line:
        raise ValueError(f"{where}: needs {name!r}, has {', '.join(sorted(line)) or 'nothing'}")
    value = line[name]
    if not isinstance(value, str) or not (value or empty):
        allowed = allowed or ("string" if empty else "non-empty string")
        raise ValueError(f"{where}: {name!r} must be a {allowed}, found {value!r:.60}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {name!r} holds half of a surrogate pair") from None
    return value

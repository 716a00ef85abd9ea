"""JSONL files, read strictly: every complaint names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opd.data.chat import Messages


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One ("FILE:LINE", object) for each line.

    Raises:
        ValueError: no such file, not UTF-8, or a line that isn't one JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: is empty, needs at least one line")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"{where}: not UTF-8") from None
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "a number or a nesting beyond what can be read")
            raise ValueError(f"{where}: not JSON ({reason})") from None
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
        yield where, value


def text_field(where: str, line: dict[str, Any], name: str, empty: bool = False) -> str:
    """The string `line[name]`, which isn't empty unless that is allowed.

    Raises:
        ValueError: it is missing, empty or something else, or no UTF-8 can hold it.
    """
    if name not in line:
        raise ValueError(f"{where}: needs {name!r}, has {', '.join(sorted(line)) or 'nothing'}")
    value = line[name]
    if not isinstance(value, str) or not (value or empty):
        kind = "string" if empty else "non-empty string"
        raise ValueError(f"{where}: {name!r} must be a {kind}, found {value!r:.60}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {name!r} holds half of a surrogate pair") from None
    return value


def messages_field(where: str, line: dict[str, Any]) -> Messages:
    """The conversation `line["messages"]`: a list of role and content, the last one a user's.

    Raises:
        ValueError: it is something else.
    """
    messages = line["messages"]
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise ValueError(f"{where}: 'messages' must be a list of objects, found {messages!r:.60}")
    turns = tuple(
        (text_field(where, one, "role"), text_field(where, one, "content", empty=True))
        for one in messages
    )
    if not turns or turns[-1][0] != "user":
        last = f"one of {turns[-1][0]!r}" if turns else "nothing"
        raise ValueError(f"{where}: 'messages' ends with {last}: allowed is one of 'user'")
    return turns

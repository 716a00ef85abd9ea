"""Where a completion says its final answer: after its thought, after a marker, in a box."""

from __future__ import annotations

import re

MARKER = "####"

_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])[ \t]*")
# What a box without braces holds: \boxed 42.
_BARE = re.compile(r"[^\s$]*")
# A line that announces an answer, and doesn't give it.
_HEADING = re.compile(r"(?:\b(?:answer|result|solution|total)\W{0,8}|:[ *_]{0,8})\Z", re.IGNORECASE)


def after_thought(text: str) -> str:
    """What follows the last thought's end; all of it where no thought ends."""
    return _THOUGHT_ENDS.split(text)[-1]


def marked(text: str) -> str | None:
    """The line after the last `####`, or the one below where that line only announces an answer.

    None without a marker; "" where nothing follows it.
    """
    text = _without_closing(text.replace(r"\#", "#").rstrip())
    _, marker, rest = text.rpartition(MARKER)
    if not marker:
        return None
    first, _, below = rest.strip().partition("\n")
    if below.strip() and not re.search("[0-9]", first) and _HEADING.search(first):
        return below.strip().partition("\n")[0]
    return first


def _without_closing(text: str) -> str:
    """A text without the marks that close its last heading, "#### 42 ####"."""
    opened = text.rstrip("#").rstrip(" ")
    return opened if MARKER in opened.rpartition("\n")[2] else text


def boxed(text: str) -> str | None:
    r"""What the last \\boxed{...} or \\fbox{...} holds that isn't empty.

    None without a box; "" where all are empty. A box that never closes holds the rest of its line.
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    contents = (_held(text, start).strip() for start in reversed(starts))
    return next(filter(None, contents), "") if starts else None


def _held(text: str, start: int) -> str:
    """What stands in the braces that open at `start`, or up to the next space if none do."""
    if text[start : start + 1] != "{":
        return _BARE.match(text, start)[0]
    depth, at = 0, start
    while at < len(text):
        if text[at] == "\\":
            at += 1  # an escaped brace is no brace
        elif text[at] in "{}":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[start + 1 : at]
        at += 1
    return text[start + 1 :].partition("\n")[0]

"""Verifiers: pure functions (completion, answer) -> reward in {0.0, 1.0}.

They see text: EOS is gone, and whether the completion ended at all is the caller's question.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType

from opd.data import math_process

Verifier = Callable[[str, str], float]

MARKER = "####"

# Thousands come in groups of three, so that "1,2,3" is three numbers and "1,200" is one. A minus
# that follows a word, a digit or a bracket is a subtraction.
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\].])[-\u2212])?\$?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
)
# What may stand around the one number after the marker.
_FINAL = re.compile(r"\s*\$?(?P<number>" + _NUMBER.pattern + r")%?\.?\s*")


def _value(match: re.Match[str]) -> Decimal:
    value = Decimal(match["digits"].replace(",", ""))
    return -value if match["minus"] else value


def parse_number(text: str) -> Decimal:
    """The one number that `text` is: "1,200", "$5", "-3.50", "7.".

    Raises:
        ValueError: the text is anything else.
    """
    match = _FINAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number")
    return _value(match)


def final_number(text: str) -> Decimal | None:
    """The number a worked answer ends in: what follows the last `####`, else the last number.

    A text that has the marker is taken at its word: if the rest of that line isn't one number,
    nothing was answered.
    """
    _, marker, rest = text.rpartition(MARKER)
    if marker:
        match = _FINAL.fullmatch(rest.strip().partition("\n")[0])
        return None if match is None else _value(match)
    matches = list(_NUMBER.finditer(text))
    return _value(matches[-1]) if matches else None


def exact_match(completion: str, answer: str) -> float:
    """1 where the completion is the answer, surrounding white space aside."""
    return float(completion.strip() == answer.strip())


def final_answer(completion: str, answer: str) -> float:
    """1 where the completion's final number equals the answer, compared as numbers.

    Cobbe et al. 2021 (arXiv:2110.14168): a solution ends in `#### N`.

    Raises:
        ValueError: the answer is not a number.
    """
    wanted = parse_number(answer)
    return float(final_number(completion) == wanted)


_MATH = math_process.Process()


def math(completion: str, answer: str) -> float:
    """1 where the completion's answer equals the answer as mathematics (math-verify).

    Raises:
        ValueError: the extra `math` isn't installed.
    """
    return float(_MATH.equal(completion, answer))


def regex(pattern: str) -> Verifier:
    """1 where what the pattern last finds is the answer: its group 1, or all of it if it has none.

    Raises:
        ValueError: no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"data.verifier = 'regex:{pattern}': not a pattern ({error})") from None

    def verifier(completion: str, answer: str) -> float:
        matches = list(compiled.finditer(completion))
        if not matches:
            return 0.0
        found = matches[-1].group(1 if compiled.groups else 0)
        return exact_match(found or "", answer)

    return verifier


VERIFIERS: dict[str, Verifier] = {
    "exact": exact_match,
    "final_answer": final_answer,
    "math": math,
}
REGEX = "regex:"


def named(said: str) -> Verifier:
    """One of VERIFIERS, regex:PATTERN, or the function f(completion, answer) of MODULE:NAME.

    Raises:
        ValueError: none of these, or what can't be used.
    """
    if said in VERIFIERS:
        if said == "math":
            math("1", "1")  # says that it isn't installed before anything is compiled
        return VERIFIERS[said]
    if said.startswith(REGEX):
        return regex(said.removeprefix(REGEX))
    if ":" in said:
        return imported("data.verifier", said)[1]
    allowed = f"{', '.join(VERIFIERS)}, regex:PATTERN or MODULE:NAME"
    raise ValueError(f"data.verifier = {said!r}: allowed are {allowed}")


def imported(key: str, said: str) -> tuple[ModuleType, Callable]:
    """The module and the function of MODULE:NAME; the current folder's are found, as with -m.

    Raises:
        ValueError: no such module or name, or nothing to call.
    """
    what = f"{key} = {said!r}"
    name, colon, attribute = said.partition(":")
    if not (name and colon and attribute):
        raise ValueError(f"{what}: allowed is MODULE:NAME")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a user's module raises what it likes
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what}: {name} cannot be imported ({line})") from None
    if not hasattr(module, attribute):
        raise ValueError(f"{what}: {name} has no {attribute}")
    there = getattr(module, attribute)
    if not callable(there):
        raise ValueError(f"{what}: it is a {type(there).__name__}, allowed is a function")
    return module, there

"""Verifiers: pure functions (completion, answer) -> reward in {0.0, 1.0}.

They see text: EOS is gone, and whether the completion ended at all is the caller's question.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

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


VERIFIERS: dict[str, Verifier] = {"exact": exact_match, "final_answer": final_answer}

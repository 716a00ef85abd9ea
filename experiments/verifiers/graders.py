"""Public graders, by the behaviour that they document, in words of our own.

Each is a function (completion, answer) -> right or not.
"""

from __future__ import annotations

import re

from opd.data import answers
from opd.data.worker import Worker

_EQUAL = Worker("equal")


def harness_strict(completion: str, answer: str) -> bool:
    """lm-evaluation-harness, task gsm8k, filter strict-match: the first `#### NUMBER`, as text."""
    return _harness(re.search(r"#### (-?[0-9.,]+)", completion), answer)


def harness_flexible(completion: str, answer: str) -> bool:
    """The same task's filter flexible-extract: the last number, as text."""
    matches = [*re.finditer(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", completion)]
    return _harness(matches[-1] if matches else None, answer)


def _harness(match: re.Match[str] | None, answer: str) -> bool:
    """exact_match, blind to case, commas, dollars, a full stop at the end, what is before ####."""
    if match is None:
        return False
    said = match[match.lastindex or 0]
    both = (re.sub(r"(?s).*#### |[,$]|\.$", "", text).lower() for text in (said, answer))
    return len({*both}) == 1


# What the grader of MATH takes out of an answer, in its order, and what it puts there.
_NORMAL_FORM = (
    (r"\n|\\!", ""),
    (r"\\\\", r"\\"),
    (r"[td]frac", "frac"),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""),
    (r"\\text\{ .*", ""),  # a unit
    (r"\\?%", ""),
    (r"(^|[ {])\.", r"\g<1>0."),
    (r"^.{0,2}=(?=[^=]*$)", ""),
    (r"\\sqrt([^{])", r"\\sqrt{\1}"),
    (r" ", ""),
    (r"\\frac([^{])(?=[^{]|\{)", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\})([^{])", r"\1{\2}"),
    (r"^0\.5$", r"\\frac{1}{2}"),
    (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
)


def hendrycks(completion: str, answer: str) -> bool:
    """MATH's is_equiv (Hendrycks et al. 2021, arXiv:2103.03874): the last box, as normalised text.

    A gold answer is what its solution has in a box.
    """
    said = answers.boxed(completion)
    if not said:
        return False
    for pattern, by in _NORMAL_FORM:
        said, answer = (re.sub(pattern, by, text) for text in (said, answer))
    return said == answer


def math_verify(completion: str, answer: str) -> bool:
    """math-verify as its page shows it: both parsed, the answer in dollars."""
    return bool(_EQUAL.ask(completion, f"${answer}$"))

r"""Verifiers: pure functions (completion, answer) -> reward in {0.0, 1.0}.

They see text: EOS is gone, and whether the completion ended at all is the caller's question.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from opd.data import answers, functions, numbers
from opd.data.worker import Worker

Verifier = Callable[[str, str], float]
KEY = "data.verifier"

# --- those that are here -------------------------------------------------------------------------


def exact_match(completion: str, answer: str) -> float:
    """1 where the completion is the answer, surrounding white space aside."""
    return float(completion.strip() == answer.strip())


def final_answer(completion: str, answer: str) -> float:
    """1 where the completion's final number equals the answer, exactly, as rational numbers.

    Cobbe et al. 2021 (arXiv:2110.14168): a solution ends in `#### N`. Here N may be in a box
    too, or the text's last number (`numbers.final`), and dressed as people write it
    (`numbers.declared`).

    Raises:
        ValueError: the answer is not a number.
    """
    said, wanted = numbers.final(completion), numbers.parse(answer)
    return float(said is not None and said.same(wanted))


_EQUAL, _LAST = Worker("equal"), Worker("last")


def math(completion: str, answer: str) -> float:
    """1 where the completion's answer equals the answer as mathematics (math-verify).

    That is what its last box holds, else what its last `####` marks, else what math-verify finds;
    of a thought nothing. An answer that is one number may be dressed as `final_answer` takes it.

    Raises:
        ValueError: the extra `math` isn't installed.
    """
    _need_math_verify()
    text = answers.after_thought(completion)
    said = answers.boxed(text)
    if said is None:
        said = answers.marked(text)
        said = said and said.rstrip(" .!")  # a sentence's end, and no factorial
    if said is None:
        return float(_equal(text, _formula(answer)))
    return float(_same_number(said, answer) or _equal(_formula(said), _formula(answer)))


def _need_math_verify() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(f"{KEY} = 'math' needs the extra: pip install opd[math]")


def _equal(text: str, formula: str) -> bool:
    try:
        return bool(_EQUAL.ask(text, formula))
    except TimeoutError:
        return False  # a number that takes so long is no answer


def _formula(text: str) -> str:
    """A text as math-verify reads it whole: in dollars, where none are in it."""
    text = answers.boxed(text) or text
    return text if re.search(r"(?<!\\)\$|\\\(|\\\[", text) else f"${text}$"


def _same_number(said: str, answer: str) -> bool:
    """Whether both are one number; "1,2" may be a pair here, and "4!" is a factorial."""
    if "!" in said or re.search(r",(?![0-9]{3})", answer):
        return False
    try:
        wanted = numbers.parse(answer)
    except ValueError:
        return False
    number = numbers.declared(said)
    return number is not None and number.same(wanted)


def regex(pattern: str) -> Verifier:
    """1 where what the pattern last finds is the answer, surrounding white space aside.

    That is the first of its groups that took part, or all of it if it has none; empty finds don't
    count.

    Raises:
        ValueError: no regular expression.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{KEY} = 'regex:{pattern}': not a pattern ({error})") from None

    def verifier(completion: str, answer: str) -> float:
        """Raises TimeoutError where the pattern never ends on a completion."""
        last = _LAST.ask(pattern, completion)
        return 0.0 if last is None else exact_match(last, answer)

    return verifier


VERIFIERS: dict[str, Verifier] = {
    "exact": exact_match,
    "final_answer": final_answer,
    "math": math,
}
REGEX = "regex:"

# How a completion says an answer that it is to earn its reward by.
COMPLETED: dict[Verifier, str] = {
    exact_match: "{}",
    final_answer: answers.MARKER + " {}",
    math: r"\boxed{{{}}}",
}


# --- by name -------------------------------------------------------------------------------------


def named(name: str) -> Verifier:
    """One of VERIFIERS, regex:PATTERN, or the function f(completion, answer) of MODULE:NAME.

    Raises:
        ValueError: none of these, or what can't be used.
    """
    if name in VERIFIERS:
        if name == "math":
            _need_math_verify()
        return VERIFIERS[name]
    if name.startswith(REGEX):
        return regex(name.removeprefix(REGEX))
    if ":" in name:
        return functions.imported(KEY, name, "completion, answer")
    allowed = f"{', '.join(VERIFIERS)}, regex:PATTERN or MODULE:NAME"
    raise ValueError(f"{KEY} = {name!r}: allowed are {allowed}")


def digest(name: str | None) -> str | None:
    """SHA-256 of the files of a user's own; None where the name says it all."""
    if name is None or name in VERIFIERS or name.startswith(REGEX):
        return None
    return functions.digest(KEY, name)


# --- before anything is graded -------------------------------------------------------------------


class Line(Protocol):
    """A prompt with its answer, and what an error calls it: its line, if it is from a list."""

    prompt: str
    answer: str | None
    where: str | None
    named: str


def check(name: str, verifier: Verifier, lines: Sequence[Line]) -> None:
    """Refuses answers that a verifier can't grade by: each must earn 1 as its own completion.

    How a user's own function or a pattern wants a completion isn't known: it is tried on the first
    line, and must give a number.

    Raises:
        ValueError: which lines, how many, and why.
    """
    if verifier not in COMPLETED:
        first = lines[0]
        try:
            grade(name, verifier, first.prompt, first.answer, first.answer)
        except functions.RewardError as error:
            raise ValueError(str(error)) from None
        return
    reasons = {answer: _wrong(verifier, answer) for answer in {line.answer for line in lines}}
    wrong = sorted((line for line in lines if reasons[line.answer]), key=_place)
    if wrong:
        refuse(name, f"'answer' {reasons[wrong[0].answer]}", wrong)


def refuse(name: str, reason: str, lines: Sequence[Line]) -> None:
    """Says of the first lines, and of how many, why a verifier can't grade by them.

    Raises:
        ValueError: always.
    """
    shown = 3  # enough to see what it is about
    listed = ", ".join(line.named for line in lines[:shown])
    more = f" and {len(lines) - shown} more" if len(lines) > shown else ""
    raise ValueError(
        f"{listed}{more}: {reason}: {KEY} = {name!r} can't grade by it; allowed are answers that "
        f"earn 1 as their own completion, or another {KEY}"
    )


def _place(line: Line) -> tuple[int, str]:
    """Of one file's lines the order that they have there."""
    where = line.where or ""
    return len(where), where


def _wrong(verifier: Verifier, answer: str) -> str | None:
    """Why an answer can't be graded by, if it can't."""
    try:
        earned, empty = verifier(COMPLETED[verifier].format(answer), answer), verifier("", answer)
    except ValueError as error:
        return str(error)
    if earned != 1:
        return f"{answer!r:.60} as its own completion earns {earned:g}"
    return f"{answer!r:.60} lets an empty completion earn {empty:g}" if empty else None


def grade(name: str, verifier: Verifier, prompt: str | None, completion: str, answer: str) -> float:
    """A completion\'s reward by a verifier of that name; `prompt` is for messages, where known.

    Raises:
        RewardError: the verifier raised, or returned something other than a finite number.
    """
    shown = {} if prompt is None else {"prompt": prompt}
    shown |= {"completion": completion, "answer": answer}
    return functions.reward(f"{KEY} = {name!r}", verifier, completion, answer, **shown)

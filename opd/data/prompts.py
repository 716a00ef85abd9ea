"""Prompts that come as one list, from a JSONL file or elsewhere, and the part that is held out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opd.data.builder import Example, Source, Splits, hold_out
from opd.data.conversation import asked, unread
from opd.data.jsonl import read_objects, text_field
from opd.data.verifiers import exact_match


@dataclasses.dataclass(frozen=True)
class PromptsConfig:
    """The list, and how many of its distinct prompts are held out.

    None holds out a tenth of them, or two; of fewer than five, one or none.
    """

    prompts: str | None = None
    validation: int | None = None
    test: int | None = None
    train: int | None = None  # examples; None: all that are left
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("data.task = 'jsonl' needs data.prompts = FILE.jsonl")


def read(path: Path) -> list[Example]:
    """Prompts, one object a line: `prompt` or `messages`, and optionally `answer`.

    A line says what it likes beside them, see `conversation.BESIDE`. An answer is a text or a
    number, and doubles as the solution to imitate.

    Raises:
        ValueError: a malformed line, or one that says what isn't read; by file and number.
    """
    examples = []
    for where, line in read_objects(path):
        further = unread(where, line)
        prompt = asked(where, line)
        talk = None if isinstance(prompt, str) else prompt
        answer = answer_field(where, line)
        text = prompt if talk is None else talk.text
        examples.append(Example(text, answer, answer, talk, where, further))
    return examples


def answer_field(where: str, line: Mapping[str, Any]) -> str | None:
    """The text that `line["answer"]` is, or its number is written as: 3 is "3", 3.5 is "3.5".

    Raises:
        ValueError: it is something else.
    """
    answer = line.get("answer")
    if answer is None:
        return None
    if isinstance(answer, int) and not isinstance(answer, bool):
        return str(answer)
    if isinstance(answer, float) and math.isfinite(answer):
        return str(answer)
    return text_field(where, line, "answer", allowed="non-empty string or a finite number")


def held_out(config: PromptsConfig, examples: Sequence[Example]) -> Splits:
    """Train, validation and test, no prompt in two of them.

    Raises:
        ValueError: more prompts asked for than there are.
    """
    distinct = {example.prompt for example in examples}
    # Two are the fewest that an interval can be over; at least one prompt is left to train on.
    default = min(max(2, len(distinct) // 10), (len(distinct) - 1) // 2)
    validation, test = (
        default if size is None else size for size in (config.validation, config.test)
    )
    if validation + test >= len(distinct):
        raise ValueError(
            f"data.validation + data.test = {validation} + {test}: {config.prompts} has "
            f"{len(distinct)} distinct prompts, allowed are 0 to {len(distinct) - 1}"
        )
    first = hold_out(distinct, validation, config.seed)
    second = hold_out(distinct - first, test, config.seed)
    sides = {
        "train": [e for e in examples if e.prompt not in first | second][: config.train],
        "validation": [e for e in examples if e.prompt in first],
        "test": [e for e in examples if e.prompt in second],
    }
    return {name: tuple(side) for name, side in sides.items() if side}


def splits(config: PromptsConfig) -> Splits:
    """A file's prompts by split.

    Raises:
        ValueError: a missing file, a malformed line, more prompts asked for than there are.
    """
    return held_out(config, read(Path(config.prompts)))


SOURCE = Source(PromptsConfig, splits, exact_match, lambda config: (Path(config.prompts),))

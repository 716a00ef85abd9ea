"""Prompts that come as one list, from a JSONL file or elsewhere, and the part that is held out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from opd.data.builder import Example, Source, Splits, hold_out
from opd.data.jsonl import messages_field, read_objects, text_field
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

    An answer is a string or an integer, and doubles as the solution to imitate.

    Raises:
        ValueError: a malformed line, by file and number.
    """
    examples = []
    for where, line in read_objects(path):
        messages = None
        if "messages" in line:
            if "prompt" in line:
                raise ValueError(f"{where}: has 'prompt' and 'messages': allowed is one of them")
            messages = messages_field(where, line)
            prompt = json.dumps(line["messages"], ensure_ascii=False)
        else:
            prompt = text_field(where, line, "prompt")
        answer = line.get("answer")
        if isinstance(answer, int) and not isinstance(answer, bool):
            answer = str(answer)
        elif answer is not None:
            answer = text_field(where, line, "answer")
        examples.append(Example(prompt, answer, answer, messages, where))
    return examples


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

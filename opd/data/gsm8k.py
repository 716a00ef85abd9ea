"""Grade-school word problems, read from the two original JSONL files in a given folder.

Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems" (arXiv:2110.14168).
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from opd.data import numbers
from opd.data.answers import MARKER
from opd.data.builder import Example, ExampleBuilder, Source, Splits, hold_out
from opd.data.jsonl import read_objects, text_field
from opd.data.verifiers import final_answer

FILES = ("train.jsonl", "test.jsonl")

# The calculator annotations of the worked answers: <<48/2=24>>.
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")


@dataclasses.dataclass(frozen=True)
class GSM8KConfig:
    """The folder of the two files, and how many training questions are held out or kept."""

    path: str | None = None
    validation: int = 500  # of 7,473 questions; chosen by hand, not tuned
    train: int | None = None  # None: all that aren't held out
    test: int | None = None  # None: all
    annotations: bool = False  # keep <<...>>
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                f"data.task = 'gsm8k' needs data.path = a folder with {' and '.join(FILES)}"
            )

    @property
    def files(self) -> tuple[Path, ...]:
        """The two files."""
        return tuple(Path(self.path) / name for name in FILES)


def read(path: Path, annotations: bool) -> list[Example]:
    """One file's examples: prompt = question + newline, solution = worked answer with `#### N`.

    Raises:
        ValueError: a malformed line, by file and number.
    """
    examples = []
    for where, line in read_objects(path):
        question = text_field(where, line, "question")
        solution = text_field(where, line, "answer")
        _, marker, answer = solution.rpartition(MARKER)
        if not marker:
            raise ValueError(f"{where}: 'answer' must end in '{MARKER} NUMBER', has no {MARKER}")
        answer = answer.strip()
        try:
            numbers.parse(answer)
        except ValueError as error:
            raise ValueError(f"{where}: after {MARKER}, {error}") from None
        if not annotations:
            solution = _ANNOTATION.sub("", solution)
        examples.append(Example(question + "\n", solution, answer, where=where))
    return examples


def splits(config: GSM8KConfig) -> Splits:
    """Train, validation (held out of train, deterministically) and test.

    Raises:
        ValueError: missing folder or file, malformed line, more questions asked for than there are.
    """
    train, test = (read(path, config.annotations) for path in config.files)
    questions = {example.prompt for example in train}
    if config.validation >= len(questions):
        raise ValueError(
            f"data.validation = {config.validation}: {config.files[0]} allows at most "
            f"{len(questions) - 1}"
        )
    held_out = hold_out(questions, config.validation, config.seed)
    sides = {
        "train": [e for e in train if e.prompt not in held_out][: config.train],
        "validation": [e for e in train if e.prompt in held_out],
        "test": test[: config.test],
    }
    return {name: tuple(side) for name, side in sides.items() if side}


class GSM8K(ExampleBuilder, skip_registration=True):
    """Word problems with worked answers; splits train, validation and test."""

    name = "gsm8k"
    task: GSM8KConfig

    def examples(self) -> Splits:
        return splits(self.task)


SOURCE = Source(GSM8KConfig, splits, final_answer, lambda config: config.files, GSM8K)

"""What to learn, in which tokens: the keys under `data`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from opd import fields
from opd.data import arithmetic, tfds_prompts
from opd.data.builder import Source
from opd.data.chat import PLAIN, ChatConfig
from opd.data.tasks import TASKS
from opd.data.tokenizers import BYTE_VOCAB
from opd.data.verifiers import named
from opd.fields import setting

TOKENIZERS = ("byte", "char", "bpe")
LONG_PROMPTS = ("error", "skip")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to learn, in which tokens. None: the task's own default, or the longest there is.

    Where `prompts` are given they say what the task is, jsonl or tfds. Sizes and difficulties that
    a task doesn't have mean nothing for it, so that one config file serves several tasks; a place
    or a feature that it doesn't read is refused.

    Raises:
        ValueError: one line, what was given and what is allowed.
    """

    task: str = setting("arithmetic", choices=tuple(TASKS))
    path: str | None = None  # gsm8k: the folder of train.jsonl and test.jsonl
    prompts: str | None = None  # jsonl: FILE.jsonl; tfds: tfds:NAME[:SPLIT]
    prompt_feature: str | None = None  # tfds: which feature is the prompt; None: prompt
    answer_feature: str | None = None  # tfds: which is the answer; None: answer, where there is one
    # Of arithmetic, see ArithmeticConfig.
    operation: str = setting("add", choices=tuple(arithmetic.OPERATIONS))
    digits: int = setting(2, at_least=1)
    reverse: bool = False
    annotations: bool = False  # gsm8k: keep the <<...>> of the worked answers
    tokenizer: str | None = None  # byte, char, bpe, or a Hugging Face folder; None: a player's
    chat: ChatConfig = PLAIN  # how a folder's tokenizer writes prompts
    alphabet: str | None = None  # char; arithmetic has a default
    # Of a small model; chosen by hand, not tuned.
    bpe_size: int = setting(2048, at_least=BYTE_VOCAB)
    max_prompt: int | None = setting(None, at_least=1)  # P, tokens
    max_completion: int | None = setting(None, at_least=1)  # T, tokens, EOS included
    long_prompts: str = setting("error", choices=LONG_PROMPTS)
    verifier: str | None = None  # exact, final_answer, math, regex:PATTERN, MODULE:NAME
    # Examples (arithmetic: operand pairs, both orders of each).
    train: int | None = setting(None, at_least=1)
    validation: int | None = setting(None, at_least=0)
    test: int | None = setting(None, at_least=0)
    length: int | None = setting(None, at_least=0)  # arithmetic: the held-out length
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)  # of NumPy's generators

    def __post_init__(self) -> None:
        fields.check(self, "data")
        if self.tokenizer not in (None, *TOKENIZERS) and not os.path.isdir(self.tokenizer):
            raise ValueError(
                f"data.tokenizer = {self.tokenizer!r}: allowed are {', '.join(TOKENIZERS)}, or a "
                "folder with tokenizer.json"
            )
        if self.verifier is not None:
            named(self.verifier)
        if self.prompts and self.path:
            raise ValueError("data.path and data.prompts are both given: allowed is one of them")
        if self.prompts:
            listed = "tfds" if self.prompts.startswith(tfds_prompts.PREFIX) else "jsonl"
            object.__setattr__(self, "task", listed)  # frozen: said once, here
        for name in _PLACES:
            readers = [task for task, source in TASKS.items() if name in keys(source)]
            if getattr(self, name) is not None and self.task not in readers:
                raise ValueError(
                    f"data.{name} = {getattr(self, name)!r}: allowed for data.task = "
                    f"{' or '.join(map(repr, readers))} only"
                )
        self.task_config()
        if self.tokenizer == "char" and not (self.alphabet or self.source.alphabet):
            raise ValueError("data.tokenizer = 'char' needs data.alphabet, or choose byte or bpe")

    @property
    def source(self) -> Source:
        """The task's row of the table."""
        return TASKS[self.task]

    def task_config(self) -> Any:
        """The task's own config: the keys that mean something for it.

        Raises:
            ValueError: what that refuses.
        """
        for name in keys(self.source):
            assert hasattr(self, name), f"opd/data/config.py: DataConfig needs a field {name!r}"
        values = {name: getattr(self, name) for name in keys(self.source)}
        return self.source.config(**{k: value for k, value in values.items() if value is not None})

    @property
    def from_folder(self) -> Path | None:
        """The folder whose tokenizer it is, if it is one's."""
        ours = self.tokenizer in (None, *TOKENIZERS)
        return None if ours else Path(self.tokenizer)


# Where data lie, and what of them is read: given in vain, they would be believed.
_PLACES = ("path", "prompt_feature", "answer_feature")


def keys(source: Source) -> tuple[str, ...]:
    """The keys of `data` that a task reads."""
    return tuple(field.name for field in dataclasses.fields(source.config) if field.init)


def integer(name: str, value: Any, least: int) -> None:
    """Refuses what isn't a whole number of at least so much.

    Raises:
        ValueError: one line, what was given and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} = {value!r}: allowed are integers from {least}")

"""Prompts from a prepared TFDS dataset in array_record form, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from opd.data.builder import Example, Source, Splits, quiet
from opd.data.prompts import PromptsConfig, held_out
from opd.data.verifiers import exact_match

PREFIX = "tfds:"
# A dataset as TFDS spells it, name[/config][:version], and a split of it.
_FORM = re.compile(
    PREFIX + r"(?P<dataset>[a-zA-Z]\w*(/[\w.-]+)?(:\d+\.\d+\.\d+)?)(:(?P<split>\w+(\[[^\]]*\])?))?"
)


def parse(prompts: str) -> tuple[str, str]:
    """The dataset and the split of tfds:NAME[/CONFIG][:VERSION][:SPLIT]; train where none is said.

    Raises:
        ValueError: it is something else.
    """
    match = _FORM.fullmatch(prompts)
    if match is None:
        raise ValueError(
            f"data.prompts = {prompts!r}: allowed is tfds:NAME[/CONFIG][:VERSION][:SPLIT]"
        )
    return match["dataset"], match["split"] or "train"


@dataclasses.dataclass(frozen=True)
class TFDSConfig(PromptsConfig):
    """A prepared TFDS dataset, and its features that are prompts and answers."""

    dataset: str = dataclasses.field(init=False)
    split: str = dataclasses.field(init=False)
    prompt_feature: str | None = None  # None: prompt
    answer_feature: str | None = None  # None: answer, where there is one

    def __post_init__(self) -> None:
        dataset, split = parse(self.prompts or "")
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "split", split)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _builder(dataset: str, split: str) -> Any:
    """The dataset's builder; its files are where TFDS keeps them, or in TFDS_DATA_DIR.

    Raises:
        ValueError: it isn't prepared, has no such split, or another form than array_record.
    """
    where = os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    try:
        with quiet():
            builder = read_only_builder.builder_from_files(dataset, data_dir=where)
            splits = builder.info.splits
    except Exception as error:  # TFDS and what it reads with raise what they like
        raise ValueError(f"{PREFIX}{dataset}: not prepared in {where} ({_line(error)})") from None
    form = builder.info.file_format
    if form != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{PREFIX}{dataset}: its files are {form and form.value}: allowed is array_record; "
            "prepare it with file_format='array_record'"
        )
    try:
        empty = not splits[split].num_examples
    except (KeyError, ValueError):
        raise ValueError(
            f"{PREFIX}{dataset}:{split}: no such split; allowed are {', '.join(splits)}"
        ) from None
    if empty:
        raise ValueError(f"{PREFIX}{dataset}:{split}: is empty, needs at least one prompt")
    return builder


def files(dataset: str, split: str) -> list[Path]:
    """The files that a split is read from."""
    builder = _builder(dataset, split)
    return [Path(path) for path in builder.info.splits[split].filepaths]


def read(dataset: str, split: str, prompt: str | None, answer: str | None) -> list[Example]:
    """A split's prompts in order, and their answers where the dataset has them.

    The features are called `prompt` and `answer` where none is said. An answer is a text or a
    number, and doubles as the solution to imitate; an empty one is none.

    Raises:
        ValueError: no such dataset, split or feature (lists those there are), a feature of another
            kind, or an empty prompt.
    """
    builder = _builder(dataset, split)
    where, features = f"{PREFIX}{dataset}", builder.info.features
    if answer is None:
        answer = "answer" if "answer" in features else None
    prompt = "prompt" if prompt is None else prompt
    for role, name in (("prompt", prompt), ("answer", answer)):
        if name is not None and name not in features:
            raise ValueError(
                f"{where}: has no feature {name!r} (data.{role}_feature); allowed are "
                f"{', '.join(sorted(features))}"
            )
    with quiet():
        rows = builder.as_data_source(split=split)
    others = sorted({*features} - {prompt, answer})
    examples = []
    for number, row in enumerate(rows):
        here = f"{where}:{split}, {number}"
        asked = _text(here, prompt, row[prompt])
        if not asked:
            raise ValueError(f"{here}: {prompt!r} is empty")
        text = None
        if answer is not None:
            text = _text(here, answer, row[answer]) or None
        further = {name: _plain(row[name]) for name in others}
        examples.append(Example(asked, text, text, where=here, further=further))
    return examples


def _text(where: str, name: str, value: Any) -> str:
    """A feature's value as text.

    Raises:
        ValueError: it is neither text nor a finite number.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{where}: {name!r} is not UTF-8") from None
    if hasattr(value, "dtype") and value.shape == () and value.dtype.kind in "iuf":
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        narrow = np.float32(value)
        return str(narrow if narrow == value else value)  # 0.1, not 0.10000000149011612
    kind = type(value).__name__
    raise ValueError(f"{where}: {name!r} is a {kind}, allowed are text and finite numbers")


def _plain(value: Any) -> Any:
    """A further feature's value as a template reads it: text, numbers and lists of these."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if hasattr(value, "tolist") else value


def splits(config: TFDSConfig) -> Splits:
    """A dataset's prompts by split.

    Raises:
        ValueError: what `read` refuses, or more prompts asked for than there are.
    """
    features = config.prompt_feature, config.answer_feature
    return held_out(config, read(config.dataset, config.split, *features))


SOURCE = Source(TFDSConfig, splits, exact_match, lambda c: files(c.dataset, c.split))

"""What tasks are made of: the example, a source of them, and a TFDS builder without TensorFlow."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from opd.data.conversation import Conversation
from opd.data.verifiers import Verifier


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt; the text to imitate and the final answer, where there are any.

    Where the prompt is a conversation, `prompt` is that as JSON: what tells prompts apart, and is
    shown. `where` is the line it is from, and `further` its other columns, which a template may
    read (`told.Told`).
    """

    prompt: str
    solution: str | None = None
    answer: str | None = None
    conversation: Conversation | None = None
    where: str | None = dataclasses.field(default=None, compare=False)
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def asked(self) -> str | Conversation:
        """What a tokenizer encodes: the conversation where there is one, or the text."""
        return self.prompt if self.conversation is None else self.conversation

    @property
    def named(self) -> str:
        """What an error calls it: its line, or the prompt's beginning."""
        return f"prompt {self.prompt[:40]!r}" if self.where is None else self.where


Splits = Mapping[str, tuple[Example, ...]]

FEATURES = ("prompt", "solution", "answer")  # of what is prepared here


class ExampleBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes splits of examples as array_record, in order; a task says which in `examples`.

    TFDS's global register is left alone: it has a dataset of the same name for some tasks.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # no downloads; TFDS would look for checksums beside this module

    def __init__(self, task: Any, data_dir: str | os.PathLike[str]):
        self.task = task
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    @abc.abstractmethod
    def examples(self) -> Splits:
        """The task's splits, a pure function of its config and its source files."""

    def _info(self) -> tfds.core.DatasetInfo:
        text = {name: tfds.features.Text() for name in FEATURES}
        features = tfds.features.FeaturesDict(text)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded, ever
        return {name: self._generate_examples(split) for name, split in self.examples().items()}

    def _generate_examples(self, examples: Iterable[Example]):
        for number, example in enumerate(examples):
            yield number, {name: getattr(example, name) for name in FEATURES}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TFDS prints, logs and draws bars for what takes a second here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    tfds.disable_progress_bar()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.set_verbosity(verbosity)


def write(builder: ExampleBuilder) -> None:
    """Prepares the builder's data under its `data_dir`. Touches no network."""
    downloads = Path(builder.data_dir).parents[1] / "downloads"
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with quiet():
        builder.download_and_prepare(download_config=config, download_dir=downloads)
    shutil.rmtree(downloads, ignore_errors=True)  # TFDS makes an empty one


def read(builder: ExampleBuilder) -> Splits:
    """What `write` wrote."""
    with quiet():
        sources = builder.as_data_source()
    return {name: tuple(map(_example, source)) for name, source in sources.items()}


def _example(record: Mapping[str, bytes]) -> Example:
    return Example(**{name: record[name].decode("utf-8") for name in FEATURES})


def _no_files(config: Any) -> tuple[Path, ...]:
    return ()


@dataclasses.dataclass(frozen=True)
class Source:
    """A task: where its examples come from, and who grades what is said to them.

    `config` is a frozen dataclass whose fields are the keys of `data` that mean something for the
    task. A key that is None there keeps the field's own default; a field that isn't a key is worked
    out. It raises ValueError at what is wrong with them.
    """

    config: type
    splits: Callable[[Any], Splits]  # a pure function of that config and its files
    verifier: Verifier  # where `data.verifier` names no other
    files: Callable[[Any], Sequence[Path]] = _no_files  # what `splits` reads
    builder: type[ExampleBuilder] | None = None  # None: read from its files every time
    alphabet: str | None = None  # of a character tokenizer, where `data.alphabet` has none


def hold_out(keys: Iterable[str], count: int, seed: int) -> set[str]:
    """`count` of the distinct keys: those whose SHA-256 with the seed is smallest.

    A key's side depends on itself and the threshold only, so equal prompts never straddle.
    """

    def rank(key: str) -> str:
        return hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest()

    return set(sorted(set(keys), key=rank)[:count])

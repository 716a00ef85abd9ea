"""From a config to a task: its examples by split, their tokenizer, and who grades completions.

A task is prepared once under a folder named after all that its data depend on, or read in memory.
N examples, P prompt length, T completion length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from opd import fields
from opd.data import hub_tokenizer, tokenizers, verifiers
from opd.data.builder import Example, Splits, read, write
from opd.data.chat import PLAIN, ChatConfig, today
from opd.data.config import DataConfig
from opd.data.conversation import Conversation
from opd.data.hub_tokenizer import HubTokenizer
from opd.data.tokenizers import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    check,
    train_bpe,
)
from opd.data.told import Taught, Told
from opd.data.verifiers import Verifier

# Part of what a prepared folder is named after: raise it when what is written changes.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """Examples by split, the tokenizer they are read with, and who grades them.

    `max_prompt` is P and `max_completion` T, both resolved; `skipped` counts the prompts dropped
    for their length, by split. `where` is the folder of the prepared data, if any; `identity` names
    what they were prepared from, `origin`: sources by content. `told` is what a teacher reads in
    the prompts' place; None: the prompts.

    Raises:
        ValueError: a tokenizer whose pad is its EOS.
    """

    config: DataConfig
    tokenizer: Tokenizer
    verifier: Verifier | None
    splits: Splits
    max_prompt: int
    max_completion: int
    skipped: Mapping[str, int]
    where: Path | None = None
    identity: str = ""
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: Told | None = None
    taught: Taught | None = None  # by whom, where there are several teachers

    def __post_init__(self) -> None:
        check(self.tokenizer)

    def split(self, name: str) -> tuple[Example, ...]:
        """One split's examples.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.splits:
            allowed = ", ".join(self.splits)
            raise ValueError(f"split {name!r}: the {self.config.task} task has {allowed}")
        return self.splits[name]


def _tokenizer(config: DataConfig, splits: Splits) -> Tokenizer:
    """The configured tokenizer; a BPE sees the training split alone."""
    if config.from_folder is not None:
        return hub_tokenizer.load(config.from_folder, config.chat)
    if config.tokenizer in (None, "byte"):
        return ByteTokenizer()
    if config.tokenizer == "char":
        return CharTokenizer(config.alphabet or config.source.alphabet)
    train = splits["train"]
    texts = (example.prompt + (example.solution or "") for example in train)
    return train_bpe(texts, config.bpe_size)


# --- prepared data ---------------------------------------------------------------------------


def _origin(config: DataConfig) -> dict[str, Any]:
    """All that the prepared data depends on: sources by content, not by place."""
    settings = config.task_config()
    tokenizer: dict[str, Any] = {"tokenizer": config.tokenizer or "byte"}
    if config.from_folder is not None:
        loaded = hub_tokenizer.load(config.from_folder, config.chat)
        tokenizer = {"tokenizer": loaded.fingerprint(), "chat": dataclasses.asdict(config.chat)}
    if config.tokenizer == "bpe":
        tokenizer["bpe_size"] = config.bpe_size
    files = {}
    for path in config.source.files(settings):
        try:
            files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    keys = _keys(dataclasses.asdict(settings))
    return {"format": FORMAT, "task": config.task, **keys, **tokenizer, "files": files}


def _keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's own config without the places of its sources."""
    return {name: value for name, value in settings.items() if name not in ("path", "prompts")}


def _name(origin: Mapping[str, Any]) -> str:
    """What prepared data of this origin is called."""
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    # 48 bits: a name that people can read, and that no two origins are likely to share.
    return f"{origin['task']}-{digest[:12]}"


def _read_prepared(config: DataConfig, where: Path) -> tuple[Splits, Tokenizer]:
    source, settings = config.source, config.task_config()
    splits = read(source.builder(settings, where)) if source.builder else source.splits(settings)
    if config.tokenizer == "bpe":
        return splits, BPETokenizer.load(where / "tokenizer.json")
    return splits, _tokenizer(config, splits)


def _prepare(config: DataConfig, tokenizer: Tokenizer, where: Path, origin: Mapping) -> None:
    """Writes a folder beside `where`, complete, and only then gives it its name."""
    where.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=where.parent))
    try:
        if config.source.builder:
            write(config.source.builder(config.task_config(), staging))
        if isinstance(tokenizer, BPETokenizer):
            tokenizer.save(staging / "tokenizer.json")
        (staging / "config.json").write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n")
        staging.chmod(0o755)  # mkdtemp's is for its owner alone
        try:
            os.rename(staging, where)
        except OSError:
            if not where.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


# --- loading ---------------------------------------------------------------------------------


def load(config: DataConfig, workdir: str | os.PathLike[str] | None = None) -> Task:
    """The configured task, prepared under `workdir/data` or found there; in memory without one.

    Whatever is wrong with the config or the source is said before anything is written.

    Raises:
        ValueError: a missing or malformed source (file and line), a prompt that is too long.
    """
    if config.from_folder is None and config.chat != PLAIN:
        raise ValueError("data.chat: allowed with a Hugging Face folder's tokenizer only")
    origin = _origin(config)
    where = None if workdir is None else Path(workdir) / "data" / _name(origin)
    if where is not None and where.is_dir():
        task = _task(config, *_read_prepared(config, where))
    else:
        splits = config.source.splits(config.task_config())
        task = _task(config, splits, _tokenizer(config, splits))
    task = dataclasses.replace(task, identity=_name(origin), origin=origin)
    return task if workdir is None else keep(task, workdir)


def keep(task: Task, workdir: str | os.PathLike[str]) -> Task:
    """The task with its data prepared under `workdir/data`: found there, or written."""
    task = recognised(task, workdir)
    if task.where is not None:
        return task
    where = Path(workdir) / "data" / task.identity
    _prepare(task.config, task.tokenizer, where, task.origin)
    return dataclasses.replace(task, where=where)


def recognised(task: Task, workdir: str | os.PathLike[str]) -> Task:
    """The task with the folder and the name that its data have under `workdir/data`, if they do.

    Their name is older than some keys of today, perhaps: those had their defaults then.
    """
    defaults = _keys(fields.defaults(type(task.config.task_config())))
    for where in sorted((Path(workdir) / "data").glob(f"{task.config.task}-*")):
        try:
            origin = json.loads((where / "config.json").read_text())
        except (OSError, ValueError):
            continue
        if "chat" in origin:
            origin["chat"] = fields.completed(origin["chat"], ChatConfig)
        if defaults | origin == json.loads(json.dumps(task.origin)):
            return dataclasses.replace(task, where=where, identity=where.name)
    return task


def _task(config: DataConfig, splits: Splits, tokenizer: Tokenizer) -> Task:
    lengths = {n: [_length(tokenizer, e) for e in split] for n, split in splits.items()}
    max_prompt = config.max_prompt or max(max(split) for split in lengths.values())
    fitting, skipped = {}, {}
    for name, split in splits.items():
        fits = [length <= max_prompt for length in lengths[name]]
        if config.long_prompts == "error" and not all(fits):
            at = fits.index(False)
            raise ValueError(
                f"data.max_prompt = {max_prompt}: prompt {at} of {name} has {lengths[name][at]} "
                f"tokens ({split[at].prompt[:40]!r}); allowed are at most {max_prompt}, or "
                "data.long_prompts = 'skip'"
            )
        fitting[name] = tuple(e for e, fit in zip(split, fits, strict=True) if fit)
        skipped[name] = fits.count(False)
        if not fitting[name]:
            shortest = min(lengths[name])
            raise ValueError(
                f"data.max_prompt = {max_prompt}: no prompt of {name} fits, the shortest has "
                f"{shortest} tokens"
            )
    everything = [example for split in fitting.values() for example in split]
    graded = all(example.answer is not None for example in everything)
    longest = _longest_solution(tokenizer, everything)  # even where it isn't needed: all are read
    if config.max_completion is None and longest is None:
        raise ValueError("data.max_completion = None: needs a number of tokens, 1 or more, here")
    verifier = verifiers.named(config.verifier) if config.verifier else config.source.verifier
    if graded:
        verifiers.check(config.verifier or config.task, verifier, everything)
    elif config.verifier:
        bare = [example for example in everything if example.answer is None]
        verifiers.refuse(config.verifier, "there is no 'answer'", bare)
    return Task(
        config=config,
        tokenizer=tokenizer,
        verifier=verifier if graded else None,
        splits=MappingProxyType(fitting),
        max_prompt=max_prompt,
        max_completion=config.max_completion or longest,
        skipped=MappingProxyType(skipped),
    )


def refuse_lost(tokenizer: Tokenizer, prompt: str | Conversation) -> None:
    """Refuses a prompt of which a folder's chat template drops something, or that it wraps twice.

    Raises:
        ValueError: what `HubTokenizer.refuse_lost` refuses.
    """
    if isinstance(tokenizer, HubTokenizer):
        tokenizer.refuse_lost(prompt)


def _length(tokenizer: Tokenizer, example: Example) -> int:
    """Tokens of a prompt.

    Raises:
        ValueError: by its line: one that can't be written, or not whole.
    """
    try:
        refuse_lost(tokenizer, example.asked)
        return len(tokenizer.encode_prompt(example.asked))
    except ValueError as error:
        raise ValueError(f"{example.named}: {error}") from None


def _longest_solution(tokenizer: Tokenizer, examples: Sequence[Example]) -> int | None:
    """Tokens of the longest solution with its EOS; None where there is none.

    Raises:
        ValueError: a solution that the tokenizer has no tokens for.
    """
    longest = None
    for example in examples:
        if example.solution is not None:
            try:
                length = 1 + len(tokenizer.encode(example.solution))
            except ValueError as error:
                where = "" if example.where is None else f"{example.where}: "
                raise ValueError(f"{where}answer to {example.prompt[:40]!r}: {error}") from None
            longest = max(longest or 0, length)
    return longest


def first_prompt(task: Task) -> str | None:
    """What the model gets to read of the first training prompt, cut, where a folder writes it."""
    if not isinstance(task.tokenizer, HubTokenizer):
        return None
    return _shown(task, task.split("train")[0].asked)


def _shown(task: Task, asked: str | Conversation) -> str:
    shown = 400  # a template and a question are seen in so many characters, and a screen is left
    rendered = task.tokenizer.rendered(asked) if isinstance(task.tokenizer, HubTokenizer) else asked
    return repr(rendered)[:shown]


def first_prompts(task: Task) -> tuple[str, ...]:
    """Lines on the first training prompt: as the student reads it, and the teacher's where told."""
    if task.told is None:
        shown = first_prompt(task)
        return () if shown is None else (f"first prompt: {shown}",)
    first = task.split("train")[0]
    return (
        f"first prompt, the student's: {_shown(task, first.asked)}",
        f"first prompt, the teacher's: {_shown(task, task.told.asked(first))}",
    )


# --- another prompt for the teacher ---------------------------------------------------------------


def tell(task: Task, source: str, max_prompt: int | None = None) -> Task:
    """The task with what a teacher reads in the prompts' place, a template over the rows' columns.

    Prompts that are too long are refused or dropped as `data.long_prompts` says.

    Args:
        task: of the students' prompts.
        source: the template, see `told.Told`.
        max_prompt: P', tokens; None: the longest there is.

    Raises:
        ValueError: by the row's line: a column that it doesn't have, no text, one that can't be
            written or is too long.
    """
    told = Told.of(source)
    lengths = {
        name: [_told_length(task.tokenizer, told, each) for each in split]
        for name, split in task.splits.items()
    }
    width = max_prompt or max(max(split) for split in lengths.values())
    fitting, skipped = {}, dict(task.skipped)
    for name, split in task.splits.items():
        fits = [length <= width for length in lengths[name]]
        if not all(fits) and task.config.long_prompts == "error":
            at = fits.index(False)
            raise ValueError(
                f"config.teacher.max_prompt = {width}: the teacher's prompt of {split[at].named} "
                f"has {lengths[name][at]} tokens; allowed are at most {width}, or "
                "data.long_prompts = 'skip'"
            )
        if not any(fits):
            raise ValueError(
                f"config.teacher.max_prompt = {width}: no teacher's prompt of {name} fits, the "
                f"shortest has {min(lengths[name])} tokens"
            )
        fitting[name] = tuple(each for each, fit in zip(split, fits, strict=True) if fit)
        skipped[name] += fits.count(False)
    return dataclasses.replace(
        task,
        told=dataclasses.replace(told, width=width),
        splits=MappingProxyType(fitting),
        skipped=MappingProxyType(skipped),
    )


def taught(task: Task, column: str, names: tuple[str, ...]) -> Task:
    """The task whose prompts are graded by several teachers, each by the one that a column names.

    Raises:
        ValueError: by the row's line: no such column, or another name.
    """
    found = Taught(column, names)
    for split in task.splits.values():
        for example in split:
            found.place(example)
    return dataclasses.replace(task, taught=found)


def _told_length(tokenizer: Tokenizer, told: Told, example: Example) -> int:
    asked = told.asked(example)
    try:
        refuse_lost(tokenizer, asked)
        return len(tokenizer.encode_prompt(asked))
    except ValueError as error:
        raise ValueError(f"{example.named}: the teacher's prompt: {error}") from None


def remarks(task: Task) -> tuple[str, ...]:
    """What of the data is read otherwise than it may seem, a line each."""
    examples = [example for split in task.splits.values() for example in split]
    lines = []
    further = dict.fromkeys(column for example in examples for column in example.further)
    if task.told is not None:
        further = {column: None for column in further if column not in task.told.template.reads}
    if task.taught is not None:
        further.pop(task.taught.column, None)
    if further:
        lines.append(f"columns of the data that are not read: {', '.join(further)}")
    if isinstance(task.tokenizer, HubTokenizer):
        spelled = [(e, tokens) for e in examples if (tokens := task.tokenizer.spells(e.asked))]
        if spelled:
            example, tokens = spelled[0]
            lines.append(
                f"prompts that spell special tokens, which are text there: {len(spelled)}, first "
                f"{example.named} ({', '.join(sorted(tokens))}); data.chat.template = False reads "
                "prompts as they are"
            )
    return tuple(lines)


def dated(config: DataConfig, then: DataConfig | None = None) -> DataConfig:
    """The data on the day that belongs to a run: the one of its start, `then`'s, or today.

    A config that names a day keeps it, and a chat template that asks for none is told none.
    """
    asks = config.from_folder is not None and hub_tokenizer.asks_for_date(
        config.from_folder, config.chat
    )
    if config.chat.date is not None or not asks:
        return config
    day = None if then is None else then.chat.date
    chat = dataclasses.replace(config.chat, date=day or today())
    return dataclasses.replace(config, chat=chat)


def refuse_rowless(task: Task, rows: int) -> None:
    """Refuses prompts and solutions that a model of so many rows has none for.

    Raises:
        ValueError: the first of them, by its line.
    """
    tokenizer = task.tokenizer
    if len(tokenizer.table()) <= rows:
        return
    for example in (example for split in task.splits.values() for example in split):
        solution = [] if example.solution is None else tokenizer.encode(example.solution)
        try:
            ids = [*tokenizer.encode_prompt(example.asked), *solution]
            if task.told is not None:
                ids += tokenizer.encode_prompt(task.told.asked(example))
            tokenizers.refuse_rowless(tokenizer, ids, rows)
        except ValueError as error:
            raise ValueError(f"{example.named}: {error}") from None

"""From a config to batches of NumPy arrays: tasks, prompts, demonstrations, verification.

N examples, P prompt length, B rollouts, T completion length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grain
import numpy as np

from opd import fields
from opd.data import arithmetic, gsm8k, hub_tokenizer, jsonl, tfds_prompts
from opd.data.builder import Example, ExampleBuilder, Splits, hold_out, read, write
from opd.data.chat import PLAIN, ChatConfig
from opd.data.tokenizers import (
    BYTE_VOCAB,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    check,
    train_bpe,
)
from opd.data.verifiers import Verifier, named
from opd.fields import setting

__all__ = [
    "DataConfig",
    "Example",
    "Task",
    "decode_completion",
    "demonstrations",
    "encode_prompts",
    "encode_solutions",
    "load",
    "prompts",
    "verify",
]

TASKS = ("arithmetic", "gsm8k", "jsonl", "tfds")
TOKENIZERS = ("byte", "char", "bpe")
LONG_PROMPTS = ("error", "skip")

# Part of what a prepared folder is named after: raise it when what is written changes.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to learn, in which tokens. None: the task's own default, or the longest there is.

    Raises:
        ValueError: one line, what was given and what is allowed.
    """

    task: str = setting("arithmetic", choices=TASKS)
    path: str | None = None  # gsm8k: the folder of train.jsonl and test.jsonl
    prompts: str | None = None  # FILE.jsonl, or tfds:NAME[:SPLIT]; it makes the task jsonl or tfds
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
        if self.kind == "jsonl" and not self.prompts:
            raise ValueError("data.task = 'jsonl' needs data.prompts = FILE.jsonl")
        if self.kind == "tfds":
            tfds_prompts.parse(self.prompts or "")
        elif (self.prompt_feature, self.answer_feature) != (None, None):
            raise ValueError(
                "data.prompt_feature, data.answer_feature: allowed with data.prompts = tfds:NAME "
                "only"
            )
        if self.kind == "gsm8k" and not self.path:
            files = " and ".join(gsm8k.FILES)
            raise ValueError(f"data.task = 'gsm8k' needs data.path = a folder with {files}")
        if self.kind == "arithmetic":
            if self.path:
                raise ValueError(f"data.path = {self.path!r}: allowed for data.task = 'gsm8k' only")
            _arithmetic(self)
        if self.tokenizer == "char" and self.kind != "arithmetic" and not self.alphabet:
            raise ValueError("data.tokenizer = 'char' needs data.alphabet, or choose byte or bpe")

    @property
    def from_folder(self) -> Path | None:
        """The folder whose tokenizer it is, if it is one's."""
        made = self.tokenizer in (None, *TOKENIZERS)
        return None if made else Path(self.tokenizer)

    @property
    def kind(self) -> str:
        """The task, `jsonl` or `tfds` where prompts are given."""
        if not self.prompts:
            return self.task
        return "tfds" if self.prompts.startswith(tfds_prompts.PREFIX) else "jsonl"


def _integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} = {value!r}: allowed are integers from {least}")


@dataclasses.dataclass(frozen=True)
class Task:
    """Examples by split, the tokenizer they are read with, and who grades them.

    `max_prompt` is P and `max_completion` T, both resolved; `skipped` counts the prompts dropped
    for their length, by split. `where` is the folder of the prepared data, if any; `identity` names
    what they were prepared from, `origin`: sources by content.

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

    def __post_init__(self) -> None:
        check(self.tokenizer)

    def split(self, name: str) -> tuple[Example, ...]:
        """One split's examples.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.splits:
            allowed = ", ".join(self.splits)
            raise ValueError(f"split {name!r}: the {self.config.kind} task has {allowed}")
        return self.splits[name]


# --- sources: config -> splits ---------------------------------------------------------------


def _sizes(config: DataConfig, names: Sequence[str]) -> dict[str, int]:
    """The sizes that were given; a task's own config has the defaults."""
    return {n: getattr(config, n) for n in names if getattr(config, n) is not None}


def _arithmetic(config: DataConfig) -> arithmetic.ArithmeticConfig:
    given = {name: getattr(config, name) for name in ("operation", "digits", "reverse", "seed")}
    sizes = _sizes(config, ("train", "validation", "test", "length"))
    return arithmetic.ArithmeticConfig(**given, **sizes)


def _gsm8k(config: DataConfig) -> gsm8k.GSM8KConfig:
    given = {name: getattr(config, name) for name in ("path", "annotations", "seed")}
    return gsm8k.GSM8KConfig(**given, **_sizes(config, ("train", "validation", "test")))


@dataclasses.dataclass(frozen=True)
class PromptsConfig:
    """Prompts that come as one list: a file, or a split of a dataset.

    None holds out a tenth of the distinct prompts, or two; of fewer than five prompts, one or none.
    """

    prompts: str
    validation: int | None = None
    test: int | None = None
    train: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TFDSConfig(PromptsConfig):
    """A prepared TFDS dataset, and its features that are prompts and answers."""

    dataset: str = ""
    split: str = "train"
    prompt_feature: str | None = None
    answer_feature: str | None = None


def _jsonl(config: DataConfig) -> PromptsConfig:
    sizes = _sizes(config, ("train", "validation", "test"))
    return PromptsConfig(config.prompts or "", seed=config.seed, **sizes)


def _tfds(config: DataConfig) -> TFDSConfig:
    dataset, split = tfds_prompts.parse(config.prompts or "")
    features = {name: getattr(config, name) for name in ("prompt_feature", "answer_feature")}
    sizes = _sizes(config, ("train", "validation", "test"))
    return TFDSConfig(
        config.prompts or "", seed=config.seed, dataset=dataset, split=split, **features, **sizes
    )


def _jsonl_splits(config: PromptsConfig) -> Splits:
    return _held_out(config, jsonl.read_prompts(Path(config.prompts)))


def _tfds_splits(config: TFDSConfig) -> Splits:
    features = config.prompt_feature, config.answer_feature
    return _held_out(config, tfds_prompts.read(config.dataset, config.split, *features))


def _held_out(config: PromptsConfig, examples: Sequence[Example]) -> Splits:
    """Train, validation and test, no prompt in two of them."""
    distinct = {example.prompt for example in examples}
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


@dataclasses.dataclass(frozen=True)
class Source:
    """One task: its own config, its splits, the files they come from, how it is prepared."""

    config: Callable[[DataConfig], Any]
    splits: Callable[[Any], Splits]
    files: Callable[[DataConfig], list[Path]]
    builder: Callable[[Any, Path], ExampleBuilder] | None  # None: read from its file every time
    verifier: str


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "arithmetic": Source(
            _arithmetic, arithmetic.splits, lambda c: [], arithmetic.Arithmetic, "exact"
        ),
        "gsm8k": Source(
            _gsm8k,
            gsm8k.splits,
            lambda c: [Path(c.path or "") / name for name in gsm8k.FILES],
            gsm8k.GSM8K,
            "final_answer",
        ),
        "jsonl": Source(_jsonl, _jsonl_splits, lambda c: [Path(c.prompts or "")], None, "exact"),
        "tfds": Source(
            _tfds,
            _tfds_splits,
            lambda c: tfds_prompts.files(*tfds_prompts.parse(c.prompts or "")),
            None,
            "exact",
        ),
    }
)


def _tokenizer(config: DataConfig, splits: Splits) -> Tokenizer:
    """The configured tokenizer; a BPE sees the training split alone."""
    if config.from_folder is not None:
        return hub_tokenizer.load(config.from_folder, config.chat)
    if config.tokenizer in (None, "byte"):
        return ByteTokenizer()
    if config.tokenizer == "char":
        return CharTokenizer(config.alphabet or arithmetic.ALPHABET)
    train = splits["train"]
    texts = (example.prompt + (example.solution or "") for example in train)
    return train_bpe(texts, config.bpe_size)


# --- prepared data ---------------------------------------------------------------------------


def _origin(config: DataConfig) -> dict[str, Any]:
    """All that the prepared data depends on: sources by content, not by place."""
    source = SOURCES[config.kind]
    tokenizer: dict[str, Any] = {"tokenizer": config.tokenizer or "byte"}
    if config.from_folder is not None:
        found = hub_tokenizer.load(config.from_folder, config.chat)
        tokenizer = {"tokenizer": found.fingerprint(), "chat": dataclasses.asdict(config.chat)}
    if config.tokenizer == "bpe":
        tokenizer["bpe_size"] = config.bpe_size
    files = {}
    for path in source.files(config):
        try:
            files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    keys = _keys(dataclasses.asdict(source.config(config)))
    return {"format": FORMAT, "task": config.kind, **keys, **tokenizer, "files": files}


def _keys(own: Mapping[str, Any]) -> dict[str, Any]:
    """A task's own config without the places of its sources."""
    return {name: value for name, value in own.items() if name not in ("path", "prompts")}


def _name(origin: Mapping[str, Any]) -> str:
    """What prepared data of this origin is called."""
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return f"{origin['task']}-{digest[:12]}"


def _read_prepared(config: DataConfig, where: Path) -> tuple[Splits, Tokenizer]:
    source = SOURCES[config.kind]
    own = source.config(config)
    splits = read(source.builder(own, where)) if source.builder else source.splits(own)
    if config.tokenizer == "bpe":
        return splits, BPETokenizer.load(where / "tokenizer.json")
    return splits, _tokenizer(config, splits)


def _prepare(config: DataConfig, tokenizer: Tokenizer, where: Path, origin: Mapping) -> None:
    """Writes a folder beside `where`, complete, and only then gives it its name."""
    where.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=where.parent))
    try:
        source = SOURCES[config.kind]
        if source.builder:
            write(source.builder(source.config(config), staging))
        if isinstance(tokenizer, BPETokenizer):
            tokenizer.save(staging / "tokenizer.json")
        (staging / "config.json").write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n")
        staging.chmod(0o755)
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
        source = SOURCES[config.kind]
        splits = source.splits(source.config(config))
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
    source = SOURCES[task.config.kind]
    defaults = _keys(fields.defaults(type(source.config(task.config))))
    for where in sorted((Path(workdir) / "data").glob(f"{task.config.kind}-*")):
        try:
            origin = json.loads((where / "config.json").read_text())
        except (OSError, ValueError):
            continue
        if defaults | origin == json.loads(json.dumps(task.origin)):
            return dataclasses.replace(task, where=where, identity=where.name)
    return task


def _task(config: DataConfig, splits: Splits, tokenizer: Tokenizer) -> Task:
    lengths = {
        n: [len(tokenizer.encode_prompt(e.asked)) for e in split] for n, split in splits.items()
    }
    max_prompt = config.max_prompt or max(max(split) for split in lengths.values())
    kept, skipped = {}, {}
    for name, split in splits.items():
        fits = [length <= max_prompt for length in lengths[name]]
        if config.long_prompts == "error" and not all(fits):
            at = fits.index(False)
            raise ValueError(
                f"data.max_prompt = {max_prompt}: prompt {at} of {name} has {lengths[name][at]} "
                f"tokens ({split[at].prompt[:40]!r}); allowed are at most {max_prompt}, or "
                "data.long_prompts = 'skip'"
            )
        kept[name] = tuple(e for e, fit in zip(split, fits, strict=True) if fit)
        skipped[name] = fits.count(False)
        if not kept[name]:
            shortest = min(lengths[name])
            raise ValueError(
                f"data.max_prompt = {max_prompt}: no prompt of {name} fits, the shortest has "
                f"{shortest} tokens"
            )
    everything = [example for split in kept.values() for example in split]
    graded = all(example.answer is not None for example in everything)
    longest = _longest_solution(tokenizer, everything)  # even where it isn't needed: all are read
    if config.max_completion is None and longest is None:
        raise ValueError("data.max_completion = None: needs a number of tokens, 1 or more, here")
    return Task(
        config=config,
        tokenizer=tokenizer,
        verifier=named(config.verifier or SOURCES[config.kind].verifier) if graded else None,
        splits=MappingProxyType(kept),
        max_prompt=max_prompt,
        max_completion=config.max_completion or longest,
        skipped=MappingProxyType(skipped),
    )


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
                raise ValueError(f"answer to {example.prompt[:40]!r}: {error}") from None
            longest = max(longest or 0, length)
    return longest


def first_prompt(task: Task) -> str | None:
    """What the model gets to read of the first training prompt, cut, where a folder writes it."""
    if not isinstance(task.tokenizer, hub_tokenizer.HubTokenizer):
        return None
    return repr(task.tokenizer.rendered(task.split("train")[0].asked))[:400]


# --- batches ---------------------------------------------------------------------------------

Batch = dict[str, Any]


def encode_prompts(task: Task, examples: Sequence[Example]) -> Batch:
    """A fixed list of examples as arrays.

    Returns:
        `prompt` [N, P] int32, left-padded with pad; `prompt_mask` [N, P] bool, false on padding;
        `index` [N] int32, the place in the list; `texts` and `answers`, lists of N strings, the
        prompts as they are written and the final answers ("" for none).

    Raises:
        ValueError: a prompt of more than P tokens.
    """
    count, width = len(examples), task.max_prompt
    prompt = np.full((count, width), task.tokenizer.pad_id, np.int32)
    mask = np.zeros((count, width), bool)
    for row, example in enumerate(examples):
        ids = task.tokenizer.encode_prompt(example.asked)
        if not 0 < len(ids) <= width:
            raise ValueError(
                f"prompt {row} has {len(ids)} tokens ({example.prompt[:40]!r}): allowed are 1 to "
                f"{width} (data.max_prompt)"
            )
        prompt[row, width - len(ids) :] = ids
        mask[row, width - len(ids) :] = True
    return {
        "prompt": prompt,
        "prompt_mask": mask,
        "index": np.arange(count, dtype=np.int32),
        "texts": [example.prompt for example in examples],
        "answers": [example.answer or "" for example in examples],
    }


def encode_solutions(task: Task, examples: Sequence[Example]) -> Batch:
    """The examples' solutions, each followed by EOS, as completions.

    Returns:
        `tokens` [N, T] int32, right-padded with pad; `mask` [N, T] bool, EOS graded and nothing
        after; `ended` [N] bool, false where solution and EOS don't fit and were cut at T.

    Raises:
        ValueError: an example without a solution.
    """
    count, width = len(examples), task.max_completion
    tokens = np.full((count, width), task.tokenizer.pad_id, np.int32)
    mask = np.zeros((count, width), bool)
    ended = np.zeros(count, bool)
    for row, example in enumerate(examples):
        if example.solution is None:
            raise ValueError(f"prompt {example.prompt[:40]!r} has no solution to imitate")
        ids = [*task.tokenizer.encode(example.solution), task.tokenizer.eos_id]
        ended[row] = len(ids) <= width
        ids = ids[:width]
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return {"tokens": tokens, "mask": mask, "ended": ended}


def prompts(task: Task, split: str, seed: int, batch: int) -> grain.MapDataset[Batch]:
    """Batches of prompts without end: `dataset[n]` is step n's, a function of (seed, n) alone.

    Every epoch is a fresh permutation; a batch may span two. The batch is that of
    `encode_prompts`, with `index` the examples' places in the split.

    Raises:
        ValueError: no such split, or a batch of less than one.
    """
    return _batches(task, split, seed, batch, encode_prompts)


def demonstrations(task: Task, split: str, seed: int, batch: int) -> grain.MapDataset[Batch]:
    """Batches of prompts with their solutions: `prompts` and `encode_solutions` in one.

    The same (split, seed) gives the order of `prompts`.

    Raises:
        ValueError: no such split, a batch of less than one, or an example without a solution.
    """
    if any(example.solution is None for example in task.split(split)):
        raise ValueError(f"split {split!r} has prompts without an answer: nothing to imitate there")
    return _batches(task, split, seed, batch, _encode_both)


def _encode_both(task: Task, examples: Sequence[Example]) -> Batch:
    return encode_prompts(task, examples) | encode_solutions(task, examples)


def _batches(
    task: Task,
    split: str,
    seed: int,
    batch: int,
    encode: Callable[[Task, Sequence[Example]], Batch],
) -> grain.MapDataset[Batch]:
    examples = task.split(split)

    def collate(rows: Sequence[int]) -> Batch:
        encoded = encode(task, [examples[row] for row in rows])
        return encoded | {"index": np.asarray(rows, np.int32)}

    return endless(len(examples), split, seed, batch, collate)


def endless(
    count: int, name: str, seed: int, batch: int, collate: Callable[[Sequence[int]], Batch]
) -> grain.MapDataset[Batch]:
    """Batches of `count` rows without end: `dataset[n]` is a function of (name, seed, n) alone.

    Every epoch is a fresh permutation; a batch may span two.

    Raises:
        ValueError: a batch of less than one.
    """
    _integer("batch", batch, 1)
    rows = grain.MapDataset.range(count).shuffle(seed=_shuffle_seed(name, seed)).repeat()
    return rows.batch(batch, batch_fn=collate)


def _shuffle_seed(split: str, seed: int) -> int:
    """grain adds the epoch to its seed: hashed, or seed s + 1 would replay s one epoch later."""
    return int.from_bytes(hashlib.sha256(f"{split}\0{seed}".encode()).digest()[:4], "big")


# --- completions -----------------------------------------------------------------------------


def decode_completion(task: Task, tokens: np.ndarray, mask: np.ndarray) -> str:
    """The text of one completion: tokens [T] int32, mask [T] bool; EOS and padding are dropped."""
    return task.tokenizer.decode(np.asarray(tokens)[np.asarray(mask)].tolist())


def verify(task: Task, tokens: np.ndarray, mask: np.ndarray, answers: Sequence[str]) -> np.ndarray:
    """Rewards, float32 [B], of completions: tokens [B, T] int32, mask [B, T] bool, B answers.

    A completion that doesn't end in EOS earns 0: cut at T, it has no final answer yet.

    Raises:
        ValueError: the task has no verifier.
    """
    if task.verifier is None:
        raise ValueError(f"{task.config.prompts}: not every line has an answer, nothing to verify")
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    assert tokens.shape == mask.shape and len(tokens) == len(answers), (tokens.shape, mask.shape)
    ended = np.any(mask & np.isin(tokens, task.tokenizer.eos_ids), axis=1)
    rewards = [
        task.verifier(decode_completion(task, row, graded), answer) if end else 0.0
        for row, graded, end, answer in zip(tokens, mask, ended, answers, strict=True)
    ]
    return np.asarray(rewards, np.float32)

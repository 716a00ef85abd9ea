"""From a task to arrays and back: prompts, demonstrations, completions and their rewards.

The room's front door: what a config and a task are comes with it. N examples, P prompt length, B
rollouts, T completion length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from opd.data import verifiers
from opd.data.builder import Example
from opd.data.config import DataConfig, integer
from opd.data.conversation import Conversation
from opd.data.loading import (
    Task,
    dated,
    first_prompt,
    first_prompts,
    keep,
    load,
    recognised,
    refuse_rowless,
    remarks,
    taught,
    tell,
)

__all__ = [
    "DataConfig",
    "Example",
    "Task",
    "dated",
    "decode_completion",
    "demonstrations",
    "encode_prompts",
    "encode_solutions",
    "endless",
    "first_prompt",
    "first_prompts",
    "keep",
    "load",
    "prompts",
    "recognised",
    "refuse_rowless",
    "remarks",
    "taught",
    "tell",
    "verify",
]

# --- batches ---------------------------------------------------------------------------------

Batch = dict[str, Any]


def encode_prompts(task: Task, examples: Sequence[Example]) -> Batch:
    """A fixed list of examples as arrays.

    Returns:
        `prompt` [N, P] int32, left-padded with pad; `prompt_mask` [N, P] bool, false on padding;
        `index` [N] int32, the place in the list; `texts` and `answers`, lists of N strings, the
        prompts as they are written and the final answers ("" for none). Where the teacher reads
        others, `told` and `told_mask` [N, P'] are these; `taught` [N, K] bool says which of several
        teachers it is.

    Raises:
        ValueError: a prompt of more than P tokens.
    """
    asked = [example.asked for example in examples]
    prompt, mask = _left_padded(task, examples, asked, task.max_prompt, "data.max_prompt")
    batch = {
        "prompt": prompt,
        "prompt_mask": mask,
        "index": np.arange(len(examples), dtype=np.int32),
        "texts": [example.prompt for example in examples],
        "answers": [example.answer or "" for example in examples],
    }
    if task.told is not None:
        asked = [task.told.asked(example) for example in examples]
        width = task.told.width
        both = _left_padded(task, examples, asked, width, "config.teacher.max_prompt")
        batch["told"], batch["told_mask"] = both
    if task.taught is not None:
        places = np.array([task.taught.place(example) for example in examples])
        batch["taught"] = places[:, None] == np.arange(len(task.taught.names))
    return batch


def _left_padded(
    task: Task,
    examples: Sequence[Example],
    asked: Sequence[str | Conversation],
    width: int,
    key: str,
) -> tuple[np.ndarray, np.ndarray]:
    """What is asked of each example as ids [N, width] int32, and their mask [N, width] bool."""
    ids = np.full((len(examples), width), task.tokenizer.pad_id, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, example in enumerate(examples):
        found = task.tokenizer.encode_prompt(asked[row])
        if not 0 < len(found) <= width:
            raise ValueError(
                f"prompt {row} has {len(found)} tokens ({example.prompt[:40]!r}): allowed are 1 to "
                f"{width} ({key})"
            )
        ids[row, width - len(found) :] = found
        mask[row, width - len(found) :] = True
    return ids, mask


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
    integer("batch", batch, 1)
    rows = grain.MapDataset.range(count).shuffle(seed=_shuffle_seed(name, seed)).repeat()
    return rows.batch(batch, batch_fn=collate)


def _shuffle_seed(split: str, seed: int) -> int:
    """grain adds the epoch to its seed: hashed, or seed s + 1 would replay s one epoch later.

    Its seeds have 32 bits.
    """
    return int.from_bytes(hashlib.sha256(f"{split}\0{seed}".encode()).digest()[:4], "big")


# --- completions -----------------------------------------------------------------------------


def decode_completion(task: Task, tokens: np.ndarray, mask: np.ndarray) -> str:
    """The text of one completion: tokens [T] int32, mask [T] bool; EOS and padding are dropped."""
    return task.tokenizer.decode(np.asarray(tokens)[np.asarray(mask)].tolist())


def verify(
    task: Task,
    tokens: np.ndarray,
    mask: np.ndarray,
    answers: Sequence[str],
    texts: Sequence[str] | None = None,
) -> np.ndarray:
    """Rewards, float32 [B], of completions: tokens [B, T] int32, mask [B, T] bool, B answers.

    A completion that doesn't end in EOS earns 0: cut at T, it has no final answer yet. `texts` are
    the B prompts, where a message can name them.

    Raises:
        ValueError: the task has no verifier.
        RewardError: the verifier raised, or returned something other than a finite number.
    """
    if task.verifier is None:
        raise ValueError(f"{task.config.prompts}: not every line has an answer, nothing to verify")
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    assert tokens.shape == mask.shape and len(tokens) == len(answers), (tokens.shape, mask.shape)
    ended = np.any(mask & np.isin(tokens, task.tokenizer.eos_ids), axis=1)
    name = task.config.verifier or task.config.task
    rewards = np.zeros(len(answers), np.float32)
    for row, end in enumerate(ended):
        if end:
            completion = decode_completion(task, tokens[row], mask[row])
            prompt = None if texts is None else texts[row]
            rewards[row] = verifiers.grade(name, task.verifier, prompt, completion, answers[row])
    return rewards

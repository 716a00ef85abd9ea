"""Preference pairs: a prompt and two completions of which one is preferred, read and encoded.

N pairs, P prompt length, T completion length.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import grain
import numpy as np

from opd.data import jsonl, loading, pipeline
from opd.data.builder import Example, hold_out
from opd.data.conversation import unread
from opd.data.pipeline import Batch, Task

FIELDS = ("prompt", "chosen", "rejected")


@dataclasses.dataclass(frozen=True)
class Pair:
    """One preference; a completion may be empty, which is EOS alone."""

    prompt: str
    chosen: str
    rejected: str


def read(path: Path, task: Task) -> tuple[Pair, ...]:
    """The pairs of a file, one object a line: `prompt`, `chosen`, `rejected`.

    Raises:
        ValueError: a malformed line or one that says more, a text that the task can't encode, or
            two completions that are one; by file and line.
    """
    pairs = []
    for where, line in jsonl.read_objects(path):
        unread(where, line, FIELDS)
        prompt = jsonl.text_field(where, line, "prompt")
        completions = (jsonl.text_field(where, line, name, empty=True) for name in FIELDS[1:])
        pair = Pair(prompt, *completions)
        try:
            loading.refuse_lost(task.tokenizer, prompt)
            encode(task, [pair])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        pairs.append(pair)
    return tuple(pairs)


def text(pairs: Sequence[Pair]) -> str:
    """What `read` reads."""
    lines = (json.dumps(dataclasses.asdict(pair), ensure_ascii=False) for pair in pairs)
    return "".join(line + "\n" for line in lines)


def split(pairs: Sequence[Pair], seed: int) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Training and held-out pairs, no prompt in both: a tenth of the prompts, two at least.

    Raises:
        ValueError: fewer than three distinct prompts.
    """
    prompts = {pair.prompt for pair in pairs}
    if len(prompts) < 3:  # two are held out, the fewest that an interval can be over
        raise ValueError(f"pairs of {len(prompts)} distinct prompts: allowed are 3 or more")
    apart = hold_out(prompts, max(2, len(prompts) // 10), seed)
    return (
        tuple(pair for pair in pairs if pair.prompt not in apart),
        tuple(pair for pair in pairs if pair.prompt in apart),
    )


def encode(task: Task, pairs: Sequence[Pair]) -> Batch:
    """Pairs as arrays.

    Returns:
        `prompt` and `prompt_mask` [N, P], as `encode_prompts` has them; `tokens` [N, 2, T] int32
        and `mask` [N, 2, T] bool, chosen and rejected, right-padded. A completion ends in EOS
        unless its tokens fill T: so does one that was cut there.

    Raises:
        ValueError: a prompt of more than P tokens, a completion of more than T, or one that was
            preferred to itself.
    """
    prompts = pipeline.encode_prompts(task, [Example(pair.prompt) for pair in pairs])
    sides = []
    for name in FIELDS[1:]:
        texts = [getattr(pair, name) for pair in pairs]
        for completion in texts:
            length = len(task.tokenizer.encode(completion))
            if length > task.max_completion:
                raise ValueError(
                    f"{name} has {length} tokens ({completion[:40]!r}): allowed are at most "
                    f"{task.max_completion} (data.max_completion)"
                )
        sides.append(pipeline.encode_solutions(task, [Example("", each) for each in texts]))
    both = {key: np.stack([side[key] for side in sides], axis=1) for key in ("tokens", "mask")}
    same = np.all(both["tokens"][:, 0] == both["tokens"][:, 1], axis=1)
    if np.any(same):
        at = pairs[int(np.argmax(same))]
        raise ValueError(f"chosen and rejected are the same ({at.chosen[:40]!r})")
    return {key: prompts[key] for key in ("prompt", "prompt_mask")} | both


def batches(task: Task, pairs: Sequence[Pair], seed: int, batch: int) -> grain.MapDataset[Batch]:
    """Batches without end: `dataset[n]` is step n's, a function of (seed, n) alone.

    Every epoch is a fresh permutation; a batch may span two.
    """

    def collate(rows: Sequence[int]) -> Batch:
        return encode(task, [pairs[row] for row in rows])

    return pipeline.endless(len(pairs), "pairs", seed, batch, collate)

"""A Hugging Face folder scored on a task: accuracy sampled and greedy, length."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from opd import disk
from opd.data import pipeline, tfds_prompts
from opd.data.chat import PLAIN, ChatConfig
from opd.data.config import keys
from opd.data.pipeline import DataConfig, Example
from opd.data.tasks import TASKS
from opd.engine import backend, sharding
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.model.decoder import Decoder
from opd.run import drawing
from opd.run.drawing import Player, World
from opd.run.players import hub, players
from opd.run.probe import evaluate
from opd.run.store import progress


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be scored, on what, and how completions are drawn."""

    path: Path
    task: str  # as `spelled` has them
    split: str | None = None  # None: test, or a dataset's train
    prompts: int | None = None  # at most; None: all
    length: int = 256  # tokens of a completion at most: a worked sum of grade school, mostly
    verifier: str | None = None  # None: the task's own
    temperature: float = 1.0
    chat: ChatConfig = PLAIN
    dtype: str | None = None  # None: the checkpoint's
    seed: int = 0
    batch: int = 64  # prompts at once, by hand; figures don't depend on it but by rounding


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a score takes, found right before anything is compiled."""

    asked: Asked
    world: World
    folder: hub.Folder
    examples: tuple[Example, ...]


def spelled() -> str:
    """What `Asked.task` may be: a list of prompts by its place, the others by name."""
    named = [
        f"{name}:DIR" if "path" in keys(source) else name
        for name, source in TASKS.items()
        if "prompts" not in keys(source)
    ]
    named.sort(key=lambda text: ":" not in text)
    return ", ".join(("FILE.jsonl", f"{tfds_prompts.PREFIX}NAME", *named))


def data(asked: Asked) -> tuple[DataConfig, str]:
    """The task as the pipeline has it, and the split of it; a list of prompts counts whole.

    Raises:
        ValueError: no such task, or a split where there is none to choose.
    """
    common: dict[str, Any] = {
        "tokenizer": str(asked.path),
        "chat": asked.chat,
        "max_completion": asked.length,
        "verifier": asked.verifier,
    }
    name, whole = asked.task, {"validation": 0, "test": 0}
    if name.startswith(tfds_prompts.PREFIX):
        prompts = name if asked.split is None else f"{name}:{asked.split}"
        return DataConfig(prompts=prompts, **whole, **common), "train"
    task, colon, path = name.partition(":")
    if task in TASKS:
        place = {"path": path} if colon else {}
        return DataConfig(task=task, **place, **common), asked.split or "test"
    if name.endswith(".jsonl"):
        if asked.split is not None:
            raise ValueError(f"--split={asked.split}: {name} has none, all its lines are scored")
        return DataConfig(prompts=name, **whole, **common), "train"
    raise ValueError(f"--task={name}: allowed are {spelled()}")


def check(asked: Asked) -> Plan:
    """All that can be wrong, said before anything is compiled.

    Raises:
        ValueError: what is wrong with the folder, its tokenizer, the task or its split.
    """
    if not asked.temperature > 0:
        raise ValueError(
            f"--temperature={asked.temperature}: allowed is more than 0; the arg max is scored too"
        )
    try:
        hub.refuse_no_checkpoint(asked.path)
    except ValueError as error:
        raise ValueError(f"--path: {error}") from None
    config, split = data(asked)
    task = pipeline.load(config)
    if split not in task.splits:
        raise ValueError(f"--split={split}: allowed are {', '.join(task.splits)}")
    examples = task.split(split)[: asked.prompts]
    if len(examples) < 2:
        raise ValueError(f"--task={asked.task}: has 1 prompt to score, an interval needs 2 or more")
    if task.verifier is None:
        raise ValueError(f"--task={asked.task}: not every prompt has an answer, nothing to score")
    folder = players.looked_at(asked.path, asked.dtype, task)
    task = players.within(task, Decoder(folder.config).tokens)
    backend.check()
    tokenizer = task.tokenizer
    world = World(
        mesh=sharding.make_mesh(),
        task=task,
        sampling=Sampling(
            task.max_completion, tokenizer.eos_ids, tokenizer.pad_id, asked.temperature
        ),
        scoring=Pass(asked.temperature),
        group_size=1,
        seed=asked.seed,
    )
    return Plan(asked, world, folder, examples)


def score(plan: Plan) -> dict[str, Any]:
    """The figures with their 95 % intervals over prompts; batches draw from keys of their own."""
    world = plan.world
    for remark in pipeline.remarks(world.task):
        print(remark, file=sys.stderr)
    player = Player(Decoder(plan.folder.config), hub.load(plan.folder, world.mesh))
    greedy = dataclasses.replace(world.sampling, temperature=0.0)
    drawn, best = [], []
    with progress.progress("score", len(plan.examples)) as advance:
        for number, start in enumerate(range(0, len(plan.examples), plan.asked.batch)):
            part = plan.examples[start : start + plan.asked.batch]
            batch = pipeline.encode_prompts(world.task, part)
            rows = (world, player, batch, drawing.EVALUATION_STEP - number, world.seed, 1)
            drawn.append(drawing.draw(*rows))
            best.append(drawing.draw(*rows, greedy))
            advance(len(part))
    return {"prompts": len(plan.examples)} | disk.strict(evaluate.figures(drawn, best))

"""A reward model's training: preference pairs, given or made, and the learner that takes them.

A workdir has the pairs that a run made for itself in pairs.jsonl, and models/reward describes the
decoder and its tokenizer, by which `--config.reward.from=` knows such a training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from opd import disk, processes
from opd.data import pipeline, preferences
from opd.data.functions import RewardError
from opd.data.pipeline import Batch, Example, Task
from opd.data.preferences import Pair
from opd.engine import optimizer, preference, programs, sharding
from opd.engine.optimizer import Optimizer
from opd.engine.preference import Pairs
from opd.engine.steps import State
from opd.measure import intervals
from opd.measure.intervals import Interval
from opd.model.scalar import Scalar
from opd.run import drawing
from opd.run.drawing import Player, World
from opd.run.players import folder
from opd.run.settings.config import Config
from opd.run.store import progress
from opd.types import Params

# Completions of pairs are drawn from keys of their own, beside evaluate's and the probe's.
PAIRS_STEP = 2**29


@dataclasses.dataclass(frozen=True, eq=False)
class Preferences:
    """All that an update of a reward model needs besides the state: the same throughout a run."""

    world: World
    model: Scalar
    body: Params  # of the student's start
    optimizer: Optimizer
    batches: Sequence[Batch]
    held_out: tuple[Pair, ...]
    parts: int = 1
    name: ClassVar[str] = "reward model"

    def start(self) -> State:
        """The student's body and a head of zeros, before the first update."""
        params = self.model.upon(self.body)
        return programs.start(self.world.mesh, self.model, self.optimizer, params)

    def advance(
        self, state: State, memory: dict[str, Any], number: int
    ) -> tuple[State, dict[str, Any], dict[str, np.ndarray]]:
        """Update `number`, from 0, on its own batch of pairs. The state is consumed."""
        pairs = self._laid(self.batches[number])
        state, metrics = programs.prefer(
            self.world.mesh, self.model, self.optimizer, state, pairs, self.parts
        )
        values = processes.on_host({name: each.value() for name, each in metrics.items()})
        return state, memory, values

    def params(self, state: State) -> Params:
        """What evaluation, digest and export take."""
        return optimizer.evaluated(self.model, state.params, state.optimizer)

    def judge(self, state: State, samples: int) -> tuple[dict[str, Interval], list[dict[str, Any]]]:
        """Loss (nats), accuracy and margin on held-out pairs, and some of these.

        Prompts are the units of independence: each brings the sum over its pairs.
        """
        pairs = self._laid(preferences.encode(self.world.task, self.held_out))
        scores = programs.preferred(self.world.mesh, self.model, self.params(state), pairs)
        _, unit = np.unique([pair.prompt for pair in self.held_out], return_inverse=True)
        counts = np.bincount(unit)
        figures = {
            name: intervals.mean_interval(np.bincount(unit, each), counts)
            for name, each in processes.on_host(preference.figures(scores)).items()
        }
        shown = [
            {
                "prompt": pair.prompt,
                "completion": pair.chosen,
                "reward": float(chosen),
                "rejected": pair.rejected,
                "reward_rejected": float(rejected),
            }
            for pair, (chosen, rejected) in zip(self.held_out[:samples], processes.on_host(scores))
        ]
        return figures, shown

    def merit(self, figures: Mapping[str, Interval]) -> float:
        """The held-out log-likelihood of a preference, nats: more is better."""
        return -float(figures["loss"].value)

    def _laid(self, batch: Batch) -> Pairs:
        return sharding.shard_batch(Pairs(**batch), self.world.mesh)


def check(config: Config, task: Task) -> None:
    """Refuses what no reward model can be trained on.

    Raises:
        ValueError: a file of pairs that can't be read or has too few, no verifier to make pairs
            by, or parts that don't divide a batch.
    """
    if config.prompts % config.optimizer.microbatches:
        raise ValueError(
            f"config.optimizer.microbatches = {config.optimizer.microbatches}: allowed is a "
            f"divisor of the {config.prompts} pairs of an update (config.prompts)"
        )
    if config.reward.pairs is not None:
        _read(config.reward.pairs, task)
    elif any(example.conversation is not None for example in task.split("train")):
        raise ValueError(
            "config.trains = 'reward': the data have prompts with 'messages', and pairs are made "
            "of 'prompt' alone: give config.reward.pairs"
        )
    elif task.verifier is None:
        raise ValueError(
            "config.trains = 'reward': the data have prompts without an answer, and no pairs can "
            "be made of them: give config.reward.pairs"
        )


def prepare(config: Config, workdir: Path, world: World, student: Player) -> Preferences:
    """Pairs, and the reward model that starts from the student's start: one pair a prompt.

    Raises:
        RewardError: too few pairs could be made.
    """
    task = world.task
    folder.describe(workdir / "models" / "reward", student.model, {"start": "student"}, task)
    if config.reward.pairs is not None:
        train, held_out = _read(config.reward.pairs, task)
    else:
        pairs = _made_once(config, workdir / "pairs.jsonl", world, student)
        train, held_out = preferences.split(pairs, task.config.seed)
    prompts = list(dict.fromkeys(pair.prompt for pair in held_out))[: config.evaluate.prompts]
    return Preferences(
        world,
        Scalar(student.model),
        student.params,
        optimizer.Optimizer(config.optimizer, config.optimizer.learning_rate),
        preferences.batches(task, train, config.seed, config.prompts),
        tuple(pair for pair in held_out if pair.prompt in prompts),
        config.optimizer.microbatches,
    )


def _read(file: str, task: Task) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """A file's pairs, for training and held out."""
    pairs = preferences.read(Path(file), task)
    try:
        return preferences.split(pairs, task.config.seed)
    except ValueError as error:
        raise ValueError(f"config.reward.pairs = {file}: {error}") from None


def _made_once(config: Config, file: Path, world: World, student: Player) -> tuple[Pair, ...]:
    """The pairs that a start before this one made, or new ones."""
    if not processes.told(file.exists()):
        pairs = tuple(made(config, world, student))
        if len({pair.prompt for pair in pairs}) < 3:  # one to train on and two held out
            raise RewardError(
                f"{len(pairs)} pairs could be made of {config.dataset.groups} prompts' "
                f"completions, needed are 3: raise config.dataset.groups or config.group_size, or "
                "give config.reward.pairs"
            )
        disk.replace_file(file, preferences.text(pairs).encode())
        processes.barrier()
    return preferences.read(file, world.task)


def made(config: Config, world: World, student: Player) -> Iterator[Pair]:
    """Pairs of completions that the student draws for training prompts, by the verifier.

    Of `dataset.groups` prompts, each with a right and a wrong one of its G completions, or with
    its solution in place of the right one. A prompt without a wrong completion has no pair.
    """
    task = world.task
    examples = task.split("train")
    count = min(config.dataset.groups, len(examples))
    batches = pipeline.prompts(task, "train", world.seed, config.prompts)
    with progress.progress("draw pairs", math.ceil(count / config.prompts)) as advance:
        for number in range(math.ceil(count / config.prompts)):
            batch = batches[number]
            drawn = drawing.draw(
                world, student, batch, PAIRS_STEP + number, world.seed, world.group_size
            )
            parts = processes.on_host((drawn.tokens, drawn.mask, drawn.reward))
            rows = [part.reshape(-1, world.group_size, *part.shape[1:]) for part in parts]
            left = count - number * config.prompts  # the last batch has more than are asked for
            for index, *group in list(zip(batch["index"], *rows))[:left]:
                pair = _pair(task, examples[index], *group)
                if pair is not None:
                    yield pair
            advance()


def _pair(
    task: Task, example: Example, tokens: np.ndarray, mask: np.ndarray, reward: np.ndarray
) -> Pair | None:
    """A prompt's pair of G completions, tokens and mask [G, T], reward [G]; None if there is none.

    Completions whose text doesn't give back their tokens are left out.
    """
    right, wrong = [], []
    for row, graded, earned in zip(tokens, mask, reward):
        text = pipeline.decode_completion(task, row, graded)
        if _is_encoded(task, text, row, graded):
            (right if earned > 0 else wrong).append(text)
    chosen = right[0] if right else example.solution
    if not wrong or chosen is None:
        return None
    pair = Pair(example.prompt, chosen, wrong[0])
    try:
        preferences.encode(task, [pair])
    except ValueError:  # a solution that doesn't fit, or that a cut completion begins as
        return None
    return pair


def _is_encoded(task: Task, text: str, tokens: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a completion's tokens [T] are those of the text."""
    try:
        again = pipeline.encode_solutions(task, [Example("", text)])
    except ValueError:  # a character that no text of the data has
        return False
    same = np.array_equal(again["mask"][0], mask)
    return same and np.array_equal(again["tokens"][0][mask], tokens[mask])

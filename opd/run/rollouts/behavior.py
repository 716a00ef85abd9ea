"""Whose rollouts a training takes an update on: the student's, the teacher's, given, kept or mixed.

A draw is a function of (seed, number), the parameters and the memory: a resumed run draws the very
same. `number` counts batches of prompts, so that a draw which takes several moves it on by as many.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opd import disk, draws, processes
from opd.data import pipeline
from opd.data.pipeline import Batch, Task
from opd.engine import sharding
from opd.engine.steps import Sampling
from opd.fields import setting
from opd.method.axes import Term
from opd.method.table import Method
from opd.run import drawing
from opd.run.drawing import Grader, Player, World
from opd.run.players.fit import demonstration
from opd.run.players.players import TeacherConfig
from opd.run.rollouts import grouped
from opd.run.rollouts.grouped import Groups
from opd.run.rollouts.rewards import RewardConfig
from opd.run.store import checkpoint
from opd.types import Model, Params, Rollout

# Host state that a checkpoint keeps as it is; {} where there is none. Arrays may grow.
Memory = dict[str, np.ndarray]

FOREIGN = -1  # version of a row that the student didn't draw
GIVEN = TeacherConfig()


@dataclasses.dataclass(frozen=True)
class BufferConfig:
    """What a training with behavior=buffer keeps of its earlier rollouts."""

    # Prompt groups; a random one leaves where there is no room.
    size: int = setting(1024, at_least=1)
    age: int = setting(0, at_least=0)  # batches of rollouts after which a group leaves; 0: never


# What a dataset can be made of.
SOURCES = ("solutions", "student", "teacher")


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """What a training with behavior=dataset trains on."""

    # None: solutions, or for a row that weighs rewards or ratios the student's rollouts: drawn
    # once, at the start, and kept.
    source: str | None = setting(None, choices=SOURCES)
    # Prompt groups of such a set, and of pairs that a run makes for itself.
    groups: int = setting(64, at_least=1)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One draw: what an update is taken on, and what it took to have it."""

    rollout: Rollout  # prompts * G rows on the mesh
    memory: Memory
    batches: int  # batches of prompts consumed: the next draw's number is number + batches
    generated: int  # sequences taken from the behavior, redraws and all
    figures: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Where a training's rollouts come from: the same throughout a run."""

    world: World
    student: Model
    teacher: Player | None
    method: Method
    groups: int  # prompt groups of a draw
    buffer: BufferConfig
    dataset: DatasetConfig
    reward: RewardConfig
    seed: int
    grade: Grader
    sampling: Sampling  # how rollouts are drawn, whoever draws them
    start: Params | None  # the student's at update 0, for a logged dataset
    workdir: Path | None

    def draw(self, params: Params, number: int, version: int, memory: Memory) -> Drawn:
        """prompts * G rollouts of the method's behavior, graded, their versions filled in.

        `version` is the number of updates that `params` have had. Figures, where they apply:
        `degenerate`, the share of groups whose rewards are all equal; `redrawn`, groups that took
        such a one's place; `student_share`, of the rows; `buffered`, groups kept; `age` of the
        groups taken from them, batches.
        """
        behavior = BEHAVIORS[self.method.behavior]
        redraws = self.method.origin.redraws
        if redraws:
            drawn = _redraw(self, behavior, redraws, params, number, version)
        else:
            drawn = behavior(self, params, number, version, memory)
        figures = drawn.figures | _figures(self.method, drawn.rollout)
        rollout = sharding.shard_batch(drawn.rollout, self.world.mesh)
        return dataclasses.replace(drawn, rollout=rollout, figures=figures)

    @functools.cached_property
    def prompts(self) -> Sequence[Batch]:
        """Batch `number` of prompts."""
        return pipeline.prompts(self.world.task, "train", self.seed, self.groups)

    @functools.cached_property
    def solved(self) -> Sequence[Batch]:
        """The same prompts with their solutions."""
        return pipeline.demonstrations(self.world.task, "train", self.seed, self.groups)

    @functools.cached_property
    def demonstrations(self) -> Sequence[Batch]:
        """As many solutions a batch as there would be rollouts, each of another prompt."""
        rows = self.groups * self.world.group_size
        return pipeline.demonstrations(self.world.task, "train", self.seed, rows)

    @functools.cached_property
    def logged(self) -> Groups:
        """The dataset of rollouts: drawn once, found again in the workdir."""
        return _logged(self)

    @functools.cached_property
    def places(self) -> Sequence[list[int]]:
        """Which groups of the dataset a batch has: a permutation an epoch."""
        count = len(self.logged["prompt"])
        return pipeline.endless(count, "dataset", self.seed, self.groups, list)


Behavior = Callable[[Source, Params, int, int, Memory], Drawn]


# --- what a method asks for, said before anything compiles ---------------------------------------


def dataset_source(method: Method, config: DatasetConfig) -> str:
    """What a dataset is made of: solutions, or rollouts of the student's start or the teacher.

    Unless said, the student's where a term weighs rewards or ratios: solutions are all right, and
    nobody knows their log-probabilities.
    """
    if config.source is not None:
        return config.source
    return "student" if any(map(_weighs, method.terms)) else "solutions"


def _weighs(term: Term) -> bool:
    return term.signal == "reward" or (term.importance, term.correction) != ("none", "none")


def needs_met(method: Method, config: DatasetConfig) -> frozenset[str]:
    """What a training has for its method's behavior: keys of facts.NEEDS."""
    met = {"dataset", "teacher_rollouts", "buffer"}
    if method.behavior == "dataset" and dataset_source(method, config) != "solutions":
        met.add("dataset_logp")
    return frozenset(met)


def draws_teacher(method: Method, config: DatasetConfig) -> bool:
    """Whether some of the rollouts are the teacher's."""
    whose = {"mixture": method.origin.other, "dataset": dataset_source(method, config)}
    return whose.get(method.behavior, method.behavior) == "teacher"


def check(
    method: Method,
    dataset: DatasetConfig,
    buffer: BufferConfig,
    prompts: int,
    task: Task,
    teacher: TeacherConfig = GIVEN,
) -> None:
    """Refuses a behavior that data or config can't give; `prompts` are those of an update.

    Raises:
        ValueError: prompts without the solutions that are asked for, a buffer that is smaller than
            a batch, a teacher that draws and moves, or one that is told another prompt where both
            draw one completion.
    """
    origin = method.origin
    if teacher.moves and draws_teacher(method, dataset):
        raise ValueError(
            f"config.teacher.source = {teacher.source!r}: {method.name} draws from the teacher "
            f"(behavior={method.behavior}), allowed are given and start, which stay who they are"
        )
    if teacher.served.url is not None and draws_teacher(method, dataset):
        raise ValueError(
            f"{method.name}: draws from the teacher (behavior={method.behavior}), and a served one "
            "draws nothing here"
        )
    if task.taught is not None and draws_teacher(method, dataset):
        raise ValueError(
            f"{method.name}: draws from the teacher (behavior={method.behavior}), and there are "
            "several (config.teachers): allowed is one"
        )
    if task.told is not None and method.behavior == "mixture" and origin.level == "token":
        raise ValueError(
            f"{method.name}: level=token mixes two policies after one prompt, and teacher.prompt "
            "gives the teacher another: allowed are batch and sequence"
        )
    solved = method.behavior == "dataset" and dataset_source(method, dataset) == "solutions"
    mixed = method.behavior == "mixture" and origin.other == "dataset" and origin.share < 1
    if (solved or mixed) and any(each.solution is None for each in task.split("train")):
        raise ValueError(
            f"{method.name}: behavior={method.behavior} takes solutions, and the data have prompts "
            "without an answer"
        )
    if method.behavior == "buffer" and buffer.size < prompts:
        raise ValueError(
            f"config.buffer.size = {buffer.size}: allowed is config.prompts = {prompts} or more"
        )


# --- behaviors -----------------------------------------------------------------------------------


def student(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Completions of the current student."""
    batch = source.prompts[number]
    rollout = _completed(source, Player(source.student, params), batch, number)
    return _graded(source, rollout, batch, version)


def teacher(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Completions of the teacher."""
    batch = source.prompts[number]
    return _graded(source, _teachers(source, batch, number), batch, FOREIGN)


def dataset(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Given sequences: solutions, each a group of its own, or whole groups of logged rollouts."""
    if dataset_source(source.method, source.dataset) == "solutions":
        batch = source.demonstrations[number]
        rollout = sharding.shard_batch(demonstration(batch), source.world.mesh)
        return _graded(source, rollout, batch, FOREIGN, group_size=1)
    groups = {name: array[source.places[number]] for name, array in source.logged.items()}
    rollout = grouped.joined(groups)
    return Drawn(rollout, {}, 1, len(rollout.row), {})


def buffer(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Groups of all the student's rollouts so far (Ross et al. 2011, DAgger, algorithm 3.1).

    A fresh batch joins them; groups of more than `buffer.age` batches leave, and random ones where
    there are more than `buffer.size`.
    """
    size, oldest = source.buffer.size, source.buffer.age
    fresh = student(source, params, number, version, memory)
    groups = grouped.split(fresh.rollout, source.world.group_size)
    groups["born"] = np.full(source.groups, number, np.int32)
    if memory:
        groups = {name: np.concatenate([memory[name], new]) for name, new in groups.items()}
    age = number - groups["born"]
    stay = np.flatnonzero(age <= oldest) if oldest else np.arange(len(age))
    random = draws.generator(draws.key(source.seed, number, "buffer"))
    if len(stay) > size:
        stay = np.sort(random.choice(stay, size, replace=False))
    taken = random.choice(stay, source.groups, replace=False)
    rollout = grouped.joined(
        {name: array[taken] for name, array in groups.items() if name != "born"}
    )
    figures = {"buffered": float(len(stay)), "age": float(np.mean(age[taken]))}
    memory = {name: array[stay] for name, array in groups.items()}
    return dataclasses.replace(fresh, rollout=rollout, memory=memory, figures=figures)


def mixture(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """The student's with probability `share`, else the other's, on the same prompts.

    A coin a batch (Agarwal et al. 2024, GKD, algorithm 1), a sequence, or a token.
    """
    origin = source.method.origin
    if origin.level == "token":
        return _blended(source, params, number, origin.share)
    rows = source.groups * source.world.group_size
    coins = draws.generator(draws.key(source.seed, number, "mixture")).random(
        1 if origin.level == "batch" else rows
    )
    students = np.broadcast_to(coins < origin.share, rows)
    batch = source.prompts[number]
    drawn = []
    if students.any():
        drawn.append(_completed(source, Player(source.student, params), batch, number))
    if not students.all():
        others = {"teacher": _teachers, "dataset": _solutions}[origin.other]
        drawn.append(others(source, batch, number))
    rollout = drawn[0] if len(drawn) == 1 else _merged(students, *drawn)
    return _graded(source, rollout, batch, np.where(students, version, FOREIGN))


BEHAVIORS: dict[str, Behavior] = {
    "student": student,
    "teacher": teacher,
    "dataset": dataset,
    "buffer": buffer,
    "mixture": mixture,
}


def _blended(source: Source, params: Params, number: int, share: float) -> Drawn:
    """Each token from share * pi + (1 - share) * p: no row is the student's alone."""
    assert source.teacher is not None, f"{source.method.name} has no teacher"
    model, other = source.teacher
    batch = source.prompts[number]
    mixed = {"partner": model, "partner_params": other, "share": share}
    rollout = _completed(source, Player(source.student, params), batch, number, **mixed)
    return _graded(source, rollout, batch, FOREIGN)


def _completed(source: Source, player: Player, batch: Batch, number: int, **mixed: Any) -> Rollout:
    """G completions a prompt; `mixed` is what else `drawing.complete` takes."""
    key = draws.key(source.seed, number, "action")
    return drawing.complete(
        source.world, player, batch, key, source.world.group_size, source.sampling, **mixed
    )


def _teachers(source: Source, batch: Batch, number: int) -> Rollout:
    assert source.teacher is not None, f"{source.method.name} has no teacher"
    return _completed(source, source.teacher, batch, number, told=True)


def _solutions(source: Source, batch: Batch, number: int) -> Rollout:
    """The solutions of a batch's prompts, each G times."""
    groups = grouped.split(demonstration(source.solved[number]), 1)
    size = source.world.group_size
    return grouped.joined({name: np.repeat(array, size, axis=1) for name, array in groups.items()})


def _graded(
    source: Source,
    rollout: Rollout,
    batch: Batch,
    version: int | np.ndarray,
    group_size: int | None = None,
) -> Drawn:
    """A draw of one batch of prompts, without memory: rewards and versions are filled in."""
    rollout = sharding.shard_batch(rollout, source.world.mesh)
    rollout = source.grade(rollout, batch, group_size or source.world.group_size)
    rows = len(rollout.row)
    versions = jnp.asarray(np.broadcast_to(np.asarray(version, np.int32), rows))
    return Drawn(dataclasses.replace(rollout, version=versions), {}, 1, rows, {})


def _merged(where: np.ndarray, left: Rollout, right: Rollout) -> Rollout:
    """Row by row: left where it is true [B], else right."""

    def choose(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.where(where.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, *processes.on_host((left, right)))


# --- redraws ------------------------------------------------------------------------------------


def _redraw(
    source: Source,
    behavior: Behavior,
    most: int,
    params: Params,
    number: int,
    version: int,
) -> Drawn:
    """Groups of equal reward make room for later prompts' (Yu et al. 2025, DAPO, section 3.2).

    Until none is left, or `most` further batches of prompts were drawn.
    """
    drawn = [behavior(source, params, number, version, {})]
    groups = grouped.split(drawn[0].rollout, source.world.group_size)
    level = grouped.level(groups["reward"])
    redrawn = 0
    while np.any(level) and len(drawn) <= most:
        drawn.append(behavior(source, params, number + len(drawn), version, {}))
        fresh = grouped.split(drawn[-1].rollout, source.world.group_size)
        pairs = list(zip(np.flatnonzero(level), np.flatnonzero(~grouped.level(fresh["reward"]))))
        for old, new in pairs:
            for name in groups:
                groups[name][old] = fresh[name][new]
            level[old] = False
        redrawn += len(pairs)
    generated = sum(each.generated for each in drawn)
    return Drawn(grouped.joined(groups), {}, len(drawn), generated, {"redrawn": float(redrawn)})


def _figures(method: Method, rollout: Rollout) -> dict[str, float]:
    """What can be told of the rows whatever their behavior."""
    figures = {}
    if rollout.reward is not None:
        group, reward = processes.on_host((rollout.group, rollout.reward))
        size = np.bincount(group)[0]
        level = grouped.level(reward.reshape(-1, size))
        figures |= {"degenerate": float(np.mean(level))} if size > 1 else {}
    if method.behavior == "mixture" and method.origin.level != "token":
        figures["student_share"] = float(np.mean(processes.on_host(rollout.version) != FOREIGN))
    return figures


# --- logged rollouts -----------------------------------------------------------------------------


def _logged(source: Source) -> Groups:
    """`dataset.groups` groups of the student's start or of the teacher, drawn once and kept."""
    whose = dataset_source(source.method, source.dataset)
    if whose == "student":
        assert source.start is not None, f"{source.method.name} has no start to draw from"
        player, version = Player(source.student, source.start), 0
    else:
        assert source.teacher is not None, f"{source.method.name} has no teacher"
        player, version = source.teacher, FOREIGN
    if source.workdir is None:
        return _log(source, player, version)
    identity = _identity(source, whose, player)
    path = grouped.path_of(source.workdir / "dataset", whose, identity)
    logged = grouped.read(path, identity)
    if processes.some(logged is None):
        logged = _log(source, player, version)
        grouped.write(path, identity, logged)
    return logged


def _log(source: Source, player: Player, version: int) -> Groups:
    """Batch after batch of prompts, with keys of their own."""
    parts, count, size = [], source.dataset.groups, source.world.group_size
    for number in range(-(-count // source.groups)):
        batch = source.prompts[number]
        key = draws.key(source.seed, number, "dataset")
        rollout = drawing.complete(
            source.world, player, batch, key, size, source.sampling, told=version == FOREIGN
        )
        parts.append(grouped.split(_graded(source, rollout, batch, version).rollout, size))
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _identity(source: Source, whose: str, player: Player) -> Any:
    """All that logged rollouts depend on, as JSON has it."""
    told = source.world.task.told
    return disk.strict(
        ({} if told is None else {"told": told.template.source, "room": told.width})
        | {
            "source": whose,
            "groups": source.dataset.groups,
            "prompts": source.groups,
            "group_size": source.world.group_size,
            "seed": source.seed,
            "sampling": dataclasses.asdict(source.sampling),
            "reward": dataclasses.asdict(source.reward),
            "data": source.world.task.identity,
            "model": repr(player.model),
            "params": checkpoint.digest(player.params),
        }
    )

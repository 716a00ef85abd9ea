"""Whose rollouts a training takes an update on: the student's, the teacher's, given, kept or mixed.

A draw is a function of (seed, number), the parameters and the memory: a resumed run draws the very
same. `number` counts batches of prompts, so that a draw which takes several moves it on by as many.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opd import disk, draws
from opd.data import pipeline
from opd.data.pipeline import Batch, Task
from opd.engine import sharding
from opd.engine.steps import Sampling
from opd.method.axes import Term
from opd.method.table import Method
from opd.run import drawing
from opd.run.drawing import World
from opd.run.players import players
from opd.run.settings.config import Config
from opd.run.store import checkpoint
from opd.types import Model, Params, Rollout

# Host state that a checkpoint keeps as it is; {} where there is none. Arrays may grow.
Memory = dict[str, np.ndarray]
# Whole prompt groups by the rollout's field, [U, G, ...] each: without `group` and `row`.
Groups = dict[str, np.ndarray]
# (rollout, the prompts' batch, group size) -> the rollout with its rewards.
Grade = Callable[[Rollout, Batch, int], Rollout]

FOREIGN = -1  # version of a row that the student didn't draw


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
    teacher: tuple[Model, Params] | None
    method: Method
    config: Config
    seed: int
    grade: Grade
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
        return pipeline.prompts(self.world.task, "train", self.seed, self.config.prompts)

    @functools.cached_property
    def solved(self) -> Sequence[Batch]:
        """The same prompts with their solutions."""
        return pipeline.demonstrations(self.world.task, "train", self.seed, self.config.prompts)

    @functools.cached_property
    def demonstrations(self) -> Sequence[Batch]:
        """As many solutions a batch as there would be rollouts, each of another prompt."""
        rows = self.config.prompts * self.config.group_size
        return pipeline.demonstrations(self.world.task, "train", self.seed, rows)

    @functools.cached_property
    def logged(self) -> Groups:
        """The dataset of rollouts: drawn once, found again in the workdir."""
        return _logged(self)

    @functools.cached_property
    def places(self) -> Sequence[list[int]]:
        """Which groups of the dataset a batch has: a permutation an epoch."""
        count = len(self.logged["prompt"])
        return pipeline.endless(count, "dataset", self.seed, self.config.prompts, list)


Behavior = Callable[[Source, Params, int, int, Memory], Drawn]


# --- what a method asks for, said before anything compiles ---------------------------------------


def dataset_source(method: Method, config: Config) -> str:
    """What a dataset is made of: solutions, or rollouts of the student's start or the teacher.

    Unless said, the student's where a term weighs rewards or ratios: solutions are all right, and
    nobody knows their log-probabilities.
    """
    if config.dataset.source is not None:
        return config.dataset.source
    return "student" if any(map(_weighs, method.terms)) else "solutions"


def _weighs(term: Term) -> bool:
    return term.signal == "reward" or (term.importance, term.correction) != ("none", "none")


def needs_met(method: Method, config: Config) -> frozenset[str]:
    """What a training has for its method's behavior: keys of facts.NEEDS."""
    met = {"dataset", "teacher_rollouts", "buffer"}
    if method.behavior == "dataset" and dataset_source(method, config) != "solutions":
        met.add("dataset_logp")
    return frozenset(met)


def draws_teacher(method: Method, config: Config) -> bool:
    """Whether some of the rollouts are the teacher's."""
    whose = {"mixture": method.origin.other, "dataset": dataset_source(method, config)}
    return whose.get(method.behavior, method.behavior) == "teacher"


def check(method: Method, config: Config, task: Task) -> None:
    """Refuses a behavior that data or config can't give.

    Raises:
        ValueError: prompts without the solutions that are asked for, or a buffer that is smaller
            than a batch.
    """
    origin = method.origin
    given = method.behavior == "dataset" and dataset_source(method, config) == "solutions"
    mixed = method.behavior == "mixture" and origin.other == "dataset" and origin.share < 1
    if (given or mixed) and any(each.solution is None for each in task.split("train")):
        raise ValueError(
            f"{method.name}: behavior={method.behavior} takes solutions, and the data have prompts "
            "without an answer"
        )
    if method.behavior == "buffer" and config.buffer.size < config.prompts:
        raise ValueError(
            f"config.buffer.size = {config.buffer.size}: allowed is config.prompts = "
            f"{config.prompts} or more"
        )


# --- behaviors -----------------------------------------------------------------------------------


def student(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Completions of the current student."""
    batch = source.prompts[number]
    rollout = _completed(source, source.student, params, batch, number)
    return _graded(source, rollout, batch, version)


def teacher(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Completions of the teacher."""
    batch = source.prompts[number]
    return _graded(source, _teachers(source, batch, number), batch, FOREIGN)


def dataset(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Given sequences: solutions, each a group of its own, or whole groups of logged rollouts."""
    if dataset_source(source.method, source.config) == "solutions":
        batch = source.demonstrations[number]
        rollout = sharding.shard_batch(players.demonstration(batch), source.world.mesh)
        return _graded(source, rollout, batch, FOREIGN, group_size=1)
    groups = {name: array[source.places[number]] for name, array in source.logged.items()}
    rollout = _rows(groups)
    return Drawn(rollout, {}, 1, len(rollout.row), {})


def buffer(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """Groups of all the student's rollouts so far (Ross et al. 2011, DAgger, algorithm 3.1).

    A fresh batch joins them; groups of more than `buffer.age` batches leave, and random ones where
    there are more than `buffer.size`.
    """
    config = source.config
    fresh = student(source, params, number, version, memory)
    groups = _groups(fresh.rollout, config.group_size)
    groups["born"] = np.full(config.prompts, number, np.int32)
    if memory:
        groups = {name: np.concatenate([memory[name], new]) for name, new in groups.items()}
    age = number - groups["born"]
    kept = np.flatnonzero(age <= config.buffer.age) if config.buffer.age else np.arange(len(age))
    random = draws.generator(draws.key(source.seed, number, "buffer"))
    if len(kept) > config.buffer.size:
        kept = np.sort(random.choice(kept, config.buffer.size, replace=False))
    taken = random.choice(kept, config.prompts, replace=False)
    rollout = _rows({name: array[taken] for name, array in groups.items() if name != "born"})
    figures = {"buffered": float(len(kept)), "age": float(np.mean(age[taken]))}
    memory = {name: array[kept] for name, array in groups.items()}
    return dataclasses.replace(fresh, rollout=rollout, memory=memory, figures=figures)


def mixture(source: Source, params: Params, number: int, version: int, memory: Memory) -> Drawn:
    """The student's with probability `share`, else the other's, on the same prompts.

    A coin a batch (Agarwal et al. 2024, GKD, algorithm 1), a sequence, or a token.
    """
    origin = source.method.origin
    if origin.level == "token":
        return _blended(source, params, number, origin.share)
    rows = source.config.prompts * source.config.group_size
    coins = draws.generator(draws.key(source.seed, number, "mixture")).random(
        1 if origin.level == "batch" else rows
    )
    own = np.broadcast_to(coins < origin.share, rows)
    batch = source.prompts[number]
    drawn = []
    if own.any():
        drawn.append(_completed(source, source.student, params, batch, number))
    if not own.all():
        others = {"teacher": _teachers, "dataset": _solutions}[origin.other]
        drawn.append(others(source, batch, number))
    rollout = drawn[0] if len(drawn) == 1 else _merged(own, *drawn)
    return _graded(source, rollout, batch, np.where(own, version, FOREIGN))


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
    rollout = _completed(source, source.student, params, batch, number, **mixed)
    return _graded(source, rollout, batch, FOREIGN)


def _completed(
    source: Source, model: Model, params: Params, batch: Batch, number: int, **mixed: Any
) -> Rollout:
    """G completions a prompt; `mixed` is what else programs.rollout takes."""
    key = draws.key(source.seed, number, "action")
    return drawing.complete(
        source.world, model, params, batch, key, source.config.group_size, source.sampling, **mixed
    )


def _teachers(source: Source, batch: Batch, number: int) -> Rollout:
    assert source.teacher is not None, f"{source.method.name} has no teacher"
    return _completed(source, *source.teacher, batch, number)


def _solutions(source: Source, batch: Batch, number: int) -> Rollout:
    """The solutions of a batch's prompts, each G times."""
    groups = _groups(players.demonstration(source.solved[number]), 1)
    size = source.config.group_size
    return _rows({name: np.repeat(array, size, axis=1) for name, array in groups.items()})


def _graded(
    source: Source,
    rollout: Rollout,
    batch: Batch,
    version: int | np.ndarray,
    group_size: int | None = None,
) -> Drawn:
    """A draw of one batch of prompts, without memory: rewards and versions are filled in."""
    rollout = sharding.shard_batch(rollout, source.world.mesh)
    rollout = source.grade(rollout, batch, group_size or source.config.group_size)
    rows = len(rollout.row)
    versions = jnp.asarray(np.broadcast_to(np.asarray(version, np.int32), rows))
    return Drawn(dataclasses.replace(rollout, version=versions), {}, 1, rows, {})


def _merged(own: np.ndarray, left: Rollout, right: Rollout) -> Rollout:
    """Row by row, left where it is own."""

    def choose(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.where(own.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, *jax.device_get((left, right)))


# --- groups --------------------------------------------------------------------------------------


def _groups(rollout: Rollout, group_size: int) -> Groups:
    """A rollout's fields on the host, a row of arrays a group."""
    found = {}
    for field in dataclasses.fields(Rollout):
        value = getattr(rollout, field.name)
        if value is not None and field.name not in ("group", "row"):
            array = np.array(value)  # a copy, to be written to
            found[field.name] = array.reshape(-1, group_size, *array.shape[1:])
    return found


def _rows(groups: Groups) -> Rollout:
    """Groups as one rollout, numbered anew."""
    count, size = groups["mask"].shape[:2]
    row = np.arange(count * size, dtype=np.int32)
    flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in groups.items()}
    return Rollout(group=row // np.int32(size), row=row, **flat)


def _level(reward: np.ndarray) -> np.ndarray:
    """Which groups' rewards [U, G] are all equal."""
    return np.all(reward == reward[:, :1], axis=1)


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
    groups = _groups(drawn[0].rollout, source.config.group_size)
    level = _level(groups["reward"])
    redrawn = 0
    while np.any(level) and len(drawn) <= most:
        drawn.append(behavior(source, params, number + len(drawn), version, {}))
        fresh = _groups(drawn[-1].rollout, source.config.group_size)
        pairs = list(zip(np.flatnonzero(level), np.flatnonzero(~_level(fresh["reward"]))))
        for old, new in pairs:
            for name in groups:
                groups[name][old] = fresh[name][new]
            level[old] = False
        redrawn += len(pairs)
    generated = sum(each.generated for each in drawn)
    return Drawn(_rows(groups), {}, len(drawn), generated, {"redrawn": float(redrawn)})


def _figures(method: Method, rollout: Rollout) -> dict[str, float]:
    """What can be told of the rows whatever their behavior."""
    found = {}
    if rollout.reward is not None:
        size = np.bincount(np.asarray(rollout.group))[0]
        level = _level(np.asarray(rollout.reward).reshape(-1, size))
        found |= {"degenerate": float(np.mean(level))} if size > 1 else {}
    if method.behavior == "mixture" and method.origin.level != "token":
        found["student_share"] = float(np.mean(np.asarray(rollout.version) != FOREIGN))
    return found


# --- logged rollouts -----------------------------------------------------------------------------


def _logged(source: Source) -> Groups:
    """`dataset.groups` groups of the student's start or of the teacher, drawn once and kept."""
    whose = dataset_source(source.method, source.config)
    if whose == "student":
        assert source.start is not None, f"{source.method.name} has no start to draw from"
        model, params, version = source.student, source.start, 0
    else:
        assert source.teacher is not None, f"{source.method.name} has no teacher"
        model, params, version = *source.teacher, FOREIGN
    if source.workdir is None:
        return _log(source, model, params, version)
    identity = _identity(source, whose, model, params)
    digest = hashlib.sha256(disk.dumps(identity).encode()).hexdigest()
    path = source.workdir / "dataset" / f"{whose}-{digest[:12]}.npz"
    found = _read(path, identity)
    if found is None:
        found = _log(source, model, params, version)
        _write(path, identity, found)
    return found


def _log(source: Source, model: Model, params: Params, version: int) -> Groups:
    """Batch after batch of prompts, with keys of their own."""
    config = source.config
    parts = []
    for number in range(-(-config.dataset.groups // config.prompts)):
        batch = source.prompts[number]
        key = draws.key(source.seed, number, "dataset")
        rollout = drawing.complete(
            source.world, model, params, batch, key, config.group_size, source.sampling
        )
        parts.append(_groups(_graded(source, rollout, batch, version).rollout, config.group_size))
    return {
        name: np.concatenate([part[name] for part in parts])[: config.dataset.groups]
        for name in parts[0]
    }


def _identity(source: Source, whose: str, model: Model, params: Params) -> Any:
    """All that logged rollouts depend on, as JSON has it."""
    config = source.config
    return disk.strict(
        {
            "source": whose,
            "groups": config.dataset.groups,
            "prompts": config.prompts,
            "group_size": config.group_size,
            "seed": source.seed,
            "sampling": dataclasses.asdict(source.sampling),
            "reward": dataclasses.asdict(config.reward),
            "data": source.world.task.identity,
            "model": repr(model),
            "params": checkpoint.digest(params),
        }
    )


def _read(path: Path, identity: Any) -> Groups | None:
    """The dataset that is there, if it is this one and whole."""
    try:
        said = json.loads(path.with_suffix(".json").read_text())
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    if said != {"identity": identity, "sha256": hashlib.sha256(content).hexdigest()}:
        return None
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def _write(path: Path, identity: Any, groups: Groups) -> None:
    """The arrays, and then what says that they are whole."""
    content = io.BytesIO()
    np.savez(content, **groups)
    disk.replace_file(path, content.getvalue())
    said = {"identity": identity, "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
    disk.dump_json(said, path.with_suffix(".json"))

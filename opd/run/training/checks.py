"""What can be wrong with a config, its data and its workdir, said before a model is compiled."""

from __future__ import annotations

import dataclasses
import os
import stat
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from opd import disk, fields, processes
from opd.data import pipeline, verifiers
from opd.data.pipeline import Task
from opd.engine import backend, sharding
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.fields import to_dict
from opd.method import facts, table
from opd.method.table import Method
from opd.model import attention
from opd.model.decoder import Decoder
from opd.run.drawing import World
from opd.run.players import players
from opd.run.players.players import PlayerPlan, ServedPlan, Taught
from opd.run.rollouts import rewards
from opd.run.rollouts.rewards import RewardPlan
from opd.run.settings import config as configs
from opd.run.settings.config import Config


def folder(workdir: Path) -> None:
    """Refuses a workdir that is a file, where none can be, or where nothing can be written."""
    try:
        mode = workdir.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"--workdir={workdir}: it can't be reached ({error.strerror})") from None
    if not stat.S_ISDIR(mode):
        raise ValueError(f"--workdir={workdir}: it is a file")
    if not os.access(workdir, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(f"--workdir={workdir}: it can't be written to")


def today(then: Mapping[str, Any], workdir: Path) -> Config:
    """The config that a workdir was begun with, as today's has it.

    What it lacks has its default, or what `BEFORE` has.

    Raises:
        ValueError: names keys that are no more, or says what today's config refuses.
    """
    gone = fields.unknown(then, Config, "config")
    if gone:
        keys = "; ".join(f"{key} = {value!r}" for key, value in gone.items())
        raise ValueError(
            f"--workdir={workdir} was begun with keys that are no more: {keys}; give another "
            "workdir, or remove this one"
        )
    try:
        return configs.build(_as_then(then))
    except ValueError as error:
        raise ValueError(
            f"--workdir={workdir} was begun with what is refused today: {error}"
        ) from None


# What a part's keys were before it had them, where that isn't today's default.
BEFORE = {"optimizer": {"clip": 1.0, "spike": 0.0}}


def _as_then(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config of before some keys, with those that mean something else today written out."""
    whole = dict(values)
    for part, keys in BEFORE.items():
        given = values.get(part, {})
        if isinstance(given, Mapping):
            whole[part] = {**keys, **given}
    return whole


def agree(config: Config, inputs: Mapping[str, Any], workdir: Path) -> None:
    """Refuses processes of another config, other data or another workdir: together.

    Raises:
        Apart: names what differs, or says that the workdir isn't one folder for all.
    """
    if processes.count() == 1:
        return
    values = flat(disk.strict(to_dict(config))) | flat(disk.strict(inputs), "inputs")
    processes.agree({name: repr(value) for name, value in values.items()})
    if processes.first():
        workdir.mkdir(parents=True, exist_ok=True)
    token = processes.told(uuid.uuid4().hex)
    sign = workdir / f".here-{token}"
    if processes.first():
        sign.touch()
    processes.barrier()
    found = _there(sign)
    apart = processes.some(not found)
    if processes.first():
        sign.unlink()
    if apart:
        raise processes.Apart(
            f"--workdir={workdir}: not one folder for all processes; allowed is one that they share"
        )


def _there(path: Path) -> bool:
    """Whether a file is there; a network's file system may take a while to show it."""
    for _ in range(SHOWN):
        if path.parent.is_dir() and path.name in os.listdir(path.parent):
            return True
        time.sleep(1)
    return False


SHOWN = 20  # seconds within which a file that one host has written is seen by another


def same(
    config: Config, then: Mapping[str, Any], workdir: Path, free: tuple[str, ...] = ()
) -> None:
    """Refuses a workdir that was begun with another config; keys that start as in `free` may move.

    Raises:
        ValueError: names the keys that differ, or what `today` refuses.
    """
    before, now = (flat(disk.strict(to_dict(one))) for one in (today(then, workdir), config))
    differ = [key for key in now if before[key] != now[key] and not key.startswith(free or ("\0",))]
    if differ:
        # Three are enough to see what it is about.
        moved = "; ".join(f"{key} was {before[key]}, now {now[key]}" for key in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ValueError(
            f"--workdir={workdir} has results of another config: {moved}{more}\n"
            "give another workdir, or remove this one"
        )


def dated(config: Config, then: Mapping[str, Any] | None, workdir: Path) -> Config:
    """The config on the day of the run's start, where a chat template asks what day it is.

    `then` is the config that the workdir was begun with, if it was.

    Raises:
        ValueError: what `today` refuses, or a template that can't be read.
    """
    before = None if then is None else today(then, workdir).data
    chat = pipeline.dated(config.tokenized, before).chat
    return dataclasses.replace(config, data=dataclasses.replace(config.data, chat=chat))


def flat(nested: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Nested dictionaries as one, its keys dotted."""
    dotted: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}.{key}"
        dotted |= flat(value, name) if isinstance(value, dict) else {name: value}
    return dotted


# Inputs that an older version did not keep: what they were then isn't known, and is let pass.
LATER = ("verifier",)


def same_inputs(now: Mapping[str, Any], then: Mapping[str, Any], workdir: Path) -> None:
    """Refuses a workdir whose results were made from other files than the config names now.

    Raises:
        ValueError: names the input that differs.
    """
    for name in now:
        before = then.get(name, now[name] if name in LATER else None)
        if now[name] != before:
            raise ValueError(
                f"--workdir={workdir} has results of another {name}: {_short(before)}, "
                f"now {_short(now[name])}; give another workdir, or remove this one"
            )


def _short(identity: Any) -> str:
    """An input's identity, as far as a message needs it."""
    if isinstance(identity, Mapping):
        return " ".join(f"{key} {str(value)[:12]}" for key, value in identity.items())
    return "unknown" if identity is None else str(identity)


@dataclasses.dataclass(frozen=True)
class Ready:
    """What checking found and a run starts from: nothing of it has to be looked at again."""

    world: World
    student: PlayerPlan
    teacher: Taught
    reward: RewardPlan

    @property
    def inputs(self) -> dict[str, Any]:
        """What results depend on beside the config: the data's content, and what is from elsewhere.

        Reads all weights that are from elsewhere.

        Raises:
            ValueError: a file that can't be read.
        """
        verifier = verifiers.digest(self.world.task.config.verifier)
        return {
            "data": self.world.task.identity,
            "teacher": self.teacher.inputs,
            "student": self.student.inputs,
            "reward": self.reward.inputs,
            "verifier": None if verifier is None else {"sha256": verifier},
        }


def ready(
    config: Config,
    methods: tuple[Method, ...],
    more: frozenset[str] = frozenset(),
    workdir: Path | None = None,
) -> Ready:
    """What stays the same throughout a run, its players and who grades, all looked at.

    `more` is what this kind of run has for its methods besides what `available` says. Data that
    `workdir` has already keep the name that they have there.

    Raises:
        ValueError: what is wrong with data, split, models, meshes or methods.
    """
    players.refuse_no_folder(teacher=config.teacher, student=config.student)
    task = pipeline.load(config.tokenized)
    if workdir is not None:
        task = pipeline.recognised(task, workdir)
    if config.evaluate.split not in task.splits:
        allowed = ", ".join(task.splits)
        raise ValueError(
            f"config.evaluate.split = {config.evaluate.split!r}: allowed are {allowed}"
        )
    if config.teacher.prompt is not None:
        task = pipeline.tell(task, config.teacher.prompt, config.teacher.max_prompt)
    size = min(len(task.split(config.evaluate.split)), config.evaluate.prompts)
    if size < 2:
        raise ValueError(
            f"config.evaluate.split = {config.evaluate.split!r}: has {size} prompt, allowed are 2 "
            "or more, for an interval"
        )
    if config.teachers.players:
        task = pipeline.taught(task, config.teachers.column, config.teachers.names)
    teacher, student = players.look_at_both(config.teacher, config.student, task, config.teachers)
    teacher, student, task = players.together(teacher, student, task)
    world = World(
        mesh=sharding.make_mesh(**dataclasses.asdict(config.mesh)),
        task=task,
        sampling=Sampling(
            length=task.max_completion,
            eos_ids=task.tokenizer.eos_ids,
            pad_id=task.tokenizer.pad_id,
            temperature=config.temperature,
        ),
        scoring=Pass(config.temperature, config.chunk),
        group_size=config.group_size,
        seed=config.seed,
    )
    reward = rewards.look(config.reward, task)
    for player in (*players.parts(teacher), student):
        _representable(player.name, player.model)
        sharding.refuse_unsplit(f"config.{player.name}.sharding", player.model, world.mesh)
        _runnable(player.name, player.model, sharding.Layout(world.mesh).platform)
    for method in methods:
        if isinstance(teacher, ServedPlan):
            refuse_unserved(method)
        facts.require(method, available(task) | more)
        facts.fits(method, task.tokenizer.vocab)
    backend.check()
    return Ready(world, student, teacher, reward)


def _representable(name: str, model: Decoder) -> None:
    """Refuses a float64 that JAX would silently make a float32."""
    narrow = jnp.result_type(float) != jnp.dtype("float64")
    for key in ("dtype", "param_dtype"):
        if getattr(model.config, key) == "float64" and narrow:
            raise ValueError(
                f"config.{name}.model.{key} = 'float64': allowed with JAX_ENABLE_X64=1 in the "
                "environment only, else it is a float32"
            )


# What a server can't say of a teacher: only the log-probability of a token that was sent.
UNSERVED = ("teacher_full", "teacher_samples", "teacher_rollouts")


def refuse_unserved(method: Method) -> None:
    """Refuses a method that needs more of a teacher than the log-probability of a rollout's token.

    Raises:
        ValueError: names what it needs, and the rows that can be had.
    """
    lacks = [need for need in facts.needs(method) if need in UNSERVED]
    if not lacks:
        return
    rows = [name for name in table.ROWS if _served(table.parse(name))]
    raise ValueError(
        f"{method.name} needs {facts.NEEDS[lacks[0]]}, which a served teacher doesn't give: "
        f"allowed are {', '.join(rows)}"
    )


def _served(method: Method) -> bool:
    needs = facts.needs(method)
    return "teacher_logp" in needs and not set(needs) & set(UNSERVED)


def _runnable(name: str, model: Decoder, platform: str) -> None:
    """Refuses attention by a kernel that the mesh's devices don't run."""
    try:
        attention.refuse_elsewhere(model.attention, platform)
    except ValueError as error:
        raise ValueError(f"config.{name}.{error}") from None


def available(task: Task) -> frozenset[str]:
    """What rollouts of this task can be graded by: keys of facts.NEEDS."""
    teacher = {"teacher_full", "teacher_logp", "teacher_samples"}
    return frozenset(teacher | ({"reward"} if task.verifier is not None else set()))

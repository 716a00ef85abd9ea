"""The trainer: one method, any row of the table; a killed run goes on as if nothing had happened.

A workdir holds config.json, models/, checkpoints/, best/, metrics.jsonl (a line an update),
evaluations.jsonl, samples.jsonl, tensorboard/, and done.json once it is finished. Whatever is
random is a function of (seed, update), so that parameters, optimizer and a note of where the run
stood are all that a checkpoint needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
import rich
import rich.markup
import tensorboardX

from opd.data import pipeline
from opd.data.pipeline import Batch
from opd.engine import costs, programs, sharding
from opd.engine.steps import State
from opd.method import facts, table
from opd.method.table import Method
from opd.run import checkpoint, checks, evaluate, optimizer, players, writers
from opd.run import config as configs
from opd.run.config import Config, to_dict
from opd.run.evaluate import Judge, World
from opd.types import Metrics, Model, Params, Rollout

# Keys that a workdir's second start may change.
FREE = ("config.updates", "config.checkpoint.", "config.evaluate.", "config.models")
# What a training has for its method: the data's solutions, the teacher, the start as a reference.
HAS = frozenset({"dataset", "teacher_rollouts", "reference"})
BEHAVIORS = ("student", "teacher", "dataset")
FILES = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")


class Diverged(RuntimeError):
    """Too many gradients in a row that were infinite or NaN."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run trains with, found right before anything is compiled."""

    world: World
    student: Model
    teacher: Model
    method: Method


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """All that an update needs besides the state: the same throughout a run."""

    world: World
    student: Model
    teacher: tuple[Model, Params] | None
    method: Method
    step: optax.GradientTransformation
    parts: int = 1
    reference: Params | None = None  # of the policy that a penalty holds the student to

    def batches(self, seed: int, prompts: int) -> Sequence[Batch]:
        """A batch an update: prompts, or as many demonstrations as their rollouts would be."""
        task = self.world.task
        if self.method.behavior == "dataset":
            return pipeline.demonstrations(task, "train", seed, prompts * self.world.group_size)
        return pipeline.prompts(task, "train", seed, prompts)

    def rollout(self, params: Params, batch: Batch, number: int, seed: int) -> Rollout:
        """Rollouts of the method's behavior, graded by the task's verifier."""
        world = self.world
        if self.method.behavior == "dataset":
            given = sharding.shard_batch(players.demonstration(batch), world.mesh)
            return evaluate.reward(world.task, given, batch["answers"], 1)
        model = self.student
        if self.method.behavior == "teacher":
            assert self.teacher is not None, f"{self.method.name} has no teacher"
            model, params = self.teacher
        drawn = evaluate.draw(world, model, params, batch, number, seed, world.group_size)
        if self.reference is None:
            return drawn
        said = programs.score(world.mesh, self.student, self.reference, drawn, None, world.how)
        return dataclasses.replace(drawn, logp_reference=said.logp_student)

    def advance(self, state: State, batch: Batch, number: int, seed: int) -> tuple[State, Metrics]:
        """One update on fresh rollouts: draw, grade, pull back, step. The state is consumed."""
        world = self.world
        rollout = self.rollout(state.params, batch, number, seed)
        head = None
        if costs.needs_teacher(self.method):
            assert self.teacher is not None, f"{self.method.name} has no teacher"
            head = programs.teacher(world.mesh, *self.teacher, rollout)
        return programs.update(
            world.mesh, self.student, self.step, state, rollout, head, self.method, seed,
            world.how, self.parts,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Note:
    """Where a run stands: what a checkpoint has beside the arrays."""

    update: int = 0
    seconds: float = 0.0  # of all updates, the compilation of the first included
    taken: float = 0.0  # of the last one
    judged: int = -1  # update of the last evaluation
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: float | None = None  # the most that an evaluation was worth
    waited: int = 0  # evaluations since
    resumed_from: tuple[int, ...] = ()

    @staticmethod
    def resumed(said: Mapping[str, Any]) -> Note:
        """The note of a checkpoint that is gone on from."""
        return Note(**{**said, "resumed_from": (*said["resumed_from"], said["update"])})

    def updated(self, taken: float) -> Note:
        """After one more update."""
        return dataclasses.replace(
            self, update=self.update + 1, seconds=self.seconds + taken, taken=taken
        )

    def judged_by(self, found: Mapping[str, Any], worth: float | None) -> tuple[Note, bool]:
        """After an evaluation, and whether it is the best so far."""
        better = worth is not None and (self.best is None or worth > self.best)
        moved = dataclasses.replace(
            self,
            judged=self.update,
            evaluation=writers.strict(found),
            best=worth if better else self.best,
            waited=0 if better else self.waited + 1,
        )
        return moved, better


def check(config: Config, workdir: Path) -> Plan:
    """All that can be wrong, said before a model is compiled or anything written.

    Raises:
        ValueError: what is wrong.
    """
    checks.folder(workdir)
    begun = _begun(workdir)
    if begun is not None:
        checks.same(config, begun["config"], workdir, FREE)
    method = table.parse(config.method.spelled)
    facts.trainable(method)
    if method.behavior not in BEHAVIORS:
        raise ValueError(
            f"{method.name}: behavior={method.behavior}; a training has {', '.join(BEHAVIORS)}"
        )
    plan = Plan(*checks.ready(config, (method,), HAS), method)
    if begun is not None:
        now = checks.inputs(config, plan.world.task)
        checks.same_inputs(now, begun["inputs"], workdir)
    return plan


def train(config: Config, workdir: Path, plan: Plan | None = None) -> dict[str, Any] | None:
    """Trains until `config.updates`, and returns done.json; None where SIGTERM asked to leave.

    Raises:
        ValueError: what `check` finds wrong, or another process in the workdir.
        Diverged: more than `optimizer.skips` gradients in a row were not finite.
    """
    plan = plan or check(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with checkpoint.lock(workdir), Terminated() as terminated:
        done = _read(workdir / "done.json")
        if done is not None and (done["step"] >= config.updates or done["stopped"]):
            return done
        (workdir / "done.json").unlink(missing_ok=True)
        said = {"config": to_dict(config), "inputs": checks.inputs(config, plan.world.task)}
        writers.dump_json(said, workdir / "config.json")
        return _train(config, workdir, plan, terminated)


def _train(
    config: Config, workdir: Path, plan: Plan, terminated: Terminated
) -> dict[str, Any] | None:
    setting, start, judge = prepare(config, workdir, plan)
    batches = setting.batches(config.seed, config.prompts)
    state, note = programs.start(setting.world.mesh, setting.student, setting.step, start), Note()
    with (
        checkpoint.Checkpoints(workdir / "checkpoints", config.checkpoint.keep) as kept,
        checkpoint.Checkpoints(workdir / "best", 1) as best,
        terminated.deferred(),
    ):
        found = kept.restore(checkpoint.abstract(state))
        if found is not None:
            state, note = found[0], Note.resumed(found[1])
        with (
            Log(workdir, note.update if found else -1, config) as log,
            writers.progress(setting.method.name, config.updates) as bar,
        ):
            bar(note.update)
            saved = note.update
            while True:
                if _due(note, config):
                    params = optimizer.evaluated(state.params, state.optimizer)
                    found, shown = judge(params, config.evaluate.samples)
                    note, better = note.judged_by(found, merit(found, setting.method))
                    log.evaluation(note, found, shown)
                    if better:
                        best.save(note.update, params, dataclasses.asdict(note))
                over = note.update >= config.updates or _stale(note, config)
                leave = over or terminated.asked
                if note.update > saved and (leave or note.update % config.checkpoint.every == 0):
                    kept.save(note.update, state, dataclasses.asdict(note))
                    saved = note.update
                if leave:
                    break
                began = time.perf_counter()
                number = note.update
                state, metrics = setting.advance(state, batches[number], number, config.seed)
                values = {name: np.asarray(metric.value()) for name, metric in metrics.items()}
                note = note.updated(time.perf_counter() - began)
                row, total = map(int, optimizer.skipped(state.optimizer))
                log.update(note, values | {"skipped": total})
                _finite(row, values, note, config)
                bar(note=f"reward {values['reward']:.2f}" if "reward" in values else None)
    if not over:
        print(f"asked to stop: saved at update {note.update}", file=sys.stderr)
        return None
    done = {
        "step": note.update,
        "rollouts": note.update * config.prompts * config.group_size,
        "params_sha256": checkpoint.digest(state.params),
        "resumed_from": list(note.resumed_from),
        "eval": note.evaluation,
        "stopped": "no better evaluation" if note.update < config.updates else None,
    }
    writers.dump_json(done, workdir / "done.json")
    return done


def prepare(config: Config, workdir: Path, plan: Plan) -> tuple[Setting, Params, Judge]:
    """Data, players and what judges them: made in the workdir, or found there."""
    world = dataclasses.replace(plan.world, task=pipeline.load(config.data, workdir))
    student, start = players.make("student", config.student, world, workdir, config.models)
    teacher = None
    if costs.needs_teacher(plan.method):
        teacher = players.make("teacher", config.teacher, world, workdir, config.models)
    step = optimizer.make(config.optimizer, config.optimizer.learning_rate)
    held_out = world.task.split(config.evaluate.split)[: config.evaluate.prompts]
    judge = functools.partial(evaluate.evaluate, world, student, teacher, held_out)
    reference = start if "reference" in facts.needs(plan.method) else None
    parts = config.optimizer.microbatches
    setting = Setting(world, student, teacher, plan.method, step, parts, reference)
    return setting, start, judge


def begun(workdir: Path, split: str | None = None, prompts: int | None = None) -> Config:
    """The config of a workdir's run, with another split or number of prompts to evaluate on.

    Raises:
        ValueError: no run of ours, or a split or number that can't be.
    """
    said = _begun(workdir)
    if said is None:
        raise ValueError(f"--workdir={workdir}: no training run there (config.json is missing)")
    found, asked = said["config"], {"split": split, "prompts": prompts}
    found["evaluate"] |= {key: value for key, value in asked.items() if value is not None}
    return configs.build(found)


def step_there(workdir: Path, step: str | None) -> int | str:
    """The checkpoint that is asked for: `best`, a number, or the last one where none is.

    Raises:
        ValueError: it isn't there; says which are.
    """
    steps = checkpoint.steps(workdir / "checkpoints")
    there = [*map(str, steps), *(["best"] if checkpoint.steps(workdir / "best") else [])]
    if step is None and steps:
        return steps[-1]
    if step not in there:
        known = ", ".join(there) or "none"
        raise ValueError(f"--step={step or 'last'}: no such checkpoint; there are: {known}")
    return step if step == "best" else int(step)


def score(config: Config, workdir: Path, plan: Plan, step: int | str) -> dict[str, Any]:
    """The evaluation of one checkpoint: its update, and the figures with their intervals."""
    setting, start, judge = prepare(config, workdir, plan)
    state = programs.start(setting.world.mesh, setting.student, setting.step, start)
    folder = workdir / ("best" if step == "best" else "checkpoints")
    wanted = state.params if step == "best" else state
    with checkpoint.Checkpoints(folder, None) as kept:
        found = kept.restore(checkpoint.abstract(wanted), None if step == "best" else int(step))
    assert found is not None, "step_there found it"
    restored, note = found
    if step != "best":
        restored = optimizer.evaluated(restored.params, restored.optimizer)
    return {"step": note["update"]} | writers.strict(judge(restored, 0)[0])


def merit(found: Mapping[str, Any], method: Method) -> float | None:
    """What an evaluation is worth, more is better: accuracy for a reward's row, else -KL."""
    figures = {
        "accuracy": (1.0, found.get("accuracy")),
        "kl": (-1.0, found.get("kl")),
    }
    order = ("accuracy", "kl") if facts.claims(method).kind == "reward" else ("kl", "accuracy")
    for name in order:
        sign, figure = figures[name]
        if figure is not None:
            return sign * figure.value
    return None


def _due(note: Note, config: Config) -> bool:
    """Whether an evaluation stands out: at the start, at every n-th update and at the last."""
    asked = note.update % config.evaluate.every == 0 or note.update >= config.updates
    return asked and note.judged != note.update


def _stale(note: Note, config: Config) -> bool:
    """Whether training has waited long enough for a better evaluation."""
    return 0 < config.evaluate.patience <= note.waited


def _finite(row: int, values: Mapping[str, np.ndarray], note: Note, config: Config) -> None:
    """Ends a run whose gradients are not finite time and again."""
    if row > config.optimizer.skips:
        culprits = [name for name, value in values.items() if not np.all(np.isfinite(value))]
        raise Diverged(
            f"update {note.update}: {row} gradients in a row were not finite "
            f"({', '.join(culprits) or 'gradient'}); allowed is optimizer.skips = "
            f"{config.optimizer.skips}"
        )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object that a run of ours left, if it is there and whole."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _begun(workdir: Path) -> dict[str, Any] | None:
    """What a workdir's run was begun with: its config and inputs."""
    found = _read(workdir / "config.json")
    return found if found is not None and found.keys() >= {"config", "inputs"} else None


class Log:
    """What a run says as it goes: lines of JSON, TensorBoard, and a completion on the terminal."""

    def __init__(self, workdir: Path, update: int, config: Config):
        for name in FILES:
            writers.keep_until(workdir / name, update)
        metrics, evaluations, samples = (writers.JsonlWriter(workdir / name) for name in FILES)
        self._metrics, self._evaluations, self._samples = metrics, evaluations, samples
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=update + 1, write_to_disk=True
        )
        self._share = config.prompts * config.group_size

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in (self._metrics, self._evaluations, self._samples, self._board):
            writer.close()

    def update(self, note: Note, values: Mapping[str, Any]) -> None:
        """A line an update; rates are over the whole update, rollout and teacher included."""
        taken = note.taken or math.inf
        values = dict(values) | {
            "seconds": note.seconds,
            "tokens_per_second": float(values["tokens"]) / taken,
        }
        where = {"update": note.update, "rollouts": note.update * self._share}
        self._metrics.write(where | values)
        self._scalars("train", values, note.update)

    def evaluation(
        self, note: Note, found: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]
    ) -> None:
        """An evaluation, and completions of it."""
        where = {"update": note.update, "rollouts": note.update * self._share}
        self._evaluations.write(where | {"seconds": note.seconds} | dict(found))
        for sample in shown:
            self._samples.write({"update": note.update} | dict(sample))
        figures = {name: figure.value for name, figure in found.items()}
        self._scalars("eval", figures, note.update)
        if shown and sys.stdout.isatty():
            first = {
                key: rich.markup.escape(str(shown[0][key])) for key in ("prompt", "completion")
            }
            rich.print(f"[dim]{first['prompt']}[/dim][green]{first['completion']}[/green]")

    def _scalars(self, group: str, values: Mapping[str, Any], update: int) -> None:
        for name, value in values.items():
            if np.ndim(value) == 0:
                self._board.add_scalar(f"{group}/{name}", float(value), update)


class Terminated:
    """SIGTERM as a question: asked once there is something to save, at once before that."""

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False

    def __enter__(self) -> Terminated:
        self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal sets `asked`, and nothing else."""
        self._deferred = True
        yield
        self._deferred = False

    def _hear(self, number: int, frame: object) -> None:
        self.asked = True
        if not self._deferred:
            print("asked to stop: there was nothing to save yet", file=sys.stderr)
            sys.exit(0)

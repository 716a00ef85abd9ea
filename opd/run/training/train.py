"""The trainer: one method, any row of the table; a killed run goes on as if nothing had happened.

A workdir holds config.json, models/, checkpoints/, best/, metrics.jsonl (a line an update),
evaluations.jsonl, samples.jsonl, probe.jsonl, tensorboard/, and done.json once it is finished.
Whatever is random is a function of (seed, update), so that the state, what a learner remembers and
a note of where the run stood are all that a checkpoint needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from opd import disk, fields, processes
from opd.data import pipeline, served
from opd.engine import backend, costs, optimizer
from opd.engine.steps import Sampling
from opd.fields import to_dict
from opd.method import facts
from opd.method.table import Method
from opd.run import drawing
from opd.run.players import match, players
from opd.run.players.players import ServedPlan
from opd.run.probe import evaluate
from opd.run.rollouts import behavior, rewards, sampling
from opd.run.settings.config import Config
from opd.run.store import checkpoint, progress
from opd.run.training import checks, footprint, policy, preference
from opd.run.training.checks import Ready
from opd.run.training.log import Log
from opd.run.training.note import Note
from opd.run.training.policy import Learner
from opd.run.training.signs import Circumstances

# Keys that a workdir's second start may change.
FREE = (
    "config.updates",
    "config.checkpoint.",
    "config.evaluate.",
    "config.probe.",
    "config.models",
    "config.mesh.",
    "config.student.sharding.",
    "config.teacher.sharding.",
)
# Figures whose being infinite or NaN says where a gradient's comes from.
CULPRITS = ("loss", "reward", "kl", "entropy", "gradient_norm", "critic_gradient_norm")


class Diverged(RuntimeError):
    """Too many gradients in a row that were infinite or NaN."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training starts from, found right before anything is compiled."""

    config: Config  # of the day that belongs to the run
    ready: Ready
    method: Method
    sampling: Sampling  # how the rollouts are drawn
    inputs: Mapping[str, Any]  # what results depend on beside the config
    differences: tuple[str, ...] = ()  # of teacher and student, where the teacher has a part

    @property
    def biased(self) -> str | None:
        """What the method's claim lacks, drawn like this."""
        policy = self.ready.world.sampling
        return facts.bias(self.method, sampling.law(policy, self.sampling))

    @property
    def claim(self) -> str | None:
        """The method's goal where the teacher isn't simply another policy; None where it is."""
        teacher, names = self.config.teacher, self.config.teachers.names
        plain = not (teacher.is_student or teacher.prompt or names or teacher.served.url)
        if plain or not _has_teacher(self.config, self.method):
            return None
        words = teacher.words + f" that the data name ({', '.join(names)})" * bool(names)
        goal = facts.describe(facts.goal(self.method), words)
        claim = f"{self.method.name}: {goal}"
        if teacher.moves:
            claim += (
                "; each gradient holds the teacher fixed, and the next one has another: no one "
                "objective falls from update to update"
            )
        return claim


def check(config: Config, workdir: Path) -> Plan:
    """All that can be wrong, said before a model is compiled or anything written.

    Raises:
        ValueError: what is wrong.
    """
    checks.folder(workdir)
    begun = _begun(workdir)
    config = checks.dated(config, None if begun is None else begun["config"], workdir)
    if begun is not None:
        checks.same(config, begun["config"], workdir, FREE)
        checkpoint.refuse_narrow(workdir)
    method = config.method.parsed
    facts.trainable(method)
    _refuse_unread(config, method)
    if config.teacher.served.url is not None and processes.count() > 1:
        raise ValueError(
            f"config.teacher.served.url: allowed in one process, here are {processes.count()}: "
            "what a server answered is kept by the first alone"
        )
    asked = {"probe.every": config.probe.every, "evaluate.teacher": config.evaluate.teacher}
    for key, value in asked.items():
        if config.teacher.served.url is not None and value:
            raise ValueError(
                f"config.{key} = {value}: allowed is {type(value)()} with config.teacher.served, "
                "whose whole vocabulary no server gives"
            )
    probed = config.probe.methods if config.probe.every else ()
    if probed and method.behavior != "student":
        raise ValueError(
            f"config.probe.every = {config.probe.every}: allowed is 0 with behavior="
            f"{method.behavior}: a probe's rows are claims about the student's own rollouts"
        )
    if probed and config.prompts < 4:  # as probe.groups
        raise ValueError(
            f"config.prompts = {config.prompts}: a probe needs 4 prompt groups or more"
        )
    has = behavior.needs_met(method, config.dataset) | {"reference", "value"}
    if config.reward.others:
        has |= {"reward"}
    ready = checks.ready(config, (method, *probed), has, workdir)
    world = ready.world
    behavior.check(
        method, config.dataset, config.buffer, config.prompts, world.task, config.teacher
    )
    if config.trains == "reward":
        preference.check(config, world.task)
    drawn = sampling.drawn(config.sampling, world.sampling, world.task.tokenizer.vocab)
    if probed and drawn != world.sampling:
        raise ValueError(
            f"config.probe.every = {config.probe.every}: allowed is 0 where config.sampling isn't "
            "the policy itself: a probe's rows are claims about the policy's own rollouts"
        )
    inputs = ready.inputs
    if begun is not None:
        checks.same_inputs(inputs, begun["inputs"], workdir)
    differences: tuple[str, ...] = ()
    if _has_teacher(config, method):
        differences = match.differences(ready.teacher, ready.student, world.task, inputs)
    return Plan(config, ready, method, drawn, inputs, differences)


def train(config: Config, workdir: Path, plan: Plan | None = None) -> dict[str, Any] | None:
    """Trains until `config.updates`, and returns done.json; None where SIGTERM asked to leave.

    Raises:
        ValueError: what `check` finds wrong, or another process in the workdir.
        Apart: the processes differ in config, data or workdir.
        Diverged: more than `optimizer.skips` updates in a row were not finite.
    """
    plan = plan or check(config, workdir)
    config = plan.config
    checks.agree(config, plan.inputs, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with checkpoint.lock(workdir), Terminated() as terminated:
        done = processes.told(_read(workdir / "done.json"))
        if done is not None and (done["step"] >= config.updates or done["stopped"]):
            return done
        backend.make_room()
        if processes.first():
            (workdir / "done.json").unlink(missing_ok=True)
        begun = {"config": to_dict(config), "inputs": plan.inputs}
        disk.dump_json(begun, workdir / "config.json")
        return _train(config, workdir, plan, terminated)


def _train(
    config: Config, workdir: Path, plan: Plan, terminated: Terminated
) -> dict[str, Any] | None:
    biased = plan.biased if config.trains == "policy" else None
    if biased is not None:
        print(f"{plan.method.name} is biased: {biased}", file=sys.stderr)
    if plan.claim is not None:
        print(plan.claim, file=sys.stderr)
    for shown in pipeline.first_prompts(plan.ready.world.task):
        print(shown, file=sys.stderr)
    for remark in pipeline.remarks(plan.ready.world.task):
        print(remark, file=sys.stderr)
    for difference in plan.differences:
        print(f"warning: {difference}", file=sys.stderr)
    taught = _has_teacher(config, plan.method)
    print(footprint.said(config, plan.ready, plan.method, taught), file=sys.stderr)
    learner = prepare(config, workdir, plan)
    trained = plan.method if config.trains == "policy" else None
    run = Circumstances.of(
        config.optimizer, trained, config.prompts, plan.ready.world.sampling.length
    )
    state, memory, note = learner.start(), {}, Note()
    with (
        checkpoint.Checkpoints(workdir / "checkpoints", config.checkpoint.keep) as checkpoints,
        checkpoint.Checkpoints(workdir / "best", 1) as best,
        terminated.deferred(),
    ):
        last = checkpoints.restore(checkpoint.abstract(state))
        if last is not None:
            state, memory, note = last.tree, last.memory, Note.resumed(last.note)
        with (
            Log(workdir, note.update if last else -1) as log,
            progress.progress(learner.name, config.updates) as bar,
        ):
            bar(note.update)
            saved = note.update
            while True:
                if _due(note, config):
                    figures, samples = learner.judge(state, config.evaluate.samples)
                    note, better = note.judged_by(figures, learner.merit(figures))
                    log.evaluation(note, memory, figures, samples)
                    if better:
                        best.save(note.update, learner.params(state), dataclasses.asdict(note))
                over = note.update >= config.updates or _stale(note, config)
                leave = processes.some(terminated.asked) or over
                if note.update > saved and (leave or note.update % config.checkpoint.every == 0):
                    checkpoints.save(note.update, state, dataclasses.asdict(note), memory)
                    saved = note.update
                if leave:
                    break
                began = time.perf_counter()
                try:
                    state, memory, values = learner.advance(state, memory, note.update)
                except served.Gone:  # before anything of the state was consumed
                    if note.update > saved:
                        checkpoints.save(note.update, state, dataclasses.asdict(note), memory)
                    raise
                note = note.updated(time.perf_counter() - began)
                row, total = map(int, optimizer.skipped(state.optimizer))
                values |= {"skipped": total, "limited": optimizer.limited(state.optimizer)}
                note, names, warnings = note.looked(values, run)
                log.update(note, memory, values | {"warnings": names})
                for warning in warnings:
                    print(f"warning: {warning}", file=sys.stderr)
                _finite(row, values, note, config)
                bar(beside=f"reward {values['reward']:.2f}" if "reward" in values else None)
    if not over:
        print(f"asked to stop: saved at update {note.update}", file=sys.stderr)
        return None
    done = {
        "step": note.update,
        "rollouts": policy.generated(memory),
        "params_sha256": checkpoint.digest(state.params),
        "resumed_from": list(note.resumed_from),
        "eval": note.evaluation,
        "stopped": "no better evaluation" if note.update < config.updates else None,
        "biased": biased,
        "claim": plan.claim,
        "warnings": [*plan.differences, *note.warnings],
    }
    disk.dump_json(done, workdir / "done.json")
    return done


def prepare(config: Config, workdir: Path, plan: Plan) -> Learner:
    """Data, players and what judges them: made in the workdir, or found there."""
    ready = plan.ready
    world = drawing.prepared(ready.world, workdir)
    student = players.make(ready.student, world, workdir, config.models)
    if config.trains == "reward":
        return preference.prepare(config, workdir, world, student)
    teacher, server = None, None
    if isinstance(ready.teacher, ServedPlan):
        server = ready.teacher.server
        server.keep(workdir)
    elif _has_teacher(config, plan.method):
        teacher = players.make_teacher(ready.teacher, student, world, workdir, config.models)
    held_out = world.task.split(config.evaluate.split)[: config.evaluate.prompts]
    grade = rewards.grader(ready.reward, world)
    other = grade if config.reward.others else None
    judge = functools.partial(evaluate.evaluate, world, held_out, grade=other)
    return policy.make(
        world, student, teacher, plan.method, config, config.optimizer.learning_rate, config.seed,
        judge, grade, plan.sampling, workdir, server,
    )  # fmt: skip


def _has_teacher(config: Config, method: Method) -> bool:
    """Whether a teacher grades, draws, or is compared with."""
    if config.trains == "reward":
        return False
    asked = config.evaluate.teacher or config.probe.every > 0
    draws = behavior.draws_teacher(method, config.dataset)
    return asked or draws or costs.needs_teacher(method)


def _refuse_unread(config: Config, method: Method) -> None:
    """Refuses what is said of a teacher that nobody asks."""
    said = {"teacher.prompt": config.teacher.prompt, "teacher.source": config.teacher.source}
    said["teacher.served.url"] = config.teacher.served.url
    said["teachers.players"] = config.teachers.players
    given = next((key for key, value in said.items() if value not in (None, "given", ())), None)
    if given is not None and not _has_teacher(config, method):
        who = method.name if config.trains == "policy" else "a reward model"
        raise ValueError(
            f"config.{given} = {fields.shown(said[given])}: nobody reads it, {who} has no "
            "teacher; allowed with a method that has one, or with config.evaluate.teacher"
        )


def begun(workdir: Path, split: str | None = None, prompts: int | None = None) -> Config:
    """The config of a workdir's run, with another split or number of prompts to evaluate on.

    Raises:
        ValueError: no run of ours, or a split or number that can't be.
    """
    begun = _begun(workdir)
    if begun is None:
        raise ValueError(f"--workdir={workdir}: no training run there (config.json is missing)")
    config = checks.today(begun["config"], workdir)
    asked = {"split": split, "prompts": prompts}
    asked = {key: value for key, value in asked.items() if value is not None}
    return dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, **asked))


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
    checks.agree(config, plan.inputs, workdir)
    learner = prepare(config, workdir, plan)
    # What was best is the student's parameters alone.
    if step == "best" and config.teacher.kept and isinstance(learner, policy.Policy):
        print("the teacher of that update wasn't kept: no KL to it", file=sys.stderr)
        learner = dataclasses.replace(learner, teacher=None)
    state = learner.start()
    folder = workdir / ("best" if step == "best" else "checkpoints")
    wanted = state.params if step == "best" else state
    with checkpoint.Checkpoints(folder, None) as checkpoints:
        restored = checkpoints.restore(
            checkpoint.abstract(wanted), None if step == "best" else int(step)
        )
    assert restored is not None, "step_there found it"
    # What was best is kept as it was judged.
    state = (
        restored.tree
        if step != "best"
        else dataclasses.replace(state, params=restored.tree, optimizer=None)
    )
    return {"step": restored.note["update"]} | disk.strict(learner.judge(state, 0)[0])


def _due(note: Note, config: Config) -> bool:
    """Whether an evaluation stands out: at the start, at every n-th update and at the last."""
    asked = note.update % config.evaluate.every == 0 or note.update >= config.updates
    return asked and note.judged != note.update


def _stale(note: Note, config: Config) -> bool:
    """Whether training has waited long enough for a better evaluation."""
    return 0 < config.evaluate.patience <= note.waited


def _finite(row: int, values: Mapping[str, Any], note: Note, config: Config) -> None:
    """Ends a run whose gradients, or steps, are not finite time and again."""
    if row > config.optimizer.skips:
        numbers = {k: v for k, v in values.items() if k.startswith(CULPRITS)}
        culprits = [name for name, value in numbers.items() if not np.all(np.isfinite(value))]
        raise Diverged(
            f"update {note.update}: {row} updates in a row were not finite "
            f"({', '.join(culprits) or 'the step itself'}); allowed is optimizer.skips = "
            f"{config.optimizer.skips}"
        )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object that a run of ours left, if it is there and whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _begun(workdir: Path) -> dict[str, Any] | None:
    """What a workdir's run was begun with: its config and inputs."""
    begun = _read(workdir / "config.json")
    return begun if begun is not None and begun.keys() >= {"config", "inputs"} else None


class Terminated:
    """SIGTERM as a question: asked once there is something to save, at once before that.

    Of several processes none leaves alone: it is asked of all, before the next update.
    """

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
        if not self._deferred and processes.count() == 1:
            print("asked to stop: there was nothing to save yet", file=sys.stderr)
            sys.exit(0)

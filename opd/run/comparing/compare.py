"""The main job: prepare, probe, train the arms, probe again, report. The loop is one page."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from opd import disk, processes
from opd.data import pipeline
from opd.engine import backend, estimator, programs
from opd.fields import to_dict
from opd.measure.intervals import Interval
from opd.method import facts, table
from opd.model.decoder import Decoder
from opd.report import advice
from opd.report import page as report
from opd.run import drawing
from opd.run.comparing import arms
from opd.run.drawing import Player, World
from opd.run.players import match, players
from opd.run.probe import evaluate, price, probe
from opd.run.settings.config import Config, RewardConfig, SamplingConfig
from opd.run.store import progress
from opd.run.training import checks, policy
from opd.run.training.checks import Ready

SCHEMA = 2
# Players that a comparison says something of: a teacher that is worth imitating, and a student with
# right and wrong completions in a group. All G = 4 are alike with probability p^4 + (1 - p)^4: 0.66
# at p = 0.1, 0.16 at 0.6, where there is still much to learn.
TEACHER_AT_LEAST = 0.9
STUDENT_WITHIN = (0.1, 0.6)
# Keys that may differ from those of a workdir's results.
FREE = ("config.models",)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a comparison starts from, found right before anything is compiled."""

    config: Config  # of the day that belongs to the run
    ready: Ready
    inputs: Mapping[str, Any]  # what results depend on beside the config
    differences: tuple[str, ...]  # of teacher and student


def compare(config: Config, workdir: Path, plan: Plan | None = None) -> dict[str, Any]:
    """Runs a comparison into `workdir` and returns results.json.

    A workdir that has finished results of the same config is shown again, not run again. `plan`
    is what `check` found, where it was asked already.

    Raises:
        ValueError: what a config or its data have wrong, before anything compiles or is written.
    """
    plan = plan or check(config, workdir)
    config = plan.config
    checks.agree(config, plan.inputs, workdir)
    done = processes.told(finished(workdir))
    if done is not None:
        return done
    backend.make_room()
    workdir.mkdir(parents=True, exist_ok=True)
    world = drawing.prepared(plan.ready.world, workdir)
    for shown in pipeline.first_prompts(world.task):
        print(shown, file=sys.stderr)
    for remark in pipeline.remarks(world.task):
        print(remark, file=sys.stderr)
    for difference in plan.differences:
        print(f"warning: {difference}", file=sys.stderr)

    stage = progress.Stages()
    held_out = world.task.split(config.evaluate.split)[: config.evaluate.prompts]
    with stage("student"):
        student = players.make(plan.ready.student, world, workdir, config.models)
    with stage("teacher"):
        teacher = players.make_teacher(plan.ready.teacher, student, world, workdir, config.models)
    judge = functools.partial(evaluate.evaluate, world, held_out, teacher=teacher)
    choose = world.task.splits.get("validation", ())[: config.evaluate.prompts]
    chooser = functools.partial(evaluate.evaluate, world, choose, teacher=teacher)
    with stage("evaluation and self-test"):
        models = {
            "teacher": evaluate.evaluate(world, held_out, teacher, told=True)[0],
            "student": judge(student)[0],
        }
        self_test(world, student, config)
    for name, figures in models.items():
        if "accuracy" in figures:
            print(f"{name}: held-out accuracy {figures['accuracy'].value:.3f}", flush=True)
    for caution in cautions(models):
        print(f"warning: {caution}", file=sys.stderr)

    with stage("probe at the start"):
        first = probe.measure(world, student, teacher, config.probe)
    with stage("costs"):
        optimizer = dataclasses.replace(config.optimizer, learning_rate=config.learning_rates[0])
        prices = price.price(
            world, student, teacher, config.probe.methods, optimizer, config.prompts,
            config.probe.repeats,
        )  # fmt: skip

    trained: list[arms.Arm] = []
    with (
        disk.JsonlWriter(_fresh(workdir / "metrics.jsonl")) as metrics,
        disk.JsonlWriter(_fresh(workdir / "samples.jsonl")) as samples,
    ):
        log = arms.Log(metrics, samples, config.evaluate.samples)
        arm = functools.partial(
            arms.train, world, student, teacher, config=config, judge=judge, log=log
        )
        for seed in range(config.seed, config.seed + config.seeds):
            for method in config.arms:
                with stage(f"train {method.name}"):
                    tried = [
                        arm(method=method, rate=rate, seed=seed) for rate in config.learning_rates
                    ]
                    trained.append(best(tried, method, chooser) if tried[1:] else tried[0])

    batch = config.prompts * config.group_size
    moved = next((arm for arm in trained if arm.curve["name"] == "opd"), trained[0])
    with stage("probe late"):
        last = probe.measure(world, moved.late, teacher, config.probe)

    results: dict[str, Any] = {
        "schema": SCHEMA,
        "config": to_dict(config),
        "inputs": plan.inputs,
        "teacher": config.teacher.words,
        "environment": environment(world),
        "rollouts": probe.rollouts(first, world)
        | {"late": probe.rollouts(last, world) | {"arm": moved.curve["name"],
           "after_rollouts": moved.late_rollouts}},
        "by_position": {
            "start": probe.by_position(first, world),
            "late": probe.by_position(last, world),
        },
        "ess": {
            "start": probe.staleness(first, world, student),
            "start's rollouts, late parameters": probe.staleness(first, world, moved.late),
        },
        "estimators": probe.entries(first, prices, "start") + probe.entries(last, prices, "late"),
        "choices": probe.choices(first, prices, batch, "start")
        + probe.choices(last, prices, batch, "late"),
        "training": [arm.curve for arm in trained],
        "learning_rate": "the best of the grid for each arm, chosen on the validation split"
        if len(config.learning_rates) > 1
        else "one for all arms",
        "models": models,
        "stages": stage.seconds,
        "warnings": [
            *plan.differences,
            *cautions(models),
            *(warning for arm in trained for warning in arm.warnings),
        ],
    }  # fmt: skip
    results = disk.strict(results)
    results["advice"] = advice.advise(results)
    if processes.first():
        report.write(results, workdir)
    disk.dump_json(results, workdir / "results.json")
    return results


def check(config: Config, workdir: Path) -> Plan:
    """All that can be wrong, said before a model is compiled or anything written."""
    checks.folder(workdir)
    for key, usual in (
        ("trains", "policy"),
        ("sampling", SamplingConfig()),
        ("reward", RewardConfig()),
    ):
        if getattr(config, key) != usual:
            raise ValueError(
                f"config.{key}: allowed in a training only; a comparison's rollouts are drawn from "
                "the policies and graded by the task's verifier"
            )
    if config.teacher.served.url is not None:
        raise ValueError(
            "config.teacher.served.url: allowed in a training only; a comparison enumerates the "
            "teacher's whole vocabulary, which no server gives"
        )
    if config.teachers.players:
        raise ValueError(
            "config.teachers.players: allowed in a training only; a comparison measures the "
            "accuracy of one teacher, and what it would draw"
        )
    if config.teacher.moves:
        raise ValueError(
            f"config.teacher.source = {config.teacher.source!r}: allowed in a training only; in a "
            "comparison each arm would have a teacher of its own, and at the start it is 'start'"
        )
    done = finished(workdir)
    config = checks.dated(config, None if done is None else done["config"], workdir)
    if done is not None:
        checks.same(config, done["config"], workdir, FREE)
    ready = checks.ready(config, (*config.probe.methods, *config.arms), workdir=workdir)
    task = ready.world.task
    prompts = len({example.prompt for example in task.split("train")})
    if config.probe.groups > prompts:
        raise ValueError(
            f"config.probe.groups = {config.probe.groups}: allowed is at most {prompts}, the "
            "different prompts of the train split; a prompt that comes twice is one group"
        )
    if len(config.learning_rates) > 1 and not task.splits.get("validation"):
        raise ValueError(
            f"config.compare.learning_rates = {config.compare.learning_rates}: a grid needs a "
            "validation split to choose on, and there is none; allowed is one rate"
        )
    inputs = ready.inputs
    if done is not None:
        checks.same_inputs(inputs, done.get("inputs", {}), workdir)
    differences = match.differences(ready.teacher, ready.student, ready.world.task, inputs)
    return Plan(config, ready, inputs, differences)


def finished(workdir: Path) -> dict[str, Any] | None:
    """The results that the workdir has, if it has.

    Raises:
        ValueError: they are of another schema: neither shown nor written over.
    """
    try:
        results = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(results, dict):
        return None
    if results.get("schema") != SCHEMA:
        raise ValueError(
            f"--workdir={workdir} has results of schema {results.get('schema')}, allowed is "
            f"{SCHEMA}, which this version writes; give another workdir, or remove this one"
        )
    return results


def self_test(world: World, student: Player, config: Config) -> None:
    """Teacher := student: zero KL, and zero gradient for the rows where theory says so.

    Zero is to rounding, as a share of the gradient of the rollout's own score.

    Raises:
        RuntimeError: a number that isn't zero; the machine or the code can't be trusted.
    """
    batch = pipeline.prompts(world.task, "train", world.seed, config.prompts)[0]
    drawn = drawing.draw(world, student, batch, 0, world.seed, world.group_size)
    head = programs.head(world.mesh, *student, drawn)
    stats = programs.score(world.mesh, *student, drawn, head, world.scoring)
    kl, mask = processes.on_host((stats.kl, drawn.mask))
    largest = float(np.max(np.abs(kl * mask)))
    names = dict.fromkeys(method.name for method in (*config.arms, *config.probe.methods))
    rows = tuple(map(table.parse, names))
    methods = (*(row for row in rows if facts.vanishes(row)), table.parse("k1_loss"))
    uniforms = estimator.fresh_uniforms(world.seed, 0, drawn, methods)
    gradients = programs.gradients(
        world.mesh, *student, drawn, head, methods, uniforms, world.scoring
    )
    gram = np.asarray(processes.on_host(programs.gram(gradients)), np.float64)
    norms = np.sqrt(np.diag(gram))
    shares = norms[:-1] / norms[-1]
    model: Decoder = student.model
    # Far above what rounding adds up to, 2^-24 and 2^-8 a number; a wrong sign leaves a share of 1.
    tolerance = 1e-3 if model.config.dtype == "float32" else 1e-1
    if not (largest <= tolerance and np.all(shares <= tolerance)):
        raise RuntimeError(
            f"self-test, teacher := student: KL {largest:.2g} nats, gradients {shares} of a "
            f"score's; all should be 0 to rounding ({tolerance:g})"
        )


def best(tried: list[arms.Arm], method: table.Method, judge: evaluate.Judge) -> arms.Arm:
    """The best of several learning rates on prompts that no figure is taken from."""

    def worth(arm: arms.Arm) -> float:
        merit = policy.merit(judge(arm.last, 0)[0], method)
        return -math.inf if merit is None or not math.isfinite(merit) else merit

    return max(tried, key=worth)


def _fresh(path: Path) -> Path:
    if processes.first():
        path.unlink(missing_ok=True)
    return path


def cautions(models: dict[str, dict[str, Any]]) -> list[str]:
    """What the players' accuracies make doubtful."""
    doubts = []
    teacher, student = (models[name].get("accuracy") for name in ("teacher", "student"))
    if not isinstance(teacher, Interval) or not isinstance(student, Interval):
        return ["no verifier: accuracy was not measured"]
    if teacher.value < TEACHER_AT_LEAST:
        doubts.append(f"teacher's accuracy {teacher.value:.2f}, below {TEACHER_AT_LEAST}")
    low, high = STUDENT_WITHIN
    if not low <= student.value <= high:
        doubts.append(
            f"student's accuracy at the start {student.value:.2f}, outside {low} to {high}: "
            "a group-normalised reward has little signal there"
        )
    return doubts


def environment(world: World) -> dict[str, Any]:
    """Versions and hardware."""
    device = world.mesh.devices.flat[0]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": device.device_kind,
        "devices": int(world.mesh.devices.size),
        "cores": os.cpu_count(),
        "mesh": dict(world.mesh.shape),
        "x64": jnp.result_type(float) == jnp.dtype("float64"),
    }

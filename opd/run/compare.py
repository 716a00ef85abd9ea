"""The main job: prepare, probe, train the arms, probe again, report. The loop is one page."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from opd.data import pipeline
from opd.data.pipeline import Task
from opd.engine import backend, programs, sharding, steps
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.measure.intervals import Interval
from opd.method import table
from opd.run import advice, evaluate, players, price, probe, report, train, writers
from opd.run.config import Config, to_dict
from opd.run.evaluate import World
from opd.types import Model, Params

SCHEMA = 1
TEACHER_AT_LEAST = 0.9
STUDENT_WITHIN = (0.1, 0.6)
# The world, the student's model and the probe's methods: what `check` finds out.
Checked = tuple[World, Model, tuple[table.Method, ...]]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def compare(config: Config, workdir: Path, checked: Checked | None = None) -> dict[str, Any]:
    """Runs a comparison into `workdir` and returns results.json.

    A workdir that has finished results of the same config is shown again, not run again. `checked`
    is what `check` said, where it was asked already.

    Raises:
        ValueError: what a config or its data have wrong, before anything compiles or is written.
    """
    world, student, methods = checked or check(config, workdir)
    done = finished(workdir)
    if done is not None:
        return done
    workdir.mkdir(parents=True, exist_ok=True)
    world = dataclasses.replace(world, task=pipeline.load(config.data, workdir))

    stage = writers.Stages()
    held_out = world.task.split(config.evaluate.split)[: config.evaluate.prompts]
    with stage("teacher"):
        teacher = players.make("teacher", config.teacher, world, workdir)
    with stage("student"):
        student, start = players.make("student", config.student, world, workdir)
    judge = functools.partial(evaluate.evaluate, world, student, teacher, held_out)
    with stage("evaluation and self-test"):
        models = {
            "teacher": evaluate.evaluate(world, teacher[0], None, held_out, teacher[1])[0],
            "student": judge(start)[0],
        }
        self_test(world, student, start, config)
    for name, found in models.items():
        if "accuracy" in found:
            print(f"{name}: held-out accuracy {found['accuracy'].value:.3f}", flush=True)
    for caution in cautions(models):
        print(f"warning: {caution}", file=sys.stderr)

    with stage("probe at the start"):
        first = probe.measure(world, student, start, teacher, methods, config.probe)
    with stage("costs"):
        paid = price.price(
            world, student, start, teacher, methods, config.train, config.probe.repeats
        )

    arms: list[train.Arm] = []
    with (
        writers.JsonlWriter(_fresh(workdir / "metrics.jsonl")) as metrics,
        writers.JsonlWriter(_fresh(workdir / "samples.jsonl")) as samples,
    ):
        log = train.Log(metrics, samples, config.evaluate.samples)
        arm = functools.partial(
            train.train, world, student, start, teacher, config=config.train, judge=judge, log=log
        )
        for seed in range(config.seed, config.seed + config.seeds):
            for method in config.arms:
                with stage(f"train {method.name}"):
                    tried = [
                        arm(method=method, rate=rate, seed=seed)
                        for rate in config.train.learning_rates
                    ]
                arms.append(best(tried, method))

    moved = next((arm for arm in arms if arm.curve["name"] == "opd"), arms[0])
    with stage("probe late"):
        last = probe.measure(world, student, moved.late, teacher, methods, config.probe)

    results: dict[str, Any] = {
        "schema": SCHEMA,
        "config": to_dict(config),
        "environment": environment(world),
        "rollouts": probe.rollouts(first, world)
        | {"late": probe.rollouts(last, world) | {"arm": moved.curve["name"],
           "after_rollouts": moved.late_rollouts}},
        "by_position": {
            "start": probe.by_position(first, world),
            "late": probe.by_position(last, world),
        },
        "ess": {
            "start": probe.staleness(first, world, student, start),
            "start's rollouts, late parameters": probe.staleness(
                first, world, student, moved.late
            ),
        },
        "estimators": probe.entries(first, *paid, "start") + probe.entries(last, *paid, "late"),
        "training": [arm.curve for arm in arms],
        "learning_rate": "the best of the grid for each arm, by its last evaluation"
        if len(config.train.learning_rates) > 1
        else "one for all arms",
        "models": models,
        "stages": stage.seconds,
        "warnings": cautions(models),
    }  # fmt: skip
    results = writers.strict(results)
    results["advice"] = advice.advise(results)
    report.write(results, workdir)
    writers.dump_json(results, workdir / "results.json")
    return results


def check(config: Config, workdir: Path) -> Checked:
    """All that can be wrong, said before a model is compiled or anything written."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir}: it is a file")
    refuse_another(config, workdir)
    task = pipeline.load(config.data)
    if config.evaluate.split not in task.splits:
        allowed = ", ".join(task.splits)
        raise ValueError(
            f"config.evaluate.split = {config.evaluate.split!r}: allowed are {allowed}"
        )
    for name, player in (("teacher", config.teacher), ("student", config.student)):
        players.check(name, player, task)
    world = World(
        mesh=sharding.make_mesh(**dataclasses.asdict(config.mesh)),
        task=task,
        sampling=Sampling(
            length=task.max_completion,
            eos_ids=(task.tokenizer.eos_id,),
            pad_id=task.tokenizer.pad_id,
            temperature=config.temperature,
        ),
        how=Pass(config.temperature, config.chunk),
        group_size=config.group_size,
        seed=config.seed,
    )
    student = players.decoder(config.student, task)
    players.decoder(config.teacher, task)
    methods = config.probe_methods
    for method in (*methods, *config.arms):
        table.require(method, available(task))
        table.fits(method, task.tokenizer.vocab)
    backend.check()
    return world, student, methods


def available(task: Task) -> frozenset[str]:
    """What rollouts of this task can be graded by: keys of table.NEEDS."""
    teacher = {"teacher_full", "teacher_logp", "teacher_samples"}
    return frozenset(teacher | ({"reward"} if task.verifier is not None else set()))


def finished(workdir: Path) -> dict[str, Any] | None:
    """The results that the workdir has, if it has."""
    try:
        results = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError):
        return None
    return results if isinstance(results, dict) and results.get("schema") == SCHEMA else None


def refuse_another(config: Config, workdir: Path) -> None:
    """Refuses a workdir that has finished results of another config.

    Raises:
        ValueError: names the keys that differ.
    """
    done = finished(workdir)
    if done is None:
        return
    then, now = _flat(done["config"]), _flat(writers.strict(to_dict(config)))
    differ = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if differ:
        said = "; ".join(f"{key} was {then.get(key)}, now {now.get(key)}" for key in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ValueError(
            f"--workdir={workdir} has results of another config: {said}{more}\n"
            "give another workdir, or remove this one"
        )


def _flat(nested: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Nested dictionaries as one, its keys dotted."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}.{key}"
        found |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return found


def self_test(world: World, student: Model, params: Params, config: Config) -> None:
    """Teacher := student: zero KL, and zero gradient for the rows where theory says so.

    Raises:
        RuntimeError: a number that isn't zero; the machine or the code can't be trusted.
    """
    batch = pipeline.prompts(world.task, "train", world.seed, config.train.prompts)[0]
    drawn = evaluate.draw(world, student, params, batch, 0, world.seed, world.group_size)
    head = programs.teacher(world.mesh, student, params, drawn)
    stats = programs.score(world.mesh, student, params, drawn, head, world.how)
    largest = float(np.max(np.abs(np.asarray(stats.kl) * np.asarray(drawn.mask))))
    methods = tuple(method for method in config.arms if table.vanishes(method))
    squares = np.zeros(0)
    if methods:
        uniforms = steps.fresh_uniforms(world.seed, 0, drawn, methods)
        found = programs.gradients(
            world.mesh, student, params, drawn, head, methods, uniforms, world.how
        )
        squares = np.diag(np.asarray(programs.gram(found)))
    tolerance = 1e-4 if config.student.model.dtype == "float32" else 1e-1
    if not (largest <= tolerance and np.all(squares <= tolerance**2)):
        raise RuntimeError(
            f"self-test, teacher := student: KL {largest:.2g} nats, gradient norms "
            f"{np.sqrt(squares)}; all should be 0 to rounding ({tolerance:g})"
        )


def best(tried: list[train.Arm], method: table.Method) -> train.Arm:
    """The best learning rate by the last evaluation: KL where the teacher grades, else accuracy."""

    def loss(arm: train.Arm) -> float:
        graded = table.claims(method).kind != "reward"
        return arm.curve["kl"][-1].value if graded else -arm.curve["accuracy"][-1].value

    return min(tried, key=loss)


def _fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def cautions(models: dict[str, dict[str, Any]]) -> list[str]:
    """What the players' accuracies make doubtful."""
    found = []
    teacher, student = (models[name].get("accuracy") for name in ("teacher", "student"))
    if not isinstance(teacher, Interval) or not isinstance(student, Interval):
        return ["no verifier: accuracy was not measured"]
    if teacher.value < TEACHER_AT_LEAST:
        found.append(f"teacher's accuracy {teacher.value:.2f}, below {TEACHER_AT_LEAST}")
    low, high = STUDENT_WITHIN
    if not low <= student.value <= high:
        found.append(
            f"student's accuracy at the start {student.value:.2f}, outside {low} to {high}: "
            "a group-normalised reward has little signal there"
        )
    return found


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

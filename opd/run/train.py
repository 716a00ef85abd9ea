"""One arm: a method trained from a given start, evaluated as it goes."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from opd.data import pipeline
from opd.engine import costs, programs
from opd.method.table import Method
from opd.run import evaluate, writers
from opd.run.config import TrainConfig
from opd.run.evaluate import World
from opd.types import Model, Params

# (parameters, how many completions to show) -> figures and completions.
Judge = Callable[[Params, int], tuple[dict[str, Any], list[dict[str, Any]]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Log:
    """Where an arm writes: a line an update, and some completions an evaluation."""

    metrics: writers.JsonlWriter
    samples: writers.JsonlWriter
    shown: int


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A trained arm: its curve, and the parameters that the late probe wants."""

    curve: dict[str, Any]
    late: Params  # at the first evaluation with KL <= 10 % of the start's, or the last
    late_rollouts: int


@functools.lru_cache
def optimizer(config: TrainConfig, rate: float) -> optax.GradientTransformation:
    """AdamW after clipping, with a warm-up and then a constant rate: the same for every arm.

    One object for one config: it is static, and another would compile everything again.
    """
    schedule = optax.warmup_constant_schedule(0.0, rate, config.warmup)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def train(
    world: World,
    student: Model,
    start: Params,
    teacher: tuple[Model, Params],
    method: Method,
    config: TrainConfig,
    rate: float,
    seed: int,
    judge: Judge,
    log: Log,
) -> Arm:
    """Train one arm. Prompts, keys and schedule depend on (seed, update) alone, not on the arm.

    `seconds` counts rollout, verification, teacher and update; compilation and evaluation are off
    the clock.
    """
    step = optimizer(config, rate)
    batches = pipeline.prompts(world.task, "train", seed, config.prompts)

    def advance(state, number: int):
        rollout = evaluate.draw(
            world, student, state.params, batches[number], number, seed, world.group_size
        )
        asks = costs.needs_teacher(method)
        head = programs.teacher(world.mesh, *teacher, rollout) if asks else None
        return programs.update(
            world.mesh, student, step, state, rollout, head, method, seed, world.how
        )

    # Compiles: the state it leaves is dropped.
    jax.block_until_ready(advance(programs.start(world.mesh, student, step, start), 0))
    state = programs.start(world.mesh, student, step, start)
    share = config.prompts * world.group_size
    curve = _Curve(method.name, rate, seed)

    def note(done: int) -> None:
        found, shown = judge(state.params, log.shown)
        curve.add(done * share, clock, found)
        for sample in shown:
            log.samples.write({"arm": method.name, "seed": seed, "update": done} | sample)

    late, clock = None, 0.0
    note(0)
    with writers.progress(f"{method.name} seed {seed}", config.updates) as bar:
        for number in range(config.updates):
            began = time.perf_counter()
            state, found = jax.block_until_ready(advance(state, number))
            clock += time.perf_counter() - began
            done = number + 1
            values = {name: float(metric.value()) for name, metric in found.items()}
            log.metrics.write(
                {"arm": method.name, "seed": seed, "learning_rate": rate, "update": done,
                 "rollouts": done * share, "seconds": clock} | values
            )  # fmt: skip
            if done % config.evaluate_every == 0 or done == config.updates:
                note(done)
                if late is None and curve.close():
                    late = (jax.tree.map(jnp.copy, state.params), done * share)
            bar(note=f"reward {values['reward']:.2f}" if "reward" in values else None)
    late = late or (state.params, config.updates * share)
    return Arm(curve.record, *late)


class _Curve:
    """Lists of equal length, one entry an evaluation, step 0 included."""

    KEYS = ("accuracy", "accuracy_greedy", "kl", "length", "truncated")

    def __init__(self, name: str, rate: float, seed: int):
        self.record: dict[str, Any] = {
            "name": name,
            "seed": seed,
            "learning_rate": rate,
            "rollouts": [],
            "seconds": [],
            **{key: [] for key in self.KEYS},
        }

    def add(self, rollouts: int, seconds: float, found: Mapping[str, Any]) -> None:
        """One evaluation."""
        self.record["rollouts"].append(rollouts)
        self.record["seconds"].append(seconds)
        for key in self.KEYS:
            self.record[key].append(found.get(key))

    def close(self) -> bool:
        """Whether the sequence KL has come down to a tenth of the start's."""
        first, last = self.record["kl"][0], self.record["kl"][-1]
        return last.value <= 0.1 * first.value

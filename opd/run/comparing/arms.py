"""One arm: a method trained from a given start, evaluated as it goes."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from opd import disk
from opd.engine import optimizer
from opd.method.table import Method
from opd.run.drawing import Player, World
from opd.run.probe.evaluate import Judge
from opd.run.rollouts import rewards
from opd.run.settings.config import Config
from opd.run.store import progress
from opd.run.training import policy
from opd.run.training.note import Note
from opd.run.training.signs import Circumstances


@dataclasses.dataclass(frozen=True, eq=False)
class Log:
    """Where an arm writes: a line an update, and some completions an evaluation."""

    metrics: disk.JsonlWriter
    samples: disk.JsonlWriter
    shown: int


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """A trained arm: its curve, the parameters that the late probe wants, what was warned of."""

    curve: dict[str, Any]
    last: Player
    late: Player  # at the first evaluation with KL <= 10 % of the start's, or the last
    late_rollouts: int
    warnings: tuple[str, ...] = ()


def train(
    world: World,
    student: Player,
    teacher: Player,
    method: Method,
    config: Config,
    rate: float,
    seed: int,
    judge: Judge,
    log: Log,
) -> Arm:
    """Train one arm. Prompts, keys and schedule depend on (seed, update) alone, not on the arm.

    `seconds` counts rollout, verification, teacher and update; compilation and evaluation are off
    the clock.
    """
    learner = policy.make(
        world, student, teacher, method, config, rate, seed, judge, rewards.verifier(world),
        world.sampling,
    )  # fmt: skip
    jax.block_until_ready(
        learner.advance(learner.start(), {}, 0)[0]
    )  # compiles: the state it leaves is dropped
    state, memory = learner.start(), {}
    curve = _Curve(method.name, rate, seed)
    named = f"{method.name} (seed {seed}, rate {rate:g})"

    def evaluate(done: int) -> None:
        figures, samples = judge(Player(student.model, state.params), log.shown)
        curve.add(memory.get("generated", 0), clock, figures)
        for sample in samples:
            log.samples.write(
                {"arm": method.name, "seed": seed, "learning_rate": rate, "update": done} | sample
            )

    run = Circumstances.of(config.optimizer, method, config.prompts, world.sampling.length)
    late, clock, note = None, 0.0, Note()
    evaluate(0)
    with progress.progress(f"{method.name} seed {seed}", config.updates) as bar:
        for number in range(config.updates):
            began = time.perf_counter()
            state, memory, values = learner.advance(state, memory, number)
            jax.block_until_ready(state)
            clock += time.perf_counter() - began
            done = number + 1
            values |= {"skipped": int(optimizer.skipped(state.optimizer)[1])}
            values |= {"limited": optimizer.limited(state.optimizer)}
            note, names, warnings = note.updated(clock).looked(values, run)
            for warning in warnings:
                print(f"warning: {named}, {warning}", file=sys.stderr)
            log.metrics.write(
                {"arm": method.name, "seed": seed, "learning_rate": rate, "update": done,
                 "rollouts": memory["generated"], "seconds": clock, "warnings": names} | values
            )  # fmt: skip
            if done % config.evaluate.every == 0 or done == config.updates:
                evaluate(done)
                if late is None and curve.close():
                    late = (jax.tree.map(jnp.copy, state.params), memory["generated"])
            bar(beside=f"reward {values['reward']:.2f}" if "reward" in values else None)
    params, rollouts = late or (state.params, memory["generated"])
    last = Player(student.model, state.params)
    said = tuple(f"{named}, {warning}" for warning in note.warnings)
    return Arm(curve.record, last, Player(student.model, params), rollouts, said)


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

    def add(self, rollouts: int, seconds: float, figures: Mapping[str, Any]) -> None:
        """One evaluation."""
        self.record["rollouts"].append(rollouts)
        self.record["seconds"].append(seconds)
        for key in self.KEYS:
            self.record[key].append(figures.get(key))

    def close(self) -> bool:
        """Whether the sequence KL has come down to a tenth of the start's: near the end of its way.

        There the signal is small, and other estimators may be the better ones than at the start.
        """
        first, last = self.record["kl"][0], self.record["kl"][-1]
        return last.value <= 0.1 * first.value

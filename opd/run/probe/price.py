"""What an update with each row alone costs: seconds, FLOPs, bytes, per rollout."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from opd.data import pipeline
from opd.engine import costs, optimizer, programs
from opd.engine.optimizer import OptimizerConfig
from opd.measure.intervals import Interval
from opd.method.table import Method
from opd.run import drawing
from opd.run.drawing import Player, World
from opd.types import Rollout


@dataclasses.dataclass(frozen=True)
class Price:
    """What an update with one row alone costs, over its rollouts; bytes are of the whole batch."""

    repeats: tuple[float, ...]  # seconds; entry r of every row is of repeat r, interleaved
    flops: float
    bytes: int

    @property
    def seconds(self) -> Interval:
        """The median over repeats."""
        return Interval(*costs.median(self.repeats))


def price(
    world: World,
    student: Player,
    teacher: Player,
    methods: tuple[Method, ...],
    config: OptimizerConfig,
    prompts: int,
    repeats: int,
) -> dict[str, Price]:
    """What an update with each row alone costs, by name.

    Seconds and FLOPs are of the whole update (rollout, teacher, student), per rollout. Bytes are
    the peak of the update's own program for the whole batch on one device: the student's
    parameters, their gradients and moments and the teacher's hidden states are in it, the
    teacher's parameters and the sampler's cache are not.
    Rows that differ only in [B, T] scalars share a program and a figure. The clock runs over
    rollout, teacher and update in turn, interleaved, `repeats` times, on one batch of `prompts`
    as the arms train on.
    """
    step = optimizer.Optimizer(config, config.learning_rate)
    batch = pipeline.prompts(world.task, "train", world.seed, prompts)[0]

    def draw() -> Rollout:
        return drawing.draw(world, student, batch, 0, world.seed, world.group_size)

    drawn = draw()
    clock: dict[Any, Callable[[], Any]] = {
        "rollout": draw,
        "teacher": lambda: drawing.head(world, teacher, drawn),
    }
    kinds = {costs.program_key(method): method for method in methods[::-1]}
    heads = {key: clock["teacher"]() if costs.needs_teacher(kinds[key]) else None for key in kinds}
    states = {key: programs.start(world.mesh, student.model, step, student.params) for key in kinds}
    lowered = [
        programs.update.lower(
            world.mesh, student.model, step, states[key], drawn, heads[key], method, world.seed,
            world.scoring, config.microbatches,
        )
        for key, method in kinds.items()
    ]  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = dict(zip(kinds, pool.map(lambda program: program.compile(), lowered)))
    for key, program in compiled.items():
        clock[key] = _Updates(program, states[key], drawn, heads[key], world.seed)
    taken = costs.seconds(clock, repeats)
    count = len(drawn.mask)
    prices = {}
    for method in methods:
        key = costs.program_key(method)
        used: list[Any] = [key]
        used += ["rollout"] if costs.draws_rollouts(method) else []
        used += ["teacher"] if costs.needs_teacher(method) else []
        seconds = tuple(each / count for each in costs.whole([taken[name] for name in used]))
        flops = costs.flops(
            student.model, teacher.model, method, drawn.prompt.shape[1], drawn.mask.shape[1],
            world.scoring, count // config.microbatches, drawn.as_told.prompt.shape[1],
        )  # fmt: skip
        prices[method.name] = Price(seconds, flops["total"], costs.peak_bytes(compiled[key]))
    return prices


class _Updates:
    """Updates one after the other: each consumes the state that the one before left."""

    def __init__(self, compiled, state, *rest):
        self.compiled, self.state, self.rest = compiled, state, rest

    def __call__(self):
        self.state, metrics = self.compiled(self.state, *self.rest)
        return self.state, metrics

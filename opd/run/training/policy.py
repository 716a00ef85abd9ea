"""Training of a student by one row: rollouts in flight, when they are given up, one update.

A batch of rollouts is drawn, graded and scored by the teacher once; it then serves for one update
or several (`ReuseConfig`). Whatever is random is a function of (seed, number), and what goes from
one update to the next besides the state is in `memory`: counters, the rollouts in flight, a buffer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from opd.engine import costs, optimizer, programs, sharding, steps
from opd.engine.steps import Critic, Sampling, State
from opd.engine.vocab import Head
from opd.method import facts
from opd.method.table import Method
from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.run.drawing import World
from opd.run.probe import probe
from opd.run.probe.evaluate import Judge
from opd.run.rollouts import behavior
from opd.run.rollouts.behavior import Drawn, Source
from opd.run.settings.config import Config
from opd.types import Params, Rollout, pytree

Memory = dict[str, Any]  # a tree of arrays and counters
NOTHING: Memory = {"batches": 0, "generated": 0, "uses": 0, "probed": -1}


class Learner(Protocol):
    """What the trainer's loop trains."""

    name: str

    def start(self) -> Any:
        """The state before the first update."""

    def advance(self, state: Any, memory: Memory, number: int) -> tuple[Any, Memory, dict]:
        """Update `number`, from 0: the state is consumed. Returns state, memory and figures."""

    def params(self, state: Any) -> Params:
        """What evaluation looks at."""

    def judge(self, state: Any, samples: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Held-out figures with intervals, and some samples."""

    def merit(self, found: Mapping[str, Any]) -> float | None:
        """What an evaluation is worth: more is better."""


@pytree
class Flight:
    """A batch of rollouts in use, and what was computed of them once."""

    rollout: Rollout
    teacher: jax.Array | None = None  # [B, T, D], the teacher's hidden states
    behavior: Head | None = None  # the student's side of the vocabulary, as it was when it drew


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """All that an update of a policy needs besides the state: the same throughout a run."""

    world: World
    student: Decoder
    begin: Params  # the student's parameters before the first update
    teacher: tuple[Decoder, Params] | None
    method: Method
    config: Config
    step: optax.GradientTransformation
    critic: Critic | None
    source: Source
    judged_by: Judge

    @property
    def name(self) -> str:
        return self.method.name

    def start(self) -> State:
        """The student's start, and fresh optimizers."""
        return programs.start(self.world.mesh, self.student, self.step, self.begin, self.critic)

    def params(self, state: State) -> Params:
        """The average where one is kept, else the parameters."""
        return optimizer.evaluated(self.student, state.params, state.optimizer)

    def judge(self, state: State, samples: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """`evaluate.evaluate` of the student."""
        return self.judged_by(self.params(state), samples)

    def merit(self, found: Mapping[str, Any]) -> float | None:
        """The reward for a reward's row, else -KL."""
        return merit(found, self.method)

    def advance(
        self, state: State, memory: Memory, number: int
    ) -> tuple[State, Memory, dict[str, Any]]:
        """Update `number` on the rollouts in flight, or on new ones where those are given up."""
        memory = NOTHING | memory
        flight, said = self._in_flight(state.params, memory)
        fresh = said["refresh"] is not None
        if fresh:
            drawn, flight = self._draw(state, int(memory["batches"]), number, memory)
            memory |= {
                "batches": int(memory["batches"]) + drawn.batches,
                "generated": int(memory["generated"]) + drawn.generated,
                "uses": 0,
                "buffer": drawn.memory,
                "flight": _packed(flight),
            }
            said |= drawn.figures
            if flight.behavior is not None:
                said |= {"drift": 0.0, "drift_from": "enumerated"}  # the behavior is the student
            if self._due(memory, number):
                memory |= {"probed": number}
                said |= {"probe": self._probe(state.params, flight, number)}
        memory["uses"] = int(memory["uses"]) + 1
        teacher = None
        if flight.teacher is not None:
            model, params = self.teacher
            teacher = steps.head_of(model, params, flight.teacher)
        state, metrics = programs.update(
            self.world.mesh, self.student, self.step, state, flight.rollout, teacher, self.method,
            self.source.seed, self.world.how, self.config.optimizer.microbatches, self.critic,
        )  # fmt: skip
        found = {name: np.asarray(metric.value()) for name, metric in metrics.items()}
        said = {"drift_from": "sampled", "ess_of": facts.weighs(self.method)} | said
        said |= {"uses": memory["uses"], "flops": self._flops(fresh)}
        return state, memory, found | said

    def _in_flight(self, params: Params, memory: Memory) -> tuple[Flight | None, dict[str, Any]]:
        """The rollouts in flight, how stale they are, and why they are given up: None if not."""
        reuse, packed = self.config.reuse, memory.get("flight")
        if packed is None:
            return None, {"refresh": "start"}
        if memory["uses"] >= reuse.updates:
            return None, {"refresh": "updates"}
        flight = _unpacked(packed, self.student, self.world)
        found = programs.drift(
            self.world.mesh, self.student, params, flight.rollout, flight.behavior,
            facts.weighs(self.method), self.world.how,
        )  # fmt: skip
        said: dict[str, Any] = {name: float(value) for name, value in found.items()}
        said["drift_from"] = "sampled" if flight.behavior is None else "enumerated"
        reason = None
        if said["ess_rule"] < reuse.ess:
            reason = "ess"
        elif reuse.kl is not None and said["drift"] > reuse.kl:
            reason = "kl"
        if reason is not None:
            return None, {"refresh": reason, "given_up_at": {k: said[k] for k in found}}
        return flight, said | {"refresh": None}

    def _draw(self, state: State, batch: int, number: int, memory: Memory) -> tuple[Drawn, Flight]:
        """New rollouts of the method's behavior, and all that is computed of them once."""
        world, needed = self.world, facts.needs(self.method)
        drawn = self.source.draw(state.params, batch, number, memory.get("buffer", {}))
        rollout = drawn.rollout

        def logp(params: Params) -> jax.Array:
            stats = programs.score(world.mesh, self.student, params, rollout, None, world.how)
            return stats.logp_student

        kept: dict[str, Any] = {}
        if "reference" in needed:
            kept["logp_reference"] = logp(self.begin)
        if any(term.correction != "none" for term in self.method.terms):
            kept["logp_proximal"] = logp(state.params)
        if self.critic is not None:
            kept["value"] = programs.values(
                world.mesh, self.critic.model, state.critic.params, rollout
            )
        rollout = dataclasses.replace(rollout, **kept)
        teacher, own = None, None
        if costs.needs_teacher(self.method):
            teacher = programs.teacher(world.mesh, *self.teacher, rollout).hidden
        if self._enumerates_drift:
            own = programs.teacher(world.mesh, self.student, state.params, rollout)
            # The unembedding may be the parameters' own array, which the update consumes.
            own = dataclasses.replace(own, unembedding=jnp.copy(own.unembedding))
        return drawn, Flight(rollout, teacher, own)

    @property
    def _enumerates_drift(self) -> bool:
        """Whether KL(behavior || current) can be enumerated: of the student as it was, exactly."""
        reuse, exact = self.config.reuse, self.source.sampling == self.world.sampling
        return reuse.updates > 1 and reuse.hidden and exact and self.method.behavior == "student"

    def _due(self, memory: Memory, number: int) -> bool:
        """Whether new rollouts are to be probed: the first ones of every n updates."""
        every, last = self.config.probe.every, int(memory["probed"])
        return every > 0 and (last < 0 or number // every > last // every)

    def _probe(self, params: Params, flight: Flight, number: int) -> list[dict[str, Any]]:
        """`probe.follow` on the rollouts of an update."""
        return probe.follow(
            self.world, self.student, params, self.teacher, self.config.probe_methods,
            flight.rollout, number, self.source.seed, self.config.probe,
        )  # fmt: skip

    def _flops(self, fresh: bool) -> float:
        """Matmul FLOPs of an update's batch, of rollouts that never end; a critic's left out."""
        task, teacher = self.world.task, None if self.teacher is None else self.teacher[0]
        sizes = task.max_prompt, task.max_completion
        found = costs.flops(self.student, teacher, self.method, *sizes, self.world.how)
        share = self.config.prompts * self.config.group_size
        return float(share * (found["total"] if fresh else found["update"]))


def make(
    world: World,
    student: Decoder,
    begin: Params,
    teacher: tuple[Decoder, Params] | None,
    method: Method,
    config: Config,
    rate: float,
    seed: int,
    judge: Judge,
    grade: behavior.Grade,
    sampling: Sampling,
    workdir: Path | None = None,
) -> Policy:
    """A policy to be trained at a learning rate, on prompts and noise of a seed."""
    critic = None
    if "value" in facts.needs(method):
        own = dataclasses.replace(config.optimizer, warmup=config.critic.warmup, ema=0.0)
        critic = Critic(Scalar(student), optimizer.make(own, config.critic.learning_rate))
    source = Source(
        world=world, student=student, teacher=teacher, method=method, config=config, seed=seed,
        grade=grade, sampling=sampling, start=begin, workdir=workdir,
    )  # fmt: skip
    step = optimizer.make(config.optimizer, rate)
    return Policy(world, student, begin, teacher, method, config, step, critic, source, judge)


def merit(found: Mapping[str, Any], method: Method) -> float | None:
    """What an evaluation is worth, more is better: the reward for a reward's row, else -KL."""
    figures = {
        "reward": (1.0, found.get("reward")),
        "accuracy": (1.0, found.get("accuracy")),
        "kl": (-1.0, found.get("kl")),
    }
    graded = [part.signal for part in facts.parts(method)] == ["reward"]
    order = ("reward", "accuracy", "kl") if graded else ("kl", "accuracy", "reward")
    for name in order:
        sign, figure = figures[name]
        if figure is not None:
            return sign * figure.value
    return None


def generated(memory: Memory) -> int:
    """Sequences taken from the behavior so far, each once."""
    return int(memory.get("generated", 0))


# What a flight doesn't have, and what of a head is its model's.
NOT_KEPT = (type(None), int, float)


def _packed(value: Any) -> Any:
    """A dataclass of arrays as nested dictionaries of those that are there."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {name: _packed(part) for name, part in fields if not isinstance(part, NOT_KEPT)}


def _unpacked(packed: Mapping[str, Any], student: Decoder, world: World) -> Flight:
    """What `_packed` made of the student's flight, on the mesh."""
    batch = {name: part for name, part in packed.items() if name != "behavior"}
    batch = sharding.shard_batch(jax.tree.map(jnp.asarray, batch), world.mesh)
    own = packed.get("behavior")
    if own is not None:
        hidden = sharding.shard_batch(jnp.asarray(own["hidden"]), world.mesh)
        matrix = jnp.asarray(own["unembedding"])
        own = Head(hidden, matrix, student.logit_cap, student.tokens)
    return Flight(Rollout(**batch["rollout"]), batch.get("teacher"), own)

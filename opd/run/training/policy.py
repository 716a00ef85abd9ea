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

from opd import processes
from opd.data.served import Gone, Server
from opd.engine import costs, optimizer, programs, sharding, steps
from opd.engine.optimizer import Optimizer
from opd.engine.steps import Critic, Sampling, State
from opd.engine.vocab import Head
from opd.method import facts
from opd.method.table import Method
from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.run.drawing import Grader, Player, World
from opd.run.probe import probe
from opd.run.probe.evaluate import Judge
from opd.run.rollouts import flight
from opd.run.rollouts.behavior import Drawn, Source
from opd.run.rollouts.flight import Flight
from opd.run.settings.config import Config
from opd.types import Params, Rollout, pytree


class _Elsewhere:
    """A model whose matmuls are another machine's."""

    width = vocab = 0

    def matmul_flops(self, queries: int, keys: int) -> int:
        return 0


ELSEWHERE = _Elsewhere()

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

    def merit(self, figures: Mapping[str, Any]) -> float | None:
        """What an evaluation is worth: more is better."""


@pytree
class Followed(State):
    """A student's state, and what is trained of a teacher that follows it."""

    teacher: Params = None


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """All that an update of a policy needs besides the state: the same throughout a run."""

    world: World
    student: Decoder
    begin: Params  # the student's parameters before the first update
    teacher: Player | None  # of one that moves: as it begins
    method: Method
    config: Config
    optimizer: Optimizer
    critic: Critic | None
    source: Source
    judged_by: Judge
    server: Server | None = None  # of a teacher that is served

    @property
    def name(self) -> str:
        return self.method.name

    def start(self) -> State:
        """The student's start, and fresh optimizers; a teacher that follows starts there too."""
        state = programs.start(
            self.world.mesh, self.student, self.optimizer, self.begin, self.critic
        )
        if not self._kept:
            return state
        return self._followed(state, self._follow(state.params, None, 0.0))

    @property
    def _moves(self) -> bool:
        """Whether the teacher is another one from update to update."""
        return self.teacher is not None and self.config.teacher.moves

    @property
    def _kept(self) -> bool:
        """Whether the state has a teacher's parameters."""
        return self.teacher is not None and self.config.teacher.kept

    def _follow(self, params: Params, average: Params | None, decay: float) -> Params:
        return programs.follow(self.world.mesh, self.student, params, average, decay)

    @staticmethod
    def _followed(state: State, teacher: Params) -> Followed:
        return Followed(state.params, state.optimizer, state.step, state.critic, teacher)

    def _after(self, state: State, before: State, number: int) -> State:
        """The state after update `number`, with the teacher that follows it from `before`."""
        if not isinstance(before, Followed):
            return state
        config = self.config.teacher
        if config.source == "ema":
            return self._followed(state, self._follow(state.params, before.teacher, config.decay))
        due = (number + 1) % config.every == 0
        return self._followed(
            state, self._follow(state.params, None, 0.0) if due else before.teacher
        )

    def taught_by(self, state: State) -> Player | None:
        """The teacher at a state."""
        if not self._moves:
            return self.teacher
        params = state.params
        if isinstance(state, Followed):
            params = self.student.with_trained(params, state.teacher)
        return Player(self.teacher.model, params)

    def params(self, state: State) -> Params:
        """The average where one is kept, else the parameters."""
        return optimizer.evaluated(self.student, state.params, state.optimizer)

    def judge(self, state: State, samples: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """`evaluate.evaluate` of the student."""
        return self.judged_by(
            Player(self.student, self.params(state)), samples, teacher=self.taught_by(state)
        )

    def merit(self, figures: Mapping[str, Any]) -> float | None:
        """The reward for a reward's row, else -KL."""
        return merit(figures, self.method)

    def advance(
        self, state: State, memory: Memory, number: int
    ) -> tuple[State, Memory, dict[str, Any]]:
        """Update `number` on the rollouts in flight, or on new ones where those are given up."""
        memory = NOTHING | memory
        in_use, line = self._in_flight(state.params, memory)
        fresh = line["refresh"] is not None
        if fresh:
            drawn, in_use = self._draw(state, int(memory["batches"]), number, memory)
            memory |= {
                "batches": int(memory["batches"]) + drawn.batches,
                "generated": int(memory["generated"]) + drawn.generated,
                "uses": 0,
                "buffer": drawn.memory,
                "flight": flight.packed(in_use),
            }
            line |= drawn.figures
            if in_use.behavior is not None:
                line |= {"drift": 0.0, "drift_from": "enumerated"}  # the behavior is the student
            if self._due(memory, number):
                memory |= {"probed": number}
                line |= {"probe": self._probe(state, in_use, number)}
        memory["uses"] = int(memory["uses"]) + 1
        head = in_use.teacher
        if head is not None and not isinstance(head, Head):
            head = steps.head_of(self.teacher.model, self.teacher.params, head)
        before, state = state, State(state.params, state.optimizer, state.step, state.critic)
        state, metrics = programs.update(
            self.world.mesh, self.student, self.optimizer, state, in_use.rollout, head, self.method,
            self.source.seed, self.world.scoring, self.config.optimizer.microbatches, self.critic,
        )  # fmt: skip
        state = self._after(state, before, number)
        values = processes.on_host({name: metric.value() for name, metric in metrics.items()})
        values |= self._by_teacher(values)
        line = {"drift_from": "sampled", "ess_of": facts.weighs(self.method)} | line
        line |= {"uses": memory["uses"], "flops": self._flops(fresh)}
        return state, memory, values | line

    def _by_teacher(self, values: dict[str, Any]) -> dict[str, float]:
        """KL and tokens of each of several teachers by its name, taken out of an update's figures.

        Where one graded nothing there is no KL.
        """
        names = self.config.teachers.names
        kl, tokens = (values.pop(f"{name}_by_teacher", None) for name in ("kl", "tokens"))
        if tokens is None:
            return {}
        found = {f"tokens_{name}": float(n) for name, n in zip(names, tokens, strict=True)}
        if kl is not None:
            graded = (pair for pair in zip(names, kl, tokens, strict=True) if pair[2] > 0)
            found |= {f"kl_{name}": float(value) for name, value, _ in graded}
        return found

    def _in_flight(self, params: Params, memory: Memory) -> tuple[Flight | None, dict[str, Any]]:
        """The rollouts in flight, how stale they are, and why they are given up: None if not."""
        reuse, packed = self.config.reuse, memory.get("flight")
        if packed is None:
            return None, {"refresh": "start"}
        if memory["uses"] >= reuse.updates:
            return None, {"refresh": "updates"}
        in_use = flight.unpacked(packed, self.student, self.world)
        figures = flight.drift(in_use, Player(self.student, params), self.method, self.world)
        reason = flight.given_up(reuse, figures)
        if reason is not None:
            return None, {"refresh": reason, "given_up_at": figures}
        drift_from = "sampled" if in_use.behavior is None else "enumerated"
        return in_use, figures | {"drift_from": drift_from, "refresh": None}

    def _draw(self, state: State, batch: int, number: int, memory: Memory) -> tuple[Drawn, Flight]:
        """New rollouts of the method's behavior, and all that is computed of them once."""
        world, needed = self.world, facts.needs(self.method)
        drawn = self.source.draw(state.params, batch, number, memory.get("buffer", {}))
        rollout = drawn.rollout

        def logp(params: Params) -> jax.Array:
            stats = programs.score(world.mesh, self.student, params, rollout, None, world.scoring)
            return stats.logp_student

        once: dict[str, Any] = {}
        if "reference" in needed:
            once["logp_reference"] = logp(self.begin)
        if any(term.correction != "none" for term in self.method.terms):
            once["logp_proximal"] = logp(state.params)
        if self.critic is not None:
            once["value"] = programs.values(
                world.mesh, self.critic.model, state.critic.params, rollout
            )
        rollout = dataclasses.replace(rollout, **once)
        teacher, behavior = None, None
        if self.server is not None:
            rollout = served_by(self.server, rollout)
        elif costs.needs_teacher(self.method):
            teacher = programs.hidden(world.mesh, *self.taught_by(state), rollout.as_told)
            if self._moves:
                teacher = _as_it_is(*self.taught_by(state), teacher)
        if self._enumerates_drift:
            hidden = programs.hidden(world.mesh, self.student, state.params, rollout)
            behavior = _as_it_is(self.student, state.params, hidden)
        return drawn, Flight(rollout, teacher, behavior)

    @property
    def _enumerates_drift(self) -> bool:
        """Whether KL(behavior || current) can be enumerated: of the student as it was, exactly."""
        reuse, exact = self.config.reuse, self.source.sampling == self.world.sampling
        return reuse.updates > 1 and reuse.hidden and exact and self.method.behavior == "student"

    def _due(self, memory: Memory, number: int) -> bool:
        """Whether new rollouts are to be probed: the first ones of every n updates."""
        every, last = self.config.probe.every, int(memory["probed"])
        return every > 0 and (last < 0 or number // every > last // every)

    def _probe(self, state: State, fresh: Flight, number: int) -> list[dict[str, Any]]:
        """`probe.follow` on the rollouts of an update."""
        return probe.follow(
            self.world, Player(self.student, state.params), self.taught_by(state), fresh.rollout,
            number, self.source.seed, self.config.probe,
        )  # fmt: skip

    def _flops(self, fresh: bool) -> float:
        """Matmul FLOPs of an update's batch, of rollouts that never end; a critic's left out."""
        task, teacher = self.world.task, None if self.teacher is None else self.teacher.model
        if self.server is not None:
            teacher = ELSEWHERE
        sizes = task.max_prompt, task.max_completion
        rollouts = self.config.prompts * self.config.group_size
        rows = rollouts // self.config.optimizer.microbatches
        told = None if task.told is None else task.told.width
        flops = costs.flops(
            self.student, teacher, self.method, *sizes, self.world.scoring, rows, told
        )
        return float(rollouts * (flops["total"] if fresh else flops["update"]))


def served_by(server: Server, rollout: Rollout) -> Rollout:
    """The rollout with what a server says of its tokens, after the prompt that the teacher reads.

    Each process asks for the rows on its own devices.

    Raises:
        Gone: the server doesn't answer; at any process.
    """
    read = rollout.as_told
    rows, arrays = sharding.own_rows(read.prompt, read.prompt_mask, read.tokens, read.mask)
    sequences = [
        (prompt[given].tolist(), tokens[mask].tolist())
        for prompt, given, tokens, mask in zip(*arrays)
    ]
    said = processes.together(
        lambda: server.logp([prompt + completion for prompt, completion in sequences]), Gone
    )
    logp = np.zeros(rollout.mask.shape, np.float32)
    for row, mask, (_, completion), found in zip(rows, arrays[3], sequences, said, strict=True):
        logp[row][mask] = found[len(found) - len(completion) :]
    laid = sharding.put(jnp.asarray(logp), rollout.logp_behavior.sharding)
    return dataclasses.replace(rollout, logp_teacher=laid)


def _as_it_is(model: Decoder, params: Params, hidden: jax.Array) -> Head:
    """A side of the vocabulary that outlives its parameters, which an update consumes."""
    head = steps.head_of(model, params, hidden)
    return dataclasses.replace(head, unembedding=jnp.copy(head.unembedding))


def make(
    world: World,
    student: Player,
    teacher: Player | None,
    method: Method,
    config: Config,
    rate: float,
    seed: int,
    judge: Judge,
    grade: Grader,
    sampling: Sampling,
    workdir: Path | None = None,
    server: Server | None = None,
) -> Policy:
    """A policy to be trained at a learning rate, on prompts and noise of a seed."""
    critic = None
    if "value" in facts.needs(method):
        slower = dataclasses.replace(config.optimizer, warmup=config.critic.warmup, ema=0.0)
        learned = optimizer.Optimizer(slower, config.critic.learning_rate)
        critic = Critic(Scalar(student.model), learned)
    source = Source(
        world=world, student=student.model, teacher=teacher, method=method, groups=config.prompts,
        buffer=config.buffer, dataset=config.dataset, reward=config.reward, seed=seed, grade=grade,
        sampling=sampling, start=student.params, workdir=workdir,
    )  # fmt: skip
    adamw = optimizer.Optimizer(config.optimizer, rate)
    return Policy(world, *student, teacher, method, config, adamw, critic, source, judge, server)


def merit(figures: Mapping[str, Any], method: Method) -> float | None:
    """What an evaluation is worth, more is better: the reward for a reward's row, else -KL."""
    graded = [part.signal for part in facts.parts(method)] == ["reward"]
    order = ("reward", "accuracy", "kl") if graded else ("kl", "accuracy", "reward")
    for name in order:
        if figures.get(name) is not None:
            return (-1.0 if name == "kl" else 1.0) * figures[name].value
    return None


def generated(memory: Memory) -> int:
    """Sequences taken from the behavior so far, each once."""
    return int(memory.get("generated", 0))

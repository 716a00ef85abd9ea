"""Our side: the product's programs as a training calls them, in a process of its own.

Random weights, tokens and prompts of the case's sizes; no id ends a completion. All calls of
programs are here and in `parts`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import parts, protocol
from experiments.bench.cases import Sizes
from experiments.parity import memory as folders
from opd import draws
from opd.engine import estimator, optimizer, programs, sharding, steps
from opd.engine.steps import Sampling, State
from opd.engine.vocab import Pass
from opd.method import facts, table
from opd.model.decoder import Decoder, DecoderConfig
from opd.run.players import models
from opd.types import Rollout

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def decoder(sizes: Sizes, layers: int) -> Decoder:
    """A Qwen3-shaped decoder, tied."""
    return Decoder(
        DecoderConfig(
            vocab=sizes.vocab,
            width=sizes.width,
            layers=layers,
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            mlp=sizes.mlp,
            rope_base=1e6,
            qk_norm=True,
            max_length=sizes.prompt + sizes.completion,
        )
    )


SKETCH = 2048  # a probe's usual width


class Training:
    """A student, its teacher and a batch; nothing of the optimizer before the first step."""

    def __init__(self, work: dict[str, Any]):
        self.sizes = sizes = Sizes(**work["sizes"])
        self.how, self.seed = Pass(chunk=work["chunk"]), work["seed"]
        self.mesh = sharding.make_mesh(jax.devices()[:1])
        self.student = decoder(sizes, sizes.layers)
        self.teacher = decoder(sizes, sizes.teacher_layers)
        self.params = programs.init(self.mesh, self.student, self.seed)
        self.teacher_params = programs.init(self.mesh, self.teacher, self.seed + 1)
        self.method = table.parse(work["method"])
        self.methods = tuple(map(table.parse, work["estimators"]))
        # The clip is said, so that peers clip alike.
        config = optimizer.OptimizerConfig(clip=work["clip"], warmup=0)
        self.optimizer = optimizer.Optimizer(config, work["rate"])
        # No id ends a row: every step draws and grades the same number of tokens.
        self.sampling = Sampling(sizes.completion, eos_ids=(), pad_id=0)
        self.state: State | None = None
        self.rollout, self.number = self.given(), 0
        self.flight: tuple | None = None
        self.total = None
        jax.block_until_ready((self.params, self.teacher_params, self.rollout))
        self.kind = work["step"]

    def before(self) -> None:
        """Nothing."""

    def step(self) -> None:
        """The step that was asked for."""
        getattr(self, self.kind)()
        self.number += 1

    def prompts(self) -> dict[str, Any]:
        """Rows of different prompts, on the mesh."""
        shape = self.sizes.batch, self.sizes.prompt
        tokens = np.random.default_rng(self.seed).integers(self.sizes.vocab, size=shape)
        rows = programs.batch_rows(tokens.astype(np.int32), np.ones(shape, bool), 1)
        return sharding.shard_batch(jax.tree.map(jnp.asarray, rows), self.mesh)

    def given(self) -> Rollout:
        """A rollout of random tokens, drawn by nobody."""
        shape = self.sizes.batch, self.sizes.completion
        tokens = np.random.default_rng(self.seed + 1).integers(self.sizes.vocab, size=shape)
        rollout = Rollout(
            **self.prompts(),
            tokens=tokens.astype(np.int32),
            mask=np.ones(shape, bool),
            logp_behavior=np.full(shape, -np.log(self.sizes.vocab), np.float32),
            ended=np.zeros(shape[:1], bool),
        )
        rollout = dataclasses.replace(
            rollout, group=np.arange(shape[0], dtype=np.int32) // self.sizes.group
        )
        return sharding.shard_batch(jax.tree.map(jnp.asarray, rollout), self.mesh)

    # ------------------------------------------------------------------- what a step is made of

    @property
    def current(self) -> Any:
        """The student's parameters of now."""
        return self.params if self.state is None else self.state.params

    def draw(self) -> Rollout:
        """Completions of the current student."""
        return programs.rollout(
            self.mesh, self.student, self.current, **self.prompts(),
            key=draws.key(self.seed, self.number, "action"), sampling=self.sampling,
        )  # fmt: skip

    def graded(self, rollout: Rollout) -> jax.Array:
        """The teacher's hidden states."""
        return programs.hidden(self.mesh, self.teacher, self.teacher_params, rollout)

    def started(self) -> State:
        """The state before an update; the first one's makes the optimizer's moments."""
        if self.state is None:
            self.state = programs.start(self.mesh, self.student, self.optimizer, self.params)
            self.params = None  # a training's loop has the state alone
        return self.state

    def update(self, rollout: Rollout, hidden: jax.Array) -> dict[str, np.ndarray]:
        """One update, its figures fetched."""
        state = self.started()
        head = steps.head_of(self.teacher, self.teacher_params, hidden)
        self.state, metrics = programs.update(
            self.mesh, self.student, self.optimizer, state, rollout, head, self.method, self.seed,
            self.how,
        )  # fmt: skip
        return self.fetched(metrics)

    def fetched(self, metrics: Any) -> dict[str, np.ndarray]:
        """Figures on the host, as the trainer's loop fetches them."""
        return {name: np.asarray(metric.value()) for name, metric in metrics.items()}

    # ------------------------------------------------------------------------------------- steps

    def generate(self) -> None:
        """Case a."""
        jax.block_until_ready(self.draw())

    def whole(self) -> None:
        """Case b."""
        rollout = self.draw()
        self.update(rollout, self.graded(rollout))

    def learn(self) -> None:
        """Cases p, c and the like."""
        self.update(self.rollout, self.graded(self.rollout))

    def reuse(self) -> None:
        """Another update on rollouts in flight: how far the policy has moved, and the update."""
        if self.flight is None:
            behavior = programs.head(self.mesh, self.student, self.current, self.rollout)
            matrix = jnp.copy(behavior.unembedding)  # the update consumes the parameters
            behavior = dataclasses.replace(behavior, unembedding=matrix)
            self.flight = self.graded(self.rollout), behavior
        hidden, behavior = self.flight
        found = programs.drift(
            self.mesh, self.student, self.current, self.rollout, behavior,
            facts.weighs(self.method), self.how,
        )  # fmt: skip
        _ = {name: float(value) for name, value in found.items()}
        self.update(self.rollout, hidden)

    def probe(self) -> None:
        """A batch of a probe, as `opd.run.probe` measures it."""
        rollout, sizes, params = self.rollout, self.sizes, self.current
        head = programs.head(self.mesh, self.teacher, self.teacher_params, rollout)
        stats = programs.score(self.mesh, self.student, params, rollout, head, self.how)
        coefficients = programs.coefficients_of(self.methods, rollout, stats)
        uniforms = estimator.fresh_uniforms(self.seed, self.number, rollout, self.methods)
        if self.total is None:
            self.total = programs.no_moments(self.mesh, self.student, params, len(self.methods))
        self.total, gram, sketch, _ = programs.probe(
            self.mesh, self.student, params, rollout, head, self.methods, coefficients, uniforms,
            self.total, self.how, sizes.group, SKETCH,
        )  # fmt: skip
        _ = np.asarray(gram, np.float64), np.asarray(sketch, np.float64)


class Files:
    """A checkpoint's folder: loaded by us, or its files read."""

    def __init__(self, work: dict[str, Any]):
        self.folder, self.kind = Path(work["folder"]), work["step"]
        self.mesh = sharding.make_mesh(jax.devices()[:1])
        self.buffer = bytearray(4 * protocol.MEBIBYTE)
        jax.block_until_ready(jnp.zeros(1))

    def before(self) -> None:
        """The system forgets the files, so that both go to the disk."""
        folders.forgotten(folders.shards(self.folder))

    def step(self) -> None:
        """Loads the folder, or reads it."""
        if self.kind == "load":
            jax.block_until_ready(models.load_model(self.folder, mesh=self.mesh).params)
            return
        for file in folders.shards(self.folder):
            with open(file, "rb", buffering=0) as opened:
                while opened.readinto(self.buffer):
                    pass


def build(work: dict[str, Any]) -> protocol.Work:
    """The side's work."""
    return Files(work) if work["step"] in ("load", "read") else Training(work)


if __name__ == "__main__":
    protocol.serve(build, PACKAGES, {"parts": parts.measured})

"""A small scene for the programs: two players, prompts, rewards, and all that one mesh makes of it.

T = 7 in chunks of 3, so that the vocabulary pass has three chunks and a padded one. The sizes
differ from one another, so that a shape in compiled code says what it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from opd import draws
from opd.engine import estimator, programs, sharding
from opd.engine.optimizer import Step
from opd.engine.steps import Sampling
from opd.engine.vocab import Head, Pass
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.types import Array, Coefficients, Params, Rollout, TokenStats

GROUPS, GROUP_SIZE, PROMPT, LENGTH, VOCAB, CHUNK, SKETCH = 2, 8, 4, 7, 26, 3, 32
ROWS = GROUPS * GROUP_SIZE
SEED, STEP = 3, 0
HOW = Pass(temperature=0.7, chunk=CHUNK)
SAMPLING = Sampling(LENGTH, eos_ids=(1,), pad_id=0, temperature=0.7)
METHODS = tuple(
    map(
        table.parse,
        (
            "opd",
            "opd_resampled@k=2",
            "opd@gamma=1",
            "grpo",
            "opd_sampled@reduction=token_mean",
        ),
    )
)


@dataclasses.dataclass(frozen=True)
class Ascent:
    """An optimizer that adds a rate times the gradient, and remembers nothing."""

    rate: float

    def init(self, params):
        return ()

    def step(self, gradient, state, params):
        moved = jax.tree.map(lambda leaf, up: leaf + self.rate * up, params, gradient)
        return Step(moved, state, jnp.zeros(()), jnp.ones(()))


RATE = 0.5
OPTIMIZER = Ascent(RATE)
MESHES = {
    "one": {"data": 1},
    "data=8": {"data": 8},
    "data=4,tensor=2": {"data": 4, "tensor": 2},
    "data=2,fsdp=2,tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
}


def decoder(width: int, dtype: str = "float32") -> Decoder:
    """A decoder of the scene's vocabulary and length."""
    return Decoder(
        DecoderConfig(
            vocab=VOCAB,
            width=width,
            layers=1,
            heads=4,
            kv_heads=2,
            mlp=2 * width,
            tied=False,
            max_length=PROMPT + LENGTH,
            dtype=dtype,
            param_dtype=dtype,
        )
    )


STUDENT, TEACHER = decoder(16), decoder(24)


def mesh(name: str) -> Mesh:
    """One of MESHES on the first devices."""
    sizes = MESHES[name]
    return sharding.make_mesh(jax.devices()[: int(np.prod(list(sizes.values())))], **sizes)


def params(model: Decoder, seed: int) -> Params:
    """Parameters far enough from zero that every row has something to say."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(leaf.dtype), shapes)


def batch() -> dict[str, np.ndarray]:
    """Prompts as rows of groups, some of them left-padded."""
    rng = np.random.default_rng(0)
    mask = np.arange(PROMPT)[None] >= rng.integers(0, 3, GROUPS)[:, None]
    prompt = np.where(mask, rng.integers(2, VOCAB, (GROUPS, PROMPT)), 0).astype(np.int32)
    return programs.batch_rows(prompt, mask, GROUP_SIZE)


def rewarded(rollout: Rollout) -> Rollout:
    """A reward that differs within each group."""
    earned = (np.asarray(rollout.tokens).sum(1) % 3).astype(np.float32)
    return dataclasses.replace(rollout, reward=jax.device_put(earned, rollout.ended.sharding))


def draw(mesh: Mesh, rows: dict[str, Any], seed: int = SEED) -> Rollout:
    """The scene's rollout, before its reward."""
    rows = sharding.shard_batch(rows, mesh)
    key = draws.key(seed, STEP, "action")
    return programs.rollout(mesh, STUDENT, params(STUDENT, 1), **rows, key=key, sampling=SAMPLING)


@dataclasses.dataclass(frozen=True, eq=False)
class Ready:
    """What a probe or an update is given."""

    mesh: Mesh
    params: Params
    rollout: Rollout
    head: Head
    stats: TokenStats
    coefs: tuple[Coefficients, ...]
    uniforms: Array

    @property
    def probe(self) -> tuple:
        """Arguments of `programs.probe`; the running sums are fresh."""
        total = programs.no_moments(self.mesh, STUDENT, self.params, len(METHODS))
        return (
            self.mesh, STUDENT, self.params, self.rollout, self.head, METHODS, self.coefs,
            self.uniforms, total, HOW, GROUP_SIZE, SKETCH,
        )  # fmt: skip

    @property
    def gradients(self) -> tuple:
        """Arguments of `programs.gradients`."""
        return (
            self.mesh, STUDENT, self.params, self.rollout, self.head, METHODS, self.uniforms, HOW,
        )  # fmt: skip

    def update(self, method: table.Method) -> tuple:
        """Arguments of `programs.update`; the state is fresh."""
        state = programs.start(self.mesh, STUDENT, OPTIMIZER, self.params)
        return (
            self.mesh, STUDENT, OPTIMIZER, state, self.rollout, self.head, method, SEED, HOW,
        )  # fmt: skip


def ready(mesh: Mesh) -> Ready:
    """The scene on a mesh, up to where probe and update begin."""
    own = jax.device_put(params(STUDENT, 1), sharding.param_shardings(STUDENT, mesh))
    rollout = rewarded(draw(mesh, batch()))
    head = programs.head(mesh, TEACHER, params(TEACHER, 2), rollout)
    stats = programs.score(mesh, STUDENT, own, rollout, head, HOW)
    coefs = programs.coefficients_of(METHODS, rollout, stats)
    uniforms = estimator.fresh_uniforms(SEED, STEP, rollout, METHODS)
    return Ready(mesh, own, rollout, head, stats, coefs, uniforms)

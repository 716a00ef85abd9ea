"""This process's compiler: whether its sums can be trusted, and what it has compiled before."""

from __future__ import annotations

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# Rollouts, tokens and width from which on a jaxlib with the fault shows it.
SIZE = (64, 100, 128)
# Linux lets a process have 65,530 memory maps, and every compiled program takes some: one that
# keeps all that it has compiled dies of a segmentation fault.
MAPS, MOST_MAPS = Path("/proc/self/maps"), 25_000


def make_room() -> None:
    """Drops what was compiled for earlier runs of this process, once that is much.

    A run in progress loses nothing but time: what it needs is compiled again, or read from the
    cache on disk.
    """
    if not MAPS.exists():
        return
    with MAPS.open("rb") as file:
        many = sum(1 for _ in file) > MOST_MAPS
    if many:
        jax.clear_caches()
        gc.collect()


def check() -> None:
    """Compares the compiled pull-back of a norm, for three cotangents at once, with NumPy's.

    With r = (mean x^2)^(-1/2), the pull-back of x r is c r - x r^3 mean(c x). Importing `opd`
    sets a flag that a faulty jaxlib needs (`opd/__init__.py`); it comes too late where JAX has
    computed before, and a flag set by hand comes before it.

    Raises:
        ValueError: the two differ.
    """

    def norm(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))

    generator = np.random.default_rng(0)
    x = generator.standard_normal(SIZE, np.float32)
    cotangents = generator.standard_normal((3, *SIZE), np.float32)

    @jax.jit
    def compiled(x: jax.Array, cotangents: jax.Array) -> jax.Array:
        _, pull = jax.vjp(norm, x)
        return jax.vmap(pull)(cotangents)[0]

    inverse = 1 / np.sqrt(np.mean(np.square(x), -1, keepdims=True))
    along = np.mean(cotangents * x, -1, keepdims=True)
    expected = cotangents * inverse - x * inverse**3 * along
    off = float(np.max(np.abs(np.asarray(compiled(x, cotangents)) - expected)))
    if not off < 1e-3:  # 1e-6 is rounding, and the fault is of order 1
        raise ValueError(
            f"this jaxlib compiles wrong sums on {jax.default_backend()} (a norm's gradient is off "
            f"by {off:.2g}): no number can be trusted\n"
            "import opd before JAX computes anything, with no xla_cpu_experimental_ynn_fusion_type "
            "in XLA_FLAGS (jax-ml/jax issue 39103)"
        )

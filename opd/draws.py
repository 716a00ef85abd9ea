"""Counter-based uniforms, and draws by inverse CDF.

Every random number is a function of (seed, step, row, position), so the noise of a rollout does
not depend on how the batch is split, on microbatches, on the mesh or on the number of hosts.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# One stream per use, so that no two uses of one (seed, step, row, position) share a number.
STREAMS = {"action": 0, "candidate": 1, "branch": 2, "mixture": 3, "buffer": 4, "dataset": 5}


def key(seed: int | Array, step: int | Array, stream: str) -> Array:
    """The key of one use in one step."""
    base = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(base, STREAMS[stream])


def generator(key: Array) -> np.random.Generator:
    """A key's numbers on the host, for choices among as many things as there happen to be."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def uniforms(key: Array, row: Array, length: int, k: int | None = None) -> Array:
    """Uniforms in [0, 1): float32 [B, T], or [B, T, k], one counter per row and position.

    A position's numbers depend on neither `length` nor the other rows; its i-th number does not
    depend on `k`.
    """

    def one(key: Array) -> Array:
        return jax.random.uniform(key, (), jnp.float32)

    def draw(row: Array, position: Array) -> Array:
        at = jax.random.fold_in(jax.random.fold_in(key, row), position)
        return (
            one(at)
            if k is None
            else jax.vmap(lambda i: one(jax.random.fold_in(at, i)))(jnp.arange(k))
        )

    over_positions = jax.vmap(draw, in_axes=(None, 0))
    return jax.vmap(over_positions, in_axes=(0, None))(row, jnp.arange(length))


def inverse_cdf(weights: Array, uniform: Array) -> Array:
    """Tokens drawn from unnormalised weights: the first v with cdf(v) > u, in vocabulary order.

    Two levels, blocks of about sqrt(V) and then one block, so that k draws cost one pass over V
    and k passes over sqrt(V). A token of zero weight is never drawn.

    Args:
        weights: [..., V], non-negative, not all zero.
        uniform: [..., k] in [0, 1).

    Returns:
        int32 [..., k].
    """
    vocab = weights.shape[-1]
    size = max(1, math.isqrt(vocab))
    blocks = -(-vocab // size)
    padding = [(0, 0)] * (weights.ndim - 1) + [(0, blocks * size - vocab)]
    block = jnp.pad(weights, padding).reshape(*weights.shape[:-1], blocks, size)
    upper = jnp.cumsum(jnp.sum(block, -1), -1)  # [..., blocks]
    target = uniform.astype(weights.dtype) * upper[..., -1:]
    which = _first_above(upper, target, jnp.sum(block, -1) > 0)  # [..., k]
    rows = jnp.take_along_axis(block, which[..., None], axis=-2)  # [..., k, size]
    below = jnp.take_along_axis(upper - jnp.sum(block, -1), which, axis=-1)
    inner = jnp.cumsum(rows, -1) + below[..., None]
    within = _first_above(inner, target[..., None], rows > 0)[..., 0]
    return (which * size + within).astype(jnp.int32)


def _first_above(cdf: Array, target: Array, possible: Array) -> Array:
    """Index of the first possible entry whose cdf exceeds the target; the last possible if none.

    "None" happens by rounding alone. cdf and possible [..., n], target [..., k]; returns [..., k].
    """
    above = (cdf[..., None, :] > target[..., None]) & possible[..., None, :]
    last = cdf.shape[-1] - 1 - jnp.argmax(possible[..., ::-1], axis=-1)
    found = jnp.any(above, axis=-1)
    return jnp.where(found, jnp.argmax(above, axis=-1), last[..., None])

"""The only place where a mask divides."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def count(mask: Array, axis=None, keepdims: bool = False) -> Array:
    """How many entries a mask keeps, and never less than one."""
    return jnp.maximum(jnp.sum(mask, axis=axis, keepdims=keepdims), 1)


def zero(values: Array, mask: Array) -> Array:
    """Values on the mask, zeros off it, whatever stands there (infinities and NaN included)."""
    return jnp.where(mask, values, jnp.zeros((), values.dtype))


def mean(values: Array, mask: Array, axis=None, keepdims: bool = False) -> Array:
    """Mean over the entries that a mask keeps; 0 where it keeps none."""
    total = jnp.sum(zero(values, mask), axis=axis, keepdims=keepdims)
    return total / count(mask, axis, keepdims).astype(values.dtype)


def remaining(mask: Array) -> Array:
    """How many entries a mask [B, T] keeps from each position on, and never less than one."""
    return jnp.maximum(jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1], 1)

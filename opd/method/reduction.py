"""From tokens to one number: the weight of each graded token, [B, T].

All but the first two change the objective wherever lengths differ, and say so in the table.
"""

from __future__ import annotations

import jax.numpy as jnp

from opd import masked
from opd.types import Array


def sum_tokens(mask: Array) -> Array:
    """1 / B: sum over tokens, mean over rollouts."""
    return mask / jnp.asarray(mask.shape[0], _dtype())


def constant(mask: Array) -> Array:
    """1 / (B T): the sum over a stated constant (Liu et al. 2025, Dr. GRPO, section 3.2)."""
    return mask / jnp.asarray(mask.size, _dtype())


def token_mean(mask: Array) -> Array:
    """1 / (graded tokens of the global batch) (Yu et al. 2025, DAPO, section 3.3)."""
    return mask / masked.count(mask).astype(_dtype())


def sequence_mean(mask: Array) -> Array:
    """1 / (B |y|): mean over a rollout's tokens, then over rollouts (GRPO, eq. 3)."""
    return mask / (mask.shape[0] * masked.count(mask, 1, keepdims=True)).astype(_dtype())


REDUCTIONS = {
    "sum": sum_tokens,
    "constant": constant,
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
}


def _dtype():
    return jnp.result_type(float)

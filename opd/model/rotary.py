"""Rotary position embeddings: frequencies, their scalings for longer contexts, the rotation.

Shapes: K head dimension, B rows, S tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np

from opd.types import Array


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How frequencies are stretched beyond the context that they were trained for.

    `original` is that context, in tokens; the other numbers are those of one of SCALINGS.

    Raises:
        ValueError: an unknown kind, or a factor below 1.
    """

    kind: str
    factor: float
    original: int | None = None
    low: float | None = None  # llama3: wavelengths above original / low are stretched in full
    high: float | None = None  # llama3: below original / high not at all
    slow: float | None = None  # yarn: rotations within the original context, likewise
    fast: float | None = None
    attention: float | None = None  # yarn: factor of queries and keys; None: 0.1 log(factor) + 1
    truncate: bool = True  # yarn: the ramp starts and ends at whole dimensions

    def __post_init__(self) -> None:
        if self.kind not in SCALINGS:
            raise ValueError(f"rope type {self.kind!r}: {', '.join(SCALINGS)} are allowed")
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise ValueError(f"rope factor is {self.factor}: a number of at least 1 is allowed")


def frequencies(dim: int, base: float, scaling: RopeScaling | None) -> tuple[np.ndarray, float]:
    """Radians per token of each pair, [K / 2], and the factor of rotated queries and keys.

    base^(-2i / K) (Su et al. 2021, section 3.2.2), stretched by the scaling.
    """
    plain = base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    return (plain, 1.0) if scaling is None else SCALINGS[scaling.kind](plain, base, scaling)


def linear(plain: np.ndarray, base: float, scaling: RopeScaling) -> tuple[np.ndarray, float]:
    """All stretched alike (Chen et al. 2023, position interpolation)."""
    return plain / scaling.factor, 1.0


def llama3(plain: np.ndarray, base: float, scaling: RopeScaling) -> tuple[np.ndarray, float]:
    """Long wavelengths in full, short ones not, a line between (Llama 3.1's release, 2024)."""
    turns = scaling.original * plain / (2 * np.pi)  # within the original context
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return plain * (kept + (1 - kept) / scaling.factor), 1.0


def yarn(plain: np.ndarray, base: float, scaling: RopeScaling) -> tuple[np.ndarray, float]:
    """By a ramp over dimensions, with warmer scores (Peng et al. 2023, YaRN, sections 3.2, 3.4)."""
    dim = 2 * len(plain)

    def dimension(turns: float) -> float:  # whose pair makes so many within the original context
        return dim * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(scaling.fast), dimension(scaling.slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    # transformers widens a ramp of no width by as much.
    ramp = np.clip((np.arange(len(plain)) - low) / max(high - low, 1e-3), 0, 1)
    warm = 0.1 * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0
    return (
        plain * (1 - ramp + ramp / scaling.factor),
        warm if scaling.attention is None else scaling.attention,
    )


SCALINGS: Mapping[str, Callable[..., tuple[np.ndarray, float]]] = MappingProxyType(
    {"linear": linear, "llama3": llama3, "yarn": yarn}
)


def angles(position: Array, frequency: Array) -> tuple[Array, Array]:
    """Cosines and sines [B, S, 1, K / 2] of positions [B, S], frequencies [K / 2]."""
    angle = (position.astype(frequency.dtype)[..., None] * frequency[None, None])[:, :, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turn the pairs (x_i, x_{i + K/2}) of [B, S, heads, K] (Su et al. 2021, eq. 34).

    The halves are split, not interleaved, as published Llama and Qwen checkpoints have it.
    """
    half = x.shape[-1] // 2
    first, second = x[..., :half].astype(cos.dtype), x[..., half:].astype(cos.dtype)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)

"""From a config to optax: what every method is trained by."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from opd import trees
from opd.fields import setting
from opd.model.scalar import Scalar
from opd.types import Array, Model, Params

_NEVER = 2**31 - 1  # of apply_if_finite, which would take a bad gradient after so many


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW after clipping: a warm-up, then a constant rate or a cosine.

    Defaults are what small models train with, by hand; the clip is the field's usual one.
    """

    learning_rate: float = setting(1e-3, above=0)
    warmup: int = setting(5, at_least=0)
    decay: int | None = setting(None, at_least=1)  # updates of a cosine after the warm-up
    floor: float = setting(0.1, at_least=0)  # where the cosine ends, as a share of the rate
    clip: float = setting(1.0, above=0)  # global gradient norm
    weight_decay: float = setting(0.0, at_least=0)
    microbatches: int = setting(1, at_least=1)  # parts that a batch's gradient is added up from
    # Decay of averaged parameters, which evaluation then takes; 0: none.
    ema: float = setting(0.0, at_least=0, below=1)
    skips: int = setting(3, at_least=0)  # updates in a row whose gradient may be infinite or NaN


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The learned baseline: the student's body with a scalar head, an optimizer of its own."""

    learning_rate: float = setting(1e-3, above=0)
    warmup: int = setting(5, at_least=0)


class Averaged(NamedTuple):
    """The state of `average`."""

    average: Params


@functools.lru_cache
def make(config: OptimizerConfig, rate: float) -> optax.GradientTransformation:
    """AdamW after clipping; a gradient that isn't finite is skipped and counted.

    Its state is float32 or wider whatever the parameters are: 0.999 nu rounds to nu in bfloat16.
    One object for one config: it is static, and another would compile everything again.
    """
    down = (
        optax.constant_schedule(rate)
        if config.decay is None
        else optax.cosine_decay_schedule(rate, config.decay, config.floor)
    )

    def schedule(count: Array) -> Array:
        """From rate / warmup at the first update, which is one, to the rate, and down."""
        return down(jnp.maximum(count - config.warmup, 0)) * jnp.minimum(
            (count + 1) / max(config.warmup, 1), 1.0
        )

    inner = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )
    guarded = optax.apply_if_finite(inner, _NEVER)
    return _wide(optax.chain(guarded, average(config.ema)) if config.ema else guarded)


def _wide(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same on parameters and gradients in float32 or wider."""

    def init(params: Params) -> optax.OptState:
        return inner.init(trees.masters(params))

    def update(updates: Params, state: optax.OptState, params: Params | None = None):
        return inner.update(trees.masters(updates), state, trees.masters(params))

    return optax.GradientTransformation(init, update)


def average(decay: float) -> optax.GradientTransformation:
    """Keeps decay * average + (1 - decay) * parameters beside the updates, which it lets pass.

    Stands last in a chain. The average starts as the parameters and needs no correction. It is
    float32 or wider: (1 - decay) of a movement rounds away in bfloat16.
    """

    def init(params: Params) -> Averaged:
        return Averaged(jax.tree.map(jnp.copy, trees.masters(params)))

    def update(updates: Params, state: Averaged, params: Params | None = None):
        moved = optax.apply_updates(trees.masters(params), updates)
        return updates, Averaged(optax.incremental_update(moved, state.average, 1 - decay))

    return optax.GradientTransformation(init, update)


def skipped(state: optax.OptState) -> tuple[Array, Array]:
    """Updates skipped in a row, and in all."""
    in_a_row = optax.tree_utils.tree_get(state, "notfinite_count")
    return in_a_row, optax.tree_utils.tree_get(state, "total_notfinite")


def evaluated(model: Model | Scalar, params: Params, state: optax.OptState) -> Params:
    """What evaluation looks at: the average where one is kept, else the parameters."""
    part = optax.tree_utils.tree_get(state, "average", default=model.trained(params))
    return model.with_trained(params, part)

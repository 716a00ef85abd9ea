"""From a config to optax: what every method is trained by."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from opd import trees
from opd.fields import setting
from opd.model.scalar import Scalar
from opd.types import Array, Model, Params

# What float32 leaves of a gradient whose parts cancel: such a norm says nothing of the others.
ROUNDING = 1e-7
DECAY = 0.99  # of the running mean of norms


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW after limits on the gradient's norm: a warm-up, then a constant rate or a cosine.

    Defaults are what small models train with, by hand. A norm's scale is the objective's: a sum
    over tokens in nats, or a mean of rewards. So the usual limit is relative (`spike`), and an
    absolute one (`clip`) is for those who know their norms; where both are given, both hold.

    Raises:
        ValueError: by `check`, one line.
    """

    learning_rate: float = setting(1e-3, above=0)
    warmup: int = setting(5, at_least=0)
    decay: int | None = setting(None, at_least=1)  # updates of a cosine after the warm-up
    floor: float = setting(0.1, at_least=0)  # where the cosine ends, as a share of the rate
    clip: float | None = setting(None, above=0)  # the most that the gradient's norm may be
    # The most that it may be times the running mean of the norms before it; 0: no such limit.
    spike: float = setting(5.0, at_least=0)
    weight_decay: float = setting(0.0, at_least=0)
    microbatches: int = setting(1, at_least=1)  # parts that a batch's gradient is added up from
    # Decay of averaged parameters, which evaluation then takes; 0: none.
    ema: float = setting(0.0, at_least=0, below=1)
    skips: int = setting(3, at_least=0)  # updates in a row whose gradient may be infinite or NaN

    def check(self, path: str) -> None:
        """Refuses a limit below the mean itself, which would shrink every update.

        Raises:
            ValueError: one line.
        """
        if 0 < self.spike <= 1:
            raise ValueError(f"{path}.spike = {self.spike}: allowed is 0, or more than 1")


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The learned baseline: the student's body with a scalar head, an optimizer of its own."""

    learning_rate: float = setting(1e-3, above=0)
    warmup: int = setting(5, at_least=0)


class Averaged(NamedTuple):
    """The state of `average`."""

    average: Params


class Norms(NamedTuple):
    """The state of `limit`: float32 and int32 scalars."""

    total: Array  # the norms so far, the one before the last weighing DECAY of the last
    weight: Array  # of these weights the sum
    limited: Array  # updates that were scaled back


@functools.lru_cache
def make(config: OptimizerConfig, rate: float) -> optax.GradientTransformation:
    """AdamW after the limits; a gradient that isn't finite is skipped and counted.

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

    asked = config.spike or config.clip is not None
    limits = [limit(config.spike, config.clip)] if asked else []
    inner = optax.chain(*limits, optax.adamw(schedule, weight_decay=config.weight_decay))
    guarded = guard(inner)
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


def guard(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Does nothing, and counts, where the gradient's norm isn't finite.

    `optax.apply_if_finite` by the norm, which `inner` is handed: one pass over the gradient.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> optax.ApplyIfFiniteState:
        nothing = jnp.zeros((), jnp.int32)
        return optax.ApplyIfFiniteState(nothing, jnp.array(True), nothing, inner.init(params))

    def update(updates: Params, state: optax.ApplyIfFiniteState, params: Params | None = None):
        norm = trees.norm(updates)
        finite = jnp.isfinite(norm)

        def kept(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

        nothing = jax.tree.map(jnp.zeros_like, updates)
        moved, after = inner.update(
            kept(updates, nothing), state.inner_state, params, norm=jnp.where(finite, norm, 0)
        )
        bad = (~finite).astype(jnp.int32)
        return kept(moved, nothing), optax.ApplyIfFiniteState(
            notfinite_count=bad * (state.notfinite_count + 1),
            last_finite=finite,
            total_notfinite=state.total_notfinite + bad,
            inner_state=kept(after, state.inner_state),
        )

    return optax.GradientTransformation(init, update)


def limit(spike: float, clip: float | None, decay: float = DECAY) -> optax.GradientTransformation:
    """Scales a gradient back whose norm is above `clip`, or `spike` times the norms before it.

    AutoClip (Seetharaman et al. 2020, arXiv:2007.14469) and ZClip (Kumar et al. 2025,
    arXiv:2504.02507) limit a norm by those before it too. What a spike does to Adam is to its
    second moment, which it slows for a thousand updates: of 100 usual norms it adds ten times what
    is there, of 5 a fortieth. The running mean takes in what is left of a norm, so that a spike
    moves it little and a scale that changes for good is followed. The first norm is the measure of
    the second. What is zero but for rounding isn't taken in: a batch without a gradient says
    nothing of the next one's.

    The norm, finite, comes as the argument `norm`. 0 and None: no such limit.
    """

    def init(params: Params) -> Norms | optax.EmptyState:
        zero = jnp.zeros((), jnp.float32)
        return Norms(zero, zero, jnp.zeros((), jnp.int32)) if spike else optax.EmptyState()

    def update(
        updates: Params,
        state: Norms | optax.EmptyState,
        params: Params | None = None,
        *,
        norm: Array,
        **others: Any,
    ):
        left = norm.astype(jnp.float32)
        if spike:
            known = state.weight > 0
            mean = state.total / jnp.where(known, state.weight, 1)
            over = known & (left > spike * mean)
            left = jnp.where(over, spike * mean, left)
            told = left > ROUNDING
            state = Norms(
                jnp.where(told, decay * state.total + left, state.total),
                jnp.where(told, decay * state.weight + 1, state.weight),
                state.limited + over.astype(jnp.int32),
            )
        if clip is not None:
            left = jnp.minimum(left, clip)
        scale = jnp.where(norm > left, left / jnp.where(norm > 0, norm, 1), 1)
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def limited(state: optax.OptState) -> int:
    """Updates that `limit` has scaled back so far."""
    return int(optax.tree_utils.tree_get(state, "limited", default=0))


def skipped(state: optax.OptState) -> tuple[Array, Array]:
    """Updates skipped in a row, and in all."""
    in_a_row = optax.tree_utils.tree_get(state, "notfinite_count")
    return in_a_row, optax.tree_utils.tree_get(state, "total_notfinite")


def evaluated(model: Model | Scalar, params: Params, state: optax.OptState) -> Params:
    """What evaluation looks at: the average where one is kept, else the parameters."""
    part = optax.tree_utils.tree_get(state, "average", default=model.trained(params))
    return model.with_trained(params, part)

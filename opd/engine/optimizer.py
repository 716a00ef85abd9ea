"""AdamW behind limits on the gradient's norm: what every method is trained by."""

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

# What float32 leaves of a gradient whose parts cancel: such a norm says nothing of the others.
ROUNDING = 1e-7
DECAY = 0.99  # of the running mean of norms
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of both moments, and of the root's denominator


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
    """Averaged parameters: float32 or wider, since bfloat16 rounds (1 - decay) of a move away."""

    average: Params


class Norms(NamedTuple):
    """What `limit` knows of the norms so far: float32 and int32 scalars."""

    total: Array  # the norms so far, the one before the last weighing DECAY of the last
    weight: Array  # of these weights the sum
    limited: Array  # updates that were scaled back


class Step(NamedTuple):
    """What a step leaves."""

    params: Params
    state: optax.OptState
    lost: Array  # sum |u| over the update's entries that rounding took, which moved nothing
    asked: Array  # sum |u| over all


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW after the limits; a gradient that isn't finite is skipped and counted.

    Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2. Its state is float32 or wider
    whatever the parameters are (0.999 nu rounds to nu in bfloat16), and laid out as optax lays out
    `apply_if_finite(chain(limit, adamw))`. Static: equal ones share a compiled program.
    """

    config: OptimizerConfig
    rate: float

    def init(self, params: Params) -> optax.OptState:
        """The state before the first step. An average starts as the parameters."""
        count, params = jnp.zeros((), jnp.int32), trees.masters(params)
        adam = optax.ScaleByAdamState(count, *(jax.tree.map(jnp.zeros_like, params) for _ in BETAS))
        guard = optax.ApplyIfFiniteState(
            notfinite_count=count,
            last_finite=jnp.array(True),
            total_notfinite=count,
            inner_state=(
                *self._norms(),
                (adam, optax.EmptyState(), optax.ScaleByScheduleState(count)),
            ),
        )
        copy = jax.tree.map(jnp.copy, params)
        return (guard, Averaged(copy)) if self.config.ema else guard

    def step(self, gradient: Params, state: optax.OptState, params: Params) -> Step:
        """One step up a gradient; both moments are of its opposite, as of a loss.

        In stages, each of which needs what the one before has made: moments, the update's size,
        parameters. In one go XLA on a CPU would copy the parameters and both moments first, for
        nothing tells it that who reads them does so before they are written.
        """
        config = self.config
        gradient, params = trees.masters(gradient), trees.masters(params)
        guard, *averages = state if config.ema else (state,)
        *norms, (adam, none, schedule) = guard.inner_state
        norm = trees.norm(gradient)
        finite = jnp.isfinite(norm)
        norm, scale = jnp.where(finite, norm, 0), jnp.ones(())
        if norms:
            left, norms[0] = limit(norm, norms[0], config.spike, config.clip)
            scale = jnp.where(norm > left, left / jnp.where(norm > 0, norm, 1), 1)
        count, beats = (jnp.where(finite, old + 1, old) for old in (adam.count, schedule.count))
        rate = self.schedule(schedule.count)

        moments = functools.partial(_moments, scale)
        update = functools.partial(_update, rate, config.weight_decay, count)

        def sizes(params: Params, *of: Params) -> tuple[Array, Array]:
            moved = update(params, *of)
            return trees.unchanged(params, moved, optax.apply_updates(params, moved))

        def move(params: Params, *of: Params) -> Params:
            return optax.apply_updates(params, update(params, *of))

        nothing = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        mu, nu = jax.lax.cond(finite, moments, lambda _, *old: old, gradient, adam.mu, adam.nu)
        lost, asked = jax.lax.cond(finite, sizes, lambda *_: (nothing, nothing), params, mu, nu)
        sound = finite & jnp.isfinite(asked)
        params = jax.lax.cond(sound, move, lambda params, *_: params, params, mu, nu)
        bad = (~sound).astype(jnp.int32)
        adam, schedule = optax.ScaleByAdamState(count, mu, nu), optax.ScaleByScheduleState(beats)
        guard = optax.ApplyIfFiniteState(
            notfinite_count=bad * (guard.notfinite_count + 1),
            last_finite=sound,
            total_notfinite=guard.total_notfinite + bad,
            inner_state=(*norms, (adam, none, schedule)),
        )
        averages = [Averaged(averaged(params, each.average, config.ema)) for each in averages]
        return Step(params, (guard, *averages) if averages else guard, lost, asked)

    def schedule(self, count: Array) -> Array:
        """The rate of update `count`: up in a line from rate / warmup, then constant or down."""
        config = self.config
        down = (
            optax.constant_schedule(self.rate)
            if config.decay is None
            else optax.cosine_decay_schedule(self.rate, config.decay, config.floor)
        )
        up = jnp.minimum((count + 1) / max(config.warmup, 1), 1.0)
        return down(jnp.maximum(count - config.warmup, 0)) * up

    def _norms(self) -> tuple[Norms | optax.EmptyState, ...]:
        """The state of `limit` before the first norm; none where there are no limits."""
        if self.config.spike:
            zero = jnp.zeros((), jnp.float32)
            return (Norms(zero, zero, jnp.zeros((), jnp.int32)),)
        return () if self.config.clip is None else (optax.EmptyState(),)


def _moments(scale: Array, gradient: Params, mu: Params, nu: Params) -> tuple[Params, Params]:
    """Both moments with what is left of a gradient, its sign turned."""
    down = jax.tree.map(lambda leaf: -leaf * scale.astype(leaf.dtype), gradient)
    of = optax.tree.update_moment
    return of(down, mu, BETAS[0], 1), of(down, nu, BETAS[1], 2)


def _update(
    rate: Array, decay: float, count: Array, params: Params, mu: Params, nu: Params
) -> Params:
    """What the moments after `count` updates add to the parameters."""

    def leaf(param: Array, mu: Array, nu: Array) -> Array:
        down = mu / (jnp.sqrt(nu) + EPSILON) + decay * param
        return (-rate).astype(param.dtype) * down

    means = map(optax.tree.bias_correction, (mu, nu), BETAS, (count, count))
    return jax.tree.map(leaf, params, *means)


def averaged(params: Params, average: Params, decay: float) -> Params:
    """decay * average + (1 - decay) * parameters."""
    return optax.incremental_update(params, average, 1 - decay)


def limit(
    norm: Array,
    state: Norms | optax.EmptyState,
    spike: float,
    clip: float | None,
    decay: float = DECAY,
) -> tuple[Array, Norms | optax.EmptyState]:
    """What a gradient's norm is scaled back to: `clip`, or `spike` times the norms before it.

    AutoClip (Seetharaman et al. 2020, arXiv:2007.14469) and ZClip (Kumar et al. 2025,
    arXiv:2504.02507) limit a norm by those before it too. What a spike does to Adam is to its
    second moment, which it slows for a thousand updates: of 100 usual norms it adds ten times what
    is there, of 5 a fortieth. The running mean takes in what is left of a norm, so that a spike
    moves it little and a scale that changes for good is followed. The first norm is the measure of
    the second. What is zero but for rounding isn't taken in: a batch without a gradient says
    nothing of the next one's.

    Args:
        norm: finite, a scalar; 0 for a gradient that isn't.
        state: of the norms before; empty without a `spike`.
        spike: 0: no such limit.
        clip: None: no such limit.
        decay: of the running mean.

    Returns:
        What is left of the norm, and the state with it.
    """
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
    return left if clip is None else jnp.minimum(left, clip), state


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

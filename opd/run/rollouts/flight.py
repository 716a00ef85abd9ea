"""Rollouts in flight: how stale they are, when they are given up, and how a checkpoint has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from opd.engine import programs, sharding
from opd.engine.vocab import Head
from opd.fields import setting
from opd.method import facts
from opd.method.table import Method
from opd.model.decoder import Decoder
from opd.run.drawing import Player, World
from opd.types import Rollout, pytree


@dataclasses.dataclass(frozen=True)
class ReuseConfig:
    """When a training draws new rollouts: at the first of these that is met."""

    updates: int = setting(1, at_least=1)  # updates on one batch of rollouts at most
    # ESS / N below which it is given up, of the weights of the method's ratio.
    ess: float = setting(0.0, at_least=0, at_most=1)
    # KL(behavior || current), nats per sequence, that it may not pass.
    kl: float | None = setting(None, at_least=0)
    hidden: bool = True  # keep the behavior's hidden states: that KL enumerated, not sampled


@pytree
class Flight:
    """A batch of rollouts in use, and what was computed of them once."""

    rollout: Rollout
    # The teacher's hidden states [B, T, D]; its side of the vocabulary as it was, where it moves.
    teacher: jax.Array | Head | None = None
    behavior: Head | None = None  # the student's side of the vocabulary, as it was when it drew


def drift(flight: Flight, player: Player, method: Method, world: World) -> dict[str, float]:
    """How far a policy has moved from the one that drew: `ess_rule`, `drift` (nats), and more."""
    figures = programs.drift(
        world.mesh, *player, flight.rollout, flight.behavior, facts.weighs(method), world.scoring
    )
    return {name: float(value) for name, value in figures.items()}


def given_up(config: ReuseConfig, figures: Mapping[str, float]) -> str | None:
    """Why rollouts of such a drift are given up: `ess` or `kl`; None if they aren't."""
    if figures["ess_rule"] < config.ess:
        return "ess"
    return "kl" if config.kl is not None and figures["drift"] > config.kl else None


# What a flight doesn't have, and what of a head is its model's.
NOT_KEPT = (type(None), int, float)


def packed(value: Any) -> Any:
    """A dataclass of arrays as nested dictionaries of those that are there."""
    if not dataclasses.is_dataclass(value):
        return value
    parts = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {name: packed(part) for name, part in parts if not isinstance(part, NOT_KEPT)}


def unpacked(arrays: Mapping[str, Any], student: Decoder, world: World) -> Flight:
    """What `packed` made of the student's flight, on the mesh."""

    def laid(part: Any) -> Any:
        return sharding.shard_batch(jax.tree.map(jnp.asarray, part), world.mesh)

    def side(name: str) -> jax.Array | Head | None:
        part = arrays.get(name)
        if not isinstance(part, Mapping):
            return None if part is None else laid(part)
        matrix = jnp.asarray(part["unembedding"])
        return Head(laid(part["hidden"]), matrix, student.logit_cap, student.tokens)

    return Flight(Rollout(**laid(arrays["rollout"])), side("teacher"), side("behavior"))

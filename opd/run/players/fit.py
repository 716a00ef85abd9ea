"""A player made here: supervised training on demonstrations, and all that it depends on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from opd import disk, fields, trees
from opd.data import pipeline, verifiers
from opd.data.pipeline import DataConfig
from opd.engine import programs, sharding
from opd.engine.optimizer import Optimizer, OptimizerConfig
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.fields import setting
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.run import drawing
from opd.run.drawing import Player, World
from opd.run.store import progress
from opd.types import Array, Params, Rollout

SFT = table.parse("sft@reduction=token_mean")
# What a small decoder is fitted with, chosen by hand: updates of the warm-up, the share of the rate
# that the cosine ends at, the clip of the gradient's norm.
WARMUP, END, CLIP = 50, 0.1, 1.0
# Validation prompts that an accuracy is measured on: a 95 % interval of +-0.06 at the most.
HELD_OUT = 256


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Supervised training on demonstrations, which makes the teacher and warms the student up."""

    steps: int = setting(1000, at_least=0)
    batch: int = setting(128, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    stop_at: float | None = None  # sampled accuracy on validation prompts at which to stop
    check_every: int = setting(50, at_least=1)


@dataclasses.dataclass(frozen=True)
class _Fitting(Optimizer):
    """The optimizer of a fit of so many steps."""

    steps: int

    def schedule(self, count: Array) -> Array:
        """From 0 at the first update up to the rate, and down a cosine to its end."""
        steps = max(self.steps, 1)
        warmup = min(WARMUP, steps // 2)
        down = optax.warmup_cosine_decay_schedule(0.0, self.rate, warmup, steps, END * self.rate)
        return jnp.asarray(down(count))


def fit(name: str, model: Decoder, config: FitConfig, world: World) -> Params:
    """Supervised training by the `sft` row, until its steps or its accuracy are reached."""
    optimizer = _Fitting(OptimizerConfig(clip=CLIP, spike=0.0), config.learning_rate, config.steps)
    params = programs.init(world.mesh, model, seed_of(name, world.seed))
    state = programs.start(world.mesh, model, optimizer, params)
    batches = pipeline.demonstrations(world.task, "train", world.seed, config.batch)
    checked = config.stop_at is not None and world.task.verifier is not None
    held_out = world.task.split("validation")[:HELD_OUT] if checked else ()
    with progress.progress(f"fit {name}", config.steps) as advance:
        for step in range(config.steps):
            given = _read(demonstration(batches[step]), reads_told(name, world))
            rollout = sharding.shard_batch(given, world.mesh)
            state, _ = programs.update(
                world.mesh, model, optimizer, state, rollout, None, SFT, world.seed, world.scoring
            )
            beside = None
            if checked and (step + 1) % config.check_every == 0:
                accuracy = drawing.sampled_accuracy(
                    world, Player(model, state.params), held_out, reads_told(name, world)
                )
                beside = f"accuracy {accuracy:.2f}"
                if accuracy >= config.stop_at:
                    break
            advance(beside=beside)
    return trees.cast(state.params, model.config.param_dtype)


def reads_told(name: str, world: World) -> bool:
    """Whether a player is fitted to the teacher's own prompts: it grades after them."""
    return name == "teacher" and world.task.told is not None


def _read(given: Rollout, told: bool) -> Rollout:
    """Demonstrations after the prompts that a player reads, and no others beside them."""
    given = given.as_told if told else given
    return dataclasses.replace(given, **dict.fromkeys(BESIDE))


def seed_of(name: str, seed: int) -> int:
    """A seed of 31 bits, which JAX takes: teacher and student start from different parameters."""
    return int.from_bytes(hashlib.sha256(f"{name}\0{seed}".encode()).digest()[:4], "big") >> 1


# What a batch has of a rollout's fields for its teachers, where they are told or are several.
BESIDE = ("told", "told_mask", "taught")


def demonstration(batch: pipeline.Batch) -> Rollout:
    """Solutions as a rollout of the data's own policy, whose log-probabilities nobody knows."""
    count = len(batch["prompt"])
    return Rollout(
        prompt=jnp.asarray(batch["prompt"]),
        prompt_mask=jnp.asarray(batch["prompt_mask"]),
        tokens=jnp.asarray(batch["tokens"]),
        mask=jnp.asarray(batch["mask"]),
        logp_behavior=jnp.full(batch["mask"].shape, jnp.nan, jnp.float32),
        ended=jnp.asarray(batch["ended"]),
        group=jnp.arange(count, dtype=jnp.int32),
        row=jnp.arange(count, dtype=jnp.int32),
        **{name: jnp.asarray(batch[name]) for name in BESIDE if name in batch},
    )


def identity(
    model: Decoder, config: FitConfig, world: World, name: str = "student"
) -> dict[str, Any]:
    """All that a fit depends on, as player.json has it; `name` says whose."""
    data = dataclasses.asdict(world.task.config)
    data["path"] = data["prompts"] = None
    judged = None if config.stop_at is None else verifiers.digest(world.task.config.verifier)
    told = world.task.told if reads_told(name, world) else None
    return disk.strict(
        ({} if judged is None else {"verifier": judged})
        | ({} if told is None else {"told": {"prompt": told.template.source, "room": told.width}})
        | {
            "decoder": dataclasses.asdict(model.config),
            "fit": dataclasses.asdict(config),
            "data": data,
            "prepared": None if world.task.where is None else world.task.where.name,
            "sampling": dataclasses.asdict(world.sampling),
            "how": dataclasses.asdict(world.scoring),  # its key of old: players are known by it
            "seed": world.seed,
        }
    )


# What an identity's parts are dictionaries of, the decoder's aside.
PARTS = {"fit": FitConfig, "data": DataConfig, "sampling": Sampling, "how": Pass}


def same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two identities are of one fit; what was saved may be older than some of the fields.

    Those had their defaults then: the fit of today with the default is the same.
    """
    try:
        return _completed(saved) == _completed(now)
    except (AttributeError, KeyError, TypeError, ValueError):  # another decoder, or no identity
        return False


def _completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with every field that there is today."""
    # Some of a decoder's fields are filled in from others, by itself.
    parts = {"decoder": dataclasses.asdict(DecoderConfig.from_json(identity["decoder"]))}
    parts |= {name: fields.completed(identity[name], kind) for name, kind in PARTS.items()}
    return disk.strict({**identity, **parts})

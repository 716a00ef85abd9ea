"""What a training holds on a device: parameters and optimizer, counted before anything is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from opd.engine import sharding
from opd.method import facts
from opd.method.table import Method
from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.run.players import folder
from opd.run.players.players import model_of
from opd.run.settings.config import Config
from opd.run.training.checks import Ready

MOMENTS = 2  # of AdamW
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# Never there at the same time: the larger one counts.
GRADIENTS, MATRICES = "gradients", "a rollout's matrices"


def on_device(tree: Any) -> int:
    """Bytes of a tree's arrays, or of their shapes, that lie on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def parts(
    mesh: Mesh,
    student: Decoder,
    teacher: Decoder | None = None,
    reward: Scalar | None = None,
    trains: str = "policy",
    critic: bool = False,
    average: bool = False,
    microbatches: int = 1,
    drawn: Sequence[tuple[Decoder, ...]] = (),
    followed: bool = False,
) -> dict[str, int]:
    """Bytes on one device by what they are for: while a gradient is taken, or a rollout drawn.

    Args:
        mesh: how arrays are cut.
        student: who is trained, or the body of the reward model that is.
        teacher: who grades or draws, if anybody.
        reward: a reward model that grades.
        trains: `policy` or `reward`.
        critic: whether one is trained beside the policy.
        average: whether parameters are averaged.
        microbatches: parts of a gradient; of more than one the sum is held too.
        drawn: who draws a rollout together, beside the student, which alone draws some.
        followed: whether a teacher is kept that follows what is trained.
    """
    model = student if trains == "policy" else Scalar(student)
    trained = folder.abstract(model, mesh, trained=True)
    moved = on_device(model.trained(trained))
    gradients = 1 if trains == "policy" and microbatches == 1 else 2
    held = {
        "student" if trains == "policy" else "reward model": on_device(trained),
        "its start": on_device(folder.abstract(student, mesh)),
        "Adam's moments": MOMENTS * moved,
        "average": moved * average,
        GRADIENTS: gradients * moved,
        "teacher": moved * followed,
    }
    if trains == "policy":
        held[MATRICES] = max(
            sum(matrices(mesh, model, model is student) for model in models)
            for models in ((student,), *drawn)
        )
    if critic:
        whole = on_device(folder.abstract(Scalar(student), mesh, trained=True))
        held["critic"] = (1 + MOMENTS + 1) * whole  # with moments and gradients of its own
    for name, other in (("teacher", teacher), ("grader", reward)):
        if other is not None:
            held[name] = on_device(folder.abstract(other, mesh))
    return {name: size for name, size in held.items() if size}


def matrices(mesh: Mesh, model: Decoder, trained: bool) -> int:
    """Bytes on one device of what a rollout makes of a policy, to read it at every token.

    In the computation's dtype: the layers one by one, gathered over what rows are split over where
    the model says so; the unembedding [D, V], gathered; the embedding, where it isn't read as it
    lies. `trained` is whether the parameters are in what training has them in.
    """
    whole = dataclasses.replace(model, rules=sharding.gathered(model.rules))
    lying = folder.abstract(model, mesh, trained)
    apart, met = (computed(model, folder.abstract(each, mesh)) for each in (model, whole))
    read = met if model.gather else apart
    embedding, own = read["embedding"], lying["embedding"]
    copied = embedding.dtype != own.dtype or on_device(embedding) != on_device(own)
    unembedding = met["embedding" if model.config.tied else "unembedding"]
    return on_device((read["layers"], unembedding)) + copied * on_device(embedding)


def computed(model: Decoder, params: Any) -> Any:
    """The shapes of a model's parameters in the dtype that it computes in."""
    dtype = jnp.dtype(model.config.dtype)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), params
    )


def _drawing(method: Method, student: Decoder, teacher: Any) -> list[tuple[Decoder, ...]]:
    """Who draws a rollout together, where the teacher has a part."""
    if not isinstance(teacher, Decoder):  # several, or one behind a server: they grade alone
        return []
    origin = method.origin
    if origin.behavior == "teacher":
        return [(teacher,)]
    if origin.behavior == "mixture" and origin.other == "teacher":
        return [(student, teacher) if origin.level == "token" else (teacher,)]
    return []


def said(config: Config, ready: Ready, method: Method, taught: bool) -> str:
    """The line of a training; `taught` is whether it has a teacher."""
    is_policy, teacher = config.trains == "policy", config.teacher
    student, taught_by = ready.student.model, model_of(ready.teacher)
    held = parts(
        ready.world.mesh,
        student,
        taught_by if taught and not teacher.is_student else None,
        ready.reward.model,
        config.trains,
        is_policy and "value" in facts.needs(method),
        config.optimizer.ema > 0,
        config.optimizer.microbatches,
        _drawing(method, student, taught_by),
        taught and teacher.kept,
    )
    return line(held, ready.world.mesh.size)


def line(held: Mapping[str, int], devices: int) -> str:
    """What `parts` counted, in one line; all numbers in the total's unit."""
    either = [held[name] for name in (GRADIENTS, MATRICES) if name in held]
    total = sum(held.values()) - (min(either) if len(either) == 2 else 0)
    power = min(int(math.log2(max(total, 1)) // 10), len(UNITS) - 1)
    shown = ", ".join(f"{name} {size / 1024**power:.3g}" for name, size in held.items())
    if len(either) == 2:
        shown = shown.replace(f", {MATRICES}", f" or {MATRICES}")
    where = "memory" if devices == 1 else f"memory on each of {devices} devices"
    return f"{where}: {total / 1024**power:.3g} {UNITS[power]} and activations ({shown})"

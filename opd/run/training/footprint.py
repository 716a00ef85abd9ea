"""What a training holds on a device: parameters and optimizer, counted before anything is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

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
    followed: bool = False,
) -> dict[str, int]:
    """Bytes on one device by what they are for: all that is there while a gradient is taken.

    Args:
        mesh: how arrays are cut.
        student: who is trained, or the body of the reward model that is.
        teacher: who grades or draws, if anybody.
        reward: a reward model that grades.
        trains: `policy` or `reward`.
        critic: whether one is trained beside the policy.
        average: whether parameters are averaged.
        microbatches: parts of a gradient; of more than one the sum is held too.
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
        "gradients": gradients * moved,
        "teacher": moved * followed,
    }
    if critic:
        whole = on_device(folder.abstract(Scalar(student), mesh, trained=True))
        held["critic"] = (1 + MOMENTS + 1) * whole  # with moments and gradients of its own
    for name, other in (("teacher", teacher), ("grader", reward)):
        if other is not None:
            held[name] = on_device(folder.abstract(other, mesh))
    return {name: size for name, size in held.items() if size}


def said(config: Config, ready: Ready, method: Method, taught: bool) -> str:
    """The line of a training; `taught` is whether it has a teacher."""
    is_policy, teacher = config.trains == "policy", config.teacher
    held = parts(
        ready.world.mesh,
        ready.student.model,
        model_of(ready.teacher) if taught and not teacher.is_student else None,
        ready.reward.model,
        config.trains,
        is_policy and "value" in facts.needs(method),
        config.optimizer.ema > 0,
        config.optimizer.microbatches,
        taught and teacher.kept,
    )
    return line(held, ready.world.mesh.size)


def line(held: Mapping[str, int], devices: int) -> str:
    """What `parts` counted, in one line; all numbers in the total's unit."""
    total = sum(held.values())
    power = min(int(math.log2(max(total, 1)) // 10), len(UNITS) - 1)
    shown = ", ".join(f"{name} {size / 1024**power:.3g}" for name, size in held.items())
    where = "memory" if devices == 1 else f"memory on each of {devices} devices"
    return f"{where}: {total / 1024**power:.3g} {UNITS[power]} and activations ({shown})"

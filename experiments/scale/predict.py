"""What an update would take on chips of known peaks: a prediction, never a measurement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.scale import job
from experiments.scale.chips import CHIPS, GIB, Chip
from experiments.scale.job import Job
from opd.engine import costs, sharding
from opd.engine.sampling import buckets
from opd.model.decoder import Decoder
from opd.run.players import folder
from opd.run.training import footprint

Report = dict[str, Any]


def predicted(job: Job, chip: Chip, name: str, sent: Mapping[str, Mapping[str, int]]) -> Report:
    """A prediction, of the chip's peaks: what a program takes if one of them is all that limits it.

    `at_best` has compute, memory and links at work at the same time, `at_worst` one after the
    other. FLOPs are `costs.flops`' (a recomputed forward isn't counted as work), memory traffic is
    what can't be avoided: matrices and caches, once for every pass over them.
    """
    chips = job.mesh.size
    flops = job.flops[name]
    seconds = {
        "compute": (flops + recomputed(job, name)) / chips / chip.flops,
        "memory": traffic(job, name) / chip.bandwidth,
        "links": sum(kind["bytes"] for kind in sent.values()) / chip.links,
    }
    best, worst = max(seconds.values()), sum(seconds.values())
    return {
        "flops": flops,
        "predicted": {
            "seconds": seconds | {"at_best": best, "at_worst": worst},
            "bottleneck": max(seconds, key=lambda each: seconds[each]),
            "mfu": {
                "at_best": flops / chips / chip.flops / best,
                "at_worst": flops / chips / chip.flops / worst,
            },
        },
    }


def recomputed(job: Job, name: str) -> int:
    """FLOPs of the forward that an update makes once more, where `student.remat` is full."""
    if name != "update" or job.student.remat != "full":
        return 0
    tokens = job.prompt + job.length - 1
    return job.rows * job.student.matmul_flops(tokens, tokens)


def traffic(job: Job, name: str) -> float:
    """Bytes that a chip's memory moves at least."""
    if name == "teacher":
        return passes(job.teacher.rows, job.rows) * matrices(job, job.teacher)
    if name == "update":
        again = job.student.remat == "full"
        return job.config.optimizer.microbatches * (2 + again) * matrices(job, job.student)
    moved, before = 0.0, 0
    for slots, until in buckets(job.prompt, job.length):
        moved += (until - before) * (matrices(job, job.student) + cache(job, slots))
        before = until
    return moved


def passes(at_once: int | None, rows: int) -> int:
    """How often a forward of all rows goes through the layers."""
    return 1 if at_once is None else -(-rows // at_once)


def matrices(job: Job, model: Decoder) -> int:
    """Bytes of a model's matrices as a chip computes with them: gathered over `fsdp`."""
    whole = dataclasses.replace(model, rules=sharding.gathered(model.rules))
    return footprint.on_device(footprint.computed(model, folder.abstract(whole, job.mesh)))


def cache(job: Job, slots: int) -> int:
    """Bytes of keys and values of so many slots, of the rows and heads that a chip has."""
    c = job.student.config
    shape = (job.rows, c.kv_heads, slots, c.head_dim)
    names = ("batch", "kv_heads", None, None)
    spec = sharding.spec(names, shape, job.mesh, job.student.rules)
    mine = jax.sharding.NamedSharding(job.mesh, spec).shard_shape(shape)
    return 2 * c.layers * math.prod(mine) * jnp.dtype(c.dtype).itemsize


def probe_flops(job_: Job) -> int:
    """Matmul FLOPs of a probe: one rollout, one teacher and one forward for all of its rows.

    As `costs.flops` counts them, so each row pays its own pull-back: an update less its forward.
    """
    config, tokens = job_.config, job_.prompt + job_.length - 1
    forward = job_.student.matmul_flops(tokens, tokens)
    once = {"rollout": 0, "teacher": 0}
    pulled = 0
    for method in config.probe.methods:
        each = costs.flops(
            job_.student, job_.teacher, method, job_.prompt, job_.length, job_.scoring,
            config.group_size,
        )  # fmt: skip
        once = {name: max(once[name], each[name]) for name in once}
        pulled += each["update"] - forward
    return config.probe.groups * config.group_size * (sum(once.values()) + forward + pulled)


def said(job_: Job, kind: str, compiled: Mapping[str, Report]) -> str:
    """The prediction in words; `compiled` has the reports of the job's programs that there are."""
    chip, config = CHIPS[kind], job_.config
    lines = [f"PREDICTION, not measured: peaks of {job_.mesh.size} x {kind}, nothing was run"]
    if not compiled:
        lines.append("traffic between chips is left out: --report has it")
    best = worst = 0.0
    for name in job.programs_of(job_):
        sent = compiled.get(name, {}).get("collectives", {})
        found = predicted(job_, chip, name, sent)["predicted"]
        seconds, mfu = found["seconds"], found["mfu"]
        best, worst = best + seconds["at_best"], worst + seconds["at_worst"]
        lines.append(
            f"{name:8} {seconds['at_best']:8.3g} to {seconds['at_worst']:.3g} s, MFU "
            f"{mfu['at_worst']:.2f} to {mfu['at_best']:.2f}, by {found['bottleneck']}"
        )
    tokens = job_.rows * job_.length
    lines.append(
        f"update   {best:8.3g} to {worst:.3g} s, {tokens / worst:.3g} to {tokens / best:.3g} "
        f"completion tokens a second"
    )
    lines.append(
        f"run      {config.updates} updates: {config.updates * best / 3600:.3g} to "
        f"{config.updates * worst / 3600:.3g} hours, evaluation and saving left out"
    )
    probe = probe_flops(job_) / job_.mesh.size / chip.flops
    lines.append(f"probe    {probe:8.3g} s at best, by compute alone")
    lines.append(_memory(job_, chip, compiled))
    return "\n".join(lines)


def _memory(job_: Job, chip: Chip, compiled: Mapping[str, Report]) -> str:
    used = [each["hbm_used"] for each in compiled.values()]
    if used and None not in used:
        return f"memory   {max(used) / GIB:.3g} of {chip.usable / GIB:.4g} GiB a chip, compiled"
    drawn = footprint.matrices(job_.mesh, job_.student, trained=True)
    drawn += cache(job_, job_.prompt + job_.length)
    least = sum(job_.resident.values()) + drawn
    fits = "" if least <= chip.usable else ": DOES NOT FIT"
    return (
        f"memory   {least / GIB:.3g} of {chip.usable / GIB:.4g} GiB a chip at least{fits} "
        "(players, optimizer, and a rollout's matrices and cache; activations left out)"
    )

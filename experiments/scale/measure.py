"""What the compiler says of a job's programs, per chip: memory, buffers, collectives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax

from experiments.scale import hlo, job, predict
from experiments.scale.chips import GIB, Chip
from experiments.scale.job import Job
from opd.engine import costs, sharding
from opd.engine.sampling import buckets
from opd.run.training import footprint

# What the compiler says where memory doesn't suffice.
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_NEEDED = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_BUFFER = re.compile(
    r"Size: ([\d.]+)([KMGT]?).*?(?:op_name=\"([^\"]*)\".*?)?Shape: (\w+\[[\d,]*\])", re.DOTALL
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

Report = dict[str, Any]


def measured(job: Job, chip: Chip, name: str) -> Report:
    """One program of a job compiled for its chips; what they would hold, send and take, each.

    A program that doesn't fit isn't compiled to its end: it has no collectives.
    """
    lowered = jobs_program(job, name)
    beside = _beside(job, name)
    found: Report = {"hbm_limit": chip.usable, "resident_beside": beside}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | refused(str(error), beside) | predict.predicted(job, chip, name, {})
    memory = compiled.memory_analysis()
    used = costs.peak_bytes(compiled) + memory.generated_code_size_in_bytes + beside
    module, entry = hlo.parse(compiled.as_text())
    turns = _turns(job) if name == "rollout" else None
    sent, kernels = (read(module, entry, turns) for read in (hlo.collectives, hlo.kernels))
    cost = compiled.cost_analysis()
    return (
        found
        | {
            "fits": used <= chip.usable,
            "hbm_used": used,
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes,
            "donated": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
            "largest_buffers": hlo.largest(module, entry),
            "collectives": sent,
            "kernels": kernels,
            "once_through_every_loop": {
                "flops": cost.get("flops", 0.0)
                + sum(each["flops_once"] for each in kernels.values()),
                "bytes": cost.get("bytes accessed", 0.0),
            },
        }
        | held(job, module)
        | predict.predicted(job, chip, name, sent)
    )


def jobs_program(job_: Job, name: str) -> jax.stages.Lowered:
    """A program of a job, lowered."""
    return job.LOWERED[name](job_)


def refused(message: str, beside: int) -> Report:
    """What the compiler says of a program that doesn't fit."""
    said = _USED.search(message) or _NEEDED.search(message)
    used = None if said is None else _bytes(*said.groups()[:2]) + beside
    buffers = [
        {"shape": shape, "bytes": _bytes(size, unit), "name": hlo.short(named)}
        for size, unit, named, shape in _BUFFER.findall(message)
    ]
    return {"fits": False, "hbm_used": used, "largest_buffers": buffers[:8]}


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])


def held(job: Job, module: hlo.Module) -> Report:
    """What a program must not hold: logits of all positions, scores of all pairs of tokens."""
    models = [model for model in (job.student, job.teacher) if model is not None]
    vocab, widths = set(), set()
    for model in models:
        vocab |= {model.vocab, model.vocab // job.mesh.shape["tensor"]}
        widths |= {model.width, model.width // job.mesh.shape["fsdp"]}
    tokens = job.prompt + job.length
    longest = {tokens - 1, tokens, -(-tokens // 512) * 512}
    return {
        "logits_of_positions": hlo.positions(module, vocab, widths),
        "positions": job.rows // sharding.row_shards(job.mesh) * job.length,
        "scores_of_all_pairs": hlo.scores(module, longest),
    }


def _beside(job_: Job, name: str) -> int:
    """Bytes of a device that a training holds while a program runs, and that it isn't given."""
    state = job.state(job_)
    given = {
        "rollout": lambda: state.params,
        "teacher": lambda: job.teacher_params(job_),
        "update": lambda: (state.params, state.optimizer, job.unembedding(job_)),
    }[name]()
    return max(0, sum(job_.resident.values()) - footprint.on_device(given))


def _turns(job: Job):
    """The loops of a rollout that depend on data, one for each size of the cache: all tokens."""
    turns, before = [], 0
    for _, until in buckets(job.prompt, job.length):
        turns.append(until - before)
        before = until

    def of(number: int) -> int:
        return turns[number] if number < len(turns) else 1

    return of


# -------------------------------------------------------------------------------------- together


def whole(found: Mapping[str, Report]) -> Report:
    """A step, of its programs' reports."""
    fits = [each["fits"] for each in found.values()]
    sizes = [each["hbm_used"] for each in found.values()]
    most = max(found.values(), key=lambda each: each["hbm_used"] or math.inf)
    at = {
        when: sum(each["predicted"]["seconds"][when] for each in found.values())
        for when in ("at_best", "at_worst")
    }
    return {
        "fits": all(fits),
        "hbm_used": None if None in sizes else max(sizes),
        "hbm_limit": most["hbm_limit"],
        "largest_buffers": most["largest_buffers"],
        "predicted": {"seconds": at},
    }


def wrong(found: Mapping[str, Report]) -> list[str]:
    """What the programs hold and must not, one line each."""
    lines = []
    for name, each in found.items():
        if each.get("scores_of_all_pairs"):
            pairs = ", ".join(each["scores_of_all_pairs"][:3])
            lines.append(f"{name} holds scores of all pairs of tokens: {pairs}")
        if each.get("logits_of_positions", 0) >= each.get("positions", math.inf):
            lines.append(f"{name} holds logits of {each['logits_of_positions']} positions: all")
    return lines


def line(name: str, each: Report) -> str:
    """One program's report, for a terminal."""
    if each["hbm_used"] is None:
        return f"{name}: does not fit, the compiler gave up"
    used = f"{each['hbm_used'] / GIB:.2f} of {each['hbm_limit'] / GIB:.2f} GiB a chip"
    if "arguments" not in each:
        return "\n".join([f"{name}: does not fit, {used}", *_buffers(each)])
    parts = ", ".join(
        f"{part} {each[part] / GIB:.2f}" for part in ("arguments", "temporaries", "code")
    )
    sent = ", ".join(
        f"{kind} {one['count']} x, {one['bytes'] / GIB:.2f} GiB"
        for kind, one in each["collectives"].items()
    )
    return "\n".join(
        [
            f"{name}: {used}{'' if each['fits'] else ', DOES NOT FIT'} ({parts}, held beside it "
            f"{each['resident_beside'] / GIB:.2f})",
            f"  collectives: {sent or 'none'}",
            *(
                f"  {kernel} {one['count']} x, {one['flops']:.3g} FLOPs"
                for kernel, one in each["kernels"].items()
            ),
            f"  logits of {each['logits_of_positions']} positions at once, of {each['positions']}",
            *_buffers(each),
            _prediction(each["predicted"]),
        ]
    )


def attempts(each: Report) -> str:
    """What was tried where a program doesn't fit, for a terminal."""
    lines = ["  there is no smaller key to try"] if not each["tried"] else []
    for said, found in each["tried"].items():
        used = "?" if found["hbm_used"] is None else f"{found['hbm_used'] / GIB:.2f} GiB"
        lines.append(f"  with config.{said}: {used}, {'fits' if found['fits'] else 'too much'}")
    return "\n".join(lines)


def _buffers(each: Report) -> list[str]:
    return [
        f"  {one['bytes'] / GIB:7.3f} GiB {one['shape']} {one['name']}"
        for one in each["largest_buffers"]
    ]


def _prediction(each: Report) -> str:
    seconds, mfu = each["seconds"], each["mfu"]
    return (
        f"  predicted: {seconds['at_best']:.3g} to {seconds['at_worst']:.3g} s by "
        f"{each['bottleneck']}, MFU {mfu['at_worst']:.2f} to {mfu['at_best']:.2f}"
    )


def summary(report: Report) -> str:
    """All programs together."""
    seconds = report["predicted"]["seconds"]
    fits = "fits" if report["fits"] else "DOES NOT FIT"
    return "\n".join(
        [
            f"{report['topology']}: {fits}; predicted step {seconds['at_best']:.3g} to "
            f"{seconds['at_worst']:.3g} s",
            *wrong(report["programs"]),
        ]
    )

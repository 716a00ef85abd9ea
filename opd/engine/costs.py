"""What an update with one method alone costs: matmul FLOPs, peak bytes, seconds.

FLOPs are counted by hand, because XLA's cost analysis counts the body of a scan once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import jax

from opd.engine.sampling import buckets
from opd.engine.vocab import Pass
from opd.method import facts
from opd.method.table import Method
from opd.types import Model

Figure = tuple[float, float, float]  # value, low, high

# A teacher grades, or it draws; a row that needs either runs one.
GRADED = frozenset({"teacher_full", "teacher_logp", "teacher_samples"})
TEACHER_NEEDS = GRADED | {"teacher_rollouts"}


class Counted(Model, Protocol):
    """A model that can say what its matmuls cost."""

    def matmul_flops(self, queries: int, keys: int) -> int:
        """Forward FLOPs of the body for a row of `queries` new tokens over `keys` slots."""


def needs_teacher(method: Method) -> bool:
    """Whether an update with this method alone runs a teacher."""
    return not TEACHER_NEEDS.isdisjoint(facts.needs(method))


def draws_rollouts(method: Method) -> bool:
    """Whether the method's states are sampled from the student; else they are given."""
    return method.behavior in ("student", "mixture", "buffer")


def program_key(method: Method) -> Hashable:
    """Rows with equal keys share a program but for [B, T] scalars, and so a cost.

    What selects matmuls and work on the vocabulary: the local rules, one pass or two, a teacher or
    none, whether rollouts are drawn, and what only it asks to know of a state. Other statistics
    don't: an update makes them all, for its metrics. Baselines, normalisers, reductions and
    coefficients are [B, T] scalars.
    """
    asked = facts.statistics((method,))
    who = needs_teacher(method), draws_rollouts(method)
    return method.rules, facts.pointwise(method), *who, asked


def flops(
    student: Counted,
    teacher: Counted | None,
    method: Method,
    prompt: int,
    length: int,
    how: Pass | None = None,
    rows: int = 1,
    told: int | None = None,
) -> dict[str, int]:
    """Matmul FLOPs of one rollout's share of an update with this method alone: 2 m n k each.

        rollout = body(P - 1) + T (body(1 over C) + 2 D V)
        teacher = body(P' + T - 1)
        update  = 3 body(P + T - 1) + T' (6 D V + 2 D_teacher V [+ 2 D V + 2 D_teacher V])

    A backward costs twice its forward, d_input and d_weight of every matmul. The vocabulary has
    the student's logits, d_hidden and d_unembedding, and the teacher's logits where the method
    asks them; a method that isn't pointwise computes the logits once more, in a pass of statistics
    before. In that pass a single chunk costs nothing: XLA sees that both passes have the same
    logits. T' is T in whole chunks, C the slots of the cache as it grows. A prompt counts for each
    of its completions, though a group reads it once, and all scores of a sequence count, though
    long ones skip those of later tokens. Elementwise work, lookups and the optimizer are left out.

    It is what a row that never ends costs: decoding stops once all rows have ended.

    Args:
        student: the policy.
        teacher: whoever grades; not looked at where the method asks no teacher.
        method: the row.
        prompt: P, padding included.
        length: T, padding included.
        how: the vocabulary pass, whose chunk counts.
        rows: of a batch or its part, from which a chunk that isn't given follows.
        told: P', of the prompt that the teacher reads; None: P.

    Returns:
        FLOPs of `rollout`, `teacher` and `update`, and their `total`.

    Raises:
        ValueError: sizes below 1, or a method that asks a teacher and none given.
    """
    if prompt < 1 or length < 1:
        raise ValueError(f"prompt {prompt} and length {length}: at least 1 is allowed")
    if needs_teacher(method) and teacher is None:
        raise ValueError(f"{method.name} needs a teacher, and none is given")
    graders = [teacher] if needs_teacher(method) else []
    sequence = prompt + length - 1
    taught = (prompt if told is None else told) + length - 1
    chunk, _ = (Pass() if how is None else how).sizes(rows, length, student.vocab)
    chunks = math.ceil(length / chunk)
    tokens = length if chunks == 1 else chunks * chunk
    passes = 1 if chunks == 1 or facts.pointwise(method) else 2
    logits = passes * sum(_head_flops(model) for model in (student, *graders))
    vocabulary = tokens * (logits + 2 * _head_flops(student))

    parts = {
        "rollout": _rollout_flops(student, prompt, length) if draws_rollouts(method) else 0,
        "teacher": sum(model.matmul_flops(taught, taught) for model in graders),
        "update": 3 * student.matmul_flops(sequence, sequence) + vocabulary,
    }
    return {**parts, "total": sum(parts.values())}


def _rollout_flops(model: Counted, prompt: int, length: int) -> int:
    """Prefill of all but the last prompt token, then T tokens one by one, over the cache so far."""
    flops, drawn = model.matmul_flops(prompt - 1, prompt - 1), 0
    for slots, until in buckets(prompt, length):
        flops += (until - drawn) * model.matmul_flops(1, slots)
        drawn = until
    return flops + length * _head_flops(model)


def _head_flops(model: Model) -> int:
    """One token's logits; as much again for d_hidden, and for d_unembedding."""
    return 2 * model.width * model.vocab


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Peak bytes of a compiled program on a device: temporaries + arguments + results - donated.

    `compiled` is `program.lower(...).compile()`, of `programs.update` for a method's figure.
    """
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(held + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def seconds(programs: Mapping[Any, Callable[[], Any]], repeats: int = 5) -> dict[Any, list[float]]:
    """Wall time of each program in each repeat, seconds; interleaved: A B C, A B C, ...

    Whatever slows the machine down for a while falls on all programs alike. One call of each
    beforehand compiles. A program that consumes its arguments must keep what it returned for its
    next call.

    Raises:
        ValueError: repeats below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: at least 1 is allowed")
    for program in programs.values():
        jax.block_until_ready(program())
    taken: dict[Any, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            taken[name].append(time.perf_counter() - start)
    return taken


def whole(parts: Sequence[Sequence[float]]) -> list[float]:
    """The parts of an update as one time a repeat: summed within each repeat."""
    return [sum(repeat) for repeat in zip(*parts, strict=True)]


def median(samples: Sequence[float]) -> Figure:
    """The median and a 95 % interval for it from order statistics: (value, low, high).

        P(X_(j) <= median <= X_(n + 1 - j)) = 1 - 2 P(Binomial(n, 1/2) < j)

    whatever the distribution (David & Nagaraja 2003, Order Statistics, section 7.1); j is the
    largest with at least 95 %. With fewer than 6 samples there is none, and the interval is the
    widest, (min, max): 93.75 % for 5, 87.5 % for 4, and so on.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples: a median needs at least 1")
    ordered = sorted(samples)
    count = len(ordered)
    out, below = 0, 1  # order statistics left out on each side; 2^n P(Binomial <= out)
    while 40 * (below + math.comb(count, out + 1)) <= 2**count:  # 2 P <= 1 / 20
        out += 1
        below += math.comb(count, out)
    return statistics.median(ordered), ordered[out], ordered[-1 - out]

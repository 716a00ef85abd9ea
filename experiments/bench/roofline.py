"""How far a step is from what the machine can do: counted FLOPs and bytes, and measured peaks.

python -m experiments.bench.roofline WIDTH VOCAB TOKENS THREADS  # prints peaks; a process alone
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import protocol
from experiments.bench.cases import Sizes
from opd.engine import costs
from opd.engine.vocab import Pass
from opd.method.table import Method
from opd.model.decoder import Decoder

FLOAT = 4  # bytes of a float32
SLACK = 1.1  # what side by side may cost beside its arithmetic


def counted(
    step: str, sizes: Sizes, models: tuple[Decoder, Decoder], method: Method, count: int, how: Pass
) -> dict[str, float]:
    """FLOPs of a step's matmuls, and the bytes that it has to move at least.

    Bytes are those of parameters, gradients and moments, each read or written as often as the
    step's definition says, and of the cache while decoding; activations and logits could stay
    where they are made, and are left out. A step without arithmetic, of files, has neither.

    Args:
        step: as `ours` knows it.
        sizes: of the batch.
        models: student and teacher.
        method: of the update.
        count: estimators of a probe.
        how: the vocabulary pass.
    """
    if step in ("load", "read"):
        return {"flops": 0.0, "bytes": 0.0}
    student, teacher = models
    flops = costs.flops(student, teacher, method, sizes.prompt, sizes.completion, how)
    forward, backward = halves(sizes, models, method, how)
    own, theirs = (parameters(model) for model in models)
    drift = student.matmul_flops(sequence(sizes), sequence(sizes))
    drift += sizes.completion * 4 * student.width * student.vocab  # both sides' logits
    updated = 10 * own  # forward, backward, gradient; AdamW reads four arrays and writes three
    parts: dict[str, tuple[float, float]] = {
        "generate": (flops["rollout"], decoded(student, sizes)),
        "learn": (flops["teacher"] + flops["update"], updated + theirs),
        "reuse": (drift + flops["update"], updated + 2 * own),
        "probe": (forward + count * backward, own + theirs + count * 4 * own),
    }
    parts["whole"] = tuple(map(sum, zip(parts["generate"], parts["learn"])))
    done, moved = parts[step]
    return {"flops": float(sizes.batch * done), "bytes": float(FLOAT * moved)}


def sequence(sizes: Sizes) -> int:
    """Tokens that enter a forward: the last one predicts nothing."""
    return sizes.prompt + sizes.completion - 1


def halves(
    sizes: Sizes, models: tuple[Decoder, Decoder], method: Method, how: Pass
) -> tuple[int, int]:
    """A row's training step as forward (teacher included) and backward, in FLOPs."""
    student, teacher = models
    flops = costs.flops(student, teacher, method, sizes.prompt, sizes.completion, how)
    body = student.matmul_flops(sequence(sizes), sequence(sizes))
    backward = 2 * body + sizes.completion * 4 * student.width * student.vocab
    return flops["teacher"] + flops["update"] - backward, backward


def bound(forward: float, backward: float, count: int) -> float:
    """What `count` estimators side by side may cost, in training steps: 1.1 (F + K B) / (F + B)."""
    return SLACK * (forward + count * backward) / (forward + backward)


def parameters(model: Decoder) -> int:
    """How many numbers a model has; a tied matrix counts once."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def decoded(model: Decoder, sizes: Sizes) -> int:
    """Numbers that generation reads: parameters at every token, and the cache that is filled."""
    config = model.config
    filled = sum(range(sizes.prompt, sizes.prompt + sizes.completion))
    cache = 2 * config.layers * config.kv_heads * config.head_dim * filled * sizes.batch
    return (1 + sizes.completion) * parameters(model) + cache


def reached(counts: Mapping[str, float], ms: float, peaks: Mapping[str, Any]) -> dict[str, float]:
    """Shares of the machine's peaks in a step of `ms`, and of whichever limits it: `share`.

    `limit_ms` is what the step would take at both peaks, arithmetic and traffic at once.
    """
    arithmetic = counts["flops"] / (1e9 * peaks["matmul_2048"])
    traffic = counts["bytes"] / (1e9 * peaks["bandwidth"])
    limit, seconds = max(arithmetic, traffic), ms / 1e3
    return {
        "share_of_matmul": arithmetic / seconds,
        "share_of_bandwidth": traffic / seconds,
        "share": limit / seconds,
        "limit_ms": 1e3 * limit,
    }


def best(run: Callable[[], Any], repeats: int = 5) -> float:
    """The least seconds of some runs, after one that compiles."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return min(taken)


def matmul(m: int, k: int, n: int) -> float:
    """GFLOP/s of [m, k] times [n, k] transposed, in float32 and the precision that logits have."""
    left, right = jnp.ones((m, k)), jnp.ones((n, k))
    times = jax.jit(lambda a, b: jnp.einsum("mk,nk->mn", a, b, precision="highest"))
    return 2e-9 * m * k * n / best(lambda: times(left, right))


def bandwidth(mebibytes: int = 256) -> float:
    """GB/s of reading an array and writing it where it is: new pages would cost more."""
    moved = jax.jit(lambda array: array + 1, donate_argnums=0)
    kept = [jnp.ones(mebibytes * protocol.MEBIBYTE // FLOAT)]

    def again() -> jax.Array:
        kept[0] = moved(kept[0])
        return kept[0]

    return 2e-9 * kept[0].nbytes / best(again)


def peaks(width: int, vocab: int, tokens: int) -> dict[str, Any]:
    """This machine's: GFLOP/s of matmuls of two shapes, and GB/s."""
    return {
        "matmul_2048": matmul(2048, 2048, 2048),
        "matmul_vocabulary": matmul(tokens, width, vocab),
        "vocabulary_shape": [tokens, width, vocab],
        "bandwidth": bandwidth(),
    }


if __name__ == "__main__":
    protocol.fewer_cores(int(sys.argv[4]))
    print(json.dumps(peaks(*map(int, sys.argv[1:4]))))

"""B7: enumerating costs one teacher forward, not one a candidate: FLOPs and bytes, counted."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, exactly, worst
from opd.engine import costs, estimator
from opd.engine.vocab import Head, Pass
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.types import Rollout

# Sizes as they are published for small and middle-sized models; only counted, never made.
WORDS = 151_936
STUDENT = Decoder(
    DecoderConfig(WORDS, 896, layers=24, heads=14, kv_heads=2, mlp=4864, max_length=8192)
)
TEACHER = Decoder(
    DecoderConfig(WORDS, 3584, layers=28, heads=28, kv_heads=4, mlp=18944, max_length=8192)
)
PROMPT, LENGTHS = 256, (64, 512, 4096)
# The compiled vocabulary pass: rollouts, tokens, width, vocabulary; chunks of all tokens and few.
ROLLOUTS, TOKENS, WIDTH, VOCAB = 4, 256, 256, 4096
CHUNKS = (TOKENS, 32)


def counted(row: str, length: int) -> dict[str, int]:
    """The library's count of an update's FLOPs, a rollout's share."""
    return costs.flops(STUDENT, TEACHER, table.parse(row), PROMPT, length)


def compiled(row: str, chunk: int) -> jax.stages.Compiled:
    """The vocabulary's part of an update: statistics, coefficients and pull in one pass."""
    method = table.parse(row)
    size, shaped = (ROLLOUTS, TOKENS), jax.ShapeDtypeStruct
    batch = Rollout(
        prompt=shaped((ROLLOUTS, 1), jnp.int32),
        prompt_mask=shaped((ROLLOUTS, 1), bool),
        tokens=shaped(size, jnp.int32),
        mask=shaped(size, bool),
        logp_behavior=shaped(size, jnp.float32),
        ended=shaped((ROLLOUTS,), bool),
        group=shaped((ROLLOUTS,), jnp.int32),
        row=shaped((ROLLOUTS,), jnp.int32),
    )
    side = Head(shaped((*size, WIDTH), jnp.float32), shaped((VOCAB, WIDTH), jnp.float32))

    def run(student: Head, teacher: Head, batch: Rollout) -> Head:
        how = Pass(chunk=chunk)
        return estimator.cotangents(student, teacher, batch, (method,), None, how)[0]

    return jax.jit(run).lower(side, side, batch).compile()


def flops(program: jax.stages.Compiled) -> float:
    """What XLA counts, elementwise work included; right where no loop is left."""
    found = program.cost_analysis()
    return float((found[0] if isinstance(found, Sequence) else found)["flops"])


def measure(effort: Effort) -> Finding:
    """The library's count for large models; XLA's count and bytes of small compiled passes."""
    both = [(counted("opd", t), counted("opd_sampled", t)) for t in LENGTHS]
    keys = [("opd_sampled", TOKENS), *(("opd", chunk) for chunk in CHUNKS)]
    made = {key: compiled(*key) for key in keys}
    byte = {key: costs.peak_bytes(program) for key, program in made.items()}
    block = ROLLOUTS * TOKENS * VOCAB * 4
    all_at_once = [(t["total"] + (WORDS - 1) * t["teacher"]) / t["total"] for t, _ in both]
    numbers = {
        "teacher": worst(
            "FLOPs of the teacher, enumerated / sampled",
            [a["teacher"] / b["teacher"] for a, b in both],
        ),
        "total": worst(
            "FLOPs of an update, enumerated / sampled", [a["total"] / b["total"] for a, b in both]
        ),
        "candidates": worst(
            "FLOPs of an update with a teacher forward for each candidate / with one", all_at_once
        ),
        "compiled": exactly(
            "FLOPs of the compiled vocabulary pass, enumerated / sampled",
            flops(made["opd", TOKENS]) / flops(made["opd_sampled", TOKENS]),
        ),
        "whole": exactly(
            "peak bytes of the pass in one chunk / bytes of one block of logits",
            byte["opd", TOKENS] / block,
        ),
        "chunked": exactly(
            f"the same in chunks of {CHUNKS[1]} tokens", byte["opd", CHUNKS[1]] / block
        ),
        "memory": exactly(
            "peak bytes in one chunk, enumerated / sampled",
            byte["opd", TOKENS] / byte["opd_sampled", TOKENS],
        ),
    }
    where = (
        f"vocabulary {WORDS}, student of width 896, teacher of 3584, prompt {PROMPT}, completions "
        f"{LENGTHS}; compiled for {ROLLOUTS} x {TOKENS} tokens, width {WIDTH}, vocabulary {VOCAB}"
    )
    return Finding(numbers, "compiled", where, [])


NEARLY = 1.1  # elementwise work over the vocabulary is a tenth of its matmuls, or enumerating adds


def judge(numbers: Numbers) -> Judgement:
    """Equal matmuls in the teacher, and nearly equal ones in a pass as XLA compiled it."""
    one = numbers["teacher"].high <= 1 and numbers["total"].high <= 1
    most = numbers["compiled"].high
    return Judgement(
        rules.settle(one and most <= NEARLY, numbers["teacher"].low > NEARLY or most > 2)
    )


CLAIM = Claim(
    "B7",
    "one teacher forward, not K",
    "Enumerating the vocabulary costs one teacher forward for a rollout, as the sampled token "
    "does, and not one for each candidate.",
    measure,
    judge,
    wrong="A count by hand could leave out what it should find, so that XLA's own count of the "
    "compiled pass decides, which sees the logits of both sides. It is about FLOPs: bytes are "
    "printed, and seconds aren't settled. A teacher behind a wire is another matter: the sampled "
    "token asks it for one number a token, enumerating for one for each candidate.",
    needs="seconds of an update on an accelerator",
)

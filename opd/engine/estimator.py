"""The estimator: from both sides of the vocabulary to K rows' cotangents of the student's.

Nothing here knows a model. `steps.pull_back` is a model's forward, this, and the forward's vjp.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from opd import draws
from opd.engine import vocab
from opd.engine.vocab import Head, Pass
from opd.method import facts
from opd.method.coefficients import coefficients, weights
from opd.method.table import Method
from opd.types import Array, Coefficients, Rollout, TokenStats


def cotangents(
    student: Head,
    teacher: Head | None,
    rollout: Rollout,
    methods: tuple[Method, ...],
    uniforms: Array | None,
    how: Pass,
    coefs: tuple[Coefficients, ...] | None = None,
    squares: bool = False,
) -> tuple[Head, TokenStats]:
    """Cotangents of K methods on one rollout batch: of hidden states and matrix, or of logits.

    Ascent direction of each method's objective under its own reduction. Methods whose coefficients
    are pointwise take one pass over the vocabulary; others one of statistics before it.

    Args:
        student: the policy's side of the vocabulary, of B x T positions.
        teacher: the teacher's side, or None where no method asks it.
        rollout: B sequences.
        methods: K rows.
        uniforms: [B, T, k] for rows that draw candidates afresh.
        how: temperature and chunk.
        coefs: the coefficients, where `rollout` is a part of the batch that they belong to; None to
            compute them from this batch.
        squares: as `vocab.pull` takes it.

    Returns:
        Cotangents, leaves [K, ...], and the statistics [B, T].
    """
    rules = tuple(method.rules for method in methods)
    how = asking(how, methods if coefs is None else ())
    weigh, known = _weigh(methods, rollout, student, teacher, coefs, how)
    return vocab.pull(student, teacher, rollout.tokens, rules, weigh, known, uniforms, how, squares)


def asking(how: Pass, methods: tuple[Method, ...]) -> Pass:
    """A pass with the statistics that some methods ask for besides those that all have."""
    return dataclasses.replace(how, asked=facts.statistics(methods))


def coefficients_of(
    methods: tuple[Method, ...], rollout: Rollout, stats: TokenStats
) -> tuple[Coefficients, ...]:
    """Coefficients of K methods on a whole batch."""
    stats = graded(stats, rollout.logp_teacher)
    return tuple(
        coefficients(method, weights(method, rollout), stats, rollout.group) for method in methods
    )


def graded(stats: TokenStats, logp_teacher: Array | None) -> TokenStats:
    """The statistics with a teacher's log-probabilities that no pass has made, if there are any."""
    return stats if logp_teacher is None else dataclasses.replace(stats, logp_teacher=logp_teacher)


def fresh_uniforms(
    seed: int | Array, step: int | Array, rollout: Rollout, methods: tuple[Method, ...]
) -> Array | None:
    """Uniforms [B, T, k] of a step's candidate draws, or None if no method draws any."""
    count = vocab.draws(tuple(method.rules for method in methods))
    if count == 0:
        return None
    key = draws.key(seed, step, "candidate")
    return draws.uniforms(key, rollout.row, rollout.tokens.shape[1], count)


def _weigh(methods, rollout, student, teacher, coefs, how) -> tuple[vocab.Weigh, Any]:
    """How the vocabulary pass gets its coefficients: at hand, as it goes, or by a pass before."""
    if coefs is not None:
        return _at_hand, coefs
    known = tuple(weights(method, rollout) for method in methods), rollout.logp_teacher

    def finish(stats: TokenStats, known) -> tuple[Coefficients, ...]:
        parts, logp_teacher = known
        stats = graded(stats, logp_teacher)
        return tuple(
            coefficients(method, part, stats, rollout.group)
            for method, part in zip(methods, parts, strict=True)
        )

    if all(facts.pointwise(method) for method in methods):
        return finish, known
    stats = vocab.stats(student, teacher, rollout.tokens, how)
    return _at_hand, finish(stats, known)


def _at_hand(stats: TokenStats, coefs: tuple[Coefficients, ...]) -> tuple[Coefficients, ...]:
    return coefs

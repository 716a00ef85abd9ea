"""The chunked pass over the vocabulary: token statistics, and the pull-back of K estimators.

Nothing of size [B, T, V] ever exists: the time axis is cut into chunks of c tokens and one
[B, c, V] block is built, used and dropped. Along T and never along B x T: flattened, every device
of a mesh would compute every token.

One temperature serves both sides; the policy is softmax(logits / temperature).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from opd.masked import zero
from opd.method import local
from opd.types import Array, Coefficients, TokenStats


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("hidden", "unembedding"),
    meta_fields=("cap", "tokens"),
)
@dataclasses.dataclass(frozen=True)
class Head:
    """One side of the vocabulary: hidden states that predict the completion, and its matrix.

    Without a matrix the hidden states are the logits, [B, T, V]. Logits x are cap tanh(x / cap)
    where there is a cap. Ids from `tokens` on are padding, of probability 0; None: all V exist.

    >>> import jax.numpy as jnp
    >>> import opd
    >>> head = opd.Head(jnp.ones((2, 3, 4)), jnp.ones((7, 4)))
    >>> opd.statistics(opd.Rollout.of(jnp.zeros((2, 3), int)), head).logp_student.shape
    (2, 3)
    """

    hidden: Array  # [B, T, D]
    unembedding: Array | None = None  # [V, D]
    cap: float | None = None
    tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Pass:
    """How a pass is made: the policies' temperature, and tokens a chunk. Static."""

    temperature: float = 1.0
    chunk: int = 128  # chosen by hand; a whole completion at once would hold [B, T, V]


Weigh = Callable[[TokenStats, Any], tuple[Coefficients, ...]]


def shaped(logits: Array, cap: float | None, tokens: int | None) -> Array:
    """Logits [..., V] as a family has them: capped, and NEVER where there is no token."""
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if tokens is not None and tokens < logits.shape[-1]:
        logits = jnp.where(_exists(logits, tokens), logits, NEVER)
    return logits


# A padded id's logit. Its difference to another side's is a number, where that of infinities isn't.
NEVER = -1e30


def _exists(logits: Array, tokens: int) -> Array:
    """Which ids there are, of logits [..., V]."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < tokens


def logits(head: Head) -> Array:
    """hidden unembedding^T as `shaped`, [B, T, V] in float32 or wider.

    The product leaves the matmul in that dtype: bfloat16 logits before a float32 softmax cost up
    to a fifth of the gradient. Float32 inputs are not rounded to a narrower type on the way in.
    """
    wide = jnp.promote_types(head.hidden.dtype, jnp.float32)
    if head.unembedding is None:
        return shaped(head.hidden.astype(wide), head.cap, head.tokens)
    product = jnp.einsum(
        "btd,vd->btv",
        head.hidden,
        head.unembedding,
        precision="highest",
        preferred_element_type=wide,
    )
    return shaped(product, head.cap, head.tokens)


def log_softmax(head: Head, temperature: float) -> Array:
    """log softmax(logits / temperature), [B, T, V] nats, in float32 or wider."""
    return jax.nn.log_softmax(logits(head) / temperature, axis=-1)


def stats(
    student: Head,
    teacher: Head | None,
    tokens: Array,
    how: Pass,
    rules: tuple[local.Rule, ...] = (),
) -> TokenStats:
    """Token statistics [B, T] of the rollout's tokens under student and teacher.

    With the divergences that some local rules descend.
    """

    def block(carry: None, part: tuple[Array, Array | None, Array]) -> tuple[None, TokenStats]:
        hidden, teacher_hidden, tokens = part
        logp_student = log_softmax(dataclasses.replace(student, hidden=hidden), how.temperature)
        logp_teacher = _teacher_logp(teacher, teacher_hidden, how, logp_student.shape[-1])
        return carry, _token_stats(logp_student, logp_teacher, tokens, rules)

    whole = (student.hidden, None if teacher is None else teacher.hidden, tokens)
    return _over_chunks(block, None, whole, how.chunk)[1]


def pull(
    student: Head,
    teacher: Head | None,
    tokens: Array,
    rules: tuple[tuple[local.Rule, ...], ...],
    weigh: Weigh,
    known: Any,
    uniforms: Array | None,
    how: Pass,
) -> tuple[Head, TokenStats]:
    """Cotangents of the student's hidden states and unembedding for K estimators.

    For each: dJ/dlogits_t = sum_j local_jt (a_jt - |a_jt| pi_t) + onehot_t (1_{y_t} - pi_t), where
    |a| = sum_v a(v). Ascent direction.

    Args:
        student: the policy's side, [B, T, D] and [V, D]; or [B, T, V] and no matrix.
        teacher: the teacher's side, or None if no rule and no weight asks it.
        tokens: [B, T], the rollout's own.
        rules: each estimator's local rules.
        weigh: from a chunk's statistics and its slice of `known` to K Coefficients. The
            identity on `known` where they were computed beforehand.
        known: what the coefficients are made of besides statistics, [B, T, ...] each.
        uniforms: [B, T, k] for rules that draw, k the most that an estimator draws.
        how: temperature and chunk.

    Returns:
        Head of cotangents, [K, B, T, D] and [K, V, D] (or [K, B, T, V] and no matrix), and the
        statistics [B, T] of the pass; with the divergences of its rules for one estimator alone.
    """
    wide = jnp.promote_types(student.hidden.dtype, jnp.float32)
    alone = rules[0] if len(rules) == 1 else ()

    def block(d_unembedding: tuple[Array | None, ...], part):
        hidden, teacher_hidden, tokens, known, uniforms = part
        capped = logits(dataclasses.replace(student, hidden=hidden))
        logp_student = jax.nn.log_softmax(capped / how.temperature, axis=-1)
        logp_teacher = _teacher_logp(teacher, teacher_hidden, how, capped.shape[-1])
        statistics = _token_stats(logp_student, logp_teacher, tokens, alone)
        cache: dict[tuple[local.Rule, int], Array] = {}
        d_hidden, added = [], []
        coefs = weigh(statistics, known)
        for chosen, weight, total in zip(rules, coefs, d_unembedding, strict=True):
            pushed = _pushes(chosen, logp_teacher, logp_student, uniforms, cache)
            cotangent = _d_logits(pushed, weight, logp_student, tokens) / how.temperature
            cotangent = cotangent if student.cap is None else cotangent * _slope(capped, student)
            back, total = _into_head(student, hidden, cotangent.astype(hidden.dtype), total)
            d_hidden.append(back)
            added.append(total)
        return tuple(added), (tuple(d_hidden), statistics)

    matrix = student.unembedding
    start = tuple(None if matrix is None else jnp.zeros(matrix.shape, wide) for _ in rules)
    teacher_hidden = None if teacher is None else teacher.hidden
    whole = (student.hidden, teacher_hidden, tokens, known, uniforms)
    d_unembedding, (d_hidden, statistics) = _over_chunks(block, start, whole, how.chunk)
    d_matrix = None if matrix is None else jnp.stack(d_unembedding).astype(matrix.dtype)
    d_hidden = jnp.stack(d_hidden)
    return dataclasses.replace(student, hidden=d_hidden, unembedding=d_matrix), statistics


def _into_head(
    head: Head, hidden: Array, cotangent: Array, total: Array | None
) -> tuple[Array, Array | None]:
    """A block's cotangent of the hidden states, and its matrix's added to those before it.

    Both matmuls run in the model's dtype and add up in float32 or wider.
    """
    if head.unembedding is None:
        return cotangent, None
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    d_hidden = jnp.einsum("btv,vd->btd", cotangent, head.unembedding, preferred_element_type=wide)
    added = total + jnp.einsum("btv,btd->vd", cotangent, hidden, preferred_element_type=wide)
    return d_hidden.astype(hidden.dtype), added


def draws(rules: tuple[tuple[local.Rule, ...], ...]) -> int:
    """How many fresh uniforms a position needs: the most that one estimator draws."""
    return max((sum(rule.draws for rule in chosen) for chosen in rules), default=0)


def _slope(capped: Array, head: Head) -> Array:
    """d capped / d uncapped logits, [B, c, V]; 0 where there is no token."""
    slope = 1 - jnp.square(capped / head.cap)
    return slope if head.tokens is None else zero(slope, _exists(capped, head.tokens))


def _teacher_logp(teacher: Head | None, hidden: Array | None, how: Pass, vocab: int):
    """The teacher's log-probabilities, on as many ids as the student has: the rest are padding."""
    if teacher is None:
        return None
    logp = log_softmax(dataclasses.replace(teacher, hidden=hidden), how.temperature)
    missing = vocab - logp.shape[-1]
    if missing > 0:
        logp = jnp.pad(logp, [(0, 0)] * (logp.ndim - 1) + [(0, missing)], constant_values=NEVER)
    return logp[..., :vocab]


def _pushes(
    chosen: tuple[local.Rule, ...],
    logp_teacher: Array | None,
    logp_student: Array,
    uniforms: Array | None,
    cache: dict[tuple[local.Rule, int], Array],
) -> list[Array]:
    """a(v) of each rule of one estimator; a rule that another has computed is not run again.

    The rules of one estimator draw from uniforms of their own; two estimators share them.
    """
    pushed, used = [], 0
    for rule in chosen:
        if (rule, used) not in cache:
            own = None if uniforms is None else uniforms[..., used : used + rule.draws]
            cache[rule, used] = local.candidate_weights(rule, logp_teacher, logp_student, own)
        pushed.append(cache[rule, used])
        used += rule.draws
    return pushed


def _d_logits(pushed: list[Array], weight: Coefficients, logp: Array, tokens: Array) -> Array:
    """The law: one estimator's cotangent of the logits, [B, c, V]."""
    pushed_token = _is_token(logp, tokens if weight.token is None else weight.token)
    own = zero(jnp.broadcast_to(weight.onehot[..., None], logp.shape), pushed_token)
    total = own + sum(
        coef[..., None] * push for coef, push in zip(weight.local, pushed, strict=True)
    )
    return total - jnp.sum(total, -1, keepdims=True) * jnp.exp(logp)


def _is_token(logp: Array, tokens: Array) -> Array:
    """One-hot by comparison, which a vocabulary sharded over a mesh needs no gather for."""
    return jax.lax.broadcasted_iota(tokens.dtype, logp.shape, logp.ndim - 1) == tokens[..., None]


def _token_stats(
    logp_student: Array,
    logp_teacher: Array | None,
    tokens: Array,
    rules: tuple[local.Rule, ...],
) -> TokenStats:
    own = _is_token(logp_student, tokens)

    def at_token(logp: Array) -> Array:
        return jnp.sum(zero(logp, own), -1)

    def entropy(logp: Array) -> Array:
        return jnp.sum(local.entropy_bonus(logp), -1)

    if logp_teacher is None:
        return TokenStats(at_token(logp_student), entropy(logp_student))
    return TokenStats(
        logp_student=at_token(logp_student),
        entropy_student=entropy(logp_student),
        logp_teacher=at_token(logp_teacher),
        entropy_teacher=entropy(logp_teacher),
        kl=jnp.sum(local.reverse_kl(logp_teacher, logp_student), -1),
        divergences=tuple(
            local.divergence(rule, logp_teacher, logp_student) for rule in rules if rule.teacher
        ),
    )


def _over_chunks(block: Callable, carry: Any, whole: Any, chunk: int) -> tuple[Any, Any]:
    """Scan `block` over chunks of the time axis, and put what it returns back together.

    Leaves of `whole` are [B, T, ...]; T is padded to whole chunks with zeros, which weigh nothing.
    """
    length = jax.tree.leaves(whole)[0].shape[1]
    count = -(-length // chunk)
    if count == 1:
        return block(carry, whole)

    def cut(leaf: Array) -> Array:
        pad = [(0, 0)] * leaf.ndim
        pad[1] = (0, count * chunk - length)
        leaf = jnp.pad(leaf, pad)
        return jnp.moveaxis(leaf.reshape(leaf.shape[0], count, chunk, *leaf.shape[2:]), 1, 0)

    def join(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, 1)
        return leaf.reshape(leaf.shape[0], count * chunk, *leaf.shape[3:])[:, :length]

    carry, parts = jax.lax.scan(block, carry, jax.tree.map(cut, whole))
    return carry, jax.tree.map(join, parts)

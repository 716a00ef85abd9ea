"""The chunked pass over the vocabulary: token statistics, and the pull-back of K estimators.

Nothing of size [B, T, V] ever exists: the time axis is cut into chunks of c tokens, and one chunk's
logits [B, c, V] are built, used and dropped. Along T and never along B x T: flattened, every device
of a mesh would compute every token. The matmuls are a chunk's; on a lone CPU what comes between
them goes by blocks of a few of its B c positions, which the caches hold.

One temperature serves both sides; the policy is softmax(logits / temperature).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from opd import layout
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


# Logits of a device that are held at once, of both sides and the cotangents together: enough rows
# for the matmuls to be worth their reads of [V, D]. An accelerator's matmuls want more rows.
HELD = {"cpu": 3 << 24}
HELD_ELSEWHERE = 3 << 27
# Logits of a block: a few arrays of them stay in a CPU's caches. Elsewhere a block is a chunk,
# since the compiler fuses what comes between the matmuls.
BLOCK = {"cpu": 1 << 19}


@dataclasses.dataclass(frozen=True)
class Pass:
    """How a pass is made. Static; where it runs is filled in by `programs`."""

    temperature: float = 1.0  # of both policies
    chunk: int | None = None  # tokens a chunk; None: from the shapes
    shards: int = 1  # devices that a batch's rows are split over
    platform: str | None = None  # None: this process's own
    asked: tuple[local.Statistic, ...] = ()  # statistics that only some rows ask for

    def sizes(self, batch: int, length: int, vocab: int, estimators: int = 1) -> tuple[int, int]:
        """Tokens of a chunk, and positions of a block, of a pass over [batch, length, vocab]."""
        platform = jax.default_backend() if self.platform is None else self.platform
        rows = -(-batch // self.shards)
        chunk = self.chunk
        if chunk is None:
            held = HELD.get(platform, HELD_ELSEWHERE) // (2 + estimators)
            chunks = -(-length // max(1, held // (rows * vocab)))
            chunk = -(-length // chunks)
        chunk = min(chunk, length)
        whole = batch * chunk
        if platform not in BLOCK or self.shards > 1:
            return chunk, whole
        most = max(1, BLOCK[platform] // vocab)
        return chunk, next(size for size in range(min(most, whole), 0, -1) if whole % size == 0)


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
        "...d,vd->...v",
        head.hidden,
        head.unembedding,
        precision="highest",
        preferred_element_type=wide,
    )
    product = layout.constrain(product, "batch", *(None,) * (product.ndim - 2), "vocab")
    return shaped(product, head.cap, head.tokens)


def log_softmax(logits: Array, temperature: float) -> Array:
    """log softmax(logits / temperature), [..., V] nats, in the logits' dtype."""
    return jax.nn.log_softmax(logits / temperature, axis=-1)


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
    batch, length = tokens.shape
    chunk, block = how.sizes(batch, length, _ids(student))

    def of_block(part) -> TokenStats:
        x, y, tokens = part
        return _token_stats(*_both_logp(x, y, how), tokens, rules, how.asked)

    def of_chunk(carry: None, part) -> tuple[None, TokenStats]:
        *hidden, tokens = part
        both = _both_logits(student, teacher, *hidden)
        return carry, _in_blocks(of_block, (*both, tokens), block)

    student, teacher = gathered(student), gathered(teacher)
    whole = (student.hidden, None if teacher is None else teacher.hidden, tokens)
    return _over_chunks(of_chunk, None, whole, chunk)[1]


def pull(
    student: Head,
    teacher: Head | None,
    tokens: Array,
    rules: tuple[tuple[local.Rule, ...], ...],
    weigh: Weigh,
    known: Any,
    uniforms: Array | None,
    how: Pass,
    squares: bool = False,
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
        squares: whether the statistics are to have the cotangents' squared norms.

    Returns:
        Head of cotangents, [K, B, T, D] and [K, V, D] (or [K, B, T, V] and no matrix), and the
        statistics [B, T] of the pass; with the divergences of its rules for one estimator alone.
    """
    wide = jnp.promote_types(student.hidden.dtype, jnp.float32)
    alone = rules[0] if len(rules) == 1 else ()

    def of_block(part) -> tuple[tuple[Array, ...], TokenStats]:
        x, y, tokens, known, uniforms = part
        logp_student, logp_teacher = _both_logp(x, y, how)
        statistics = _token_stats(logp_student, logp_teacher, tokens, alone, how.asked)
        cache: dict[tuple[local.Rule, int], Array] = {}
        cotangents = []
        for chosen, weight in zip(rules, weigh(statistics, known), strict=True):
            pushed = _pushes(chosen, logp_teacher, logp_student, uniforms, cache)
            cotangent = _d_logits(pushed, weight, logp_student, tokens) / how.temperature
            cotangent = cotangent if student.cap is None else cotangent * _slope(x, student)
            cotangents.append(cotangent.astype(student.hidden.dtype))
        if squares:
            norms = tuple(jnp.sum(jnp.square(each.astype(wide)), -1) for each in cotangents)
            statistics = dataclasses.replace(statistics, squares=norms)
        return tuple(cotangents), statistics

    def of_chunk(d_unembedding: tuple[Array | None, ...], part):
        hidden, teacher_hidden, *small = part
        both = _both_logits(student, teacher, hidden, teacher_hidden)
        cotangents, statistics = _in_blocks(of_block, (*both, *small), block)
        made = [
            _into_head(student, hidden, cotangent, total, shards)
            for cotangent, total in zip(cotangents, d_unembedding, strict=True)
        ]
        d_hidden, added = zip(*made, strict=True)
        return added, (d_hidden, statistics)

    batch, length = tokens.shape
    chunk, block = how.sizes(batch, length, _ids(student), len(rules))
    student, teacher = gathered(student), gathered(teacher)
    matrix, shards = student.unembedding, _shards(how, batch)
    start = tuple(None if matrix is None else _nothing(matrix, shards, wide) for _ in rules)
    teacher_hidden = None if teacher is None else teacher.hidden
    whole = (student.hidden, teacher_hidden, tokens, known, uniforms)
    d_unembedding, (d_hidden, statistics) = _over_chunks(of_chunk, start, whole, chunk)
    d_matrix = None
    if matrix is not None:
        d_matrix = jnp.stack([_added(total) for total in d_unembedding]).astype(matrix.dtype)
    d_hidden = jnp.stack(d_hidden)
    return dataclasses.replace(student, hidden=d_hidden, unembedding=d_matrix), statistics


def gathered(head: Head | None) -> Head | None:
    """A side whose matrix is split by token ids alone: gathered once, and not for every chunk."""
    if head is None or head.unembedding is None:
        return head
    matrix = layout.gathered(head.unembedding, "vocab", "embed")
    return dataclasses.replace(head, unembedding=matrix)


def _shards(how: Pass, batch: int) -> int:
    """Over how many devices the rows of a batch are split."""
    return how.shards if batch % how.shards == 0 else 1


def _nothing(matrix: Array, shards: int, wide: Any) -> Array:
    """A sum of nothing, of cotangents [V, D]: one on each device that rows are split over.

    Each adds up its own rows' cotangents, chunk by chunk, and they meet once at the end (`_added`).
    """
    if shards == 1:
        return jnp.zeros(matrix.shape, wide)
    return layout.constrain(jnp.zeros((shards, *matrix.shape), wide), "batch", "vocab", None)


def _added(total: Array) -> Array:
    """What `_nothing` began, whole, and in the shards of the parameter that it belongs to."""
    return total if total.ndim == 2 else layout.summed(total, "vocab", "embed")


def _into_head(
    head: Head, hidden: Array, cotangent: Array, total: Array | None, shards: int
) -> tuple[Array, Array | None]:
    """A chunk's cotangent of the hidden states, and its matrix's added to those before it.

    Both matmuls run in the model's dtype and add up in float32 or wider.
    """
    if head.unembedding is None:
        return cotangent, None
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    if shards > 1:
        cotangent = layout.constrain(cotangent, "batch", None, "vocab")
        d_hidden = jnp.einsum(
            "bcv,vd->bcd", cotangent, head.unembedding, preferred_element_type=wide
        )
        d_hidden = layout.constrain(d_hidden.astype(hidden.dtype), "batch", None, None)
        apart = [leaf.reshape(shards, -1, leaf.shape[-1]) for leaf in (cotangent, hidden)]
        added = jnp.einsum("gnv,gnd->gvd", *apart, preferred_element_type=wide)
        return d_hidden, layout.constrain(total + added, "batch", "vocab", None)
    flat, rows = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (cotangent, hidden))
    d_hidden = jnp.matmul(flat, head.unembedding, preferred_element_type=wide)
    added = jnp.einsum("nv,nd->vd", flat, rows, preferred_element_type=wide)
    return d_hidden.astype(hidden.dtype).reshape(hidden.shape), total + added


def draws(rules: tuple[tuple[local.Rule, ...], ...]) -> int:
    """How many fresh uniforms a position needs: the most that one estimator draws."""
    return max((sum(rule.draws for rule in chosen) for chosen in rules), default=0)


def _slope(capped: Array, head: Head) -> Array:
    """d capped / d uncapped logits, [B, c, V]; 0 where there is no token."""
    slope = 1 - jnp.square(capped / head.cap)
    return slope if head.tokens is None else zero(slope, _exists(capped, head.tokens))


def _ids(head: Head) -> int:
    """V of a side."""
    return head.hidden.shape[-1] if head.unembedding is None else head.unembedding.shape[0]


def _both_logits(
    student: Head, teacher: Head | None, hidden: Array, teacher_hidden: Array | None
) -> tuple[Array, Array | None]:
    """Both sides' logits of a chunk's hidden states."""
    x = logits(dataclasses.replace(student, hidden=hidden))
    y = None if teacher is None else logits(dataclasses.replace(teacher, hidden=teacher_hidden))
    return x, y


def _both_logp(x: Array, y: Array | None, how: Pass) -> tuple[Array, Array | None]:
    """Both log-probabilities, on the student's ids; those that a teacher lacks are padding."""
    logp = log_softmax(x, how.temperature)
    if y is None:
        return logp, None
    other = log_softmax(y, how.temperature)
    missing = x.shape[-1] - y.shape[-1]
    if missing > 0:
        other = jnp.pad(other, [(0, 0)] * (y.ndim - 1) + [(0, missing)], constant_values=NEVER)
    return logp, other[..., : x.shape[-1]]


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
    asked: tuple[local.Statistic, ...],
) -> TokenStats:
    own = _is_token(logp_student, tokens)

    def at_token(logp: Array) -> Array:
        return jnp.sum(zero(logp, own), -1)

    def entropy(logp: Array) -> Array:
        return jnp.sum(local.entropy_bonus(logp), -1)

    besides = {it.name: local.statistic(it, logp_teacher, logp_student, own) for it in asked}
    if logp_teacher is None:
        return TokenStats(at_token(logp_student), entropy(logp_student), asked=besides)
    return TokenStats(
        logp_student=at_token(logp_student),
        entropy_student=entropy(logp_student),
        logp_teacher=at_token(logp_teacher),
        entropy_teacher=entropy(logp_teacher),
        kl=jnp.sum(local.reverse_kl(logp_teacher, logp_student), -1),
        divergences=tuple(
            local.divergence(rule, logp_teacher, logp_student) for rule in rules if rule.teacher
        ),
        asked=besides,
    )


def _over_chunks(step: Callable, carry: Any, whole: Any, chunk: int) -> tuple[Any, Any]:
    """Scan `step` over chunks of the time axis, and put what it returns back together.

    Leaves of `whole` are [B, T, ...]; T is padded to whole chunks with zeros, which weigh nothing.
    """
    length = jax.tree.leaves(whole)[0].shape[1]
    count = -(-length // chunk)
    if count == 1:
        return step(carry, whole)

    def cut(leaf: Array) -> Array:
        pad = [(0, 0)] * leaf.ndim
        pad[1] = (0, count * chunk - length)
        leaf = jnp.pad(leaf, pad)
        return jnp.moveaxis(leaf.reshape(leaf.shape[0], count, chunk, *leaf.shape[2:]), 1, 0)

    def join(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, 1)
        return leaf.reshape(leaf.shape[0], count * chunk, *leaf.shape[3:])[:, :length]

    carry, parts = jax.lax.scan(step, carry, jax.tree.map(cut, whole))
    return carry, jax.tree.map(join, parts)


def _in_blocks(step: Callable, whole: Any, block: int) -> Any:
    """`step` on leaves [B, c, ...], by `block` of their B c positions; as [block, 1, ...] each."""
    batch, length = jax.tree.leaves(whole)[0].shape[:2]
    if block >= batch * length:
        return step(whole)
    flat = jax.tree.map(lambda leaf: leaf.reshape(batch * length, *leaf.shape[2:]), whole)

    def part(number: Array) -> Any:
        # By number: what a loop is handed in blocks, XLA on a CPU copies first.
        def cut(leaf: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(leaf, number * block, block)[:, None]

        return step(jax.tree.map(cut, flat))

    made = jax.lax.map(part, jnp.arange(batch * length // block))
    return jax.tree.map(lambda leaf: leaf.reshape(batch, length, *leaf.shape[3:]), made)

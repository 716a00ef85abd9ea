"""Sampling completions: prefill and decode in one program.

Random numbers are handed in as uniforms [B, T], one for each row and position, so that a row's
completion does not depend on the rows beside it, on the batch split or on the mesh.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from opd import draws, layout, trees
from opd.engine import vocab
from opd.types import Array, Model, Params, pytree

# A cache grows in at most BUCKETS steps, of BUCKET slots or more: attention reads what it has.
BUCKET, BUCKETS = 256, 4


@pytree
class Completion:
    """What was sampled after the prompts."""

    tokens: Array  # [B, T] int32, pad_id after EOS
    mask: Array  # [B, T] bool, true up to and with EOS
    logp: Array  # [B, T] nats, under the distribution actually sampled; 0 off the mask
    ended: Array  # [B] bool, EOS was drawn (false: cut at T)


class Partner(NamedTuple):
    """Who draws what the policy doesn't, token by token: a mixture's other policy."""

    model: Model  # static
    params: Params
    share: float  # of the policy's own draws; static


class _State(NamedTuple):
    """Carry of the decode loop: everything before `step` is final."""

    step: Array
    caches: tuple  # one a policy
    last: Array  # [B], the token that enters the model next
    live: Array  # [B], no EOS so far
    completion: Completion


def generate(
    model: Model,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    uniforms: Array,
    *,
    eos_ids: tuple[int, ...],
    pad_id: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prefix: Array | None = None,
    partner: Partner | None = None,
    group_size: int = 1,
) -> Completion:
    """Draw y_t ~ q(. | prompt, y_<t), q = top_p(top_k(softmax(logits / temperature))).

    q is renormalised after each truncation, and `logp` is log q(y_t): the behavior policy's own
    log-probability, so that importance ratios against it are unbiased where q > 0. Temperature 0
    is the arg max, whose log-probability is 0. The loop ends as soon as every row has ended.

    With a partner y_t ~ share q + (1 - share) q', q' the partner's by the same rules, and `logp`
    is the mixture's (Agarwal et al. 2024, GKD, section 3, lambda at every token).

    Args:
        model: the policy; static, as are all the keyword arguments.
        params: its parameters.
        prompt: [B, P] int32, left-padded, P >= 1.
        prompt_mask: [B, P] bool.
        uniforms: [B, T] in [0, 1), T being the most tokens to draw.
        eos_ids: tokens that end a completion; they are graded.
        pad_id: what stands after the end; it must not be one of them.
        temperature: of the policy, >= 0.
        top_k: keep the k most likely tokens (and ties with the k-th).
        top_p: keep the fewest most likely tokens whose mass is at least this (and ties with the
            last of them).
        prefix: [B, T] int32, tokens to take in place of draws; -1 where one is drawn. With a
            rollout's own tokens before t it continues that rollout afresh from s_t.
        partner: a policy over the same vocabulary, and the share of [0, 1] that is not its own;
            it needs a temperature above 0.
        group_size: so many rows side by side have one prompt, which is read once; the first of
            them says it.

    Raises:
        ValueError: arguments outside what is said here, or prompt and completion together longer
            than a model allows; before anything compiles.
    """
    _check(model, prompt, prompt_mask, uniforms, eos_ids, pad_id, temperature, top_k, top_p)
    if prefix is not None and prefix.shape != uniforms.shape:
        raise ValueError(f"prefix {prefix.shape}: {uniforms.shape} is allowed")
    if partner is not None:
        _check_partner(partner, model, temperature)
    batch, length = uniforms.shape
    rooms = buckets(prompt.shape[1], length)
    if group_size < 1 or batch % group_size:
        raise ValueError(f"group_size is {group_size}: a divisor of the {batch} rows is allowed")
    eos = jnp.asarray(eos_ids, jnp.int32)
    cut = functools.partial(truncated_logits, temperature=temperature, top_k=top_k, top_p=top_p)
    share = 1.0 if partner is None else partner.share
    policies = [(model, params)] if share > 0 else []
    if share < 1:
        policies.append((partner.model, partner.params))
    # [D, V], laid out as a product with [B, D] reads it: for a few rows that is most of its time.
    matrices = [
        jax.lax.optimization_barrier(layout.gathered(model.unembedding(params).T, "embed", "vocab"))
        for model, params in policies
    ]
    # A model computes in its matrix's dtype. Rounded once, or it would be at every token.
    policies = [
        (model, trees.cast(params, matrix.dtype))
        for (model, params), matrix in zip(policies, matrices, strict=True)
    ]

    # All but the last prompt token: that one enters first in the loop, whose body then is "extend,
    # draw", so the draw is compiled once and no step runs a model for a token nobody needs.
    def prefilled(model: Model, params: Params) -> Any:
        tokens, mask = prompt[::group_size, :-1], prompt_mask[::group_size, :-1]
        cache = model.prefill(params, tokens, mask, rooms[0][0])
        return jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0) if x.ndim else x, cache)

    apart = [model.apart(params) for model, params in policies]

    def running(until: int, state: _State) -> Array:
        return (state.step < until) & jnp.any(state.live)

    def body(state: _State) -> _State:
        t = state.step
        known = jnp.where(t == 0, prompt_mask[:, -1], state.live)
        caches, logits = [], []
        for (model, _), parts, cache, matrix in zip(
            policies, apart, state.caches, matrices, strict=True
        ):
            hidden, cache = model.extend(parts, cache, state.last[:, None], known[:, None])
            caches.append(cache)
            found = layout.constrain(logits_of(hidden[:, 0], matrix), "batch", "vocab")
            logits.append(cut(vocab.shaped(found, model.logit_cap, model.tokens)))
        mixture = logits[0] if len(logits) == 1 else mixed(logits[0], logits[1], share)
        uniform = jax.lax.dynamic_index_in_dim(uniforms, t, axis=1, keepdims=False)
        token, logp = greedy(mixture) if temperature == 0 else draw(mixture, uniform)
        if prefix is not None:
            given = jax.lax.dynamic_index_in_dim(prefix, t, axis=1, keepdims=False)
            token, logp = _taken(mixture, given.astype(token.dtype), token, logp)
        token = jnp.where(state.live, token, pad_id)
        stops = jnp.any(token[:, None] == eos[None], axis=1) & state.live
        so_far = state.completion
        completion = Completion(
            tokens=_put(so_far.tokens, token, t),
            mask=_put(so_far.mask, state.live, t),
            logp=_put(so_far.logp, jnp.where(state.live, logp, 0), t),
            ended=so_far.ended | stops,
        )
        return _State(t + 1, tuple(caches), token, state.live & ~stops, completion)

    dtype = jnp.promote_types(jnp.result_type(*matrices), jnp.float32)
    nothing = Completion(
        tokens=jnp.full((batch, length), pad_id, jnp.int32),
        mask=jnp.zeros((batch, length), bool),
        logp=jnp.zeros((batch, length), dtype),
        ended=jnp.zeros((batch,), bool),
    )
    start = _State(
        step=jnp.zeros((), jnp.int32),
        caches=tuple(prefilled(*policy) for policy in policies),
        last=prompt[:, -1].astype(jnp.int32),
        live=jnp.ones((batch,), bool),
        completion=nothing,
    )
    state = start
    for slots, until in rooms:
        caches = zip(policies, state.caches, strict=True)
        grown = tuple(model.grown(cache, slots) for (model, _), cache in caches)
        state = state._replace(caches=grown)
        state = jax.lax.while_loop(functools.partial(running, until), body, state)
    return state.completion


def buckets(width: int, length: int) -> list[tuple[int, int]]:
    """(slots, tokens): the cache of a prompt [B, width] has so many until so many are drawn.

    The last is all of it. Each is a loop of its own, compiled for its slots.
    """
    total = width + length
    count = min(BUCKETS, -(-total // BUCKET))
    sizes = [-(-total * n // count) for n in range(1, count + 1)]
    return [(size, size - width) for size in sizes if size > width]


def logits_of(hidden: Array, matrix: Array) -> Array:
    """hidden [B, D] @ matrix [D, V], out of the matmul in float32 or wider."""
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    return jnp.matmul(hidden, matrix, precision="highest", preferred_element_type=dtype)


def truncated_logits(
    logits: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Array:
    """Logits [B, V] of the distribution to sample: scaled, and -inf where it is cut.

    Temperature first, then top-k, then top-p on what is left, renormalised (nucleus sampling:
    Holtzman et al. 2020, section 3.1). Options that are off cost nothing.
    """
    if temperature == 0:
        return logits
    if temperature != 1.0:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = _cut(logits, jnp.ones_like(logits), top_k)
    if top_p is not None and top_p < 1:
        logits = _cut(logits, jax.nn.softmax(logits, axis=-1), top_p)
    return logits


def greedy(logits: Array) -> tuple[Array, Array]:
    """The likeliest tokens [B] of logits [B, V], and their log-probabilities as drawn: zeros."""
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return token, jnp.zeros(token.shape, logits.dtype)


def draw(logits: Array, uniform: Array) -> tuple[Array, Array]:
    """Tokens [B] drawn from softmax(logits [B, V]) at uniforms [B], and their log-probabilities."""
    weight = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    token = draws.inverse_cdf(weight, uniform[:, None])[:, 0]
    return token, _logp(logits, token)


def mixed(logits: Array, other: Array, share: float) -> Array:
    """log(share p + (1 - share) p') of two policies' logits, 0 < share < 1."""
    own, others = (jax.nn.log_softmax(each, axis=-1) for each in (logits, other))
    return jnp.logaddexp(own + math.log(share), others + math.log1p(-share))


def _logp(logits: Array, token: Array) -> Array:
    """log softmax(logits [B, V]) at tokens [B]: no array of all of them is made."""
    own = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return own - jax.nn.logsumexp(logits, axis=-1)


def _taken(logits: Array, given: Array, token: Array, logp: Array) -> tuple[Array, Array]:
    """The given tokens [B] and their log-probabilities; the drawn ones where `given` is -1."""
    own = _logp(logits, jnp.maximum(given, 0))
    return jnp.where(given >= 0, given, token), jnp.where(given >= 0, own, logp)


def _cut(logits: Array, weight: Array, enough: float) -> Array:
    """Keep the fewest largest logits whose weights sum to at least `enough`; -inf elsewhere.

    The least logit to keep is found bit by bit, in one pass over V for each bit: a sort of V,
    or XLA's top_k on the CPU, takes ten times as long.
    """
    bits = 8 * logits.dtype.itemsize
    unsigned = jnp.dtype(f"uint{bits}")
    top = jnp.asarray(1 << (bits - 1), unsigned)
    raw = jax.lax.bitcast_convert_type(logits, unsigned)
    order = jnp.where(raw & top != 0, ~raw, raw | top)  # integers in the order of the floats

    def bit(i: Array, least: Array) -> Array:
        candidate = least | (top >> i.astype(unsigned))
        kept = jnp.sum(jnp.where(order >= candidate, weight, 0), axis=-1, keepdims=True)
        return jnp.where(kept >= enough, candidate, least)

    least = jax.lax.fori_loop(0, bits, bit, jnp.zeros_like(order[:, :1]))
    return jnp.where(order >= least, logits, -jnp.inf)


def _put(array: Array, column: Array, t: Array) -> Array:
    column = column[:, None].astype(array.dtype)
    return jax.lax.dynamic_update_slice_in_dim(array, column, t, axis=1)


def _check_partner(partner: Partner, model: Model, temperature: float) -> None:
    if partner.model.tokens != model.tokens:
        raise ValueError(
            f"partner has {partner.model.tokens} tokens: the policy's {model.tokens} are allowed"
        )
    if not 0 <= partner.share <= 1:
        raise ValueError(f"share is {partner.share}: 0 to 1 are allowed")
    if temperature == 0:
        raise ValueError("temperature is 0 with a partner: a number above 0 is allowed")


def _check(model, prompt, prompt_mask, uniforms, eos_ids, pad_id, temperature, top_k, top_p):
    known = model.tokens
    if prompt.ndim != 2 or prompt.shape[1] < 1 or prompt.shape != prompt_mask.shape:
        raise ValueError(
            f"prompt {prompt.shape} and prompt_mask {prompt_mask.shape}: [B, P >= 1] is allowed"
        )
    if uniforms.ndim != 2 or uniforms.shape[0] != prompt.shape[0] or uniforms.shape[1] < 1:
        raise ValueError(f"uniforms {uniforms.shape}: [{prompt.shape[0]}, T], T >= 1, is allowed")
    for name, token in (("pad_id", pad_id), *(("eos_ids", token) for token in eos_ids)):
        if not 0 <= token < known:
            raise ValueError(f"{name} has token {token}: 0 to {known - 1} are allowed")
    if pad_id in eos_ids:
        raise ValueError(
            f"pad_id {pad_id} is in eos_ids {tuple(eos_ids)}: padding must be told from the EOS "
            "action, give another id"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature is {temperature}: a number of at least 0 is allowed")
    if top_k is not None and not 1 <= top_k <= known:
        raise ValueError(f"top_k is {top_k}: 1 to {known}, or None, are allowed")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: above 0 and up to 1, or None, are allowed")

"""Attention with grouped queries (Ainslie et al. 2023): over a sequence, and over a cache.

softmax(cap(scale q k)) v, scores in float32 or wider. Whom a query sees goes by slot: every token
before it that the mask keeps, at most `window` tokens back, and itself. So padding on the left is
seen by nobody, and a row that is padding throughout has a softmax over one entry, not over none.

Shapes: B rows, S tokens of a sequence, s new tokens, C slots of a cache, H query heads, N key-value
heads, K head dimension; query head h reads key head h // (H / N).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from opd.types import Array


def capped(x: Array, cap: float | None) -> Array:
    """cap tanh(x / cap) (Bello et al. 2017, section 4.1; Gemma 2, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def visible(query: Array, key: Array, seen: Array, window: Array | None) -> Array:
    """Whom queries see, [B, S, C], of their slots [S], those of keys [C], and the tokens [B, C]."""
    query, key = query[:, None], key[None]
    found = ((key < query)[None] & seen[:, None]) | (key == query)[None]
    return found if window is None else found & (query - key < window)[None]


def over_sequence(
    query: Array,
    key: Array,
    value: Array,
    seen: Array,
    window: Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
) -> Array:
    """Attention of a sequence to itself.

    Args:
        query: [B, S, H, K].
        key: [B, S, N, K].
        value: [B, S, N, K].
        seen: [B, S] bool, false on padding.
        window: [] int32, the tokens that a query sees, itself among them; None: all before it.
        scale: of the scores; K^(-1/2) by default.
        cap: of the scores, which then are at most this.

    Returns:
        [B, S, H, K].
    """
    slot = jnp.arange(query.shape[1])
    allowed = visible(slot, slot, seen, window)
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scale = dim**-0.5 if scale is None else scale
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, dim) * scale
    scores = jnp.einsum("bsngk,bcnk->bngsc", grouped, key, preferred_element_type=wide)
    scores = jnp.where(allowed[:, None, None], capped(scores, cap), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bngsc,bcnk->bsngk", weights, value).reshape(query.shape)


def over_cache(
    query: Array,
    keys: Array,
    values: Array,
    seen: Array,
    first: Array,
    window: int | None = None,
    scale: float | None = None,
    cap: float | None = None,
) -> Array:
    """Attention of the next s tokens, the first of them in slot `first`, to a cache that has them.

    Keys lie with their slots last, [B, N, K, C], and values [B, N, C, K]: so that both products
    read the cache as it lies, and nothing of it is copied for a token.

    Args:
        query: [B, s, H, K].
        keys: [B, N, K, C].
        values: [B, N, C, K].
        seen: [B, C] bool, the tokens that are there.
        first: [] int32.
        window: as in `over_sequence`; so are `scale` and `cap`.

    Returns:
        [B, s, H, K].
    """
    batch, length, heads, dim = query.shape
    kv_heads, slots = keys.shape[1], keys.shape[3]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scale = dim**-0.5 if scale is None else scale
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, dim) * scale
    grouped = jnp.moveaxis(grouped, 1, 2)  # [B, N, s, G, K]
    # Not by einsum, which would turn its operands round and so copy the cache.
    scores = jax.lax.dot_general(
        grouped, keys, (((4,), (2,)), ((0, 1), (0, 1))), preferred_element_type=wide
    )
    allowed = visible(first + jnp.arange(length), jnp.arange(slots), seen, window)
    scores = jnp.where(allowed[:, None, :, None], capped(scores, cap), -jnp.inf)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    out = jax.lax.dot_general(
        weights.astype(values.dtype),
        values,
        (((4,), (2,)), ((0, 1), (0, 1))),
        preferred_element_type=wide,
    )
    out = (out / jnp.sum(weights, axis=-1, keepdims=True)).astype(query.dtype)
    return jnp.moveaxis(out, 2, 1).reshape(query.shape)

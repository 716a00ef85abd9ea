"""Attention with grouped queries (Ainslie et al. 2023): over a sequence, and over a cache.

softmax(cap(scale q k)) v, scores in float32 or wider. Whom a query sees goes by slot: every token
before it that the mask keeps, at most `window` tokens back, and itself. So padding on the left is
seen by nobody, and a row that is padding throughout has a softmax over one entry, not over none.

Shapes: B rows, S tokens of a sequence, s new tokens, C slots of a cache, H query heads, N key-value
heads, K head dimension; query head h reads key head h // (H / N).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from opd import layout
from opd.model import kernels
from opd.types import Array

KINDS = ("auto", "plain", "blockwise", "splash", "cudnn")
PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}  # what a kernel is for
SPLASH = 128  # tokens, one block of it: from there on `auto` is splash where that is there


def sizes() -> tuple[int, int]:
    """From how many tokens on `auto` is blockwise, and the queries and keys of a block of scores.

    On the CPU it is faster from there on. Elsewhere that isn't measured, and memory decides.
    """
    return (256, 128) if layout.platform() == "cpu" else (2048, 512)


def refuse(how: str, dtype: str, head_dim: int, cap: float | None) -> None:
    """Refuses a kernel that isn't made for a model; a GPU may refuse more, as old ones do.

    Raises:
        ValueError: says which, and what it is made for.
    """
    if how == "splash" and dtype == "float64":
        raise ValueError("attention = 'splash': float32 and bfloat16 are allowed, not float64")
    if how != "cudnn":
        return
    if dtype != "bfloat16":
        raise ValueError(f"attention = 'cudnn': bfloat16 is allowed, not {dtype}")
    if head_dim % 8 or head_dim > 256:
        raise ValueError(
            f"attention = 'cudnn': a head_dim of 8, 16, .. 256 is allowed, not {head_dim}"
        )
    if cap is not None:
        raise ValueError(f"attention = 'cudnn': no cap of scores is allowed, this one's is {cap}")


def refuse_elsewhere(how: str, platform: str) -> None:
    """Refuses a kernel where it can't run.

    Raises:
        ValueError: names the platform that it is for.
    """
    wanted = PLATFORMS.get(how, platform)
    if platform != wanted:
        raise ValueError(f"attention = {how!r}: allowed on {wanted}, and this is {platform}")


def chosen(how: str, length: int, dtype: jnp.dtype) -> str:
    """What `auto` is; anything else is itself.

    cuDNN's kernel was never run, so it is for who asks for it.
    """
    if how != "auto":
        return how
    if layout.platform() == "tpu" and length >= SPLASH and dtype != jnp.float64:
        return "splash"
    return "blockwise" if length >= sizes()[0] else "plain"


def capped(x: Array, cap: float | None) -> Array:
    """cap tanh(x / cap) (Bello et al. 2017, section 4.1; Gemma 2, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def visible(query: Array, key: Array, seen: Array, window: Array | None) -> Array:
    """Whom queries see, [B, S, C], of their slots [S], those of keys [C], and the tokens [B, C]."""
    query, key = query[:, None], key[None]
    found = ((key < query)[None] & seen[:, None]) | (key == query)[None]
    return found if window is None else found & (query - key < window)[None]


def _scaled(query: Array, scale: float | None) -> Array:
    return query * (query.shape[-1] ** -0.5 if scale is None else scale)


def _grouped(query: Array, kv_heads: int) -> Array:
    """Queries by the key head that they read, [B, S, N, G, K]."""
    batch, length, heads, dim = query.shape
    return query.reshape(batch, length, kv_heads, heads // kv_heads, dim)


def over_sequence(
    query: Array,
    key: Array,
    value: Array,
    seen: Array,
    windows: kernels.Windows = (None,),
    which: int | Array = 0,
    scale: float | None = None,
    cap: float | None = None,
    how: str = "auto",
) -> Array:
    """Attention of a sequence to itself.

    Args:
        query: [B, S, H, K].
        key: [B, S, N, K].
        value: [B, S, N, K].
        seen: [B, S] bool, false on padding.
        windows: the tokens that a query sees, itself among them; None: all before it. Several
            where layers of one program differ.
        which: [], of those the one that is meant.
        scale: of the scores; K^(-1/2) by default.
        cap: of the scores, which then are at most this.
        how: one of KINDS.

    Returns:
        [B, S, H, K]. At padding it is finite and means nothing.

    Raises:
        ValueError: a kernel that isn't for this platform.
    """
    length = query.shape[1]
    how = chosen(how, length, query.dtype)
    refuse_elsewhere(how, layout.platform())
    if how in ("splash", "cudnn"):
        return _by_kernel(query, key, value, seen, windows, which, scale, cap, how)
    window = windows[0]
    if len(windows) > 1:
        sees = [length if each is None else each for each in windows]
        window = jnp.asarray(sees, jnp.int32)[which]
    grouped = _grouped(_scaled(query, scale), key.shape[2])
    if how == "blockwise":
        window = jnp.asarray(length if window is None else window, jnp.int32)
        return _blockwise(grouped, key, value, seen, window, cap).reshape(query.shape)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    slot = jnp.arange(length)
    allowed = visible(slot, slot, seen, window)
    scores = jnp.einsum("bsngk,bcnk->bngsc", grouped, key, preferred_element_type=wide)
    scores = jnp.where(allowed[:, None, None], capped(scores, cap), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bngsc,bcnk->bsngk", weights, value).reshape(query.shape)


# ------------------------------------------------------------------------------------- kernels


def _by_kernel(query, key, value, seen, windows, which, scale, cap, how: str) -> Array:
    """`over_sequence` by a kernel, which each device runs on its own rows and heads."""
    heads, kv_heads, split = query.shape[2], key.shape[2], layout.pieces("heads")
    if heads % split == 0 and kv_heads % split:
        # More devices than key heads: each has a copy of the one that its queries read.
        groups = heads // kv_heads
        fewest = (n for n in range(1, groups) if groups % n == 0 and kv_heads * n % split == 0)
        copies = next(fewest, groups)
        key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))

    def own(query, key, value, seen, which) -> Array:
        if how == "cudnn":
            return kernels.cudnn(query, key, value, seen, which, windows, scale)
        interpret = layout.platform() != PLATFORMS[how]
        return kernels.splash(
            _scaled(query, scale), key, value, seen, which, windows, cap, interpret
        )

    by_rows = ("batch", "time")  # and by heads, which are whole for a product over them
    return layout.apart(
        own,
        (query, key, value, seen, jnp.asarray(which, jnp.int32)),
        (
            (*by_rows, "heads", None),
            *((*by_rows, "kv_heads", None),) * 2,
            by_rows,
            (),
        ),
    )


# ------------------------------------------------------------------------------------- blockwise


def _blockwise(query: Array, key: Array, value: Array, seen: Array, window: Array, cap) -> Array:
    """Attention of scaled queries [B, S, N, G, K], a block of scores at a time: nothing is [S, S].

    Softmax online over blocks of keys (Milakov & Gimelshein 2018), computed again in the pull-back
    from its log-sum-exp (Dao et al. 2022). Blocks after a query, or before its window, are skipped.
    """
    length = query.shape[1]
    size = min(sizes()[1], length)
    count = -(-length // size)

    def cut(x: Array) -> Array:  # [B, S, ...] in blocks, [count, B, size, ...]
        x = jnp.pad(x, [(0, 0), (0, count * size - length), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    # [count, B, N, G, size, K], and of keys and values [count, B, N, size, K].
    blocks = jnp.moveaxis(cut(query), 2, 4), *(jnp.moveaxis(cut(x), 2, 3) for x in (key, value))
    out = jnp.moveaxis(_over_blocks(cap, *blocks, cut(seen), window), 4, 2)
    return jnp.moveaxis(out, 0, 1).reshape(query.shape[0], count * size, *query.shape[2:])[
        :, :length
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_blocks(cap, query: Array, key: Array, value: Array, seen: Array, window: Array) -> Array:
    return _forward(cap, query, key, value, seen, window)[0]


def _scores(cap, query: Array, key: Array, seen: Array, window: Array, row: Array, column: Array):
    """Scores [B, N, G, size, size] of two blocks, in float32 or wider, and who sees whom."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    size = key.shape[2]
    slot = jnp.arange(size)
    allowed = visible(row * size + slot, column * size + slot, seen, window)[:, None, None]
    scores = jnp.einsum("bngsk,bnck->bngsc", query, key, preferred_element_type=wide)
    return capped(scores, cap), allowed


def _first(row: Array, size: int, window: Array) -> Array:
    """The first block that a block of queries sees something of."""
    return jnp.maximum(row * size - window + 1, 0) // size


def _at(x: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)


def _forward(cap, query: Array, key: Array, value: Array, seen: Array, window: Array):
    size = key.shape[3]

    def rows(row: Array) -> tuple[Array, Array]:
        own = _at(query, row)

        def step(back: Array, state: tuple) -> tuple:  # from the diagonal, where all see something
            most, total, out = state
            column = row - back
            scores, allowed = _scores(
                cap, own, _at(key, column), _at(seen, column), window, row, column
            )
            scores = jnp.where(allowed, scores, -jnp.inf)
            higher = jnp.maximum(most, jnp.max(scores, axis=-1))
            weights = jnp.exp(scores - higher[..., None])
            shrunk = jnp.exp(most - higher)
            added = jnp.einsum(
                "bngsc,bnck->bngsk",
                weights.astype(value.dtype),
                _at(value, column),
                preferred_element_type=wide,
            )
            total = total * shrunk + jnp.sum(weights, axis=-1)
            return higher, total, out * shrunk[..., None] + added

        nothing = jnp.zeros(own.shape[:-1], wide)
        start = nothing - jnp.inf, nothing, jnp.zeros(own.shape, wide)
        steps = row - _first(row, size, window) + 1
        most, total, out = jax.lax.fori_loop(0, steps, step, start)
        return (out / total[..., None]).astype(query.dtype), most + jnp.log(total)

    wide = jnp.promote_types(query.dtype, jnp.float32)
    out, logsum = jax.lax.map(rows, jnp.arange(query.shape[0]))
    return out, (query, key, value, seen, window, out, logsum)


def _backward(cap, residuals: tuple, cotangent: Array) -> tuple:
    query, key, value, seen, window, out, logsum = residuals
    size = key.shape[3]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)
    along = product("rbngsk,rbngsk->rbngs", cotangent, out)

    def rows(totals: tuple, row: Array) -> tuple[tuple, Array]:
        own, d_out = _at(query, row), _at(cotangent, row)

        def step(column: Array, state: tuple) -> tuple:
            d_query, d_key, d_value = state
            keys = _at(key, column)
            scores, allowed = _scores(cap, own, keys, _at(seen, column), window, row, column)
            weights = jnp.where(allowed, jnp.exp(scores - _at(logsum, row)[..., None]), 0)
            d_weights = product("bngsk,bnck->bngsc", d_out, _at(value, column))
            d_scores = weights * (d_weights - _at(along, row)[..., None])
            if cap is not None:
                d_scores = d_scores * (1 - jnp.square(scores / cap))
            weights, d_scores = weights.astype(value.dtype), d_scores.astype(key.dtype)
            return (
                d_query + product("bngsc,bnck->bngsk", d_scores, keys),
                d_key.at[column].add(product("bngsc,bngsk->bnck", d_scores, own)),
                d_value.at[column].add(product("bngsc,bngsk->bnck", weights, d_out)),
            )

        start = jnp.zeros(own.shape, wide), *totals
        first = _first(row, size, window)
        d_query, *totals = jax.lax.fori_loop(first, row + 1, step, start)
        return tuple(totals), d_query.astype(query.dtype)

    nothing = jnp.zeros(key.shape, wide), jnp.zeros(value.shape, wide)
    totals, d_query = jax.lax.scan(rows, nothing, jnp.arange(query.shape[0]))
    d_key, d_value = (total.astype(x.dtype) for total, x in zip(totals, (key, value), strict=True))
    return d_query, d_key, d_value, None, None


_over_blocks.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------------- by a cache


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
        window: the tokens that a query sees, itself among them; None: all before it.
        scale: as in `over_sequence`; so is `cap`.

    Returns:
        [B, s, H, K].
    """
    length, slots = query.shape[1], keys.shape[3]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    grouped = _grouped(_scaled(query, scale), keys.shape[1])
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

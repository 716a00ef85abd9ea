"""A decoder-only transformer of the Llama / Qwen3 family, as pure functions of its parameters.

Linen modules end here: everything above sees a plain dict of arrays and `Decoder`'s methods. The
network stops at the final norm, so that [B, S, V] is never built by accident.

Shapes: B rows, S tokens of a sequence, s new tokens, C cache length, V vocabulary, D width,
L layers, H query heads, N key-value heads, G = H / N queries a key, K head dimension.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from opd.types import Array, Params, pytree

DTYPES = ("bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The decoder's sizes and choices.

    Raises:
        ValueError: a size, the rotary base or a dtype that the decoder can't have.
    """

    vocab: int  # V
    width: int  # D
    layers: int  # L
    heads: int  # H
    kv_heads: int | None = None  # N; None: one for each query head
    head_dim: int | None = None  # K; None: width / heads
    mlp: int | None = None  # inner width of SwiGLU; None: 4 x width
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False  # RMSNorm of queries and keys over K, before the rotation
    tied: bool = True  # the unembedding is the embedding
    dtype: str = "float32"  # of the computation
    param_dtype: str = "float32"
    max_length: int = 2048  # prompt and completion together

    def __post_init__(self) -> None:
        fill = functools.partial(object.__setattr__, self)
        if self.kv_heads is None:
            fill("kv_heads", self.heads)
        if self.mlp is None:
            fill("mlp", 4 * self.width)
        if self.head_dim is None:
            if self.heads < 1 or self.width % self.heads:
                raise ValueError(
                    f"width {self.width} is not a multiple of heads {self.heads}: give head_dim"
                )
            fill("head_dim", self.width // self.heads)
        sizes = ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "mlp", "max_length")
        for name in sizes:
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} is {size!r}: a whole number of at least 1 is allowed")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}: the rotation needs an even number")
        if not (math.isfinite(self.rope_base) and self.rope_base > 1):
            raise ValueError(f"rope_base is {self.rope_base}: a number above 1 is allowed")
        if not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise ValueError(f"norm_eps is {self.norm_eps}: a number above 0 is allowed")
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: {', '.join(DTYPES)} are allowed"
                )


@pytree
class Cache:
    """Keys and values of every layer, one array each, so that a decode loop updates in place."""

    key: Array  # [L, B, C, N, K], rotated
    value: Array  # [L, B, C, N, K]
    mask: Array  # [B, C] bool, the tokens that may be attended to
    index: Array  # [] int32, the slot of the next token


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """x / sqrt(mean x^2 + eps) * scale over the last axis (Zhang & Sennrich 2019, eq. 4)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse).astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + (-1,))


def rope(x: Array, position: Array, base: float) -> Array:
    """Rotate the pairs (x_i, x_{i + K/2}) by position * base^(-2i / K) (Su et al. 2021, eq. 34).

    The halves are split, not interleaved, as published Llama and Qwen checkpoints have it.

    Args:
        x: [B, S, heads, K].
        position: [B, S] int32.
        base: the rotary base.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    half = x.shape[-1] // 2
    frequency = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    angle = (position.astype(wide)[..., None] * frequency[None, None])[:, :, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)  # [B, S, 1, K / 2]
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attend(query: Array, key: Array, value: Array, allowed: Array) -> Array:
    """softmax(q k / sqrt(K)) v with grouped queries (Ainslie et al. 2023), in float32 or wider.

    Args:
        query: [B, S, H, K].
        key: [B, C, N, K]; query head i reads key head i // (H / N).
        value: [B, C, N, K].
        allowed: [B, S, C] bool, with at least one true entry for each query.

    Returns:
        [B, S, H, K].
    """
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, dim) * dim**-0.5
    scores = jnp.einsum("bsngk,bcnk->bngsc", grouped, key, preferred_element_type=wide)
    scores = jnp.where(allowed[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bngsc,bcnk->bsngk", weights, value).reshape(query.shape)


class Norm(nn.Module):
    """RMSNorm with its scale, which is 1 at the start."""

    config: DecoderConfig
    axis: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.dtype(self.config.param_dtype))
        return rms_norm(x, scale.astype(x.dtype), self.config.norm_eps)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + SwiGLU(norm(x)) (Shazeer 2020, eq. 6).

    Called on a whole sequence (no cache) or on the next s tokens of a cached one. The body of a
    scan over layers: the carry is (x, keys of all layers, values of all layers).
    """

    config: DecoderConfig

    def matrix(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...], inputs: int):
        """A weight whose first `inputs` axes are summed over, N(0, 1 / fan-in) truncated."""
        c = self.config
        fan_in = math.prod(shape[:inputs])
        # The two projections that write into the residual stream share its variance (GPT-2).
        variance = 1.0 / (2 * c.layers) if name in ("o", "down") else 1.0
        init = nn.with_logical_partitioning(_truncated_normal((variance / fan_in) ** 0.5), axes)
        return self.param(name, init, shape, jnp.dtype(c.param_dtype)).astype(c.dtype)

    @nn.compact
    def __call__(self, carry, layer: Array, position: Array, allowed: Array, index: Array | None):
        c = self.config
        x, keys, values = carry

        y = Norm(c, "norm", name="attention_norm")(x)
        shape, axes = (c.width, c.heads, c.head_dim), ("embed", "heads", "head_dim")
        kv_shape, kv_axes = (c.width, c.kv_heads, c.head_dim), ("embed", "kv_heads", "head_dim")
        query = jnp.einsum("bsd,dhk->bshk", y, self.matrix("q", shape, axes, 1))
        key = jnp.einsum("bsd,dnk->bsnk", y, self.matrix("k", kv_shape, kv_axes, 1))
        value = jnp.einsum("bsd,dnk->bsnk", y, self.matrix("v", kv_shape, kv_axes, 1))
        if c.qk_norm:
            query = Norm(c, "head_dim", name="q_norm")(query)
            key = Norm(c, "head_dim", name="k_norm")(key)
        query, key = rope(query, position, c.rope_base), rope(key, position, c.rope_base)
        if index is not None:
            zero = jnp.zeros_like(index)
            at = (layer, zero, index, zero, zero)
            keys = jax.lax.dynamic_update_slice(keys, key[None], at)
            values = jax.lax.dynamic_update_slice(values, value[None], at)
            key = jax.lax.dynamic_index_in_dim(keys, layer, keepdims=False)
            value = jax.lax.dynamic_index_in_dim(values, layer, keepdims=False)
        out = attend(query, key, value, allowed)
        shape, axes = (c.heads, c.head_dim, c.width), ("heads", "head_dim", "embed")
        x = x + jnp.einsum("bshk,hkd->bsd", out, self.matrix("o", shape, axes, 2))

        y = Norm(c, "norm", name="mlp_norm")(x)
        gate = y @ self.matrix("gate", (c.width, c.mlp), ("embed", "mlp"), 1)
        up = y @ self.matrix("up", (c.width, c.mlp), ("embed", "mlp"), 1)
        down = self.matrix("down", (c.mlp, c.width), ("mlp", "embed"), 1)
        x = x + (jax.nn.silu(gate) * up) @ down
        return (x, keys, values), None


class Network(nn.Module):
    """Embedding, a scan over the layers, final norm."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens: Array, mask: Array, cache: Cache | None):
        c = self.config
        init = nn.with_logical_partitioning(_truncated_normal(c.width**-0.5), ("vocab", "embed"))
        dtype = jnp.dtype(c.param_dtype)
        embedding = self.param("embedding", init, (c.vocab, c.width), dtype)
        if not c.tied:
            self.param("unembedding", init, (c.vocab, c.width), dtype)

        # Attention goes by slot, rotation by the number of tokens before: so padding on the left
        # shifts the slots and nothing else. Every query may see itself: a row that is padding
        # throughout has a softmax over one entry, not over none, and so no NaN.
        if cache is None:
            start, slots, seen, before = 0, mask.shape[1], mask, 0
        else:
            start, slots = cache.index, cache.mask.shape[1]
            seen = jax.lax.dynamic_update_slice_in_dim(cache.mask, mask, start, axis=1)
            before = jnp.sum(cache.mask, axis=1, dtype=jnp.int32)[:, None]
        position = before + jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
        position = jnp.maximum(position, 0)
        query_slot = (start + jnp.arange(tokens.shape[1]))[:, None]
        key_slot = jnp.arange(slots)[None]
        earlier, itself = key_slot < query_slot, key_slot == query_slot
        allowed = (earlier[None] & seen[:, None]) | itself[None]

        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, name="layers")
        x = embedding.astype(c.dtype)[tokens]
        keys, values = (None, None) if cache is None else (cache.key, cache.value)
        index = None if cache is None else cache.index
        numbers = jnp.arange(c.layers, dtype=jnp.int32)
        (x, keys, values), _ = layers((x, keys, values), numbers, position, allowed, index)
        x = Norm(c, "norm", name="final_norm")(x)
        if cache is None:
            return x, None
        return x, Cache(key=keys, value=values, mask=seen, index=cache.index + tokens.shape[1])


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The decoder as a `Model`: static, hashable, parameters handed in."""

    config: DecoderConfig

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @property
    def width(self) -> int:
        return self.config.width

    def init(self, key: Array) -> Params:
        """A fresh plain tree of parameters; those of the layers are stacked, [L, ...]."""
        return nn.meta.unbox(self._boxed(key))

    def axes(self) -> Any:
        """The tree of logical axis names, one tuple for each parameter."""
        boxed = jax.eval_shape(self._boxed, jax.random.key(0))
        return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=_is_box)

    def hidden(self, params: Params, tokens: Array, mask: Array) -> Array:
        """Hidden states after the final norm, [B, S, D], of tokens [B, S] int32, mask [B, S] bool.

        Row t sees tokens 0..t that the mask keeps, and its own; it predicts token t + 1. Positions
        count the kept tokens, so the amount of padding on the left changes nothing. What comes
        out at padding is finite and means nothing.

        Raises:
            ValueError: S above `max_length`.
        """
        self._check_length(tokens.shape[1])
        return Network(self.config).apply({"params": params}, tokens, mask, None)[0]

    def unembedding(self, params: Params) -> Array:
        """[V, D] in the computation's dtype: logits are hidden @ unembedding.T."""
        matrix = params["embedding" if self.config.tied else "unembedding"]
        return matrix.astype(self.config.dtype)

    def empty_cache(self, batch: int, length: int) -> Cache:
        """A cache for at most `length` tokens, padding included.

        Raises:
            ValueError: a length above `max_length`.
        """
        self._check_length(length)
        c = self.config
        shape = (c.layers, batch, length, c.kv_heads, c.head_dim)
        return Cache(
            key=jnp.zeros(shape, c.dtype),
            value=jnp.zeros(shape, c.dtype),
            mask=jnp.zeros((batch, length), bool),
            index=jnp.zeros((), jnp.int32),
        )

    def extend(
        self, params: Params, cache: Cache, tokens: Array, mask: Array
    ) -> tuple[Array, Cache]:
        """Hidden states [B, s, D] of the next s tokens, and the cache that now holds them.

        The same numbers as `hidden` on the whole sequence, to rounding. The caller must not put
        more tokens into a cache than it has room for: XLA would overwrite the last slots.
        """
        return Network(self.config).apply({"params": params}, tokens, mask, cache)

    def matmul_flops(self, queries: int, keys: int) -> int:
        """FLOPs of the body's matmuls for a row of `queries` new tokens over `keys` slots.

        2 m n k for each; the scores and their sum over values run over every slot, masked or not.
        The unembedding is not of the body.
        """
        c = self.config
        projections = 2 * c.width * c.head_dim * (c.heads + c.kv_heads)  # q and o, k and v
        attention = 2 * keys * c.heads * c.head_dim
        return 2 * queries * c.layers * (projections + attention + 3 * c.width * c.mlp)

    def _boxed(self, key: Array) -> Params:
        token, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
        return Network(self.config).init(key, token, mask, None)["params"]

    def _check_length(self, length: int) -> None:
        if length > self.config.max_length:
            raise ValueError(
                f"a sequence of {length} tokens: the model allows {self.config.max_length}"
            )


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _truncated_normal(std: float):
    """Truncated at two standard deviations, with the standard deviation asked for after it.

    Drawn flat: the same numbers as with the shape, and XLA on the CPU compiles it ten times faster.
    """

    def init(key: Array, shape: tuple[int, ...], dtype) -> Array:
        flat = jax.random.truncated_normal(key, -2.0, 2.0, (math.prod(shape),), dtype)
        return flat.reshape(shape) * (std / 0.8796256610342398)

    return init

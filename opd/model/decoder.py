"""A decoder-only transformer: Llama, Mistral, Qwen and Gemma, as pure functions of parameters.

Linen modules end here: everything above sees a plain dict of arrays and `Decoder`'s methods. The
network stops at the final norm, so that [B, S, V] is never built by accident.

Shapes: B rows, S tokens of a sequence, s new tokens, C cache length, V vocabulary, D width,
L layers, H query heads, N key-value heads, G = H / N queries a key, K head dimension.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from opd import layout, trees
from opd.model import attention, experts, lora, rotary
from opd.model.lora import INPUTS, A, B, Lora
from opd.model.rotary import RopeScaling
from opd.trees import wider
from opd.types import Array, Params, Rules, pytree

Made = TypeVar("Made")
DTYPES = ("bfloat16", "float32", "float64")
# What a layer's forward leaves for its pull-back, beside its input; the rest is computed again.
REMATS: Mapping[str, Callable[..., Any] | None] = MappingProxyType(
    {
        "none": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": jax.checkpoint_policies.nothing_saveable,
    }
)
ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


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
    mlp: int | None = None  # inner width of SwiGLU; None: 4 x width (Vaswani et al. 2017)
    rope_base: float = 10_000.0  # Su et al. 2021
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6  # as the families have it
    qk_norm: bool = False  # RMSNorm of queries and keys over K, before the rotation
    qk_norm_whole: bool = False  # that norm over all heads at once
    qkv_bias: bool = False
    activation: str = "silu"  # of the gate
    experts: int | None = None  # gated MLPs of a layer, of which a token goes to a few; None: one
    experts_per_token: int | None = None
    expert_mlp: int | None = None  # their inner width
    expert_normed: bool = False  # a token's weights of its experts add up to 1
    pre_norm: bool = True  # RMSNorm of what attention and MLP read
    post_norm: bool = False  # RMSNorm of what attention and MLP add, before it is added
    norm_offset: float = 0.0  # norms scale by this much more than their parameter
    norm_rounds: bool = True  # what is normed is rounded before it is scaled, without an offset
    embed_scale: float = 1.0  # of what enters the first layer, rounded to the computation's dtype
    residual_scale: float = 1.0  # of what attention and MLP add
    logit_divisor: float = 1.0  # of the last hidden states, and so of the logits
    query_scale: float | None = None  # of the scores; None: K^(-1/2)
    query_growth: float = 0.0  # of queries: x (1 + this log(1 + floor(position / ...from)))
    query_growth_from: int | None = None
    attention_cap: float | None = None  # scores x become cap tanh(x / cap)
    logit_cap: float | None = None  # and logits likewise, wherever hidden states are unembedded
    window: int | None = None  # tokens that a sliding layer sees, itself among them
    sliding: tuple[bool, ...] = ()  # which layers slide; (): none
    sliding_rope_base: float | None = None  # of theirs, which isn't scaled; None: as the others
    turned: tuple[bool, ...] = ()  # which layers rotate queries and keys; (): all
    lora: Lora | None = None  # adapters, which alone are trained
    tied: bool = True  # the unembedding is the embedding
    tokens: int | None = None  # ids that exist; the rows of V above are padding. None: all
    dtype: str = "float32"  # of the computation
    # Of parameters that nobody trains, and of an export; what is trained is float32 or wider.
    param_dtype: str = "float32"
    max_length: int = 2048  # prompt and completion together; a run gives its own

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
        if self.activation not in ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation is {self.activation!r}: {allowed} are allowed")
        if self.sliding and (len(self.sliding) != self.layers or self.window is None):
            raise ValueError(
                f"sliding names {len(self.sliding)} layers of {self.layers}, window is "
                f"{self.window}: all of them and a number of tokens are allowed"
            )
        self._check_experts()
        if self.turned and len(self.turned) != self.layers:
            raise ValueError(
                f"turned names {len(self.turned)} layers of {self.layers}: all of them are allowed"
            )
        if not (self.pre_norm or self.post_norm):
            raise ValueError("pre_norm and post_norm are false: one of them is allowed to be")
        if self.query_growth and not self.query_growth_from:
            raise ValueError(f"query_growth is {self.query_growth}: it needs query_growth_from")
        if self.tokens is not None and not 1 <= self.tokens <= self.vocab:
            raise ValueError(f"tokens is {self.tokens}: 1 to vocab = {self.vocab} are allowed")
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: {', '.join(DTYPES)} are allowed"
                )

    def _check_experts(self) -> None:
        given = self.experts, self.experts_per_token, self.expert_mlp
        if given == (None, None, None):
            return
        if None in given or min(given) < 1 or self.experts_per_token > self.experts:
            raise ValueError(
                f"experts, experts_per_token and expert_mlp are {given}: three numbers of at least "
                "1 are allowed, the second at most the first"
            )
        taken = {"gate", "up", "down"} & set(() if self.lora is None else self.lora.targets)
        if taken:
            raise ValueError(
                f"lora targets are {', '.join(self.lora.targets)}: of a mixture of experts "
                "q, k, v and o are allowed"
            )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> DecoderConfig:
        """The config that `dataclasses.asdict` and JSON made `fields` of."""
        found = dict(fields)
        if found.get("rope_scaling") is not None:
            found["rope_scaling"] = RopeScaling(**found["rope_scaling"])
        if found.get("lora") is not None:
            targets = tuple(found["lora"]["targets"])
            found["lora"] = Lora(**{**found["lora"], "targets": targets})
        return cls(**found | {name: tuple(found.get(name, ())) for name in ("sliding", "turned")})


@pytree
class Cache:
    """Keys and values of the tokens so far, an array a layer: a decode loop updates each in place.

    Leaves are [B, ...], or a number.
    """

    keys: tuple[Array, ...]  # L of [B, N, K, C], rotated
    values: tuple[Array, ...]  # L of [B, N, C, K]
    mask: Array  # [B, C] bool, the tokens that may be attended to
    count: Array  # [B] int32, how many those are
    index: Array  # [] int32, the slot of the next token


def rms_norm(x: Array, scale: Array, eps: float, offset: float = 0.0, rounds: bool = True) -> Array:
    """x / sqrt(mean x^2 + eps) * (offset + scale), last axis (Zhang & Sennrich 2019, eq. 4).

    Gemma's norms have an offset of 1 and, as OLMo's, multiply before they round. The scale is
    rounded to x's dtype, as an export has it; products are float32 or wider, so that its gradient
    adds up in that.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    scale = scale.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype).astype(wide.dtype)
    normed = wide * inverse
    if offset or not rounds:
        return (normed * (offset + scale)).astype(x.dtype)
    return (normed.astype(x.dtype).astype(wide.dtype) * scale).astype(x.dtype)


def times(x: Array, matrix: Array, inputs: int) -> Array:
    """x [B, S, inputs...] times matrix [inputs..., outputs...], as a product of two matrices.

    So the gradient of the matrix is one too: XLA on the CPU writes the transpose of a
    [B, S, inputs] to memory first, which takes as long as the product. A mesh splits both B and S,
    which one axis of both couldn't say.
    """
    if layout.devices() > 1:
        last = tuple(range(x.ndim - inputs, x.ndim))
        return jax.lax.dot_general(x, matrix, ((last, tuple(range(inputs))), ((), ())))
    rows = x.reshape(-1, math.prod(x.shape[-inputs:]))
    product = rows @ matrix.reshape(rows.shape[1], -1)
    return product.reshape(*x.shape[:-inputs], *matrix.shape[inputs:])


class Norm(nn.Module):
    """RMSNorm with its scale, which is 1 at the start, offset included."""

    config: DecoderConfig
    axis: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        start = nn.initializers.constant(1.0 - c.norm_offset)
        init = nn.with_logical_partitioning(start, (self.axis,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.dtype(c.param_dtype))
        return rms_norm(x, scale, c.norm_eps, c.norm_offset, c.norm_rounds)


class Kind(NamedTuple):
    """What layers differ in, their parameters aside."""

    slides: bool = False
    turns: bool = True


@pytree
class Sight:
    """How far layers of one kind turn queries and keys, and stretch queries."""

    cos: Array  # [B, S, 1, K / 2]
    sin: Array
    growth: Array | None = None  # [B, S, 1, 1]


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + gated MLP(norm(x)) (Shazeer 2020, eq. 6).

    Called on a whole sequence, or on the next s tokens of one whose keys and values are cached.
    The body of a scan over layers, whose carry is x.
    """

    config: DecoderConfig
    attention: str = "auto"  # of a sequence to itself
    keep: bool = False  # give a sequence's keys and values back, [B, S, N, K]
    # Gather a matrix over `fsdp` where it is used. Else activations would be, once there are more
    # of them: those of all tokens of a batch, for a gradient.
    whole: bool = True

    def matrix(
        self,
        name: str,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        inputs: int,
        dtype: Any = None,
        each: int = 0,
    ) -> Array:
        """A weight whose first `inputs` axes are summed over, N(0, 1 / fan-in) truncated.

        Of a stack of them, whose first `each` axes are numbers.
        """
        c = self.config
        fan_in = math.prod(shape[each : each + inputs])
        # The two projections that write into the residual stream share its variance (GPT-2).
        variance = 1.0 / (2 * c.layers) if name in ("o", "down") else 1.0
        init = nn.with_logical_partitioning(_truncated_normal((variance / fan_in) ** 0.5), axes)
        found = self.param(name, init, shape, jnp.dtype(dtype or c.param_dtype)).astype(c.dtype)
        return layout.gathered(found, *axes) if self.whole else found

    def project(self, x: Array, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Array:
        """x [B, S, inputs...] times a matrix [inputs..., outputs...], and its adapter's share."""
        c, inputs = self.config, INPUTS[name]
        found = times(x, self.matrix(name, shape, axes, inputs), inputs)
        if c.lora is None or name not in c.lora.targets:
            return found
        rank = c.lora.rank
        dtype = wider(c.param_dtype)  # an adapter is trained
        first = self.matrix(
            A.format(name), (*shape[:inputs], rank), (*axes[:inputs], "rank"), inputs, dtype
        )
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("rank", *axes[inputs:]))
        place = (rank, *shape[inputs:])
        second = self.param(B.format(name), init, place, dtype).astype(c.dtype)
        low = times(x, first, inputs)
        return found + times(low, second, 1) * jnp.asarray(c.lora.scale, x.dtype)

    def bias(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Array | float:
        """What is added to a projection, 0 at the start; nothing where the family has none."""
        c = self.config
        if not c.qkv_bias:
            return 0.0
        init = nn.with_logical_partitioning(nn.initializers.zeros, axes)
        found = self.param(f"{name}_bias", init, shape, jnp.dtype(c.param_dtype))
        return found.astype(c.dtype)[None, None]

    def mlp(self, x: Array) -> Array:
        """The gated MLP."""
        c = self.config
        gate, up = (
            layout.constrain(
                self.project(x, name, (c.width, c.mlp), ("embed", "mlp")), "batch", "time", "mlp"
            )
            for name in ("gate", "up")
        )
        return self.project(
            ACTIVATIONS[c.activation](gate) * up, "down", (c.mlp, c.width), ("mlp", "embed")
        )

    def mixture(self, x: Array) -> Array:
        """A mixture of gated MLPs."""
        c = self.config
        router = self.matrix("router", (c.width, c.experts), ("embed", "expert"), 1)
        shape, axes = (c.experts, c.width, c.expert_mlp), ("expert", "embed", "mlp")
        gate, up = (self.matrix(name, shape, axes, 1, each=1) for name in ("gate", "up"))
        shape, axes = (c.experts, c.expert_mlp, c.width), ("expert", "mlp", "embed")
        down = self.matrix("down", shape, axes, 1, each=1)
        return experts.mixed(
            x, router, gate, up, down, chosen=c.experts_per_token, normed=c.expert_normed,
            activation=ACTIVATIONS[c.activation],
        )  # fmt: skip

    def read(self, x: Array, name: str) -> Array:
        """What attention or MLP reads of the stream."""
        return Norm(self.config, "norm", name=name)(x) if self.config.pre_norm else x

    def added(self, x: Array, name: str) -> Array:
        """What attention or MLP adds to the stream."""
        c = self.config
        x = Norm(c, "norm", name=name)(x) if c.post_norm else x
        return x if c.residual_scale == 1 else x * jnp.asarray(c.residual_scale, x.dtype)

    def normed(self, x: Array, name: str) -> Array:
        """Queries or keys [B, S, heads, K], normed by head or all at once."""
        if not self.config.qk_norm_whole:
            return Norm(self.config, "head_dim", name=name)(x)
        flat = Norm(self.config, "norm", name=name)(x.reshape(*x.shape[:2], -1))
        return flat.reshape(x.shape)

    @nn.compact
    def __call__(
        self, x: Array, kind: Array | int, sights: tuple, seen: Array, cached: tuple | None
    ):
        """`sights` of the kinds of layers, `seen` [B, C]; `cached` are keys, values and a slot.

        `kind` is the layer's, by number. Where there is a cache `sights` has this layer's alone.
        """
        c = self.config
        sight = sights[0]
        if len(sights) > 1:
            sight = jax.tree.map(functools.partial(jax.lax.select_n, kind), *sights)

        x = layout.constrain(x, "batch", "sequence", None)
        y = layout.constrain(self.read(x, "attention_norm"), "batch", "time", None)
        shape, axes = (c.width, c.heads, c.head_dim), ("embed", "heads", "head_dim")
        kv_shape, kv_axes = (c.width, c.kv_heads, c.head_dim), ("embed", "kv_heads", "head_dim")
        query = self.project(y, "q", shape, axes) + self.bias("q", shape[1:], axes[1:])
        key = self.project(y, "k", kv_shape, kv_axes) + self.bias("k", kv_shape[1:], kv_axes[1:])
        value = self.project(y, "v", kv_shape, kv_axes)
        value = value + self.bias("v", kv_shape[1:], kv_axes[1:])
        if c.qk_norm:
            query, key = self.normed(query, "q_norm"), self.normed(key, "k_norm")
        query, key = (rotary.rotate(each, sight.cos, sight.sin) for each in (query, key))
        if sight.growth is not None:
            query = query * sight.growth.astype(query.dtype)
        query = layout.constrain(query, "batch", "time", "heads", "head_dim")
        key, value = (
            layout.constrain(each, "batch", "time", "kv_heads", "head_dim") for each in (key, value)
        )
        windows, how = _windows(c), (c.query_scale, c.attention_cap)
        if cached is None:
            kept = (key, value) if self.keep else None
            which = jnp.asarray(kind, jnp.int32)
            out = attention.over_sequence(
                query, key, value, seen, windows, which, *how, self.attention
            )
        else:
            keys, values, index = cached
            keys = _put(keys, jnp.moveaxis(key, 1, 3), index, axis=3)
            values = _put(values, jnp.swapaxes(value, 1, 2), index, axis=2)
            kept = keys, values = _by_heads(keys), _by_heads(values)
            out = attention.over_cache(query, keys, values, seen, index, windows[kind], *how)
        out = layout.constrain(out, "batch", "time", "heads", "head_dim")
        shape, axes = (c.heads, c.head_dim, c.width), ("heads", "head_dim", "embed")
        out = layout.constrain(self.project(out, "o", shape, axes), "batch", "sequence", None)
        x = x + self.added(out, "attention_post_norm")

        x = layout.constrain(x, "batch", "sequence", None)
        y = layout.constrain(self.read(x, "mlp_norm"), "batch", "time", None)
        out = self.mlp(y) if c.experts is None else self.mixture(y)
        out = layout.constrain(out, "batch", "sequence", None)
        x = x + self.added(out, "mlp_post_norm")
        return layout.constrain(x, "batch", "sequence", None), kept


class Network(nn.Module):
    """Embedding, a scan over the layers, final norm."""

    config: DecoderConfig
    attention: str = "auto"
    remat: str = "none"
    keep: bool = False  # give keys and values back, [L, B, S, N, K]

    @nn.compact
    def __call__(self, tokens: Array, mask: Array):
        c = self.config
        init = nn.with_logical_partitioning(_truncated_normal(c.width**-0.5), ("vocab", "embed"))
        dtype = jnp.dtype(c.param_dtype)
        embedding = self.param("embedding", init, (c.vocab, c.width), dtype)
        if not c.tied:
            self.param("unembedding", init, (c.vocab, c.width), dtype)
        # Attention goes by slot, rotation by the number of tokens before: so padding on the left
        # shifts the slots and nothing else.
        position = jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)
        sights = [_sight(c, sliding, position) for sliding in _kinds(c)]
        block, policy = Block, REMATS[self.remat]
        if policy is not None:  # in a scan XLA can't undo it: nothing else needs prevent it
            block = nn.remat(Block, prevent_cse=False, policy=policy)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.attention, self.keep, name="layers")
        kinds = jnp.asarray(_kind_of_layers(c), jnp.int32)
        x = layout.constrain(_embedded(c, embedding, tokens), "batch", "sequence", None)
        x, kept = layers(x, kinds, tuple(sights), mask, None)
        x = _divided(Norm(c, "norm", name="final_norm")(x), c)
        return layout.constrain(x, "batch", "time", None), kept


def _kinds(config: DecoderConfig) -> tuple[Kind, ...]:
    """The kinds of layers that there are."""
    return tuple(sorted(set(_layers(config))))


def _kind_of_layers(config: DecoderConfig) -> tuple[int, ...]:
    """The number of each layer's kind."""
    kinds = _kinds(config)
    return tuple(map(kinds.index, _layers(config)))


def _layers(config: DecoderConfig) -> list[Kind]:
    slides = config.sliding or (False,) * config.layers
    turns = config.turned or (True,) * config.layers
    return list(map(Kind, slides, turns))


def _windows(config: DecoderConfig) -> tuple[int | None, ...]:
    """The tokens that a query of each kind of layers sees."""
    return tuple(config.window if kind.slides else None for kind in _kinds(config))


def _sight(config: DecoderConfig, kind: Kind, position: Array) -> Sight:
    """How far positions turn queries and keys of a kind of layers."""
    c = config
    base, scaling = c.rope_base, c.rope_scaling
    if kind.slides and c.sliding_rope_base is not None:
        base, scaling = c.sliding_rope_base, None
    frequency, factor = rotary.frequencies(c.head_dim, base, scaling)
    wide = jnp.promote_types(c.dtype, jnp.float32)
    cos, sin = rotary.angles(position, jnp.asarray(frequency, wide))
    if not kind.turns:
        cos, sin, factor = jnp.ones_like(cos), jnp.zeros_like(sin), 1.0
    growth = None
    if c.query_growth:
        spans = jnp.floor(position.astype(wide) / c.query_growth_from)
        growth = (1 + c.query_growth * jnp.log1p(spans))[:, :, None, None]
    return Sight(cos * factor, sin * factor, growth)


def _divided(x: Array, config: DecoderConfig) -> Array:
    """The last hidden states as the unembedding reads them."""
    divisor = config.logit_divisor
    return x if divisor == 1 else x * jnp.asarray(1 / divisor, x.dtype)


def _embedded(config: DecoderConfig, embedding: Array, tokens: Array) -> Array:
    """What enters the first layer.

    Rounded after the look-up: the gradient of a token that comes 8,000 times would stop at 256 of
    them in bfloat16.
    """
    if tokens.shape[0] % layout.pieces("batch"):
        # Rows that not all devices have: XLA's partitioner cuts the rows of a matrix wrongly that
        # is split by what some of these are split by.
        embedding = layout.gathered(embedding, "vocab", "embed")
    x = embedding[tokens].astype(config.dtype)
    return x if config.embed_scale == 1 else x * jnp.asarray(config.embed_scale, x.dtype)


def _by_heads(cached: Array) -> Array:
    """Keys [B, N, K, C] or values [B, N, C, K] of a cache, as a device of its heads has them."""
    return layout.constrain(cached, "batch", "kv_heads", None, None)


def _put(array: Array, part: Array, index: Array, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, index, axis)


def _ruled(method: Callable[..., Made]) -> Callable[..., Made]:
    """A method of a model, whose arrays lie by its own rules."""

    @functools.wraps(method)
    def by_its_rules(self: Any, *args: Any, **kwargs: Any) -> Made:
        with layout.ruled(self.rules):
            return method(self, *args, **kwargs)

    return by_its_rules


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The decoder as a `Model`: static, hashable, parameters handed in.

    The config says what is computed. What is beside it says how, and moves numbers by rounding.

    Raises:
        ValueError: a way to compute it that isn't there, or not for this model.
    """

    config: DecoderConfig
    attention: str = "auto"  # of a sequence to itself: one of attention.KINDS
    remat: str = "none"  # what a gradient computes again in place of keeping it: one of REMATS
    rows: int | None = None  # of a batch, that `hidden` computes at once at most; None: all
    gather: bool = True  # `apart` gathers what is split over `fsdp`, once for a whole decode loop
    rules: Rules = ()  # what names of axes mean on a mesh, where not as usual

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows is {self.rows}: 1 or more, or None, are allowed")
        for name, allowed in (("attention", attention.KINDS), ("remat", REMATS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: {', '.join(allowed)} are allowed"
                )
        c = self.config
        attention.refuse(self.attention, c.dtype, c.head_dim, c.attention_cap)

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @property
    def tokens(self) -> int:
        """How many ids exist: those above are padding, and never drawn or graded."""
        return self.config.vocab if self.config.tokens is None else self.config.tokens

    @property
    def logit_cap(self) -> float | None:
        return self.config.logit_cap

    @property
    def width(self) -> int:
        return self.config.width

    def init(self, key: Array) -> Params:
        """A fresh plain tree of parameters; those of the layers are stacked, [L, ...]."""
        return nn.meta.unbox(self._boxed(key))

    def axes(self) -> Any:
        """The tree of logical axis names, one tuple for each parameter."""
        boxed = jax.eval_shape(lambda: self._boxed(jax.random.key(0)))
        return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=_is_box)

    def trained(self, tree: Any) -> Any:
        """The part of the parameters that training moves, of a tree laid out like them."""
        return tree if self.config.lora is None else lora.trained(tree, self.config.lora)

    def with_trained(self, tree: Any, part: Any) -> Any:
        """The tree with that part replaced."""
        return part if self.config.lora is None else lora.joined(tree, part)

    def adapted(self, params: Params, key: Array) -> Params:
        """The parameters of a plain decoder, with an adapter that changes nothing yet."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return lora.joined(params, lora.fresh(shapes, self.config.lora, key))

    @_ruled
    def hidden(self, params: Params, tokens: Array, mask: Array) -> Array:
        """Hidden states after the final norm, [B, S, D], of tokens [B, S] int32, mask [B, S] bool.

        Row t sees tokens 0..t that the mask keeps, and its own; it predicts token t + 1. Positions
        count the kept tokens, so the amount of padding on the left changes nothing. What comes
        out at padding is finite and means nothing.

        Raises:
            ValueError: S above `max_length`.
        """
        batch, length = tokens.shape
        self._check_length(length)
        more = -length % layout.pieces("sequence")
        if more:  # nobody sees them, and every device has as many tokens
            tokens, mask = (jnp.pad(each, ((0, 0), (0, more))) for each in (tokens, mask))
        network = Network(self.config, self.attention, self.remat)

        def at_once(part: tuple[Array, Array]) -> Array:
            return network.apply({"params": params}, *part)[0][:, :length]

        parts = 1 if self.rows is None else _parts(batch, self.rows)
        if parts == 1:
            return at_once((tokens, mask))
        return trees.rejoined(jax.lax.map(at_once, trees.dealt((tokens, mask), parts)))

    def unembedding(self, params: Params) -> Array:
        """[V, D] in the computation's dtype: logits are hidden @ unembedding.T."""
        matrix = params["embedding" if self.config.tied else "unembedding"]
        return matrix.astype(self.config.dtype)

    @_ruled
    def prefill(self, params: Params, tokens: Array, mask: Array, length: int) -> Cache:
        """A cache for at most `length` tokens, padding included, that holds tokens [B, s], s >= 0.

        Raises:
            ValueError: a length above `max_length`.
        """
        c = self.config
        batch, held = tokens.shape
        kept = [jnp.zeros((c.layers, batch, 0, c.kv_heads, c.head_dim), c.dtype)] * 2
        if held:
            network = Network(c, self.attention, keep=True)
            kept = network.apply({"params": params}, tokens, mask)[1]
        cache = Cache(
            keys=tuple(jnp.moveaxis(kept[0], 2, 4)),
            values=tuple(jnp.swapaxes(kept[1], 2, 3)),
            mask=mask,
            count=jnp.sum(mask, axis=1, dtype=jnp.int32),
            index=jnp.asarray(held, jnp.int32),
        )
        return self.grown(cache, length)

    @_ruled
    def grown(self, cache: Cache, length: int) -> Cache:
        """The cache with room for `length` tokens, padding included, and not for fewer than before.

        Raises:
            ValueError: a length above `max_length`.
        """
        self._check_length(length)
        more = (0, length - cache.mask.shape[1])
        none = (0, 0)
        return dataclasses.replace(
            cache,
            keys=tuple(_by_heads(jnp.pad(each, (none, none, none, more))) for each in cache.keys),
            values=tuple(
                _by_heads(jnp.pad(each, (none, none, more, none))) for each in cache.values
            ),
            mask=jnp.pad(cache.mask, (none, more)),
        )

    @_ruled
    def apart(self, params: Params) -> Params:
        """The parameters as `extend` takes them: the layers' one by one, and not stacked.

        A scan copies a layer's weights to get at them. A decode loop would at every token. Nor does
        it gather them at every token, where each device has the memory for its heads' whole ones.
        """
        if self.gather:
            params = jax.tree.map(
                lambda leaf, names: layout.gathered(leaf, *names), params, self.axes()
            )
        layers = params["layers"]
        each = [jax.tree.map(operator.itemgetter(n), layers) for n in range(self.config.layers)]
        return {**params, "layers": tuple(each)}

    @_ruled
    def extend(
        self, params: Params, cache: Cache, tokens: Array, mask: Array
    ) -> tuple[Array, Cache]:
        """Hidden states [B, s, D] of the next s tokens, and the cache that now holds them.

        The same numbers as `hidden` on the whole sequence, to rounding. The caller must not put
        more tokens into a cache than it has room for: XLA would overwrite the last slots.

        Args:
            params: what `apart` made of the parameters.
            cache: the tokens before.
            tokens: [B, s] int32.
            mask: [B, s] bool.
        """
        c = self.config
        seen = _put(cache.mask, mask, cache.index, axis=1)
        counted = cache.count[:, None] + jnp.cumsum(mask, axis=1, dtype=jnp.int32)
        position = jnp.maximum(counted - 1, 0)
        sights = [_sight(c, sliding, position) for sliding in _kinds(c)]
        x = _embedded(c, params["embedding"], tokens)
        made = []
        for layer, kind in enumerate(_kind_of_layers(c)):
            cached = cache.keys[layer], cache.values[layer], cache.index
            x, kept = Block(c, whole=False).apply(
                {"params": params["layers"][layer]}, x, kind, (sights[kind],), seen, cached
            )
            made.append(kept)
        keys, values = zip(*made, strict=True)
        scale = params["final_norm"]["scale"]
        x = rms_norm(x, scale, c.norm_eps, c.norm_offset, c.norm_rounds)
        x = _divided(x, c)
        return x, Cache(keys, values, seen, counted[:, -1], cache.index + tokens.shape[1])

    def matmul_flops(self, queries: int, keys: int) -> int:
        """FLOPs of the body's matmuls for a row of `queries` new tokens over `keys` slots.

        2 m n k for each; the scores and their sum over values run over every slot, masked or not.
        The unembedding is not of the body.
        """
        c = self.config
        projections = 2 * c.width * c.head_dim * (c.heads + c.kv_heads)  # q and o, k and v
        attention = 2 * keys * c.heads * c.head_dim
        mlp = 3 * c.width * c.mlp
        if c.experts is not None:
            mlp = c.width * (3 * c.experts_per_token * c.expert_mlp + c.experts)
        return 2 * queries * c.layers * (projections + attention + mlp)

    def _boxed(self, key: Array) -> Params:
        token, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
        return Network(self.config).init(key, token, mask)["params"]

    def _check_length(self, length: int) -> None:
        if length > self.config.max_length:
            raise ValueError(
                f"a sequence of {length} tokens: the model allows {self.config.max_length}"
            )


def _parts(batch: int, most: int) -> int:
    """Into how many equal parts of at most so many rows a batch is cut: the fewest."""
    return next(n for n in range(-(-batch // most), batch + 1) if batch % n == 0)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _truncated_normal(std: float):
    """Truncated at two standard deviations, with the standard deviation asked for after it.

    Drawn flat: the same numbers as with the shape, and XLA on the CPU compiles it ten times faster.
    """

    def init(key: Array, shape: tuple[int, ...], dtype) -> Array:
        flat = jax.random.truncated_normal(key, -2.0, 2.0, (math.prod(shape),), dtype)
        # What is left of a standard normal's deviation when it is cut at two.
        return flat.reshape(shape) * (std / 0.8796256610342398)

    return init

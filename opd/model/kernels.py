"""Attention by kernels that others keep: JAX's splash attention on TPU, cuDNN's on GPU.

Both hold a block of scores at a time, forward and backward. Splash attention was compiled by the
TPU's own compiler and run as an XLA program on the CPU; how fast it is wasn't measured. cuDNN's was
lowered for a GPU and never run: nothing of it was measured.

Windows are constants of a kernel, so there is one for each, and a layer of a scan says which is its
own. Shapes are those of `opd.model.attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from opd.types import Array

Windows = Sequence[int | None]


def block(length: int) -> int:
    """Queries and keys of a block of scores, a multiple of 128 as a TPU's vectors are.

    Large blocks are read less often, and a sequence is filled up to whole ones: the largest of
    those that add an eighth at most.
    """
    sizes = (size for size in (512, 384, 256) if -length % size <= length // 8)
    return next(sizes, 128 if length <= 128 else 256)


def splash(
    query: Array,
    key: Array,
    value: Array,
    seen: Array,
    which: Array,
    windows: Windows,
    cap: float | None,
    interpret: bool,
) -> Array:
    """JAX's splash attention, of queries that are scaled; float32 or narrower.

    Padding sees itself alone, that after tokens too: else it is `attention.visible`.

    Args:
        query: [B, S, H, K].
        key: [B, S, N, K].
        value: [B, S, N, K].
        seen: [B, S] bool.
        which: [] int32, the window that is meant.
        windows: the tokens that a query may see, itself among them; None: all before it.
        cap: of the scores.
        interpret: run as an XLA program, where there is no TPU.

    Returns:
        [B, S, H, K].
    """
    # Here, since a start without a TPU needn't wait for it.
    from jax.experimental.pallas.ops.tpu import splash_attention

    length, heads = query.shape[1], query.shape[2]
    size = block(length)
    whole = length + -length % size

    def filled(x: Array) -> Array:
        return jnp.pad(x, [(0, 0), (0, whole - length), *[(0, 0)] * (x.ndim - 2)])

    # Who is of a segment sees each other: tokens are of one, and each of padding is of its own.
    segment = jnp.where(filled(seen), 0, 1 + jnp.arange(whole, dtype=jnp.int32)[None])
    sizes = splash_attention.BlockSizes(
        *(size,) * 8  # of queries, keys and keys at once; forward, keys' gradient, queries'
    )

    def kernel(window: int | None) -> Callable[..., Array]:
        square = (whole, whole)
        mask = (
            splash_attention.CausalMask(square)
            if window is None or window >= length
            else splash_attention.LocalMask(square, (window - 1, 0), 0)
        )
        return jax.vmap(
            splash_attention.make_splash_mha(
                splash_attention.MultiHeadMask([mask] * heads),
                block_sizes=sizes,
                attn_logits_soft_cap=cap,
                head_shards=1,
                q_seq_shards=1,
                interpret=interpret,
            )
        )

    operands = (jnp.swapaxes(filled(x), 1, 2) for x in (query, key, value))
    segments = splash_attention.SegmentIds(segment, segment)
    out = _chosen(kernel, windows, which, *operands, segments)
    return jnp.swapaxes(out, 1, 2)[:, :length]


def cudnn(
    query: Array,
    key: Array,
    value: Array,
    seen: Array,
    which: Array,
    windows: Windows,
    scale: float | None,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Array:
    """cuDNN's attention, as `jax.nn.dot_product_attention` calls it; bfloat16.

    cuDNN knows no padding before a sequence but as a mask of all pairs. So each row's tokens are
    put first, in their order: what is causal sees nothing of what then follows them. What comes out
    at padding means nothing, and with a window a row's tokens must lie side by side.

    Args:
        query: [B, S, H, K], not scaled.
        key: [B, S, N, K].
        value: [B, S, N, K].
        seen: [B, S] bool.
        which: as in `splash`; so are `windows`.
        scale: of the scores; K^(-1/2) by default.
        implementation: of `jax.nn.dot_product_attention`; any is the same but for rounding.

    Returns:
        [B, S, H, K].
    """
    order = jnp.argsort(~seen, axis=1, stable=True)

    def moved(x: Array, order: Array) -> Array:
        return jnp.take_along_axis(x, order[:, :, None, None], axis=1)

    def kernel(window: int | None) -> Callable[..., Array]:
        def attention(query: Array, key: Array, value: Array) -> Array:
            return jax.nn.dot_product_attention(
                query,
                key,
                value,
                scale=scale,
                is_causal=True,
                local_window_size=None if window is None else (window - 1, 0),
                implementation=implementation,
            )

        return _pulled_one_by_one(attention)

    operands = (moved(x, order) for x in (query, key, value))
    return moved(_chosen(kernel, windows, which, *operands), jnp.argsort(order, axis=1))


def _chosen(
    kernel: Callable[[int | None], Callable[..., Array]], windows: Windows, which: Array, *operands
) -> Array:
    """The kernel of the window that is meant."""
    kernels = [kernel(window) for window in windows]
    return kernels[0](*operands) if len(kernels) == 1 else jax.lax.switch(which, kernels, *operands)


def _pulled_one_by_one(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function whose pull-back takes cotangents side by side, one after the other.

    cuDNN's, as JAX has it, takes no axis of cotangents that queries haven't.
    """

    def pulled(pull: Callable, cotangent: Array) -> tuple[Array, ...]:
        return jax.custom_batching.sequential_vmap(lambda pull, out: pull(out))(pull, cotangent)

    made = jax.custom_vjp(function)
    made.defvjp(lambda *operands: jax.vjp(function, *operands), pulled)
    return made

"""Parameter trees: what they are trained in; dot products, norms and sketches of stacks of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from opd.masked import zero
from opd.types import Array, Params


def wider(dtype: Any) -> Any:
    """The dtype that something of this one is trained and added up in: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def dealt(tree: Any, parts: int) -> Any:
    """Leaves [B, ...] as [parts, B / parts, ...]: row i goes to part i mod `parts`.

    So a mesh keeps the rows that it has.
    """

    def deal(leaf: Array) -> Array:
        return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(deal, tree)


def rejoined(tree: Any) -> Any:
    """What `dealt` has taken apart, [B, ...]."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), tree)


def cast(tree: Params, dtype: Any) -> Params:
    """The tree in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def masters(tree: Params) -> Params:
    """The tree in float32 or wider: updates of 1e-5 vanish beside a bfloat16 of 1e-2.

    Micikevicius et al. 2018 (arXiv:1710.03740), section 3.1.
    """
    return jax.tree.map(lambda leaf: leaf.astype(wider(leaf.dtype)), tree)


def unchanged(before: Params, updates: Params, after: Params) -> tuple[Array, Array]:
    """How much of an update the parameters left as they were: sum |u| there, and sum |u| of all.

    Not a count: under Adam the rows of rare tokens have updates that are no number beside theirs,
    of a vocabulary as many as all other parameters together.
    """

    def sizes(update: Array, old: Array, new: Array) -> tuple[Array, ...]:
        size = jnp.abs(update.astype(wider(update.dtype)))
        return _sums(zero(size, old == new), size)

    each = jax.tree.leaves(jax.tree.map(sizes, updates, before, after))
    return sum(each[::2]), sum(each[1::2])


def _sums(*values: Array) -> tuple[Array, ...]:
    """The sum of each of several arrays of one shape, in one pass over all of them.

    XLA on the CPU writes what a lone sum is taken of to memory first, which takes longer than the
    sum. By rows: one sum of all would be too long for float32.
    """
    values = tuple(map(jnp.atleast_1d, values))
    nothing = tuple(jnp.zeros((), value.dtype) for value in values)
    rows = jax.lax.reduce(
        values, nothing, lambda left, right: tuple(map(jnp.add, left, right)), (values[0].ndim - 1,)
    )
    return tuple(map(jnp.sum, rows))


def gram(left: Params, right: Params) -> Array:
    """All inner products of two stacks of trees, [K, J]: sum over leaves of <left_k, right_j>.

    `dot_general` over every axis of a leaf, not a reshape to [K, -1]: a reshape would gather
    K x params on every device of a mesh.
    """

    def leaf(a: Array, b: Array) -> Array:
        dtype = jnp.promote_types(a.dtype, jnp.float32)
        axes = tuple(range(1, a.ndim))
        return jax.lax.dot_general(
            a, b, ((axes, axes), ((), ())), precision="highest", preferred_element_type=dtype
        )

    return sum(jax.tree.leaves(jax.tree.map(leaf, left, right)))


def norm(tree: Params) -> Array:
    """Euclidean norm of one tree, in float32 or wider; NaN where an entry isn't finite."""

    def squares(leaf: Array) -> tuple[Array, ...]:
        wide = leaf.astype(wider(leaf.dtype))
        return _sums(jnp.square(wide), (~jnp.isfinite(wide)).astype(wide.dtype))

    each = jax.tree.leaves(jax.tree.map(squares, tree))
    return jnp.where(sum(each[1::2]) > 0, jnp.nan, jnp.sqrt(sum(each[::2])))


def sketch(tree: Params, width: int, seed: int = 0) -> Array:
    """A linear map of each tree in a stack to `width` numbers that keeps inner products on average.

    A count sketch (Charikar, Chen, Farach-Colton 2002): entry i of a leaf goes to bucket i mod W,
    W made odd, with a random sign, so E <sketch(x), sketch(y)> = <x, y>, with a standard error of
    about sqrt(2 / W) |x| |y|: more only where x and y live on few of the buckets. The signs
    depend on the seed and the leaf's place only.

    Args:
        tree: leaves [K, ...].
        width: W.

    Returns:
        [K, W].
    """
    # Odd, or a column of a matrix whose width divides W would fall into a few buckets.
    odd = width - (width + 1) % 2
    total: Array | float = 0.0
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        size = leaf[0].size
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        rows = -(-size // odd)
        key = jax.random.fold_in(jax.random.key(seed), number)
        sign = jax.random.rademacher(key, (rows * odd,), dtype)
        flat = leaf.reshape(leaf.shape[0], size).astype(dtype)
        flat = jnp.pad(flat, ((0, 0), (0, rows * odd - size))) * sign[None]
        total = total + jnp.sum(flat.reshape(-1, rows, odd), axis=1)
    return jnp.pad(total, ((0, 0), (0, width - odd)))

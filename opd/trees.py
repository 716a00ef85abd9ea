"""Dot products, norms and sketches of parameter trees with a leading estimator axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from opd.types import Array, Params


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
    """Euclidean norm of one tree."""
    stacked = jax.tree.map(lambda a: a[None], tree)
    return jnp.sqrt(gram(stacked, stacked)[0, 0])


def sketch(tree: Params, width: int, seed: int = 0) -> Array:
    """A linear map of each tree in a stack to `width` numbers that keeps inner products on average.

    A count sketch (Charikar, Chen, Farach-Colton 2002): entry i of a leaf goes to bucket
    i mod `width` with a random sign, so E <sketch(x), sketch(y)> = <x, y>, with a standard error
    of at most sqrt(2 / width) |x| |y|. The signs depend on the seed and the leaf's place only.

    Args:
        tree: leaves [K, ...].
        width: W.

    Returns:
        [K, W].
    """
    total: Array | float = 0.0
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        size = leaf[0].size
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        rows = -(-size // width)
        key = jax.random.fold_in(jax.random.key(seed), number)
        sign = jax.random.rademacher(key, (rows * width,), dtype)
        flat = leaf.reshape(leaf.shape[0], size).astype(dtype)
        flat = jnp.pad(flat, ((0, 0), (0, rows * width - size))) * sign[None]
        total = total + jnp.sum(flat.reshape(-1, rows, width), axis=1)
    return total

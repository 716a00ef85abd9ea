"""A mixture of gated MLPs: each token goes to the few that a router picks (Shazeer et al. 2017).

Tokens are laid by expert, so that each expert's matmul is one over its own tokens alone
(Gale et al. 2022, section 4), and put back. No token is dropped, whatever an expert's load.

Shapes: B rows, S tokens, D width, E experts, k experts of a token, F inner width of an expert.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from opd import layout
from opd.types import Array

# How arrays lie: every device has its rows' tokens, and a share of every expert's inner width.
TOKENS, ROUTER = ("batch", "time", None), (None, None)
INTO, OUT_OF = (None, None, "mlp"), (None, "mlp", None)


def route(x: Array, router: Array, chosen: int, normed: bool) -> tuple[Array, Array]:
    """The experts of tokens [..., D] by a router [D, E], and their weights: [..., k] each.

    Weights are the largest k of softmax(x router), in float32 or wider: of bfloat16's 8 bits the
    order of experts would be a coin's. `normed`: they add up to 1.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    scores = jnp.matmul(x, router, precision="highest", preferred_element_type=wide)
    weights, experts = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), chosen)
    if normed:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return experts, weights


def mixed(
    x: Array,
    router: Array,
    gate: Array,
    up: Array,
    down: Array,
    *,
    chosen: int,
    normed: bool,
    activation: Callable[[Array], Array],
) -> Array:
    """sum_e w_e (activation(x gate_e) * x up_e) down_e over a token's k experts.

    Args:
        x: [B, S, D].
        router: [D, E].
        gate: [E, D, F].
        up: [E, D, F].
        down: [E, F, D].
        chosen: k.
        normed: as `route` has it.
        activation: of the gate.

    Returns:
        [B, S, D].
    """
    apart = functools.partial(_apart, chosen=chosen, normed=normed, activation=activation)
    names = TOKENS, ROUTER, INTO, INTO, OUT_OF
    return layout.apart(apart, (x, router, gate, up, down), names, summed="mlp")


def _apart(
    x: Array,
    router: Array,
    gate: Array,
    up: Array,
    down: Array,
    *,
    chosen: int,
    normed: bool,
    activation: Callable[[Array], Array],
) -> Array:
    """What a device adds, of its own tokens and its own share of the inner width."""
    tokens = x.reshape(-1, x.shape[-1])
    experts, weights = route(tokens, router, chosen, normed)
    order = jnp.argsort(experts.reshape(-1))  # stable: a token's copies stay in their order
    sizes = jnp.bincount(experts.reshape(-1), length=gate.shape[0]).astype(jnp.int32)
    laid = tokens[order // chosen]
    inner = activation(jax.lax.ragged_dot(laid, gate, sizes)) * jax.lax.ragged_dot(laid, up, sizes)
    wide = weights.dtype
    found = jax.lax.ragged_dot(inner, down, sizes, preferred_element_type=wide)
    back = found[jnp.argsort(order)].reshape(*experts.shape, -1)
    return jnp.einsum("nkd,nk->nd", back, weights).astype(x.dtype).reshape(x.shape)

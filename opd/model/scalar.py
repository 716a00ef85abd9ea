"""A decoder with a scalar head: a critic's estimate of every state, a reward model's of a whole.

The body is a decoder's, parameters and all; where its embedding isn't tied the unembedding is left
out. The head is one vector and an offset, zero at the start.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from opd.model.decoder import Decoder
from opd.trees import wider
from opd.types import Array, Params, Rules


@dataclasses.dataclass(frozen=True)
class Scalar:
    """One number at each position, as pure functions of the parameters; static and hashable."""

    body: Decoder

    @property
    def rules(self) -> Rules:
        """The body's."""
        return self.body.rules

    def init(self, key: Array) -> Params:
        """A fresh body, and a head of zeros."""
        return self.upon(self.body.init(key))

    def upon(self, body: Params) -> Params:
        """The parameters of a body that is there, and a head of zeros."""
        dtype = wider(self.body.config.param_dtype)  # two numbers a width: nothing to save
        head = {"scale": jnp.zeros((self.body.width,), dtype), "offset": jnp.zeros((), dtype)}
        return {"body": _without_unembedding(body), "head": head}

    def axes(self) -> Any:
        """The tree of logical axis names, one tuple for each parameter."""
        head = {"scale": ("embed",), "offset": ()}
        return {"body": _without_unembedding(self.body.axes()), "head": head}

    def trained(self, tree: Any) -> Any:
        """All of it."""
        return tree

    def with_trained(self, tree: Any, part: Any) -> Any:
        """The other tree."""
        return part

    def values(self, params: Params, tokens: Array, mask: Array) -> Array:
        """v = <scale, hidden> + offset, [B, S] in float32 or wider, of tokens and mask [B, S].

        Row t has seen tokens 0 .. t. At padding it is finite and means nothing.
        """
        # A tied decoder is one that has no unembedding to look for.
        plain = dataclasses.replace(self.body.config, tied=True)
        body = dataclasses.replace(self.body, config=plain)
        hidden = body.hidden(params["body"], tokens, mask)
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        head = params["head"]
        product = jnp.einsum("bsd,d->bs", hidden.astype(wide), head["scale"].astype(wide))
        return product + head["offset"].astype(wide)


def _without_unembedding(tree: Any) -> Any:
    return {name: part for name, part in tree.items() if name != "unembedding"}

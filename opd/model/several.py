"""Several decoders as one model that grades: each row of a batch is one of theirs.

Their hidden states lie side by side, zero where a row is another's, and so do their matrices. A
row's logits are then its own decoder's, exactly, and whoever reads a side of the vocabulary needs
to know nothing of it.

B rollouts, S positions, K decoders, V vocabulary, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from opd.masked import zero
from opd.model.decoder import Decoder
from opd.types import Array, Params, Rules


@dataclasses.dataclass(frozen=True)
class Several:
    """K decoders by name; static and hashable. Nothing is drawn from them and none is trained.

    Raises:
        ValueError: logits that are capped otherwise, one from the other.
    """

    names: tuple[str, ...]
    models: tuple[Decoder, ...]

    def __post_init__(self) -> None:
        for name, model in zip(self.names, self.models, strict=True):
            if model.logit_cap != self.logit_cap:
                raise ValueError(
                    f"{name}: caps its logits at {model.logit_cap}, and {self.names[0]} at "
                    f"{self.logit_cap}: allowed is one cap for all teachers"
                )

    @property
    def vocab(self) -> int:
        """V: rows of the longest matrix; the others end in rows of zeros, which are padding."""
        return max(model.vocab for model in self.models)

    @property
    def tokens(self) -> int:
        """Ids that exist for all."""
        return min(model.tokens for model in self.models)

    @property
    def width(self) -> int:
        """D: all widths together."""
        return sum(model.width for model in self.models)

    @property
    def logit_cap(self) -> float | None:
        """The cap that all have."""
        return self.models[0].logit_cap

    @property
    def rules(self) -> Rules:
        """How their arrays lie on a mesh, where not as usual: alike, as one config says it."""
        return self.models[0].rules

    def _each(self, params: Params) -> Sequence[tuple[Decoder, Params]]:
        return [(model, params[name]) for name, model in zip(self.names, self.models, strict=True)]

    def init(self, key: Array) -> Params:
        """Each one's parameters, by name."""
        return {name: model.init(key) for name, model in zip(self.names, self.models, strict=True)}

    def axes(self) -> Any:
        """The tree of logical axis names, one tuple for each parameter."""
        return {name: model.axes() for name, model in zip(self.names, self.models, strict=True)}

    def chosen(self, params: Params, tokens: Array, mask: Array, of: Array) -> Array:
        """Hidden states [B, S, D] of tokens and mask [B, S]; `of` [B, K] says whose a row is."""
        parts = [
            zero(model.hidden(own, tokens, mask), of[:, at, None, None])
            for at, (model, own) in enumerate(self._each(params))
        ]
        return jnp.concatenate(parts, axis=-1)

    def unembedding(self, params: Params) -> Array:
        """The matrices side by side, [V, D]."""
        parts = [model.unembedding(own) for model, own in self._each(params)]
        padded = [jnp.pad(part, ((0, self.vocab - len(part)), (0, 0))) for part in parts]
        return jnp.concatenate(padded, axis=-1)

    def matmul_flops(self, queries: int, keys: int) -> int:
        """Forward FLOPs of a row: every decoder reads every row."""
        return sum(model.matmul_flops(queries, keys) for model in self.models)

"""The library against the published losses: what its rows push logits by, and how far that is off.

The library is run through its chunked vocabulary pass, in chunks of two tokens, on plain logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.lab import relative
from opd.engine import estimator, vocab
from opd.engine.vocab import Head, Pass
from opd.measure import losses
from opd.measure.losses import B, Case, G
from opd.method import table
from opd.types import Rollout

Array = np.ndarray


def rollout(case: Case, two_ratios: bool) -> Rollout:
    """The case as a batch; with the proximal policy's log-probabilities where there are two."""
    return Rollout.of(
        case.tokens,
        case.mask,
        reward=losses.REWARD,
        group=np.arange(B) // G,
        ended=losses.ENDED,
        version=np.where(losses.OWN, 0, -1),
        logp_behavior=case.behavior,
        logp_proximal=case.proximal if two_ratios else None,
        logp_reference=case.reference,
        value=case.value,
    )


def cotangents(case: Case, names: Sequence[str], one_pass: bool = False) -> Array:
    """The library's dJ/dlogits [K, B, T, V]; in one pass for rows that are pointwise."""
    methods = tuple(map(table.parse, names))
    sides = Head(jnp.asarray(case.logits)), Head(jnp.asarray(case.teacher))
    made: dict[table.Method, Array] = {}
    for two_ratios in (False, True):
        some = tuple(
            method
            for method in methods
            if any(term.correction != "none" for term in method.terms) == two_ratios
        )
        if some:
            batch, uniforms = rollout(case, two_ratios), jnp.asarray(case.uniforms)
            made |= zip(some, np.asarray(_cotangents(some, one_pass, batch, *sides, uniforms)))
    return np.stack([made[method] for method in methods])


@partial(jax.jit, static_argnums=(0, 1))
def _cotangents(methods, one_pass, batch, student, teacher, uniforms):
    how, coefs = Pass(chunk=2), None
    if not one_pass:
        asking = estimator.asking(how, methods)
        stats = vocab.stats(student, teacher, batch.tokens, asking)
        coefs = estimator.coefficients_of(methods, batch, stats)
    return estimator.cotangents(student, teacher, batch, methods, uniforms, how, coefs)[0].hidden


def errors(seed: int, names: Sequence[str]) -> dict[str, float]:
    """Each row's |cotangents - minus the gradient of its loss| over the latter's size, by name."""
    case = losses.draw(seed)
    both = cotangents(case, names), -losses.gradients(case, list(names))
    return {name: relative(*pair) for name, *pair in zip(names, *both, strict=True)}

"""The library against the published losses: what its rows push logits by, and how far that is off.

The library is run through its chunked vocabulary pass, in chunks of two tokens, with logits as
hidden states and the identity as unembedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.lab import relative
from opd.engine import vocab
from opd.engine.vocab import Head, Pass
from opd.measure import losses
from opd.measure.losses import B, Case, G, V
from opd.method import table
from opd.method.coefficients import coefficients, weights
from opd.types import Rollout

Array = np.ndarray


def rollout(case: Case, two_ratios: bool) -> Rollout:
    """The case as a batch; with the proximal policy's log-probabilities where there are two."""
    return Rollout(
        prompt=jnp.zeros((B, 1), jnp.int32),
        prompt_mask=jnp.ones((B, 1), bool),
        tokens=jnp.asarray(case.tokens, jnp.int32),
        mask=jnp.asarray(case.mask),
        logp_behavior=jnp.asarray(case.behavior),
        ended=jnp.asarray(losses.ENDED),
        group=jnp.arange(B) // G,
        row=jnp.arange(B),
        reward=jnp.asarray(losses.REWARD),
        logp_proximal=jnp.asarray(case.proximal) if two_ratios else None,
        logp_reference=jnp.asarray(case.reference),
        value=jnp.asarray(case.value),
    )


def cotangents(case: Case, names: Sequence[str], one_pass: bool = False) -> Array:
    """The library's dJ/dlogits [K, B, T, V]; in one pass for rows that are pointwise."""
    eye = jnp.eye(V)
    student, teacher = Head(jnp.asarray(case.logits), eye), Head(jnp.asarray(case.teacher), eye)
    rollouts = {both: rollout(case, both) for both in (False, True)}
    uniforms = jnp.asarray(case.uniforms)
    return np.asarray(_cotangents(tuple(names), one_pass, rollouts, student, teacher, uniforms))


@partial(jax.jit, static_argnums=(0, 1))
def _cotangents(names, one_pass, rollouts, student, teacher, uniforms):
    methods, how, batch = tuple(map(table.parse, names)), Pass(chunk=2), rollouts[False]
    known = tuple(
        weights(method, rollouts[any(term.correction != "none" for term in method.terms)])
        for method in methods
    )

    def finish(stats, known):
        return tuple(
            coefficients(method, part, stats, batch.group) for method, part in zip(methods, known)
        )

    if one_pass:
        weigh, weighed = finish, known
    else:
        weighed = finish(vocab.stats(student, teacher, batch.tokens, how), known)
        weigh = lambda stats, weighed: weighed  # noqa: E731
    rules = tuple(method.rules for method in methods)
    cotangent, _ = vocab.pull(student, teacher, batch.tokens, rules, weigh, weighed, uniforms, how)
    return cotangent.hidden


def errors(seed: int, names: Sequence[str]) -> dict[str, float]:
    """Each row's |cotangents - minus the gradient of its loss| over the latter's size, by name."""
    case = losses.draw(seed)
    both = cotangents(case, names), -losses.gradients(case, list(names))
    return {name: relative(*pair) for name, *pair in zip(names, *both, strict=True)}

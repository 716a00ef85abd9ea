"""Preference pairs: a reward model's scores, and the step that learns them (Bradley-Terry).

B pairs, P prompt length, T completion length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from opd import trees
from opd.engine.optimizer import Optimizer
from opd.engine.steps import State, ascend
from opd.model.scalar import Scalar
from opd.types import Array, Mean, Metrics, Params, Rollout, Sum, pytree


@pytree
class Pairs:
    """Prompts, each with two completions of which the first was preferred."""

    prompt: Array  # [B, P] int32, left-padded
    prompt_mask: Array  # [B, P] bool
    tokens: Array  # [B, 2, T] int32: chosen, rejected
    mask: Array  # [B, 2, T] bool, true up to EOS


def reward_step(model: Scalar, params: Params, rollout: Rollout) -> Array:
    """A score for each completion, [B]: the value at its last graded token, row P + length - 1."""
    values = model.values(params, rollout.sequence, rollout.sequence_mask)
    return _last(values, rollout.prompt.shape[1], rollout.mask)


def scores(model: Scalar, params: Params, pairs: Pairs) -> Array:
    """Scores of chosen and rejected, [B, 2], by the rule of `reward_step`."""
    tokens, mask = _rows(pairs.prompt, pairs.tokens), _rows(pairs.prompt_mask, pairs.mask)
    values = model.values(params, tokens, mask)
    width = pairs.prompt.shape[1]
    return _last(values, width, mask[:, width:]).reshape(-1, 2)


def _rows(prompt: Array, completions: Array) -> Array:
    """Both sequences of each pair, side by side: [2B, P + T]. A mesh keeps the pairs it has."""
    both = jnp.broadcast_to(prompt[:, None], (*completions.shape[:2], prompt.shape[1]))
    whole = jnp.concatenate([both, completions], axis=2)
    return whole.reshape(-1, whole.shape[2])


def _last(values: Array, prompt: int, mask: Array) -> Array:
    """Values [B, S] at the last token that the completion's mask [B, T] keeps."""
    at = prompt + jnp.sum(mask, 1, dtype=jnp.int32) - 1
    return jnp.take_along_axis(values, at[:, None], axis=1)[:, 0]


def figures(scored: Array) -> dict[str, Array]:
    """What scores [B, 2] say, [B] each: loss (nats), accuracy, margin.

    margin = r(chosen) - r(rejected), loss = -log sigma(margin); a tie is half right.
    """
    margin = scored[:, 0] - scored[:, 1]
    right = (jnp.sign(margin) + 1) / 2
    return {"loss": -jax.nn.log_sigmoid(margin), "accuracy": right, "margin": margin}


def preference_step(
    model: Scalar,
    optimizer: Optimizer,
    state: State,
    pairs: Pairs,
    parts: int = 1,
) -> tuple[State, Metrics]:
    """One optimizer step up the log-likelihood of the preferences.

    J = mean log sigma(r(chosen) - r(rejected)): Bradley and Terry 1952; Ouyang et al. 2022
    (arXiv:2203.02155), eq. 1, with two completions a prompt. The gradient is autodiff's, an average
    over the pairs handed in, whose completions are fixed data.

    Args:
        model: the reward model.
        optimizer: ascends J.
        state: what the step changes.
        pairs: B of them.
        parts: equal parts of the batch, pulled back one after the other; pair i belongs to part
            i mod `parts`.
    """
    count = pairs.prompt.shape[0]

    def objective(params: Params, part: Pairs) -> tuple[Array, dict[str, Array]]:
        scored = figures(scores(model, params, part))
        totals = {name: jnp.sum(each) for name, each in scored.items()}
        return -totals["loss"] / count, totals

    def one(part: Pairs) -> tuple[Params, dict[str, Array]]:
        return jax.grad(objective, has_aux=True)(state.params, part)

    def add(total, part: Pairs):
        return jax.tree.map(jnp.add, total, one(part)), None

    shapes = jax.eval_shape(one, pairs)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (gradient, totals), _ = jax.lax.scan(add, nothing, trees.dealt(pairs, parts))
    after, unchanged = ascend(model, optimizer, state, gradient)
    number = jnp.asarray(count, totals["loss"].dtype)
    metrics: Metrics = {name: Mean(total, number) for name, total in totals.items()}
    metrics["gradient_norm"] = Mean(trees.norm(gradient), jnp.ones(()))
    metrics["unchanged"] = unchanged
    metrics["tokens"] = Sum(jnp.sum(pairs.mask))
    return after, metrics

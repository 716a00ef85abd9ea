"""The jitted steps: rollout, score, pull back, update, probe. Pure functions of their arguments.

Data flows one way: prompts -> `rollout_step` -> Rollout -> `head` (the teacher's hidden states,
kept) -> `pull_back` (the student's forward, `estimator.cotangents`, the body's vjp) -> the
optimizer (`update_step`) or the running moments (`probe_step`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from opd import draws, layout, trees
from opd.engine import estimator, metrics, vocab
from opd.engine.optimizer import Optimizer
from opd.engine.sampling import Partner, generate
from opd.engine.vocab import Head, Pass
from opd.masked import zero
from opd.method import facts, local
from opd.method.coefficients import coefficients, weights
from opd.method.table import Method
from opd.model.scalar import Scalar
from opd.model.several import Several
from opd.types import (
    Array,
    Coefficients,
    Mean,
    Metrics,
    Model,
    Params,
    Rollout,
    TokenStats,
    pytree,
)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Static."""

    length: int  # T, tokens at most
    eos_ids: tuple[int, ...]
    pad_id: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@pytree
class State:
    """What an update changes; a critic's is inside."""

    params: Params
    optimizer: Any
    step: Array
    critic: State | None = None


@dataclasses.dataclass(frozen=True)
class Critic:
    """A learned baseline: who estimates, and what trains the estimate. Static."""

    model: Scalar
    optimizer: Optimizer


def mastered(model: Model | Scalar, params: Params) -> Params:
    """The parameters with what is trained in float32 or wider, whatever a folder stores."""
    return model.with_trained(params, trees.masters(model.trained(params)))


def hidden(model: Model | Several, params: Params, rollout: Rollout) -> Array:
    """The hidden states that predict the completion, [B, T, D].

    Row P - 1 + t of the sequence predicts token t; the last token predicts nothing.
    """
    read = params, rollout.sequence[:, :-1], rollout.sequence_mask[:, :-1]
    if isinstance(model, Several):
        rows = model.chosen(*read, rollout.taught)
    else:
        rows = model.hidden(*read)
    return rows[:, rollout.prompt.shape[1] - 1 :]


def head(model: Model, params: Params, rollout: Rollout) -> Head:
    """`hidden`, and the unembedding."""
    return head_of(model, params, hidden(model, params, rollout))


def head_of(model: Model, params: Params, hidden: Array) -> Head:
    """A model's side of the vocabulary, of hidden states that are there."""
    return Head(hidden, model.unembedding(params), model.logit_cap, model.tokens)


def pull_back(
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    methods: tuple[Method, ...],
    uniforms: Array | None,
    how: Pass,
    coefs: tuple[Coefficients, ...] | None = None,
    squares: bool = False,
) -> tuple[Params, TokenStats]:
    """Gradients of K methods on one rollout batch: one student forward, K pull-backs.

    `estimator.cotangents` between a forward and its vjp. Ascent direction of each method's
    objective under its own reduction.

    Args:
        model: the student.
        params: its parameters.
        rollout: B sequences.
        teacher: the teacher's side of the vocabulary, or None where no method asks it.
        methods: K rows.
        uniforms: [B, T, k] for rows that draw candidates afresh.
        how: temperature and chunk.
        coefs: as `estimator.cotangents` takes them, and `squares`.

    Returns:
        Gradients of the part that is trained, leaves [K, ...] in float32 or wider, and the
        statistics [B, T].
    """

    def forward(part: Params) -> Head:
        return head(model, model.with_trained(params, part), rollout)

    student, vjp = jax.vjp(forward, trees.masters(model.trained(params)))
    cotangent, stats = estimator.cotangents(
        student, teacher, rollout, methods, uniforms, how, coefs, squares
    )
    if len(methods) == 1:
        (alone,) = vjp(jax.tree.map(lambda leaf: leaf[0], cotangent))
        return jax.tree.map(lambda leaf: leaf[None], alone), stats
    # One after the other: side by side, the backward's matmuls have an axis more, and XLA moves it
    # about in memory for longer than they take.
    return jax.lax.map(lambda each: vjp(each)[0], cotangent), stats


def accumulate(
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    methods: tuple[Method, ...],
    uniforms: Array | None,
    how: Pass,
    parts: int,
) -> tuple[Params, TokenStats]:
    """`pull_back` in equal parts of the batch, one at a time: the same gradients in less memory.

    Coefficients are the whole batch's, so that means over groups, tokens and rollouts don't
    depend on the cut. Row i belongs to part i mod `parts`: a mesh keeps the rows that it has.
    """

    teacher = vocab.gathered(teacher)  # once, and not for every part
    how = estimator.asking(how, methods)

    def side(hidden: Array | None) -> Head | None:
        return None if teacher is None else dataclasses.replace(teacher, hidden=hidden)

    def score(carry: None, part) -> tuple[None, TokenStats]:
        rollout, hidden = part
        return carry, score_step(model, params, rollout, side(hidden), how, rules)

    def add(total: Params, part) -> tuple[Params, None]:
        rollout, hidden, uniforms, coefs = part
        gradients, _ = pull_back(
            model, params, rollout, side(hidden), methods, uniforms, how, coefs
        )
        return jax.tree.map(sharded, jax.tree.map(jnp.add, total, gradients), names), None

    def sharded(leaf: Array, names: tuple[str, ...]) -> Array:
        return layout.constrain(leaf, "estimator", *names)

    names = model.trained(model.axes())
    hidden = None if teacher is None else teacher.hidden
    rules = methods[0].rules if len(methods) == 1 else ()
    _, scored = jax.lax.scan(score, None, trees.dealt((rollout, hidden), parts))
    stats = trees.rejoined(scored)
    coefs = estimator.coefficients_of(methods, rollout, stats)
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros((len(methods), *leaf.shape), trees.wider(leaf.dtype)),
        model.trained(params),
    )
    whole = trees.dealt((rollout, hidden, uniforms, coefs), parts)
    return jax.lax.scan(add, nothing, whole)[0], stats


def rollout_step(
    model: Model,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    group: Array,
    row: Array,
    key: Array,
    sampling: Sampling,
    prefix: Array | None = None,
    partner: Partner | None = None,
    group_size: int = 1,
) -> Rollout:
    """Draw one completion a row: prefill and decode in one program.

    The noise is a function of (key, row, position) alone. `prefix` [B, T] has tokens to take in
    place of draws, -1 elsewhere. A `partner` draws its share of each row's tokens. Of every
    `group_size` rows, which then have one prompt, it is read once.
    """
    drawn = generate(
        model,
        params,
        prompt,
        prompt_mask,
        draws.uniforms(key, row, sampling.length),
        eos_ids=sampling.eos_ids,
        pad_id=sampling.pad_id,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        prefix=prefix,
        partner=partner,
        group_size=group_size,
    )
    return Rollout(
        prompt=prompt,
        prompt_mask=prompt_mask,
        tokens=drawn.tokens,
        mask=drawn.mask,
        logp_behavior=drawn.logp,
        ended=drawn.ended,
        group=group,
        row=row,
    )


def score_step(
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    how: Pass,
    rules: tuple[local.Rule, ...] = (),
) -> TokenStats:
    """Token statistics [B, T] of a rollout: the only thing that evaluation needs of a forward."""
    return vocab.stats(head(model, params, rollout), teacher, rollout.tokens, how, rules)


def value_step(model: Scalar, params: Params, rollout: Rollout, parts: int = 1) -> Array:
    """A critic's estimates V(s_t), [B, T]: of the state that the completion's token t is drawn in.

    Differentiable in `params`; `parts` microbatches one after the other, none of them remembered.
    """

    def estimates(params: Params, rollout: Rollout) -> Array:
        values = model.values(params, rollout.sequence[:, :-1], rollout.sequence_mask[:, :-1])
        return values[:, rollout.prompt.shape[1] - 1 :]

    if parts == 1:
        return estimates(params, rollout)
    again = jax.checkpoint(lambda part: estimates(params, part))
    return trees.rejoined(jax.lax.map(again, trees.dealt(rollout, parts)))


def drift_step(
    model: Model,
    params: Params,
    rollout: Rollout,
    behavior: Head | None,
    kind: str,
    how: Pass,
) -> dict[str, Array]:
    """How far the policy has moved from the one that drew a rollout: two numbers.

    `ess_rule` is ESS / N of the weights of one kind, `drift` KL(behavior || current) in nats per
    sequence: E_mu sum_t KL(mu || pi)(s_t), enumerated at the rollout's states where the behavior's
    side of the vocabulary is given, else sum_t log mu / pi (y_t), over the rollouts whose
    log-probabilities are known.
    """
    now = head(model, params, rollout)
    if behavior is None:
        stats = vocab.stats(now, None, rollout.tokens, how)
        return metrics.staleness(rollout, stats.logp_student, kind)
    stats = vocab.stats(behavior, now, rollout.tokens, how)  # its student is the behavior here
    moved = metrics.staleness(rollout, stats.logp_teacher, kind)
    return moved | {"drift": jnp.mean(jnp.sum(zero(stats.kl, rollout.mask), 1))}


def update_step(
    model: Model,
    optimizer: Optimizer,
    state: State,
    rollout: Rollout,
    teacher: Head | None,
    method: Method,
    seed: Array,
    how: Pass,
    parts: int = 1,
    critic: Critic | None = None,
) -> tuple[State, Metrics]:
    """One optimizer step of one method: the probe with K = 1, and one of its critic.

    `parts` microbatches are pulled back one after the other. V-trace takes the critic's estimates
    of now, GAE those that the rollout has (Schulman et al. 2017, algorithm 1).
    """
    value, learn = None, None
    if critic is not None:

        def estimate(params: Params) -> Array:
            return value_step(critic.model, params, rollout, parts)

        value, learn = jax.vjp(estimate, state.critic.params)
        if any(term.returns == "vtrace" for term in method.terms):
            rollout = dataclasses.replace(rollout, value=value)
    uniforms = estimator.fresh_uniforms(seed, state.step, rollout, (method,))
    asked = (model, state.params, rollout, teacher, (method,), uniforms, how)
    stacked, stats = pull_back(*asked) if parts == 1 else accumulate(*asked, parts)
    gradient = jax.tree.map(lambda leaf: leaf[0], stacked)
    stats = estimator.graded(stats, rollout.logp_teacher)
    known, stats = weights(method, rollout), dataclasses.replace(stats, value=value)
    after, unchanged = ascend(model, optimizer, state, gradient)
    learned = None
    if critic is not None:
        cotangent = coefficients(method, known, stats, rollout.group).value
        (learned,) = learn(cotangent.astype(value.dtype))
        moved, _ = ascend(critic.model, critic.optimizer, state.critic, learned)
        after = dataclasses.replace(after, critic=moved)
    batch = metrics.Batch(
        rollout, stats, facts.weighs(method), method, known, gradient, learned, unchanged
    )
    return after, metrics.metrics_of(batch)


def ascend(
    model: Model | Scalar, optimizer: Optimizer, state: State, gradient: Params
) -> tuple[State, Mean]:
    """The state after one step up a gradient, and the share of it that rounding took."""
    part = model.trained(state.params)
    after, inner, lost, asked = optimizer.step(gradient, state.optimizer, part)
    params = model.with_trained(state.params, after)
    moved = dataclasses.replace(state, params=params, optimizer=inner, step=state.step + 1)
    return moved, Mean(lost, jnp.where(asked > 0, asked, 1))  # 0 where nothing was to be moved


def differences(methods: tuple[Method, ...]) -> tuple[int, ...]:
    """For each column, the column it is kept relative to (-1: none): its reference, if there.

    The Gram matrix of Y_i - Y_ref holds small differences to float32's relative precision, which
    <Y_i, Y_i> - 2 <Y_i, Y_ref> + <Y_ref, Y_ref> would lose.
    """
    names = [method.name for method in methods]
    columns = []
    for name, method in zip(names, methods, strict=True):
        reference = facts.reference(method).name
        columns.append(names.index(reference) if reference in names and reference != name else -1)
    return tuple(columns)


def probe_step(
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    methods: tuple[Method, ...],
    coefs: tuple[Coefficients, ...],
    uniforms: Array | None,
    total: Params,
    how: Pass,
    sketch: int,
) -> tuple[Params, Array, Array, Array]:
    """Moments of K estimators' gradients over a batch's prompt groups, one group at a time.

    Y_gi is estimator i's gradient averaged over group g's rollouts: the group's share of the
    batch's gradient, times the number of groups. Columns are kept relative to `differences`.

    Args:
        rollout: leaves [U, G, ...], as are the teacher's hidden states and the uniforms.
        coefs: coefficients of the whole batch, [U, G, T].
        total: running sums, leaves [K, ...].
        sketch: width W.

    Returns:
        The running sums, Gram matrices [U, K, K], sketches [U, K, W], and sum_t |dJ/dlogits_t|^2 of
        one rollout as its group has it on average, [U, K].
    """
    groups, size = rollout.mask.shape[:2]
    base = differences(methods)

    def one(total: Params, part) -> tuple[Params, tuple[Array, Array, Array]]:
        rollout, hidden, coefs, uniforms = part
        side = None if teacher is None else dataclasses.replace(teacher, hidden=hidden)
        asked = model, params, rollout, side, methods, uniforms, how, coefs
        gradients, stats = pull_back(*asked, squares=True)
        columns = jax.tree.map(
            lambda leaf, sums: _relative(leaf.astype(sums.dtype) * groups, base), gradients, total
        )
        total = jax.tree.map(jnp.add, total, columns)
        # Y_g is a mean over rollouts: each of them has its G-th part of the square's root.
        squares = jnp.stack([jnp.sum(zero(each, rollout.mask)) for each in stats.squares])
        squares = squares * groups**2 * size
        return total, (trees.gram(columns, columns), trees.sketch(columns, sketch), squares)

    hidden = None if teacher is None else teacher.hidden
    total, made = jax.lax.scan(one, total, (rollout, hidden, coefs, uniforms))
    return total, *made


def _relative(leaf: Array, base: tuple[int, ...]) -> Array:
    """Columns less the column that each is kept relative to."""
    index = jnp.asarray([max(b, 0) for b in base])
    there = jnp.asarray([b >= 0 for b in base]).reshape(-1, *[1] * (leaf.ndim - 1))
    return leaf - zero(leaf[index], there)

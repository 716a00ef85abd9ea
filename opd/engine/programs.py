"""The steps, jitted: the only place where anything is compiled, with shardings from one table.

A program is called with arrays that lie anywhere; it lays parameters and batches on the mesh by
the rules of `sharding` and hands its results back laid out the same way. What is static (mesh,
models, methods, sizes) selects the program.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from opd import trees
from opd.engine import preference, sharding, steps
from opd.engine.preference import Pairs
from opd.engine.sampling import Partner
from opd.engine.steps import Critic, Sampling, State
from opd.engine.vocab import Head, Pass
from opd.method.coefficients import coefficients, weights
from opd.method.table import Method
from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.types import Array, Coefficients, Metrics, Model, Params, Rollout, TokenStats


def _laid(tree: Any, shardings: Any) -> Any:
    return jax.lax.with_sharding_constraint(tree, shardings)


def _params(params: Params, model: Model | Scalar, mesh: Mesh) -> Params:
    return _laid(params, sharding.param_shardings(model, mesh))


def _batch(tree: Any, mesh: Mesh) -> Any:
    return _laid(tree, sharding.batch_shardings(tree, mesh))


def _head(head: Head | None, mesh: Mesh) -> Head | None:
    if head is None:
        return None
    matrix = sharding.constrain(head.unembedding, ("vocab", "embed"), mesh)
    return dataclasses.replace(head, hidden=_batch(head.hidden, mesh), unembedding=matrix)


def _stack(tree: Params, model: Model, mesh: Mesh) -> Params:
    """K trees of what is trained, [K, ...]: every one of them lies as the parameters do."""
    return jax.tree.map(
        lambda leaf, names: sharding.constrain(leaf, ("estimator", *names), mesh),
        tree,
        model.trained(model.axes()),
    )


def _state(
    state: State,
    model: Model | Scalar,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    critic: Critic | None = None,
) -> State:
    """Parameters by their rules, the optimizer's moments as the parameters they belong to."""
    where, everywhere = sharding.param_shardings(model, mesh), sharding.replicated(mesh)
    moments = optax.tree_map_params(
        optimizer,
        _laid,
        state.optimizer,
        model.trained(where),
        transform_non_params=lambda leaf: _laid(leaf, everywhere),
    )
    judge = None
    if critic is not None:
        judge = _state(state.critic, critic.model, mesh, critic.optimizer)
    return State(_laid(state.params, where), moments, _laid(state.step, everywhere), judge)


@partial(jax.jit, static_argnames=("mesh", "model"))
def init(mesh: Mesh, model: Model | Scalar, seed: Array) -> Params:
    """Fresh parameters, born in their shards."""
    return _params(model.init(jax.random.key(seed)), model, mesh)


@partial(jax.jit, static_argnames=("mesh", "model"))
def adapt(mesh: Mesh, model: Decoder, params: Params, key: Array) -> Params:
    """A plain decoder's parameters with an adapter that changes nothing yet."""
    return _params(model.adapted(params, key), model, mesh)


@partial(jax.jit, static_argnames=("mesh", "model", "optimizer", "critic"))
def start(
    mesh: Mesh,
    model: Model | Scalar,
    optimizer: optax.GradientTransformation,
    params: Params,
    critic: Critic | None = None,
) -> State:
    """The state of a run's first step; the parameters are copied, since updates donate theirs.

    A critic starts from the student's body and says 0.
    """

    def fresh(
        model: Model | Scalar, params: Params, optimizer: optax.GradientTransformation
    ) -> State:
        params = jax.tree.map(jnp.copy, params)
        return State(params, optimizer.init(model.trained(params)), jnp.zeros((), jnp.int32))

    state = fresh(model, params, optimizer)
    if critic is not None:
        judge = fresh(critic.model, critic.model.upon(params), critic.optimizer)
        state = dataclasses.replace(state, critic=judge)
    return _state(state, model, mesh, optimizer, critic)


@partial(jax.jit, static_argnames=("mesh", "model", "how", "partner", "share"))
def rollout(
    mesh: Mesh,
    model: Model,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    group: Array,
    row: Array,
    key: Array,
    how: Sampling,
    prefix: Array | None = None,
    partner: Model | None = None,
    partner_params: Params | None = None,
    share: float = 1.0,
) -> Rollout:
    """`steps.rollout_step`; a partner draws all but `share` of each row's tokens."""
    params = _params(params, model, mesh)
    prompt, prompt_mask, group, row = _batch((prompt, prompt_mask, group, row), mesh)
    prefix = _batch(prefix, mesh)
    other = None
    if partner is not None:
        other = Partner(partner, _params(partner_params, partner, mesh), share)
    drawn = steps.rollout_step(
        model, params, prompt, prompt_mask, group, row, key, how, prefix, other
    )
    return _batch(drawn, mesh)


@partial(jax.jit, static_argnames=("mesh", "model"))
def teacher(mesh: Mesh, model: Model, params: Params, rollout: Rollout) -> Head:
    """The teacher's side of the vocabulary on a rollout: scored once, its hidden states kept."""
    params = _params(params, model, mesh)
    return _head(steps.head(model, params, _batch(rollout, mesh)), mesh)


@partial(jax.jit, static_argnames=("mesh", "model", "how"))
def score(
    mesh: Mesh,
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    how: Pass,
) -> TokenStats:
    """`steps.score_step`."""
    params, rollout = _params(params, model, mesh), _batch(rollout, mesh)
    stats = steps.score_step(model, params, rollout, _head(teacher, mesh), how)
    return _batch(stats, mesh)


@partial(jax.jit, static_argnames=("methods",))
def coefficients_of(
    methods: tuple[Method, ...], rollout: Rollout, stats: TokenStats
) -> tuple[Coefficients, ...]:
    """Coefficients of K methods on a whole batch."""
    return tuple(
        coefficients(method, weights(method, rollout), stats, rollout.group) for method in methods
    )


@partial(jax.jit, static_argnames=("mesh", "model"))
def values(mesh: Mesh, model: Scalar, params: Params, rollout: Rollout) -> Array:
    """`steps.value_step`."""
    params, rollout = _params(params, model, mesh), _batch(rollout, mesh)
    return _batch(steps.value_step(model, params, rollout), mesh)


@partial(jax.jit, static_argnames=("mesh", "model", "kind", "how"))
def drift(
    mesh: Mesh,
    model: Model,
    params: Params,
    rollout: Rollout,
    behavior: Head | None,
    kind: str,
    how: Pass,
) -> dict[str, Array]:
    """`steps.drift_step`."""
    params, rollout = _params(params, model, mesh), _batch(rollout, mesh)
    return steps.drift_step(model, params, rollout, _head(behavior, mesh), kind, how)


@partial(
    jax.jit,
    static_argnames=("mesh", "model", "optimizer", "method", "how", "parts", "critic"),
    donate_argnames=("state",),
)
def update(
    mesh: Mesh,
    model: Model,
    optimizer: optax.GradientTransformation,
    state: State,
    rollout: Rollout,
    teacher: Head | None,
    method: Method,
    seed: Array,
    how: Pass,
    parts: int = 1,
    critic: Critic | None = None,
) -> tuple[State, Metrics]:
    """`steps.update_step`; the state handed in is consumed."""
    state = _state(state, model, mesh, optimizer, critic)
    rollout, teacher = _batch(rollout, mesh), _head(teacher, mesh)
    state, metrics = steps.update_step(
        model, optimizer, state, rollout, teacher, method, seed, how, parts, critic
    )
    return _state(state, model, mesh, optimizer, critic), metrics


@partial(jax.jit, static_argnames=("mesh", "model"))
def reward_of(mesh: Mesh, model: Scalar, params: Params, rollout: Rollout) -> Array:
    """`preference.reward_step`: scores [B]."""
    params, rollout = _params(params, model, mesh), _batch(rollout, mesh)
    return _batch(preference.reward_step(model, params, rollout), mesh)


@partial(jax.jit, static_argnames=("mesh", "model"))
def preferred(mesh: Mesh, model: Scalar, params: Params, pairs: Pairs) -> Array:
    """`preference.scores`: of chosen and rejected, [B, 2]."""
    params, pairs = _params(params, model, mesh), _batch(pairs, mesh)
    return _batch(preference.scores(model, params, pairs), mesh)


@partial(
    jax.jit, static_argnames=("mesh", "model", "optimizer", "parts"), donate_argnames=("state",)
)
def prefer(
    mesh: Mesh,
    model: Scalar,
    optimizer: optax.GradientTransformation,
    state: State,
    pairs: Pairs,
    parts: int = 1,
) -> tuple[State, Metrics]:
    """`preference.preference_step`; the state handed in is consumed."""
    state, pairs = _state(state, model, mesh, optimizer), _batch(pairs, mesh)
    state, metrics = preference.preference_step(model, optimizer, state, pairs, parts)
    return _state(state, model, mesh, optimizer), metrics


@partial(jax.jit, static_argnames=("mesh", "model", "methods", "how"))
def gradients(
    mesh: Mesh,
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    methods: tuple[Method, ...],
    uniforms: Array | None,
    how: Pass,
) -> Params:
    """`steps.pull_back` on a whole batch, its gradients alone: leaves [K, ...], ascent."""
    params, rollout = _params(params, model, mesh), _batch(rollout, mesh)
    found, _ = steps.pull_back(model, params, rollout, _head(teacher, mesh), methods, uniforms, how)
    return _stack(found, model, mesh)


@partial(
    jax.jit,
    static_argnames=("mesh", "model", "methods", "how", "group_size", "sketch"),
    donate_argnames=("total",),
)
def probe(
    mesh: Mesh,
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    methods: tuple[Method, ...],
    given: tuple[Coefficients, ...],
    uniforms: Array | None,
    total: Params,
    how: Pass,
    group_size: int,
    sketch: int,
) -> tuple[Params, Array, Array]:
    """`steps.probe_step` on a batch [B, ...] of B / G groups; the running sums are consumed."""
    params, total = _params(params, model, mesh), _stack(total, model, mesh)

    def split(leaf: Array) -> Array:
        # The scan runs over groups, so the mesh lies on a group's rollouts.
        leaf = leaf.reshape(-1, group_size, *leaf.shape[1:])
        names = (None, "batch", *(None,) * (leaf.ndim - 2))
        return sharding.constrain(leaf, names, mesh)

    hidden = None if teacher is None else split(teacher.hidden)
    side = None if teacher is None else dataclasses.replace(teacher, hidden=hidden)
    rollout, given, uniforms = jax.tree.map(split, (rollout, given, uniforms))
    total, gram, sketched = steps.probe_step(
        model, params, rollout, side, methods, given, uniforms, total, how, sketch
    )
    return _stack(total, model, mesh), gram, sketched


@partial(jax.jit, static_argnames=("mesh", "model", "count"))
def no_moments(mesh: Mesh, model: Model, params: Params, count: int) -> Params:
    """Running sums of nothing, leaves [K, ...] in float32 or wider."""

    def zeros(leaf: Array) -> Array:
        return jnp.zeros((count, *leaf.shape), jnp.promote_types(leaf.dtype, jnp.float32))

    empty = jax.tree.map(zeros, model.trained(params))
    return _stack(empty, model, mesh)


@jax.jit
def gram(total: Params) -> Array:
    """Inner products of a stack's trees, [K, K]."""
    return trees.gram(total, total)


def batch_rows(
    prompt: np.ndarray, prompt_mask: np.ndarray, group_size: int
) -> dict[str, np.ndarray]:
    """Prompts [U, P] as the rows of a rollout: G rows a group, side by side and numbered."""
    count = prompt.shape[0] * group_size
    return {
        "prompt": np.repeat(prompt, group_size, axis=0),
        "prompt_mask": np.repeat(prompt_mask, group_size, axis=0),
        "group": np.arange(count, dtype=np.int32) // group_size,
        "row": np.arange(count, dtype=np.int32),
    }

"""The steps, jitted: the only place where anything is compiled, with shardings from one table.

A program is called with arrays that lie anywhere. How they lie on the mesh follows from what they
are called (LAYOUTS), parameters and batches by the rules of `sharding`; results say it themselves.
What is static (mesh, models, methods, sizes) selects the program.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from opd import layout, trees
from opd.engine import estimator, preference, sharding, steps, vocab
from opd.engine.optimizer import Optimizer, averaged
from opd.engine.preference import Pairs
from opd.engine.sampling import Partner
from opd.engine.steps import Critic, Sampling, State
from opd.engine.vocab import Head, Pass
from opd.method.table import Method
from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.types import Array, Coefficients, Metrics, Model, Params, Rollout, TokenStats

# ---------------------------------------------------------------------- how things lie on the mesh

Call = Mapping[str, Any]  # a program's arguments, by name
Layout = Callable[[Any, Call], Any]  # from an argument or a result to the same, laid out


def _laid(tree: Any, shardings: Any) -> Any:
    return jax.lax.with_sharding_constraint(tree, shardings)


def _params(params: Params, call: Call) -> Params:
    """By the model's rules."""
    return _laid(params, sharding.param_shardings(call["model"], call["mesh"]))


def _partner(params: Params, call: Call) -> Params:
    return _laid(params, sharding.param_shardings(call["partner"], call["mesh"]))


def _batch(tree: Any, call: Call) -> Any:
    """Leaves [B, ...] by their rows."""
    return _laid(tree, sharding.batch_shardings(tree, call["mesh"]))


def _groups(tree: Any, call: Call) -> Any:
    """Leaves [B, ...] as [U, G, ...]: the scan runs over groups, so the mesh lies on their rows."""

    def split(leaf: Array) -> Array:
        leaf = leaf.reshape(-1, call["group_size"], *leaf.shape[1:])
        names = (None, "batch", *(None,) * (leaf.ndim - 2))
        return sharding.constrain(leaf, names, call["mesh"])

    return jax.tree.map(split, tree)


def _head(head: Head, call: Call) -> Head:
    """Hidden states by their rows, the matrix as the parameter that it is."""
    names, rules = ("vocab", "embed"), call["model"].rules
    matrix = sharding.constrain(head.unembedding, names, call["mesh"], rules)
    return dataclasses.replace(head, hidden=_batch(head.hidden, call), unembedding=matrix)


def _head_in_groups(head: Head, call: Call) -> Head:
    return dataclasses.replace(head, hidden=_groups(head.hidden, call))


def _stack(tree: Params, call: Call) -> Params:
    """K trees of what is trained, [K, ...]: every one of them lies as the parameters do."""
    model = call["model"]
    return jax.tree.map(
        lambda leaf, names: sharding.constrain(
            leaf, ("estimator", *names), call["mesh"], model.rules
        ),
        tree,
        model.trained(model.axes()),
    )


def _trained(tree: Params, call: Call) -> Params:
    """What is trained of the parameters, as these lie."""
    model = call["model"]
    return _laid(tree, model.trained(sharding.param_shardings(model, call["mesh"])))


def _state(state: State, call: Call) -> State:
    """Parameters by their rules, the optimizer's moments as the parameters they belong to."""
    model, mesh, critic = call["model"], call["mesh"], call.get("critic")
    where, everywhere = sharding.param_shardings(model, mesh), sharding.replicated(mesh)
    moments = optax.tree_map_params(
        call["optimizer"],
        _laid,
        state.optimizer,
        model.trained(where),
        transform_non_params=lambda leaf: _laid(leaf, everywhere),
    )
    own = None
    if critic is not None:
        its = {"mesh": mesh, "model": critic.model, "optimizer": critic.optimizer}
        own = _state(state.critic, its)
    return State(_laid(state.params, where), moments, _laid(state.step, everywhere), own)


def _how(how: Pass, call: Call) -> Pass:
    """With the devices that rows are split over, from which its sizes follow."""
    mesh = call["mesh"]
    return dataclasses.replace(
        how, shards=sharding.row_shards(mesh), platform=sharding.Layout(mesh).platform
    )


# Arguments by name. What isn't here (a key, a seed) lies where it lies.
LAYOUTS: dict[str, Layout | None] = {
    "params": _params,
    "partner_params": _partner,
    "state": _state,
    "average": _trained,
    "total": _stack,
    "teacher": _head,
    "behavior": _head,
    "rollout": _batch,
    "pairs": _batch,
    "prompt": _batch,
    "prompt_mask": _batch,
    "group": _batch,
    "row": _batch,
    "prefix": _batch,
    "how": _how,
}
# What selects a program, and what a call uses up.
STATIC = (
    "mesh", "model", "partner", "share", "optimizer", "critic", "method", "methods", "kind", "how",
    "sampling", "parts", "count", "group_size", "sketch", "squares",
)  # fmt: skip
CONSUMED = ("state", "total", "average")


def program(*results: Layout | None, **layouts: Layout | None):
    """From a function of arrays on a mesh to a compiled program of arrays that lie anywhere.

    Args:
        results: how each result lies; None: as it comes out.
        layouts: of arguments that lie otherwise than LAYOUTS says.
    """
    lays = LAYOUTS | layouts

    def compiled(function: Callable) -> jax.stages.Wrapped:
        signature = inspect.signature(function)

        def place(name: str, value: Any, call: Call) -> Any:
            lay = lays.get(name)
            return value if lay is None or value is None else lay(value, call)

        @functools.wraps(function)
        def laid(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            call = bound.arguments
            given = {name: place(name, value, call) for name, value in call.items()}
            where = sharding.Layout(call["mesh"], call["model"].rules)
            with layout.by(where):  # and what is made on the way
                made = function(**given)
            parts = made if len(results) > 1 else (made,)
            out = tuple(
                part if lay is None else lay(part, call)
                for part, lay in zip(parts, results, strict=True)
            )
            return out if len(results) > 1 else out[0]

        named = signature.parameters
        return jax.jit(
            laid,
            static_argnames=[name for name in STATIC if name in named],
            donate_argnames=[name for name in CONSUMED if name in named],
        )

    return compiled


# -------------------------------------------------------------------------------------- programs


@program(_params)
def init(mesh: Mesh, model: Model | Scalar, seed: Array) -> Params:
    """Fresh parameters, born in their shards."""
    return model.init(jax.random.key(seed))


@program(_params, params=None)
def adapt(mesh: Mesh, model: Decoder, params: Params, key: Array) -> Params:
    """A plain decoder's parameters with an adapter that changes nothing yet."""
    return model.adapted(params, key)


@program(_state, params=None)
def start(
    mesh: Mesh,
    model: Model | Scalar,
    optimizer: Optimizer,
    params: Params,
    critic: Critic | None = None,
) -> State:
    """The state of a run's first step: what is trained in float32 or wider, and its optimizer's.

    The parameters are copied, since updates donate theirs. A critic starts from the student's body
    and says 0.
    """

    def fresh(model: Model | Scalar, params: Params, optimizer: Optimizer) -> State:
        params = steps.mastered(model, jax.tree.map(jnp.copy, params))
        return State(params, optimizer.init(model.trained(params)), jnp.zeros((), jnp.int32))

    state = fresh(model, params, optimizer)
    if critic is None:
        return state
    upon = fresh(critic.model, critic.model.upon(params), critic.optimizer)
    return dataclasses.replace(state, critic=upon)


@program(_batch)
def rollout(
    mesh: Mesh,
    model: Model,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    group: Array,
    row: Array,
    key: Array,
    sampling: Sampling,
    prefix: Array | None = None,
    partner: Model | None = None,
    partner_params: Params | None = None,
    share: float = 1.0,
    group_size: int = 1,
) -> Rollout:
    """`steps.rollout_step`; a partner draws all but `share` of each row's tokens.

    `group_size` rows side by side have one prompt. It is read once where whole groups lie on a
    device; else a device would read prompts that it has no rows of.
    """
    other = None if partner is None else Partner(partner, partner_params, share)
    if (len(prompt) // group_size) % sharding.row_shards(mesh):
        group_size = 1
    return steps.rollout_step(
        model, params, prompt, prompt_mask, group, row, key, sampling, prefix, other, group_size
    )


@program(_batch)
def hidden(mesh: Mesh, model: Model, params: Params, rollout: Rollout) -> Array:
    """`steps.hidden`: what a model's side of the vocabulary on a rollout is kept as."""
    return steps.hidden(model, params, rollout)


def head(mesh: Mesh, model: Model, params: Params, rollout: Rollout) -> Head:
    """A model's side of the vocabulary on a rollout; the matrix is the parameters' own."""
    return steps.head_of(model, params, hidden(mesh, model, params, rollout))


@program(_batch)
def score(
    mesh: Mesh, model: Model, params: Params, rollout: Rollout, teacher: Head | None, how: Pass
) -> TokenStats:
    """`steps.score_step`."""
    return steps.score_step(model, params, rollout, teacher, how)


@program(_batch)
def values(mesh: Mesh, model: Scalar, params: Params, rollout: Rollout) -> Array:
    """`steps.value_step`."""
    return steps.value_step(model, params, rollout)


@program(None)
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
    return steps.drift_step(model, params, rollout, behavior, kind, how)


@program(_state, None)
def update(
    mesh: Mesh,
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
    """`steps.update_step`; the state handed in is consumed."""
    return steps.update_step(
        model, optimizer, state, rollout, teacher, method, seed, how, parts, critic
    )


@program(_trained)
def follow(
    mesh: Mesh, model: Model, params: Params, average: Params | None, decay: Array | float
) -> Params:
    """What is trained of the parameters, averaged into what followed them; a copy without any."""
    part = trees.masters(model.trained(params))
    return jax.tree.map(jnp.copy, part) if average is None else averaged(part, average, decay)


@program(_batch)
def reward_of(mesh: Mesh, model: Scalar, params: Params, rollout: Rollout) -> Array:
    """`preference.reward_step`: scores [B]."""
    return preference.reward_step(model, params, rollout)


@program(_batch)
def preferred(mesh: Mesh, model: Scalar, params: Params, pairs: Pairs) -> Array:
    """`preference.scores`: of chosen and rejected, [B, 2]."""
    return preference.scores(model, params, pairs)


@program(_state, None)
def prefer(
    mesh: Mesh,
    model: Scalar,
    optimizer: Optimizer,
    state: State,
    pairs: Pairs,
    parts: int = 1,
) -> tuple[State, Metrics]:
    """`preference.preference_step`; the state handed in is consumed."""
    return preference.preference_step(model, optimizer, state, pairs, parts)


@program(_stack)
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
    return steps.pull_back(model, params, rollout, teacher, methods, uniforms, how)[0]


@program(
    _stack,
    None,
    None,
    None,
    rollout=_groups,
    teacher=_head_in_groups,
    coefs=_groups,
    uniforms=_groups,
)
def probe(
    mesh: Mesh,
    model: Model,
    params: Params,
    rollout: Rollout,
    teacher: Head | None,
    methods: tuple[Method, ...],
    coefs: tuple[Coefficients, ...],
    uniforms: Array | None,
    total: Params,
    how: Pass,
    group_size: int,
    sketch: int,
) -> tuple[Params, Array, Array, Array]:
    """`steps.probe_step` on a batch [B, ...] of B / G groups; the running sums are consumed."""
    return steps.probe_step(
        model, params, rollout, teacher, methods, coefs, uniforms, total, how, sketch
    )


@program(_stack, params=None)
def no_moments(mesh: Mesh, model: Model, params: Params, count: int) -> Params:
    """Running sums of nothing, leaves [K, ...] in float32 or wider."""

    def zeros(leaf: Array) -> Array:
        return jnp.zeros((count, *leaf.shape), trees.wider(leaf.dtype))

    return jax.tree.map(zeros, model.trained(params))


# ------------------------------------------------------------- of arrays that lie where they are

coefficients_of = jax.jit(estimator.coefficients_of, static_argnames=("methods",))
cotangents = jax.jit(estimator.cotangents, static_argnames=("methods", "how", "squares"))
statistics = jax.jit(vocab.stats, static_argnames=("how", "rules"))


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

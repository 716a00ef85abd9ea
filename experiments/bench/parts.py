"""Where the time of a step goes: its parts, each a program of its own, timed by itself.

Parts share nothing, so their sum may be more or less than the whole, where XLA joins what stands
side by side; `rest` is what is left, the host's work among it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from opd.engine import costs, estimator, metrics, programs, steps
from opd.engine.metrics import Batch
from opd.method import facts
from opd.method.coefficients import weights
from opd.types import Mean

if TYPE_CHECKING:
    from experiments.bench.ours import Training

Part = Callable[[], Any]


def measured(own: Training, repeats: int) -> dict[str, float]:
    """Medians in ms of a step's parts and of the whole `step`, interleaved, and the `rest`."""
    by_kind = {"generate": generating, "probe": probing}
    parts = by_kind.get(own.kind, updating)(own)
    if own.kind == "whole":
        parts = {"generate": own.draw} | parts
    if own.kind == "reuse":
        parts.pop("teacher forward")
    taken = costs.seconds({"step": own.step, **parts}, repeats)
    found = {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}
    return added_up(found)


def added_up(found: Mapping[str, float]) -> dict[str, float]:
    """Medians by part with what follows from them: a backward alone, and the rest of the step."""
    parts = dict(found)
    step = parts.pop("step")
    if "body forward and backward" in parts:
        both = parts.pop("body forward and backward")
        parts["body backward"] = both - parts["body forward"]
    beside = {name: parts.pop(name) for name in BESIDE if name in parts}
    return parts | {"rest": step - sum(parts.values()), "step": step} | beside


BESIDE = ("all gradients of the batch at once",)  # what isn't of the step


def generating(own: Training) -> dict[str, Part]:
    """Prompts and one token; decoding is the rest."""
    sampling = dataclasses.replace(own.sampling, length=1)

    def first() -> Any:
        return programs.rollout(
            own.mesh, own.student, own.current, **own.prompts(),
            key=jax.random.key(own.seed), sampling=sampling,
        )  # fmt: skip

    return {"prompts and one token": first}


def probing(own: Training) -> dict[str, Part]:
    """A probe's programs, and what one pull-back of the whole batch takes beside them."""
    rollout, params = own.rollout, own.params
    head = programs.head(own.mesh, own.teacher, own.teacher_params, rollout)
    uniforms = estimator.fresh_uniforms(own.seed, 0, rollout, own.methods)
    stats = programs.score(own.mesh, own.student, params, rollout, head, own.how)
    return {
        "teacher forward": lambda: own.graded(rollout),
        "statistics": lambda: programs.score(own.mesh, own.student, params, rollout, head, own.how),
        "coefficients": lambda: programs.coefficients_of(own.methods, rollout, stats),
        BESIDE[0]: lambda: programs.gradients(
            own.mesh, own.student, params, rollout, head, own.methods, uniforms, own.how
        ),
    }


def updating(own: Training) -> dict[str, Part]:
    """An update's: forward, vocabulary, backward, optimizer, figures, and their fetching."""
    rollout, method, model = own.rollout, own.method, own.student
    state = own.started()

    def hidden_of(params: Any, rollout: Any) -> jax.Array:
        return steps.head(model, params, rollout).hidden

    @jax.jit
    def both(params: Any, rollout: Any, cotangent: jax.Array) -> Any:
        return jax.vjp(lambda params: hidden_of(params, rollout), params)[1](cotangent)

    @jax.jit
    def figures(rollout: Any, stats: Any, gradient: Any, unchanged: Mean) -> Any:
        known = weights(method, rollout)
        kind = facts.weighs(method)
        return metrics.metrics_of(
            Batch(rollout, stats, kind, method, known, gradient, None, unchanged)
        )

    forward = jax.jit(hidden_of)
    descended = jax.jit(
        lambda state, gradient: steps.ascend(model, own.optimizer, state, gradient),
        donate_argnums=0,
    )
    hidden = forward(state.params, rollout)
    teacher = steps.head_of(own.teacher, own.teacher_params, own.graded(rollout))
    uniforms = estimator.fresh_uniforms(own.seed, 0, rollout, (method,))
    gradient = jax.tree.map(jnp.zeros_like, model.trained(state.params))

    def vocabulary() -> Any:
        head = steps.head_of(model, own.current, hidden)
        return programs.cotangents(head, teacher, rollout, (method,), uniforms, own.how)

    def descend() -> Any:
        own.state, unchanged = descended(own.state, gradient)
        return unchanged

    stats = vocabulary()[1]
    made = figures(rollout, stats, gradient, descend())
    return {
        "teacher forward": lambda: own.graded(rollout),
        "body forward": lambda: forward(own.current, rollout),
        "vocabulary": vocabulary,
        "body forward and backward": lambda: both(own.current, rollout, hidden),
        "optimizer": descend,
        "metrics": lambda: figures(rollout, stats, gradient, Mean(jnp.zeros(()), jnp.ones(()))),
        "fetching metrics": lambda: own.fetched(made),
    }

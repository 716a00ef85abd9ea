"""Training without noise: a row's gradient, enumerated over a tree's rollouts, climbed for long."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import lab
from experiments.claims.lab import STUDENTS, Lab, Shape
from opd.engine import estimator, vocab
from opd.engine.vocab import Head, Pass
from opd.measure import exact
from opd.method import table
from opd.method.table import Method
from opd.types import Coefficients, Rollout

Array = np.ndarray


def climb(row: str, labs: Sequence[Lab], steps: int, rate: float, stale: bool = False) -> Array:
    """The students' parameters [labs, M] after `steps` plain updates of E sum_t h_t.

    Args:
        row: no draws of its own and no look at other rollouts.
        labs: of one shape; each has its own start, teacher and reward.
        steps: how many.
        rate: step size, for a gradient that is a sum over tokens and a mean over rollouts.
        stale: every update uses the start's rollouts; else the student's own of now.
    """
    (shape,) = {each.shape for each in labs}
    batches = [lab.rollout(each.problem) for each in labs]
    each = (
        jnp.stack([jnp.asarray(each.theta) for each in labs]),
        jnp.stack([jnp.asarray(each.problem.logp_teacher) for each in labs]),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches),
        jnp.stack([jnp.asarray(each.problem.prompt_prob) for each in labs]),
    )
    return np.asarray(_climb(shape, table.parse(row), steps, rate, jnp.asarray(stale), *each))


@partial(jax.jit, static_argnums=(0, 1))
def _climb(shape: Shape, method: Method, steps, rate, stale, *each: jax.Array) -> jax.Array:
    def alone(theta: jax.Array, teacher: jax.Array, batch: Rollout, prompt_prob: jax.Array):
        direction = partial(_expected, shape, method, teacher, batch, prompt_prob, stale)
        return jax.lax.fori_loop(0, steps, lambda _, now: now + rate * direction(now), theta)

    return jax.vmap(alone)(*each)


def _expected(
    shape: Shape,
    method: Method,
    logp_teacher: jax.Array,
    batch: Rollout,
    prompt_prob: jax.Array,
    stale: jax.Array,
    theta: jax.Array,
) -> jax.Array:
    """E sum_t h_t [M]: the library's cotangents of all sequences, weighed and pulled back."""
    tree, at = shape.tree, np.maximum(shape.tree.visited, 0)
    logits, back = jax.vjp(partial(STUDENTS[shape.student].logits, shape), theta)
    student, teacher = Head(logits[at]), Head(logp_teacher[at])
    how = Pass(chunk=shape.depth)
    stats = vocab.stats(student, teacher, batch.tokens, how)
    logp = jnp.where(stale, batch.logp_behavior, stats.logp_student)
    batch = dataclasses.replace(batch, logp_behavior=logp)
    made, _ = estimator.cotangents(student, teacher, batch, (method,), None, how)
    prob = prompt_prob[tree.prompt] * jnp.exp(jnp.where(tree.mask, logp, 0.0).sum(1))
    weight = len(tree.tokens) * prob  # the reduction has divided by their number
    field = (
        jnp.zeros_like(logits)
        .at[at]
        .add(jnp.where(tree.mask[..., None], weight[:, None, None] * made.hidden[0], 0.0))
    )
    return back(field)[0]


def push(row: str, logp_teacher: jax.Array, logits: jax.Array, weight: jax.Array) -> jax.Array:
    """dJ/dlogits [S, V] of an enumerated row at states [S] that count `weight` each; traceable."""
    method, sides = table.parse(row), (Head(logits[:, None]), Head(logp_teacher[:, None]))
    alone = Rollout.of(jnp.zeros((len(logits), 1), int))
    coefs = (Coefficients((weight[:, None],), jnp.zeros((len(logits), 1))),)
    made, _ = estimator.cotangents(*sides, alone, (method,), None, Pass(chunk=1), coefs)
    return made.hidden[0, :, 0]


def expected_reward(problem: exact.Problem) -> float:
    """E R."""
    return float(problem.joint @ problem.reward)


def teachers_reward(problem: exact.Problem) -> float:
    """E R of the teacher."""
    given = exact.sequence_prob(problem.tree, problem.logp_teacher)
    return float(problem.prompt_prob[problem.tree.prompt] * given @ problem.reward)


def kl_by_position(problem: exact.Problem) -> Array:
    """E KL(pi || p) at position t of the student's own rollouts, given that it is reached, [T]."""
    kl = exact.divergence(exact.REVERSE, problem.logits, problem.logp_teacher)
    times = np.equal.outer(np.arange(problem.tree.mask.shape[1]), problem.tree.state_time)
    return (times * problem.reach) @ kl / (times @ problem.reach)

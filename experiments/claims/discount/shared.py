"""The library's expected update as a function of the parameters: to be followed and differentiated.

`lab.vectors` has every rollout's vectors at one student, in NumPy. Here the same functions of the
library are traced over all rollouts of a tree, weighed
by their probabilities: the field theta -> E sum_t h_t [M], whose flow is exact training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.lab import STUDENTS, Lab, Shape, lab, rollout
from opd.engine import estimator
from opd.engine.vocab import Head, Pass
from opd.measure import exact
from opd.method import table
from opd.types import Rollout

Array = np.ndarray

MYOPIC, FULL = "opd", "opd@gamma=1"
# A detached -KL as the advantage: at gamma = 1 its mean is the visitation term and nothing else.
VISITATION = "kl_advantage@gamma=1"
# Of exact trainings, unless a claim says otherwise: fewer parameters than states have logits.
TRAINED = (Shape(depth=4, width=2), Shape(student="by_depth"))
# No short way; the first token's logits have no other use.
ENDLESS = Shape(student="by_depth", eos=None)
# At twice the rate some recurrent students overshoot into short rollouts and stay there.
STEPS, RATE = 600, 0.05
# Of programs that are run a few times: half the seconds to compile.
FEW_RUNS = {"xla_backend_optimization_level": 0}


# ----------------------------------------------------------------------------------- the field


@lru_cache
def _batch(shape: Shape) -> Rollout:
    """Every sequence of the tree, of whatever student."""
    tree = shape.tree
    zeros, rewards = np.zeros(tree.child.shape), np.zeros(len(tree.tokens))
    uniform = np.full(zeros.shape, -np.log(shape.vocab))
    with jax.ensure_compile_time_eval():  # it is kept, so it must not be a tracer
        return rollout(exact.problem(tree, zeros, uniform, zeros[..., None], reward=rewards))


def _joint(shape: Shape, logits: jax.Array) -> jax.Array:
    """P(x) pi(y|x) [N], the prompts uniform."""
    tree = shape.tree
    own = jax.nn.log_softmax(logits)[tree.visited, np.where(tree.mask, tree.tokens, 0)]
    return jnp.exp(jnp.where(tree.mask, own, 0.0).sum(-1)) / shape.prompts


@partial(jax.jit, static_argnums=(0, 1))
def expected(
    shape: Shape,
    row: str,
    theta: jax.Array,
    logp_teacher: jax.Array,
    reward: jax.Array,
    old: jax.Array | None = None,
) -> jax.Array:
    """E sum_t h_t of a row at theta [M], on the rollouts of the student at `old`, else of theta."""
    method, tree = table.parse(row), shape.tree
    batch = dataclasses.replace(_batch(shape), reward=reward)
    logits, back = jax.vjp(partial(STUDENTS[shape.student].logits, shape), theta)
    visited = np.maximum(tree.visited, 0)
    student, teacher = Head(logits[visited]), Head(logp_teacher[visited])
    how = Pass(chunk=shape.depth)
    made, _ = estimator.cotangents(student, teacher, batch, (method,), None, how)
    drawn = logits if old is None else STUDENTS[shape.student].logits(shape, old)
    # A row's reduction divides by the batch's rollouts, N of them here; probabilities weigh them.
    prob = len(tree.tokens) * _joint(shape, drawn)
    share = prob[:, None, None] * made.hidden[0] * tree.mask[..., None]
    (slope,) = back(jnp.zeros_like(logits).at[visited].add(share))
    return slope


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train(shape, row, steps, theta, logp_teacher, reward, rate, refresh):
    many = jax.vmap(partial(expected, shape, row))

    def step(state, index):
        theta, old = state
        old = jnp.where(index % refresh == 0, theta, old)
        theta = theta + rate * many(theta, logp_teacher, reward, old)
        return (theta, old), theta

    _, path = jax.lax.scan(step, (theta, theta), jnp.arange(steps))
    return jnp.concatenate([theta[None], path]).swapaxes(0, 1)


def train(
    labs: Sequence[Lab],
    row: str,
    starts: Sequence[Array] | None = None,
    steps: int = STEPS,
    refresh: int = 1,
    rate: float | Array = RATE,
) -> Array:
    """Exact training: plain ascent along a row's expectation, [labs, steps + 1, M] parameters.

    Args:
        labs: of one shape, each with its own teacher and reward.
        row: whose expectation is followed.
        starts: parameters [M] of each, else those of the labs.
        steps: how many.
        refresh: steps between two draws of the rollouts.
        rate: step size, the same for all or each lab's [labs].
    """
    starts = [each.theta for each in labs] if starts is None else starts
    teacher = np.stack([each.problem.logp_teacher for each in labs])
    reward = np.stack([each.problem.reward for each in labs])
    rate = np.broadcast_to(rate, len(labs))[:, None]
    given = labs[0].shape, row, steps, np.stack(starts), teacher, reward, rate, refresh
    return np.asarray(_train(*given))


@partial(jax.jit, static_argnums=(0, 1), compiler_options=FEW_RUNS)
def _along(shape, row, path, logp_teacher, reward):
    return jax.vmap(lambda theta: expected(shape, row, theta, logp_teacher, reward))(path)


def along(start: Lab, row: str, path: Array) -> Array:
    """A row's `expected` at every student of a path, [K, M] -> [K, M]."""
    here = start.problem
    return np.asarray(_along(start.shape, row, path, here.logp_teacher, here.reward))


@lru_cache
def twins(shape: Shape, trees: int) -> tuple[list[Lab], list[Lab]]:
    """Random labs whose teacher the student can match, and as many whose teacher it can't."""
    return tuple([lab(shape, seed, inside=inside) for seed in range(trees)] for inside in (1, 0))


@lru_cache
def runs(shape: Shape, row: str, trees: int) -> tuple[list[tuple[Lab, Array]], ...]:
    """Exact trainings of `twins` by a row: labs with their paths [STEPS + 1, M], of either kind."""
    matched, unmatched = twins(shape, trees)
    labs = matched + unmatched
    done = list(zip(labs, train(labs, row), strict=True))
    return done[:trees], done[trees:]


# -------------------------------------------------------------------------------- what is read


@partial(jax.jit, static_argnums=0)
def _path_logits(shape: Shape, path: jax.Array) -> jax.Array:
    return jax.vmap(partial(STUDENTS[shape.student].logits, shape))(path)


def path_logits(start: Lab, path: Array) -> Array:
    """[K, M] -> [K, S, V], for the oracle."""
    return np.asarray(_path_logits(start.shape, path))


def costs(start: Lab, path: Array) -> Array:
    """V, nats a rollout, of every student of a path [K, M], by the oracle."""
    return exact.objective(start.problem, logits=path_logits(start, path))


def average(start: Lab, path: Array, values: Array) -> Array:
    """E of values [N] of a rollout (its length, its reward) along a path [K, M], by the oracle."""
    tree, prob = start.problem.tree, start.problem.prompt_prob
    return (prob[tree.prompt] * exact.sequence_prob(tree, path_logits(start, path))) @ values


def lengths(start: Lab, path: Array) -> Array:
    """Mean tokens of a rollout along a path [K, M]."""
    return average(start, path, start.problem.tree.length)


def rewarded(start: Lab, reward: Array) -> Lab:
    """The same lab with another reward [N]."""
    return dataclasses.replace(start, problem=dataclasses.replace(start.problem, reward=reward))

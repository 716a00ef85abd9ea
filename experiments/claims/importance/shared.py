"""What the claims about stale rollouts share: an older policy, its weights, errors, ranks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.lab import Lab, Shape
from opd.measure import exact
from opd.measure.exact import Problem
from opd.method import importance

Array = np.ndarray

# What several claims are measured on: with EOS and without, wide and deep.
SHAPES = (Shape(), Shape(vocab=2, depth=4, eos=None))


def older(lab: Lab, seed: int, drift: float) -> Problem:
    """The same family's policy whose parameters differ by `drift` in a random direction."""
    step = np.random.default_rng([seed, 99]).normal(size=lab.theta.size)
    return lab.at(lab.theta + drift * step / np.linalg.norm(step))


_log_ratio = jax.jit(importance.log_ratio, static_argnums=3)


def products(logp: Array, logp_behavior: Array, mask: Array, kind: str) -> Array:
    """The library's log-ratios of [N, T] log-probabilities."""
    return np.asarray(_log_ratio(logp, logp_behavior, mask, kind))


def log_ratio(problem: Problem, behavior: Problem, kind: str, horizon: int | None = None) -> Array:
    """The library's log-ratio of student and behavior on every sequence, [N, T] nats.

    `horizon`: as if rollouts were cut after so many tokens.
    """
    tree = problem.tree
    logp, old = (exact.at_actions(tree, policy.logp) for policy in (problem, behavior))
    mask = tree.mask & (np.arange(tree.mask.shape[1]) < (horizon or tree.mask.shape[1]))
    return products(logp, old, mask, kind)


def weight(log_rho: Array, high: float | None = None) -> Array:
    """The library's weight: rho, or min(rho, high)."""
    rule = "none" if high is None else "truncate"
    return np.asarray(importance.weight(jnp.asarray(log_rho), None, rule, high=high))


def sequence_kl(behavior: Problem, problem: Problem) -> float:
    """KL(behavior || student) of whole rollouts, nats."""
    log_rho = exact.at_actions(problem.tree, problem.logp - behavior.logp).sum(1)
    return float(-behavior.joint @ log_rho)


def on_states(problem: Problem, visits: Problem, loss: exact.Loss = exact.REVERSE) -> Array:
    """sum_s d(s) (-grad D(s)), [M], with another policy's d."""
    slope = -exact.divergence_gradient(loss, problem.logits, problem.logp_teacher)
    return np.einsum("s,sv,svm->m", visits.reach, slope, problem.jacobian)


def mean_square_error(behavior: Problem, h: Array, wanted: Array, rollouts: int) -> float:
    """|bias|^2 + tr Var / n of the mean of n rollouts' sum_t h_t, over |wanted|^2."""
    total = h.sum(1)
    bias = behavior.joint @ total - wanted
    noise = exact.group_variance(behavior, total) / rollouts
    return float(bias @ bias + noise) / float(wanted @ wanted)


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])

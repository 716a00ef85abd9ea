"""A3: at each state the sampled estimator is unbiased, if the token was drawn from pi itself."""

from __future__ import annotations

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import rules
from experiments.claims.algebra.shared import SHAPES, WHERE, per_state, problems
from experiments.claims.claim import (
    CAVEAT,
    HOLDS,
    OPEN,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    spread,
    worst,
)
from experiments.claims.lab import lab, rollout, vectors
from opd import draws
from opd.engine import sampling
from opd.measure import exact
from opd.measure.exact import Problem
from opd.measure.intervals import Interval, t_interval

Array = np.ndarray
PLAIN, RATIO = "opd_sampled", "opd_sampled@importance=token"
TEMPERED = ({"temperature": 0.7}, {"temperature": 1.5})
CUT = ({"top_p": 0.8}, {"top_k": 2})
CLOSE = 0.05  # within which a Monte Carlo estimate of 1 must lie, interval and all


@lru_cache
def law(**options: float):
    """The sampler's cut of logits, compiled once for each options."""
    return jax.jit(partial(sampling.truncated_logits, **options))


def drawn_by(problem: Problem, options: dict[str, float]) -> Problem:
    """The policy that the library's sampler draws from under some options."""
    return dataclasses.replace(problem, logits=np.asarray(law(**options)(problem.logits)))


def errors(problem: Problem, options: dict[str, float]) -> tuple[float, float]:
    """Largest error of E[h|s] over visited states, over the largest |g|: without and with ratio."""
    behavior = drawn_by(problem, options)
    h = vectors(problem, PLAIN, RATIO, batch=rollout(problem, behavior))
    wanted, seen = per_state(problem), behavior.reach > 0

    def error(row: str) -> float:
        gap = np.linalg.norm(exact.partner(behavior, h[row]) - wanted, axis=-1)
        return float(gap[seen].max() / np.linalg.norm(wanted[seen], axis=-1).max())

    return error(PLAIN), error(RATIO)


def drawn(problem: Problem, count: int) -> Array:
    """Sequences [count] of one prompt, drawn by the library's sampler."""
    tree = problem.tree
    uniforms = draws.uniforms(draws.key(0, 0, "action"), jnp.arange(count), tree.mask.shape[1])
    state, leaf = np.zeros(count, int), np.full(count, -1)
    for t in range(tree.mask.shape[1]):
        going = leaf < 0
        token = np.asarray(jax.jit(sampling.draw)(problem.logp[state], uniforms[:, t])[0])
        leaf = np.where(going, tree.leaf[state, token], leaf)
        state = np.where(leaf < 0, tree.child[state, token], state)
    return leaf


def monte_carlo(problem: Problem, count: int) -> Interval:
    """sum_t <h_t, g_t> over E sum_t |g_t|^2 of drawn rollouts: 1 on average where unbiased."""
    g = exact.at_states(problem.tree, per_state(problem))
    along = (vectors(problem, PLAIN)[PLAIN] * g).sum((1, 2))
    return t_interval(along[drawn(problem, count)] / (problem.joint @ (g**2).sum((1, 2))))


def measure(effort: Effort) -> Finding:
    """E[h|s] under each law that the sampler offers, by enumeration; and by drawing from pi."""
    own, tempered, cut, repaired, lost = [], [], [], [], []
    for problem in problems(effort):
        own += errors(problem, {})
        for options in TEMPERED:
            plain, ratio = errors(problem, options)
            tempered.append(plain)
            repaired.append(ratio)
        for options in CUT:
            plain, ratio = errors(problem, options)
            cut.append(plain)
            lost.append(ratio)
    numbers = {
        "own": worst("relative error of E[h|s], drawn from pi", own),
        "drawn": estimated(
            "<mean of h, g> / |g|^2", monte_carlo(lab(SHAPES[0], 0).problem, effort.draws)
        ),
        "tempered": spread("relative error of E[h|s], temperature 0.7 and 1.5", tempered),
        "cut": spread("relative error of E[h|s], top-p 0.8 and top-k 2", cut),
        "ratio": worst("the same with the token's ratio, temperature 0.7 and 1.5", repaired),
        "lost": spread("the same with the token's ratio, top-p 0.8 and top-k 2", lost),
    }
    where = f"{WHERE}; {effort.draws} rollouts drawn"
    return Finding(numbers, "tempered", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Holds under pi, by enumeration and by drawing; a caveat where another law breaks it."""
    found = rules.identity(numbers["own"])
    if found == HOLDS and not rules.near(numbers["drawn"], 1, CLOSE):
        found = OPEN
    repaired = rules.settle(
        numbers["ratio"].high <= rules.EXACT and rules.above(numbers["lost"], rules.CLEAR),
        numbers["ratio"].high > rules.CLEAR,
    )
    if found == HOLDS and rules.different(numbers["tempered"]):
        caveat = "tokens are drawn from pi itself: at temperature 1, with nothing cut"
        return Judgement(CAVEAT, caveat, repaired)
    return Judgement(found, repaired=repaired)


CLAIM = Claim(
    "A3",
    "the sampled estimator is unbiased per state",
    "At every state the sampled token's estimator has the enumerated gradient for its expectation.",
    measure,
    judge,
    repaired="Drawn at another temperature, the token's ratio makes it unbiased at each state "
    "again; where top-p or top-k cut the vocabulary, no ratio does.",
    wrong="A right total with wrong states: expectations are taken state by state. A sampler that "
    "is not what it says: rollouts are also drawn with the library's own, uniforms and all.",
    advice="Draw rollouts at temperature 1 without top-p or top-k, or enumerate; a ratio repairs "
    "a temperature, never a cut.",
)

"""Rollouts too long to enumerate: a student whose logits are a row for each last token.

One table [1 + V, V] for the start and for each last token, shared by all positions, no EOS. What
a reward's gradient needs of the future is a sum over last tokens, so that critics are exact.
Letters: N rollouts, T the longest, V vocabulary, L = 1 + V last tokens; H <= T tokens graded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments.claims.lab import batch_cotangents
from opd.measure import exact
from opd.measure.exact import Problem
from opd.types import Rollout

Array = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Student's and teacher's logits [L, V]; row 0 is the start's, row 1 + v follows token v."""

    logits: Array
    teacher: Array

    logp = property(lambda self: exact.log_softmax(self.logits))
    logp_teacher = property(lambda self: exact.log_softmax(self.teacher))
    probs = property(lambda self: np.exp(self.logp))
    log_ratio = property(lambda self: self.logp_teacher - self.logp)  # w [L, V]


def chain(vocab: int, seed: int, apart: float) -> Chain:
    """A random student, and a teacher whose logits differ by `apart` in standard deviation."""
    rng = np.random.default_rng([seed, vocab])
    logits = rng.normal(size=(1 + vocab, vocab))
    return Chain(logits, logits + apart * rng.normal(size=logits.shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Rollouts of a chain: tokens [N, T] and the rows at which they were drawn."""

    of: Chain
    tokens: Array
    rows: Array


def draw(of: Chain, count: int, length: int, seed: int) -> Drawn:
    """Rollouts of `length` tokens, by inverse CDF."""
    rng, edges = np.random.default_rng(seed), np.cumsum(of.probs, -1)[:, :-1]
    rows, tokens = np.zeros((2, count, length), int)
    for t in range(length):
        rows[:, t] = 0 if t == 0 else 1 + tokens[:, t - 1]
        tokens[:, t] = (rng.random(count)[:, None] >= edges[rows[:, t]]).sum(-1)
    return Drawn(of, tokens, rows)


def enumerated(of: Chain, length: int) -> Problem:
    """The same student and teacher on a tree."""
    vocab = of.logits.shape[1]
    tree = exact.tree(vocab, length, None)
    last = np.array([row[row >= 0][-1] + 1 if row[0] >= 0 else 0 for row in tree.state_tokens])
    jacobian = np.eye(of.logits.size).reshape(*of.logits.shape, -1)[last]
    return exact.problem(tree, of.logits[last], of.logp_teacher[last], jacobian)


@dataclasses.dataclass(frozen=True, eq=False)
class Graded:
    """A terminal reward [N] of rollouts cut at H, and its expectation at each state [N, T]."""

    reward: Array
    value: Array


def summed(drawn: Drawn, length: int) -> Graded:
    """The sum of w over the rollout: minus the sequence's log(pi/p)."""
    of, now = drawn.of, drawn.of.log_ratio[drawn.rows, drawn.tokens]
    ahead = np.zeros((length + 1, len(of.logits)))  # tokens left, last token
    for left in range(1, length + 1):
        ahead[left] = (of.probs * (of.log_ratio + ahead[left - 1, 1:])).sum(-1)
    past = np.cumsum(now, 1) - now
    left = np.maximum(length - np.arange(now.shape[1]), 0)
    return Graded(now[:, :length].sum(1), past + ahead[left, drawn.rows])


def one_token(drawn: Drawn, length: int) -> Graded:
    """1 where the token in the middle is 0: the others have a share in it by leading there only."""
    probs, middle = drawn.of.probs, length // 2
    ahead = np.zeros((middle + 1, len(probs)))
    ahead[0] = probs[:, 0]
    for left in range(1, middle + 1):
        ahead[left] = probs @ ahead[left - 1, 1:]
    times = np.arange(drawn.tokens.shape[1])
    reward = (drawn.tokens[:, middle] == 0).astype(float)
    value = ahead[np.maximum(middle - times, 0), drawn.rows]
    return Graded(reward, np.where(times <= middle, value, reward[:, None]))


def gradients(
    drawn: Drawn, rows: Sequence[str], length: int, graded: Graded, group: int
) -> dict[str, Array]:
    """S of each row on rollouts cut at `length`, [N, L V], by the library; groups of `group`."""
    of, (count, longest) = drawn.of, drawn.tokens.shape
    mask = np.broadcast_to(np.arange(longest) < length, (count, longest))
    batch = Rollout(
        prompt=jnp.zeros((count, 1), jnp.int32),
        prompt_mask=jnp.ones((count, 1), bool),
        tokens=jnp.asarray(drawn.tokens, jnp.int32),
        mask=jnp.asarray(mask),
        logp_behavior=jnp.asarray(np.where(mask, of.logp[drawn.rows, drawn.tokens], 0.0)),
        ended=jnp.zeros(count, bool),
        group=jnp.arange(count, dtype=jnp.int32) // group,
        row=jnp.arange(count),
        reward=jnp.asarray(graded.reward),
        value=jnp.asarray(np.where(mask, graded.value, 0.0)),
    )
    found = batch_cotangents(rows, batch, of.logits[drawn.rows], of.logp_teacher[drawn.rows])
    last = np.eye(len(of.logits))[drawn.rows]  # [N, T, L]
    summed_up = np.swapaxes(last, 1, 2) @ found  # [K, N, L, V]
    return dict(zip(rows, summed_up.reshape(len(rows), count, -1), strict=True))

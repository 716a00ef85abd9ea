"""The library on a tree that is enumerated whole: students, and each row's vectors on all rollouts.

`opd/measure/exact.py` knows the truth. Here the function that trainer and probe call, from both
sides of the vocabulary to cotangents, is handed every sequence of a tree as one batch, with logits
in the place of hidden states, so that the cotangents are dJ/dlogits. The student's Jacobian, from
the oracle's side, makes them gradients [M].

Letters are the oracle's: S states, N sequences, T depth, V vocabulary, M parameters. 64 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from opd.engine import estimator, vocab
from opd.engine.vocab import Head, Pass
from opd.measure import exact
from opd.measure.exact import Estimator, Problem, Tree
from opd.method import local, table
from opd.method.table import Method
from opd.types import Rollout

Array = np.ndarray


# ------------------------------------------------------------------------------------ students


@dataclasses.dataclass(frozen=True)
class Shape:
    """A tree and the student on it. `eos=None`: every rollout has full length."""

    vocab: int = 3
    depth: int = 3
    eos: int | None = 0
    prompts: int = 1
    student: str = "recurrent"
    width: int = 3

    @property
    def tree(self) -> Tree:
        return _tree(self.vocab, self.depth, self.eos, self.prompts)

    @property
    def size(self) -> int:
        """M, how many parameters the student has."""
        return STUDENTS[self.student].size(self)

    def __str__(self) -> str:
        end = "no EOS" if self.eos is None else f"EOS {self.eos}"
        return f"{self.student} student, V {self.vocab}, depth {self.depth}, {end}, M {self.size}"


_tree = lru_cache(exact.tree)


@dataclasses.dataclass(frozen=True)
class Student:
    """A family of policies: how many parameters, and logits [S, V] as a function of them [M]."""

    size: Callable[[Shape], int]
    logits: Callable[[Shape, jax.Array], jax.Array]


def _tabular(shape: Shape, theta: jax.Array) -> jax.Array:
    """A row of logits for each state: nothing is shared."""
    return theta.reshape(-1, shape.vocab)


def _recurrent_parts(shape: Shape) -> list[tuple[int, int]]:
    width, vocab = shape.width, shape.vocab
    return [(shape.prompts, width), (vocab, width), (width, width), (vocab, width)]


def _recurrent(shape: Shape, theta: jax.Array) -> jax.Array:
    """x_0 = P[prompt], x_{t+1} = tanh(A x_t + E[y_t]), logits U x: all states share A, E and U."""
    sizes = [rows * columns for rows, columns in _recurrent_parts(shape)]
    parts = jnp.split(theta, np.cumsum(sizes)[:-1])
    first, embed, again, out = (
        part.reshape(size) for part, size in zip(parts, _recurrent_parts(shape), strict=True)
    )
    tree = shape.tree
    x = first[tree.state_prompt]
    for tokens in tree.state_tokens.T[: shape.depth - 1]:
        after = jnp.tanh(x @ again.T + embed[np.maximum(tokens, 0)])
        x = jnp.where((tokens >= 0)[:, None], after, x)
    return x @ out.T


def _linear(shape: Shape, theta: jax.Array) -> jax.Array:
    """One row of logits for all states of equal depth: shared, and linear in the parameters."""
    return theta.reshape(shape.depth, shape.vocab)[shape.tree.state_time]


def _constant(shape: Shape, theta: jax.Array) -> jax.Array:
    """The same logits at every state."""
    return jnp.broadcast_to(theta, (len(shape.tree.child), shape.vocab))


STUDENTS = {
    "tabular": Student(lambda s: len(s.tree.child) * s.vocab, _tabular),
    "recurrent": Student(lambda s: sum(a * b for a, b in _recurrent_parts(s)), _recurrent),
    "by_depth": Student(lambda s: s.depth * s.vocab, _linear),
    "constant": Student(lambda s: s.vocab, _constant),
}


@partial(jax.jit, static_argnums=0)
def _logits(shape: Shape, theta: jax.Array) -> jax.Array:
    return STUDENTS[shape.student].logits(shape, theta)


@partial(jax.jit, static_argnums=0)
def _jacobian(shape: Shape, theta: jax.Array) -> jax.Array:
    return jax.jacrev(partial(STUDENTS[shape.student].logits, shape))(theta)


def logits(shape: Shape, theta: Array) -> Array:
    """The student's logits [S, V] at parameters [M]."""
    return np.asarray(_logits(shape, jnp.asarray(theta, float)))


def problem(
    shape: Shape,
    theta: Array,
    logp_teacher: Array,
    reward: Array | None = None,
    prompt_prob: Array | None = None,
) -> Problem:
    """The oracle's problem of a student at parameters [M] and a teacher [S, V]."""
    found, slope = logits(shape, theta), np.asarray(_jacobian(shape, jnp.asarray(theta, float)))
    return exact.problem(shape.tree, found, logp_teacher, slope, prompt_prob, reward)


@dataclasses.dataclass(frozen=True, eq=False)
class Lab:
    """A random student, a teacher and a 0/1 reward on a tree."""

    shape: Shape
    theta: Array  # [M]
    teacher: Array  # [M], its parameters where it is of the student's family, else [S, V] logits
    problem: Problem

    def at(self, theta: Array) -> Problem:
        """The same teacher and reward for another student of the family."""
        now = self.problem
        return problem(self.shape, theta, now.logp_teacher, now.reward, now.prompt_prob)


def lab(
    shape: Shape, seed: int, sharp: float = 1.0, apart: float = 1.0, inside: bool = True
) -> Lab:
    """A lab from a seed.

    Args:
        shape: tree and student.
        seed: of everything.
        sharp: standard deviation of the student's parameters.
        apart: standard deviation of what the teacher's parameters differ by.
        inside: the teacher is of the student's family (realizable); else a table of its own.
    """
    rng = np.random.default_rng([seed, shape.vocab, shape.depth])
    theta = sharp * rng.normal(size=shape.size)
    if inside:
        teacher = theta + apart * rng.normal(size=shape.size)
        teacher_logits = logits(shape, teacher)
    else:
        teacher = teacher_logits = logits(shape, theta) + apart * rng.normal(
            size=(len(shape.tree.child), shape.vocab)
        )
    reward = (rng.random(len(shape.tree.tokens)) < 0.4).astype(float)
    logp_teacher = exact.log_softmax(teacher_logits)
    return Lab(shape, theta, teacher, problem(shape, theta, logp_teacher, reward))


# ------------------------------------------------------------------------- the library's vectors

NEVER = -60.0  # the log-probability of what can't be drawn: a number, and it weighs nothing


def rollout(
    problem: Problem,
    behavior: Problem | None = None,
    reference: Array | None = None,
    value: Array | None = None,
) -> Rollout:
    """Every sequence of the tree once, as a batch that `behavior` (None: the student) has drawn.

    Args:
        problem: student, teacher and reward.
        behavior: another policy's problem, of the same tree.
        reference: [S, V] log-probabilities of a reference policy.
        value: [S], a critic's estimates.
    """
    tree = problem.tree
    count, depth = tree.mask.shape
    logp = problem.logp if behavior is None else behavior.logp

    def on_tokens(table: Array | None) -> jax.Array | None:
        return None if table is None else jnp.asarray(exact.at_actions(tree, table))

    return Rollout(
        prompt=jnp.asarray(tree.prompt, jnp.int32)[:, None],
        prompt_mask=jnp.ones((count, 1), bool),
        tokens=jnp.asarray(np.where(tree.mask, tree.tokens, 0), jnp.int32),
        mask=jnp.asarray(tree.mask),
        logp_behavior=on_tokens(np.maximum(logp, NEVER)),
        ended=jnp.asarray(tree.ended),
        group=jnp.asarray(tree.prompt, jnp.int32),
        row=jnp.arange(count),
        reward=jnp.asarray(problem.reward),
        logp_reference=on_tokens(reference),
        value=None if value is None else jnp.asarray(exact.at_states(tree, value)),
    )


def heads(problem: Problem) -> tuple[Head, Head]:
    """Student's and teacher's side of the vocabulary: their logits."""
    at = np.maximum(problem.tree.visited, 0)
    student, teacher = problem.logits[at], np.maximum(problem.logp_teacher, NEVER)[at]
    return Head(jnp.asarray(student)), Head(jnp.asarray(teacher))


def _how(rollout: Rollout) -> Pass:
    return Pass(chunk=rollout.mask.shape[1])


@partial(jax.jit, static_argnums=0)
def _cotangents(
    methods: tuple[Method, ...],
    rollout: Rollout,
    student: Head,
    teacher: Head,
    scale: jax.Array,
    uniforms: jax.Array | None,
) -> jax.Array:
    made, _ = estimator.cotangents(student, teacher, rollout, methods, uniforms, _how(rollout))
    return scale * made.hidden


def cotangents(
    problem: Problem,
    rows: Sequence[str],
    batch: Rollout | None = None,
    uniforms: Array | None = None,
) -> Array:
    """dJ/dlogits [K, N, T, V] of K rows on every sequence, times N where their reduction is `sum`.

    One rollout's own share, as if it were a batch of one: for rows that don't look at others
    (`coupled` has those that do). Rows that draw candidates need `uniforms` [N, T, k].
    """
    batch = rollout(problem) if batch is None else batch
    methods = tuple(map(table.parse, rows))
    count = jnp.asarray(float(len(problem.tree.tokens)))
    drawn = None if uniforms is None else jnp.asarray(uniforms)
    return np.asarray(_cotangents(methods, batch, *heads(problem), count, drawn))


def gradients(problem: Problem, cotangents: Array) -> Array:
    """Gradients [..., N, T, M] of cotangents [..., N, T, V], zero off the mask."""
    jacobian = exact.at_states(problem.tree, problem.jacobian)
    return np.einsum("...ntv,ntvm->...ntm", cotangents, jacobian)


def vectors(problem: Problem, *rows: str, batch: Rollout | None = None) -> dict[str, Array]:
    """h [N, T, M] of rows that draw nothing afresh and look at no other rollout, by name."""
    return dict(zip(rows, gradients(problem, cotangents(problem, rows, batch)), strict=True))


def mean(problem: Problem, h: Array, behavior: Problem | None = None) -> Array:
    """E sum_t h_t [M] over the student's rollouts, or over another policy's."""
    return (problem if behavior is None else behavior).joint @ h.sum(1)


def law(problem: Problem, rule: local.Rule) -> Array:
    """What a rule's fresh tokens are drawn from [S, V]; zeros where nothing is left to draw."""
    if rule.expectation == "resampled":
        soft = rule.divergence == "forward_kl"
        return np.exp(problem.logp_teacher) if soft else problem.probs
    kept = exact.topk_set(problem.logp, problem.logp_teacher, rule.k, rule.topk_from)
    rest = np.where(kept, 0.0, problem.probs)
    mass = rest.sum(-1, keepdims=True)
    return rest / np.where(mass > 0, mass, 1.0)


def fresh(problem: Problem, row: str, batch: Rollout | None = None) -> Estimator:
    """A row that draws candidates: its mean h given the rollout, and what its draws add, [S].

    Every tuple of draws is fed to the library at all positions at once, as uniforms at the middle
    of the tokens' CDF intervals, and weighed by its probability.
    """
    (rule,) = table.parse(row).rules
    vocab_size = problem.logits.shape[1]
    chance = law(problem, rule)
    middle = np.cumsum(chance, -1) - chance / 2
    at = np.maximum(problem.tree.visited, 0)
    total = square = np.zeros((*problem.tree.mask.shape, problem.jacobian.shape[-1]))
    for drawn in np.ndindex((vocab_size,) * rule.draws):
        drawn = list(drawn)
        prob = np.where(problem.tree.mask, chance[at][..., drawn].prod(-1), 0.0)
        # Where nothing is left to draw, no draw weighs anything: any one stands for all.
        none = (chance[at].sum(-1) == 0) & (drawn == [0] * rule.draws)
        prob = np.where(none & problem.tree.mask, 1.0, prob)[..., None]
        found = cotangents(problem, [row], batch, middle[at][..., drawn])[0]
        h = gradients(problem, found)
        total, square = total + prob * h, square + prob * h**2
    extra = (square - total**2).sum(-1)  # [N, T]
    spread = np.zeros(len(chance))
    spread[at[problem.tree.mask]] = extra[problem.tree.mask]
    return Estimator(total, spread)


@partial(jax.jit, static_argnums=0)
def _coupled(methods, batch: Rollout, student: Head, teacher: Head, members: jax.Array):
    how = estimator.asking(_how(batch), methods)
    stats = vocab.stats(student, teacher, batch.tokens, how)

    def one(members: jax.Array):
        own, known = jax.tree.map(lambda leaf: leaf[members], (batch, stats))
        own = dataclasses.replace(own, group=jnp.zeros_like(members))
        return estimator.coefficients_of(methods, own, known)

    return jax.vmap(one)(members)


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Every ordered G-tuple of rollouts of one prompt as a batch of its own: one row's weights."""

    prob: Array  # [K], prompt included
    members: Array  # [K, G], sequences
    onehot: Array  # [K, G, T], the weight of the rollouts' own tokens, the reduction in it


def coupled(
    problem: Problem, *rows: str, size: int = 2, batch: Rollout | None = None
) -> dict[str, Groups]:
    """Rows whose weights hold other rollouts, or the batch's lengths, on every group, by name.

    Of rows that push own tokens only. A group's gradient is sum_i sum_t onehot_it score_it.
    """
    pairs = exact.groups(problem, size)
    batch = rollout(problem) if batch is None else batch
    methods = tuple(map(table.parse, rows))
    assert not any(method.rules for method in methods), rows
    found = _coupled(methods, batch, *heads(problem), jnp.asarray(pairs.members))
    return {
        row: Groups(pairs.prob, pairs.members, np.asarray(coefs.onehot))
        for row, coefs in zip(rows, found, strict=True)
    }


def group_mean(problem: Problem, groups: Groups) -> Array:
    """E of a group's gradient, [M]."""
    weight = np.zeros(problem.tree.mask.shape)
    np.add.at(weight, groups.members, groups.prob[:, None, None] * groups.onehot)
    return np.einsum("nt,ntm->m", weight, exact.at_actions(problem.tree, problem.score))


def group_variance(problem: Problem, groups: Groups) -> float:
    """G tr Cov of a group's gradient: an update's variance times its rollouts."""
    score = exact.at_actions(problem.tree, problem.score)  # [N, T, M]
    square = 0.0
    for prob, members, onehot in zip(
        *(
            np.array_split(x, -(-len(groups.prob) // 4096))
            for x in (groups.prob, groups.members, groups.onehot)
        )
    ):
        vector = np.einsum("kgt,kgtm->km", onehot, score[members])
        square += float(prob @ (vector**2).sum(-1))
    average = group_mean(problem, groups)
    return groups.members.shape[1] * (square - float(average @ average))


def relative(found: Array, wanted: Array) -> float:
    """|found - wanted| / |wanted|, 2-norms; |found| where the latter is 0."""
    size = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / (size if size > 0 else 1.0)


def batch_cotangents(
    rows: Sequence[str], batch: Rollout, logits: Array, logp_teacher: Array
) -> Array:
    """dJ/dlogits [K, B, T, V] of K rows on a batch of drawn rollouts, times B.

    `cotangents` for rollouts that are too long to enumerate; other rollouts are seen.

    Args:
        rows: rows that draw nothing afresh.
        batch: B rollouts.
        logits: [B, T, V], the student's.
        logp_teacher: [B, T, V].
    """
    methods = tuple(map(table.parse, rows))
    sides = (Head(jnp.asarray(x)) for x in (logits, logp_teacher))
    count = jnp.asarray(float(len(logits)))
    return np.asarray(_cotangents(methods, batch, *sides, count, None))

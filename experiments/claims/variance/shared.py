"""What the claims on variance share: the three parts, each from its own definition, and tables.

Letters are the oracle's: S states, N sequences, T depth, V vocabulary, M parameters.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from experiments.claims import trees
from experiments.claims.lab import Shape, cotangents, gradients, law, problem
from opd.measure import exact
from opd.measure.exact import Problem
from opd.method import table

Array = np.ndarray

# Trees that many claims are measured on: with EOS, and longer without one.
MAIN, LONG = Shape(), Shape(vocab=2, depth=4, eos=None)
TABULAR, TABULAR_LONG = (dataclasses.replace(shape, student="tabular") for shape in (MAIN, LONG))
# The smallest that share a parameter: two tokens a rollout, one logit for all states.
SMALLEST = Shape(vocab=2, depth=2, eos=None, student="constant")


@dataclasses.dataclass(frozen=True)
class Parts:
    """tr Var of a rollout's gradient S = sum_t h_t, and the parts that it is said to have."""

    total: float  # tr Var(S)
    across: float  # tr Var(sum_t g_t)
    within: float  # sum_t E |h_t - g_t|^2
    cross: float  # 2 sum_{t<t'} E <h_t - g_t, g_t'>

    @property
    def gap(self) -> float:
        """|across + within + cross - total| / total."""
        return abs(self.across + self.within + self.cross - self.total) / self.total


def parts(here: Problem, h: Array, g: Array) -> Parts:
    """The parts of h [N, T, M] and its partner g [N, T, M]; none is the difference of others."""
    noise, later = h - g, g.sum(1, keepdims=True) - np.cumsum(g, 1)
    return Parts(
        total=exact.group_variance(here, h.sum(1)),
        across=exact.group_variance(here, g.sum(1)),
        within=float(here.joint @ (noise**2).sum((1, 2))),
        cross=2 * float(here.joint @ (noise * later).sum((1, 2))),
    )


def snr(here: Problem, h: Array) -> float:
    """|E S|^2 / tr Var(S) of one rollout, h [N, T, M]."""
    average = here.joint @ h.sum(1)
    return float(average @ average) / exact.group_variance(here, h.sum(1))


def redrawn(here: Problem, row: str) -> tuple[Array, Array]:
    """A row with one fresh token a position: every rollout with every tuple of fresh tokens.

    Probabilities [C, N] and rollouts' gradients [C, N, M]: the C = V^T tuples are handed to the
    library as uniforms, so that nothing is assumed of how draws combine.
    """
    (rule,) = table.parse(row).rules
    assert rule.draws == 1, row
    chance, mask = law(here, rule), here.tree.mask
    at, positions = np.maximum(here.tree.visited, 0), np.arange(mask.shape[1])
    middle = (np.cumsum(chance, -1) - chance / 2)[at]
    tokens = chance.shape[1]
    prob, found = [], []
    for drawn in itertools.product(range(tokens), repeat=len(positions)):
        each = np.where(mask, chance[at][:, positions, drawn], 1 / tokens)
        uniforms = middle[:, positions, drawn][..., None]
        prob.append(here.joint * each.prod(-1))
        found.append(gradients(here, cotangents(here, [row], uniforms=uniforms)[0]).sum(1))
    return np.array(prob), np.array(found)


def spread(prob: Array, vectors: Array) -> float:
    """tr Var of vectors [..., M] with probabilities [...]."""
    prob, vectors = prob.ravel(), vectors.reshape(prob.size, -1)
    return float(prob @ ((vectors - prob @ vectors) ** 2).sum(-1))


def free(shape: Shape) -> int:
    """How many numbers `at` takes: the student's parameters and the teacher's logits."""
    return shape.size + len(shape.tree.child) * shape.vocab


def at(shape: Shape, point: Array) -> Problem:
    """The problem whose student has the first M numbers, and whose teacher has the rest."""
    theta, teacher = np.split(point, [shape.size])
    return problem(shape, theta, exact.log_softmax(teacher.reshape(-1, shape.vocab)))


def read(here: Problem, **vectors: Array) -> str:
    """The tree as a table, and each rollout's numbers along the mean gradient, in Markdown.

    Vectors [N, M], whose mean is the same. In one dimension nothing is left out.
    """
    average = here.joint @ next(iter(vectors.values()))
    along = average / np.linalg.norm(average)
    lines = [
        f"| rollout | probability | {' | '.join(vectors)} |",
        "|---" * (2 + len(vectors)) + "|",
    ]
    for index, (tokens, mask) in enumerate(zip(here.tree.tokens, here.tree.mask, strict=True)):
        name = " ".join(map(str, tokens[mask]))
        row = [here.joint[index], *(x[index] @ along for x in vectors.values())]
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in row) + " |")
    return trees.table(here) + "\n\nAlong the mean gradient:\n\n" + "\n".join(lines)

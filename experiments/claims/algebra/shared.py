"""What the claims of the algebra share: problems to try, and derivatives that know no score."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from experiments.claims.claim import Effort
from experiments.claims.lab import Lab, Shape, lab
from opd.measure import exact
from opd.measure.exact import Problem

Array = np.ndarray

# Rollouts that end early, and two prompts with rollouts of one length.
SHAPES = (Shape(), Shape(vocab=4, depth=2, eos=None, prompts=2, width=2))
STEP = 1e-30  # of a complex step


def where(*shapes: Shape) -> str:
    """What `labs` makes of shapes, in words."""
    named = "; ".join(map(str, shapes))
    return f"{named}; by turns a sharp student, and a teacher outside its family"


WHERE = where(*SHAPES)


def labs(effort: Effort, shapes: tuple[Shape, ...] = SHAPES) -> Iterator[Lab]:
    """Of each shape and seed: every third student is sharp, every second teacher unrealizable."""
    for shape in shapes:
        for seed in effort.seeds:
            # At 3 some students are so sure that what they differ by drowns in rounding.
            sharp = 1.5 if seed % 3 == 2 else 1.0
            yield lab(shape, seed, sharp=sharp, inside=seed % 2 == 0)


def problems(effort: Effort, shapes: tuple[Shape, ...] = SHAPES) -> list[Problem]:
    """The problems of `labs`."""
    return [found.problem for found in labs(effort, shapes)]


def at_point(shape: Shape, point: Array) -> tuple[Array, Array]:
    """A search's point as a student's parameters [M] and a teacher's log-probabilities [S, V]."""
    theta, teacher = np.split(point, [shape.size])
    return theta, exact.log_softmax(teacher.reshape(-1, shape.vocab))


def point_size(shape: Shape) -> int:
    """How many numbers `at_point` asks for."""
    return shape.size + len(shape.tree.child) * shape.vocab


def slope(value: Callable[[Array], Array], logits: Array) -> Array:
    """d value / d logits [S, V] by complex steps, of a function of logits [..., S, V] to [...]."""
    steps = 1j * STEP * np.eye(logits.size).reshape(logits.size, *logits.shape)
    return value(logits + steps).imag.reshape(logits.shape) / STEP


def through(problem: Problem, cotangent: Array) -> Array:
    """The gradient [M] of a cotangent of the logits [S, V]."""
    return np.einsum("sv,svm->m", cotangent, problem.jacobian)


def per_state(problem: Problem, loss: exact.Loss = exact.REVERSE) -> Array:
    """-grad D(s) [S, M]."""
    found = -exact.divergence_gradient(loss, problem.logits, problem.logp_teacher)
    return np.einsum("sv,svm->sm", found, problem.jacobian)


def cosine(found: Array, wanted: Array) -> float:
    """Of the angle between two gradients."""
    return float(found.ravel() @ wanted.ravel() / np.linalg.norm(found) / np.linalg.norm(wanted))


def turned(found: Array, wanted: Array) -> float:
    """The sine of the angle between two gradients: what is left after the best rescaling."""
    unit = wanted / np.linalg.norm(wanted)
    return float(np.linalg.norm(found - (found @ unit) * unit) / np.linalg.norm(found))

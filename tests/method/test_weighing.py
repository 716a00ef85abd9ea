"""Weights of tokens and of rollouts, against their definitions in plain Python."""

import jax
import numpy as np
import pytest

from opd.method import weighing
from opd.types import TokenStats

B, T = 4, 6
LENGTHS = np.array([6, 4, 1, 3])
MASK = np.arange(T) < LENGTHS[:, None]
GROUP = np.array([0, 0, 1, 1])
RNG = np.random.default_rng(0)
STUDENT, TEACHER = (-RNG.exponential(size=(B, T)).astype(np.float32) for _ in range(2))
ENTROPIES = [RNG.uniform(0, 2, size=(B, T)).astype(np.float32) for _ in range(2)]
SHARE = RNG.uniform(size=(B, T)).astype(np.float32)  # of the teacher's head
NUMBERS = {"part": 0.3, "threshold": 0.9, "boost": 0.5, "most": 0.7}
APART = np.abs(TEACHER - STUDENT).astype(np.float64)


def agreement(b, t):
    before, whole = APART[b, :t].sum(), APART[b, : LENGTHS[b] - 1].sum()
    return 1.5 - 0.5 * (before / whole if whole else 0)


def among_the_largest(b, t):
    """Of 14 graded tokens the 5 with the largest entropies are 30 %, rounded up."""
    return ENTROPIES[0][b, t] >= np.sort(ENTROPIES[0][MASK])[-5]


WANTED = {
    "prefix": lambda b, t: t < 2,  # 0.3 of 6 is 1.8
    "entropy_teacher": lambda b, t: ENTROPIES[1][b, t] > 0.9,
    "entropy_student": among_the_largest,
    "agreement": agreement,
    "head": lambda b, t: SHARE[b, t],
    "tail": lambda b, t: 1 - SHARE[b, t],
    "bounded_ratio": lambda b, t: min(1, 0.7 / APART[b, t]),
}
STATISTICS = jax.jit(weighing.of_statistics, static_argnames=("kind", *NUMBERS))
POSITIONS = jax.jit(weighing.of_positions, static_argnames=("kind", *NUMBERS))
OUTCOME = jax.jit(weighing.of_outcome, static_argnums=(2, 3))


def weight(kind, junk=0.0):
    """The weight of each graded token; whatever stands off the mask."""
    student, teacher, share, *entropies = (
        np.where(MASK, x, np.float32(junk)) for x in (STUDENT, TEACHER, SHARE, *ENTROPIES)
    )
    asked = {"head_share": share}
    stats = TokenStats(student, entropies[0], teacher, entropies[1], asked=asked)
    found = POSITIONS(MASK, kind, **NUMBERS) * STATISTICS(stats, MASK, kind, **NUMBERS)
    return np.broadcast_to(found, (B, T))[MASK]


def test_every_kind_is_here():
    here = "tests/method/test_weighing.py"
    assert set(WANTED) == set(weighing.WEIGHINGS), f"add its formula to WANTED in {here}"
    assert set(OPENED) == set(weighing.GATES), f"say in OPENED in {here} whom it lets through"
    asked = [name for known in weighing.WEIGHINGS.values() for name in known.usual]
    assert set(asked) == set(weighing.NUMBERS)


@pytest.mark.parametrize("kind", WANTED)
@pytest.mark.parametrize("junk", [0.0, 50.0, np.nan])
def test_weights_are_their_definitions(kind, junk):
    wanted = [WANTED[kind](b, t) for b, t in np.argwhere(MASK)]
    np.testing.assert_allclose(weight(kind, junk), np.float64(wanted), rtol=1e-5)
    assert len(set(wanted)) > 1


def test_no_weight_is_one():
    assert weight("none").tolist() == [1.0] * MASK.sum()


# Of groups with rewards 1 and 0.4, 0 and 0.2, of which 0.5 passes: the weight of each.
OPENED = {
    "right": [1, 0, 0, 0],
    "wrong": [0, 1, 1, 1],
    "failed": [0, 0, 1, 1],
    "mixed": [1, 1, 0, 0],
    "failure_rate": [0.5, 0.5, 1, 1],
}


@pytest.mark.parametrize("kind", OPENED)
def test_gates_open_by_outcome(kind):
    reward = np.float32([1, 0.4, 0, 0.2])
    assert OUTCOME(reward, GROUP, kind, 0.5).ravel().tolist() == OPENED[kind]
    assert not np.any(OUTCOME(reward, GROUP, "mixed", 1.5))
    assert np.all(np.asarray(OUTCOME(reward, GROUP, "right", 0.0)) == 1)

"""The library on an enumerated tree: its vectors are the oracle's, rollout by rollout."""

import jax
import numpy as np
import pytest

from experiments.claims import lab as labs
from experiments.claims.lab import Shape, lab
from opd.measure import exact

SHAPES = (Shape(), Shape(vocab=4, prompts=2), Shape(student="by_depth"), Shape(student="tabular"))
ORACLE = {
    "opd": exact.enumerated,
    "opd_sampled": exact.sampled,
    "opd_baseline": lambda p: exact.sampled(p, baseline=True),
    "opd_sampled@gamma=0.6": lambda p: exact.sampled(p, gamma=0.6),
    "opd_topk@k=2,tail=bucket": lambda p: exact.topk(p, 2, "bucket"),
    "soft_label": lambda p: exact.enumerated(p, ("forward_kl",)),
    "reinforce": exact.reinforce,
}
FRESH = {
    "opd_resampled@k=2": lambda p: exact.resampled(p, 2),
    "opd_topk@k=2": lambda p: exact.topk(p, 2),
    "soft_label@expectation=sampled": exact.teacher_sampled,
}
COUPLED = {"rloo": ("leave_one_out", None, 0), "grpo": ("mean", 0, 1e-4)}
TIGHT = {"rtol": 1e-10, "atol": 1e-13}


@pytest.fixture(scope="module")
def problems():
    with jax.enable_x64(True):
        return [lab(shape, seed).problem for seed, shape in enumerate(SHAPES)]


def test_vectors_are_the_oracles(problems, x64):
    for problem in problems:
        for row, h in labs.vectors(problem, *ORACLE).items():
            np.testing.assert_allclose(h, ORACLE[row](problem).h, **TIGHT, err_msg=row)


@pytest.mark.parametrize("row", FRESH)
def test_fresh_draws_have_the_oracles_mean_and_spread(row, problems, x64):
    for problem in problems[:3]:
        found, wanted = labs.fresh(problem, row), FRESH[row](problem)
        np.testing.assert_allclose(found.h, wanted.h, **TIGHT)
        np.testing.assert_allclose(found.fresh, wanted.fresh, **TIGHT)


def test_groups_have_the_oracles_mean_and_variance(problems, x64):
    for problem in problems:
        found = labs.coupled(problem, *COUPLED)
        for row, groups in found.items():
            pairs = exact.groups(problem, 2, *COUPLED[row])
            score = exact.at_actions(problem.tree, problem.score)
            wanted = exact.decompose_groups(problem, score, pairs)
            np.testing.assert_allclose(labs.group_mean(problem, groups), wanted.mean, **TIGHT)
            assert labs.group_variance(problem, groups) == pytest.approx(wanted.total, rel=1e-10)


def test_another_policys_rollouts_carry_its_log_probabilities(problems, x64):
    problem, other = problems[0], lab(SHAPES[0], 7).problem
    batch = labs.rollout(problem, behavior=other)
    weighed = labs.vectors(problem, "opd_sampled@importance=token", batch=batch)
    plain = labs.vectors(problem, "opd_sampled")["opd_sampled"]
    ratio = np.exp(exact.at_actions(problem.tree, problem.logp - other.logp))[..., None]
    np.testing.assert_allclose(*weighed.values(), ratio * plain, **TIGHT)


def test_students_share_what_they_say_they_share(x64):
    """A shared student's parameter moves states of several prefixes, a tabular one's only one."""
    for shape in SHAPES:
        here = lab(shape, 3).problem
        moved = (np.abs(here.jacobian).sum(1) > 0).sum(0)  # [M], states
        assert moved.min() == 1 if shape.student == "tabular" else moved.max() > 1
        assert here.jacobian.shape[-1] == shape.size


def test_a_teacher_outside_the_family_is_out_of_reach(x64):
    """Logits linear in the parameters: a realizable teacher's are in the Jacobian's range."""
    for inside in (True, False):
        here = lab(Shape(student="by_depth"), 0, inside=inside)
        gap = (here.problem.logp_teacher - here.problem.logp).ravel()
        span = np.concatenate(
            [here.problem.jacobian.reshape(gap.size, -1), np.repeat(np.eye(7), 3, 0)], 1
        )  # and a constant for each state
        left = gap - span @ np.linalg.lstsq(span, gap, rcond=None)[0]
        assert (np.linalg.norm(left) < 1e-9) == inside

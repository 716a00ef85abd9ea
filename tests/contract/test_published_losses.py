"""Each row's logit cotangent is minus autodiff of its published loss (opd/measure/losses.py)."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.claims.published import cotangents
from opd.measure import losses
from opd.measure.losses import ENDED, LOSSES, UNPUBLISHED, T, group_normalised
from opd.method import facts, table

SEEDS = (0, 1, 2)
METHODS = {name: table.parse(name) for name in LOSSES}
# Every value of an axis of words, but of those that say whose rollouts they are: no loss has that.
VALUES = [
    (axis.name, value)
    for axis in table.AXES.values()
    if axis.of == "term"
    for value in axis.choices
]


@pytest.fixture(scope="module", params=SEEDS)
def found(request):
    """Every row's cotangent of one seed, all in one program."""
    with jax.enable_x64(True):
        case = losses.draw(request.param)
        return case, dict(zip(LOSSES, cotangents(case, LOSSES), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_cotangent_is_minus_the_loss_gradient(name, found):
    case, cotangents = found
    with jax.enable_x64(True):
        (gradient,) = losses.gradients(case, [name])
    np.testing.assert_allclose(cotangents[name], -gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("gspo", "grpo@reduction=sequence_mean"),
        ("dr_grpo", "grpo@normaliser=none,reduction=constant"),
    ],
)
def test_on_fresh_rollouts_a_clip_is_the_plain_policy_gradient(name, plain):
    """Ratios of 1 lie within every bound, under advantages of either sign."""
    with jax.enable_x64(True):
        case = losses.draw(0)
        fresh = dataclasses.replace(case, behavior=case.logp)
        clipped, wanted = losses.gradients(fresh, [name, plain])
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(clipped, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", table.ROWS)
def test_every_row_has_its_published_loss(row):
    there = row in {method.row for method in METHODS.values()}
    assert there != (row in UNPUBLISHED), (
        f"opd/measure/losses.py: LOSSES needs a line '{row}': the loss of "
        f"{table.ROWS[row].paper}; or UNPUBLISHED one that says why there is none"
    )


@pytest.mark.parametrize(("axis", "value"), VALUES)
def test_every_choice_of_an_axis_has_a_published_loss(axis, value):
    used = {getattr(term, axis) for method in METHODS.values() for term in method.terms}
    assert value in used, (
        f"opd/measure/losses.py: LOSSES needs a line 'ROW@{axis}={value}': a published loss that "
        "has it"
    )


def test_every_gate_is_passed_and_shut():
    """Ratios beyond both bounds under advantages of both signs, in the seeds together."""
    assert set(ENDED) == {False, True}  # rollouts that were cut, and some that weren't
    seen = set()
    for seed in SEEDS:
        case = losses.draw(seed)
        rho = np.exp(case.logp - case.behavior)
        sign = np.sign(group_normalised())[:, None] * np.ones(T)
        side = np.where(rho > 1.28, 1, np.where(rho < 0.8, -1, 0))
        kept = case.mask & ENDED[:, None]
        seen |= set(zip(sign[kept].tolist(), side[kept].tolist()))
    assert seen == {(sign, side) for sign in (-1, 1) for side in (-1, 0, 1)}


def test_one_pass_is_two_passes(found):
    """Pointwise rows may be weighed chunk by chunk."""
    case, two = found
    names = [name for name in LOSSES if facts.pointwise(METHODS[name])]
    assert 10 < len(names) < len(LOSSES)
    with jax.enable_x64(True):
        one = cotangents(case, names, one_pass=True)
    np.testing.assert_allclose(one, np.stack([two[name] for name in names]), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("mean", "wanted"),
    [
        (losses.over_rollouts, 9 / 4),
        (losses.over_constant, 9 / 20),
        (losses.over_tokens, 1.0),
        (losses.over_tokens_of_ended, 1.0),
    ],
)
def test_a_mean_of_ones_counts_what_is_graded(mean, wanted):
    """Of 4 rollouts of at most 5 tokens, 9 of which are graded; what isn't counts for nothing."""
    mask = np.arange(5) < np.array([2, 3, 1, 3])[:, None]
    ones = np.where(mask, 1.0, 77.0)
    assert float(mean(ones, mask)) == pytest.approx(wanted)

"""Each row's logit cotangent is minus autodiff of its published loss."""

import jax
import numpy as np
import pytest

from experiments.claims.published import (
    ENDED,
    LOSSES,
    Case,
    T,
    group_normalised,
    library_cotangents,
    loss_cotangents,
    own,
)
from opd.method import facts, local, table


@pytest.fixture(scope="module", params=[0, 1, 2])
def found(request):
    """Every row's cotangent of one seed, all in one program."""
    with jax.enable_x64(True):
        case = Case(request.param)
        cotangents = library_cotangents(case, LOSSES)
        return case, dict(zip(LOSSES, np.asarray(cotangents), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_cotangent_is_minus_the_loss_gradient(name, found):
    case, cotangents = found
    with jax.enable_x64(True):
        (expected,) = loss_cotangents(case, [name])
    np.testing.assert_allclose(cotangents[name], expected, rtol=1e-9, atol=1e-12)


def test_every_row_and_every_choice_is_here():
    """A new row, divergence or tail must bring its published loss."""
    methods = [table.parse(name) for name in LOSSES]
    terms = [term for method in methods for term in method.terms]
    assert {method.row for method in methods} == set(table.ROWS)
    assert {term.divergence for term in terms} - {None} == {"forward_kl", *local.DIVERGENCES}
    assert {term.tail for term in terms} - {None} == set(local.TAILS)
    assert {term.topk_from for term in terms} - {None} == set(local.TOPK_FROM)
    for axis in ("ratio_rule", "penalty", "returns", "cut", "reduction", "signal"):
        assert {getattr(term, axis) for term in terms} - {None} == set(table.AXES[axis].choices), (
            axis
        )


def test_every_gate_is_passed_and_shut():
    """Ratios beyond both bounds under advantages of both signs, in the three seeds together."""
    found = set()
    for seed in (0, 1, 2):
        case = Case(seed)
        rho = np.exp(own(np.log(case.pi), case.tokens) - case.old)
        sign = np.sign(group_normalised())[:, None] * np.ones(T)
        side = np.where(rho > 1.28, 1, np.where(rho < 0.8, -1, 0))
        kept = case.mask & ENDED[:, None]
        found |= set(zip(sign[kept].tolist(), side[kept].tolist()))
    assert found == {(sign, side) for sign in (-1, 1) for side in (-1, 0, 1)}


def test_one_pass_is_two_passes(found):
    """Pointwise rows may be weighed chunk by chunk."""
    case, cotangents = found
    names = [name for name in LOSSES if facts.pointwise(table.parse(name))]
    assert 10 < len(names) < len(LOSSES)
    with jax.enable_x64(True):
        one = library_cotangents(case, names, one_pass=True)
    np.testing.assert_allclose(one, np.stack([cotangents[n] for n in names]), rtol=0, atol=1e-14)

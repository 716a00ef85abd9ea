"""A sample of gradients at hand: the oracle's parts are in the intervals, formulas by NumPy."""

import dataclasses

import numpy as np
import pytest

from opd.measure import exact, intervals
from opd.measure.decompose import Decomposition, decompose

N, G = 400, 2
PARTS = ("total", "across", "within", "cross")


@pytest.fixture(scope="module")
def drawn():
    """A tree's truth, and N groups of G rollouts drawn from it: (problem, members [N, G])."""
    rng = np.random.default_rng(3)
    tree = exact.tree(vocab=3, depth=3, eos=0, prompts=2)
    shape, width = tree.child.shape, 4
    jacobian = rng.normal(size=(*shape, width))  # shared by all states, so that cross is not 0
    teacher = exact.log_softmax(rng.normal(size=shape))
    problem = exact.problem(tree, rng.normal(size=shape), teacher, jacobian)
    prompts = rng.choice(2, size=N, p=problem.prompt_prob)
    each = [np.where(tree.prompt == x, problem.given, 0) for x in (0, 1)]
    members = [rng.choice(len(problem.given), size=G, p=each[x]) for x in prompts]
    return problem, np.array(members)


@pytest.fixture(scope="module")
def sample(drawn):
    """Sampled and enumerated gradients of the rollouts, [N, G, M]."""
    problem, members = drawn
    rows = exact.sampled(problem), exact.enumerated(problem)
    return [row.h.sum(1)[members] for row in rows]


def test_the_oracles_parts_are_in_the_intervals(drawn, sample):
    """total, across, within, cross and SNR of groups that share a prompt."""
    problem, _ = drawn
    own, partner = sample
    found = decompose(own, partner=partner, reference=partner)
    wanted = exact.decompose(problem, exact.sampled(problem).h, group_size=G)
    for part in PARTS:
        figure = getattr(found, part)
        assert figure.low < getattr(wanted, part) < figure.high, part
        assert figure.high - figure.low < wanted.total, part
    size = wanted.mean @ wanted.mean
    assert found.snr.low < size / wanted.total < found.snr.high
    assert found.mean_square.low < size < found.mean_square.high
    assert abs(wanted.cross) > 0.05 * wanted.total
    assert found.relative_error.low < 0 < found.relative_error.high


def test_figures_are_their_formulas(sample):
    """From all vectors at once, with no Gram matrix and no sketch."""
    own, partner = sample
    found = decompose(own, partner=partner)
    y, p = own.mean(1), partner.mean(1)

    def trace(a, b):
        return G * np.sum((a - a.mean(0)) * (b - b.mean(0))) / (N - 1)

    wanted = {
        "total": trace(y, y),
        "across": trace(p, p),
        "within": trace(y - p, y - p),
        "cross": 2 * trace(y - p, p),
    }
    for part, value in wanted.items():
        np.testing.assert_allclose(getattr(found, part).value, value, rtol=1e-9, err_msg=part)
    pairs = np.sum(y.sum(0) ** 2) - np.sum(y**2)
    np.testing.assert_allclose(found.mean_square.value, pairs / (N * (N - 1)), rtol=1e-9)
    np.testing.assert_allclose(found.snr.value, found.mean_square.value / wanted["total"])
    assert found.relative_error is None and found.cosine is None


def test_groups_may_be_handed_in_as_their_means(sample):
    own, partner = sample
    whole = decompose(own, partner, own)
    means = decompose(own.mean(1), partner.mean(1), own.mean(1), group_size=G)
    for a, b in zip(dataclasses.astuple(whole), dataclasses.astuple(means), strict=True):
        assert a == b
    alone = decompose(own.mean(1))
    np.testing.assert_allclose(whole.total.value, G * alone.total.value, rtol=1e-12)


def test_a_bias_is_seen_against_a_known_mean(drawn, sample):
    """The truth itself for a reference, [M]: halving the gradient is an error of one half."""
    problem, _ = drawn
    truth = exact.target_gradient(problem, "myopic")
    own, _ = sample
    right, half = decompose(own, reference=truth), decompose(own / 2, reference=truth)
    assert right.relative_error.low < 0 < right.relative_error.high
    assert half.relative_error.low > 0.2
    assert half.relative_error.low < 0.5 < half.relative_error.high
    assert half.cosine.high > 0.98


def test_intervals_are_those_of_the_moments(sample):
    """The estimates and intervals that a probe gives, where its sketch loses nothing."""
    own, partner = (x.mean(1) for x in sample)
    both = np.stack([own, partner], 1)
    sums = both.sum(0)
    moments = intervals.Moments(both @ both.swapaxes(1, 2), sums @ sums.T, both, G)
    (wanted,) = intervals.estimate(moments, [intervals.RowSpec(0, 1, 1)])
    found = decompose(own, partner, partner, group_size=G)
    for name in ("trusted", "trusted_from", "effective_groups", "heavy_tail"):
        assert getattr(found, name) == wanted[name]
    assert {field.name for field in dataclasses.fields(Decomposition)} == wanted.keys()
    for name in (*PARTS, "snr", "relative_error", "cosine"):
        a, b = dataclasses.astuple(getattr(found, name)), dataclasses.astuple(wanted[name])
        np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)


def test_who_knows_that_weights_add_nothing_up_is_trusted_earlier():
    own = np.random.default_rng(0).normal(size=(128, 3))
    assert decompose(own, sums=False).trusted and decompose(own, sums=False).trusted_from == 128
    assert not decompose(own).trusted and decompose(own).trusted_from == 512


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gradients": np.ones(5)}, r"shape \(5,\): \[N, M\] or \[N, G, M\]"),
        ({"gradients": np.ones((2, 4))}, "N >= 3 groups"),
        ({"gradients": np.ones((5, 4)), "group_size": 0}, "group_size is 0"),
        ({"gradients": np.ones((5, 2, 4)), "group_size": 2}, "group_size is 2"),
        ({"gradients": np.ones((5, 4)), "partner": np.ones(4)}, r"partner has shape \(4,\)"),
        (
            {"gradients": np.ones((5, 4)), "reference": np.ones((5, 3))},
            r"reference has shape \(5, 3\): \(5, 4\) or \[M\]",
        ),
        ({"gradients": np.full((5, 4), np.nan)}, "not finite"),
    ],
)
def test_a_mistake_is_one_line(arguments, said):
    with pytest.raises(ValueError, match=said) as error:
        decompose(**arguments)
    assert len(str(error.value).splitlines()) == 1

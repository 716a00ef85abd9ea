"""What a probe writes of its rows: goals, axes, twins and pairs, from moments that are made up."""

import itertools
import json

import numpy as np
import pytest

from opd.disk import dumps
from opd.measure import intervals
from opd.measure.intervals import Moments
from opd.method import facts, table
from opd.run.probe import branches, probe
from opd.run.probe.price import Price

# With the partners and references that a comparison adds.
NAMES = (
    "opd",
    "opd_sampled",
    "opd_topk@k=4,tail=drop",
    "opd@gamma=1",
    "opd_sampled@gamma=1",
    "skew@argument=0.1",
    "skew@argument=0.9",
    "skew@argument=0.9,expectation=sampled",
    "reinforce",
    "rloo",
    "grpo",
    "rl_with_teacher",
    "rl_with_reference",
)


def measured(seed=0, groups=64, size=9):
    methods = tuple(map(table.parse, NAMES))
    rng = np.random.default_rng(seed)
    scale = np.linspace(1, 2, len(methods))[:, None]
    values = 2 + scale * rng.normal(size=(groups, len(methods), size))
    sums = values.sum(0)
    moments = Moments(values @ values.swapaxes(1, 2), sums @ sums.T, values, 4)
    squares = rng.exponential(size=(groups, len(methods)))
    return probe.Measured(moments, methods, (), (), branches.plan(methods, 0), squares)


def prices(seed=1):
    rng = np.random.default_rng(seed)
    return {name: Price(tuple(rng.uniform(1, 2, 5)), 10.0, 20) for name in NAMES}


@pytest.fixture(scope="module")
def written():
    """Entries and choices as results.json has them."""
    found, costs = measured(), prices()
    rows = json.loads(dumps(probe.entries(found, costs, "late")))
    pairs = json.loads(dumps(probe.choices(found, costs, 48, "late")))
    return {row["name"]: row for row in rows}, pairs


def test_an_entry_carries_its_goal_and_every_axis_of_every_term(written):
    rows, _ = written
    for name in NAMES:
        method = table.parse(name)
        assert rows[name]["goal"] == json.loads(dumps(facts.goal(method)))
        assert rows[name]["axes"] == json.loads(dumps(facts.axes(method)))
        held = {*rows[name]["axes"]["origin"], *rows[name]["axes"]["terms"][-1]}
        assert held >= set(table.AXES)
    axes = [rows[name]["axes"] for name in ("rl_with_teacher", "rl_with_reference", "rloo")]
    assert len({json.dumps(each) for each in axes}) == 3


def test_pairs_are_the_unbiased_rows_of_one_goal(written):
    rows, choices = written
    found = {tuple(pair["rows"]): choice["goal"] for choice in choices for pair in choice["pairs"]}
    unbiased = [name for name in NAMES if facts.bias(table.parse(name)) is None]
    wanted = {
        (a, b): rows[a]["goal"]
        for a, b in itertools.combinations(unbiased, 2)
        if rows[a]["goal"] == rows[b]["goal"]
    }
    assert found == wanted
    assert set(found) == {
        ("opd", "opd_sampled"),
        ("opd@gamma=1", "opd_sampled@gamma=1"),
        ("skew@argument=0.9", "skew@argument=0.9,expectation=sampled"),
        ("reinforce", "rloo"),
    }
    for choice in choices:
        assert choice["probe"] == "late" and choice["level"] == intervals.LEVEL
        assert choice["count"] == len(choice["pairs"]) == 1 and choice["untrusted"] == []


def test_a_pair_has_the_totals_and_the_repeats_of_both(written):
    rows, choices = written
    costs = prices()
    for pair in (pair for choice in choices for pair in choice["pairs"]):
        first, second = pair["rows"]
        totals = rows[second]["variance"]["total"], rows[first]["variance"]["total"]
        ratio = totals[0]["value"] / totals[1]["value"]
        assert pair["snr_ratio"]["value"] == pytest.approx(ratio)
        times = np.log(costs[second].repeats) - np.log(costs[first].repeats)
        assert pair["snr_per_second_ratio"]["value"] == pytest.approx(ratio * np.exp(times.mean()))


def test_a_pair_says_what_each_batch_makes_of_it_the_config_s_own_among_them(written):
    rows, choices = written
    for choice in choices:
        assert choice["batch"] == 48 and 48 in choice["batches"]
        assert choice["batches"] == sorted(choice["batches"])
        for pair in choice["pairs"]:
            values = [figure["value"] for figure in pair["rollouts_ratio"]]
            assert len(values) == len(choice["batches"])
            far = abs(np.log(values))  # from no difference, which large batches come to
            assert np.all(np.diff(far) <= 1e-12) and far[0] <= abs(
                np.log(pair["snr_ratio"]["value"])
            )


def test_rows_of_fewer_than_64_groups_are_named_and_of_more_none_whatever_the_tail():
    few = probe.choices(measured(groups=63), prices(), 48)
    assert all(choice["untrusted"] == sum_of_rows(choice) for choice in few)
    found = measured()
    sketch = found.moments.sketch.copy()
    sketch[:2, NAMES.index("opd_sampled")] *= 50
    sums = sketch.sum(0)
    moments = Moments(sketch @ sketch.swapaxes(1, 2), sums @ sums.T, sketch, 4)
    heavy = probe.Measured(moments, found.methods, (), (), found.plan, found.squares)
    assert probe.choices(heavy, prices(), 48)[0]["untrusted"] == []
    tails = {row["name"]: row["heavy_tail"] for row in probe.entries(heavy)}
    assert tails == dict.fromkeys(tails, False) | {"opd_sampled": True}


def sum_of_rows(choice):
    return list(dict.fromkeys(name for pair in choice["pairs"] for name in pair["rows"]))


@pytest.mark.parametrize(
    "name, groups",
    [
        ("opd", 128),
        ("opd_sampled", 128),
        ("soft_label", 128),
        ("reinforce", 128),  # a terminal reward adds nothing up
        ("grpo", 128),
        ("grpo@importance=token", 128),
        ("gspo", 128),  # the geometric mean of ratios is no product
        ("opd@gamma=1", 512),
        ("opd_sampled@gamma=0.5", 512),
        ("opd@importance=prefix", 512),
        ("reinforce@importance=trajectory", 512),
        ("rl_with_teacher", 128),  # the teacher's grades have no future
        ("rl_with_teacher@gamma=1", 512),
    ],
)
def test_rows_whose_weights_add_up_or_multiply_are_trusted_later(name, groups):
    method = table.parse(name)
    assert probe._sums(method) == (groups == 512)
    row = probe.entries(alone(method))[0]
    assert row["trusted_from"] == groups and row["trusted"] is False


def alone(method):
    """A probe of one row and what it is compared with, of 64 groups."""
    others = (facts.partner(method), facts.reference(method))
    methods = tuple({m.name: m for m in (method, *others) if m is not None}.values())
    found = measured()
    columns = slice(0, len(methods))
    moments = Moments(
        found.moments.gram[:, columns, columns],
        found.moments.total_gram[columns, columns],
        found.moments.sketch[:, columns],
        4,
    )
    squares = found.squares[:, columns]
    return probe.Measured(moments, methods, (), (), branches.plan(methods, 0), squares)


def test_twins_are_rows_of_another_goal_that_differ_in_one_axis(written):
    rows, _ = written
    twins = {
        (name, other): twin["axis"] for name in NAMES for other, twin in rows[name]["twins"].items()
    }
    assert twins == {
        ("opd@gamma=1", "opd"): "gamma",
        ("opd_sampled@gamma=1", "opd_sampled"): "gamma",
        ("opd_sampled@gamma=1", "reinforce"): "signal",
    }
    twin = rows["opd@gamma=1"]["twins"]["opd"]
    totals = (rows[name]["variance"]["total"]["value"] for name in ("opd@gamma=1", "opd"))
    assert twin["total_ratio"]["value"] == pytest.approx(next(totals) / next(totals))
    figures = (rows[name]["snr"]["value"] for name in ("opd@gamma=1", "opd"))
    assert twin["snr_ratio"]["value"] == pytest.approx(next(figures) / next(figures))
    assert -1.5 < twin["cosine"]["value"] < 1.5


def test_rows_without_prices_have_no_costs():
    rows = probe.entries(measured(), name="training")
    assert not {"seconds", "snr_per_second", "flops"} & rows[0].keys()

"""Two methods share a goal if and only if they are unbiased for the same thing.

Over the table with every override of one axis, to each of its choices and a few numbers. What is
the same thing is decided by the oracle: the gradients' expectations, on a tree enumerated whole.
"""

import itertools

import jax
import numpy as np
import oracle
import pytest

from opd.method import facts, table
from opd.method.axes import AXES

RTOL = 1e-9
NUMBERS = {
    "share": (0.0, 0.3, 1.0),
    "redraws": (2,),
    "argument": (0.3, 0.7),
    "k": (1, 2),
    "gamma": (0.0, 0.6, 1.0),
    "lam": (0.5, 1.0),
    "c_bar": (0.5, 2.0),
    "low": (0.5,),
    "high": (1.1, 3.0),
    "dual": (1.5,),
    "band": (0.1,),
    "tau": (0.02, 0.5),
    "tau_negative": (2.0,),
    "part": (0.3,),
    "threshold": (1.0,),
    "boost": (0.5,),
    "most": (0.3,),
    "passing": (0.5,),
    "own": (0.0, 0.5),
    "coef": (-1.0, 0.0, 0.3, 2.0),
}
# Whether another value of an axis is another goal: always; never; by the coefficients of a sum; by
# the states that it leaves; or by what else the axis then brings (`signal`).
CHANGES = {
    "states": ("behavior", "share", "level", "other", "importance", "correction"),
    "never": (
        "redraws", "expectation", "k", "tail", "topk_from", "returns", "lam", "c_bar", "baseline",
        "normaliser", "ratio_rule", "low", "high", "dual", "band", "tau", "tau_negative",
        "correction_rule", "correction_low",
        "correction_high", "weigh", "part", "threshold", "boost", "most", "gate", "passing", "on",
        "own", "reduction", "cut",
    ),
    "always": ("divergence", "argument", "penalty", "gamma"),
    "sums": ("coef",),
    "signal": ("signal",),
}  # fmt: skip


def values(axis):
    return AXES[axis].choices or NUMBERS[axis.removeprefix("correction_")]


# What no row has, and whose axes go with it.
BASES = (
    *table.ROWS,
    "opd@correction=prefix,correction_rule=mask",
    "opd@gate=wrong",
    "opd_sampled@weigh=bounded_ratio",
)


def overrides():
    """(row, axis, method) of every row with every override of one axis that means something."""
    for row in BASES:
        base = table.parse(row)
        signals = [term.signal for term in base.terms] if len(base.terms) > 1 else []
        alone = [f"{signal}.{axis}" for signal in (*signals, *table.ADDED) for axis in table.TERM]
        for key in (*AXES, *dict.fromkeys(alone)):
            axis = key.rpartition(".")[2]
            for value in values(axis):
                try:
                    yield base, key, table.parse(row, **{key: value})
                except ValueError:
                    continue


OVERRIDES = list(overrides())


def test_every_axis_says_whether_it_changes_a_goal():
    said = [axis for axes in CHANGES.values() for axis in axes]
    assert sorted(said) == sorted(AXES), "say it in CHANGES in tests/contract/test_goals.py"
    tried = {key.rpartition(".")[2] for _, key, _ in OVERRIDES}
    assert tried == set(AXES), "give it a value in NUMBERS in tests/contract/test_goals.py"


@pytest.mark.parametrize("how", CHANGES)
def test_which_axes_change_a_goal(how):
    changed = 0
    for base, key, method in OVERRIDES:
        axis = key.rpartition(".")[2]
        added = len(method.terms) > len(base.terms)
        same = (method.origin, method.terms) == (base.origin, base.terms)
        if axis not in CHANGES[how] or added or same or how == "signal":
            continue
        before, after = facts.goal(base), facts.goal(method)
        if how == "never":
            assert after == before, method.name
        elif how == "always":
            both = len(base.terms) > 1 and before.parts[0].divergence == "jeffreys"
            assert after != before or both, method.name  # two KLs are already what their sum is
        elif how == "sums":
            assert (after != before) == (len(before.parts) > 1), method.name
        elif not any(term.signal == "one" for term in method.terms):
            assert after.parts == before.parts, method.name
        changed += after != before
    assert changed == 0 if how == "never" else changed > 5 or how == "signal"


@pytest.fixture(scope="module")
def unbiased():
    """Of each goal, the expectation of every unbiased method: goal -> name -> [M]."""
    methods = {table.parse(row).terms: table.parse(row) for row in table.ROWS}
    methods = {(m.origin, m.terms): m for m in methods.values()}
    for _, _, method in OVERRIDES:
        if facts.coupled(method) is None:  # the others take a sum over all pairs
            methods.setdefault((method.origin, method.terms), method)
    found = {}
    with jax.enable_x64(True):
        for method in methods.values():
            if facts.bias(method) is None and all((rule.k or 0) <= 4 for rule in method.rules):
                found.setdefault(facts.goal(method), {})[method.name] = oracle.on_its_own(method)
    return found


def test_methods_of_one_goal_have_one_expectation(unbiased):
    for goal, means in unbiased.items():
        (first, mean), *others = means.items()
        for name, other in others:
            assert oracle.distance(other, mean) < RTOL, (goal, first, name)
    sizes = sorted(map(len, unbiased.values()))
    assert sizes[-1] > 20 and len(sizes) > 30


def test_methods_of_two_goals_have_two(unbiased):
    first = {goal: next(iter(means.items())) for goal, means in unbiased.items()}
    for (name, mean), (other, another) in itertools.combinations(first.values(), 2):
        scale = max(np.linalg.norm(mean), np.linalg.norm(another))
        assert np.linalg.norm(mean - another) > 1e-4 * scale, (name, other)

"""Goals in words, and which rows stand under one."""

import itertools

import made_up
import pytest

from opd.method import facts, table
from opd.report import goals


def label(name):
    return goals.goal(made_up.described(name)).label


@pytest.mark.parametrize(
    "name, words",
    [
        ("opd", "Myopic reverse KL"),
        ("opd_topk@k=8,tail=drop", "Myopic reverse KL"),
        ("opd_sampled@gamma=0.9", "Discounted reverse KL, γ = 0.9"),
        ("opd@gamma=1", "Sequence reverse KL"),
        ("soft_label", "Forward KL"),
        ("skew", "Skew KL, argument 0.1"),
        ("skew@argument=0.9", "Skew KL, argument 0.9"),
        ("opd@divergence=jeffreys", "Jeffreys divergence"),
        ("gkd", "JSD, argument 0.5 (states: 0.5 student, 0.5 dataset)"),
        ("reinforce", "Reward"),
        ("reinforce@gamma=0.9", "Reward, γ = 0.9"),
        ("rl_with_teacher", "Reward + 0.1 × reverse KL to the teacher"),
        ("rl_with_teacher@teacher.coef=2", "Reward + 2 × reverse KL to the teacher"),
        ("rl_with_teacher@teacher.gamma=1", "Reward + 0.1 × sequence reverse KL to the teacher"),
        ("rl_with_reference", "Reward + 0.04 × forward KL to the reference"),
        ("teacher_behavior", "Myopic reverse KL (states: teacher)"),
    ],
)
def test_a_heading_names_what_the_goal_is(name, words):
    assert label(name) == words


@pytest.mark.parametrize(
    "names",
    [
        ("skew@argument=0.1", "skew@argument=0.9"),
        ("rl_with_teacher", "rl_with_reference"),
        ("rl_with_teacher@teacher.coef=0.1", "rl_with_teacher@teacher.coef=0.2"),
        ("rl_with_reference", "rl_with_reference@reference.penalty=k1"),
        ("opd", "opd@gamma=1"),
        ("opd", "soft_label"),
        ("opd", "teacher_behavior"),
        ("reinforce", "opd_sampled@gamma=1"),
    ],
)
def test_other_goals_are_other_tables(names):
    entries = [made_up.described(name) | {"name": name} for name in names]
    assert len(goals.by_goal(entries)) == 2


def test_one_goal_is_one_table():
    names = ("opd", "opd_sampled", "opd_baseline", "opd_topk@k=8", "opd_resampled@k=4")
    entries = [made_up.described(name) | {"name": name} for name in names]
    assert len(goals.by_goal(entries)) == 1


# What goals are made of, each with several values.
VALUES = {
    "divergence": [*goals.DIVERGENCES, "jsd,argument=0.5", "skew,argument=0.5"],
    "argument": [0.1, 0.1000001, 0.9],
    "gamma": [0.0, 0.5, 0.50001, 1.0],
    "coef": [0.1, 1.0, 2.0, -1.0],
    "penalty": ["k1", "k3"],
    "signal": ["teacher", "reward", "one", "teacher_kl", "entropy"],
    "behavior": ["student", "teacher", "dataset"],
    "importance": ["none", "prefix", "trajectory"],
}


def overridden():
    """Every row with every override of one of these that there is, for all terms and for one."""
    for row, (axis, values) in itertools.product(table.ROWS, VALUES.items()):
        signals = sorted({f"{term.signal}." for term in table.ROWS[row].terms} | {"reference."})
        for signal, value in itertools.product(["", *signals], values):
            try:
                yield table.parse(f"{row}@{signal}{axis}={value}")
            except ValueError:
                continue


def test_two_goals_have_two_headings():
    headings: dict[str, facts.Goal] = {}
    methods = list(overridden())
    for method in methods:
        goal = facts.goal(method)
        heading = label(method.name)
        assert headings.setdefault(heading, goal) == goal, heading
    assert len(methods) > 500 and len(headings) > 60


def test_goals_come_in_reading_order():
    names = [
        "opd",
        "teacher_behavior",
        "soft_label",
        "skew",
        "dagger",  # forward KL on other states
        "opd@gamma=0.5",
        "opd@gamma=1",
        "reinforce",
        "rl_with_teacher",
    ]
    entries = [made_up.described(name) | {"name": name} for name in reversed(names)]
    ordered = [rows[0]["name"] for rows in goals.by_goal(entries).values()]
    assert ordered == names


def test_a_meaning_for_every_goal():
    for name in ("opd", "opd@gamma=0.5", "opd@gamma=1", "reinforce", "rl_with_teacher", "skew"):
        assert goals.goal(made_up.described(name)).meaning
    penalty = goals.Goal((goals.Part("divergence", "reverse_kl", to="reference"),))
    assert "reference" in penalty.meaning and "reference" in penalty.label

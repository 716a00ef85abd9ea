"""All else equal: rows of the table, paired where one axis alone differs."""

import made_up
import pytest

from opd.report import alike


def step(row, other, axis):
    return alike.step(made_up.described(row)["axes"], made_up.described(other)["axes"], axis)


@pytest.mark.parametrize(
    "row, other, axis, values",
    [
        ("opd", "opd_sampled", "expectation", ("enumerated", "sampled")),
        ("opd_topk@k=8", "opd", "expectation", ("topk", "enumerated")),  # brings k and its tail
        ("opd_topk@k=8,tail=drop", "opd", "expectation", ("topk", "enumerated")),
        ("opd_resampled", "opd_sampled", "expectation", ("resampled", "sampled")),
        ("skew", "skew@expectation=sampled", "expectation", ("enumerated", "sampled")),
        ("opd@gamma=1", "opd", "gamma", (1.0, 0.0)),
        ("opd_sampled@gamma=1", "reinforce", "signal", ("teacher", "reward")),  # and a divergence
        (
            "rl_with_teacher",
            "rl_with_teacher@teacher.expectation=sampled",
            "expectation",
            ("enumerated", "sampled"),
        ),
        (
            "opd@gamma=1,importance=trajectory",
            "opd_sampled@gamma=1,importance=trajectory",
            "expectation",
            ("enumerated", "sampled"),
        ),
    ],
)
def test_one_axis_and_what_it_brings(row, other, axis, values):
    assert step(row, other, axis) == values
    assert step(other, row, axis) == values[::-1]


@pytest.mark.parametrize(
    "row, other, axis",
    [
        ("opd", "opd", "expectation"),
        ("opd", "opd_baseline", "expectation"),  # a baseline besides
        ("opd", "opd_sampled@importance=prefix", "expectation"),
        ("opd", "opd_sampled@behavior=buffer", "expectation"),  # whose rollouts
        ("opd", "opd_sampled@coef=2", "expectation"),
        ("opd", "opd_sampled@reduction=constant", "expectation"),
        ("opd", "opd_sampled@redraws=3", "expectation"),  # null on one side, but another axis
        ("opd_resampled@k=4", "opd_topk@k=8", "expectation"),  # k means something at both
        ("opd@gamma=1", "opd_sampled", "gamma"),
        ("skew", "skew@argument=0.9", "expectation"),
        ("opd@gamma=1", "reinforce", "signal"),  # enumerated besides
        ("opd_sampled@gamma=1", "rloo", "signal"),
        ("rl_with_teacher", "opd", "expectation"),  # a term more
        ("rl_with_teacher@teacher.coef=2", "rl_with_teacher@teacher.expectation=sampled", "gamma"),
        ("opd", "opd_sampled@entropy.coef=0.1", "expectation"),
        (
            "rl_with_teacher@teacher.expectation=sampled",
            "rl_with_teacher@reward.baseline=none",
            "expectation",
        ),
    ],
)
def test_what_differs_elsewhere_is_no_pair(row, other, axis):
    assert step(row, other, axis) is None
    assert step(other, row, axis) is None


def test_terms_that_take_different_steps_are_no_pair():
    """Reward from 1 to 0.9, teacher from 0.5 to 0; a row apart in the teacher's alone is a pair."""
    row = "rl_with_teacher@reward.baseline=none"
    assert step(f"{row},teacher.gamma=0.5", f"{row},reward.gamma=0.9", "gamma") is None
    assert step(f"{row},teacher.gamma=0.5", row, "gamma") == (0.5, 0.0)


def test_an_entry_without_axes_has_no_pair():
    assert alike.step(None, made_up.described("opd")["axes"], "gamma") is None

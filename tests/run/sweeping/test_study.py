"""Studies: paired intervals, the rule that decides, and what is read of a sweep's folder."""

import numpy as np
import pytest
import scipy.stats
from made_up_sweep import make_up

from opd.run.sweeping import study, sweep


def test_a_paired_interval_is_students_over_seeds():
    a, b = {0: 0.61, 1: 0.55, 2: 0.7}, {2: 0.52, 0: 0.5, 1: 0.49}  # in another order
    found = study.paired(a, b)
    asked = scipy.stats.ttest_rel([a[seed] for seed in b], [b[seed] for seed in b])
    low, high = asked.confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-9)
    assert found.value == pytest.approx(0.35 / 3)
    with pytest.raises(ValueError, match="can't be paired"):
        study.paired(a, {0: 0.5, 1: 0.49})


def spread(mean, width=0.01):
    return {seed: mean + width * (seed - 1) for seed in range(3)}


def shifted(by, width):
    """Away from `spread(0.5)` by so much, give or take: the interval reaches 2.48 widths."""
    base = spread(0.5)
    return {seed: value + by + width * (-1, 2, -1)[seed] / 2 for seed, value in base.items()}


@pytest.mark.parametrize(
    ("shifts", "better", "expected"),
    [
        ({2: 0.0, 4: -0.1, 8: -0.2}, 1, 4),  # less accuracy
        ({2: 0.1, 4: 0.2, 8: 0.3}, 1, None),  # more of it
        ({2: 0.1, 4: 0.2, 8: 0.3}, -1, 2),  # more KL
        ({2: -0.02, 4: -0.02, 8: -0.02}, 1, None),  # within the interval
        ({2: -0.02, 4: -0.02, 8: -0.03}, 1, 8),  # just outside
        ({8: -0.2, 4: 0.0, 2: 0.0}, 1, 8),  # in whatever order
        ({2: (-0.1, 0.1), 4: -0.05}, 1, 4),  # 2 is lower, and not surely so
    ],
)
def test_the_first_that_is_worse(shifts, better, expected):
    reach = float(scipy.stats.t.ppf(0.975, 2)) * 0.01 * np.sqrt(0.75) / np.sqrt(3)
    assert 0.02 < reach < 0.03
    pairs = {m: by if isinstance(by, tuple) else (by, 0.01) for m, by in shifts.items()}
    by = {m: shifted(*pair) for m, pair in pairs.items()} | {1: spread(0.5)}
    assert study.first_worse(by, better) == expected


def test_what_a_sweep_has_left(tmp_path):
    points = [{"method.name": name, "seed": seed} for name in ("opd", "grpo") for seed in (3, 5)]
    for point in points:
        high = (point["method.name"] == "opd") + point["seed"] / 10
        evaluations = [{"accuracy": 0.25, "kl": 9.0}, {"accuracy": high, "kl": 4.0}]
        if point["method.name"] == "grpo":
            evaluations = [{"accuracy": one["accuracy"]} for one in evaluations]
        used = [(64, 1.0), (64, 0.5), (128, 1.0), (128, 0.7)]
        make_up(tmp_path, point, evaluations, (0, 128), used)
    arms = study.arms(study.read(tmp_path, points), lambda point: point["method.name"])
    assert list(arms) == ["opd", "grpo"] and list(arms["opd"]) == [3, 5]
    assert study.last(arms["opd"], "accuracy") == {3: 1.3, 5: 1.5}
    assert study.last(arms["grpo"], "kl") == {}
    assert arms["opd"][3].rollouts == 128
    assert study.at_last_use(arms["opd"], "ess_trajectory").value == pytest.approx(0.6)
    with pytest.raises(KeyError):
        study.at_last_use(arms["opd"], "nope")
    found = study.curve(arms["opd"], "accuracy")
    assert found["rollouts"] == [0, 128]
    np.testing.assert_allclose(found["mean"], [0.25, 1.4])
    figures = study.figures(arms["grpo"], arms["opd"])
    assert list(figures) == ["accuracy"] and figures["accuracy"]["seeds"] == [0.3, 0.5]
    assert figures["accuracy"]["difference"].value == pytest.approx(-1.0)
    assert study.start(arms["opd"]) == {"kl": [9.0, 9.0], "accuracy": [0.25, 0.25]}

    with pytest.raises(ValueError, match="two points with seed 3"):
        study.arms(study.read(tmp_path, points), lambda point: 0)
    (tmp_path / "points" / sweep.name(points[1]) / "done.json").unlink()
    with pytest.raises(ValueError, match="seed=5: not finished"):
        study.read(tmp_path, points)


def test_numbers_are_rounded_and_nothing_else():
    value = {"a": [1234567, 0.123456789, None, True], "b": {"c": 1.5e-9, "d": "0.123456789"}}
    rounded = {"a": [1234567, 0.12346, None, True], "b": {"c": 1.5e-9, "d": "0.123456789"}}
    assert study.rounded(value) == rounded

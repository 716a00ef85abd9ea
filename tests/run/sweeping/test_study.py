"""Studies: paired intervals, the rule that decides, and what is read of a sweep's folder."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from opd import disk
from opd.run.sweeping import study, sweep

ROOT = Path(__file__).parents[3]


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


def make_up(workdir, point, evaluations, rollouts, staleness=()):
    """A finished point: an evaluation for each number of rollouts, a metric's line an update."""
    folder = workdir / "points" / sweep.name(point)
    folder.mkdir(parents=True)
    for at, figures in zip(rollouts, evaluations, strict=True):
        said = {name: {"value": v, "low": v - 1, "high": v + 1} for name, v in figures.items()}
        line = {"update": at, "rollouts": at} | said
        with open(folder / "evaluations.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    lines = [
        {"update": number + 1, "rollouts": batch, "ess_trajectory": ess, "drift": 1 - ess}
        | {"ess_token": 1.0}
        for number, (batch, ess) in enumerate(staleness)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "done.json").write_text("{}")


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


def made_up_results(name, workdir, folder, worth):
    """results.json of a committed study on points whose figures are `worth(point)`."""
    one = dataclasses.replace(
        importlib.import_module(f"experiments.{name}.run").STUDY, folder=folder
    )
    _, points = sweep.load(one.sweep)
    for point in points:
        kl, accuracy = worth(point)
        seed = point["seed"]
        ends = {"kl": kl + 0.01 * seed, "accuracy": accuracy, "length": 3.5 + 0.01 * seed}
        begun = {"kl": 6.0 + seed, "accuracy": 0.3, "length": 3.4}
        make_up(workdir, point, [begun, ends], (0, 128), [(128, 1.0), (128, 0.5)])
    ran = {"seeds": [0, 1], "teacher": {"accuracy": [0.95]}}
    disk.dump_json(ran, workdir / f"{name}.json")
    one.main([f"--workdir={workdir}", "--read"])
    assert 5_000 < (folder / f"{folder.name}.png").stat().st_size < 150_000
    return json.loads((folder / "results.json").read_text(), parse_constant=lambda text: 1 / 0)


def test_the_study_of_reuse_can_say_both(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "reuse"
    folder.mkdir()

    def worth(point):
        m, seed = point["reuse.updates"], point["seed"]
        hurts = point["method.name"] == "ppo" and m >= 8
        return 4.0 / m, 0.6 - 0.2 * hurts + 0.01 * (seed * m % 3)

    found = made_up_results("reuse", tmp_path / "runs", folder, worth)
    said = {row: one["first_worse"] for row, one in found["decided"].items()}
    assert said == {"opd": None, "grpo": None, "ppo": 8}
    assert [found["decided"][row]["figure"] for row in said] == ["kl", "accuracy", "accuracy"]
    assert found["arms"][0]["at_last_use"]["drift"]["value"] == 0.5
    base, twice = (arm for arm in found["arms"] if arm["name"] == "opd" and arm["reuse"] <= 2)
    assert "difference" not in base["last"]["kl"]
    assert twice["last"]["kl"]["difference"]["value"] == pytest.approx(-2.0)


def test_the_other_studies_take_their_differences_to_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("two_by_two", "gamma"):
        (tmp_path / name).mkdir()
    found = made_up_results(
        "two_by_two", tmp_path / "a", tmp_path / "two_by_two",
        lambda point: (1.0 if point["method.name"] == "opd" else 3.0, 0.5),
    )  # fmt: skip
    assert len(found["arms"]) == 4 and found["teacher"] == {"accuracy": [0.95]}
    for arm in found["arms"]:
        difference = arm["last"]["kl"].get("difference")
        assert (difference is None) == (arm["name"] == "opd")
        assert difference is None or difference["value"] == pytest.approx(2.0)
        assert arm["curves"]["kl"]["rollouts"] == [0, 128]
    found = made_up_results(
        "gamma", tmp_path / "b", tmp_path / "gamma",
        lambda point: (len(point["method.name"]) + point["method.gamma"], 0.5),
    )  # fmt: skip
    for arm in found["arms"]:
        difference = arm["last"]["kl"].get("difference")
        assert (difference is None) == (arm["gamma"] == 0)
        assert difference is None or difference["value"] == pytest.approx(arm["gamma"])

"""The committed studies on made-up points: each can say what it is there to find."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
from made_up_sweep import make_up

from opd import disk
from opd.run.sweeping import sweep

ROOT = Path(__file__).parents[2]


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

"""Sweeps: points, names, what one point's failure does, and a second start."""

import csv
import json
import sys
from pathlib import Path

import pytest

from opd.run import sweep

ROOT = Path(__file__).parents[2]


def test_products_zips_and_crossings():
    assert sweep.product({"a": (1, 2), "b": (3, 4)}) == [
        {"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4},
    ]  # fmt: skip
    assert sweep.zipped({"a": (1, 2), "b": (3, 4)}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(ValueError):
        sweep.zipped({"a": (1, 2), "b": (3,)})
    both = sweep.crossed([{"a": 1}, {"b": 2}], [{"seed": 0}, {"seed": 1}])
    assert both[1] == {"a": 1, "seed": 1} and len(both) == 4


def test_names_are_short_and_tell_points_apart():
    assert sweep.name({"method.gamma": 0.5, "seed": 1}) == "method.gamma=0.5,seed=1"
    long = [{"data.prompts": "a/" * 80 + end} for end in "xy"]
    assert sweep.name(long[0]) != sweep.name(long[1])
    assert all(len(sweep.name(point)) <= 100 and "/" not in sweep.name(point) for point in long)


def test_points_share_their_players_unless_one_says_otherwise():
    shared = sweep.command(Path("c.py"), {"seed": 1}, Path("w"))
    assert "--config.models=w/models" in shared and "--workdir=w/points/seed=1" in shared
    own = sweep.command(Path("c.py"), {"seed": 1, "models": "m"}, Path("w"))
    assert [flag for flag in own if "models" in flag.partition("=")[0]] == ["--config.models=m"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CONFIG = 'configs/debug.py'", "KeyError: 'get_sweep'"),
        ("CONFIG = 'nope.py'\ndef get_sweep(): return [{'seed': 1}]", "CONFIG = nope.py: no such"),
        ("CONFIG = 'configs/debug.py'\ndef get_sweep(): return []", "has no points"),
        ("CONFIG = 'configs/debug.py'\ndef get_sweep(): return [{'seed': 1}] * 2", "comes twice"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused_on_one_line(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = tmp_path / "sweep.py"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        sweep.load(file)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        sweep.load(tmp_path / "absent.py")


def test_every_committed_sweep_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
    assert files
    for file in files:
        config, points = sweep.load(file)
        assert config.is_file() and points


def test_a_failure_is_listed_and_the_rest_goes_on(tmp_path, monkeypatch):
    """The training is a stand-in: what is tested is what a sweep makes of its exit and files."""
    stand_in = (
        "import json, pathlib, sys\n"
        "folder, gamma = pathlib.Path(sys.argv[1]), float(sys.argv[2])\n"
        "if gamma > 1: sys.exit('error: gamma lies in [0, 1]')\n"
        "folder.mkdir(parents=True, exist_ok=True)\n"
        "figure = {'value': 2 - gamma, 'low': 0.5, 'high': 2.5}\n"
        "done = {'step': 3, 'rollouts': 48, 'eval': {'kl': figure}}\n"
        "(folder / 'done.json').write_text(json.dumps(done))\n"
    )

    def command(config, point, workdir):
        folder = workdir / "points" / sweep.name(point)
        return [sys.executable, "-c", stand_in, str(folder), str(point["method.gamma"])]

    monkeypatch.setattr(sweep, "command", command)
    points = sweep.product({"method.gamma": (0.0, 7.0, 1.0), "seed": (0, 1)})
    records = sweep.run(Path("x"), points, tmp_path, jobs=2)
    sweep.write(records, tmp_path)
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["method.gamma"] for row in rows] == [0.0, 0.0, 7.0, 7.0, 1.0, 1.0]
    assert [row["kl"] for row in rows] == [2.0, 2.0, None, None, 1.0, 1.0]
    assert rows[2]["error"] == "exit code 1: error: gamma lies in [0, 1]"
    with open(tmp_path / "sweep.csv", newline="") as file:
        assert [row["kl"] for row in csv.DictReader(file)] == ["2.0", "2.0", "", "", "1.0", "1.0"]
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    assert (tmp_path / "points" / "method.gamma=7.0,seed=1.log").read_text().startswith("error")

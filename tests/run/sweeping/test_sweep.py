"""Sweeps: points, names, what one point's failure does, and a second start."""

import csv
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from made_up_sweep import make_up

from opd.method import facts
from opd.run.settings import config as configs
from opd.run.settings import gin_config
from opd.run.sweeping import sweep

ROOT = Path(__file__).parents[3]


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


SLURM = "slurm --name=g --nodes=2 --gpus=8"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The current folder has the launchers, and nothing that they could start."""
    for name in ("_launch.sh", *(f"launch_{name}" for name in sweep.LAUNCHERS)):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)


def test_a_job_of_each_point_has_a_name_of_its_own(clone):
    points = sweep.product({"seed": (0, 1)})
    found = sweep.launched(SLURM + " '--with=--comment=a b'", Path("c.py"), points, Path("/w x"))
    assert [words[1] for words in found] == ["--name=g-0", "--name=g-1"]
    for words, point in zip(found, points, strict=True):
        assert words[0] == "scripts/launch_slurm" and words[4] == "--with=--comment=a b"
        assert words[5:] == ["--", *sweep.training(Path("c.py"), point, Path("/w x"))]


def test_points_on_one_tpu_have_its_name(clone):
    """A machine's name isn't a job's. The launcher is a stand-in: any flag will do."""
    Path("scripts", "launch_tpu").write_text("#!/bin/sh\n")
    points = sweep.product({"seed": (0, 1)})
    found = sweep.launched("tpu --name=pod", Path("c.py"), points, Path("w"))
    assert [words[:3] for words in found] == [["scripts/launch_tpu", "--name=pod", "--"]] * 2


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("", "it begins with one of slurm, tpu, xpk"),
        ("ray --name=g", "it begins with one of slurm, tpu, xpk"),
        ("slurm --name='g", "No closing quotation"),
        ("slurm --nodes=2 --gpus=8", "--name is missing"),
        ("tpu --name=pod", "--zone is missing"),
        (SLURM + " --partition=p", "--partition is unknown"),
        # The eleventh point's is a letter too long.
        ("xpk --cluster=c --zone=us-east5-b --tpu_type=v6e-8 --name=" + 38 * "a", "at most 40"),
    ],
)
def test_a_launcher_that_refuses_is_heard_before_anything_is_printed(launcher, message, clone):
    points = sweep.product({"seed": range(11)})
    with pytest.raises(ValueError) as error:
        sweep.launched(launcher, Path("c.py"), points, Path("w"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_points_that_ran_elsewhere_are_read(tmp_path):
    points = sweep.product({"seed": (0, 1)})
    make_up(tmp_path, points[1], [], ())
    found = sweep.read(points, tmp_path)
    assert found == [
        {"point": points[0], "error": "not finished"},
        {"point": points[1], "done": {}},
    ]
    sweep.write(found, tmp_path)
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["error"] for row in rows] == ["not finished", None]


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
        base = runpy.run_path(str(config))["get_config"]()
        for point in points:
            values = base.to_dict()
            gin_config.bind(values, point, set())
            facts.trainable(configs.build(values).method.parsed)


def rows(axes, figures):
    """A table's rows: a point and its KL each, accuracy not measured."""
    records = [
        {"point": dict(zip(axes, point)), "done": {"eval": {"kl": dict(value=kl, low=kl, high=kl)}}}
        for point, kl in figures
    ]
    return sweep.table(records)


def bars(figure) -> dict[str, tuple]:
    """The bars of a plot's left half: label -> x, mean, low end, high end of each."""
    found = {}
    for container in figure.axes[0].containers:
        x, y = container.lines[0].get_data()
        ends = np.array([part[:, 1] for part in container.lines[2][0].get_segments()])
        found[container.get_label()] = (x, y, ends[:, 0], ends[:, 1])
    return found


def test_a_bar_is_the_interval_over_seeds():
    found = rows(("reuse.updates", "updates", "seed"), [((1, 50, s), 2.0 + s) for s in range(3)])
    found += rows(("reuse.updates", "updates", "seed"), [((16, 800, s), 5.0) for s in range(3)])
    figure = sweep.plot(found, ("reuse.updates", "updates", "seed"))
    (((x, mean, low, high)),) = bars(figure).values()  # the updates follow: one line
    half = scipy.stats.t.ppf(0.975, 2) * np.std([2, 3, 4], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(x, [1, 16])
    np.testing.assert_allclose(mean, [3, 5])
    np.testing.assert_allclose(low, [3 - half, 5])
    np.testing.assert_allclose(high, [3 + half, 5])
    assert figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize(
    ("places", "scale"),
    [((1, 2, 8), "linear"), ((1, 9), "log"), ((0.0, 1.0, 10.0), "linear"), (("a", "b"), "linear")],
)
def test_an_axis_is_logarithmic_where_positive_numbers_span_more_than_eightfold(places, scale):
    found = rows(("k", "seed"), [((place, 0), 1.0) for place in places])
    assert sweep.plot(found, ("k", "seed")).axes[0].get_xscale() == scale


def test_points_may_leave_out_what_others_override():
    axes = ("share", "divergence", "argument")
    figures = [((s, "jsd", 0.1), 1.0) for s in (0, 1)] + [((s, "reverse_kl"), 2.0) for s in (0, 1)]
    records = [{"point": dict(zip(axes, point))} for point, _ in figures]
    assert [row["argument"] for row in sweep.table(records)] == [0.1, 0.1, None, None]
    found = [row | {"kl": kl, "kl_low": kl, "kl_high": kl} for row, (_, kl) in
             zip(sweep.table(records), figures)]  # fmt: skip
    assert set(bars(sweep.plot(found, axes))) == {
        "divergence=jsd, argument=0.1",
        "divergence=reverse_kl",
    }


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

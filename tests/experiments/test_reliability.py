"""Kills, full disks and damaged files on a small scale; each study can say that it failed."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.reliability import disks, fuzz, kills, long, supply
from opd.run.training import log

ROOT = Path(__file__).parents[2]


# Five kills each, at random moments: what is in flight, an average, a critic; adapters.
@pytest.mark.slow
@pytest.mark.parametrize("setting", [list(kills.SETTINGS)[0], "LoRA of a folder"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(setting):
    record = kills.attempt(setting, 5, 0)
    assert record["kills"] == 5, record
    assert record["differences"] == []


def workdir(folder, value=1.0, line=0.5):
    """What a finished run leaves, as far as two are compared."""
    folder.mkdir()
    for name in log.FILES:
        (folder / name).write_text(json.dumps({"update": 1, "kl": line, "seconds": 3.0}) + "\n")
    with ocp.StandardCheckpointer() as checkpointer:
        tree = {"params": np.full(3, value, np.float32), "count": np.int32(1)}
        checkpointer.save(folder.resolve() / "checkpoints" / "4" / "tree", tree)
    return folder


def test_what_two_runs_differ_in_is_named(tmp_path):
    one = workdir(tmp_path / "one")
    assert kills.differences(one, workdir(tmp_path / "same")) == []
    other = workdir(tmp_path / "other", value=np.nextafter(np.float32(1), 2))
    assert kills.differences(one, other) == ["tree['params']"]
    assert kills.differences(one, workdir(tmp_path / "lines", line=0.25)) == list(log.FILES)
    (tmp_path / "same" / "checkpoints" / "4").rename(tmp_path / "same" / "checkpoints" / "5")
    assert kills.differences(one, tmp_path / "same") == ["the last checkpoint"]


# No file of the command may become larger than argv[1]: what a full disk is to it.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[1]),))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_a_line_and_with_room_it_goes_on(tmp_path):
    """After two updates no file may pass 16 KiB, which a checkpoint's does."""
    folder = tmp_path / "run"
    keys = ["--config.updates=6", "--config.evaluate.every=2"]
    asked = [*disks.command("train", tmp_path, folder), *keys]
    kills.finish([*asked, "--config.updates=2"])
    limited = [sys.executable, "-c", LIMITED, str(16 << 10), *asked]
    refused = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 3, refused.stderr[-2000:]
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "give the same command again" in last
    assert (folder / "checkpoints" / "2").is_dir()
    kills.finish(asked)
    whole = tmp_path / "whole"
    kills.finish([*disks.command("train", tmp_path, whole), *keys])
    assert kills.differences(folder, whole) == []


# Warnings are no errors in a command.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_inputs_are_accepted_or_refused_in_one_line(target, tmp_path):
    scene = fuzz.scene(tmp_path)
    outcomes = [fuzz.attempt(target, seed, scene) for seed in range(25)]
    assert [wrong for _, wrong in outcomes if wrong] == []
    assert "refused" in {outcome for outcome, _ in outcomes}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "target", ["config keys", "prompt lines", "tokenizer files", "weight files"]
)
def test_what_is_not_damaged_is_accepted(target, tmp_path, monkeypatch):
    """Else a refusal would say nothing of the damage."""
    monkeypatch.setattr(fuzz, "damaged", lambda value, rng: value)
    monkeypatch.setattr(fuzz, "flipped", lambda content, rng: content)
    monkeypatch.setattr(fuzz, "REFUSED", ())
    scene = fuzz.scene(tmp_path)
    for seed in range(4):
        assert fuzz.attempt(target, seed, scene) == ("accepted", None)


@pytest.mark.parametrize(
    ("door", "wrong"),
    [
        (lambda scene, rng: 1 / 0, "ZeroDivisionError"),
        (lambda scene, rng: int("a\nb\n1" * 9), None),
        (lambda scene, rng: (_ for _ in ()).throw(ValueError("one\ntwo")), "2 lines"),
        (lambda scene, rng: Path("made").write_text("x"), "a new file"),
        (lambda scene, rng: sys.exit(1), "SystemExit"),
    ],
)
def test_what_is_wrong_with_an_answer_is_noticed(door, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fuzz.TARGETS, "broken", door)
    outcome = fuzz.attempt("broken", 0, fuzz.Scene(tmp_path, tmp_path, tmp_path / "damaged"))[1]
    assert outcome is None if wrong is None else wrong in outcome


def test_damage_reaches_every_node():
    value = {"a": [1, {"b": "c"}], "d": None}
    seen = {
        json.dumps(fuzz.damaged(value, random.Random(seed)), default=str) for seed in range(300)
    }
    assert len(seen) > 100
    assert value == {"a": [1, {"b": "c"}], "d": None}


def test_a_slope_is_told_from_noise():
    noise = np.random.default_rng(0).standard_normal(400)
    flat = long.slope(range(400), 5 + noise)
    assert flat["low"] < 0 < flat["high"] and abs(flat["mean"] - 5) < 0.2
    assert long.slope(range(400), [6] * 400) == {"mean": 6.0, "change": 0, "low": 0, "high": 0}
    rising = long.slope(range(400), 0.01 * np.arange(400) + noise)
    assert rising["low"] > 2 and abs(rising["change"] - 3) < 0.6  # of three quarters of 4


def test_the_tables_are_made_of_the_records():
    one = {"kills": 2, "by_moment": dict.fromkeys(kills.LATEST, 1), "unfinished": 1}
    record = {"settings": {"x": one | {"updates": [1, 2], "differences": ["tree['a']"]}}}
    assert "| x | 2 | 1 | 1 | 1 | 1 | tree['a'] |" in kills.table(record)
    figure = {"mean": 1.0, "change": 0.1, "low": -0.1, "high": 0.3}
    run = {"updates": 9, "compiled_later": 0, "files": figure}
    text = long.table({"run": run, "many": {"points": 2, "maps": figure}})
    assert "files over 9 updates | 1 | 0.1 | -0.1 to 0.3" in text and "update 100: 0." in text


def test_what_pytest_says_is_counted():
    ended = "1 failed, 9 passed, 2 skipped, 1 error in 3.21s"
    assert supply.counts(f"F....\n{ended}\n") == {"passed": 9, "failed": 2, "skipped": 2}
    assert supply.counts("2 passed in 0.1s") == {"passed": 2, "failed": 0, "skipped": 0}
    for silent in ("", "collected 0 items", "no tests ran in 0.01s"):
        with pytest.raises(ValueError, match="pytest ended with"):
            supply.counts(silent)


def test_the_lowest_versions_are_those_of_setup():
    lowest = dict(map(supply.split, supply.asked()))
    assert lowest["jax"] == "0.10.1" and lowest["pytest"] and "math-verify" not in lowest
    assert all(version[0].isdigit() and name.strip() == name for name, version in lowest.items())


def test_the_table_of_versions_says_what_failed_and_what_was_not_tried():
    had = dict.fromkeys(("python", "jax", "flax", "optax", "numpy", "grain"), "1")
    rooms = {"method": {"passed": 3, "failed": 1, "skipped": 0}}
    one = {"date": "2026-01-02", "versions": had, "rooms": rooms}
    row = supply.table({"oldest": one, "environment": {}}).splitlines()[-1]
    assert row.startswith("| oldest, 2026-01-02 | 1 | 1 |")
    assert row.endswith("| method: 3 passed, 1 failed | not tried |")

"""The main job from end to end on the debug config: what it leaves in its workdir, and again."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opd import disk
from opd.method import table

ROOT = Path(__file__).parents[3]
CONFIG = "--config=configs/debug.py"
pytestmark = pytest.mark.slow


def command(*arguments: str, cache: Path) -> subprocess.CompletedProcess:
    """The command itself; compiled programs are kept between the calls of this file."""
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": kept}
    return subprocess.run(
        [sys.executable, "-m", "experiments.compare", *arguments],
        capture_output=True,
        text=True,
        timeout=590,
        cwd=ROOT,
        env=environment | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    workdir: Path
    cache: Path
    out: str

    @property
    def results(self) -> dict:
        """results.json, read strictly."""

        def refuse(constant):
            raise AssertionError(f"{constant} is no JSON")

        return json.loads((self.workdir / "results.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("compare")
    done = command(CONFIG, f"--workdir={folder}/run", cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    return Run(folder / "run", folder / "cache", done.stdout)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_figure(value):
    """{value, low, high} with low <= value <= high, or null; nulls among them are not bounded."""
    if value is None:
        return True
    known = [value[key] for key in ("low", "value", "high") if value[key] is not None]
    return (
        value.keys() == {"value", "low", "high"}
        and all(map(is_number, known))
        and known == sorted(known)
    )


TOP = {"schema", "config", "environment", "rollouts", "by_position", "estimators", "choices"}
TOP |= {"training"}
PART = {"signal", "divergence", "argument", "coef", "gamma", "to"}
TEXT, NUMBER = (lambda value: isinstance(value, str)), is_number
ENTRY = {
    "name": TEXT,
    "label": TEXT,
    "row": TEXT,
    "probe": lambda value: value in ("start", "late"),
    "goal": lambda value: (
        value.keys() == {"parts", "states", "behavior"}
        and value["states"] in ("current", "behavior")
        and (value["behavior"] is None) == (value["states"] == "current")
        and all(part.keys() == PART for part in value["parts"])
    ),
    "axes": lambda value: (
        value.keys() == {"origin", "terms"}
        and set(table.AXES)
        <= {
            *value["origin"],
            *(axis for term in value["terms"] for axis in term),
        }
    ),
    "biased": lambda value: isinstance(value, bool),
    "reference": lambda value: value is None or TEXT(value),
    "cosine": is_figure,
    "relative_error": is_figure,
    "twins": lambda value: all(
        twin.keys() == {"axis", "cosine", "total_ratio", "snr_ratio"} for twin in value.values()
    ),
    "variance": lambda value: (
        value.keys() == {"total", "across", "within", "cross"}
        and all(map(is_figure, value.values()))
    ),
    "snr": is_figure,
    "snr_per_second": is_figure,
    "seconds": is_figure,
    "flops": NUMBER,
    "bytes": NUMBER,
}
ROWS = {"opd", "opd_sampled", "opd@gamma=1", "reinforce", "grpo"}


def test_results_are_strict_json_with_the_schema_s_keys(run):
    results = run.results
    assert results.keys() >= TOP
    assert results["schema"] == 2
    assert results["config"]["optimizer"]["weight_decay"] == 0.0  # defaults and all
    assert results["environment"]["devices"] == 1


def test_every_row_has_an_entry_at_each_probe_with_the_schema_s_types(run):
    entries = run.results["estimators"]
    for probe in ("start", "late"):
        assert {e["name"] for e in entries if e["probe"] == probe} == ROWS
    assert len(entries) == 2 * len(ROWS)
    for entry in entries:
        wrong = [key for key, check in ENTRY.items() if not check(entry[key])]
        assert not wrong, (entry["name"], {key: entry[key] for key in wrong})
        (term,) = entry["axes"]["terms"]
        assert term["expectation"] in ("enumerated", "sampled", "resampled", "topk")
        assert entry["seconds"]["value"] > 0 and entry["flops"] > 0 and entry["bytes"] > 0


def test_unbiased_rows_of_one_goal_are_compared_in_pairs(run):
    """Their ratio of SNRs is the inverse one of their totals, on the same rollouts."""
    rows = {(entry["probe"], entry["name"]): entry for entry in run.results["estimators"]}
    assert [choice["probe"] for choice in run.results["choices"]] == ["start", "late"]
    for choice in run.results["choices"]:
        (pair,) = choice["pairs"]
        opd, sampled = (rows[choice["probe"], name] for name in pair["rows"])
        assert [opd["name"], sampled["name"]] == ["opd", "opd_sampled"]
        assert opd["goal"] == sampled["goal"] == choice["goal"]
        assert (choice["level"], choice["count"]) == (0.95, 1)
        assert is_figure(pair["snr_ratio"]) and is_figure(pair["snr_per_second_ratio"])
        totals = (entry["variance"]["total"]["value"] for entry in (sampled, opd))
        assert pair["snr_ratio"]["value"] == pytest.approx(next(totals) / next(totals))
        assert choice["untrusted"] == ["opd", "opd_sampled"]  # of eight groups
    assert rows["start", "opd@gamma=1"]["twins"].keys() == {"opd"}
    assert rows["start", "opd"]["twins"] == {}


def test_three_parts_add_up_to_the_total_and_are_null_together(run):
    added = 0
    for entry in run.results["estimators"]:
        total, *parts = (entry["variance"][key] for key in ("total", "across", "within", "cross"))
        if entry["name"] in ("opd", "opd_sampled"):
            summed = sum(part["value"] for part in parts)
            assert summed == pytest.approx(total["value"], rel=1e-6)
            added += 1
        else:
            assert parts == [None, None, None] and "no parts: " in entry["note"]
    assert added == 4


def test_rollouts_are_counted_and_digested(run):
    rollouts = run.results["rollouts"]
    assert rollouts["count"] == 8 * 4 and rollouts["late"]["count"] == 8 * 4
    assert re.fullmatch("[0-9a-f]{64}", rollouts["digest"])
    assert rollouts["digest"] != rollouts["late"]["digest"]
    assert 1 <= rollouts["mean_length"] <= 3  # two digits and EOS


def test_figures_by_position_have_one_entry_a_position(run):
    for probe in ("start", "late"):
        found = run.results["by_position"][probe]
        count = len(found["position"])
        assert found["position"] == list(range(count)) and found["count"][0] == 8 * 4
        for key in ("kl", "entropy_student", "entropy_teacher"):
            assert len(found[key]) == count and all(map(is_figure, found[key]))


def test_curves_are_lists_of_equal_length_from_one_start(run):
    training = run.results["training"]
    assert [arm["name"] for arm in training] == ["opd", "grpo"]
    for arm in training:
        lists = {key: arm[key] for key in ("rollouts", "seconds", "accuracy", "kl")}
        assert {len(values) for values in lists.values()} == {3}  # updates 0, 2 and 3
        assert lists["rollouts"] == [0, 2 * 4 * 4, 3 * 4 * 4]
        assert lists["seconds"] == sorted(lists["seconds"]) and lists["seconds"][0] == 0
        assert all(map(is_figure, lists["accuracy"] + lists["kl"]))
    assert training[0]["kl"][0] == training[1]["kl"][0]
    assert training[0]["accuracy"][0] == training[1]["accuracy"][0]


def test_arms_start_from_identical_rollouts(run):
    """Prompts and keys are the update's, not the arm's; the first update's policy is the start."""
    lines = disk.read_jsonl(run.workdir / "metrics.jsonl")
    assert [(line["arm"], line["update"]) for line in lines] == [
        (arm, update) for arm in ("opd", "grpo") for update in (1, 2, 3)
    ]
    first = {line["arm"]: line for line in lines if line["update"] == 1}
    for key in ("tokens", "length", "reward", "entropy_student", "truncated"):
        assert first["opd"][key] == pytest.approx(first["grpo"][key], rel=1e-5), key
    assert all(line["log_ratio_max"] < 1e-3 for line in lines)
    assert all(line["skipped"] == 0 and isinstance(line["warnings"], list) for line in lines)
    samples = disk.read_jsonl(run.workdir / "samples.jsonl")
    shown = [[s for s in samples if (s["arm"], s["update"]) == (arm, 0)] for arm in first]
    texts = [[(s["prompt"], s["completion"], s["reward"]) for s in arm] for arm in shown]
    assert texts[0] == texts[1] and len(texts[0]) == 2
    assert len(samples) == 2 * 3 * 2  # arms, evaluations, completions


def test_the_report_is_one_file_that_opens_offline(run):
    text = (run.workdir / "report.html").read_text()
    assert len(text) > 10_000
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)([^"')\s>]+)""", text)
    assert outside == []
    assert "<script src" not in text and "@import" not in text
    figures = sorted((run.workdir / "figures").glob("*.png"))
    assert figures and all(path.read_bytes()[:4] == b"\x89PNG" for path in figures)


def test_the_terminal_has_the_table_and_the_place_of_the_report(run):
    assert "opd_sampled" in run.out and "grpo" in run.out
    assert run.out.strip().splitlines()[-1] == f"report: {run.workdir / 'report.html'}"
    assert "\x1b[" not in run.out  # no terminal: neither colours nor bars


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When every file was written, and what is in it."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_second_run_shows_the_same_and_changes_nothing(run):
    before, began = snapshot(run.workdir), time.monotonic()
    again = command(CONFIG, f"--workdir={run.workdir}", cache=run.cache)
    assert again.returncode == 0, again.stderr
    assert snapshot(run.workdir) == before
    assert time.monotonic() - began < 60  # the imports, mostly
    table = run.out[run.out.index("estimator ") :]
    assert again.stdout == table


def test_another_config_in_the_same_workdir_is_refused(run):
    before = snapshot(run.workdir)
    done = command(CONFIG, f"--workdir={run.workdir}", "--config.seed=1", cache=run.cache)
    assert done.returncode == 2 and "config.seed was 0, now 1" in done.stderr
    assert snapshot(run.workdir) == before


def test_players_are_used_again_and_a_damaged_one_is_made_again(run, tmp_path):
    """A workdir cut off before its results: the teacher stands, the student's folder is damaged.

    Everything that follows from the seed is the same as in the first workdir.
    """
    folder = tmp_path / "second"
    folder.mkdir()
    shutil.copytree(run.workdir / "models", folder / "models")
    teacher, student = folder / "models" / "teacher", folder / "models" / "student"
    stood = snapshot(teacher)
    largest = max((p for p in student.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    done = command(CONFIG, f"--workdir={folder}", cache=run.cache)
    assert done.returncode == 0, done.stderr
    assert {key: value[1] for key, value in snapshot(teacher).items()} == {
        key: value[1] for key, value in stood.items()
    }
    assert (student / "player.json").stat().st_mtime > (teacher / "player.json").stat().st_mtime
    again = Run(folder, run.cache, done.stdout).results
    assert again["rollouts"] == run.results["rollouts"]
    for before, after in zip(run.results["training"], again["training"], strict=True):
        assert before["kl"] == after["kl"] and before["accuracy"] == after["accuracy"]

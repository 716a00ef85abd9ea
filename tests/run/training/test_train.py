"""The trainer from end to end on the debug config: killed, asked to stop, damaged, continued."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from opd import disk
from opd.data.functions import RewardError
from opd.method import facts, importance, table
from opd.run.settings import config as configs
from opd.run.settings.config import Config
from opd.run.store import checkpoint
from opd.run.training import checks, log, train
from tests.run.players import folders

ROOT = Path(__file__).parents[3]


def debug(**changes) -> Config:
    """The debug config with some keys changed: method__name="grpo"."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    return configs.build(folders.changed(values, **changes))


def lines(workdir, name="metrics.jsonl"):
    """Records of a file, fields that measure time aside."""
    found = disk.read_jsonl(workdir / name)
    return [{k: v for k, v in record.items() if k not in log.TIMES} for record in found]


def same(one, other):
    """Whether two workdirs ended alike, bit for bit."""
    for name in log.FILES:
        assert lines(one, name) == lines(other, name), name
    ends = [json.loads((workdir / "done.json").read_text()) for workdir in (one, other)]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"]
    assert ends[0]["eval"] == ends[1]["eval"] and ends[0]["step"] == ends[1]["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six updates, never interrupted: the one training that the fast tests run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train.train(debug(updates=6), workdir)["resumed_from"] == []
    return workdir


def test_a_finished_run_says_what_it_did_and_stays_as_it_is(whole):
    done = json.loads((whole / "done.json").read_text())
    assert done["step"] == 6 and done["rollouts"] == 6 * 16 and done["stopped"] is None
    assert len(done["params_sha256"]) == 64 and done["eval"]["kl"]["value"] > 0
    assert [line["update"] for line in lines(whole)] == [1, 2, 3, 4, 5, 6]
    assert [line["update"] for line in lines(whole, "evaluations.jsonl")] == [0, 2, 4, 6]
    assert list((whole / "tensorboard").glob("events*"))
    line = disk.read_jsonl(whole / "metrics.jsonl")[-1]
    assert line["tokens_per_second"] > 0 and line["flops_per_second"] > 0
    assert line["skipped"] == line["limited"] == 0 and done["biased"] is None
    assert done["warnings"] == [] == [name for each in lines(whole) for name in each["warnings"]]
    assert len(line["kl_by_position"]) > 1 and 0 < line["ess_token"] <= 1.0001
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert train.train(debug(updates=6), whole) == done
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}


def start(workdir, *flags):
    command = [sys.executable, "-m", "experiments.train", "--config=configs/debug.py"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(path, process):
    """Waits for a file that a process makes."""
    for _ in range(30_000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError(f"{path} was not made")


# What a kill must not change: a buffer, and batches that are drawn again. A critic, an average and
# adapters under many kills: tests/experiments/test_reliability.py.
LONG = {
    "buffer": {"method__name": "dagger", "buffer__size": 12},
    "redraws": {"method__name": "dapo", "reuse__updates": 2},
}  # fmt: skip
CADENCE = {"updates": 60, "checkpoint__every": 4, "evaluate__every": 20}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "how"),
    [("buffer", signal.SIGTERM), ("redraws", signal.SIGKILL)],
)
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(what, how, players, tmp_path):
    changes = LONG[what] | CADENCE | {"models": str(players)}
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    assert train.train(debug(**changes), whole)["step"] == 60
    flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    process = start(workdir, *flags)
    until(workdir / "checkpoints" / "8", process)
    began = time.monotonic()
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how is signal.SIGTERM:
        assert process.returncode == 0, said
        assert time.monotonic() - began < 30
        assert "saved at update" in said
    assert not (workdir / "done.json").exists()
    process = start(workdir, *flags)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert json.loads((workdir / "done.json").read_text())["resumed_from"][0] >= 4
    same(workdir, whole)


@pytest.fixture(scope="module")
def players(tmp_path_factory):
    """A teacher and a student that the runs of these tests share."""
    return tmp_path_factory.mktemp("models")


@pytest.mark.slow
def test_raising_the_updates_goes_on_from_the_end(whole, tmp_path):
    workdir = tmp_path / "run"
    assert train.train(debug(updates=4), workdir)["step"] == 4
    done = train.train(debug(updates=6, checkpoint__every=1), workdir)
    assert done["resumed_from"] == [4]
    same(workdir, whole)


def test_another_config_is_refused_by_name(whole):
    with pytest.raises(ValueError, match="config.seed was 0, now 1"):
        train.check(debug(updates=6, seed=1), whole)
    train.check(debug(updates=9, evaluate__every=3, checkpoint__keep=7), whole)


def test_one_process_at_a_time(tmp_path):
    with (
        checkpoint.lock(tmp_path),
        pytest.raises(ValueError, match="another process is at work there"),
    ):
        train.train(debug(), tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["garbled", "cut"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(how, whole, tmp_path, capfd):
    workdir = tmp_path / "run"
    train.train(debug(updates=5), workdir)  # checkpoints 2, 4 and 5
    files = [path for path in (workdir / "checkpoints" / "5" / "tree").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if how == "garbled":
        content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content if how == "garbled" else content[: len(content) // 2])
    done = train.train(debug(updates=6), workdir)
    said = capfd.readouterr().err
    assert "checkpoint 5" in said and "is damaged" in said
    assert (workdir / "checkpoints.damaged" / "5" / "tree").is_dir(), "nothing is thrown away"
    assert done["resumed_from"] == [4]
    same(workdir, whole)


@pytest.mark.slow
def test_microbatches_train_as_the_whole_batch_does(whole, tmp_path):
    workdir = tmp_path / "run"
    train.train(debug(updates=2, optimizer__microbatches=2), workdir)
    for one, other in zip(lines(workdir), lines(whole)):
        np.testing.assert_allclose(one["gradient_norm"], other["gradient_norm"], rtol=1e-4)
        np.testing.assert_allclose(one["kl"], other["kl"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "what"), [(1e30, "gradient_norm"), (1e38, "the step itself")])
def test_updates_that_are_not_finite_are_skipped_counted_and_then_the_end(rate, what, tmp_path):
    """After a step of 1e30 gradients are NaN; one of 1e38 isn't finite, and is never made."""
    config = debug(updates=9, optimizer__learning_rate=rate, optimizer__skips=2)
    with pytest.raises(train.Diverged, match=f"3 updates in a row were not finite .*{what}"):
        train.train(config, tmp_path / "run")
    assert [line["skipped"] for line in lines(tmp_path / "run")][-3:] == [1, 2, 3]
    assert not (tmp_path / "run" / "done.json").exists()


@pytest.mark.slow
def test_training_stops_when_nothing_gets_better(tmp_path):
    config = debug(
        updates=9, optimizer__learning_rate=1e-9, evaluate__every=1, evaluate__patience=2
    )
    done = train.train(config, tmp_path / "run")
    assert done["stopped"] and done["step"] < 9
    assert train.train(config, tmp_path / "run") == done


@pytest.mark.slow
def test_the_average_of_parameters_is_what_is_judged(tmp_path):
    done = train.train(debug(updates=2, optimizer__ema=0.999999), tmp_path / "run")
    first, *_, last = lines(tmp_path / "run", "evaluations.jsonl")
    assert done["eval"]["kl"] == pytest.approx(first["kl"], rel=1e-3) and last["update"] == 2


# What only chooses among pure functions of the time axis, which tests of their own put to the test.
OF_TIME = {"ratio_rule", "correction_rule", "normaliser", "reduction"}


def of_new_parts():
    """Rows that have something which no row before them has: what is made of old parts is known."""
    seen = set()
    for row in table.ROWS:
        method = table.parse(row)
        words = {
            (axis, value)
            for part in (method.origin, *method.terms)
            for axis, value in vars(part).items()
            if isinstance(value, str) and axis not in OF_TIME
        }
        others = {importance.RATIO_RULES[term.ratio_rule or "none"].of for term in method.terms}
        pushes = {(term.rule is not None, term.onehot, bool(term.own)) for term in method.terms}
        parts = {len(method.terms)} | words | others | pushes
        if not parts <= seen and facts.refused(method) is None:
            yield row
        seen |= parts


@pytest.mark.slow
@pytest.mark.parametrize("row", list(of_new_parts()))
def test_every_row_takes_a_step(row, players, tmp_path):
    done = train.train(debug(updates=1, method__name=row, models=str(players)), tmp_path / "run")
    assert done["step"] == 1
    (line,) = lines(tmp_path / "run")
    assert np.isfinite(line["gradient_norm"])
    method = table.parse(row)
    # A group of equal rewards, an overlong rollout and a policy that is its own reference teach
    # nothing; whatever a teacher or the data grade does.
    graded = {"teacher_full", "teacher_logp"} & set(facts.needs(method)) or row == "sft"
    assert line["gradient_norm"] > 0 or not graded
    losses = {f"loss_{term.signal}" for term in method.terms}
    losses |= {"loss_value"} if "value" in facts.needs(method) else set()
    assert losses == {name for name in line if name.startswith("loss_")}
    assert ("clip_fraction" in line) == any(term.bounded for term in method.terms)
    # The student's own tokens have weights of 1 now, the log-probabilities of solutions nobody
    # knows, and the start's logged rollouts are the student's own at the first update.
    if row == "sft":
        assert line["ess_token"] is None and line["drift"] is None
    else:
        own = method.behavior in ("student", "buffer") or row in ("offline_rl", "dro")
        assert (line["ess_token"] > 0.999) == (own or line.get("student_share") == 1)
    generated = 16 * (1 + int(line.get("redrawn", 0) > 0))
    assert done["rollouts"] >= generated and done["rollouts"] % 16 == 0


REASONS = {
    "updates": {"reuse__updates": 3},
    "ess": {"reuse__updates": 50, "reuse__ess": 0.97},
    "kl": {"reuse__updates": 50, "reuse__kl": 0.03},
    "kl, sampled": {"reuse__updates": 50, "reuse__kl": 0.03, "reuse__hidden": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("why", REASONS)
def test_rollouts_are_given_up_for_the_reason_that_is_logged(why, players, tmp_path):
    """Each rule alone ends a batch; what it looks at is in the log at every update."""
    config = debug(
        updates=12, optimizer__learning_rate=2e-3, checkpoint__every=100, evaluate__every=100,
        models=str(players), **REASONS[why],
    )  # fmt: skip
    done = train.train(config, tmp_path / "run")
    found = lines(tmp_path / "run")
    reasons = [line["refresh"] for line in found]
    assert reasons[0] == "start" and set(reasons) == {"start", None, why.partition(",")[0]}
    batches = sum(reason is not None for reason in reasons)
    assert done["rollouts"] == 16 * batches == found[-1]["rollouts"]
    for before, line in zip(found, found[1:]):
        assert line["uses"] == (1 if line["refresh"] else before["uses"] + 1)
        assert line["ess_of"] == "trajectory"
        enumerated = config.reuse.hidden
        assert line["drift_from"] == ("enumerated" if enumerated else "sampled")
        if line["refresh"] is None:  # in use, so within the bounds
            assert line["ess_rule"] >= config.reuse.ess and line["uses"] <= config.reuse.updates
            assert config.reuse.kl is None or line["drift"] <= config.reuse.kl
            assert line["ess_rule"] < 0.9999 and line["drift"] != 0
        else:
            assert line["drift"] == pytest.approx(0, abs=1e-5)
        if line["refresh"] == "ess":
            assert line["given_up_at"]["ess_rule"] < config.reuse.ess
        if line["refresh"] == "kl":
            assert line["given_up_at"]["drift"] > config.reuse.kl
    if why == "updates":
        assert reasons == ["start", None, None] + ["updates", None, None] * 3


@pytest.mark.slow
def test_a_probe_follows_the_training_and_moves_nothing(whole, tmp_path):
    workdir = tmp_path / "run"
    rows = ("opd", "opd_sampled", "grpo")
    done = train.train(debug(updates=6, probe__every=3, probe__rows=rows), workdir)
    assert done["params_sha256"] == json.loads((whole / "done.json").read_text())["params_sha256"]
    found = disk.read_jsonl(workdir / "probe.jsonl")
    assert sorted({line["update"] for line in found}) == [1, 4]
    for update in (1, 4):
        here = [line for line in found if line["update"] == update]
        assert set(rows) <= {line["name"] for line in here}
        assert len({line["rollouts_digest"] for line in here}) == 1
        total = {line["name"]: line["variance"]["total"]["value"] for line in here}
        assert total["opd_sampled"] > total["opd"] > 0
    assert len({line["rollouts_digest"] for line in found}) == 2


@pytest.mark.slow
def test_a_reward_that_is_no_number_names_the_prompt(players, tmp_path, monkeypatch):
    (tmp_path / "judged.py").write_text("def badly(prompt, completion, answer):\n    return 'no'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = debug(method__name="rloo", reward__function="judged:badly", models=str(players))
    with pytest.raises(RewardError, match="judged:badly.*prompt '.*returned 'no'"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "done.json").exists()


@pytest.mark.slow
def test_a_run_that_learns_nothing_says_so_once_and_after_a_restart_as_without(
    players, tmp_path, monkeypatch, capfd
):
    (tmp_path / "strict.py").write_text("def never(prompt, completion, answer):\n    return 0.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    dead = {"method__name": "grpo", "reward__function": "strict:never", "models": str(players)}
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    done = train.train(debug(updates=6, **dead), whole)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert said == [f"warning: {warning}" for warning in done["warnings"]] and len(said) == 1
    assert said[0].startswith("warning: update 3: every completion earns 0, ")
    names = [line["warnings"] for line in lines(whole)]
    assert names == [[]] * 2 + [["equal_rewards", "equal_groups", "no_gradient"]] * 4
    for updates, warned in ((4, 1), (6, 0)):
        done = train.train(debug(updates=updates, **dead), workdir)
        assert capfd.readouterr().err.count("warning: ") == warned
    same(workdir, whole)
    assert done["warnings"] == json.loads((whole / "done.json").read_text())["warnings"]


@pytest.mark.slow
def test_a_user_s_reward_is_what_is_learned_from_and_judged(players, tmp_path, monkeypatch):
    (tmp_path / "graded.py").write_text(
        "def length(prompt, completion, answer):\n    return float(len(completion))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = debug(method__name="rloo", reward__function="graded:length", models=str(players))
    done = train.train(config, tmp_path / "run")
    assert 0 < done["eval"]["reward"]["value"] <= done["eval"]["length"]["value"]
    assert lines(tmp_path / "run")[0]["reward"] > 0


def test_draws_that_are_not_the_policy_s_are_said_to_bias(tmp_path):
    for row, biased in (
        ("opd_sampled", True),
        ("opd", False),
        ("rloo@importance=trajectory", False),
    ):
        plan = train.check(debug(method__name=row, sampling__temperature=0.7), tmp_path / "nowhere")
        assert (plan.biased is not None) == biased, row
        assert train.check(debug(method__name=row), tmp_path / "nowhere").biased is None


def test_checks_name_the_key():
    with pytest.raises(ValueError, match="unknown method 'nope'"):
        debug(method__name="nope")
    with pytest.raises(
        ValueError, match="config.probe.every = 5: allowed is 0 with behavior=teach"
    ):
        train.check(debug(method__name="teacher_behavior", probe__every=5), Path("nowhere"))
    with pytest.raises(ValueError, match="needs the log-probabilities that the dataset's policy"):
        train.check(
            debug(method__name="offline_rl@importance=token", dataset__source="solutions"),
            Path("nowhere"),
        )
    with pytest.raises(ValueError, match="k1 as a loss"):
        train.check(debug(method__name="k1_loss"), Path("nowhere"))
    assert checks.flat({"a": {"b": 1}}) == {"config.a.b": 1}

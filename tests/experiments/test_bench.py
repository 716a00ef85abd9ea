"""The benchmark: its arithmetic, its refusals, its page, and steps of tiny sizes."""

import dataclasses
import json
import os
import sys
import textwrap

import jax
import pytest

from experiments.bench import __main__ as command
from experiments.bench import busy, cases, measure, ours, page, protocol, roofline
from experiments.bench.busy import Usage
from experiments.bench.cases import CASES, Sizes
from experiments.bench.measure import Plan
from experiments.bench.side import Died, Side, Step
from opd.engine.vocab import Pass
from opd.method import table

TINY = "vocab=64,width=32,mlp=48,heads=2,kv_heads=1,head_dim=16,layers=1,teacher_layers=2,batch=4"
SMALL = command.changed(Sizes(), TINY + ",prompt=3,completion=5")
PEAKS = {
    "matmul_2048": 100.0,
    "matmul_vocabulary": 50.0,
    "vocabulary_shape": [20, 32, 64],
    "bandwidth": 10.0,
}


# ------------------------------------------------------------------------------------- arithmetic


def models(sizes):
    return ours.decoder(sizes, sizes.layers), ours.decoder(sizes, sizes.teacher_layers)


def test_the_arithmetic_of_a_step_is_that_of_its_matrices():
    """By hand for P 3, T 5, B 4: seven tokens enter a forward, five are graded."""
    mine, theirs = models(SMALL)
    layer = 2 * 32 * 16 * (2 + 1) + 3 * 32 * 48  # weights in the projections and the MLP
    forward = 2 * 7 * (layer + 2 * 7 * 2 * 16)  # and the scores over seven keys
    logits = 2 * 5 * 32 * 64
    numbers = [roofline.parameters(model) for model in (mine, theirs)]
    norms = 2 * 32 + 2 * 16  # two of the width, two of the head's, a layer
    assert numbers == [layers * (layer + norms) + 32 + 64 * 32 for layers in (1, 2)]
    found = roofline.counted("learn", SMALL, (mine, theirs), table.parse("opd"), 1, Pass())
    assert found["flops"] == 4 * (2 * forward + 3 * forward + 3 * logits + logits)
    assert found["bytes"] == 4 * (10 * numbers[0] + numbers[1])
    halves = roofline.halves(SMALL, (mine, theirs), table.parse("opd"), Pass())
    assert halves == (3 * forward + 2 * logits, 2 * forward + 2 * logits)


def test_a_whole_step_is_its_parts_and_files_have_no_arithmetic():
    given = SMALL, models(SMALL), table.parse("opd"), 6, Pass()
    counts = {step: roofline.counted(step, *given) for step in ("generate", "learn", "whole")}
    for name in ("flops", "bytes"):
        assert counts["whole"][name] == counts["generate"][name] + counts["learn"][name]
    assert roofline.counted("load", *given) == {"flops": 0, "bytes": 0}


def test_decoding_reads_the_parameters_at_every_token_and_the_cache_that_is_filled():
    mine, _ = models(SMALL)
    cache = sum(2 * 1 * 1 * 16 * 4 * filled for filled in (3, 4, 5, 6, 7))
    assert roofline.decoded(mine, SMALL) == 6 * roofline.parameters(mine) + cache


def test_the_bound_of_side_by_side():
    assert roofline.bound(2.0, 4.0, 1) == pytest.approx(1.1)
    assert roofline.bound(2.0, 4.0, 6) == pytest.approx(1.1 * 26 / 6)
    forward, backward = roofline.halves(SMALL, models(SMALL), table.parse("opd"), Pass())
    whole = roofline.counted("learn", SMALL, models(SMALL), table.parse("opd"), 1, Pass())
    assert 4 * (forward + backward) == whole["flops"]
    probe = roofline.counted("probe", SMALL, models(SMALL), table.parse("opd"), 6, Pass())
    assert probe["flops"] == 4 * (forward + 6 * backward)


def test_the_share_is_of_whatever_limits():
    arithmetic = roofline.reached({"flops": 10e9, "bytes": 0.1e9}, 200.0, PEAKS)
    assert arithmetic["share_of_matmul"] == pytest.approx(0.5)
    assert arithmetic["share_of_bandwidth"] == pytest.approx(0.05)
    assert arithmetic["share"] == pytest.approx(0.5)
    assert arithmetic["limit_ms"] == pytest.approx(100.0)
    traffic = roofline.reached({"flops": 1e9, "bytes": 1e9}, 200.0, PEAKS)
    assert traffic["share"] == traffic["share_of_bandwidth"] == pytest.approx(0.5)


def steps(times, memories):
    return [Step(ms, memory, True) for ms, memory in zip(times, memories, strict=True)]


def test_ratios_are_of_steps_side_by_side():
    mine = steps([10.0, 30.0, 20.0], [4.0, 5.0, 6.0])
    other = steps([20.0, 30.0, 80.0], [8.0, 8.0, 8.0])
    found = measure.compared([mine, other])
    assert found["ours"] == {"min": 10, "median": 20, "max": 30}
    assert found["ratio"] == {"min": 0.25, "median": 0.5, "max": 1}
    assert found["memory"]["ratio"] == {"min": 0.5, "median": 0.625, "max": 0.75}
    alone = measure.compared([mine])
    assert alone["peer"] is alone["ratio"] is alone["memory"]["ratio"] is None


def test_what_others_used_is_what_ours_did_not(tmp_path):
    tick = measure.os.sysconf("SC_CLK_TCK")
    (tmp_path / "7").mkdir()

    def now(user, idle, own):
        # user nice system idle iowait irq softirq steal guest guest_nice
        counts = [user * tick, 0, 0, idle * tick, 5, 0, 0, 0, user * tick, 0]
        (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, counts))}\ncpu0 1\n")
        parts = ["S", *["0"] * 9, 7 * own, own * tick, 0, 0, 0, *[7 * own] * 30]
        (tmp_path / "7" / "stat").write_text(f"7 (a (b) c) {' '.join(map(str, parts))}\n")
        return busy.usage([7], tmp_path)

    before, after = now(100, 500, 10), now(112, 508, 19)
    assert after.all - before.all == 12 and after.own - before.own == 9
    assert busy.others(before._replace(at=0.0), after._replace(at=10.0)) == pytest.approx(0.3)
    assert busy.others(Usage(0, 1, 1), Usage(1, 2, 3)) == 0


# -------------------------------------------------------------------------------------- processes

FAKE = textwrap.dedent(
    """
    import time

    from experiments.bench import protocol

    class Fake:
        def __init__(self, work):
            self.count, self.kept = 0, []
            print("noise on standard output")

        def before(self):
            pass

        def step(self):
            self.count += 1
            if self.count == {fails}:
                raise RuntimeError("out of luck")
            self.kept.append(bytearray(2**23))
            time.sleep(0.01)

    protocol.serve(Fake, ("pytest",), {{"parts": lambda own, repeats: own.count * repeats}})
    """
)


def fake(tmp_path, fails=0):
    file = tmp_path / f"fake_{fails}.py"
    file.write_text(FAKE.format(fails=fails))
    # Its folder is first on the path of a file that is run, and the project's isn't on it.
    start = f"import runpy, sys; sys.path.insert(0, '.'); runpy.run_path({str(file)!r})"
    return Side([sys.executable, "-c", start], cases.work(SMALL, "learn", None), os.environ)


def test_two_processes_take_turns(tmp_path):
    with fake(tmp_path) as one, fake(tmp_path) as two:
        assert one.ready().keys() == two.ready().keys() == {"python", "pytest"}
        taken, first, _ = measure.in_turn([one, two], 3)
        assert [len(steps) for steps in taken] == [3, 3] and len(first) == 2
        assert all(10 <= step.ms < 1000 for steps in taken for step in steps)
        # 8 MiB more a step, of which the last is the fifth; what a process has beside is little.
        assert [38 <= steps[-1].memory < 60 for steps in taken] == [True, True]
        assert one.ask("parts", 4) == 20


def test_a_process_that_fails_says_why(tmp_path):
    with fake(tmp_path, fails=2) as side:
        side.ready()
        side.step()
        with pytest.raises(Died, match="code 1: RuntimeError: out of luck"):
            side.step()


@pytest.fixture
def no_peaks(monkeypatch):
    monkeypatch.setattr(measure, "peaks_of", lambda sizes: PEAKS)


def test_a_busy_machine_has_no_ratio(tmp_path, monkeypatch, capsys, no_peaks):
    monkeypatch.setattr(measure, "sides", lambda plan: measure.contextlib.nullcontext(pair))
    monkeypatch.setattr(measure.busy, "others", lambda before, after: 0.25)
    file = tmp_path / "result.json"
    with fake(tmp_path) as one, fake(tmp_path) as two:
        pair = one, two
        with pytest.raises(SystemExit) as left:
            command.job(Plan("p", SMALL, 1, peer="trl"), file)
    assert left.value.code == 3 and not file.exists()
    assert "warning: other processes used 0.25 cores" in capsys.readouterr().err


def test_a_step_of_ours_is_measured(tmp_path, monkeypatch, capsys, no_peaks):
    monkeypatch.setattr(measure.busy, "LIMIT", 1e9)  # tests run on busy machines
    file = tmp_path / "result.json"
    command.job(Plan("p", SMALL, 2), file)
    result = json.loads(file.read_text())
    assert result["case"] == "p" and not result["usual_sizes"]
    assert result["ours"]["min"] > 0 and result["peer"] is None
    assert result["memory"]["ours"]["median"] > 0
    assert 0 < result["roofline"]["share"] < 1
    assert "others used" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["whole", "reuse", "probe"])
def test_every_step_runs_again_and_again(kind):
    own = ours.build(cases.work(SMALL, kind, 2))
    own.before()
    for _ in range(2):
        own.step()
    assert own.number == 2
    assert own.state is None if kind == "probe" else int(own.state.step) == 2
    if kind == "whole":  # no id ends a completion
        drawn = jax.device_get(own.draw())
        assert drawn.mask.all() and not drawn.ended.any()


def test_the_parts_of_a_step_add_up_to_it():
    own = ours.build(cases.work(SMALL, "learn", None))
    found = ours.parts.measured(own, 1)
    step = found.pop("step")
    assert sum(found.values()) == pytest.approx(step)
    names = {"teacher forward", "body forward", "vocabulary", "body backward", "optimizer"}
    assert found.keys() == names | {"metrics", "fetching metrics", "rest"}


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the case is missing: a, b"),
        (["q"], "the case 'q' is unknown: a, b"),
        (["p", "--rounds=0"], "--rounds=0: at least 1"),
        (["p", "--chunk=65"], "--chunk=65: 1 to 64"),
        (["p", "--chunk=0"], "--chunk=0: 1 to 64"),
        (["p", "--sizes=depth=3"], "--sizes: 'depth' is unknown: vocab"),
        (["p", "--sizes=width=0"], "--sizes: width is '0'"),
        (["p", "--sizes=head_dim=3"], "--sizes: head_dim is 3"),
        (["p", "--peer=verl"], "--peer=verl: trl, liger, tunix are allowed"),
        (["p", "--peer=tunix"], "--peer=tunix: not for case p, since Tunix"),
        (["a", "--peer=liger"], "--peer=liger: not for case a, since it is a fused loss"),
        (["p", "--peer=trl"], "--peer_python is missing"),
        (["p", "--peer_python=x"], "--peer_python: means nothing without --peer"),
        (["p", "--peer_chunk=8"], "--peer_chunk: means nothing without --peer"),
        (["p", "--peer_large_pages"], "--peer_large_pages: means nothing without --peer"),
        (["p", "--peer=trl", "--peer_chunk=8"], "--peer_chunk: trl has no chunks"),
        (["p", "--peer=liger", "--peer_chunk=1025"], "--peer_chunk=1025: 1 to 1024 are allowed"),
        (["p", "--peer=trl", "--peer_python=/no/python"], "--peer_python=/no/python: no Python"),
        (["p", "--json=/no/folder/x.json"], "no such folder /no/folder"),
        (["load", "--parts"], "--parts: case load has none"),
    ],
)
def test_a_mistake_is_one_line(given, said):
    with pytest.raises(ValueError) as refused:
        command.prepare(["bench", *given])
    assert said in str(refused.value) and "\n" not in str(refused.value)
    mine = ("rounds", "chunk", "sizes", "json", "parts")
    for flag in ("peer", "peer_python", "peer_chunk", "peer_large_pages", *mine):
        command.flags.FLAGS[flag].unparse()


@pytest.mark.parametrize(
    ("found", "said"),
    [({}, "not at all"), ({"trl": "1.15.0"}, "has trl 1.15.0; 1.16.0 is allowed")],
)
def test_another_version_of_a_peer_is_refused(monkeypatch, found, said):
    versions = dict(cases.PEERS["trl"].versions) | {"trl": "1.16.0"}
    versions = {**versions, **found} if found else {}
    monkeypatch.setattr(measure, "installed", lambda python, packages: versions)
    with pytest.raises(ValueError, match=said):
        measure.check(Plan("p", SMALL, 1, peer="trl", python="python"))


def test_a_build_of_a_known_version_is_taken(monkeypatch):
    versions = {name: f"{known}+cpu" for name, known in cases.PEERS["trl"].versions.items()}
    monkeypatch.setattr(measure, "installed", lambda python, packages: versions)
    measure.check(Plan("p", SMALL, 1, peer="trl", python="python"))


def test_versions_are_read_in_another_interpreter():
    found = measure.installed(sys.executable, ("jax", "no-such-package"))
    assert found == protocol.versions(["jax"])


# --------------------------------------------------------------------------------------- the page


def result(case, ratio, memory=None, against="trl", **more):
    """A result as a measurement has it, with made-up figures."""
    taken = [steps([100 * ratio], [50 * (memory or 1)]), steps([100.0], [50.0])]
    plan = Plan(case, CASES[case].sizes, 1, peer=against)
    found = roofline.reached({"flops": 1e9, "bytes": 1e8}, 100 * ratio, PEAKS)
    return {
        **measure.described(plan),
        **measure.compared(taken),
        "roofline": {"flops": 1e9, "bytes": 1e8, **PEAKS, **found},
        "versions": [{"jax": "1"}, {"trl": "2"}],
        "other_cores": 0.0,
        "parts": None,
        **more,
    }


def test_the_page_says_what_is_reached_and_what_is_not():
    text = page.page(
        [
            result("a", 0.48),
            result("b", 0.61),
            result("c", 0.5, memory=0.7, against="liger", parts={"vocabulary": 12.34}),
        ]
    )
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert "<= 0.50: reached" in lines["a"] and "0.48 (0.48-0.48)" in lines["a"]
    assert "<= 0.60: **not reached**" in lines["b"]
    assert "<= 0.60: reached" in lines["c"] and "<= 0.60: **not reached**" in lines["c"]
    assert "not measured" in lines["load"]
    assert lines["vocabulary"].endswith("| 12.3 |")
    assert "jax 1, trl 2" in text


def test_a_probe_is_held_to_its_own_bound():
    inside, outside = result("probe", 3.2), result("probe", 3.4)
    for one in (inside, outside):
        one["roofline"]["bound"] = 3.3
    assert page.row(inside)[6] == "<= 3.30: reached"
    assert page.row(outside)[6] == "<= 3.30: **not reached**"


def test_the_latest_result_of_usual_sizes_counts(tmp_path):
    for name, ratio, usual in (
        ("2026-01-02-b-trl", 0.7, True),
        ("2026-01-01-b-trl", 0.9, True),
        ("2026-01-03-b-trl", 0.1, False),
        ("2026-01-01-a-trl", 0.4, True),
    ):
        (tmp_path / f"{name}.json").write_text(
            json.dumps(result(name[11], ratio, usual_sizes=usual))
        )
    found = page.read(tmp_path)
    assert [(one["case"], one["ratio"]["median"]) for one in found] == [("a", 0.4), ("b", 0.7)]


def test_the_readme_is_of_the_committed_results():
    """Written by python -m experiments.bench.page."""
    assert (page.HERE / "README.md").read_text(encoding="utf-8") == page.page(page.read())


def test_sizes_that_are_given_replace_the_usual_ones():
    assert command.changed(Sizes(), "") == Sizes()
    assert command.changed(Sizes(), "vocab=7,batch=2") == dataclasses.replace(
        Sizes(), vocab=7, batch=2
    )

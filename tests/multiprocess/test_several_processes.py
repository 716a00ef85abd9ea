"""Two processes train as one does, begin and end together, and go on from each other's checkpoints.

Each test starts real processes: 2 with 4 fake devices each, with gloo between them.
"""

import json
import signal
import time

import pytest
from several import DEBUG, alike, begin, ended, jsonl, same, start, succeed, until


def sha256(workdir):
    return json.loads((workdir / "done.json").read_text())["params_sha256"]


# All completions of every evaluation are written, and so compared token by token.
TRAINED = DEBUG, "--config.evaluate.every=1", "--config.evaluate.samples=8"


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """The debug config on one device, and in two processes of four devices each."""
    one, two = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))
    alone, first, second = succeed(
        [
            start("train", *TRAINED, f"--workdir={one}", devices=1),
            *begin("train", *TRAINED, f"--workdir={two}"),
        ]
    )
    assert '"step": 3' in alone and '"step": 3' in first and '"step"' not in second
    return one, two


@pytest.mark.slow
def test_two_processes_train_as_one_does(one_and_two):
    """The same completions at every update, and statistics to 1e-5."""
    one, two = one_and_two
    same(two, one)
    assert len(jsonl(two / "samples.jsonl")) == 4 * 8
    assert not [path for path in two.iterdir() if path.name.startswith(".here")]
    assert len([*(two / "tensorboard").iterdir()]) == 1


@pytest.mark.slow
def test_processes_that_disagree_are_refused_everywhere(tmp_path):
    """On a value, each of which is allowed; and where one alone is wrong."""
    cases = {
        "config.updates": ((), ("--config.updates=4",)),
        "config.prompts": ((), ("--config.prompts=0",)),
    }
    runs = {
        key: begin("train", DEBUG, f"--workdir={tmp_path / key}", own=own)
        for key, own in cases.items()
    }
    for key, running in runs.items():
        for code, _, said in ended(running):
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert code == 2 and len(errors) == 1 and key in errors[0], said
        assert not (tmp_path / key / "config.json").exists()


def interrupt(workdir, how, which, flags):
    """Two processes, one of which gets a signal after three updates: how they ended, how late."""
    running = begin("train", *flags, f"--workdir={workdir}")
    until(lambda: len(jsonl(workdir / "metrics.jsonl")) >= 3, running)
    running[which].send_signal(how)
    began = time.monotonic()
    return ended(running), time.monotonic() - began


# What a checkpoint has beside the state: a buffer, and rollouts in flight.
REMEMBERS = {
    "buffer": ("--config.method.name=opd@behavior=buffer", "--config.buffer.size=6"),
    "reuse": ("--config.reuse.updates=2", "--config.checkpoint.every=1"),
}


@pytest.mark.deep
@pytest.mark.parametrize(("which", "memory"), [(0, "buffer"), (1, "reuse")])
def test_a_killed_process_ends_the_others_and_all_go_on(which, memory, tmp_path):
    """Within a minute, and the end is as if nothing had happened, bit for bit."""
    flags = DEBUG, "--config.updates=20", "--config.evaluate.every=10", *REMEMBERS[memory]
    found, late = interrupt(tmp_path / "run", signal.SIGKILL, which, flags)
    code, _, said = found[1 - which]
    assert found[which][0] == -signal.SIGKILL and code != 0 and late < 60
    assert "another process of this run has ended" in said or "another task died" in said
    succeed(begin("train", *flags, f"--workdir={tmp_path / 'run'}"))
    succeed(begin("train", *flags, f"--workdir={tmp_path / 'whole'}"))
    assert json.loads((tmp_path / "run" / "done.json").read_text())["resumed_from"]
    assert sha256(tmp_path / "run") == sha256(tmp_path / "whole")
    same(tmp_path / "run", tmp_path / "whole", 0.0)


@pytest.mark.deep
def test_a_process_that_is_asked_to_stop_stops_all(tmp_path):
    """After the same update, saved, with code 0."""
    flags = DEBUG, "--config.updates=1000"
    found, _ = interrupt(tmp_path / "run", signal.SIGTERM, 1, flags)
    assert [code for code, _, _ in found] == [0, 0], found
    assert "asked to stop: saved at update" in found[0][2] and "asked" not in found[1][2]
    last = jsonl(tmp_path / "run" / "metrics.jsonl")[-1]["update"]
    assert (tmp_path / "run" / "checkpoints" / str(last)).is_dir()


SHAPES = {
    "two processes": (2, {"data": 8, "fsdp": 1, "tensor": 1}),
    "one process": (1, {"data": 8, "fsdp": 1, "tensor": 1}),
    "one device": (0, {"data": 1, "fsdp": 1, "tensor": 1}),
}


def shaped(mesh):
    return [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]


@pytest.mark.deep
def test_a_checkpoint_goes_on_in_another_shape(one_and_two, tmp_path):
    """Saved on (2, 2, 2): on (8, 1, 1) of two processes and of one, and on one device."""
    mesh = shaped({"data": 2, "fsdp": 2, "tensor": 2})
    for number, (name, (processes, other)) in enumerate(SHAPES.items()):
        workdir = tmp_path / str(number)
        flags = *TRAINED, f"--workdir={workdir}"
        succeed(begin("train", *flags, *mesh, "--config.updates=2"))
        flags = *flags, *shaped(other)
        if processes == 2:
            succeed(begin("train", *flags))
        else:
            succeed([start("train", *flags, devices=8 if processes else 1)])
        assert json.loads((workdir / "done.json").read_text())["resumed_from"] == [2], name
        same(workdir, one_and_two[0])


KINDS = REMEMBERS | {
    "grpo": ("--config.method.name=grpo",),
    "ppo": ("--config.method.name=ppo",),
    "mixture": ("--config.method.name=gkd",),
    "probe": ("--config.probe.every=1",),
    "reward model": ("--config.trains=reward", "--config.dataset.groups=24"),
}


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training_is_the_same_in_two_processes(kind, tmp_path):
    flags = DEBUG, *KINDS[kind]
    alone = start("train", *flags, f"--workdir={tmp_path / 'one'}", devices=8)
    succeed([alone, *begin("train", *flags, f"--workdir={tmp_path / 'two'}")])
    same(tmp_path / "two", tmp_path / "one")


def printed(text):
    """The JSON at the end of what a command printed; gloo says first that it is there."""
    return json.loads(text[text.index("{") :])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.deep
def test_a_finished_run_is_scored_exported_and_asked_alike(one_and_two, tmp_path):
    """Files are the same to the byte, texts to the letter."""
    named = f"--workdir={one_and_two[1]}", "--step=best"
    folders = {name: tmp_path / name for name in ("one", "two")}
    alone, first, second = succeed(
        [start("evaluate", *named, devices=8), *begin("evaluate", *named)]
    )
    alike(printed(first), printed(alone))
    assert "{" not in second
    paths = {name: f"--path={folder}" for name, folder in folders.items()}
    succeed([start("export", *named, paths["one"]), *begin("export", *named, paths["two"])])
    assert contents(folders["one"]) == contents(folders["two"])
    sums = tmp_path / "sums.jsonl"
    sums.write_text("".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(8)))
    task = paths["one"], f"--task={sums}", "--length=3"
    alone, first, _ = succeed([start("evaluate", *task, devices=8), *begin("evaluate", *task)])
    alike(printed(first), printed(alone))
    asked = paths["two"], "--prompt=1+2=", "--length=4"
    alone, first, _ = succeed([start("generate", *asked), *begin("generate", *asked)])
    assert first.endswith(alone)


@pytest.mark.deep
def test_a_comparison_is_the_same_in_two_processes(tmp_path):
    """All but what a clock says, and the last bits of what tokens were drawn with."""
    alone = start("compare", DEBUG, f"--workdir={tmp_path / 'one'}", devices=8)
    first = succeed([alone, *begin("compare", DEBUG, f"--workdir={tmp_path / 'two'}")])[1]
    assert f"report: {tmp_path / 'two' / 'report.html'}" in first
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")
    )
    for results in (one, two):
        del results["stages"], results["advice"]  # seconds, and texts that have some
        del results["rollouts"]["digest_logp"], results["rollouts"]["late"]["digest_logp"]
    alike(two, one)
    for name in ("metrics.jsonl", "samples.jsonl"):
        alike(jsonl(tmp_path / "two" / name), jsonl(tmp_path / "one" / name), name=name)
    assert (tmp_path / "two" / "report.html").exists()


@pytest.mark.deep
def test_an_adapter_on_a_hub_folder_is_trained_alike(one_and_two, tmp_path):
    """Each process reads its own devices' parts of the weights.

    By rewards: the teacher is the student's start, and Adam would make an update of its rounding.
    """
    base = tmp_path / "base"
    succeed([start("export", f"--workdir={one_and_two[0]}", f"--path={base}", devices=1)])
    paths = [f"--config.{key}={base}" for key in ("student.path", "teacher.path", "data.tokenizer")]
    flags = *TRAINED, *paths, "--config.student.lora.rank=2", "--config.method.name=grpo"
    mesh = shaped({"data": 2, "fsdp": 2, "tensor": 2})
    alone = start("train", *flags, f"--workdir={tmp_path / 'one'}", devices=1)
    succeed([alone, *begin("train", *flags, *mesh, f"--workdir={tmp_path / 'two'}")])
    same(tmp_path / "two", tmp_path / "one")

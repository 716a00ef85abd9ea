"""Two processes train as one does, begin and end together, and go on from each other's checkpoints.

Each test starts real processes: 2 with 4 fake devices each, with gloo between them.
"""

import json
import signal
import time

import pytest
from several import DEBUG, alike, begin, ended, jsonl, start, succeed, until

FILES = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "probe.jsonl")


def same(one, other, close=1e-5):
    """Whether two workdirs ended alike: tokens and texts exactly, numbers to `close`."""
    for name in FILES:
        alike(jsonl(one / name), jsonl(other / name), close, name)
    ends = [json.loads((workdir / "done.json").read_text()) for workdir in (one, other)]
    for end in ends:
        del end["params_sha256"], end["resumed_from"]
    alike(*ends, close)


def sha256(workdir):
    return json.loads((workdir / "done.json").read_text())["params_sha256"]


def tokens(*flags):
    """Flags that have a probe say the digest of every update's rollouts."""
    return ("--config.probe.every=1", *flags)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The debug config in two processes, the rollouts of each update probed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    first, second = succeed(begin("train", DEBUG, f"--workdir={workdir}", *tokens()))
    assert '"step": 3' in first and '"step"' not in second
    return workdir


@pytest.mark.slow
def test_two_processes_train_as_one_does(two, tmp_path):
    """Of one device, and of eight: the same tokens, and statistics to 1e-5."""
    counts = {1: tmp_path / "one", 8: tmp_path / "eight"}
    succeed(
        [
            start("train", DEBUG, f"--workdir={workdir}", *tokens(), devices=devices)
            for devices, workdir in counts.items()
        ]
    )
    for workdir in counts.values():
        same(two, workdir)
    digests = [line["rollouts_digest"] for line in jsonl(two / "probe.jsonl")]
    assert len(set(digests)) == 3
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
    flags = DEBUG, "--config.updates=20", *REMEMBERS[memory]
    found, late = interrupt(tmp_path / "run", signal.SIGKILL, which, flags)
    code, _, said = found[1 - which]
    assert found[which][0] == -signal.SIGKILL and code != 0 and late < 60
    assert "another process of this run has ended" in said or "another task died" in said
    succeed(begin("train", *flags, f"--workdir={tmp_path / 'run'}"))
    succeed(begin("train", *flags, f"--workdir={tmp_path / 'whole'}"))
    assert json.loads((tmp_path / "run" / "done.json").read_text())["resumed_from"]
    assert sha256(tmp_path / "run") == sha256(tmp_path / "whole")
    same(tmp_path / "run", tmp_path / "whole", 0.0)


@pytest.mark.slow
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
def test_a_checkpoint_goes_on_in_another_shape(two, tmp_path):
    """Saved on (2, 2, 2): on (8, 1, 1) of two processes and of one, and on one device."""
    mesh = shaped({"data": 2, "fsdp": 2, "tensor": 2})
    for number, (name, (processes, other)) in enumerate(SHAPES.items()):
        workdir = tmp_path / str(number)
        flags = DEBUG, f"--workdir={workdir}", *tokens()
        succeed(begin("train", *flags, *mesh, "--config.updates=2"))
        flags = *flags, *shaped(other)
        if processes == 2:
            succeed(begin("train", *flags))
        else:
            succeed([start("train", *flags, devices=8 if processes else 1)])
        assert json.loads((workdir / "done.json").read_text())["resumed_from"] == [2], name
        alike(jsonl(workdir / "metrics.jsonl"), jsonl(two / "metrics.jsonl"))
        alike(jsonl(workdir / "probe.jsonl"), jsonl(two / "probe.jsonl"))


KINDS = REMEMBERS | {
    "grpo": ("--config.method.name=grpo",),
    "ppo": ("--config.method.name=ppo",),
    "mixture": ("--config.method.name=gkd",),
    "reward model": ("--config.trains=reward", "--config.dataset.groups=24"),
}


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training_is_the_same_in_two_processes(kind, tmp_path):
    flags = DEBUG, *KINDS[kind]
    alone = start("train", *flags, f"--workdir={tmp_path / 'one'}", devices=8)
    succeed([alone, *begin("train", *flags, f"--workdir={tmp_path / 'two'}")])
    same(tmp_path / "two", tmp_path / "one")

"""A process for what may never end: it answers, is late, dies, and is there again."""

import os
import signal
import subprocess
import time

import pytest

from opd.data.worker import Worker


@pytest.fixture
def worker():
    made = Worker("last")
    yield made
    made.close()


def test_requests_are_answered_in_order(worker):
    long = "x" * 300_000
    assert worker.ask("a.", "ab ac") == "ac"
    assert worker.ask("(x)y|z", "xy") == "x" and worker.ask("b", "a") is None
    assert worker.ask("x+", f"\n{long}\n\udc00é") == long


def test_what_never_ends_is_ended(worker):
    assert worker.ask("a", "a") == "a"
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 0.5 seconds"):
        worker.ask("(a+)+b", "a" * 60, seconds=0.5)
    assert time.monotonic() - began < 20
    assert worker.ask("a", "a") == "a", "another process answers"


def test_a_process_that_was_killed_meanwhile_is_started_again(worker):
    assert worker.ask("a", "a") == "a"
    before = worker._running
    os.kill(before.pid, signal.SIGKILL)
    before.wait()
    assert worker.ask("a", "a") == "a" and worker._running is not before


def test_what_equals_what_is_the_same_in_every_process(worker, monkeypatch):
    environments = []

    def recorded(*arguments, env, **more):
        environments.append(env)
        return start(*arguments, env=env, **more)

    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", recorded)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert worker.ask("a", "a") == "a"
    assert environments[0]["PYTHONHASHSEED"] == "0" and environments[0]["PATH"]


def test_what_fails_within_equals_nothing(worker):
    assert worker.ask("(", "a") is None
    assert worker.ask("a", "a") == "a"

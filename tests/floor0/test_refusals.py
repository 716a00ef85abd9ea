"""What a disk refuses is known for what it is, whoever wrapped it."""

import errno
import os

import pytest

from opd import disk
from opd.run.settings import command


def wrapped(error, outer):
    try:
        try:
            raise error
        except Exception as inner:
            raise outer from inner
    except Exception as caught:
        return caught


@pytest.mark.parametrize("code", disk.REFUSALS)
def test_every_refusal_is_said_with_its_file(code):
    error = OSError(code, os.strerror(code), "metrics.jsonl")
    assert disk.refusal(error) == f"metrics.jsonl: {os.strerror(code)}"


def test_a_refusal_is_found_behind_other_errors():
    """orbax raises a ValueError of tensorstore, whose text has the words; TFDS a RuntimeError."""
    full = OSError(errno.ENOSPC, "No space left on device")
    assert disk.refusal(wrapped(full, RuntimeError("save failed"))) == "No space left on device"
    said = "RESOURCE_EXHAUSTED: Failed to write 6 bytes to file 7: No space left on device [28]"
    assert disk.refusal(wrapped(ValueError(said), KeyError("step"))) == "No space left on device"


def test_other_errors_are_none():
    assert disk.refusal(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert disk.refusal(wrapped(KeyError("a"), ValueError("shapes differ"))) is None


def test_errors_that_hold_each_other_end():
    one, other = ValueError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert disk.refusal(one) is None


class Left(Exception):
    """What stands for the end of the process."""


def test_a_job_that_the_disk_refuses_leaves_with_three_and_one_line(monkeypatch, capsys):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)

    def job():
        raise OSError(errno.EROFS, "Read-only file system", "config.json")

    with pytest.raises(Left, match="3"):
        command.run(lambda: job)
    said = capsys.readouterr().err
    assert said.startswith("error: config.json: Read-only file system") and said.count("\n") == 1
    assert "give the same command again" in said


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def job():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        command.run(lambda: job)

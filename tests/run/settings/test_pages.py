"""A command's memory lies in large pages, where Linux gives them to those who ask."""

import functools
import os
import re
import subprocess
import sys

import pytest

from opd.run.settings import pages

# A command that says how it was called, what it was given, and in what pages 64 MiB of it lie.
COMMAND = """
import os, re, sys
from opd.run.settings import command
def job():
    memory = bytearray(b"1") * (64 << 20)
    lines = open("/proc/self/smaps").read()
    large = sum(int(kib) for kib in re.findall(r"AnonHugePages: +(\\d+)", lines)) >> 10
    print(sys.argv[1:], os.environ.get("GLIBC_TUNABLES", ""), large)
command.main(lambda: job)
"""


@pytest.fixture
def called(tmp_path):
    """What the command prints: its arguments, the variable, and MiB in large pages."""
    (tmp_path / "command.py").write_text(COMMAND)
    return functools.partial(call, [str(tmp_path / "command.py")])


def call(how, *given, tunables=None):
    environment = dict(os.environ)
    environment.pop(pages.TUNABLES, None)
    if tunables is not None:
        environment[pages.TUNABLES] = tunables
    command = [sys.executable, *how, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return re.fullmatch(r"(\[.*\]) (\S*) (\d+)\n", done.stdout).groups()


@pytest.mark.skipif(not pages._asking_helps(), reason="this system gives nobody large pages so")
def test_a_command_begins_again_with_large_pages_and_what_it_was_given(called):
    given, tunables, large = called("--a=b c", "'d'")
    assert given == str(["--a=b c", "'d'"]) and tunables == "glibc.malloc.hugetlb=1"
    assert int(large) >= 8  # of 64: all of it where memory isn't in pieces, and none unasked
    _, tunables, _ = called(tunables="glibc.malloc.perturb=0")
    assert tunables == "glibc.malloc.perturb=0:glibc.malloc.hugetlb=1"


def test_who_says_anything_of_large_pages_is_heard(called):
    assert called(tunables="glibc.malloc.hugetlb=0")[1] == "glibc.malloc.hugetlb=0"
    assert call(["-c", COMMAND])[1] == ""  # it may have read its standard input by now


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("glibc.malloc.hugetlb=1", None),
        ("glibc.malloc.perturb=0:glibc.malloc.hugetlb=1", "glibc.malloc.perturb=0"),
        (None, None),
    ],
)
def test_an_environment_without(given, left):
    environment = {"A": "1"} | ({} if given is None else {pages.TUNABLES: given})
    assert pages.asked(environment) == (given is not None)
    cleared = pages.without(environment)
    assert cleared == {"A": "1"} | ({} if left is None else {pages.TUNABLES: left})
    assert not pages.asked(cleared)


@pytest.mark.parametrize(
    ("library", "setting", "helps"),
    [
        (("glibc", "2.36"), "always [madvise] never", True),
        (("glibc", "2.31"), "always [madvise] never", False),
        (("", ""), "always [madvise] never", False),
        (("glibc", "2.36"), "[always] madvise never", False),
        (("glibc", "2.36"), "always madvise [never]", False),
        (("glibc", "2.36"), None, False),
    ],
)
def test_nobody_begins_twice_for_nothing(monkeypatch, tmp_path, library, setting, helps):
    enabled = tmp_path / "enabled"
    if setting is not None:
        enabled.write_text(setting)
    monkeypatch.setattr(pages, "ENABLED", enabled)
    monkeypatch.setattr(pages.platform, "libc_ver", lambda: library)
    assert pages._asking_helps() == helps

"""What an installation has: all of `opd`, no other top-level name; in CI, one set of versions."""

import fnmatch
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = ("test", "dev", "oracles")  # of CI


@pytest.fixture
def described(monkeypatch):
    """What setup.py hands to setuptools."""
    found = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **given: found.update(given))
    runpy.run_path("setup.py")
    return found


def test_every_folder_of_the_package_and_nothing_else_is_installed(described):
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "opd").rglob("*.py")}
    assert set(described["packages"]) == {".".join(folder.parts) for folder in folders}


def test_files_that_are_no_modules_go_along(described):
    """Templates are read from where they lie, and py.typed is what type checkers look for."""
    for path in (ROOT / "opd").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = ".".join(path.parent.relative_to(ROOT).parts)
            patterns = described["package_data"].get(package, [])
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), (
                f"setup.py: package_data has no pattern for {path.relative_to(ROOT)}"
            )
    assert (ROOT / "opd" / "py.typed").is_file()


# --- versions ---------------------------------------------------------------------------------


def locked(text):
    """A lock's versions by name."""
    lines = [line.partition("==") for line in text.splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in lines}


def lacking(asked, versions):
    """Requirements that a lock has nothing for, or a version that isn't allowed."""
    return [
        line
        for line, one in ((line, Requirement(line)) for line in asked)
        if canonicalize_name(one.name) not in versions
        or not one.specifier.contains(versions[canonicalize_name(one.name)])
    ]


def test_the_lock_has_what_setup_asks_for(described):
    extras = [line for name in EXTRAS for line in described["extras_require"][name]]
    versions = locked((ROOT / "scripts" / "locked.txt").read_text())
    wrong = lacking([*described["install_requires"], *extras], versions)
    assert not wrong, f"scripts/locked.txt lacks {wrong}: write it anew (scripts/lock)"


def test_the_lock_pins_versions_alone():
    """No address, no path, no build of one machine: each line is NAME==VERSION."""
    first, *lines = (ROOT / "scripts" / "locked.txt").read_text().splitlines()
    assert first.startswith("# ") and lines == sorted(lines)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("jax>=0.10.1", []),
        ("jax>=0.11", ["jax>=0.11"]),
        ("array_record>=0.8", []),
        ("new", ["new"]),
    ],
)
def test_a_lock_that_lacks_something_is_noticed(line, found):
    assert lacking([line], {"jax": "0.10.2", "array-record": "0.8.6"}) == found


def test_an_unknown_flag_of_the_lock_is_refused():
    done = subprocess.run([ROOT / "scripts" / "lock", "--chekc"], capture_output=True, text=True)
    assert done.returncode == 2 and "Usage: scripts/lock [--check]" in done.stdout

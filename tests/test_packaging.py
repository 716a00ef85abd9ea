"""What an installation has: all of `opd`, and no other top-level name."""

import fnmatch
import runpy
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parent.parent


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

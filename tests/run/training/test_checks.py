"""Workdirs that a run can't be in are refused before it starts."""

from pathlib import Path

import pytest

from opd.run.training import checks


def test_a_workdir_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    """Asked of the system: whoever runs the tests may be allowed everything."""
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="it can't be written to"):
        checks.folder(tmp_path)
    checks.folder(tmp_path / "absent")


def test_a_workdir_below_a_folder_that_cannot_be_read_is_refused(monkeypatch, tmp_path):
    def denied(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(ValueError, match="it can't be reached \\(Permission denied\\)"):
        checks.folder(tmp_path / "closed" / "x")

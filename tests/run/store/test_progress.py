"""Bars are for terminals."""

import io

import pytest
import rich.console

from opd.run.store.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_bars_speak_to_terminals_only(stream, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # must not put bars into log files
    out = stream()
    console = rich.console.Console(file=out, width=100)
    with progress("probe", 4, console) as advance:
        advance(beside="kl 0.5")
        advance(3)
    shown = out.getvalue()
    if stream is Terminal:
        assert "probe" in shown and "4/4" in shown and "eta" in shown and "kl 0.5" in shown
    else:
        assert shown == ""

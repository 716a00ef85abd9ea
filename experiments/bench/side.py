"""A measured process, from the outside."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Died(RuntimeError):
    """A measured process ended before it answered; says what it printed last."""


class Step(NamedTuple):
    """What one step took."""

    ms: float
    memory: float  # MiB, its peak over the level before the first step
    of_step: bool  # whether the peak is this step's own, or that of all steps so far


class Side:
    """A process that does one side's work a step at a time; ended on leaving."""

    def __init__(
        self, command: Sequence[str], work: Mapping[str, Any], environment: Mapping[str, str]
    ):
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        threads = str(work["threads"])
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._name = " ".join(map(str, command))
        self._send(work)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ready(self) -> dict[str, Any]:
        """Waits until everything is made; versions of what runs there."""
        return self._answer()["ready"]

    def step(self) -> Step:
        """One step. Raises `Died` where it failed."""
        self._send({"ask": "step"})
        said = self._answer()
        return Step(said["ms"], said["memory"], said["peak_is_of_step"])

    def ask(self, name: str, repeats: int = 1) -> Any:
        """The answer to another question."""
        self._send({"ask": name, "repeats": repeats})
        return self._answer()["answer"]

    def _send(self, said: Mapping[str, Any]) -> None:
        try:
            print(json.dumps(said), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._died() from None

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> Died:
        self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        last = lines[-1] if lines else "it printed nothing"
        return Died(f"{self._name} ended with code {self._process.returncode}: {last}")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()
            except BrokenPipeError:  # what was still to be sent to a process that is gone
                pass

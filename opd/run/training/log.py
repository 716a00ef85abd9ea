"""What a training says as it goes: lines of JSON, TensorBoard, a completion on the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.markup

from opd import disk
from opd.run.store.board import Board
from opd.run.training.note import Note
from opd.run.training.policy import Memory, generated

FILES = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "probe.jsonl")
# Figures that measure time: the only ones that a run that was killed has others of.
TIMES = ("seconds", "tokens_per_second", "flops_per_second")


class Log:
    """What a run says as it goes: lines of JSON, TensorBoard, and a completion on the terminal."""

    def __init__(self, workdir: Path, update: int):
        for name in FILES:
            disk.keep_until(workdir / name, update)
        self._files = [disk.JsonlWriter(workdir / name) for name in FILES]
        self._metrics, self._evaluations, self._samples, self._probe = self._files
        self._board = Board(workdir / "tensorboard", update + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()
        self._board.close()

    def update(self, note: Note, memory: Memory, values: Mapping[str, Any]) -> None:
        """A line an update; rates are over the whole update, rollout and teacher included."""
        values = dict(values)
        where = {"update": note.update, "rollouts": generated(memory)}
        for line in values.pop("probe", ()):
            self._probe.write(where | line)
        values |= {"seconds": note.seconds}
        for name in ("tokens", "flops"):
            if name in values:
                values[f"{name}_per_second"] = float(values[name]) / (note.taken or math.inf)
        self._metrics.write(where | values)
        self._scalars("train", values, note.update)

    def evaluation(
        self,
        note: Note,
        memory: Memory,
        figures: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]],
    ) -> None:
        """An evaluation, and completions of it."""
        where = {"update": note.update, "rollouts": generated(memory)}
        self._evaluations.write(where | {"seconds": note.seconds} | dict(figures))
        for sample in samples:
            self._samples.write({"update": note.update} | dict(sample))
        values = {name: figure.value for name, figure in figures.items()}
        self._scalars("eval", values, note.update)
        if samples and sys.stdout.isatty():
            first = {
                key: rich.markup.escape(str(samples[0][key])) for key in ("prompt", "completion")
            }
            rich.print(f"[dim]{first['prompt']}[/dim][green]{first['completion']}[/green]")

    def _scalars(self, group: str, values: Mapping[str, Any], update: int) -> None:
        scalars = {
            f"{group}/{name}": float(value)
            for name, value in values.items()
            if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"
        }
        self._board.scalars(scalars, update)

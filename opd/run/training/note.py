"""Where a training stands: what a checkpoint has beside the arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from opd import disk
from opd.run.training import signs
from opd.run.training.signs import Circumstances, Line, Memory


@dataclasses.dataclass(frozen=True)
class Note:
    """Updates, seconds, what evaluations have said so far, and what was warned of."""

    update: int = 0
    seconds: float = 0.0  # of all updates, the compilation of the first included
    taken: float = 0.0  # of the last one
    judged: int = -1  # update of the last evaluation
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: float | None = None  # the most that an evaluation was worth
    waited: int = 0  # evaluations since
    signs: Memory = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    resumed_from: tuple[int, ...] = ()

    @staticmethod
    def resumed(saved: Mapping[str, Any]) -> Note:
        """The note of a checkpoint that is gone on from."""
        lists = {
            "resumed_from": (*saved["resumed_from"], saved["update"]),
            "warnings": tuple(saved.get("warnings", ())),
        }
        return Note(**{**saved, **lists})

    def updated(self, taken: float) -> Note:
        """After one more update."""
        return dataclasses.replace(
            self, update=self.update + 1, seconds=self.seconds + taken, taken=taken
        )

    def looked(self, line: Line, run: Circumstances) -> tuple[Note, list[str], list[str]]:
        """After a look at the update's line: names of what is the case, and what is to be said."""
        memory, names, begun = signs.look(self.signs, line, run, self.update)
        warnings = [f"update {self.update}: {each}" for each in begun]
        moved = dataclasses.replace(self, signs=memory, warnings=(*self.warnings, *warnings))
        return moved, names, warnings

    def judged_by(self, figures: Mapping[str, Any], worth: float | None) -> tuple[Note, bool]:
        """After an evaluation, and whether it is the best so far."""
        better = worth is not None and (self.best is None or worth > self.best)
        moved = dataclasses.replace(
            self,
            judged=self.update,
            evaluation=disk.strict(figures),
            best=worth if better else self.best,
            waited=0 if better else self.waited + 1,
        )
        return moved, better

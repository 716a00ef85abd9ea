"""What another training left: the workdir, the checkpoint and the step that a `from` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.run.players import folder
from opd.run.store import checkpoint
from opd.types import Params

# What a workdir may have trained. One of a reward model describes it in models/reward.
TRAINED = {"policy": "a policy", "reward": "a reward model"}


class Trained(NamedTuple):
    """A checkpoint of another training."""

    workdir: Path
    checkpoints: Path
    step: int

    @property
    def identity(self) -> dict[str, Any]:
        """The step, and the digest of what is in it."""
        return {"step": self.step, "sha256": checkpoint.contents(self.checkpoints / str(self.step))}

    def params(self, model: Decoder | Scalar, mesh: Mesh, trained: bool = False) -> Params:
        """The model's parameters of that step, on the mesh: as they were trained, or at rest."""
        wanted = folder.abstract(model, mesh, trained)
        return checkpoint.params(self.checkpoints, wanted, self.step)


def find(name: str, what: str = "policy") -> Trained:
    """The checkpoint that a `from` names.

    WORKDIR is its last one, WORKDIR@STEP that one, WORKDIR@best what was evaluated best. `what` is
    what must have been trained there, a key of TRAINED.

    Raises:
        ValueError: no such workdir, no finished checkpoint, no such step, a damaged one, or a
            training of something else.
    """
    workdir, at, which = name.rpartition("@")
    if not at or not (which.isdecimal() or which == "best") or os.path.isdir(name):
        workdir, which = name, ""
    if not os.path.isdir(workdir):
        raise ValueError(
            f"from = {name!r}: no such workdir; allowed is WORKDIR, WORKDIR@STEP or WORKDIR@best "
            "of another training"
        )
    steps = Path(workdir) / ("best" if which == "best" else "checkpoints")
    try:
        step = checkpoint.whole(steps, int(which) if which.isdecimal() else None)
    except OSError as error:
        raise ValueError(f"{steps}: cannot be read ({error.strerror})") from None
    there = "reward" if (Path(workdir) / "models" / "reward").is_dir() else "policy"
    if there != what:
        raise ValueError(
            f"from = {name!r}: {TRAINED[there]} was trained there, allowed is {TRAINED[what]}"
        )
    return Trained(Path(workdir), steps, step)

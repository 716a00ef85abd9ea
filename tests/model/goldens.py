"""Golden logits of published families, for machines without transformers.

python -m tests.model.goldens  # with transformers installed: writes goldens.npz

The file holds config.json, the tensors' shapes and the logits at the last POSITIONS of one input.
Weights aren't stored: NumPy draws them from the tensors' names (`experiments.parity.cases`).
"""

import json
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

from experiments.parity import cases
from experiments.parity.cases import Case

FILE = Path(__file__).with_name("goldens.npz")
POSITIONS = 24
CASES = {case.name: case for case in cases.CASES}


def measured() -> dict[str, np.ndarray]:
    """What the file holds, from transformers."""
    from experiments.parity import peer

    described, logits = {}, {}
    for case in cases.CASES:
        with tempfile.TemporaryDirectory() as work:
            peer.write(case, Path(work) / "theirs")
            theirs = peer.load(Path(work) / "theirs")
            whole = safetensors.numpy.load_file(Path(work) / "theirs" / "model.safetensors")
        shapes = {name: list(value.shape) for name, value in sorted(whole.items())}
        described[case.name] = {"json": dict(case.json), "shapes": shapes}
        logits[case.name] = peer.logits(theirs, cases.tokens(1))[0, -POSITIONS:]
    return {"described": np.asarray(json.dumps(described)), **logits}


def described() -> dict[str, dict]:
    """Every case's config.json and shapes."""
    with np.load(FILE) as found:
        return json.loads(str(found["described"]))


def logits(name: str) -> np.ndarray:
    """A case's golden logits, [POSITIONS, V]."""
    with np.load(FILE) as found:
        return found[name]


def write(case: Case, folder: Path, dtype: str = "float32", shards: int = 1) -> dict:
    """A case's folder, made without transformers; returns its tensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(case.json)), encoding="utf-8")
    drawn = cases.weights(described()[case.name]["shapes"], case.architecture)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    tensors = {name: value.astype(kind) for name, value in drawn.items()}
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return tensors
    placed = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        names = list(tensors)[number::shards]
        safetensors.numpy.save_file({name: tensors[name] for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return tensors


if __name__ == "__main__":
    np.savez(FILE, **measured())
    print(FILE, FILE.stat().st_size)

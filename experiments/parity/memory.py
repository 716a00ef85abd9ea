"""What loading takes: host memory above the checkpoint's bytes, and time beside reading files.

python -m experiments.parity.memory FOLDER  # in a process of its own: loads it, prints one line
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from opd.engine import sharding
from opd.model.decoder import Decoder, DecoderConfig
from opd.run.players import hub, hub_export

ROOT = Path(__file__).parents[2]
MEBIBYTE = 2**20
LIMIT = 1.2  # peak host memory over the checkpoint's bytes
STATUS = Path("/proc/self/status")  # Linux's; ru_maxrss would remember the parent process


def config(dtype: str, size: int) -> DecoderConfig:
    """A Llama of about so many bytes, most of them in layers."""
    item = 2 if dtype == "bfloat16" else 4
    layer, vocab = 15 * 2**20, 16 * 2**20  # parameters
    layers = max(1, round((size / item - 2 * vocab) / layer))
    return DecoderConfig(
        vocab=2**14,
        width=1024,
        layers=layers,
        heads=16,
        kv_heads=4,
        mlp=4096,
        tied=False,
        dtype=dtype,
        param_dtype=dtype,
    )


def write(folder: Path, dtype: str, size: int) -> None:
    """Such a checkpoint, in five shards or so."""
    model = config(dtype, size)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    block = np.random.RandomState(0).standard_normal(12345).astype(kind)
    shapes = jax.eval_shape(Decoder(model).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.resize(block, leaf.shape), shapes)
    described = hub_export.family_of(model).config_json(model)
    hub_export.save(folder, model, params, described, lambda folder: None, shard_bytes=size // 5)


def shards(folder: Path) -> list[Path]:
    """The files with weights."""
    return sorted(folder.glob("*.safetensors"))


def forgotten(files: list[Path]) -> None:
    """Drops the files from the system's memory, so that the next reader goes to the disk."""
    for file in files:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def status() -> Iterator[tuple[str, int]]:
    """This process's memory by Linux's names, in bytes."""
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, 1024 * int(value.split()[0])


def load(folder: Path) -> dict[str, Any]:
    """Loads a checkpoint: the most memory above what this process had before, and seconds."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    jax.block_until_ready(jax.numpy.zeros(1))
    before = dict(status())["VmRSS"]
    began, worked = time.perf_counter(), time.process_time()
    jax.block_until_ready(hub.load(hub.look(folder), mesh))
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "peak": dict(status())["VmHWM"] - before,
    }


def measure(folder: Path, dtype: str, size: int, repeats: int = 3) -> dict[str, Any]:
    """Peak and speed of loading a new checkpoint, in fresh processes: bytes and seconds.

    Seconds are the least of some, of files that are not in the system's memory: ours, and those of
    `cat`. Peak is the largest.
    """
    write(folder, dtype, size)
    files = shards(folder)
    total = sum(file.stat().st_size for file in files)
    command = [sys.executable, "-m", "experiments.parity.memory", str(folder)]
    found, read = [], []
    for _ in range(repeats):
        forgotten(files)
        began = time.perf_counter()
        with open(os.devnull, "wb") as nowhere:
            subprocess.run(["cat", *map(str, files)], stdout=nowhere, check=True)
        read.append(time.perf_counter() - began)
        forgotten(files)
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    peak = max(one["peak"] for one in found)
    return {
        "shards": len(files),
        "bytes": total,
        "peak": peak,
        "ratio": peak / total,
        "seconds": min(one["seconds"] for one in found),
        "cpu_seconds": min(one["cpu_seconds"] for one in found),
        "read_seconds": min(read),
    }


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]))))

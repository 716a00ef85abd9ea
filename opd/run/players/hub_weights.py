"""A Hugging Face folder's files: which are read, what is in them, and what is no checkpoint.

Headers are looked at by the safetensors library; numbers are read slice by slice, so that no second
copy of a model is ever in memory. Nothing pickled is opened.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

CONFIG = "config.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# safetensors' names of the dtypes that a decoder can have.
DTYPES = {"BF16": "bfloat16", "F32": "float32", "F64": "float64", "F16": "float16"}

# --- what a folder holds ----------------------------------------------------------------------

CONVERT = "load them with transformers and write them with save_pretrained"
# Names that tell a folder that can't be read from one that can, and what to do with it.
OTHERS = (
    (
        "adapter_config.json",
        "an adapter of PEFT: merge it into its base (merge_and_unload, then save_pretrained) and "
        "give the merged folder",
    ),
    ("snapshots", "the cache of a repository: give the folder below its snapshots"),
    ("model-*-of-*.safetensors", f"shards without {INDEX}: copy it too"),
    ("*.gguf", "weights as llama.cpp has them: give the folder that they were made of"),
    ("pytorch_model*.bin*", f"pickled weights, which are never opened: {CONVERT}"),
    ("*.pt", f"pickled weights, which are never opened: {CONVERT}"),
    ("*.pth", f"pickled weights, which are never opened: {CONVERT}"),
    ("*.distcp", f"a training's own checkpoint: {CONVERT}"),
    ("consolidated*.safetensors", f"weights under their makers' own names: {CONVERT}"),
    ("checkpoint-*", "a training with its checkpoints: give one of these folders"),
    ("*.safetensors", f"safetensors under other names: {WHOLE} or {INDEX} is allowed"),
)
# How files begin that stand where something else should.
BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it (git lfs pull)"),
    (b"\x80", f"pickled, which is never opened: {CONVERT}"),
    (b"PK\x03\x04", f"pickled, which is never opened: {CONVERT}"),
    (b"GGUF", "a file of llama.cpp: give the folder that it was made of"),
    (b"<", "a web page, not the file itself: download it again"),
)


def names(folder: Path) -> list[str]:
    """What is in a folder.

    Raises:
        ValueError: there is none, or it can't be read.
    """
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        hint = "a folder with config.json and safetensors is allowed"
        if PurePosixPath(folder).parts[-1:] and len(PurePosixPath(folder).parts) == 2:
            hint += f"; of a repository: hf download {folder} --local-dir FOLDER"
        raise ValueError(f"{folder}: no such folder; {hint}") from None
    except NotADirectoryError:
        raise ValueError(f"{folder}: is a file: the folder with config.json is allowed") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: cannot be read ({_reason(error)})") from None


def other(folder: Path) -> str | None:
    """What a folder is instead of a checkpoint, and what to do; None: nothing that is known."""
    for pattern, hint in OTHERS:
        found = fnmatch.filter(names(folder), pattern)
        if found:
            return f"has {shown(found[0])}: {hint}"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a folder.

    Raises:
        ValueError: it can't be read, is something else, or has a key twice.
    """
    try:
        content = path.read_bytes()
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({_reason(error)})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({_instead(content) or error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are there once: of two values, readers take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has {shown(twice)} twice, allowed is once")
    return found


def _instead(beginning: bytes) -> str | None:
    """What a file is by how it begins, where that is known to be wrong."""
    return next((what for start, what in BEGINNINGS if beginning.startswith(start)), None)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def shown(name: Any) -> str:
    """A name of a file's, as it may stand in a message: printable, and not too long."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 120 else f"{text[:117]}..."


# --- which tensor lies where ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in its file."""

    file: Path
    dtype: str  # as safetensors calls it
    shape: tuple[int, ...]
    start: int  # byte

    @property
    def kind(self) -> np.dtype:
        """NumPy's dtype of a tensor whose dtype is one of DTYPES."""
        return jnp.dtype(DTYPES[self.dtype])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns; of one axis, one row."""
        rows, columns = (1, 1, *self.shape)[-2:]
        return rows, columns


def tensors(folder: Path) -> tuple[dict[str, Stored], list[str]]:
    """Every tensor of the files that are read, by name; and what is to be said of the choice.

    model.safetensors goes before an index, as in transformers.

    Raises:
        ValueError: no weights that can be read, a file that is missing, cut off or something else,
            or an index that contradicts its files.
    """
    whole, index = folder / WHOLE, folder / INDEX
    if os.path.isfile(whole):
        both = f"{folder}: has {WHOLE} and an index: the former is read, as transformers does"
        return header(whole), [both] if os.path.isfile(index) else []
    if not os.path.isfile(index):
        hint = next((_missing(file) for file in (whole, index) if os.path.lexists(file)), None)
        hint = hint or other(folder) or f"it has {', '.join(map(shown, names(folder)[:5]))}"
        raise ValueError(f"{folder}: has neither {WHOLE} nor {INDEX}; {hint}")
    placed = _placed(index)
    found: dict[str, Stored] = {}
    for name in sorted(set(placed.values())):
        for tensor, stored in header(folder / name).items():
            if tensor in found:
                files = f"{found[tensor].file.name} and {name}"
                raise ValueError(f"{folder}: {files} have {shown(tensor)}: allowed is one of them")
            found[tensor] = stored
    for tensor, name in placed.items():
        if tensor not in found or found[tensor].file != folder / name:
            raise ValueError(
                f"{folder / name}: has no tensor {shown(tensor)}, where the index has it; shards "
                "and index of one download are allowed"
            )
    return found, []


def _placed(index: Path) -> dict[str, str]:
    """An index's weight_map, whose files are all there and in the folder."""
    placed = read_json(index).get("weight_map")
    allowed = "an object of files by tensor is allowed"
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index}: has no weight_map; {allowed}")
    for tensor, name in placed.items():
        if not isinstance(name, str):
            raise ValueError(f"{index}: has {shown(tensor)} in {shown(repr(name))}; {allowed}")
    for name in sorted(set(placed.values())):
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or {"..", "\\", "\0"} & {*path.parts, *name}:
            raise ValueError(f"{index}: names {shown(name)}: files of its own folder are allowed")
        if not os.path.isfile(index.parent / name):
            raise ValueError(
                f"{index.parent}: shard {shown(name)} is missing; {_missing(index.parent / name)}"
            )
    return placed


def _missing(file: Path) -> str:
    """Why a file can't be read that should be one."""
    if os.path.isdir(file):
        return f"{shown(file.name)} is a folder: a file is allowed"
    if os.path.islink(file):
        return f"{shown(file.name)} is a link to nothing: download it again"
    return "download it again"


def header(file: Path) -> dict[str, Stored]:
    """Where a safetensors file has its tensors: 8 bytes of length, JSON, then the numbers.

    Raises:
        ValueError: it can't be read, is cut off, or is no safetensors.
    """
    beginning = b""
    try:
        with open(file, "rb") as opened:
            beginning = opened.read(64)
            with safetensors.safe_open(file, framework="numpy"):  # looks at lengths and offsets
                opened.seek(0)
                size = int.from_bytes(opened.read(8), "little")
                found = json.loads(opened.read(size))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({_reason(error)})") from None
    except (safetensors.SafetensorError, ValueError) as error:
        empty = None if beginning else "is empty: download it again"
        cut = f"cut off, or no safetensors ({shown(error)}): download it again"
        raise ValueError(f"{file}: {empty or _instead(beginning) or cut}") from None
    return {
        name: Stored(
            file, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
        )
        for name, entry in found.items()
        if name != "__metadata__"
    }


# --- numbers ----------------------------------------------------------------------------------

# Rows that are read, and turned, at once: a whole matrix would be in memory twice, and turning it
# row by column touches a line of cache for each number.
ROWS = 16
# Bytes that are looked through at once: they stay in a core's cache.
BLOCK = 2**18


def fill(out: np.ndarray, stored: Stored, where: Sequence[slice]) -> None:
    """Reads a part of a tensor into an array of its shape, which may be a view of another.

    Raises:
        ValueError: the file has become shorter.
    """
    out = np.atleast_2d(out)
    rows, columns = ((slice(None),) * 2 + tuple(where))[-2:]
    first, last, _ = rows.indices(stored.grid[0])
    as_bits = out.dtype == stored.kind  # NumPy copies bfloat16 one by one, integers by the line
    out = out.view(f"u{out.itemsize}") if as_bits else out
    for row, part in blocks(stored, first, last, ROWS):
        part = part.view(out.dtype) if as_bits else part
        out[row - first : row - first + len(part)] = part[:, columns]


def blocks(stored: Stored, first: int, last: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of a tensor in memory that the next ones are read into: the number of the first, and up
    to `count` of them.

    Raises:
        ValueError: the file has become shorter, or can't be read.
    """
    block = np.empty((count, stored.grid[1]), stored.kind)
    try:
        with open(stored.file, "rb") as file:
            file.seek(stored.start + first * block[0].nbytes)
            for row in range(first, last, count):
                part = block[: min(count, last - row)]
                if file.readinto(part.view(np.uint8)) != part.nbytes:
                    raise ValueError(f"{stored.file}: cut off while it was read")
                yield row, part
    except OSError as error:
        raise ValueError(f"{stored.file}: cannot be read ({_reason(error)})") from None


def not_finite(stored: Stored, dtype: str, first: int, last: int) -> Iterator[int]:
    """Rows with a number that is NaN or infinite, or would be in that dtype."""
    word = f"u{stored.kind.itemsize}"
    # The bits without the sign rise with the number; NaN's are above infinity's.
    with np.errstate(over="ignore"):
        least = np.asarray(_least_infinite(dtype), stored.kind).view(word)
    magnitude = np.array(2 ** (8 * stored.kind.itemsize - 1) - 1, word)
    count = max(1, BLOCK // max(1, stored.grid[1] * stored.kind.itemsize))
    for row, part in blocks(stored, first, last, count):
        bits = part.view(word)
        np.bitwise_and(bits, magnitude, out=bits)
        if bits.size and bits.max() >= least:
            yield from (row + np.flatnonzero((bits >= least).any(axis=1))).tolist()


def _least_infinite(dtype: str) -> float:
    """The least number that a dtype rounds to infinity: half a step above its largest."""
    info = jnp.finfo(dtype)
    largest = float(info.max)
    return largest + 2.0 ** (math.frexp(largest)[1] - info.nmant - 2)


def equal(one: Stored, two: Stored, rows: int) -> bool:
    """Whether the first rows of two tensors have the same numbers."""
    if one.grid[1] != two.grid[1] or min(one.grid[0], two.grid[0]) < rows:
        return False
    count = max(1, BLOCK // max(1, one.grid[1] * 4))
    both = zip(blocks(one, 0, rows, count), blocks(two, 0, rows, count), strict=True)
    if one.dtype == two.dtype:
        return all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for (_, a), (_, b) in both)
    wide = np.float64
    return all(np.array_equal(a.astype(wide), b.astype(wide)) for (_, a), (_, b) in both)

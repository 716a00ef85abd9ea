"""Checkpoints as Hugging Face folders have them, read straight into shards.

A folder holds config.json and safetensors, whole or sharded with an index. Parameters are read
slice by slice, each device's own, so that no second copy of the model is ever in memory. Nothing
pickled is opened.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax.sharding import Mesh

from opd import disk
from opd.data import hub_tokenizer
from opd.engine import sharding
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.families import FAMILIES
from opd.model.families.family import Family, Json, Tensor
from opd.types import Params

# Where a player's folder keeps what its parameters came with, weights aside.
KEPT = "hub"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# safetensors' names of the dtypes that a decoder can have.
DTYPES = {"BF16": "bfloat16", "F32": "float32", "F64": "float64", "F16": "float16"}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A checkpoint that has been looked at: what it is, and which file has which tensor."""

    path: Path
    family: Family
    json: Json  # config.json
    config: DecoderConfig
    files: Mapping[str, Path]  # by tensor


def is_folder(path: Path) -> bool:
    """Whether a folder has a checkpoint in this form."""
    return (path / "config.json").is_file()


def look(path: Path, dtype: str | None = None, tokens: int | None = None) -> Folder:
    """Reads what describes a checkpoint, and checks every tensor's place, shape and length.

    Args:
        path: the folder.
        dtype: of the computation and of parameters at rest; None: the checkpoint's.
        tokens: ids that exist, where the vocabulary is padded; None: all.

    Raises:
        ValueError: what is missing, cut off, or of another shape or family; one line.
    """
    hf = read_json(path / "config.json")
    family, files = family_named(hf, path), _files(path)
    if hf.get("quantization_config"):
        raise ValueError(f"{path}: config.json has quantization_config: allowed are plain weights")
    stored = _stored_dtype(path, files)
    try:
        fields = family.read(hf)
        tied = {"tied": bool(fields["tied"]), "tokens": tokens}
        wanted = dtype or ("float32" if stored == "float16" else stored)
        if tokens is not None and tokens > fields["vocab"]:
            allowed = f"allowed are vocab_size = {fields['vocab']} at most"
            raise ValueError(f"the tokenizer has {tokens} ids, {allowed}")
        config = DecoderConfig(**fields | tied, dtype=wanted, param_dtype=wanted)
    except (ValueError, TypeError, AttributeError) as error:  # the last two: JSON of another type
        raise ValueError(f"{path}: {error}") from None
    folder = Folder(path, family, hf, config, files)
    _check(folder)
    return folder


def family_named(hf: Json, path: Path) -> Family:
    """The family that a config.json names.

    Raises:
        ValueError: it is none of ours (lists those).
    """
    names = hf.get("architectures") or ["none"]
    if names[0] not in FAMILIES:
        raise ValueError(f"{path}: architecture {names[0]}: {', '.join(FAMILIES)} are allowed")
    return FAMILIES[names[0]]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a folder.

    Raises:
        ValueError: it can't be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def _files(path: Path) -> dict[str, Path]:
    """Which file has which tensor."""
    index = path / INDEX
    if index.is_file():
        placed = read_json(index).get("weight_map")
        if not isinstance(placed, dict):
            raise ValueError(f"{index}: has no weight_map")
        for name in sorted(set(placed.values())):
            if not (path / name).is_file():
                raise ValueError(f"{path}: shard {name} is missing")
        return {tensor: path / name for tensor, name in placed.items()}
    whole = path / WHOLE
    if not whole.is_file():
        raise ValueError(f"{path}: has neither {WHOLE} nor {INDEX}")
    with opened(whole) as file:
        return dict.fromkeys(file.keys(), whole)


def opened(path: Path) -> Any:
    """A safetensors file; its length is checked against its header.

    Raises:
        ValueError: it is cut off, or no safetensors.
    """
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cut off, or no safetensors ({error})") from None


def _stored_dtype(path: Path, files: Mapping[str, Path]) -> str:
    """The dtype of the first tensor, by which the others go."""
    name = next(iter(files), None)
    if name is None:
        raise ValueError(f"{path}: has no tensors")
    with opened(files[name]) as file:
        if name not in file.keys():
            raise ValueError(f"{files[name]}: has no tensor {name}, where the index has it")
        dtype = file.get_slice(name).get_dtype()
    if dtype not in DTYPES:
        raise ValueError(f"{files[name]}: dtype {dtype}: {', '.join(DTYPES)} are allowed")
    return DTYPES[dtype]


def _places(folder: Folder) -> Iterator[tuple[tuple[str, ...], jax.ShapeDtypeStruct, Tensor]]:
    """Every parameter of the decoder: its path, shape and place in the checkpoint."""
    shapes = jax.eval_shape(Decoder(folder.config).init, jax.random.key(0))
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = tuple(key.key for key in keys)
        yield path, leaf, folder.family.tensors[path]


def _check(folder: Folder) -> None:
    """Refuses a checkpoint that lacks a tensor of the decoder, or has it in another shape."""
    wanted: dict[Path, dict[str, tuple[int, ...]]] = {}
    for path, leaf, place in _places(folder):
        stacked = path[0] == "layers"
        for layer in range(folder.config.layers if stacked else 1):
            name = place.name.format(layer=layer)
            if name not in folder.files:
                raise ValueError(f"{folder.path}: has no tensor {name}")
            shape = place.shape(leaf.shape[1:] if stacked else leaf.shape)
            wanted.setdefault(folder.files[name], {})[name] = shape
    for file, shapes in wanted.items():
        with opened(file) as there:
            known = set(there.keys())
            for name, shape in shapes.items():
                if name not in known:
                    raise ValueError(f"{file}: has no tensor {name}, where the index has it")
                tensor = there.get_slice(name)
                stored, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
                if stored != shape:
                    raise ValueError(f"{file}: {name} is {stored}, config.json makes it {shape}")
                if dtype not in DTYPES:
                    raise ValueError(
                        f"{file}: {name} has dtype {dtype}: {', '.join(DTYPES)} are allowed"
                    )


def keep(source: Path, player: Path) -> None:
    """Keeps what a checkpoint has beside its weights in a player's folder: an export needs it."""
    beside = player / KEPT
    if not beside.is_dir():
        with disk.staged(beside) as staging:
            shutil.copyfile(source / "config.json", staging / "config.json")
            hub_tokenizer.copy(source, staging)


def load(folder: Folder, mesh: Mesh) -> Params:
    """The parameters, each device's part read from the files straight into place."""
    model = Decoder(folder.config)
    shardings = sharding.param_shardings(model, mesh)
    stored: dict[str, Stored] = {}
    for file in sorted(set(folder.files.values())):
        stored |= _header(file)
    params: dict[tuple[str, ...], jax.Array] = {}
    # Threads wait for the disk, mostly; the number was chosen by hand.
    with futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, leaf, place in _places(folder):
            where = shardings
            for key in path:
                where = where[key]
            read = _reader(stored, place, leaf, path[0] == "layers", pool)
            params[path] = jax.make_array_from_callback(leaf.shape, where, read)
    return _nested(params)


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        at = tree
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = value
    return tree


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in its file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, int]  # rows and columns; of one axis, one row
    start: int  # byte


def _header(file: Path) -> dict[str, Stored]:
    """Where a safetensors file has its tensors: 8 bytes of length, JSON, then the numbers."""
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in DTYPES:
            shape = (1, 1, *entry["shape"])[-max(2, len(entry["shape"])) :]
            start = 8 + size + entry["data_offsets"][0]
            tensors[name] = Stored(file, jnp.dtype(DTYPES[entry["dtype"]]), shape, start)
    return tensors


# Rows that are read, and turned, at once: a whole matrix would be in memory twice, and turning it
# row by column touches a line of cache for each number.
ROWS = 16


def _fill(out: np.ndarray, stored: Stored, where: Sequence[slice]) -> None:
    """Reads a part of a tensor into an array of its shape, which may be a view of another.

    Raises:
        ValueError: the file has become shorter.
    """
    out = np.atleast_2d(out)
    rows, columns = ((slice(None),) * 2 + tuple(where))[-2:]
    first, last, _ = rows.indices(stored.shape[0])
    block = np.empty((ROWS, stored.shape[1]), stored.dtype)
    if out.dtype == block.dtype:  # NumPy copies bfloat16 one by one, and integers by the line
        out = out.view(f"u{out.itemsize}")
    with open(stored.file, "rb") as file:
        file.seek(stored.start + first * block[0].nbytes)
        for row in range(first, last, ROWS):
            part = block[: min(ROWS, last - row)]
            if file.readinto(part.view(np.uint8)) != part.nbytes:
                raise ValueError(f"{stored.file}: cut off while it was read")
            part = part.view(out.dtype) if out.dtype.kind == "u" else part
            out[row - first : row - first + len(part)] = part[:, columns]


PAGE = 4096


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory to fill, from a page's start: JAX on the CPU keeps such arrays, and copies others."""
    size = math.prod(shape) * jnp.dtype(dtype).itemsize
    memory = np.empty(size + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + size].view(dtype).reshape(shape)


def _reader(
    stored: Mapping[str, Stored],
    place: Tensor,
    leaf: jax.ShapeDtypeStruct,
    stacked: bool,
    pool: futures.Executor,
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """From an index into a parameter to that part of it."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        sizes = zip(index, leaf.shape, strict=True)
        out = _empty(tuple(len(range(*part.indices(size))) for part, size in sizes), leaf.dtype)
        if not stacked:
            _fill(place.theirs(out), stored[place.name], place.where(index, leaf.shape))
            return out

        def layer(at: int, number: int) -> None:
            tensor = stored[place.name.format(layer=number)]
            _fill(place.theirs(out[at]), tensor, place.where(index[1:], leaf.shape[1:]))

        numbers = range(*index[0].indices(leaf.shape[0]))
        list(pool.map(layer, range(len(numbers)), numbers))
        return out

    return read

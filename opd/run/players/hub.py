"""Checkpoints as Hugging Face folders have them, read straight into shards.

A folder holds config.json and safetensors, whole or sharded with an index. Parameters are read
slice by slice, each device's own, so that no second copy of the model is ever in memory. Nothing
pickled is opened.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import operator
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from opd import disk, processes
from opd.data import hub_tokenizer
from opd.engine import sharding
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.families import FAMILIES, keys, wrappers
from opd.model.families.family import Family, Json, Tensor
from opd.run.players import hub_names, hub_weights
from opd.run.players.hub_names import EMBEDDING, HEAD
from opd.run.players.hub_weights import CONFIG, DTYPES, Stored, read_json, shown
from opd.types import Params, Rules

# Where a player's folder keeps what its parameters came with, weights aside.
KEPT = "hub"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A checkpoint that has been looked at: what it is, and where each tensor of it lies."""

    path: Path
    family: Family
    json: Json  # config.json
    config: DecoderConfig
    tensors: Mapping[str, Stored]  # by the family's name
    notes: tuple[str, ...] = ()  # what is to be said when it is loaded


def is_folder(path: Path) -> bool:
    """Whether a folder has a checkpoint in this form."""
    return os.path.isfile(path / CONFIG)


def look(path: Path, dtype: str | None = None, tokens: int | None = None) -> Folder:
    """Reads what describes a checkpoint, and checks every tensor's place, shape and numbers.

    All numbers are read for that.

    Args:
        path: the folder.
        dtype: of the computation and of parameters at rest; None: the checkpoint's.
        tokens: ids that the tokenizer has; rows of the vocabulary above are padding, and ids above
            the rows are never read or drawn. None: as many as there are rows.

    Raises:
        ValueError: what is missing, cut off, of another shape or family, or not finite; one line.
    """
    refuse_no_checkpoint(path)
    whole = read_json(path / CONFIG)
    try:
        hf = wrappers.text_of(whole)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    family = family_named(hf, path)
    for key in ("quantization_config", "transformers_weights"):
        if hf.get(key):
            raise ValueError(f"{path}: config.json has {key}: plain weights without it are allowed")
    stored, notes = hub_weights.tensors(path)
    if wrappers.wraps(whole):
        stored, note = hub_names.text_alone(stored, path)
        notes = [*notes, note]
    try:
        fields = family.fields(hf)
        config = DecoderConfig(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    wanted = _shapes(family, config)
    tensors, more = hub_names.named(stored, family, wanted, path)
    kept = _stored_dtype(path, {name: tensors[name] for name in wanted})
    wide = dtype or ("float32" if kept == "float16" else kept)
    try:
        known = None if tokens is None else min(tokens, config.vocab)
        config = DecoderConfig(**fields | {"tokens": known}, dtype=wide, param_dtype=wide)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_shapes(tensors, wanted)
    head = tensors.pop(HEAD) if HEAD in tensors and HEAD not in wanted else None
    folder = Folder(path, family, hf, config, tensors)
    found = [*notes, *more, *_of_dtypes(folder), *_of_tokens(folder, tokens), *_of_numbers(folder)]
    if head is not None:
        _check_tied(folder, head)
    return dataclasses.replace(folder, notes=tuple(found))


def refuse_no_checkpoint(path: Path) -> None:
    """Refuses a folder that has no config.json, or an adapter beside it.

    Raises:
        ValueError: what it is instead, as far as that is known, and what is allowed.
    """
    names = hub_weights.names(path)
    if CONFIG not in names or "adapter_config.json" in names:
        hint = hub_weights.other(path) or f"a folder with {CONFIG} and safetensors is allowed"
        has = "" if CONFIG in names else f"has no {CONFIG}; "
        raise ValueError(f"{path}: {has}{hint}")


def family_named(hf: Json, path: Path) -> Family:
    """The family that a config.json names, by architecture; where it names none, by model_type.

    Raises:
        ValueError: it is none of ours (lists those), or two.
    """
    names, kind = hf.get("architectures"), str(hf.get("model_type"))
    if names is not None and not keys.TEXTS.holds(names):
        raise ValueError(f"{path}: architectures is {names!r:.60}: a list of texts is allowed")
    by_kind = {family.model_type: family for family in FAMILIES.values()}
    name = names[0] if names else by_kind[kind].architecture if kind in by_kind else "none"
    if name not in FAMILIES:
        hint = "; of a multimodal model its language model alone" if "text_config" in hf else ""
        allowed = ", ".join((*FAMILIES, *wrappers.WRAPPERS))
        raise ValueError(f"{path}: architecture {shown(name)}: {allowed} are allowed{hint}")
    family = FAMILIES[name]
    if kind in by_kind and by_kind[kind] is not family:
        allowed = f"{family.model_type!r} is allowed"
        raise ValueError(f"{path}: architecture {name} with model_type {kind!r}: {allowed}")
    return family


def _places(
    family: Family, config: DecoderConfig
) -> Iterator[tuple[tuple[str, ...], jax.ShapeDtypeStruct, Tensor]]:
    """Every parameter of the decoder: its path, shape and place in the checkpoint."""
    for path, leaf in _leaves(config):
        yield path, leaf, family.tensors[path]


@functools.lru_cache(maxsize=8)  # tracing takes a third of a second, and is asked for twice
def _leaves(config: DecoderConfig) -> list[tuple[tuple[str, ...], jax.ShapeDtypeStruct]]:
    """Every parameter's path and shape."""
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return [(tuple(entry.key for entry in entries), leaf) for entries, leaf in leaves]


def _shapes(family: Family, config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that the decoder is made of, and its shape in the checkpoint."""
    found = {}
    for _, leaf, place in _places(family, config):
        shape = place.shape(leaf.shape[place.stacked :])
        found |= dict.fromkeys((name for _, name in place.names(leaf.shape)), shape)
    return found


def _stored_dtype(path: Path, tensors: Mapping[str, Stored]) -> str:
    """The dtype that most numbers have.

    Raises:
        ValueError: a tensor of a dtype that no decoder has.
    """
    sizes: collections.Counter[str] = collections.Counter()
    for name, stored in tensors.items():
        if stored.dtype not in DTYPES:
            raise ValueError(
                f"{stored.file}: {name} has dtype {shown(stored.dtype)}: {', '.join(DTYPES)} are "
                "allowed"
            )
        sizes[stored.dtype] += math.prod(stored.shape)
    return DTYPES[max(sizes, key=sizes.__getitem__)]


def _check_shapes(tensors: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a tensor that isn't of the shape that config.json makes it."""
    for name, shape in wanted.items():
        stored = tensors[name]
        if stored.shape != shape:
            raise ValueError(
                f"{stored.file}: {name} is {stored.shape}, config.json makes it {shape}: a "
                "config.json and weights that belong together are allowed"
            )


def _check_tied(folder: Folder, head: Stored) -> None:
    """Refuses a head of its own where config.json ties it to the embedding."""
    rows, embedding = Decoder(folder.config).tokens, folder.tensors[EMBEDDING]
    if head.dtype not in DTYPES or not hub_weights.equal(head, embedding, rows):
        raise ValueError(
            f"{head.file}: {HEAD} differs from the embedding, to which config.json ties it: remove "
            "one, or set tie_word_embeddings to false"
        )


def _of_dtypes(folder: Folder) -> Iterator[str]:
    """What is to be said where not all tensors are read as they are stored."""
    dtypes = sorted({stored.dtype for stored in folder.tensors.values()})
    if len(dtypes) > 1:
        dtype = folder.config.param_dtype
        yield f"{folder.path}: has tensors in {' and '.join(dtypes)}: all are read as {dtype}"


def _of_tokens(folder: Folder, tokens: int | None) -> Iterator[str]:
    """What is to be said where the tokenizer has ids that the model has no rows for."""
    rows = folder.config.vocab
    if tokens is not None and tokens > rows:
        ids = f"id {rows} is" if tokens == rows + 1 else f"ids {rows} to {tokens - 1} are"
        yield (
            f"{folder.path}: the tokenizer has {tokens} ids, the model {rows} rows (vocab_size): "
            f"{ids} never read or written"
        )


# --- numbers ---------------------------------------------------------------------------------


def _of_numbers(folder: Folder) -> Iterator[str]:
    """What is to be said of rows that no token has and that aren't finite: they are read as 0.

    Raises:
        ValueError: a tensor whose numbers aren't finite elsewhere.
    """
    dtype = folder.config.dtype
    tokens = Decoder(folder.config).tokens

    def look_through(name: str) -> int:
        stored = folder.tensors[name]
        rows = stored.grid[0]
        used = tokens if name in (EMBEDDING, HEAD) else rows
        row = next(hub_weights.not_finite(stored, dtype, 0, used), None)
        if row is not None:
            where = "" if len(stored.shape) == 1 else f" in row {row}"
            raise ValueError(
                f"{stored.file}: {name} has NaN or infinity, as {dtype},{where}: "
                "finite numbers are allowed"
            )
        return sum(1 for _ in hub_weights.not_finite(stored, dtype, used, rows))

    with _threads() as pool:
        counts = dict(zip(folder.tensors, pool.map(look_through, folder.tensors), strict=True))
    for name, count in counts.items():
        if count:
            yield (
                f"{folder.path}: {name} has NaN or infinity in rows that no token has ({count}): "
                "they are read, and exported, as 0"
            )


def _threads() -> futures.ThreadPoolExecutor:
    """Threads that wait for the disk, mostly; the number was chosen by hand."""
    return futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))


# --- loading ---------------------------------------------------------------------------------


def keep(source: Path, player: Path) -> None:
    """Keeps what a checkpoint has beside its weights in a player's folder: an export needs it."""
    beside = player / KEPT
    if processes.first() and not beside.is_dir():
        with disk.staged(beside) as staging:
            if wrappers.wraps(whole := read_json(source / CONFIG)):
                disk.dump_json(wrappers.text_of(whole), staging / CONFIG)
            else:
                shutil.copyfile(source / CONFIG, staging / CONFIG)
            hub_tokenizer.copy(source, staging)


def load(folder: Folder, mesh: Mesh, rules: Rules = ()) -> Params:
    """The parameters, each device's part read from the files straight into place.

    `rules` are the model's own, where it has some.
    What is to be said of the folder is said on standard error.
    """
    if processes.first():
        for note in folder.notes:
            print(note, file=sys.stderr, flush=True)
    shardings = sharding.param_shardings(Decoder(folder.config, rules=rules), mesh)
    params: dict[tuple[str, ...], jax.Array] = {}
    with _threads() as pool:
        for path, leaf, place in _places(folder.family, folder.config):
            where = shardings
            for key in path:
                where = where[key]
            read = _reader(folder, place, leaf, pool)
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


PAGE = 4096


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory to fill, from a page's start: JAX on the CPU keeps such arrays, and copies others."""
    size = math.prod(shape) * jnp.dtype(dtype).itemsize
    memory = np.empty(size + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + size].view(dtype).reshape(shape)


def _reader(
    folder: Folder, place: Tensor, leaf: jax.ShapeDtypeStruct, pool: futures.Executor
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """From an index into a parameter to that part of it."""
    tokens = Decoder(folder.config).tokens

    def read(index: tuple[slice, ...]) -> np.ndarray:
        sizes = zip(index, leaf.shape, strict=True)
        out = _empty(tuple(len(range(*part.indices(size))) for part, size in sizes), leaf.dtype)
        if not place.stacked:
            where = place.where(index, leaf.shape)
            hub_weights.fill(place.theirs(out), folder.tensors[place.name], where)
            if place.name in (EMBEDDING, HEAD):
                first, _, _ = index[0].indices(leaf.shape[0])
                padding = out[max(0, tokens - first) :]
                padding[~np.isfinite(padding)] = 0
            return out

        first = [part.indices(size)[0] for part, size in zip(index, leaf.shape, strict=True)]
        within = place.where(index[place.stacked :], leaf.shape[place.stacked :])

        def one(at: tuple[int, ...]) -> None:
            names = dict(zip(("layer", "expert"), map(operator.add, first, at)))
            tensor = folder.tensors[place.name.format(**names)]
            hub_weights.fill(place.theirs(out[at]), tensor, within)

        list(pool.map(one, np.ndindex(*out.shape[: place.stacked])))
        return out

    return read

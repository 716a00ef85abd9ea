"""A player's folder: `params/` (orbax), and `player.json`, which describes them.

player.json has the decoder, the tokenizer, all that the parameters depend on, and the files that
must be there. A player that comes from elsewhere leaves its player.json alone in the workdir.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from opd import disk, processes
from opd.data.pipeline import Task
from opd.engine import sharding, steps
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.scalar import Scalar
from opd.types import Params

# What player.json has, and as what.
KEYS = {"decoder": dict, "tokenizer": str, "tokens": list, "identity": dict, "files": dict}


def whole(folder: Path, task: Task) -> Decoder:
    """The model of a folder that has its parameters too.

    Raises:
        ValueError: no player there, files that are missing or cut off, or what `decoder` refuses.
    """
    refuse_damage(folder, read(folder)["files"])
    return decoder(folder, task)


def decoder(folder: Path, task: Task) -> Decoder:
    """The model that a folder describes, for a task.

    Raises:
        ValueError: no player there, another tokenizer than the task's, or a model that doesn't
            read the task's sequences.
    """
    description = read(folder)
    if description["tokenizer"] != task.tokenizer.fingerprint():
        _refuse_tokenizer(folder, description["tokens"], task)
    config = described(folder)
    refuse_short(folder, config, task)
    return Decoder(config)


def described(folder: Path) -> DecoderConfig:
    """The decoder that a folder's player.json describes.

    Raises:
        ValueError: no player there.
    """
    try:
        return DecoderConfig.from_json(read(folder)["decoder"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: no player there (player.json, decoder: {error})") from None


def read(folder: Path) -> dict[str, Any]:
    """A player's description: every key there, and what it should be.

    Raises:
        ValueError: it isn't there, or isn't one.
    """
    try:
        description = json.loads((folder / "player.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no player there ({error})") from None
    is_object = isinstance(description, dict)
    missing = [key for key in KEYS if not is_object or key not in description]
    if missing:
        raise ValueError(f"{folder}: no player there (player.json lacks {missing[0]})")
    for key, kind in KEYS.items():
        if not isinstance(description[key], kind):
            wrong = f"{key} is {description[key]!r:.40}, should be a {kind.__name__}"
            raise ValueError(f"{folder}: no player there (player.json: {wrong})")
    return description


def refuse_short(folder: Path, config: DecoderConfig, task: Task) -> None:
    """Refuses a model that doesn't read the task's sequences."""
    length = task.max_prompt + task.max_completion
    if config.max_length < length:
        raise ValueError(
            f"{folder}: the model reads {config.max_length} tokens, prompt and completion have up "
            f"to {length}"
        )


def refuse_damage(folder: Path, files: Mapping[str, Any]) -> None:
    """Refuses a folder without parameters, or whose files aren't all there and whole."""
    if not files:
        raise ValueError(f"{folder}: describes a player and has no parameters of it")
    for name, size in files.items():
        there = folder / name
        if not os.path.isfile(there) or os.path.getsize(there) != size:
            raise ValueError(f"{folder}: not whole, {name} is missing or cut off")


def _refuse_tokenizer(folder: Path, tokens: list[str], task: Task) -> None:
    ours = list(map(repr, task.tokenizer.table()))
    at = next(
        (i for i, (a, b) in enumerate(zip(tokens, ours)) if a != b), min(len(tokens), len(ours))
    )
    theirs, mine = ((side[at] if at < len(side) else "nothing") for side in (tokens, ours))
    raise ValueError(
        f"{folder}: another tokenizer than the data's: id {at} is {theirs} there and {mine} here"
    )


def save(folder: Path, model: Decoder, params: Params, identity: Any, task: Task) -> None:
    """Writes a player's folder, complete, and only then gives it its name.

    Of several processes each writes its own devices' parts.
    """
    with disk.staged(folder) as staging:
        processes.barrier()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(staging.resolve() / "params", params)
        processes.barrier()
        describe(staging, model, identity, task)
    processes.barrier()


def describe(folder: Path, model: Decoder, identity: Any, task: Task) -> None:
    """Writes a folder's player.json, of the files that are there; one that is there stays."""
    if not processes.first() or (folder / "player.json").exists():
        return
    description = {
        "decoder": dataclasses.asdict(model.config),
        "tokenizer": task.tokenizer.fingerprint(),
        "tokens": list(map(repr, task.tokenizer.table())),
        "identity": identity,
        "files": {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    disk.dump_json(description, folder / "player.json")


def load(model: Decoder, folder: Path, mesh: Mesh) -> Params:
    """A player's parameters, read straight into their shards."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.resolve() / "params", abstract(model, mesh))


def abstract(model: Decoder | Scalar, mesh: Mesh, trained: bool = False) -> Params:
    """Shapes, types and shardings of a model's parameters; as training has them, or at rest."""
    shapes = sharding.shapes(model, jnp.result_type(float))
    if trained:
        shapes = jax.eval_shape(functools.partial(steps.mastered, model), shapes)
    shardings = sharding.param_shardings(model, mesh)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )

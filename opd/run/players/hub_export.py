"""Checkpoints written as Hugging Face folders have them: whole models, and adapters as PEFT's.

A folder is written beside its place and gets its name when it is whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from opd import disk, processes
from opd.model.decoder import DecoderConfig
from opd.model.families import FAMILIES
from opd.model.families.family import Family, Json
from opd.model.lora import A, B
from opd.run.players import hub
from opd.run.players.hub_weights import INDEX, WHOLE
from opd.types import Params

# Of one file at most: less than the 5 GB of transformers' save_pretrained, which all loaders know.
SHARD_BYTES = 4 * 2**30
ADAPTER = "adapter_model.safetensors"


def family_of(config: DecoderConfig) -> Family:
    """The family that a decoder made here is written as.

    Raises:
        ValueError: none has all that the decoder has.
    """
    refusals = []
    for family in FAMILIES.values():
        try:
            family.config_json(config)
        except ValueError as error:
            refusals.append(str(error))
        else:
            return family
    raise ValueError(f"no family can have this decoder: {refusals[0]}")


def save(
    path: Path,
    config: DecoderConfig,
    params: Params,
    described: Json,
    beside: Callable[[Path], None],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors, in shards of at most so many bytes.

    Parameters are rounded to the config's `param_dtype`, which training's are wider than. The
    folder is written beside its place and gets its name when it is whole.

    Args:
        path: the folder, new or empty.
        config: the decoder's.
        params: its parameters.
        described: config.json, but for the dtype; it names the family.
        beside: writes what else belongs into the folder.
        shard_bytes: of one file, at most.

    Raises:
        ValueError: something is there already.
    """
    refuse_taken(path)
    processes.barrier()
    family = hub.family_named(described, path)
    # Older transformers read one name of the dtype, newer ones the other.
    dtypes = dict.fromkeys(("torch_dtype", "dtype"), config.param_dtype)
    with disk.staged(path) as staging:
        disk.dump_json({**described, **dtypes}, staging / "config.json")
        _write(staging, list(_tensors(family, config, params)), shard_bytes)
        if processes.first():
            beside(staging)
    processes.barrier()


def save_adapter(path: Path, config: DecoderConfig, params: Params, described: Json) -> None:
    """Writes an adapter in PEFT's form: adapter_config.json and its matrices, A [r, inputs]..."""
    refuse_taken(path)
    processes.barrier()
    family = hub.family_named(described, path) if described else family_of(_plain(config))
    adapter, tensors = config.lora, {}
    for target in adapter.targets:
        place = family.tensors["layers", target]
        for form, theirs in ((A, "lora_A"), (B, "lora_B")):
            stacked = processes.on_host(params["layers"][form.format(target)])
            for layer, ours in enumerate(stacked):
                name = place.name.format(layer=layer).removesuffix(".weight")
                rows = (
                    ours.reshape(-1, adapter.rank) if form == A else ours.reshape(adapter.rank, -1)
                )
                key = f"base_model.model.{name}.{theirs}.weight"
                tensors[key] = np.ascontiguousarray(rows.T)
    names = {family.tensors["layers", target].name.split(".")[-2] for target in adapter.targets}
    described_adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": described.get("_name_or_path"),
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(names),
        "inference_mode": True,
    }
    with disk.staged(path) as staging:
        disk.dump_json(described_adapter, staging / "adapter_config.json")
        _save(tensors, staging / ADAPTER)
    processes.barrier()


def _plain(config: DecoderConfig) -> DecoderConfig:
    return dataclasses.replace(config, lora=None)


def refuse_taken(path: Path) -> None:
    """Refuses a folder that has something in it."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: is there already; give a new folder")


def _tensors(
    family: Family, config: DecoderConfig, params: Params
) -> Iterator[tuple[str, Callable[[], np.ndarray], int]]:
    """Every tensor of the checkpoint: its name, how to get it, its bytes."""
    dtype = jnp.dtype(config.param_dtype)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        place = family.tensors[path]
        size = math.prod(leaf.shape[place.stacked :]) * dtype.itemsize
        for numbers, name in place.names(leaf.shape):

            def one(leaf=leaf, place=place, numbers=numbers) -> np.ndarray:
                part = leaf[numbers] if numbers else leaf
                ours = processes.on_host(part).astype(dtype, copy=False)
                return np.ascontiguousarray(place.theirs(ours))

            yield name, one, size


def _save(tensors: dict[str, np.ndarray], file: Path) -> None:
    """Writes a safetensors file; of several processes the first does."""
    if processes.first():
        safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


def _write(folder: Path, tensors: list, shard_bytes: int) -> None:
    """Tensors in layer order, into as few files as may be."""
    shards: list[list] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor[2] > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor[2]
    total = sum(tensor[2] for tensor in tensors)
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WHOLE
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        whole = {tensor: get() for tensor, get, _ in shard}
        _save(whole, folder / name)
        placed |= dict.fromkeys(whole, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        disk.dump_json(index, folder / INDEX)

"""Teacher and student: fitted to demonstrations, kept in a folder, found there by the next run.

A player's folder holds `params/` (orbax) and `player.json`: the decoder, the tokenizer and all
that the fit depended on. A player is used again only if all of that is the same. It lies in the
workdir, or in a folder that runs share (`config.models`), where players of other identities lie
beside it. One that comes from elsewhere (that folder, `path`, or `from` another training) leaves
its `player.json` alone in the workdir.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from opd import disk
from opd.data import hub_tokenizer, pipeline, tokenizers
from opd.data.pipeline import Task
from opd.engine import programs, sharding
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.scalar import Scalar
from opd.run import drawing
from opd.run.drawing import World
from opd.run.players import hub
from opd.run.settings.config import FitConfig, PlayerConfig
from opd.run.store import checkpoint, progress
from opd.types import Params, Rollout

# What player.json has, and as what.
KEYS = {"decoder": dict, "tokenizer": str, "tokens": list, "identity": dict, "files": dict}
# What a workdir may have trained. One of a reward model describes it in models/reward.
TRAINED = {"policy": "a policy", "reward": "a reward model"}
SFT = table.parse("sft@reduction=token_mean")


def decoder(config: PlayerConfig, task: Task) -> Decoder:
    """The player's model: as its folder has it, or as configured.

    Raises:
        ValueError: sizes that the decoder can't have, a folder without a player, another
            tokenizer than the task's.
    """
    length = task.max_prompt + task.max_completion
    if config.path is not None:
        plain = _from_path(config, task)
        return Decoder(dataclasses.replace(plain.config, lora=config.lora.adapter()))
    if config.from_ is not None:
        workdir, *_ = trained(config.from_)
        return decoder_of(workdir / "models" / "student", task)
    return Decoder(config.model.decoder(task.tokenizer.vocab, length))


def _from_path(config: PlayerConfig, task: Task) -> Decoder:
    """The model of a player's folder, without an adapter."""
    folder = Path(config.path)
    if hub.is_folder(folder):
        return Decoder(looked_at(config, task).config)
    if config.dtype is not None:
        raise ValueError(f"dtype = {config.dtype!r}: allowed for a Hugging Face folder only")
    _refuse_damage(folder, _described(folder)["files"])
    return decoder_of(folder, task)


def looked_at(config: PlayerConfig, task: Task) -> hub.Folder:
    """The Hugging Face folder that a player's path names, whose ids are the task's.

    Raises:
        ValueError: what `hub.look` refuses, no tokenizer or another, or a model that doesn't read
            the task's sequences.
    """
    folder = Path(config.path)
    if not hub_tokenizer.has_tokenizer(folder):
        raise ValueError(f"{folder}: has no {hub_tokenizer.FILE}: its ids can't be told")
    table = hub_tokenizer.load(folder).table()
    try:
        tokenizers.same_entries(table, task.tokenizer.table())
    except ValueError as error:
        raise ValueError(f"{folder}, and the data's: {error}") from None
    found = hub.look(folder, config.dtype, tokens=len(table))
    _refuse_short(folder, found.config, task)
    return found


def _refuse_short(folder: Path, config: DecoderConfig, task: Task) -> None:
    length = task.max_prompt + task.max_completion
    if config.max_length < length:
        raise ValueError(
            f"{folder}: the model reads {config.max_length} tokens, prompt and completion have up "
            f"to {length}"
        )


def decoder_of(folder: Path, task: Task) -> Decoder:
    """The model that a folder's player.json describes.

    Raises:
        ValueError: no player there, another tokenizer than the task's, or a model that doesn't
            read the task's sequences.
    """
    said = _described(folder)
    if said["tokenizer"] != task.tokenizer.fingerprint():
        _refuse_tokenizer(folder, said["tokens"], task)
    found = described(folder)
    _refuse_short(folder, found, task)
    return Decoder(found)


def described(folder: Path) -> DecoderConfig:
    """The decoder that a folder's player.json describes.

    Raises:
        ValueError: no player there.
    """
    try:
        return DecoderConfig.from_json(_described(folder)["decoder"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: no player there (player.json, decoder: {error})") from None


def trained(given: str, what: str = "policy") -> tuple[Path, Path, int]:
    """The workdir, the folder of checkpoints and the step that a `from` names.

    WORKDIR is its last checkpoint, WORKDIR@STEP that one, WORKDIR@best what was evaluated best.
    `what` is what must have been trained there, a key of TRAINED.

    Raises:
        ValueError: no such workdir, no finished checkpoint, no such step, a damaged one, or a
            training of something else.
    """
    workdir, at, which = given.rpartition("@")
    if not at or not (which.isdecimal() or which == "best") or os.path.isdir(given):
        workdir, which = given, ""
    if not os.path.isdir(workdir):
        raise ValueError(
            f"from = {given!r}: no such workdir; allowed is WORKDIR, WORKDIR@STEP or WORKDIR@best "
            "of another training"
        )
    folder = Path(workdir) / ("best" if which == "best" else "checkpoints")
    try:
        step = checkpoint.whole(folder, int(which) if which.isdecimal() else None)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read ({error.strerror})") from None
    there = "reward" if (Path(workdir) / "models" / "reward").is_dir() else "policy"
    if there != what:
        raise ValueError(
            f"from = {given!r}: {TRAINED[there]} was trained there, allowed is {TRAINED[what]}"
        )
    return Path(workdir), folder, step


def restored(model: Decoder | Scalar, given: str, world: World, what: str = "policy") -> Params:
    """The parameters that a `from` names, on the mesh.

    Raises:
        ValueError: what `trained` refuses.
    """
    _, folder, step = trained(given, what)
    return checkpoint.params(folder, abstract(model, world.mesh), step)


def inputs(config: PlayerConfig) -> dict[str, Any] | None:
    """What identifies a player that comes from elsewhere; None where the config says it all.

    Raises:
        ValueError: what `trained` refuses.
    """
    if config.from_ is not None:
        _, folder, step = trained(config.from_)
        return {"step": step, "sha256": checkpoint.contents(folder / str(step))}
    if config.path is not None:
        return {"sha256": checkpoint.contents(Path(config.path))}
    return None


def check(name: str, config: PlayerConfig, task: Task) -> None:
    """Refuses a player that can't be fitted to the data there are.

    Raises:
        ValueError: two places to have it from, no demonstrations, or no prompts to measure its
            accuracy on.
    """
    if config.path is not None and config.from_ is not None:
        raise ValueError(
            f"config.{name}.path and config.{name}.from are both given: allowed is one of them"
        )
    if config.lora.rank and (name != "student" or config.path is None):
        raise ValueError(
            f"config.{name}.lora.rank = {config.lora.rank}: allowed for a student that has a path"
        )
    try:
        config.lora.adapter()
    except ValueError as error:
        raise ValueError(f"config.{name}.lora: {error}") from None
    if config.path is not None or config.from_ is not None:
        return
    if any(example.solution is None for example in task.split("train")):
        raise ValueError(
            f"the data have prompts without an answer, and no {name} can be fitted to them: "
            f"give config.{name}.path or config.{name}.from"
        )
    if config.fit.stop_at is not None and "validation" not in task.splits:
        raise ValueError(
            f"config.{name}.fit.stop_at = {config.fit.stop_at}: needs a validation split, and "
            "there is none"
        )


def _refuse_tokenizer(folder: Path, tokens: list[str], task: Task) -> None:
    ours = list(map(repr, task.tokenizer.table()))
    at = next(
        (i for i, (a, b) in enumerate(zip(tokens, ours)) if a != b), min(len(tokens), len(ours))
    )
    theirs, mine = ((side[at] if at < len(side) else "nothing") for side in (tokens, ours))
    raise ValueError(
        f"{folder}: another tokenizer than the data's: id {at} is {theirs} there and {mine} here"
    )


def _described(folder: Path) -> dict[str, Any]:
    """A player's description: every key there, and what it should be.

    Raises:
        ValueError: it isn't there, or isn't one.
    """
    try:
        found = json.loads((folder / "player.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no player there ({error})") from None
    missing = [key for key in KEYS if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{folder}: no player there (player.json lacks {missing[0]})")
    for key, kind in KEYS.items():
        if not isinstance(found[key], kind):
            said = f"{key} is {found[key]!r:.40}, should be a {kind.__name__}"
            raise ValueError(f"{folder}: no player there (player.json: {said})")
    return found


def _refuse_damage(folder: Path, files: Mapping[str, Any]) -> None:
    """Refuses a folder without parameters, or whose files aren't all there and whole."""
    if not files:
        raise ValueError(f"{folder}: describes a player and has no parameters of it")
    for name, size in files.items():
        there = folder / name
        if not os.path.isfile(there) or os.path.getsize(there) != size:
            raise ValueError(f"{folder}: not whole, {name} is missing or cut off")


def make(
    name: str, config: PlayerConfig, world: World, workdir: Path, models: str | None = None
) -> tuple[Decoder, Params]:
    """A player and its parameters on the mesh: found ready, or fitted and saved.

    `models` is the folder that a fitted one is shared in: processes that want the same wait for
    the first of them. None: the workdir's own.
    """
    model = decoder(config, world.task)
    folder = workdir / "models" / name
    if config.from_ is not None:
        other, _, step = trained(config.from_)
        describe(folder, model, {"from": config.from_, "step": step}, world.task)
        kept = other / "models" / "student" / hub.KEPT
        if kept.is_dir():
            hub.keep(kept, folder)
        return model, restored(model, config.from_, world)
    if config.path is not None:
        describe(folder, model, {"path": config.path}, world.task)
        if hub.is_folder(Path(config.path)):
            hub.keep(Path(config.path), folder)
            params = hub.load(looked_at(config, world.task), world.mesh)
        else:
            params = load(_from_path(config, world.task), Path(config.path), world)
        if model.config.lora is not None:
            key = jax.random.key(_seed(f"{name}'s adapter", world.seed))
            params = programs.adapt(world.mesh, model, params, key)
        return model, params
    identity = _identity(model, config.fit, world)
    if models is None:
        return model, _kept(name, model, config.fit, identity, world, folder)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    shared = Path(models) / f"{name}-{digest[:12]}"
    with _alone(shared):
        params = _kept(name, model, config.fit, identity, world, shared)
    describe(folder, model, {"path": str(shared)}, world.task)
    return model, params


def _kept(
    name: str, model: Decoder, config: FitConfig, identity: Any, world: World, folder: Path
) -> Params:
    """The parameters that the folder has of this identity; fitted and saved where it has none."""
    try:
        found = _described(folder)
        _refuse_damage(folder, found["files"])
        if found["identity"] == identity:
            return load(model, folder, world)
    except ValueError:
        pass  # not there, or cut off: made anew
    params = fit(name, model, config, world)
    save(folder, model, params, identity, world.task)
    return params


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock beside a folder; waits, and says so, while another process has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes {folder}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fit(name: str, model: Decoder, config: FitConfig, world: World) -> Params:
    """Supervised training by the `sft` row, until its steps or its accuracy are reached."""
    steps = max(config.steps, 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(50, steps // 2), steps, 0.1 * config.learning_rate
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0))
    params = programs.init(world.mesh, model, _seed(name, world.seed))
    state = programs.start(world.mesh, model, optimizer, params)
    batches = pipeline.demonstrations(world.task, "train", world.seed, config.batch)
    check = config.stop_at is not None and world.task.verifier is not None
    held_out = world.task.split("validation")[:256] if check else ()
    with progress.progress(f"fit {name}", config.steps) as advance:
        for step in range(config.steps):
            rollout = sharding.shard_batch(demonstration(batches[step]), world.mesh)
            state, _ = programs.update(
                world.mesh, model, optimizer, state, rollout, None, SFT, world.seed, world.how
            )
            note = None
            if check and (step + 1) % config.check_every == 0:
                accuracy = drawing.sampled_accuracy(world, model, state.params, held_out)
                note = f"accuracy {accuracy:.2f}"
                if accuracy >= config.stop_at:
                    break
            advance(note=note)
    return state.params


def _seed(name: str, seed: int) -> int:
    """Teacher and student start from different parameters."""
    return int.from_bytes(hashlib.sha256(f"{name}\0{seed}".encode()).digest()[:4], "big") >> 1


def demonstration(batch: pipeline.Batch) -> Rollout:
    """Solutions as a rollout of the data's own policy, whose log-probabilities nobody knows."""
    count = len(batch["prompt"])
    return Rollout(
        prompt=jnp.asarray(batch["prompt"]),
        prompt_mask=jnp.asarray(batch["prompt_mask"]),
        tokens=jnp.asarray(batch["tokens"]),
        mask=jnp.asarray(batch["mask"]),
        logp_behavior=jnp.full(batch["mask"].shape, jnp.nan, jnp.float32),
        ended=jnp.asarray(batch["ended"]),
        group=jnp.arange(count, dtype=jnp.int32),
        row=jnp.arange(count, dtype=jnp.int32),
    )


def _identity(model: Decoder, config: FitConfig, world: World) -> dict[str, Any]:
    data = dataclasses.asdict(world.task.config)
    data["path"] = data["prompts"] = None
    identity = {
        "decoder": dataclasses.asdict(model.config),
        "fit": dataclasses.asdict(config),
        "data": data,
        "prepared": None if world.task.where is None else world.task.where.name,
        "sampling": dataclasses.asdict(world.sampling),
        "how": dataclasses.asdict(world.how),
        "seed": world.seed,
    }
    return disk.strict(identity)


def save(folder: Path, model: Decoder, params: Params, identity: Any, task: Task) -> None:
    """Writes a player's folder, complete, and only then gives it its name."""
    with disk.staged(folder) as staging:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(staging.resolve() / "params", params)
        describe(staging, model, identity, task)


def describe(folder: Path, model: Decoder, identity: Any, task: Task) -> None:
    """Writes a folder's player.json, of the files that are there; one that is there stays."""
    if (folder / "player.json").exists():
        return
    described = {
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
    disk.dump_json(described, folder / "player.json")


def load(model: Decoder, folder: Path, world: World) -> Params:
    """A player's parameters, read straight into their shards."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.resolve() / "params", abstract(model, world.mesh))


def abstract(model: Decoder | Scalar, mesh: Mesh) -> Params:
    """Shapes, types and shardings of a model's parameters."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    shardings = sharding.param_shardings(model, mesh)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )

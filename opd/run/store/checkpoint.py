"""Checkpoints that a killed run goes on from: asynchronous, atomic, checked before they are used.

A step's folder gets its name when it is complete (orbax). Beside it stands a list of its files with
their sizes and check sums, so that a damaged one is noticed, said, and the one before taken.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from opd import disk, processes
from opd.fields import setting
from opd.types import Params


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What a killed run goes on from."""

    every: int = setting(50, at_least=1)  # updates
    keep: int = setting(3, at_least=1)


class Step(NamedTuple):
    """What a checkpoint has."""

    tree: Any
    note: dict[str, Any]
    memory: dict[str, Any]


class Checkpoints:
    """The steps of one folder; each has a pytree, a note in JSON, and what a learner remembers.

    The tree is restored as it is asked for, onto its shardings. A memory is a nested dictionary of
    arrays and numbers whose keys and shapes are its own affair; it comes back on the host.
    """

    def __init__(self, folder: Path, keep: int | None):
        self.folder = folder.resolve()
        self._pending: list[int] = []
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                # Processes meet by name: two folders may be writing the same step.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    barrier_sync_key_prefix=self.folder.name
                ),
            ),
            item_names=("tree", "note", "memory"),
        )

    def save(
        self, step: int, tree: Any, note: dict[str, Any], memory: dict[str, Any] | None = None
    ) -> None:
        """Starts to write a step; one that is there already is written again."""
        self._settle()
        if step in self._manager.all_steps():
            self._manager.delete(step)
        items = {
            "tree": ocp.args.StandardSave(tree),
            "note": ocp.args.JsonSave(disk.strict(note)),
        }
        if memory:
            items["memory"] = ocp.args.StandardSave(_on_host(memory))
        self._manager.save(step, args=ocp.args.Composite(**items))
        self._pending.append(step)

    def restore(self, abstract: Any, step: int | None = None) -> Step | None:
        """The last whole step, or the one asked for; None where there is none.

        A damaged step is named on standard error and set aside, and the one before is taken.

        Raises:
            ValueError: the step asked for isn't there, or is damaged.
            Exception: it can't be read for want of memory or because the disk refuses: no damage.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if step is not None:
            if step not in steps:
                known = ", ".join(map(str, steps[::-1])) or "none"
                raise ValueError(f"{self.folder}: no checkpoint {step}; there are: {known}")
            steps = [step]
        for candidate in steps:
            found, reason = None, None
            try:
                found = self._read(candidate, abstract)
            except Exception as error:  # orbax and tensorstore raise what they like
                if _no_fault(error):
                    raise
                reason = " ".join(str(error).split())[:200]
            reason = processes.mistake(reason)
            if reason is None:
                return found
            what = f"checkpoint {candidate} of {self.folder} is damaged ({reason})"
            if step is not None:
                raise ValueError(what)
            aside = self._set_aside(candidate)
            print(f"warning: {what}: set aside as {aside}; taking the one before", file=sys.stderr)
        return None

    def close(self) -> None:
        """Waits until all is written."""
        self._settle()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self, step: int, abstract: Any) -> Step:
        """A step, if its files are as they were written; of several processes the first looks.

        Raises:
            ValueError: they aren't.
            Exception: of orbax and tensorstore.
        """
        damage = processes.told(_damage(self.folder, step) if processes.first() else None)
        if damage is not None:
            raise ValueError(damage)
        items = {"tree": ocp.args.StandardRestore(abstract), "note": ocp.args.JsonRestore()}
        if (self.folder / str(step) / "memory").is_dir():
            items["memory"] = ocp.args.StandardRestore()
        parts = self._manager.restore(step, args=ocp.args.Composite(**items))
        return Step(parts["tree"], parts["note"], parts["memory"] if "memory" in items else {})

    def _set_aside(self, step: int) -> Path:
        """Moves a step to where no start looks for one; nothing that might be of use is lost."""
        aside = self.folder.with_name(f"{self.folder.name}.damaged") / str(step)
        if processes.first():
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(aside)
            _sums(self.folder, step).unlink(missing_ok=True)
        processes.barrier()
        self._manager.reload()
        return aside

    def _settle(self) -> None:
        """Waits for what is being written, and lists its files; forgets steps that are gone."""
        self._manager.wait_until_finished()
        pending, self._pending = self._pending, []
        if not processes.first():
            return
        for step in pending:
            if (self.folder / str(step)).is_dir():
                disk.dump_json(_files(self.folder / str(step)), _sums(self.folder, step))
        there = {_sums(self.folder, step) for step in self._manager.all_steps()}
        for stale in set(self.folder.glob("*.sums.json")) - there:
            stale.unlink()


def _no_fault(error: Exception) -> bool:
    """Whether a step can't be read for a reason that lies outside of it."""
    short = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
    return short or disk.refusal(error) is not None


def _on_host(memory: dict[str, Any]) -> dict[str, Any]:
    """A memory as NumPy arrays; empty dictionaries, which orbax doesn't take, are left out."""
    host = {}
    for name, part in memory.items():
        if isinstance(part, dict):
            part = _on_host(part)
            if not part:
                continue
        else:
            part = np.asarray(processes.on_host(part))
        host[name] = part
    return host


def whole(folder: Path, step: int | None = None) -> int:
    """The step asked for, or the last one, of a folder that another run may still write to.

    Raises:
        ValueError: there is no finished one, not the one asked for, or it is damaged.
    """
    there = steps(folder)
    if not there:
        raise ValueError(f"{folder}: no finished checkpoint there")
    asked = there[-1] if step is None else step
    if asked not in there:
        raise ValueError(f"{folder}: no checkpoint {step}; there are: {', '.join(map(str, there))}")
    damage = _damage(folder, asked)
    if damage is not None:
        raise ValueError(f"checkpoint {asked} of {folder} is damaged ({damage})")
    return asked


def params(folder: Path, abstract_params: Params, step: int) -> Params:
    """A step's parameters, without the optimizer and whatever else its tree may have.

    Nothing is written or cleaned up: another run may be at work in the folder.
    """
    tree = folder.resolve() / str(step) / "tree"
    with ocp.Checkpointer(handler := ocp.PyTreeCheckpointHandler()) as checkpointer:
        inside = "optimizer" in handler.metadata(tree).tree  # an engine.steps.State
        wanted = {"params": abstract_params} if inside else abstract_params
        args = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        restored = checkpointer.restore(tree, args=args)
    return restored["params"] if inside else restored


def contents(folder: Path) -> str:
    """SHA-256 over the names, sizes and check sums of a folder's files."""
    return hashlib.sha256(json.dumps(_files(folder)).encode()).hexdigest()


def refuse_narrow(workdir: Path) -> None:
    """Refuses to go on from an optimizer narrower than float32, as bfloat16 folders once had.

    Raises:
        ValueError: names the dtype, and how to start from its parameters.
    """
    for step in steps(workdir / "checkpoints")[-1:]:
        narrow = _narrow(workdir / "checkpoints" / str(step) / "tree")
        if narrow:
            raise ValueError(
                f"--workdir={workdir} was trained in {', '.join(narrow)}, and what is trained is "
                "float32 today: give another workdir, and a config.student.from that names this "
                "one to start from its parameters"
            )


def _narrow(tree: Path) -> list[str]:
    """The dtypes below float32 that a step's optimizer has."""
    with ocp.Checkpointer(handler := ocp.PyTreeCheckpointHandler()):
        try:
            leaves = jax.tree_util.tree_leaves_with_path(handler.metadata(tree.resolve()).tree)
        except Exception:  # orbax raises what it likes of a damaged step, which restoring names
            return []
    kept = {leaf.dtype for path, leaf in leaves if "['optimizer']" in jax.tree_util.keystr(path)}
    floats = (np.dtype(dtype) for dtype in kept if jnp.issubdtype(dtype, jnp.floating))
    return sorted(dtype.name for dtype in floats if dtype.itemsize < 4)


def _sums(folder: Path, step: int) -> Path:
    return folder / f"{step}.sums.json"


def _damage(folder: Path, step: int) -> str | None:
    """What is wrong with a step's files, as far as its list says; killed runs have no list."""
    try:
        listed = json.loads(_sums(folder, step).read_text())
    except FileNotFoundError:
        return None
    files = _files(folder / str(step))
    wrong = [name for name, sums in listed.items() if files.get(name) != sums]
    return f"{wrong[0]} is not as it was written" if wrong else None


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file below a folder."""
    return {
        str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def steps(folder: Path) -> list[int]:
    """The steps that a folder has, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def abstract(tree: Any) -> Any:
    """Shapes, types and shardings of a tree of arrays, which is what restoring asks for."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def digest(params: Params) -> str:
    """SHA-256 over the leaves sorted by path: path, dtype, shape, raw little-endian bytes."""
    sha = hashlib.sha256()
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    for path in sorted(leaves):
        array = np.asarray(processes.on_host(leaves[path]))
        if sys.byteorder == "big":
            array = array.byteswap()
        for part in (path, str(array.dtype), str(array.shape)):
            sha.update(part.encode() + b"\0")
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def lock(workdir: Path) -> TextIO:
    """Holds a workdir until the process ends, or the file is closed; the first one does for all.

    Raises:
        ValueError: another process has it.
    """
    file = open(workdir / ".lock", "a", encoding="utf-8")
    taken = False
    if processes.first():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            taken = True
    if processes.told(taken):
        file.close()
        raise ValueError(f"--workdir={workdir}: another process is at work there")
    return file

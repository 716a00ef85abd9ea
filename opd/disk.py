"""Files that are whole or not there at all, and strict JSON in them.

Strict JSON has no NaN and no infinity: both become null, so that any reader in any language can
load what a run wrote. Of several processes the first alone writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import shutil
import tempfile
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from opd import processes

# What a disk refuses whatever is written: full, over quota, read-only, forbidden, broken, gone.
REFUSALS = tuple(
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ESTALE ENOTCONN".split()
    if hasattr(errno, name)
)


def refusal(error: BaseException) -> str | None:
    """What the disk refused, where that is behind an exception, in a few words; else None.

    Libraries wrap what they met in exceptions of their own, whose texts then have its words.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError):
            if error.errno in REFUSALS:
                where = f"{error.filename}: " if error.filename else ""
                return where + os.strerror(error.errno)
        else:
            for code in REFUSALS:
                if os.strerror(code) in str(error):
                    return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None


def strict(value: Any) -> Any:
    """The same value in JSON's own types: arrays as lists, NaN and infinity as None.

    Raises ValueError for a type that JSON has no form for, named by its path.
    """
    return _strict(value, "value")


def _strict(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _strict(getattr(value, f.name), f"{path}.{f.name}") for f in fields}
    if isinstance(value, Mapping):
        return {str(key): _strict(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [_strict(item, path) for item in sorted(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufV":
            raise ValueError(f"{path} is an array of {array.dtype}; JSON takes bool, int, float")
        # bfloat16 and its kin have kind V; they all widen to float64.
        array = array.astype(np.float64) if array.dtype.kind == "V" else array
        return _strict(array.tolist(), path)
    raise ValueError(f"{path} is a {type(value).__name__}; JSON has no form for it")


def dumps(value: Any, **options: Any) -> str:
    """Strict JSON text of anything `strict` takes."""
    return json.dumps(strict(value), allow_nan=False, ensure_ascii=False, **options)


def dump_json(value: Any, path: str | os.PathLike) -> None:
    """Writes strict JSON in one piece: a reader sees the old file or the new one, never half."""
    path = pathlib.Path(path)
    text = dumps(value, indent=1) + "\n"
    replace_file(path, text.encode())


@contextlib.contextmanager
def staged(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write into, which gets its name once it is complete; what was there goes."""
    staging = folder.with_name(f".incomplete-{folder.name}")
    if not processes.first():
        yield staging
        return
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Writes a file beside its destination and renames it into place."""
    if not processes.first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the name with nothing in it
        # mkstemp makes files that only their owner reads; these are results to share.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class JsonlWriter:
    """Appends records to a JSONL file, one flushed line each, so that a killed run keeps them.

    Opening a file whose last line was torn by a kill mends it first: a whole record gets its
    newline, half a record is cut.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path if processes.first() else os.devnull)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _mend(self.path)
        self._file = open(self.path, "a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record; raises ValueError, and writes nothing, where JSON has no form."""
        self._file.write(dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()


def _mend(path: pathlib.Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return
    whole = content.rfind(b"\n") + 1
    try:
        json.loads(content[whole:])
    except ValueError:
        os.truncate(path, whole)
    else:
        with open(path, "ab") as file:
            file.write(b"\n")


def keep_until(path: str | os.PathLike, update: int) -> None:
    """Cuts a JSONL file to the records whose `update` is not past the one given."""
    path = pathlib.Path(path)
    if not processes.first() or not path.exists():
        return
    _mend(path)
    records = [record for record in read_jsonl(path) if record["update"] <= update]
    replace_file(path, "".join(dumps(record) + "\n" for record in records).encode())


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    """All records of a JSONL file; blank lines are skipped. Raises ValueError with the line."""
    records = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
    return records

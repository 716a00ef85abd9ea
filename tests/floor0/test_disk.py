import dataclasses
import json
import math
import os
import pathlib
import stat

import jax.numpy as jnp
import numpy as np
import pytest

from opd import processes
from opd.disk import JsonlWriter, dump_json, dumps, keep_until, read_jsonl, staged, strict


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    where: pathlib.Path


def test_strict_turns_every_number_that_json_lacks_into_null():
    value = {"a": [math.nan, 1.5], "b": np.array([[np.inf, 2.0]]), 3: np.float32("-inf")}
    assert strict(value) == {"a": [None, 1.5], "b": [[None, 2.0]], "3": None}


def test_strict_knows_the_types_that_runs_hold():
    value = {
        "array": jnp.arange(3),
        "bf16": jnp.asarray([0.5, jnp.nan], jnp.bfloat16),
        "scalar": np.int64(7),
        "flag": np.bool_(True),
        "point": Point(1.0, pathlib.Path("a/b")),
        "tuple": (1, "two", None),
    }
    assert json.loads(dumps(value)) == {
        "array": [0, 1, 2],
        "bf16": [0.5, None],
        "scalar": 7,
        "flag": True,
        "point": {"x": 1.0, "where": "a/b"},
        "tuple": [1, "two", None],
    }


def test_strict_names_what_json_has_no_form_for():
    with pytest.raises(ValueError, match=r"value\.a\[1\] is a function"):
        strict({"a": [1, lambda: None]})


def test_dump_json_replaces_in_one_piece(tmp_path):
    path = tmp_path / "new" / "results.json"
    dump_json({"loss": math.nan}, path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"loss": None}
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444  # readable by others
    with pytest.raises(ValueError):
        dump_json({"loss": object()}, path)
    assert json.loads(path.read_text()) == {"loss": None}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_dump_json_leaves_the_old_file_where_renaming_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    dump_json(1, path)

    def broken(source, destination):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk"):
        dump_json(2, path)
    assert json.loads(path.read_text()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_record_is_on_disk_before_the_writer_closes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"step": 1, "loss": math.inf})
        assert path.read_text() == '{"step": 1, "loss": null}\n'


def test_a_second_writer_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(2):
        with JsonlWriter(path) as writer:
            writer.write({"step": step})
    assert read_jsonl(path) == [{"step": 0}, {"step": 1}]


@pytest.mark.parametrize(
    "left, kept",
    [
        ('{"step": 0}\n{"step": 1, "lo', [{"step": 0}]),
        ('{"step": 0}\n{"step": 1}', [{"step": 0}, {"step": 1}]),
        ('{"st', []),
        ("", []),
    ],
)
def test_a_line_torn_by_a_kill_is_mended(tmp_path, left, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text(left)
    with JsonlWriter(path) as writer:
        writer.write({"step": 9})
    assert read_jsonl(path) == [*kept, {"step": 9}]


def test_a_refused_record_leaves_no_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        with pytest.raises(ValueError):
            writer.write({"step": 1, "model": object()})
        writer.write({"text": "line\nbreak"})
    assert read_jsonl(path) == [{"text": "line\nbreak"}]


def test_read_jsonl_names_the_broken_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ValueError, match="line 3"):
        read_jsonl(path)


def test_of_several_processes_the_first_alone_writes(tmp_path, monkeypatch):
    dump_json({"a": 1}, tmp_path / "there.json")
    (tmp_path / "lines.jsonl").write_text('{"update": 1}\n{"update": 2}\n{"upd')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(processes, "first", lambda: False)
    dump_json({"a": 2}, tmp_path / "there.json")
    keep_until(tmp_path / "lines.jsonl", 1)
    with JsonlWriter(tmp_path / "lines.jsonl") as file:
        file.write({"update": 3})
    with staged(tmp_path / "folder") as staging:
        assert staging.parent == tmp_path and not staging.exists()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="no form"):
        dump_json({"a": object()}, tmp_path / "there.json")

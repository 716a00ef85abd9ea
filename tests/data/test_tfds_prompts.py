"""Prompts from a prepared TFDS dataset: a small one is made here, without TensorFlow."""

import json

import numpy as np
import pytest
from small import ROWS, prepare

from opd.data import pipeline, tfds_prompts
from opd.data.pipeline import DataConfig, load
from opd.data.verifiers import exact_match


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return prepare(tmp_path / "tfds")


def everything(task):
    return {(e.prompt, e.answer) for split in task.splits.values() for e in split}


SUMS = {(row["prompt"], row["answer"]) for row in ROWS}


def test_a_dataset_s_prompts_and_answers_are_read_and_some_held_out(prepared):
    task = load(DataConfig(prompts="tfds:sums", validation=2, test=3))
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 7,
        "validation": 2,
        "test": 3,
    }
    assert everything(task) == SUMS and task.verifier is exact_match
    assert all(e.solution == e.answer for e in task.split("train"))
    again = load(DataConfig(prompts="tfds:sums:1.0.0:train", validation=2, test=3))
    assert again.splits == task.splits


def test_a_split_or_a_part_of_one_is_read_where_it_is_said(prepared):
    whole = {"validation": 0, "test": 0}
    test = load(DataConfig(prompts="tfds:sums:test", **whole))
    assert [e.prompt for e in test.split("train")] == ["0+0=", "1+1=", "2+2="]
    part = load(DataConfig(prompts="tfds:sums:train[:25%]", **whole))
    assert part.splits == test.splits and part.identity != test.identity
    assert part.identity != load(DataConfig(prompts="tfds:sums", **whole)).identity


def test_other_features_are_read_where_they_are_named(prepared):
    task = load(DataConfig(prompts="tfds:sums", prompt_feature="answer", answer_feature="sum"))
    assert everything(task) == {(row["answer"], row["answer"]) for row in ROWS}


def test_a_number_is_written_as_short_as_it_can_be_told_from_others(prepared):
    halves = load(DataConfig(prompts="tfds:sums", answer_feature="x"))
    assert {answer for _, answer in everything(halves)} == {"0.5"}
    for value, text in ((float(np.float32(0.1)), "0.1"), (0.1, "0.1"), (np.float32(1e-3), "0.001")):
        assert tfds_prompts._text("d", "x", value) == text
    for value in (float("nan"), np.float32("inf"), True, [1.0]):
        with pytest.raises(ValueError, match="d: 'x' is a .*, allowed are text and finite numbers"):
            tfds_prompts._text("d", "x", value)


def test_features_that_are_not_read_are_said(prepared):
    task = load(DataConfig(prompts="tfds:sums"))
    assert pipeline.remarks(task) == ("columns of the data that are not read: sum, x",)
    assert task.split("train")[0].named.startswith("tfds:sums:train, ")


def test_answers_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare(tmp_path, [{"prompt": row["prompt"]} for row in ROWS])
    task = load(DataConfig(prompts="tfds:sums", max_completion=4))
    assert everything(task) == {(prompt, None) for prompt, _ in SUMS} and task.verifier is None
    prepare(tmp_path / "b", [row | {"answer": ""} for row in ROWS])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "b"))
    assert load(DataConfig(prompts="tfds:sums", max_completion=4)).verifier is None


def test_its_identity_is_its_content_not_its_place(prepared, tmp_path, monkeypatch):
    before = load(DataConfig(prompts="tfds:sums")).identity
    prepare(tmp_path / "b")
    prepare(tmp_path / "c", [*ROWS[:-1], ROWS[-1] | {"answer": "0"}])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "b"))
    assert load(DataConfig(prompts="tfds:sums")).identity == before
    assert load(DataConfig(prompts="tfds:sums", answer_feature="sum")).identity != before
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "c"))
    assert load(DataConfig(prompts="tfds:sums")).identity != before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": "tfds:sums:dev"}, "tfds:sums:dev: no such split; allowed are train, test"),
        ({"prompts": "tfds:sums:2.0.0"}, "tfds:sums:2.0.0: not prepared in "),
        ({"prompts": "tfds:differences"}, "tfds:differences: not prepared in "),
        ({"prompts": "tfds:sums/large"}, "tfds:sums/large: not prepared in "),
        ({"prompts": "tfds:"}, "data.prompts = 'tfds:': allowed is tfds:NAME[/CONFIG][:VERSION]"),
        ({"prompts": "tfds:../sums"}, "data.prompts = 'tfds:../sums': allowed is tfds:NAME"),
        ({"task": "tfds"}, "data.prompts = '': allowed is tfds:NAME"),
        (
            {"prompts": "tfds:sums", "prompt_feature": "question"},
            "no feature 'question' (data.prompt_feature); allowed are answer, prompt, sum, x",
        ),
        (
            {"prompts": "tfds:sums", "answer_feature": "reply"},
            "no feature 'reply' (data.answer_feature); allowed are answer, prompt, sum, x",
        ),
        (
            {"prompts": "a.jsonl", "prompt_feature": "q"},
            "data.prompt_feature = 'q': allowed for data.task = 'tfds' only",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(prepared, tmp_path, given, message):
    with pytest.raises(ValueError) as error:
        load(DataConfig(**given), tmp_path / "work")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("row", [{"prompt": "", "answer": "1"}, {"prompt": b"\xff", "answer": "1"}])
def test_a_prompt_that_is_empty_or_no_text_is_named_by_its_number(tmp_path, monkeypatch, row):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare(tmp_path, [{"prompt": "a", "answer": "1"}, row])
    with pytest.raises(ValueError, match="tfds:sums:train, 1: 'prompt' is (empty|not UTF-8)"):
        load(DataConfig(prompts="tfds:sums"))


def test_another_form_than_array_record_is_refused(prepared):
    info = prepared / "dataset_info.json"
    said = json.loads(info.read_text())
    info.write_text(json.dumps(said | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="tfds:sums: its files are tfrecord: allowed is array_rec"):
        load(DataConfig(prompts="tfds:sums"))


def test_damaged_files_are_said_in_one_line(prepared):
    (prepared / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="tfds:sums: not prepared in ") as error:
        load(DataConfig(prompts="tfds:sums"))
    assert "\n" not in str(error.value)

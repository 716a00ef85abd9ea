"""The GSM8K reader, on made-up files of that format."""

import json
import re

import pytest

from opd.data.builder import read as read_prepared
from opd.data.builder import write
from opd.data.gsm8k import GSM8K, GSM8KConfig, read, splits


def line(number: int, answer: str | None = None) -> dict:
    answer = (
        answer or f"{number} + 1 = <<{number}+1={number + 1}>>{number + 1} é\n#### {number + 1}"
    )
    return {"question": f"A shelf has {number} books. One more comes. How many?", "answer": answer}


def put(path, lines) -> None:
    rows = (row if isinstance(row, str) else json.dumps(row) for row in lines)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "train.jsonl", [line(n) for n in range(20)])
    put(tmp_path / "test.jsonl", [line(n, f"#### {n + 1:,}") for n in range(1000, 1006)])
    return tmp_path


def test_an_example(folder):
    first = read(folder / "train.jsonl", annotations=False)[0]
    assert first.prompt == "A shelf has 0 books. One more comes. How many?\n"
    assert first.solution == "0 + 1 = 1 é\n#### 1"
    assert first.answer == "1"
    kept = read(folder / "train.jsonl", annotations=True)[0]
    assert kept.solution == "0 + 1 = <<0+1=1>>1 é\n#### 1"
    assert read(folder / "test.jsonl", annotations=False)[0].answer == "1,001"


def test_validation_is_held_out_of_train(folder):
    made = splits(GSM8KConfig(str(folder), validation=5))
    sides = {name: {e.prompt for e in split} for name, split in made.items()}
    assert {name: len(side) for name, side in sides.items()} == {
        "train": 15,
        "validation": 5,
        "test": 6,
    }
    assert not sides["train"] & sides["validation"]
    assert made == splits(GSM8KConfig(str(folder), validation=5))
    assert (
        made["validation"] != splits(GSM8KConfig(str(folder), validation=5, seed=1))["validation"]
    )


def test_a_repeated_question_never_straddles(folder):
    put(folder / "train.jsonl", [line(n % 4) for n in range(20)])
    made = splits(GSM8KConfig(str(folder), validation=2))
    train, validation = ({e.prompt for e in made[n]} for n in ("train", "validation"))
    assert len(train) == len(validation) == 2 and not train & validation


def test_sizes(folder):
    made = splits(GSM8KConfig(str(folder), validation=5, train=3, test=2))
    assert [len(split) for split in made.values()] == [3, 5, 2]
    with pytest.raises(ValueError, match="data.validation = 20: .*allows at most 19"):
        splits(GSM8KConfig(str(folder), validation=20))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, found list"),
        ('{"answer": "#### 1"}', "needs 'question', has answer"),
        ("{}", "needs 'question', has nothing"),
        (line(1) | {"question": 3}, "'question' must be a non-empty string, found 3"),
        (line(1) | {"question": ""}, "'question' must be a non-empty string"),
        (line(1) | {"question": "\ud800"}, "half of a surrogate pair"),
        (line(1, "just 7"), "must end in '#### NUMBER'"),
        (line(1, "#### seven"), "after ####, 'seven' is not a number"),
        ("[" * 100_000, "not JSON"),
        ('{"question": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_malformed_line_is_named(folder, bad, message):
    path = folder / "train.jsonl"
    put(path, [line(0), line(1), bad, line(2)])
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: ")) as error:
        splits(GSM8KConfig(str(folder), validation=1))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_named(folder):
    path = folder / "test.jsonl"
    path.write_bytes(path.read_bytes() + b'{"question": "\xff"}\n')
    with pytest.raises(ValueError, match=re.escape(f"{path}:7: not UTF-8")):
        splits(GSM8KConfig(str(folder), validation=1))


def test_missing_and_empty_files_are_named(folder):
    (folder / "test.jsonl").write_text("")
    with pytest.raises(ValueError, match="test.jsonl: is empty"):
        splits(GSM8KConfig(str(folder), validation=1))
    (folder / "test.jsonl").unlink()
    with pytest.raises(ValueError, match="test.jsonl: cannot be read"):
        splits(GSM8KConfig(str(folder), validation=1))


def test_builder_writes_and_reads(folder, tmp_path):
    config = GSM8KConfig(str(folder), validation=5)
    write(GSM8K(config, tmp_path / "out"))
    assert read_prepared(GSM8K(config, tmp_path / "out")) == splits(config)

"""Preference pairs: read strictly, split by prompt, encoded as rollouts are."""

import json

import numpy as np
import pytest

from opd.data import pipeline, preferences
from opd.data.pipeline import DataConfig, Example
from opd.data.preferences import Pair

SIZES = {"train": 20, "validation": 8, "test": 8, "length": 10}
GOOD = {"prompt": "1+1=", "chosen": "2", "rejected": ""}


@pytest.fixture(scope="module")
def task():
    """Characters; P = 8, T = 4."""
    return pipeline.load(DataConfig(tokenizer="char", max_prompt=8, max_completion=4, **SIZES))


def some(count):
    return tuple(Pair(f"{n}+0=", str(n), str(n + 1)) for n in range(count))


def test_what_is_written_is_read(task, tmp_path):
    pairs = (*some(5), Pair("9+9=", "18", ""))
    (tmp_path / "p.jsonl").write_text(preferences.text(pairs))
    assert preferences.read(tmp_path / "p.jsonl", task) == pairs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, "'chosen' must be a string, found None"),
        ({"prompt": ""}, "'prompt' must be a non-empty string, found ''"),
        ({"rejected": ["2"]}, "'rejected' must be a string, found ['2']"),
        ({"rejected": "2"}, "chosen and rejected are the same ('2')"),
        ({"chosen": "12345"}, "chosen has 5 tokens ('12345'): allowed are at most 4 (data.max_co"),
        ({"rejected": "x"}, "the alphabet has no 'x'"),
        ({"prompt": "1+1+1+1+1="}, "prompt 0 has 10 tokens"),
        ({"system": "s"}, "'system' is not read: allowed are prompt, chosen, rejected"),
        ({"images": ["a.png"]}, "'images' is not read: allowed is text"),
    ],
)
def test_a_malformed_pair_is_named_by_file_and_line(task, tmp_path, change, message):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (GOOD, GOOD | change)))
    with pytest.raises(ValueError) as error:
        preferences.read(file, task)
    assert str(error.value).startswith(f"{file}:2: ") and message in str(error.value)
    file.write_text('{"prompt": "1+1=", "chosen": "2"}\n')
    with pytest.raises(ValueError, match=":1: needs 'rejected', has chosen, prompt"):
        preferences.read(file, task)


def test_pairs_are_encoded_as_prompts_and_solutions_are(task):
    pairs = (Pair("1+1=", "2", ""), Pair("10+20=", "1234", "30"))
    found = preferences.encode(task, pairs)
    assert set(found) == {"prompt", "prompt_mask", "tokens", "mask"}
    prompts = pipeline.encode_prompts(task, [Example(pair.prompt) for pair in pairs])
    np.testing.assert_array_equal(found["prompt"], prompts["prompt"])
    assert found["tokens"].shape == found["mask"].shape == (2, 2, 4)
    eos, char = task.tokenizer.eos_id, task.tokenizer.encode
    for row, pair in enumerate(pairs):
        for side, text in enumerate((pair.chosen, pair.rejected)):
            graded = found["tokens"][row, side][found["mask"][row, side]].tolist()
            assert graded == [*char(text), eos][:4]
    # What fills T was cut there: no EOS.
    assert eos not in found["tokens"][1, 0]


def test_no_prompt_is_on_both_sides():
    pairs = some(40) + tuple(Pair(f"{n}+0=", "7", "8") for n in range(40))
    train, held_out = preferences.split(pairs, 0)
    sides = [{pair.prompt for pair in side} for side in (train, held_out)]
    assert [len(side) for side in sides] == [36, 4] and not sides[0] & sides[1]
    assert (len(train), len(held_out)) == (72, 8)
    assert preferences.split(pairs, 0) == (train, held_out)
    assert preferences.split(pairs, 1) != (train, held_out)
    assert [len(side) for side in preferences.split(some(3), 0)] == [1, 2]
    with pytest.raises(ValueError, match="pairs of 2 distinct prompts: allowed are 3 or more"):
        preferences.split(some(2) * 2, 0)


def test_batches_are_a_function_of_seed_and_number(task):
    pairs = some(10)
    batches = preferences.batches(task, pairs, 3, 4)
    again = preferences.batches(task, pairs, 3, 4)
    for number in (0, 1, 7):
        for key, value in batches[number].items():
            np.testing.assert_array_equal(value, again[number][key])
    epoch = np.concatenate([batches[number]["tokens"] for number in range(5)])
    assert len(np.unique(epoch.reshape(20, -1), axis=0)) == 10, "two epochs of ten"
    other = preferences.batches(task, pairs, 4, 4)
    assert any(not np.array_equal(batches[n]["tokens"], other[n]["tokens"]) for n in range(3))
    with pytest.raises(ValueError, match="batch = 0"):
        preferences.batches(task, pairs, 3, 0)

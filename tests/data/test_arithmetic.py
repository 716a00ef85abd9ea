"""Arithmetic: right answers, splits that share no operand pair, and a round trip through TFDS."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd.data.arithmetic import (
    OPERATIONS,
    Arithmetic,
    ArithmeticConfig,
    pair,
    pairs,
    splits,
)
from opd.data.builder import hold_out, read, write

SMALL = {"train": 20, "validation": 8, "test": 8, "length": 10}


def operands(prompt: str) -> tuple[int, int]:
    a, b = re.fullmatch(r"(\d+)[+*](\d+)=", prompt).groups()
    return int(a), int(b)


@given(st.integers(1, 40), st.integers(0, 50))
def test_index_enumerates_the_unordered_pairs(size, low):
    found = [pair(index, low) for index in range(pairs(low, low + size))]
    assert sorted(found) == [(a, b) for a in range(low, low + size) for b in range(low, a + 1)]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_answers_are_right(operation, reverse):
    for split in splits(ArithmeticConfig(operation, 2, reverse, **SMALL)).values():
        for example in split:
            a, b = operands(example.prompt)
            value = {"add": a + b, "multiply": a * b}[operation]
            written = example.answer[::-1] if reverse else example.answer
            assert written == str(value)
            assert example.solution == example.answer


@settings(max_examples=30, deadline=None)
@given(
    digits=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    operation=st.sampled_from(list(OPERATIONS)),
)
def test_splits_share_no_unordered_pair(digits, seed, operation):
    made = splits(ArithmeticConfig(operation, digits, seed=seed, **SMALL))
    sides = {n: {tuple(sorted(operands(e.prompt))) for e in s} for n, s in made.items()}
    assert {name: len(side) for name, side in sides.items()} == SMALL
    names = list(sides)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert not sides[name] & sides[other], (name, other)


def test_a_whole_space_is_divided_without_rest():
    sizes = {"train": 40, "validation": 10, "test": 5, "length": 0}
    made = splits(ArithmeticConfig(digits=1, **sizes))
    assert list(made) == ["train", "validation", "test"], "an empty split isn't there"
    found = {tuple(sorted(operands(e.prompt))) for split in made.values() for e in split}
    assert len(found) == 55


def test_train_has_both_orders_and_the_others_one():
    made = splits(ArithmeticConfig(**SMALL))
    train = [operands(e.prompt) for e in made["train"]]
    assert len(set(train)) == len(train)
    assert {(b, a) for a, b in train} == set(train)
    assert len(made["test"]) == SMALL["test"]


def test_held_out_length_has_one_digit_more():
    made = splits(ArithmeticConfig(digits=3, **SMALL))
    assert {len(str(n)) for e in made["length"] for n in operands(e.prompt)} == {4}
    assert max(len(str(n)) for e in made["train"] for n in operands(e.prompt)) == 3


def test_the_seed_decides():
    config = ArithmeticConfig(**SMALL)
    assert splits(config) == splits(ArithmeticConfig(**SMALL))
    assert splits(config)["test"] != splits(ArithmeticConfig(seed=1, **SMALL))["test"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"operation": "divide"}, "data.operation = 'divide': allowed are add, multiply"),
        ({"digits": 0}, "data.digits = 0: allowed are 1 to 8"),
        ({"digits": 9}, "data.digits = 9: allowed are 1 to 8"),
        ({"digits": 1}, "= 4512: data.digits = 1 allows at most 55 operand pairs"),
        ({"digits": 1, "train": 1, "validation": 1, "test": 1, "length": 4096}, "at most 4095"),
    ],
)
def test_bad_configs_are_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        ArithmeticConfig(**given)
    assert "\n" not in str(error.value)


def test_builder_writes_array_records_and_reads_them_in_order(tmp_path):
    config = ArithmeticConfig(**SMALL)
    write(Arithmetic(config, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["arithmetic"]
    assert {p.suffix for p in tmp_path.rglob("arithmetic-*")} == {".array_record-00000-of-00001"}
    assert read(Arithmetic(config, tmp_path)) == splits(config)


@given(st.sets(st.text(), min_size=1), st.integers(0, 5), st.integers(0, 9))
def test_hold_out_is_stable_when_other_keys_come_and_go(keys, count, seed):
    held = hold_out(keys, count, seed)
    assert len(held) == min(count, len(keys)) and held <= keys
    kept = keys - held
    if kept:
        gone = next(iter(kept))
        assert hold_out(keys - {gone}, count, seed) == held

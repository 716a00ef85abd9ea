"""Every row of the table of tasks, on a small source: it is split, read, encoded and graded."""

import dataclasses

import numpy as np
import pytest
import small

from opd.data.config import keys
from opd.data.pipeline import DataConfig, demonstrations, encode_prompts, load, verify
from opd.data.tasks import TASKS
from opd.data.verifiers import VERIFIERS

EVERY = pytest.mark.parametrize("name", TASKS)


@pytest.fixture
def config(name, tmp_path, monkeypatch):
    """The task's config on a small source of its own."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    place = small.SOURCES.get(name, lambda folder: {})(tmp_path)
    sizes = {key: size for key, size in small.SIZES.items() if key in keys(TASKS[name])}
    try:
        return DataConfig(task=name, **sizes, **place)
    except ValueError as error:
        pytest.fail(f"tests/data/small.py: SOURCES needs a line {name!r}, a small source ({error})")


@EVERY
def test_a_key_that_is_none_keeps_the_task_s_default(name, config):
    bare = dataclasses.replace(config, train=None, validation=None, test=None, length=None)
    values = bare.task_config()
    for field in dataclasses.fields(values):
        if field.name in small.SIZES:
            assert getattr(values, field.name) == field.default, field.name


@EVERY
def test_splits_share_no_prompt(name, config):
    sides = {side: {e.prompt for e in split} for side, split in load(config).splits.items()}
    assert {"train", "validation", "test"} <= set(sides)
    assert sum(map(len, sides.values())) == len(set.union(*sides.values()))
    assert len(sides["validation"]) == small.SIZES["validation"]


@EVERY
def test_a_task_is_a_function_of_its_config(name, config, tmp_path):
    """In memory, prepared and found again; another seed holds out others."""
    first = load(config)
    prepared, found = load(config, tmp_path / "work"), load(config, tmp_path / "work")
    assert first.splits == load(config).splits == prepared.splits == found.splits
    assert prepared.where == found.where and prepared.where.name == first.identity
    other = load(dataclasses.replace(config, seed=1))
    assert other.splits["validation"] != first.splits["validation"]
    assert other.identity != first.identity


@EVERY
def test_prompts_are_encoded_whole(name, config):
    task = load(config)
    for split in task.splits.values():
        batch = encode_prompts(task, split)
        assert batch["prompt"].shape == (len(split), task.max_prompt)
        for example, ids, mask in zip(split, batch["prompt"], batch["prompt_mask"], strict=True):
            assert task.tokenizer.decode(ids[mask].tolist()) == example.prompt


@EVERY
def test_a_solution_earns_its_reward_and_a_wrong_one_none(name, config):
    task = load(config)
    assert task.verifier is TASKS[name].verifier
    batch = demonstrations(task, "train", 0, 9)[0]
    assert batch["ended"].all()
    rewards = verify(task, batch["tokens"], batch["mask"], batch["answers"])
    assert rewards.dtype == np.float32 and (rewards == 1).all()
    others = [answer + "1" for answer in batch["answers"]]
    assert (verify(task, batch["tokens"], batch["mask"], others) == 0).all()
    empty = np.where(np.arange(task.max_completion) == 0, task.tokenizer.eos_id, 0)
    empty = np.broadcast_to(empty, batch["tokens"].shape)
    assert (verify(task, empty, empty == task.tokenizer.eos_id, batch["answers"]) == 0).all()


@EVERY
def test_another_verifier_may_grade(name, config):
    chosen = load(dataclasses.replace(config, verifier="final_answer")).verifier
    assert chosen is VERIFIERS["final_answer"]


@pytest.mark.parametrize("said", ["arithmetic", "gsm8k"])
def test_prompts_say_what_the_task_is(said):
    """A config file of another task serves with prompts of one's own, and says so."""
    config = DataConfig(task=said, prompts="a.jsonl", digits=1, length=8)
    assert config.task == "jsonl" and config == DataConfig(
        task="jsonl", prompts="a.jsonl", digits=1, length=8
    )
    assert DataConfig(task=said, prompts="tfds:sums").task == "tfds"
    assert dataclasses.replace(config, prompts="tfds:sums").task == "tfds"

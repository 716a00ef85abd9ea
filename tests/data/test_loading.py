"""From a config to a task: what is refused, how prompts are split, and what is prepared once."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from small import SIZES, gsm8k_folder, jsonl_file

from opd.data import loading as subject
from opd.data.pipeline import DataConfig, demonstrations, load, prompts, verify
from opd.data.verifiers import exact_match

SMALL = DataConfig(tokenizer="char", **SIZES)


@pytest.fixture(scope="module")
def task():
    return load(SMALL)


# --- configs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "sorting"}, "data.task = 'sorting': allowed are arithmetic, gsm8k, jsonl"),
        ({"tokenizer": "word"}, "data.tokenizer = 'word': allowed are byte, char, bpe"),
        ({"operation": "divide"}, "data.operation = 'divide': allowed are add, multiply"),
        ({"long_prompts": "cut"}, "data.long_prompts = 'cut': allowed are error, skip"),
        ({"reverse": "yes"}, "data.reverse = 'yes': allowed is bool"),
        ({"digits": 2.5}, "data.digits = 2.5: allowed is int"),
        ({"digits": 9}, "data.digits = 9: allowed are 1 to 8"),
        ({"train": 0}, "data.train = 0: allowed is 1 or more"),
        ({"train": True}, "data.train = True: allowed is int or None"),
        ({"train": 10**6}, "data.digits = 2 allows at most 5050 operand pairs"),
        ({"max_prompt": 0}, "data.max_prompt = 0: allowed is 1 or more"),
        ({"bpe_size": 100}, "data.bpe_size = 100: allowed is 258 or more"),
        ({"seed": -1}, "data.seed = -1: allowed is 0 to 4294967295"),
        ({"seed": 2**32}, "data.seed = 4294967296: allowed is 0 to 4294967295"),
        ({"task": "gsm8k"}, "data.task = 'gsm8k' needs data.path"),
        ({"task": "jsonl"}, "data.task = 'jsonl' needs data.prompts"),
        ({"path": "x"}, "data.path = 'x': allowed for data.task = 'gsm8k' only"),
        ({"path": "x", "prompts": "y", "task": "gsm8k"}, "allowed is one of them"),
        ({"prompts": "x", "tokenizer": "char"}, "needs data.alphabet"),
    ],
)
def test_bad_configs_are_refused_in_one_line(given, message):
    with pytest.raises(ValueError) as error:
        DataConfig(**given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --- JSONL -----------------------------------------------------------------------------------


def test_jsonl_answers_make_a_verifier_only_if_every_line_has_one(tmp_path):
    rows = [
        {"prompt": "a", "answer": "x"},
        {"prompt": "b", "answer": 7},
        {"prompt": "d", "answer": "y"},
    ]
    made = load(DataConfig(prompts=jsonl_file(tmp_path, rows)))
    assert {name: len(split) for name, split in made.splits.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert made.verifier is exact_match
    found = {e.prompt: e.answer for split in made.splits.values() for e in split}
    assert found == {"a": "x", "b": "7", "d": "y"}

    rows.append({"prompt": "c"})
    made = load(DataConfig(prompts=jsonl_file(tmp_path, rows), max_completion=4))
    assert made.verifier is None
    with pytest.raises(ValueError, match="not every line has an answer"):
        verify(made, np.zeros((1, 4), int), np.zeros((1, 4), bool), [""])


def test_jsonl_without_answers_needs_a_completion_length_and_imitates_nothing(tmp_path):
    path = jsonl_file(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    with pytest.raises(ValueError, match="data.max_completion = None"):
        load(DataConfig(prompts=path))
    made = load(DataConfig(prompts=path, max_completion=4))
    assert prompts(made, "train", 0, 2)[0]["answers"] == ["", ""]
    with pytest.raises(ValueError, match="without an answer"):
        demonstrations(made, "train", 0, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ('{"answer": "1"}', "needs 'prompt' or 'messages', has answer"),
        ('{"prompt": ""}', "'prompt' must be a non-empty string"),
        (
            '{"prompt": "a", "answer": [1]}',
            "'answer' must be a non-empty string or a finite number, found [1]",
        ),
        (
            '{"prompt": "a", "answer": true}',
            "'answer' must be a non-empty string or a finite number, found True",
        ),
        ('{"prompt": "a", "messages": []}', "has 'prompt' and 'messages': allowed is one of them"),
        ('{"messages": "hello"}', "'messages' must be a list of objects, found 'hello'"),
        ('{"messages": ["hello"]}', "'messages' must be a list of objects"),
        ('{"messages": []}', "'messages' ends with nothing: allowed is one of 'user'"),
        ('{"messages": [{"role": "user"}]}', "needs 'content', has role"),
        (
            '{"messages": [{"role": "user", "content": 3}]}',
            "'content' must be a string or a list of text parts, found 3",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "'messages' ends with one of 'assistant': allowed is one of 'user'",
        ),
    ],
)
def test_malformed_jsonl_is_named_and_leaves_nothing_behind(tmp_path, bad, message):
    path = jsonl_file(tmp_path, [{"prompt": "a"}, bad])
    with pytest.raises(ValueError) as error:
        load(DataConfig(prompts=path), tmp_path / "work")
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_jsonl_missing_file_and_too_large_a_held_out_part(tmp_path):
    with pytest.raises(ValueError, match="none.jsonl: cannot be read"):
        load(DataConfig(prompts=str(tmp_path / "none.jsonl")), tmp_path / "work")
    path = jsonl_file(tmp_path, [{"prompt": "a", "answer": "b"}] * 3)
    for sizes in ({"validation": 1}, {"test": 1}):
        with pytest.raises(ValueError, match="has 1 distinct prompts, allowed are 0 to 0"):
            load(DataConfig(prompts=path, **sizes), tmp_path / "work")
    assert list(load(DataConfig(prompts=path)).splits) == ["train"]
    path = jsonl_file(tmp_path, [{"prompt": str(n), "answer": "b"} for n in range(9)])
    with pytest.raises(ValueError, match=r"data.validation \+ data.test = 5 \+ 4: .* 0 to 8"):
        load(DataConfig(prompts=path, validation=5, test=4), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_jsonl_splits_share_no_prompt(tmp_path):
    rows = [{"prompt": str(n % 40), "answer": str(n)} for n in range(80)]
    path = jsonl_file(tmp_path, rows)
    made = load(DataConfig(prompts=path))
    sides = {name: {e.prompt for e in split} for name, split in made.splits.items()}
    assert {name: len(side) for name, side in sides.items()} == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }
    assert len(set.union(*sides.values())) == 40, "no prompt is in two splits"
    assert sum(map(len, made.splits.values())) == 80, "equal prompts stay together"
    # Validation is held out first: a test split of another size leaves it as it is.
    other = load(DataConfig(prompts=path, test=9))
    assert other.splits["validation"] == made.splits["validation"]
    assert len({e.prompt for e in other.splits["test"]}) == 9


@pytest.mark.parametrize("sizes", [{}, {"max_completion": 5}])
def test_an_answer_outside_the_alphabet_is_named_by_its_prompt(tmp_path, sizes):
    rows = [{"prompt": str(n), "answer": str(n)} for n in range(5)]
    path = jsonl_file(tmp_path, [*rows, {"prompt": "7", "answer": "seven"}])
    config = DataConfig(prompts=path, tokenizer="char", alphabet="0123456789", **sizes)
    with pytest.raises(ValueError) as error:
        load(config, tmp_path / "work")
    said = f"{path}:6: answer to '7': the alphabet has no 's' (in 'seven')"
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_a_task_s_identity_is_its_content_not_its_place(tmp_path):
    rows = [{"prompt": str(n), "answer": str(n)} for n in range(5)]
    path = jsonl_file(tmp_path, rows)
    before = load(DataConfig(prompts=path))
    prepared = load(DataConfig(prompts=path), tmp_path / "work")
    assert before.identity == prepared.identity == prepared.where.name
    assert load(DataConfig(prompts=path), tmp_path / "work").identity == before.identity
    (tmp_path / "moved").mkdir()
    moved = jsonl_file(tmp_path / "moved", rows)
    assert load(DataConfig(prompts=moved)).identity == before.identity
    jsonl_file(tmp_path, [*rows, {"prompt": "9", "answer": "9"}])
    assert load(DataConfig(prompts=path)).identity != before.identity


# --- lengths ---------------------------------------------------------------------------------


def test_long_prompts_are_refused_by_name_or_skipped_and_counted(tmp_path):
    rows = [{"prompt": "ab" if n % 2 else "abcdef", "answer": "x"} for n in range(10)]
    rows += [{"prompt": f"{n}", "answer": "x"} for n in range(8)]
    path = jsonl_file(tmp_path, rows)
    config = DataConfig(prompts=path, max_prompt=3, validation=1, test=0, seed=1)
    with pytest.raises(ValueError) as error:
        load(config, tmp_path / "work")
    assert "data.max_prompt = 3: prompt 0 of train has 6 tokens ('abcdef')" in str(error.value)
    assert not (tmp_path / "work").exists()
    made = load(dataclasses.replace(config, long_prompts="skip"))
    assert made.skipped == {"train": 5, "validation": 0}
    assert all(e.prompt != "abcdef" for e in made.split("train"))
    with pytest.raises(ValueError, match="no prompt of train fits, the shortest has [45] tokens"):
        load(DataConfig(max_prompt=2, long_prompts="skip", **SIZES))


def test_lengths_default_to_the_longest(task):
    everything = [e for split in task.splits.values() for e in split]
    assert task.max_prompt == max(len(e.prompt) for e in everything)
    assert task.max_completion == 1 + max(len(e.solution) for e in everything)
    assert load(DataConfig(max_prompt=9, max_completion=5, **SIZES)).max_prompt == 9


def test_an_unknown_split_is_refused(task):
    with pytest.raises(ValueError, match="'dev': the arithmetic task has train, validation"):
        prompts(task, "dev", 0, 2)
    with pytest.raises(ValueError, match="batch = 0: allowed are integers from 1"):
        prompts(task, "train", 0, 0)


# --- prepared data ---------------------------------------------------------------------------


@pytest.fixture
def preparations(monkeypatch):
    made = []
    original = subject._prepare

    def prepare(config, *rest):
        made.append(config)
        original(config, *rest)

    monkeypatch.setattr(subject, "_prepare", prepare)
    return made


def test_prepared_data_is_reused_and_equal(tmp_path, preparations):
    first, second = load(SMALL, tmp_path), load(SMALL, tmp_path)
    assert len(preparations) == 1
    assert first.splits == second.splits == load(SMALL).splits
    assert first.where == second.where and first.where.parent == tmp_path / "data"
    recorded = json.loads((first.where / "config.json").read_text())
    assert recorded["task"] == "arithmetic" and recorded["digits"] == 2
    # Lengths are a matter of reading.
    load(dataclasses.replace(SMALL, max_prompt=20, max_completion=20), tmp_path)
    assert len(preparations) == 1


@pytest.mark.parametrize(
    "change",
    [{"digits": 3}, {"reverse": True}, {"seed": 1}, {"test": 5}, {"operation": "multiply"}],
)
def test_another_config_prepares_again(tmp_path, preparations, change):
    before = load(SMALL, tmp_path)
    other = dataclasses.replace(SMALL, **change)
    assert load(other, tmp_path).splits == load(other).splits != before.splits
    assert len(preparations) == 2


def test_another_source_prepares_again_and_a_bpe_is_kept(tmp_path, preparations):
    path = gsm8k_folder(tmp_path / "src")
    config = DataConfig(task="gsm8k", path=path, validation=2, tokenizer="bpe", bpe_size=260)
    first, second = load(config, tmp_path / "work"), load(config, tmp_path / "work")
    assert first.tokenizer.fingerprint() == second.tokenizer.fingerprint()
    assert (first.where / "tokenizer.json").is_file()
    moved = gsm8k_folder(tmp_path / "elsewhere")
    load(dataclasses.replace(config, path=moved), tmp_path / "work")
    assert len(preparations) == 1, "the same content in another place is the same data"
    gsm8k_folder(tmp_path / "src", count=9)
    assert len(load(config, tmp_path / "work").split("train")) == 7
    assert len(preparations) == 2


def test_a_bpe_is_trained_on_the_training_split_alone(tmp_path, monkeypatch):
    seen = []
    train = subject.train_bpe
    monkeypatch.setattr(subject, "train_bpe", lambda t, n: train(seen.extend(t) or seen, n))
    config = DataConfig(task="gsm8k", path=gsm8k_folder(tmp_path), validation=2, tokenizer="bpe")
    made = load(config)
    assert seen == [e.prompt + e.solution for e in made.split("train")]


def test_nothing_half_written_is_ever_reused(tmp_path, monkeypatch):
    def fails(builder):
        assert list((tmp_path / "data").iterdir()), "written beside the final name"
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(subject, "write", fails)
        with pytest.raises(RuntimeError, match="disk is full"):
            load(SMALL, tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
    assert load(SMALL, tmp_path).splits == load(SMALL).splits


def test_a_race_is_won_by_whoever_is_first(tmp_path, monkeypatch):
    first = load(SMALL, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    config = json.loads((first.where / "config.json").read_text())
    subject._prepare(SMALL, first.tokenizer, first.where, config)
    assert sorted(tmp_path.rglob("*")) == before


def test_preparing_says_nothing(tmp_path, capfd):
    load(SMALL, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_no_tensorflow_and_no_network(tmp_path):
    """In a process of its own, where a TensorFlow could be imported and the network is shut."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("")
    program = """
        import sys, socket
        def shut(*_): raise AssertionError("the network was asked for")
        socket.socket.connect = socket.getaddrinfo = socket.create_connection = shut
        from opd.data import pipeline
        assert "tensorflow" not in sys.modules, "on import"
        config = pipeline.DataConfig(train=9, validation=2, test=2, length=2)
        for _ in range(2):
            task = pipeline.load(config, sys.argv[1])
            pipeline.prompts(task, "train", 0, 4)[0]
        assert "tensorflow" not in sys.modules, "on load"
        import tensorflow
    """
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path / "work")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

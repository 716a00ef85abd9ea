"""The room's front door: configs, prepared data, batches and rewards."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from opd.data import pipeline
from opd.data.chat import ChatConfig
from opd.data.pipeline import (
    DataConfig,
    Example,
    Task,
    decode_completion,
    demonstrations,
    encode_prompts,
    encode_solutions,
    load,
    prompts,
    verify,
)
from opd.data.tokenizers import ByteTokenizer, CharTokenizer
from opd.data.verifiers import exact_match

SIZES = {"train": 20, "validation": 8, "test": 8, "length": 10}
SMALL = DataConfig(tokenizer="char", **SIZES)


@pytest.fixture(scope="module")
def task():
    return load(SMALL)


def jsonl_file(folder, rows):
    path = folder / "prompts.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(text + "\n" for text in lines), encoding="utf-8")
    return str(path)


def gsm8k_folder(folder, count=8):
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"{n} + 1?", "answer": f"so {n + 1}\n#### {n + 1}"} for n in range(count)]
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


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


@pytest.mark.parametrize("name", pipeline.SOURCES)
def test_every_task_keeps_the_contract(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    small.prepare(tmp_path / "tfds")
    rows = [{"prompt": f"{n}?", "answer": str(n)} for n in range(8)]
    extra = {
        "arithmetic": SIZES,
        "gsm8k": {"path": gsm8k_folder(tmp_path / "src"), "validation": 2},
        "jsonl": {"prompts": jsonl_file(tmp_path, rows)},
        "tfds": {"prompts": "tfds:sums"},
    }[name]
    found = load(DataConfig(task=name, **extra), tmp_path / "work")
    assert {"train", "validation"} <= set(found.splits)
    assert found.tokenizer.pad_id != found.tokenizer.eos_id
    batch = demonstrations(found, "train", 0, 3)[0]
    assert batch["ended"].all()
    rewards = verify(found, batch["tokens"], batch["mask"], batch["answers"])
    assert rewards.dtype == np.float32 and (rewards == 1).all(), "a solution earns its reward"
    others = [answer + "1" for answer in batch["answers"]]
    assert (verify(found, batch["tokens"], batch["mask"], others) == 0).all()


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
        ('{"answer": "1"}', "needs 'prompt', has answer"),
        ('{"prompt": ""}', "'prompt' must be a non-empty string"),
        ('{"prompt": "a", "answer": [1]}', "'answer' must be a non-empty string, found [1]"),
        ('{"prompt": "a", "answer": true}', "'answer' must be a non-empty string, found True"),
        ('{"prompt": "a", "messages": []}', "has 'prompt' and 'messages': allowed is one of them"),
        ('{"messages": "hello"}', "'messages' must be a list of objects, found 'hello'"),
        ('{"messages": ["hello"]}', "'messages' must be a list of objects"),
        ('{"messages": []}', "'messages' ends with nothing: allowed is one of 'user'"),
        ('{"messages": [{"role": "user"}]}', "needs 'content', has role"),
        ('{"messages": [{"role": "user", "content": 3}]}', "'content' must be a string, found 3"),
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
    assert str(error.value).startswith("answer to '7': the alphabet has no 's' (in 'seven')")
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


# --- encoding --------------------------------------------------------------------------------

TEXT = st.text("0123+=", min_size=1, max_size=9)


def toy(max_prompt=9, max_completion=6):
    return Task(
        config=SMALL,
        tokenizer=CharTokenizer("0123+="),
        verifier=exact_match,
        splits={"train": (Example("1+1=", "2", "2"),)},
        max_prompt=max_prompt,
        max_completion=max_completion,
        skipped={},
    )


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_prompts_are_padded_on_the_left(texts):
    made = toy()
    batch = encode_prompts(made, [Example(text) for text in texts])
    assert batch["prompt"].dtype == np.int32 and batch["prompt_mask"].dtype == bool
    for row, mask, text in zip(batch["prompt"], batch["prompt_mask"], texts, strict=True):
        assert mask.tolist() == [False] * (9 - len(text)) + [True] * len(text)
        assert (row[~mask] == made.tokenizer.pad_id).all()
        assert made.tokenizer.decode(row[mask]) == text
    assert batch["index"].tolist() == list(range(len(texts)))
    assert batch["texts"] == texts


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_eos_is_graded_and_nothing_after_it(texts):
    """A peer's bug: where the EOS action is masked, the student never learns to stop."""
    made = toy()
    eos = made.tokenizer.eos_id
    batch = encode_solutions(made, [Example("1", text) for text in texts])
    for row, mask, ended, text in zip(*(batch[n] for n in ("tokens", "mask", "ended")), texts):
        graded = row[mask].tolist()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
        assert (row[~mask] == made.tokenizer.pad_id).all()
        assert ended == (len(text) < 6)
        expected = made.tokenizer.encode(text) + [eos]
        assert graded == expected[:6]
        assert (graded[-1] == eos) == ended
        assert decode_completion(made, row, mask) == text[:6]


def test_a_task_with_pad_equal_to_eos_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Broken(ByteTokenizer):
        pad_id = 1

    with pytest.raises(ValueError, match="pad and EOS are both id 1"):
        dataclasses.replace(toy(), tokenizer=Broken())


def test_encoding_refuses_empty_and_long_prompts():
    for text in ("", "1" * 10):
        with pytest.raises(ValueError, match=f"prompt 1 has {len(text)} tokens"):
            encode_prompts(toy(), [Example("1"), Example(text)])


def test_verify_wants_an_ended_completion_and_reads_graded_tokens_only():
    made = toy()
    char, eos, pad = made.tokenizer.encode("2")[0], made.tokenizer.eos_id, made.tokenizer.pad_id
    tokens = np.array(
        [
            [char, eos, pad, pad],  # right
            [char, eos, char, eos],  # right: what follows EOS isn't graded
            [char, char, eos, pad],  # wrong
            [char, char, char, char],  # cut
            [char, eos, pad, pad],  # reads right, but no EOS was graded
        ]
    )
    length = np.array([2, 2, 3, 4, 1])
    mask = np.arange(4) < length[:, None]
    rewards = verify(made, tokens, mask, ["2", "2", "2", "2222", "2"])
    assert rewards.tolist() == [1, 1, 0, 0, 0]
    assert rewards.dtype == np.float32


# --- a folder's tokenizer --------------------------------------------------------------------

TEMPLATE = "{% for m in messages %}<|user|>{{ m.role }} {{ m.content }}{% endfor %}<|model|>"
ENDS = ("<|end|>", "<|model|>")


@pytest.fixture
def folder(tmp_path):
    """A tokenizer with a template and two ends."""
    tokens = small.byte_level()
    ends = {"eos_token_id": [tokens.token_to_id(end) for end in ENDS]}
    files = {"generation_config.json": ends}
    named = {"eos_token": "<|end|>", "pad_token": "<|pad|>", "chat_template": TEMPLATE}
    return small.write(tmp_path / "folder", tokens, files, **named)


def test_a_folder_s_tokenizer_writes_prompts_by_its_template(folder, tmp_path):
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(6)]
    common = {"prompts": jsonl_file(tmp_path, rows), "tokenizer": str(folder)}
    task = load(DataConfig(**common, chat=ChatConfig(system="Add.")), tmp_path / "work")
    example = task.split("train")[0]
    batch = encode_prompts(task, [example])
    ids = batch["prompt"][0][batch["prompt_mask"][0]]
    whole = f"<|user|>system Add.<|user|>user {example.prompt}<|model|>"
    tokens = small.byte_level()
    assert ids.tolist() == tokens.encode(whole).ids and ids[-1] == tokens.token_to_id("<|model|>")
    assert batch["texts"] == [example.prompt]
    assert pipeline.first_prompt(task) == repr(whole)
    assert load(SMALL) and pipeline.first_prompt(load(SMALL)) is None
    plain = load(DataConfig(**common, chat=ChatConfig(template=False)))
    assert plain.max_prompt < task.max_prompt and plain.identity != task.identity
    assert load(task.config, tmp_path / "work").where == task.where


def test_any_end_ends_a_completion(folder, tmp_path):
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(6)]
    path = jsonl_file(tmp_path, rows)
    task = load(DataConfig(prompts=path, tokenizer=str(folder), max_completion=4))
    (two,) = task.tokenizer.encode("2")
    ids = [small.byte_level().token_to_id(name) for name in (*ENDS, "<|user|>")]
    tokens = np.array([[two, end, two, two] for end in ids])
    mask = np.array([[True, True, False, False]] * 3)
    assert verify(task, tokens, mask, ["2"] * 3).tolist() == [1, 1, 0]
    assert decode_completion(task, tokens[0], mask[0]) == "2"


def test_a_long_first_prompt_is_cut(folder, tmp_path):
    path = jsonl_file(tmp_path, [{"prompt": "a" * 999, "answer": "1"}] * 3)
    shown = pipeline.first_prompt(load(DataConfig(prompts=path, tokenizer=str(folder))))
    assert shown.startswith("'<|user|>user aaa") and len(shown) == 400


def test_a_prompt_may_be_a_conversation(folder, tmp_path):
    turns = [
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "no, 1+1="},
    ]
    rows = [{"messages": turns, "answer": 2}, {"messages": turns[:1], "answer": "2"}]
    rows += [{"messages": [{"role": "system", "content": "Add."}, *turns[2:]], "answer": "2"}]
    rows += [{"prompt": "1+1=", "answer": "2"}]
    path = jsonl_file(tmp_path, rows)
    config = DataConfig(
        prompts=path, tokenizer=str(folder), validation=0, test=0, chat=ChatConfig(system="S.")
    )
    task = load(config, tmp_path / "work")
    first = "<|user|>system S.<|user|>user 1+1="
    assert [task.tokenizer.rendered(e.asked) for e in task.split("train")] == [
        f"{first}<|user|>assistant 3<|user|>user no, 1+1=<|model|>",
        f"{first}<|model|>",
        "<|user|>system Add.<|user|>user no, 1+1=<|model|>",
        f"{first}<|model|>",
    ]
    batch = encode_prompts(task, task.split("train"))
    lengths = batch["prompt_mask"].sum(1)
    assert lengths[1] == lengths[3] < lengths[0]
    assert json.loads(batch["texts"][0]) == turns and len(set(batch["texts"])) == 4
    for other in (
        {"tokenizer": "byte", "chat": ChatConfig()},
        {"chat": ChatConfig(template=False)},
    ):
        with pytest.raises(ValueError, match="'messages' need the tokenizer of a Hugging Face"):
            load(dataclasses.replace(config, **other))


def test_a_chat_is_for_a_folder_s_tokenizer_alone(tmp_path):
    for tokenizer in (None, "byte"):
        config = DataConfig(tokenizer=tokenizer, chat=ChatConfig(system="s"))
        with pytest.raises(ValueError, match="data.chat: allowed with a Hugging Face folder's"):
            load(config, tmp_path / "work")
    with pytest.raises(ValueError, match="data.tokenizer = .*nowhere.*or a folder with tokenizer"):
        DataConfig(tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="tokenizer.json: cannot be read"):
        load(DataConfig(tokenizer=str(tmp_path)), tmp_path / "work")
    assert not (tmp_path / "work").exists()


# --- batches ---------------------------------------------------------------------------------


def rows_of(dataset, steps):
    return [dataset[n]["index"].tolist() for n in steps]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 50), step=st.integers(0, 10**6))
def test_a_step_is_a_function_of_seed_and_step(task, seed, batch, step):
    there = prompts(task, "train", seed, batch)[step]
    again = prompts(task, "train", seed, batch)
    rows_of(again, range(3))  # what was read before doesn't matter
    np.testing.assert_equal(again[step], there)
    assert there["prompt"].shape == (batch, task.max_prompt)
    examples = [task.split("train")[i] for i in there["index"]]
    np.testing.assert_equal(there["prompt"], encode_prompts(task, examples)["prompt"])
    assert there["answers"] == [e.answer for e in examples]
    assert there["texts"] == [e.prompt for e in examples]
    with_solutions = demonstrations(task, "train", seed, batch)[step]
    np.testing.assert_equal({n: with_solutions[n] for n in there}, there)
    np.testing.assert_equal(with_solutions["tokens"], encode_solutions(task, examples)["tokens"])


def test_every_epoch_is_a_fresh_permutation(task):
    count = len(task.split("validation"))
    epochs = rows_of(prompts(task, "validation", 3, count), range(6))
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4
    # A batch size that doesn't divide the epoch neither drops nor repeats an example.
    odd = rows_of(prompts(task, "validation", 3, 3), range(count))
    assert sum(odd, []) == sum(epochs[:3], [])


def test_a_seed_does_not_replay_its_neighbour_one_epoch_later(task):
    count = len(task.split("train"))
    left, right = (prompts(task, "train", seed, count) for seed in (0, 1))
    seen = {tuple(epoch) for epoch in rows_of(left, range(5))}
    assert not seen & {tuple(epoch) for epoch in rows_of(right, range(5))}


# --- prepared data ---------------------------------------------------------------------------


@pytest.fixture
def preparations(monkeypatch):
    made = []
    original = pipeline._prepare

    def prepare(config, *rest):
        made.append(config)
        original(config, *rest)

    monkeypatch.setattr(pipeline, "_prepare", prepare)
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
    train = pipeline.train_bpe
    monkeypatch.setattr(pipeline, "train_bpe", lambda t, n: train(seen.extend(t) or seen, n))
    config = DataConfig(task="gsm8k", path=gsm8k_folder(tmp_path), validation=2, tokenizer="bpe")
    made = load(config)
    assert seen == [e.prompt + e.solution for e in made.split("train")]


def test_nothing_half_written_is_ever_reused(tmp_path, monkeypatch):
    def fails(builder):
        assert list((tmp_path / "data").iterdir()), "written beside the final name"
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write", fails)
        with pytest.raises(RuntimeError, match="disk is full"):
            load(SMALL, tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
    assert load(SMALL, tmp_path).splits == load(SMALL).splits


def test_a_race_is_won_by_whoever_is_first(tmp_path, monkeypatch):
    first = load(SMALL, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    config = json.loads((first.where / "config.json").read_text())
    pipeline._prepare(SMALL, first.tokenizer, first.where, config)
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

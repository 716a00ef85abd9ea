"""From a task to arrays and back: encoding, batches, completions and rewards."""

import dataclasses
import datetime
import json

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SIZES, jsonl_file

from opd.data import hub_tokenizer, pipeline
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

SMALL = DataConfig(tokenizer="char", **SIZES)


@pytest.fixture(scope="module")
def task():
    return load(SMALL)


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


ROWS = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(6)]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            {"prompt": "x", "tools": [{"name": "f"}]},
            "the folder's chat template has no place for 'tools'",
        ),
        (
            {"prompt": "x", "chat_template_kwargs": {"a": 1}},
            "'chat_template_kwargs' has 'a', which the folder's chat template never reads",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "name": "al"}]},
            "the folder's chat template never reads 'name' of a message of 'user'",
        ),
        (
            {"prompt": "<|user|>user 1+1=<|end|><|model|>"},
            "the prompt ('<|user|>user 1+1=<|end|><|model|>') is formatted already, and the chat "
            "template would wrap it again: allowed is data.chat.template = False",
        ),
        ({"prompt": "x", "images": ["a.png"]}, "'images' is not read: allowed is text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "'content' has a part 'image'",
        ),
    ],
)
def test_what_the_template_would_drop_is_named_by_its_line(folder, tmp_path, bad, said):
    path = jsonl_file(tmp_path, [*ROWS, bad | {"answer": "1"}])
    with pytest.raises(ValueError) as error:
        load(DataConfig(prompts=path, tokenizer=str(folder)), tmp_path / "work")
    assert str(error.value).startswith(f"{path}:7: {said}") and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_a_conversation_where_there_is_no_template_is_named_by_its_line(tmp_path):
    path = jsonl_file(tmp_path, [*ROWS, {"prompt": "x", "system": "s", "answer": "1"}])
    with pytest.raises(ValueError, match=r"prompts.jsonl:7: prompts with 'messages' need the tok"):
        load(DataConfig(prompts=path), tmp_path / "work")


def test_formatted_prompts_are_kept_as_they_are(folder, tmp_path):
    tokens = small.byte_level()
    text = "<|user|>user 1+1=<|model|>"
    rows = [{"prompt": text, "answer": "2<|end|>"}, *ROWS]
    config = DataConfig(
        prompts=jsonl_file(tmp_path, rows), tokenizer=str(folder), validation=0, test=0,
        chat=ChatConfig(template=False),
    )  # fmt: skip
    task = load(config)
    batch = encode_prompts(task, task.split("train")[:1])
    assert batch["prompt"][0].tolist() == tokens.encode(text).ids
    solved = encode_solutions(task, task.split("train")[:1])
    assert solved["tokens"][0][solved["mask"][0]].tolist() == tokens.encode("2<|end|>").ids
    assert pipeline.remarks(task) == ()
    path = jsonl_file(tmp_path, [{"prompt": text, "answer": "2<|end|>3"}, *ROWS])
    with pytest.raises(ValueError, match="prompts.jsonl:1: answer to .* goes on after '<.end.>'"):
        load(config)
    assert path


def test_what_is_read_otherwise_than_it_may_seem_is_said(folder, tmp_path):
    rows = [*ROWS, {"prompt": "hi <|end|> there", "answer": "1", "id": 3, "source": "a"}]
    path = jsonl_file(tmp_path, rows)
    said = (
        "columns of the data that are not read: id, source",
        "prompts that spell special tokens, which are text there: 1, first "
        f"{path}:7 (<|end|>); data.chat.template = False reads prompts as they are",
    )
    config = DataConfig(prompts=path, tokenizer=str(folder), validation=0, test=0)
    task = load(config)
    assert pipeline.remarks(task) == said
    end = small.byte_level().token_to_id("<|end|>")
    assert end not in encode_prompts(task, task.split("train"))["prompt"]
    assert pipeline.remarks(load(dataclasses.replace(config, tokenizer="byte"))) == said[:1]
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    hub_tokenizer.load.cache_clear()
    base = load(config)
    assert end not in encode_prompts(base, base.split("train"))["prompt"]
    assert pipeline.remarks(base) == said


def test_ids_that_a_model_has_no_row_for_are_named_by_their_line(tmp_path):
    tokens = small.byte_level()
    tokens.add_tokens(["<image>"])
    folder = small.write(tmp_path / "folder", tokens, eos_token="<|end|>", pad_token="<|pad|>")
    last = tokens.token_to_id("<image>")
    for at, key in ((6, "prompt"), (7, "answer")):
        rows = [*ROWS, {"prompt": "x", "answer": "1"}, {"prompt": "y", "answer": "1"}]
        rows[at] = rows[at] | {key: "an <image>"}
        path = jsonl_file(tmp_path, rows)
        task = load(DataConfig(prompts=path, tokenizer=str(folder)))
        pipeline.refuse_rowless(task, last + 1)
        with pytest.raises(ValueError) as error:
            pipeline.refuse_rowless(task, last)
        assert str(error.value) == (
            f"{path}:{at + 1}: has '<image>', id {last}: the model has rows for 0 to {last - 1}"
        )
    task = load(DataConfig(prompts=jsonl_file(tmp_path, ROWS), tokenizer=str(folder)))
    pipeline.refuse_rowless(task, last)


DATED = TEMPLATE + "{{ strftime_now('%Y-%m-%d') }}"


def test_a_day_belongs_to_the_data_where_a_template_asks_for_one(folder, tmp_path, monkeypatch):
    path = jsonl_file(tmp_path, ROWS)
    config = DataConfig(prompts=path, tokenizer=str(folder))
    assert pipeline.dated(config) is config and pipeline.dated(SMALL) is SMALL
    (folder / "chat_template.jinja").write_text(DATED)
    hub_tokenizer.load.cache_clear()
    today = datetime.date.today().isoformat()
    assert pipeline.dated(config).chat.date in (today, datetime.date.today().isoformat())
    then = dataclasses.replace(config, chat=ChatConfig(date="2024-07-26"))
    assert pipeline.dated(config, then) == pipeline.dated(then) == then
    other = dataclasses.replace(config, chat=ChatConfig(date="2025-01-01"))
    assert pipeline.dated(other, then) == other
    task = load(then)
    assert task.tokenizer.rendered("x").endswith("2024-07-26")
    assert load(other).identity != task.identity
    unasked = dataclasses.replace(config, chat=ChatConfig(template=False))
    assert pipeline.dated(unasked, then) is unasked


def test_data_of_before_a_key_of_the_chat_keep_their_name(folder, tmp_path):
    config = DataConfig(prompts=jsonl_file(tmp_path, ROWS), tokenizer=str(folder))
    task = load(config, tmp_path / "work")
    named = task.where.rename(task.where.with_name("jsonl-0123456789ab"))
    origin = json.loads((named / "config.json").read_text())
    del origin["chat"]["date"]
    (named / "config.json").write_text(json.dumps(origin))
    assert pipeline.keep(load(config), tmp_path / "work").identity == named.name
    other = dataclasses.replace(config, chat=ChatConfig(system="s"))
    assert pipeline.keep(load(other), tmp_path / "work").identity != named.name


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

"""What a teacher reads in a prompt's place: a template over the columns of the prompt's row."""

import dataclasses
import json

import numpy as np
import pytest
from small import SIZES, jsonl_file

from opd.data import chat, pipeline, told
from opd.data.builder import Example
from opd.data.conversation import Conversation
from opd.data.pipeline import DataConfig, encode_prompts, load, tell

HINTED = "{{ feedback }}. {{ prompt }}"
ROWS = [
    {"prompt": f"{n}+{n}=", "answer": 2 * n, "feedback": f"it is {'x' * n}", "id": n}
    for n in range(12)
]


@pytest.fixture
def listed(tmp_path):
    """(rows, keys of data) -> the task of a file of them."""

    def make(rows=ROWS, **keys):
        return load(DataConfig(prompts=jsonl_file(tmp_path, rows), **keys))

    return make


def test_a_template_reads_the_columns_of_its_row(listed):
    task = tell(listed(), HINTED)
    examples = task.split("train")
    assert {task.told.asked(each) for each in examples} <= {
        f"it is {'x' * n}. {n}+{n}=" for n in range(12)
    }
    assert task.told.width == max(
        len(task.told.asked(e)) for split in task.splits.values() for e in split
    )


def test_both_prompts_of_a_row_are_encoded_side_by_side(listed):
    task = tell(listed(), HINTED)
    examples = task.split("train")[:3]
    batch = encode_prompts(task, examples)
    for row, example in enumerate(examples):
        for ids, mask, text in (
            (batch["prompt"], batch["prompt_mask"], example.prompt),
            (batch["told"], batch["told_mask"], task.told.asked(example)),
        ):
            assert mask[row].tolist() == sorted(mask[row].tolist())  # padding is on the left
            assert task.tokenizer.decode(ids[row][mask[row]].tolist()) == text
    assert "told" not in encode_prompts(listed(), examples)
    np.testing.assert_array_equal(encode_prompts(listed(), examples)["prompt"], batch["prompt"])


def test_every_task_has_prompt_answer_and_solution():
    task = tell(
        load(DataConfig(tokenizer="char", **SIZES)), "{{ solution }}{{ answer }}={{ prompt }}"
    )
    first = task.split("test")[0]
    assert task.told.asked(first) == f"{first.answer}{first.answer}={first.prompt}"


def test_what_a_column_says_may_be_asked_first(listed):
    """A value of null says nothing, and so does a column that a line lacks."""
    rows = [row | {"feedback": None if n % 2 else "yes"} for n, row in enumerate(ROWS)]
    source = "{% if feedback is defined %}{{ feedback }} {% endif %}{{ prompt }}"
    task = tell(listed(rows), source)
    assert {task.told.asked(e).startswith("yes ") for e in task.split("train")} == {True, False}


def test_a_line_s_own_solution_comes_before_its_answer(listed):
    task = tell(
        listed([row | {"solution": "worked"} for row in ROWS]), "{{ solution }}{{ answer }}"
    )
    assert all(task.told.asked(e) == f"worked{e.answer}" for e in task.split("train"))


def test_in_a_conversation_it_is_the_last_message_that_is_another():
    turns = tuple({"role": r, "content": c} for r, c in (("system", "s"), ("user", "why?")))
    talk = Conversation(turns, tools=({"name": "f"},))
    example = Example(talk.text, "yes", "yes", talk)
    asked = told.Told.of("{{ messages | length }} {{ answer }}: {{ prompt }}").asked(example)
    assert asked.messages == (turns[0], {"role": "user", "content": "2 yes: why?"})
    assert asked.tools == talk.tools
    parts = dataclasses.replace(
        talk, messages=({"role": "user", "content": [{"type": "text", "text": "a"}] * 2},)
    )
    asked = told.Told.of("{{ prompt }}!").asked(dataclasses.replace(example, conversation=parts))
    assert asked.messages[-1]["content"] == "aa!"


def without_feedback(at):
    return [
        {k: v for k, v in row.items() if n != at or k != "feedback"} for n, row in enumerate(ROWS)
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (HINTED, "prompts.jsonl:8: config.teacher.prompt needs 'feedback', has answer, id"),
        ("{{ prompt", "config.teacher.prompt: not a jinja2 template (unexpected end of template"),
        ("Be brief.", "config.teacher.prompt = 'Be brief.': reads no column of a row, allowed is"),
        ("{% if id != 3 %}{{ prompt }}{% endif %}", ":4: config.teacher.prompt writes no text"),
        ("{{ answer.x }}", ":1: config.teacher.prompt fails ('str object' has no attribute 'x')"),
        ("{{ strftime_now('%Y') }}{{ prompt }}", "needs 'strftime_now'"),
        ("{{ ().__class__.__mro__ }}{{ prompt }}", ":1: config.teacher.prompt fails ("),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_by_its_line(source, message, listed):
    with pytest.raises(ValueError) as error:
        tell(listed(without_feedback(7)), source)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_row_without_an_answer_has_no_such_column(listed):
    rows = [{"prompt": "why?"}, *ROWS]
    with pytest.raises(ValueError, match=r"prompts.jsonl:1: config.teacher.prompt needs 'answer'"):
        tell(listed(rows, max_completion=4), "{{ answer }}{{ prompt }}")


def test_a_row_of_no_file_is_named_by_its_prompt():
    with pytest.raises(ValueError, match=r"prompt '.*=': config.teacher.prompt needs 'hint'"):
        tell(load(DataConfig(tokenizer="char", **SIZES)), "{{ hint }}")


def test_what_the_tokenizer_has_no_ids_for_is_refused():
    with pytest.raises(ValueError, match=r"prompt '.*=': the teacher's prompt: .*'!'"):
        tell(load(DataConfig(tokenizer="char", **SIZES)), "{{ prompt }}!")


def test_too_long_ones_are_refused_or_dropped_as_the_students_are(listed):
    with pytest.raises(
        ValueError, match=r"max_prompt = 12: the teacher's prompt of .*prompts.jsonl"
    ):
        tell(listed(), HINTED, 12)
    whole, task = listed(), tell(listed(long_prompts="skip"), HINTED, 17)
    assert task.told.width == 17
    for name, split in task.splits.items():
        fits = [e for e in whole.split(name) if len(task.told.asked(e)) <= 17]
        assert list(split) == fits and task.skipped[name] == len(whole.split(name)) - len(fits)
    assert sum(task.skipped.values()) > 0
    with pytest.raises(ValueError, match="max_prompt = 3: no teacher's prompt of train fits"):
        tell(listed(long_prompts="skip"), HINTED, 3)


def test_both_first_prompts_are_shown_and_read_columns_are_read(listed):
    task = tell(listed(), HINTED)
    first = task.split("train")[0]
    assert pipeline.first_prompts(task) == (
        f"first prompt, the student's: {first.prompt!r}",
        f"first prompt, the teacher's: {task.told.asked(first)!r}",
    )
    assert pipeline.first_prompts(listed()) == ()
    assert pipeline.remarks(listed()) == ("columns of the data that are not read: feedback, id",)
    assert pipeline.remarks(task) == ("columns of the data that are not read: id",)


def test_a_row_template_says_what_it_reads():
    template = chat.RowTemplate(
        "{% set x = prompt %}{{ x }}{% for y in hints %}{{ y }}{% endfor %}", "k"
    )
    assert template.reads == {"prompt", "hints"}
    assert template.render({"prompt": "a", "hints": json.loads('["b", "c"]')}) == "abc"

"""What a line asks: every key that others read is read, or refused by name."""

import json
from pathlib import Path

import pytest
from small import jsonl_file

from opd.data import prompts
from opd.data.conversation import BESIDE, READ, REFUSED, Conversation, absent, asked, unread
from opd.data.jsonl import read_objects

USER = {"role": "user", "content": "x"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ({"prompt": "x"}, "x"),
        ({"prompt": "x", "messages": None, "system": None, "tools": None}, "x"),
        ({"prompt": [USER]}, Conversation((USER,))),
        ({"messages": [USER], "prompt": None}, Conversation((USER,))),
        (
            {"prompt": "x", "system": "s"},
            Conversation(({"role": "system", "content": "s"}, USER)),
        ),
        (
            {"messages": [USER], "system": "s"},
            Conversation(({"role": "system", "content": "s"}, USER)),
        ),
        ({"prompt": "x", "tools": TOOLS}, Conversation((USER,), tools=tuple(TOOLS))),
        ({"prompt": "x", "tools": json.dumps(TOOLS)}, Conversation((USER,), tools=tuple(TOOLS))),
        (
            {"prompt": "x", "documents": [{"title": "t"}]},
            Conversation((USER,), documents=({"title": "t"},)),
        ),
        (
            {"prompt": "x", "chat_template_kwargs": {"enable_thinking": False}},
            Conversation((USER,), arguments={"enable_thinking": False}),
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": TOOLS},
                          {"role": "tool", "content": "4", "tool_call_id": "1"}]},
            Conversation((USER, {"role": "assistant", "content": None, "tool_calls": TOOLS},
                          {"role": "tool", "content": "4", "tool_call_id": "1"})),
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            Conversation(({"role": "user", "content": [{"type": "text", "text": "x"}]},)),
        ),
    ],
)  # fmt: skip
def test_a_line_is_a_prompt_or_a_conversation(line, wanted):
    assert asked("f:1", line) == wanted
    assert unread("f:1", line) == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": 3}, "'prompt' must be a non-empty string or a list of messages, found 3"),
        ({"prompt": {}}, "'prompt' must be a non-empty string or a list of messages, found {}"),
        ({"prompt": []}, "'prompt' ends with nothing: allowed is one of 'user' or 'tool'"),
        ({"prompt": ["x"]}, "'prompt' must be a list of objects, found ['x']"),
        ({"prompt": "\ud800"}, "'prompt' holds half of a surrogate pair"),
        ({"prompt": "x", "tools": [{"a": "\ud800"}]}, "'prompt' holds half of a surrogate pair"),
        ({"prompt": None}, "needs 'prompt' or 'messages', has prompt"),
        ({"prompt": "x", "tools": [1]}, "'tools' must be a list of objects, found [1]"),
        ({"prompt": "x", "tools": "f"}, "'tools' must be a list of objects, found 'f'"),
        ({"prompt": "x", "documents": {}}, "'documents' must be a list of objects, found {}"),
        ({"prompt": "x", "system": 3}, "'system' must be a non-empty string, found 3"),
        ({"prompt": "x", "system": ""}, "'system' must be a non-empty string, found ''"),
        (
            {"prompt": "x", "chat_template_kwargs": "a"},
            "'chat_template_kwargs' must be an object, found 'a'",
        ),
        (
            {"messages": [{"role": "system", "content": "t"}, USER], "system": "s"},
            "has 'system' and a system message: allowed is one of them",
        ),
        ({"messages": [{"content": "x"}]}, "needs 'role', has content"),
        (
            {"messages": [USER, {"role": "assistant", "content": "4"}]},
            "'messages' ends with one of 'assistant': allowed is one of 'user' or 'tool'; what the "
            "model is to reply is the 'answer'",
        ),
        (
            {"messages": [{"role": "user", "content": None, "name": "a"}]},
            "'content' is missing: allowed for an assistant that calls tools",
        ),
        (
            {"messages": [{"role": "assistant", "content": None}, USER]},
            "needs 'content', has content, role",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": ["f"]}, USER]},
            "'tool_calls' must be a list of objects, found ['f']",
        ),
        *(
            (
                {"messages": [{"role": "assistant", "content": "", "tool_calls": calls}, USER]},
                "'tool_calls' must be a list of objects, found ",
            )
            for calls in ({"function": {}}, "[]", 3)
        ),
        (
            {"messages": [{"role": "user", "content": {"a": 1}}]},
            "'content' must be a string or a list of text parts, found {'a': 1}",
        ),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            '\'content\' has a part \'x\': allowed is {"type": "text", "text": STRING}',
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "'content' has a part 'text': allowed is",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "c": 1}]}]},
            "a text part has 'c': allowed are type and text",
        ),
        *(
            (
                {"messages": [{"role": "user", "content": [{"type": kind, kind: "u"}]}]},
                f"'content' has a part '{kind}': allowed is",
            )
            for kind in ("image", "image_url", "video", "input_audio", "file", "refusal")
        ),
    ],
)
def test_what_is_no_conversation_is_named_in_one_line(line, said):
    with pytest.raises(ValueError) as error:
        asked("f:1", line)
    assert str(error.value).startswith(f"f:1: {said}") and "\n" not in str(error.value)


@pytest.mark.parametrize("key", REFUSED)
def test_what_nobody_reads_is_refused_by_name(key):
    assert key not in READ
    for value in ("x", ["x"], {"x": 1}, False, 0):
        with pytest.raises(ValueError) as error:
            unread("f:1", {"prompt": "x", key: value})
        assert str(error.value) == f"f:1: '{key}' is not read: allowed is {REFUSED[key]}"
    for nothing in (None, [], {}, ""):
        assert absent(nothing) and unread("f:1", {"prompt": "x", key: nothing}) == {}


def test_plain_columns_pass_and_are_counted_up(tmp_path):
    rows = [{"prompt": "x", "answer": "1", "id": 7, "level": None}, {"prompt": "y", "source": "s"}]
    examples = prompts.read(Path(jsonl_file(tmp_path, rows)))
    assert [example.further for example in examples] == [{"id": 7}, {"source": "s"}]
    for key in BESIDE:
        with pytest.raises(ValueError, match=f"'{key}' is not read: allowed are prompt, chosen"):
            unread("f:1", {key: "x"}, ("prompt", "chosen"))


def test_conversations_are_told_apart_by_all_that_they_say():
    plain = Conversation((USER,))
    assert json.loads(plain.text) == [USER]
    others = [
        Conversation((USER,), tools=({"name": "f"},)),
        Conversation((USER,), documents=({"name": "f"},)),
        Conversation((USER,), arguments={"name": "f"}),
        Conversation(({"role": "system", "content": "s"}, USER)),
    ]
    assert len({each.text for each in (plain, *others)}) == 5
    assert json.loads(others[0].text) == {"messages": [USER], "tools": [{"name": "f"}]}


# --- lines -----------------------------------------------------------------------------------


def test_blank_lines_hold_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}\n\n')
    assert list(read_objects(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": 2})]
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="a.jsonl: is empty, needs at least one line: a JSON obj"):
        list(read_objects(path))


def test_a_key_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": {"b": 1, "c": 2, "b": 1}}\n')
    with pytest.raises(ValueError, match="a.jsonl:1: has 'b' twice: allowed is once"):
        list(read_objects(path))


@pytest.mark.parametrize(
    ("answer", "text"),
    [("3", "3"), (3, "3"), (-3, "-3"), (3.5, "3.5"), (3.0, "3.0"), (0, "0"), (None, None),
     (10**400, "1" + 400 * "0")],
)  # fmt: skip
def test_an_answer_is_a_text_or_a_number(answer, text):
    assert prompts.answer_field("f:1", {"answer": answer}) == text


@pytest.mark.parametrize("answer", [True, [1], {"a": 1}, "", float("nan"), float("inf")])
def test_another_answer_is_refused(answer):
    said = "f:1: 'answer' must be a non-empty string or a finite number, found "
    with pytest.raises(ValueError) as error:
        prompts.answer_field("f:1", {"answer": answer})
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("key", ["messages", "tools", "documents", "chat_template_kwargs"])
def test_what_is_nested_too_deep_is_refused(key):
    value = "x"
    for _ in range(70):
        value = {"a": value}
    line = {"prompt": "x", key: [value]}
    if key == "messages":
        line = {key: [USER | {"a": value}]}
    with pytest.raises(ValueError, match=f"f:1: '{key}' is nested deeper than 64 levels"):
        asked("f:1", line)

"""What a chat template would drop of a conversation is refused, and what it was through already."""

import pytest

from opd.data import lost
from opd.data.chat import ChatConfig, Template
from opd.data.conversation import Conversation, of_text
from opd.data.spelled import pattern

# It writes all that there is; each of the others lacks something.
WHOLE = (
    "{{ tools | tojson }}{{ documents | tojson }}{{ extra }}{{ strftime_now('%Y') }}"
    "{% for m in messages %}<|turn|>{{ m.role }} {{ m.name }} {{ m.reasoning_content }}\n"
    "{{ m.content | trim }}{{ m.tool_calls | tojson if m.tool_calls }}<|end|>{% endfor %}"
    "<|turn|>assistant\n"
)
SPECIALS = pattern(["<|turn|>", "<|end|>"])


def made(*without: str) -> Template:
    source = WHOLE
    for each in without:
        assert each in source
        source = source.replace(each, "")
    return Template(source, {}, "x")


def talk(**more) -> Conversation:
    """A user's turn with something more, and one after it."""
    user = {"role": "user", "content": "a hen "} | more
    return Conversation((user, {"role": "user", "content": "b"}))


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": "one"}}}
CALLS = Conversation(
    (
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "name": "add", "tool_call_id": "1"},
    )
)
# Conversations, what a template without which drops them, and what is said then.
CASES = {
    "tools": (
        Conversation(talk().messages, tools=({"function": {"name": "add"}},)),
        "{{ tools | tojson }}",
        "the folder's chat template has no place for 'tools'",
    ),
    "documents": (
        Conversation(talk().messages, documents=({"text": "y"},)),
        "{{ documents | tojson }}",
        "the folder's chat template has no place for 'documents'",
    ),
    "arguments": (
        Conversation(talk().messages, arguments={"extra": 1}),
        "{{ extra }}",
        "'chat_template_kwargs' has 'extra', which the folder's chat template never reads; it "
        "reads documents, tools",
    ),
    "a name": (
        talk(name="al"),
        "{{ m.name }}",
        "the folder's chat template never reads 'name' of a message of 'user'",
    ),
    "thoughts": (
        talk(role="assistant", thinking="hm"),
        "{{ m.reasoning_content }}",
        "the folder's chat template never reads 'thinking' of a message of 'assistant'",
    ),
    "calls": (
        CALLS,
        "{{ m.tool_calls | tojson if m.tool_calls }}",
        "the folder's chat template never reads 'tool_calls' of a message of 'assistant'",
    ),
    "content": (
        talk(),
        "{{ m.content | trim }}",
        "the folder's chat template never reads 'content' of a message of 'user'",
    ),
    "a key of its own": (
        talk(weight=0),
        "",
        "the folder's chat template never reads 'weight' of a message of 'user'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_never_read_is_refused_and_what_is_passes(case):
    asked, lacking, said = CASES[case]
    with pytest.raises(ValueError) as error:
        lost.conversation(asked, made(lacking) if lacking else made())
    assert str(error.value) == said
    if lacking:
        lost.conversation(asked, made())


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tokenize"])
def test_arguments_say_nothing_that_is_told_already(name):
    source = "{{ messages[0].content }}{{ add_generation_prompt }}"
    asked = Conversation(of_text("x").messages, arguments={name: []})
    with pytest.raises(ValueError, match=f"has '{name}', which the folder's chat template never"):
        lost.conversation(asked, Template(source, {}, "x"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% if loop_ %}{% endif %}{{ messages[-1].content }}", "never reads 'content'"),
        ("{% for m in messages %}{{ m.content if m.role == 'x' or not m.content }}{% endfor %}",
         "drops what 'user' says ('a hen ')"),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}",
         "drops what 'user' says ('a hen ')"),
    ],
)  # fmt: skip
def test_content_that_is_read_and_not_written_is_refused(source, said):
    with pytest.raises(ValueError) as error:
        lost.conversation(talk(), Template(source, {}, "x"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "{% for m in messages %}{{ m.content.replace('\\n', ' ') }}{% endfor %}",
    ],
)
def test_content_may_be_cut_or_changed_as_a_template_does(source):
    whole = talk(content='<think>\nfirst \u00e9</think>then "x"')
    if "upper" in source:
        source = source.replace("| upper", "| replace('t', 'T')")
    lost.conversation(whole, Template(source, {}, "x"))


def test_calls_are_written_whole():
    source = WHOLE.replace("| tojson if m", "| tojson | replace('one', '') if m")
    with pytest.raises(ValueError, match="drops 'one' of 'tool_calls'"):
        lost.conversation(CALLS, Template(source, {}, "x"))


@pytest.mark.parametrize(
    "call", [{"name": "f", "arguments": "{}", "id": "c7"}, {"function": None}, {"function": "f"}]
)
def test_calls_of_other_forms_pass(call):
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    source = WHOLE.replace("| tojson if m", "| tojson | replace('c7', '') if m")
    lost.conversation(Conversation((message, *talk().messages)), Template(source, {}, "x"))


def test_content_that_something_else_happens_to_say_is_missed_all_the_same():
    source = "a{% for m in messages %}{{ m.content if m.role != 'system' or not m.content }}"
    template = Template(source + "{% endfor %}", {}, "x")
    whole = Conversation(({"role": "system", "content": "a"}, *talk().messages))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"drops what 'system' says \('a'\)"):
            lost.conversation(whole, template)
    lost.conversation(talk(), template)
    assert template.places == {(0, "user", "user"), (1, "user", "user")}


def test_parts_of_text_are_tried_as_parts():
    template = Template("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", {}, "x")
    parts = talk(content=[{"type": "text", "text": "a hen"}]).messages[:1]
    lost.conversation(Conversation(parts), template)
    with pytest.raises(ValueError, match="drops what 'user' says"):
        lost.conversation(talk(), template)


def test_tools_and_documents_are_written():
    tools = Conversation(of_text("x").messages, tools=({"function": {"name": "add"}},))
    documents = Conversation(of_text("x").messages, documents=({"text": "one"},))
    lost.conversation(
        Conversation(of_text("x").messages, documents=({"doc_id": "7", "text": "one"},)),
        Template(WHOLE.replace("documents | tojson", "documents[0].text"), {}, "x"),
    )
    for asked, key in ((tools, "tools"), (documents, "documents")):
        source = WHOLE.replace(f"{{{{ {key} | tojson }}}}", f"{{% if {key} %}}some{{% endif %}}")
        with pytest.raises(ValueError, match=f"drops '(add|one)' of '{key}'"):
            lost.conversation(asked, Template(source, {}, "x"))


# --- data.chat -------------------------------------------------------------------------------

NO_SYSTEM = "{% for m in messages %}{{ m.content if m.role != 'system' }}{% endfor %}"
RAISES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
MERGES = "{{ (messages[0].content + messages[1].content) | trim }}"


@pytest.mark.parametrize(
    ("chat", "source", "said"),
    [
        (ChatConfig(system="be brief"), NO_SYSTEM, "data.chat.system: the folder's chat template "
         "writes no system message; allowed is None"),
        (ChatConfig(system="be brief"), RAISES, "data.chat.system: x: the chat template fails (no "
         "system)"),
        (ChatConfig(system=" be brief\n"), MERGES, None),
        (ChatConfig(arguments='{"extra": 1}'), WHOLE, None),
        (ChatConfig(arguments='{"enable_thinking": 1}'), WHOLE, "data.chat.arguments has "
         "'enable_thinking', which the folder's chat template never reads; it reads documents, "
         "extra, tools"),
        (ChatConfig(date="2024-07-26"), WHOLE, None),
        (ChatConfig(date="2024-07-26"), NO_SYSTEM, "data.chat.date = '2024-07-26': the chat "
         "template asks for no date; allowed is None"),
    ],
)  # fmt: skip
def test_keys_that_a_template_has_no_use_for_are_refused(chat, source, said):
    template = Template(source, {}, "x", chat.now)
    if said is None:
        lost.chat(chat, template)
        return
    with pytest.raises(ValueError) as error:
        lost.chat(chat, template)
    assert str(error.value) == said


# --- formatted already -----------------------------------------------------------------------

PLAIN = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"  # as Llama 2


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("<|turn|>user  \na hen<|end|><|turn|>assistant\n", True),
        ("<|turn|>system\nbe<|end|><|turn|>user  \na hen<|end|><|turn|>assistant", True),
        ("<|turn|>user  \na hen<|end|><|turn|>assistant\n<think>\n\n</think>\n\n", True),
        ("hi <|end|> there", False),
        ("what is <|turn|>user for?", False),
        ("a<|end|><|turn|>assistant", False),
        ("<|turn|>user  \na hen<|end|><|turn|>assistant\nis how it looks", False),
        ("", False),
    ],
)
def test_a_prompt_that_was_through_the_template_is_known(text, formatted):
    assert lost.wrapped(text, lost.frame(made(), SPECIALS)) == formatted


def test_a_template_without_specials_has_a_frame_too():
    frame = lost.frame(Template(PLAIN, {}, "x"), SPECIALS)
    assert frame == ("[INST]", "[/INST]")
    assert lost.wrapped("[INST] a hen [/INST]", frame) and not lost.wrapped("[INST] a", frame)
    for source in ("{{ messages[0].content }}", "{{ 1 // 0 }}", "none", "{{messages[0].content}}x"):
        assert lost.frame(Template(source, {}, "x"), SPECIALS) is None
    assert not lost.wrapped("x", None)

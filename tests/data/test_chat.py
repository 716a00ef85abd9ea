"""Chat templates: rendered as transformers renders them, and in a sandbox."""

import datetime

import pytest

from opd.data import chat
from opd.data.chat import ChatConfig, Template, Watched, asks_date
from opd.data.conversation import Conversation, of_text

SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
# In the styles of three families; each has something that the others don't.
CHATML = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if loop.first and message.role == 'system' %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content | trim ~ '<|im_end|>' ~ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA = """{{ bos_token }}
{%- set ns = namespace(seen=0) %}
{%- for message in messages %}
    {%- set ns.seen = ns.seen + 1 %}
    {%- if ns.seen > 4 %}{%- break %}{%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {%- set said = message['content'] %}
            {{- said }}
        {%- endgeneration %}
        {{- '<|eot_id|>' + (said | default('')) }}
    {%- else %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if tools is not none %}
    {{- tools | tojson }}
{%- endif %}
{%- if documents is defined %}
    {{- documents | tojson(indent=2) }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{% set first = messages[0]['content'] + '\\n\\n' %}
{% set rest = messages[1:] %}
{% else %}
{% set first = '' %}
{% set rest = messages %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
<start_of_turn>{{ role }}
{{ (first if loop.first else '') + message['content'] | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
"""
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA}
TURNS = (
    {"role": "user", "content": "one? "},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two <b>&'é'</b>\n"},
)
LONG = {"role": "system", "content": "Be long."}
CASES = {
    "a prompt": (ChatConfig(), "  what is 1 + 1?\n"),
    "a system message": (ChatConfig(system="Be brief."), "what is 1 + 1?"),
    "arguments": (
        ChatConfig(arguments='{"enable_thinking": false, "documents": [{"a": "é<"}]}'),
        "why?",
    ),
    "a conversation": (ChatConfig(system="Be brief."), Conversation(TURNS)),
    "its own system message": (ChatConfig(system="Be brief."), Conversation((LONG, *TURNS))),
    "tools": (
        ChatConfig(),
        Conversation(TURNS, tools=({"name": "é"},), documents=({"a": 1},)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_written_as_transformers_writes_it(name, case):
    hub = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, "<s>"))
    theirs = hub.PreTrainedTokenizerFast(tokenizer_object=model, **SPECIALS)
    config, prompt = CASES[case]
    whole = config.conversation(prompt)
    beside = {"tools": whole.tools and list(whole.tools)}
    beside |= {"documents": whole.documents and list(whole.documents)} | whole.arguments
    wanted = theirs.apply_chat_template(
        list(whole.messages),
        chat_template=TEMPLATES[name],
        tokenize=False,
        add_generation_prompt=True,
        **beside,
    )
    found = Template(TEMPLATES[name], SPECIALS, "x").render(whole)
    assert found == wanted and len(found) > 10


def test_a_system_message_goes_before_a_conversation_without_one():
    asked = ChatConfig(system="s")
    assert asked.conversation("p").messages == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "p"},
    )
    roles = [m["role"] for m in asked.conversation(Conversation(TURNS)).messages]
    assert roles == ["system", "user", "assistant", "user"]
    own = asked.conversation(Conversation((LONG, *TURNS))).messages
    assert own == (LONG, *TURNS)
    assert ChatConfig().conversation("p").messages == ({"role": "user", "content": "p"},)


def test_a_line_s_own_arguments_count():
    asked = ChatConfig(arguments='{"a": 1, "b": 2}')
    assert asked.conversation("p").arguments == {"a": 1, "b": 2}
    whole = asked.conversation(Conversation(TURNS, arguments={"b": 3, "c": 4}))
    assert whole.arguments == {"a": 1, "b": 3, "c": 4}


def test_json_and_dates_are_there_for_templates():
    source = "{{ x | tojson }} {{ x | tojson(indent=1) }} {{ strftime_now('%Y') }}"
    asked = Conversation((), arguments={"x": {"b": "<é'", "a": 1}})
    found = Template(source, {}, "x").render(asked)
    year = str(datetime.datetime.now().year)
    assert found == '{"b": "<é\'", "a": 1} {\n "b": "<é\'",\n "a": 1\n} ' + year
    source = "{{ x | tojson(separators=(',', ':'), sort_keys=true) }}"
    assert Template(source, {}, "x").render(asked) == '{"a":1,"b":"<é\'"}'


def test_a_template_is_told_the_day_of_its_run():
    source = "{{ strftime_now('%d %b %Y') }}"
    made = Template(source, {}, "x", ChatConfig(date="2024-07-26").now)
    assert made.render(of_text("p")) == "26 Jul 2024" and made.dated
    assert asks_date(source) and not asks_date("strftime_now {{ date_string }}")
    assert not asks_date("{% if")


@pytest.mark.parametrize("date", ["26 Jul 2024", "2024-13-01", "today", ""])
def test_a_date_is_a_day(date):
    with pytest.raises(ValueError, match="data.chat.date = .*: allowed is YYYY-MM-DD"):
        ChatConfig(date=date)


# --- what a template looks at ----------------------------------------------------------------


def test_variables_that_a_template_reads():
    source = "{% if not d is defined %}{% set d = 1 %}{% endif %}{{ d }}{% if tools %}{% endif %}"
    assert Template(source, {}, "x").reads == {"d", "tools"}
    assert {"messages", "enable_thinking"} <= Template(CHATML, {}, "x").reads


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("{{ messages[0].role }}", {"role"}),
        ("{{ messages[0]['content'] }}", {"content"}),
        ("{{ messages[0].get('a') }}{{ messages[0].b is defined }}", {"a", "b"}),
        ("{{ messages[0] | tojson }}", {"role", "content"}),
        ("{% for k, v in messages[0].items() %}{{ k }}{% endfor %}", {"role", "content"}),
        ("{% for k in messages[0] %}{{ k }}{% endfor %}", {"role", "content"}),
        ("{{ messages[0].values() | list }}", {"role", "content"}),
        ("{{ messages | length }}", set()),
    ],
)
def test_keys_of_a_message_that_a_template_looks_at(source, read):
    _, (keys,) = Template(source, {}, "x").watched(of_text("p"))
    assert keys == read


def test_a_watched_message_is_as_any():
    message, read = {"role": "user", "content": "p"}, set()
    watched = Watched(message, read)
    assert watched == message and dict(watched) == message and list(watched) == list(message)
    assert read == {"role", "content"} and list(watched.keys()) == list(message.keys())


PARTS = "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}"


def test_parts_of_text_are_the_text():
    parts = Conversation(({"role": "user", "content": [{"type": "text", "text": "p"}]},))
    both = Template("{% for m in messages %}" + PARTS + "{% endfor %}", {}, "x")
    for made in (both, Template("{{ messages[0].content }}", {}, "x")):
        assert made.render(parts) == "p"
    two = Conversation(({"role": "user", "content": [{"type": "text", "text": "p"}] * 2},))
    with pytest.raises(ValueError, match="x: the chat template takes no list of parts: allowed is"):
        Template("{{ messages[0].content }}", {}, "x").render(two)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content is defined }}", "False"),
        ("{{ 1 // (messages[0].content is none) | int }}", "1"),
        ("{{ '<' + messages[0].content + '>' }}", "<>"),
    ],
)
def test_a_call_needs_no_content(source, text):
    """Absent, as transformers has it; where a template fails for that, null, then empty."""
    assert Template(source, {}, "x").render(Conversation((CALL,))) == text


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_go_by_all_their_names(name):
    source = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}"
    message = {"role": "assistant", "content": "4", name: "hm"}
    assert Template(source, {}, "x").render(Conversation((message,))) == "hmhm"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('no\nsystem') }}", "(no system)"),
        ("{{ messages[9].content }}", "list object has no element 9"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ raise_exception.__globals__.keys() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% set _ = messages[0].update({'role': 'x'}) %}", "unsafe"),
        ("{{ messages.clear() }}", "unsafe"),
        ("{% set n = namespace(__html__=1) %}", "a namespace has no '__html__'"),
        ("{% set n = namespace() %}{% set n.__html__ = 1 %}", "a namespace has no '__html__'"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused_in_one_line(source, said):
    asked = of_text("p")
    with pytest.raises(ValueError) as error:
        Template(source, {}, "there").render(asked)
    assert str(error.value).startswith("there: the chat template fails (")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert asked == of_text("p")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
    ],
)
def test_what_is_private_is_nothing_to_a_template(source):
    assert Template(source, {}, "there").render(Conversation(())) == ""


def test_a_template_imports_and_includes_nothing(tmp_path):
    (tmp_path / "x").write_text("secret")
    for source in (f"{{% include '{tmp_path}/x' %}}", f"{{% import '{tmp_path}/x' as x %}}"):
        with pytest.raises(ValueError, match="the chat template fails"):
            Template(source, {}, "there").render(Conversation(()))


@pytest.mark.parametrize("source", ["{% if %}", "{{ unclosed", "{% nothing %}"])
def test_what_is_no_template_is_said_in_one_line(source):
    with pytest.raises(ValueError) as error:
        Template(source, {}, "there")
    assert str(error.value).startswith("there: not a chat template (")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["{", "[1]", "3", "enable_thinking=false"])
def test_arguments_are_a_json_object(given):
    with pytest.raises(ValueError, match="data.chat.arguments = .*: allowed is a JSON object"):
        ChatConfig(arguments=given)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "{% set r = range(100000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
            "long",
        ),
        ("{% set s = 'xxxxxxxx' %}" + "{% set s = s ~ s %}" * 40 + "{{ s }}", "memory"),
        ("{{ 'x' * 2 ** 40 }}", "too large"),
        ("{% set x = 9 ** 99999 %}{% set x = x * x %}" + "{% set x = x * x %}" * 9, "too large"),
        ("{{ messages[0].content|center(20000000) }}", "characters"),
    ],
)
def test_a_template_is_bounded_in_time_memory_and_output(source, reason, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.2 if reason == "long" else 30)
    monkeypatch.setattr(chat, "MEMORY", 1 << 28)
    with pytest.raises(ValueError, match=f"chat template .*{reason}"):
        Template(source, {}, "here").render(of_text("hi"))

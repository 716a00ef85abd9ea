"""Chat templates: rendered as transformers renders them, and in a sandbox."""

import datetime

import pytest

from opd.data.chat import ChatConfig, Template

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
TURNS = (("user", "one? "), ("assistant", "1"), ("user", "two <b>&'é'</b>\n"))
CASES = {
    "a prompt": (ChatConfig(), "  what is 1 + 1?\n"),
    "a system message": (ChatConfig(system="Be brief."), "what is 1 + 1?"),
    "arguments": (
        ChatConfig(arguments='{"enable_thinking": false, "documents": [{"a": "é<"}]}'),
        "why?",
    ),
    "a conversation": (ChatConfig(system="Be brief."), TURNS),
    "its own system message": (ChatConfig(system="Be brief."), (("system", "Be long."), *TURNS)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_written_as_transformers_writes_it(name, case):
    hub = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, "<s>"))
    theirs = hub.PreTrainedTokenizerFast(tokenizer_object=model, **SPECIALS)
    config, prompt = CASES[case]
    messages = config.messages(prompt)
    wanted = theirs.apply_chat_template(
        messages,
        chat_template=TEMPLATES[name],
        tokenize=False,
        add_generation_prompt=True,
        **config.given(),
    )
    found = Template(TEMPLATES[name], SPECIALS, "x").render(messages, config.given())
    assert found == wanted and len(found) > 10


def test_a_system_message_goes_before_a_conversation_without_one():
    asked = ChatConfig(system="s")
    assert asked.messages("p") == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "p"},
    ]
    roles = [m["role"] for m in asked.messages(TURNS)]
    assert roles == ["system", "user", "assistant", "user"]
    own = asked.messages((("system", "mine"), *TURNS))
    assert own[0] == {"role": "system", "content": "mine"} and len(own) == 4
    assert ChatConfig().messages("p") == [{"role": "user", "content": "p"}]


def test_json_and_dates_are_there_for_templates():
    source = "{{ x | tojson }} {{ x | tojson(indent=1) }} {{ strftime_now('%Y') }}"
    found = Template(source, {}, "x").render([], {"x": {"b": "<é'", "a": 1}})
    year = str(datetime.datetime.now().year)
    assert found == '{"b": "<é\'", "a": 1} {\n "b": "<é\'",\n "a": 1\n} ' + year


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
    messages = [{"role": "user", "content": "p"}]
    with pytest.raises(ValueError) as error:
        Template(source, {}, "there").render(messages, {})
    assert str(error.value).startswith("there: the chat template fails (")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert messages == [{"role": "user", "content": "p"}]


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
    assert Template(source, {}, "there").render([], {}) == ""


def test_a_template_imports_and_includes_nothing(tmp_path):
    (tmp_path / "x").write_text("secret")
    for source in (f"{{% include '{tmp_path}/x' %}}", f"{{% import '{tmp_path}/x' as x %}}"):
        with pytest.raises(ValueError, match="the chat template fails"):
            Template(source, {}, "there").render([], {})


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

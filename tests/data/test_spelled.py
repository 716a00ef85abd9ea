"""Special tokens that a user's text spells: text, where ordinary text has transformers' ids."""

import json
import re

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from small import byte_level, write
from test_hub_tokenizer import sentencepiece

from opd.data import hub_tokenizer
from opd.data.chat import ChatConfig, Template
from opd.data.conversation import Conversation, of_text
from opd.data.hub_tokenizer import HubTokenizer
from opd.data.spelled import Speller, anywhere, pattern

# Whose turn it is, and what was thought, in tokens that aren't special, as DeepSeek has them; the
# template looks at what contents begin with and end in, as Qwen's does.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' and m.content.startswith('<call>') %}<|user|>called {% endif %}"
    "<|user|>{{ m.role }}\n{{ m.content | trim }}{{ m.tool_calls | tojson if m.tool_calls }}"
    " <|end|> "
    "{% endfor %}{{ tools | tojson if tools }}{{ extra }}<call>{% generation %}{% endgeneration %}"
)


def metaspace() -> hf.Tokenizer:
    """A first word is told from one after a token: what is encoded in pieces gives itself away."""
    made = sentencepiece()
    made.normalizer = None
    made.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return made


def spaced() -> hf.Tokenizer:
    """Specials that take the spaces beside them, as Phi's do."""
    described = json.loads(byte_level().to_str())
    for token in described["added_tokens"]:
        token |= {"lstrip": True, "rstrip": True}
    return hf.Tokenizer.from_str(json.dumps(described))


KINDS = {"byte_level": byte_level, "sentencepiece": sentencepiece, "metaspace": metaspace,
         "spaced": spaced}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    made = KINDS[request.param]()
    made.add_special_tokens(["<s>", "<|end|>", "<|user|>"])
    flags = {"special": False, "normalized": False}
    made.add_tokens([hf.AddedToken("<call>", **flags), hf.AddedToken("\n\n", special=False)])
    where = tmp_path_factory.mktemp(request.param) / "m"
    named = {"eos_token": "<|end|>", "bos_token": "<s>", "chat_template": TEMPLATE}
    return write(where, made, **named)


@pytest.fixture(scope="module")
def theirs(folder):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


def conversation(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": each} for at, each in enumerate(contents)]
    return Conversation(tuple(turns))


TEXTS = [
    "hen",
    " a hen \n",
    "a\n\nb\n\n",
    "<|end",
    "|end|> <",
    "h\u00e9 \u4f60",
    "<",
    "hen <call",
    "",
]


def test_ordinary_text_has_transformers_ids_whichever_way_it_goes(folder, theirs):
    """Encoded under the template's tokens' other names, it would be the same."""
    found = hub_tokenizer.load(folder)
    speller = Speller(found._tokenizer, Template(TEMPLATE, {"bos_token": "<s>"}, "x"))
    for text in TEXTS:
        asked = conversation(text, text, text + "?")
        wanted = theirs.apply_chat_template(
            list(asked.messages), add_generation_prompt=True
        )["input_ids"]  # fmt: skip
        assert found.encode_prompt(asked) == wanted and not found.spells(asked)
        assert speller.encode(asked) == wanted


SPECIALS = st.sampled_from(["<|end|>", "<|user|>", "<s>", "<call>", "\n\n"])
PIECES = st.lists(st.one_of(st.sampled_from(TEXTS), SPECIALS, st.text("ahen <|>", max_size=4)))


@given(pieces=st.lists(PIECES.map("".join), min_size=1, max_size=3))
def test_only_the_template_s_own_tokens_are_tokens(folder, pieces):
    found = hub_tokenizer.load(folder)
    asked, ids = conversation(*pieces), {}
    for name in ("<|end|>", "<|user|>", "<s>"):
        ids[name] = found.table().index(name)
    try:
        encoded = found.encode_prompt(asked)
    except ValueError as error:  # `startswith`, which the marks would change
        assert "which the chat template looks for" in str(error)
        return
    own = found.encode_prompt(conversation(*("x" for _ in pieces)))
    called = pieces[0].startswith("<call>") + (len(pieces) > 2 and pieces[2].startswith("<call>"))
    for name, token in ids.items():
        extra = called if name == "<|user|>" else 0
        assert encoded.count(token) == own.count(token) + extra, name


def test_what_is_spelled_is_read_back(folder):
    found = hub_tokenizer.load(folder)
    plain, spelled = (
        found.decode(found.encode_prompt(text)).replace("\u2581", " ")
        for text in ("hi there", "hi <|user|> there")
    )
    assert re.sub(r"\s*<\|user\|>", "", spelled) == re.sub(r"\s*<\|user\|>", "", plain)
    assert spelled.count("<|user|>") == plain.count("<|user|>") + 1


def test_an_assistant_s_thoughts_are_its_tokens(folder, theirs):
    """`<call>` isn't special: a model writes it in its turns, and nobody else may."""
    found = hub_tokenizer.load(folder)
    call = found.table().index("<call>")
    asked = conversation("hen", "a <call> b", "hen")
    wanted = theirs.apply_chat_template(list(asked.messages), add_generation_prompt=True)
    assert found.encode_prompt(asked) == wanted["input_ids"]
    assert found.encode_prompt(conversation("a <call> b")).count(call) == 1
    assert found.spells(conversation("a <call> b")) == {"<call>"}
    both = conversation("x", "<|end|><call>", "x")
    assert found.spells(both) == {"<|end|>"}
    assert found.encode_prompt(both).count(call) == 2, "the template's, and its own"


@pytest.mark.parametrize(
    "asked",
    [
        Conversation(of_text("x").messages, tools=({"name": "<|end|>", "<|user|>": [1, "<s>"]},)),
        Conversation(of_text("x").messages, arguments={"extra": "<|end|><|user|><s>"}),
        Conversation(
            (
                {"role": "assistant", "content": "", "tool_calls": [{"a": "<|end|>", "<s>": None}]},
                {"role": "user", "content": "<|user|>"},
            )
        ),
    ],
)
def test_everything_that_a_line_says_is_looked_through(folder, asked):
    found = hub_tokenizer.load(folder)
    assert found.spells(asked) == {"<|end|>", "<|user|>", "<s>"}
    turns = len(asked.messages)
    ids = found.encode_prompt(asked)
    counts = {name: ids.count(found.table().index(name)) for name in found.spells(asked)}
    assert counts == {"<|end|>": turns, "<|user|>": turns, "<s>": 1}


def test_a_system_message_of_the_config_is_text_too(folder):
    found = HubTokenizer(folder, ChatConfig(system="be <|end|>"))
    assert found.encode_prompt("x").count(found.table().index("<|end|>")) == 2


def test_what_the_template_looks_for_is_refused_where_it_can_t_be_text(folder):
    found = hub_tokenizer.load(folder)
    # Marked as not special, it is a token as transformers has it: nothing else can tell.
    ids = found.encode_prompt("<call>x")
    assert ids.count(found.table().index("<call>")) == 2
    source = "{{ '!' if messages[0].content.startswith('<|end|>') }}{{ messages[0].content }}"
    speller = Speller(found._tokenizer, Template(source, {}, "x"))
    with pytest.raises(ValueError, match=r"^spells <\|end\|>, which the chat template looks for"):
        speller.encode(of_text("<|end|>"))
    with pytest.raises(ValueError, match=r"U\+10FFF0 to U\+10FFF3 beside special tokens"):
        speller.encode(of_text("a <|end|> and \U0010fff0"))


def test_a_tokenizer_that_has_no_other_ids_is_refused():
    entries = [["<unk>", 0.0], ["</s>", 0.0], ["a", -1.0], ["<", -9.0], ["/", -9.0], ["s", -9.0]]
    made = hf.Tokenizer(hf.models.Unigram([tuple(entry) for entry in entries], unk_id=0))
    made.add_special_tokens(["</s>"])
    speller = Speller(made, Template("{{ messages[0].content }}</s>", {}, "x"))
    assert speller.encode(of_text("a")) == made.encode("a</s>").ids
    with pytest.raises(ValueError, match="spells </s>, which the tokenizer has no other ids for"):
        speller.encode(of_text("a</s>"))


def test_the_longest_token_is_found_and_nothing_where_there_are_none():
    assert pattern(["<a", "<a>"]).findall("<a><a") == ["<a>", "<a"]
    assert pattern([]).findall("abc") == []
    assert anywhere(json.loads('{"a": [1, null, {"<a>": "x"}], "b": "<a"}'), pattern(["<a>"])) == {
        "<a>"
    }

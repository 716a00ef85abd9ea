"""A folder's tokenizer: the ids of transformers, every end, files that are missing or broken."""

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from small import CORPUS, byte_level, write

from opd.data import hub_tokenizer
from opd.data.arithmetic import ALPHABET
from opd.data.chat import ChatConfig
from opd.data.conversation import Conversation, of_text
from opd.data.hub_tokenizer import HubTokenizer
from opd.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, check, same, train_bpe

TEXTS = [
    "a hundred hens",
    "  12+7 = 19\n\n",
    "ça coûte 5 € \u4f60\u597d \U0001f600",
    "an <|end|> and a <s> in the text",
    " ",
]
UNICODE = st.text(st.characters(codec="utf-8"))
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|model|>"


def sentencepiece() -> hf.Tokenizer:
    """As Llama 2 and Gemma have it: characters with bytes to fall back to, and a first token."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    characters = ["\u2581", *"abcdehlnrsuy0123456789+="]
    merged = ["he", "en", "\u2581a", "un", "hen", "dr"]
    entries = [*specials, *bytes_, *characters, *merged]
    merges = [("h", "e"), ("e", "n"), ("\u2581", "a"), ("u", "n"), ("he", "n"), ("d", "r")]
    vocab = {entry: i for i, entry in enumerate(entries)}
    made = hf.Tokenizer(hf.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = hf.normalizers.Sequence(
        [hf.normalizers.Prepend("\u2581"), hf.normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = hf.decoders.Sequence(
        [
            hf.decoders.Replace("\u2581", " "),
            hf.decoders.ByteFallback(),
            hf.decoders.Fuse(),
            hf.decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(specials)
    made.post_processor = hf.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


KINDS = {"byte-level": (byte_level, "<|end|>"), "sentencepiece": (sentencepiece, "</s>")}


@pytest.fixture(scope="module", params=KINDS)
def plain(request, tmp_path_factory):
    """A folder of each kind without a template."""
    make, end = KINDS[request.param]
    folder = tmp_path_factory.mktemp("plain")
    return write(folder, make(), eos_token=end, clean_up_tokenization_spaces=False)


def test_contract(plain):
    found = HubTokenizer(plain)
    assert isinstance(found, Tokenizer)
    check(found)
    assert len(found.table()) == found.vocab
    assert found.serialized() == (plain / "tokenizer.json").read_text(encoding="utf-8")
    same(found, HubTokenizer(plain))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(plain, text):
    hub = pytest.importorskip("transformers")
    theirs = hub.AutoTokenizer.from_pretrained(plain)
    found = HubTokenizer(plain)
    whole = theirs(text, split_special_tokens=True)["input_ids"]
    bare = theirs(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert found.encode_prompt(text) == whole and found.encode(text) == bare
    assert found.decode(bare) == theirs.decode(bare)
    assert found.eos_id == theirs.eos_token_id and found.vocab == len(theirs)


@given(text=UNICODE)
def test_text_goes_there_and_back_and_never_spells_a_special(plain, text):
    found = hub_tokenizer.load(plain)
    for each in (text, f"{text}<|end|></s>{text}"):
        ids = found.encode(each)
        assert not set(ids) & set(found.eos_ids)
        if "\u2581" not in text:  # a sentencepiece space
            assert found.decode(ids) == each


def test_a_template_s_specials_are_specials(tmp_path):
    hub = pytest.importorskip("transformers")
    made = byte_level()
    folder = write(tmp_path / "m", made, eos_token="<|end|>", chat_template=TEMPLATE)
    found = HubTokenizer(folder)
    theirs = hub.AutoTokenizer.from_pretrained(folder)
    message = [{"role": "user", "content": "a hundred hens"}]
    wanted = theirs.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
    assert found.encode_prompt("a hundred hens") == wanted
    assert wanted[0] == made.token_to_id("<|user|>") and wanted[-1] == made.token_to_id("<|model|>")
    assert found.encode_prompt(of_text("a hundred hens")) == wanted
    assert found.rendered("x") == "<|user|>x<|end|><|model|>"
    untouched = HubTokenizer(folder, ChatConfig(template=False))
    assert untouched.encode_prompt("a hundred hens") == found.encode("a hundred hens")
    assert untouched.rendered("x") == "x"


def test_a_template_writes_the_first_token_itself(tmp_path):
    folder = write(
        tmp_path / "m", sentencepiece(), eos_token="</s>", bos_token="<s>",
        chat_template="{{ bos_token }}{{ messages[0].content }}",
    )  # fmt: skip
    assert HubTokenizer(folder).encode_prompt("hen") == HubTokenizer(
        folder, ChatConfig(template=False)
    ).encode_prompt("hen")


def test_a_conversation_needs_a_template(plain):
    with pytest.raises(ValueError, match="'messages' need the tokenizer of a Hugging Face folder"):
        HubTokenizer(plain).encode_prompt(of_text("x"))


# --- ends and padding ------------------------------------------------------------------------

END, USER, MODEL, PAD = (
    byte_level().token_to_id(f"<|{n}|>") for n in ("end", "user", "model", "pad")
)


@pytest.mark.parametrize(
    ("generation", "config", "own", "ends", "end"),
    [
        ([MODEL, USER], None, "<|end|>", (MODEL, USER, END), END),
        (USER, END, "<|end|>", (USER, END), END),
        (None, MODEL, None, (MODEL,), MODEL),
        (None, None, "<|end|>", (END,), END),
        ([END, MODEL], MODEL, {"content": "<|model|>"}, (END, MODEL), MODEL),
        ([END], None, "<|nowhere|>", (END,), END),
    ],
)
def test_every_end_of_every_file_ends(tmp_path, generation, config, own, ends, end):
    files = {"generation_config.json": {"eos_token_id": generation}}
    files["config.json"] = {"eos_token_id": config, "vocab_size": PAD + 1}
    found = HubTokenizer(write(tmp_path / "m", byte_level(), files, eos_token=own)).within(PAD + 1)
    assert found.eos_ids == ends and found.eos_id == end
    ids = [5, MODEL, END, USER, PAD]
    kept = [i for i in ids if i not in ends]
    assert found.decode(ids) == byte_level().decode(kept, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("pad", "wanted"),
    [("<|pad|>", PAD), ("<|end|>", 0), (None, 0), ("<|model|>", 0), ("<|nowhere|>", 0)],
)
def test_padding_is_never_an_end(tmp_path, pad, wanted):
    files = {"generation_config.json": {"eos_token_id": [END, MODEL]}}
    files["config.json"] = {"vocab_size": PAD + 1}
    folder = write(tmp_path / "m", byte_level(), files, eos_token="<|end|>", pad_token=pad)
    found = HubTokenizer(folder).within(PAD + 1)
    assert found.pad_id == wanted
    check(found)
    # "!" is id 0: text, also where it stands in for a pad.
    assert found.encode("!") == [0]
    assert found.decode([0, 0, PAD]) == ("!!" if pad == "<|pad|>" else "!!<|pad|>")


# --- templates of several forms --------------------------------------------------------------


def test_a_template_is_found_wherever_folders_have_it(tmp_path):
    many = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    for described, files, wanted in (
        ({"chat_template": "C"}, {}, "C"),
        ({"chat_template": many}, {}, "D"),
        ({}, {"chat_template.json": {"chat_template": "J"}}, "J"),
        ({}, {}, "x"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write(folder, byte_level(), files, eos_token="<|end|>", **described)
        assert HubTokenizer(folder).rendered("x") == wanted
    (folder / "chat_template.jinja").write_text("F {{ eos_token }} {{ bos_token is defined }}")
    assert HubTokenizer(folder).rendered("x") == "F <|end|> False"


@pytest.mark.parametrize(
    "source", [[{"name": "tool_use", "template": "T"}], 3, [{"name": "default"}]]
)
def test_a_template_that_none_is_the_default_of_is_no_silence(tmp_path, source):
    folder = write(tmp_path / "m", byte_level(), eos_token="<|end|>", chat_template=source)
    with pytest.raises(
        ValueError, match="has the chat templates .*: needed is a text for 'default"
    ):
        HubTokenizer(folder)
    assert HubTokenizer(folder, ChatConfig(template=False)).rendered("x") == "x"


def test_tools_have_a_template_of_their_own(tmp_path):
    many = [{"name": n, "template": f"{n}{{{{ tools }}}}"} for n in ("tool_use", "default")]
    folders = [write(tmp_path / "a", byte_level(), eos_token="<|end|>", chat_template=many)]
    folders.append(write(tmp_path / "b", byte_level(), eos_token="<|end|>"))
    (folders[1] / "chat_template.jinja").write_text("default{{ tools }}")
    (folders[1] / "additional_chat_templates").mkdir()
    (folders[1] / "additional_chat_templates" / "tool_use.jinja").write_text("tool_use{{ tools }}")
    for number, folder in enumerate(folders):
        found = HubTokenizer(folder)
        assert found.rendered("x") == "defaultNone"
        tooled = Conversation(of_text("x").messages, tools=({"name": "f"},))
        assert found.rendered(tooled) == "tool_use[{'name': 'f'}]"
        copied = tmp_path / f"copy{number}"
        copied.mkdir()
        hub_tokenizer.copy(folder, copied)
        assert HubTokenizer(copied).rendered(tooled) == found.rendered(tooled)


def test_what_a_template_is_asked_for_needs_one(plain):
    with pytest.raises(ValueError, match="has no chat template, which data.chat.template asks for"):
        HubTokenizer(plain, ChatConfig(template=True))
    for chat in (ChatConfig(system="s"), ChatConfig(arguments="{}")):
        with pytest.raises(
            ValueError, match="data.chat.system and data.chat.arguments need a chat"
        ):
            HubTokenizer(plain, chat)


# --- tokens that only other files name -------------------------------------------------------

DECLARED = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
BOS_TEMPLATE = "{{ bos_token }}" + TEMPLATE
TOKENS = {
    "special_tokens_map": ({}, {"special_tokens_map.json": {"bos_token": "<s>"}}),
    "special_tokens_map, an object": (
        {},
        {"special_tokens_map.json": {"bos_token": {"content": "<s>"} | DECLARED}},
    ),
    "added_tokens_decoder": (
        {"bos_token": "<s>", "added_tokens_decoder": {
            "298": {"content": "<x>", "special": True} | DECLARED,
            "297": {"content": "<s>", "special": True} | DECLARED,
        }},
        {"special_tokens_map.json": {"bos_token": "<ignored>"}},
    ),
    "added_tokens": ({"bos_token": "<s>"}, {"added_tokens.json": {"<x>": 298, "<s>": 297}}),
    "a name alone": ({"bos_token": "<s>"}, {}),
    "no name": (
        {"bos_token": "<s>", "additional_special_tokens": ["<x>", "<y>"]}, {},
    ),
    "other flags": ({"bos_token": "<|user|>", "added_tokens_decoder": {
        str(USER): {"content": "<|user|>", "special": True, "rstrip": True} | DECLARED,
    }}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_of_other_files_have_transformers_ids(tmp_path, case):
    hub = pytest.importorskip("transformers")
    described, files = TOKENS[case]
    folder = write(
        tmp_path / "m", byte_level(), files, eos_token="<|end|>", chat_template=BOS_TEMPLATE,
        **described,
    )  # fmt: skip
    theirs, found = hub.AutoTokenizer.from_pretrained(folder), HubTokenizer(folder)
    assert found.vocab == len(theirs)
    text = "a <s> hen <x><y> <|user|> "
    message = [{"role": "user", "content": "a hen"}]
    wanted = theirs.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
    assert wanted[0] == theirs.bos_token_id is not None
    assert found.encode_prompt("a hen") == wanted
    untouched = HubTokenizer(folder, ChatConfig(template=False))
    assert untouched.encode_prompt(text) == theirs(text)["input_ids"]


def test_added_tokens_that_cannot_be_read_are_named(tmp_path):
    for described in ({"x": {}}, {"1": {}}, [1], {"1": "a"}):
        folder = write(
            tmp_path / "m", byte_level(), eos_token="<|end|>", added_tokens_decoder=described
        )
        with pytest.raises(ValueError, match="m: its added tokens cannot be read"):
            HubTokenizer(folder)


# --- formatted prompts -----------------------------------------------------------------------


def test_a_formatted_prompt_keeps_its_specials(tmp_path):
    hub = pytest.importorskip("transformers")
    folder = write(tmp_path / "m", byte_level(), eos_token="<|end|>", chat_template=TEMPLATE)
    theirs = hub.AutoTokenizer.from_pretrained(folder)
    untouched = HubTokenizer(folder, ChatConfig(template=False))
    text = HubTokenizer(folder).rendered("a hen")
    assert untouched.encode_prompt(text) == theirs(text)["input_ids"]
    assert untouched.encode_prompt(text) == HubTokenizer(folder).encode_prompt("a hen")
    assert untouched.spells(text) == set()


@pytest.mark.parametrize("text", ["hen", "<s>hen", "<s><s>hen", "<s>", "hen</s>"])
def test_a_first_token_is_there_once(tmp_path, text):
    made = sentencepiece()
    made.post_processor = hf.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    folder = write(tmp_path / "m", made, eos_token="</s>", bos_token="<s>")
    ids = HubTokenizer(folder, ChatConfig(template=False)).encode_prompt(text)
    assert ids[0] == 1 and ids.count(1) == max(1, text.count("<s>"))
    assert ids.count(2) == text.count("</s>"), "an end isn't for a prompt"


def test_a_solution_of_formatted_data_brings_its_end_once(tmp_path):
    folder = write(tmp_path / "m", byte_level(), eos_token="<|end|>", chat_template=TEMPLATE)
    found, made = HubTokenizer(folder, ChatConfig(template=False)), byte_level()
    assert found.encode("<|user|>a hen<|end|>") == made.encode("<|user|>a hen").ids
    assert found.encode("a hen") == made.encode("a hen").ids
    with pytest.raises(ValueError, match="'a<.end.>hen' goes on after '<.end.>', which ends"):
        found.encode("a<|end|>hen")
    assert END not in HubTokenizer(folder).encode("a<|end|>hen")


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: cannot be read (No such file or directory)"),
        ("tokenizer.json", '{"model": {}}', "tokenizer.json: not a tokenizer.json"),
        ("tokenizer.json", "", "tokenizer.json: not a tokenizer.json"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: expected an object, found list"),
        ("tokenizer_config.json", "{}", "names no eos_token_id and no eos_token"),
        ("generation_config.json", '{"eos_token_id": 9999}', "EOS is id 9999: allowed are 0 to"),
        ("generation_config.json", '{"eos_token_id": [-1]}', "EOS is id -1: allowed are 0 to"),
        ("config.json", "nothing", "config.json: cannot be read"),
        ("chat_template.jinja", "{% if", "not a chat template"),
    ],
)
def test_a_missing_or_broken_file_is_named_in_one_line(tmp_path, name, content, message):
    folder = write(tmp_path / "m", byte_level(), eos_token="<|end|>")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ValueError) as error:
        HubTokenizer(folder)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(folder) in str(error.value)


# --- tokenizers that were made here ----------------------------------------------------------

OURS = {
    "byte": (ByteTokenizer(), UNICODE),
    "char": (CharTokenizer(ALPHABET), st.text(ALPHABET)),
    "bpe": (train_bpe([*CORPUS, "an <eos>"], 290), UNICODE),
}


@pytest.fixture(scope="module", params=OURS)
def written(request, tmp_path_factory):
    """One of ours, the texts that it has ids for, and its folder."""
    folder = tmp_path_factory.mktemp("written")
    hub_tokenizer.write(OURS[request.param][0], folder)
    return *OURS[request.param], folder


@given(data=st.data())
def test_a_tokenizer_of_ours_has_the_same_ids_as_a_folder_s(written, data):
    ours, texts, folder = written
    theirs, text = hub_tokenizer.load(folder), data.draw(texts)
    for each in (text, "12+7=", *(["<eos>" + text] if texts is UNICODE else [])):
        ids = ours.encode(each)
        assert theirs.encode(each) == theirs.encode_prompt(each) == ids
        assert theirs.decode([*ids, ours.eos_id, ours.pad_id]) == ours.decode(ids)
    assert (theirs.vocab, theirs.eos_ids) == (ours.vocab, ours.eos_ids)
    assert (theirs.eos_id, theirs.pad_id) == (ours.eos_id, ours.pad_id)


def test_a_tokenizer_of_ours_is_loaded_by_transformers(written):
    hub = pytest.importorskip("transformers")
    ours, _, folder = written
    theirs = hub.AutoTokenizer.from_pretrained(folder)
    ids = ours.encode("12+7=")
    assert theirs("12+7=")["input_ids"] == ids and theirs.decode(ids) == "12+7="
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    assert theirs.decode([*ids, ours.eos_id], skip_special_tokens=True) == "12+7="

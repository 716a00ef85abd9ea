"""Tokenizers: round trips, tables that say what every id stands for, and pad that is never EOS."""

import dataclasses

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from opd.data import tokenizers as subject
from opd.data.arithmetic import ALPHABET
from opd.data.tokenizers import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    check,
    same,
    train_bpe,
)

CORPUS = ["a hundred hens lay a hundred eggs", "37 + 45 = 82 <eos>", "ça coûte 5 €\n"] * 4
BPE = train_bpe(CORPUS, 280)
ALL = {"byte": ByteTokenizer(), "char": CharTokenizer(ALPHABET), "bpe": BPE}
# Whatever UTF-8 can hold: no half surrogate pairs.
UNICODE = st.text(st.characters(codec="utf-8"))


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
@given(text=st.text(ALPHABET))
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab for i in ids)
    assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["byte", "bpe"])
@given(text=UNICODE | st.just("an <eos> and a <pad> in the text"))
def test_byte_level_round_trip_of_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids)


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
def test_contract(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    check(tokenizer)
    table = tokenizer.table()
    assert len(table) == tokenizer.vocab
    assert len(set(table)) == tokenizer.vocab, "ids are compact: no token has two"
    assert [i for i, t in enumerate(table) if isinstance(t, str)] == [
        tokenizer.pad_id,
        tokenizer.eos_id,
    ]
    ids = tokenizer.encode("12+7=")
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.eos_id]) == "12+7="


@given(st.lists(st.integers(0, 257)))
def test_any_ids_decode(ids):
    for tokenizer in (ByteTokenizer(), BPE):
        tokenizer.decode(ids).encode("utf-8")


def test_sizes():
    assert ByteTokenizer().vocab == 258
    assert CharTokenizer("0123").vocab == 6
    assert BPE.vocab == 280


@given(UNICODE)
def test_bpe_table_agrees_with_the_library(text):
    library = hf.Tokenizer.from_str(BPE.serialized())
    library.encode_special_tokens = True
    ids = library.encode(text).ids
    assert BPE.encode(text) == ids
    assert BPE.decode(ids) == library.decode(ids, skip_special_tokens=True)


def test_bpe_splits_numbers_into_digits_and_merges_words():
    assert len(BPE.encode("3745")) == 4
    assert len(BPE.encode(" hundred")) < 4


def test_bpe_is_saved_and_loaded(tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    loaded = BPETokenizer.load(tmp_path / "tokenizer.json")
    same(BPE, loaded)
    assert loaded.encode(CORPUS[1]) == BPE.encode(CORPUS[1])
    assert train_bpe(CORPUS, 280).serialized() == BPE.serialized(), "training is deterministic"


def test_bpe_loading_refuses_what_it_cannot_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match="tokenizer.json: cannot be read"):
        BPETokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer"):
        BPETokenizer.load(path)
    words = hf.Tokenizer(hf.models.WordLevel({"<pad>": 0, "<eos>": 1, "two words": 2}))
    words.save(str(path))
    with pytest.raises(ValueError, match="not a byte-level BPE"):
        BPETokenizer.load(path)


def test_bpe_size_must_hold_all_bytes():
    with pytest.raises(ValueError, match="data.bpe_size = 257: allowed is 258 or more"):
        train_bpe(CORPUS, 257)
    assert train_bpe(CORPUS, 258).vocab == 258


def test_pad_equal_to_eos_is_refused():
    """A peer's bug: with pad == EOS the EOS action is masked and stopping is never learned."""
    with pytest.raises(ValueError, match="pad and EOS are both id 1"):
        BPETokenizer(BPE.serialized(), pad="<eos>", eos="<eos>")

    @dataclasses.dataclass(frozen=True)
    class Broken(ByteTokenizer):
        pad_id = 1

    with pytest.raises(ValueError, match="pad and EOS are both id 1"):
        check(Broken())


def test_specials_must_be_tokens():
    with pytest.raises(ValueError, match="no token '<end>'"):
        BPETokenizer(BPE.serialized(), eos="<end>")

    @dataclasses.dataclass(frozen=True)
    class Broken(ByteTokenizer):
        eos_id = 258

    with pytest.raises(ValueError, match="EOS is id 258: allowed are 0 to 257"):
        check(Broken())


def test_same_compares_tokens_not_sizes():
    same(ByteTokenizer(), ByteTokenizer())
    same(CharTokenizer("abc"), CharTokenizer("abc"))
    left, right = CharTokenizer("abcd"), CharTokenizer("abdc")
    assert left.vocab == right.vocab
    assert left.fingerprint() != right.fingerprint()
    with pytest.raises(ValueError, match=r"tokenizers differ: id 4 is b'c' and b'd'"):
        same(left, right)


def test_same_names_a_difference_in_size_or_specials():
    with pytest.raises(ValueError, match=r"vocab is 5 and 6"):
        same(CharTokenizer("abc"), CharTokenizer("abcd"))

    @dataclasses.dataclass(frozen=True)
    class Other(ByteTokenizer):
        pad_id = 5

    with pytest.raises(ValueError, match=r"pad_id is 0 and 5"):
        same(ByteTokenizer(), Other())


def test_the_first_entries_that_differ_are_named():
    table = tuple(f"t{i}" for i in range(9))
    subject.same_entries(table, list(table))
    other = ("t0", "x", "t2", *"abcd", "t7", "t8", "more")
    with pytest.raises(ValueError) as error:
        subject.same_entries(table, other)
    assert str(error.value) == (
        "tokenizers differ: id 1 is 't1' and 'x'; id 3 is 't3' and 'a'; id 4 is 't4' and 'b'; "
        "vocab is 9 and 10 (5 ids differ)"
    )
    with pytest.raises(ValueError, match="^tokenizers differ: id 8 is 't8' and 'y'$"):
        subject.same_entries(table, (*table[:8], "y"))
    with pytest.raises(ValueError, match="^tokenizers differ: vocab is 9 and 8$"):
        subject.same_entries(table, table[:8])


def test_a_token_that_spells_a_special_is_not_the_special():
    table = ByteTokenizer().table()
    spelled = (b"<pad>", *table[1:])
    assert subject.digest(spelled, 0, 1) != subject.digest(table, 0, 1)


@given(st.text(ALPHABET, min_size=1), st.text(ALPHABET, min_size=1))
def test_fingerprints_are_equal_iff_the_tables_are(left, right):
    left, right = ("".join(dict.fromkeys(text)) for text in (left, right))
    equal = CharTokenizer(left).fingerprint() == CharTokenizer(right).fingerprint()
    assert equal == (left == right)


def test_char_refuses_what_it_cannot_say():
    with pytest.raises(ValueError, match=r"the alphabet has no 'x' \(in '1x'\)"):
        CharTokenizer("01").encode("1x")
    with pytest.raises(ValueError, match="has '0' twice"):
        CharTokenizer("010")
    with pytest.raises(ValueError, match="is empty"):
        CharTokenizer("")

"""Tokenizers: bytes, characters of a stated alphabet, and a BPE trained when data is prepared.

In all of them pad is id 0 and EOS is id 1, never the same: where they are, masks drop the EOS
action and the student never learns to stop.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import tokenizers as hf

from opd.data.chat import Messages

PAD, EOS = "<pad>", "<eos>"
SPECIALS = (PAD, EOS)

# The fewest tokens of a byte-level vocabulary.
BYTE_VOCAB = len(SPECIALS) + 256

# An entry of the id -> token table: the bytes a token stands for, or a special's name.
Token = bytes | str

_BYTES: tuple[Token, ...] = (*SPECIALS, *(bytes([byte]) for byte in range(256)))


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. `decode` drops pad and ends; `encode` never makes them.

    A prompt may be written in more than its text, or be a conversation: `rendered` is what
    `encode_prompt` encodes. Any of `eos_ids` ends a completion; a solution ends in `eos_id`.
    """

    @property
    def vocab(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_prompt(self, prompt: str | Messages) -> list[int]: ...

    def rendered(self, prompt: str | Messages) -> str: ...

    def serialized(self) -> str: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def table(self) -> tuple[Token, ...]:
        """What each id stands for."""

    def fingerprint(self) -> str:
        """SHA-256 of the table and the specials: two tokenizers are the same iff equal."""


def text_of(prompt: str | Messages) -> str:
    """A prompt that no chat template writes.

    Raises:
        ValueError: it is a conversation.
    """
    if not isinstance(prompt, str):
        raise ValueError(
            "prompts with 'messages' need the tokenizer of a Hugging Face folder that has a chat "
            "template; allowed here is 'prompt'"
        )
    return prompt


def digest(table: Sequence[Token], pad_id: int, eos_id: int) -> str:
    """SHA-256, in hex, over a full id -> token table and its specials."""
    rows = [["special", token] if isinstance(token, str) else token.hex() for token in table]
    return hashlib.sha256(json.dumps([rows, pad_id, eos_id]).encode()).hexdigest()


def check(tokenizer: Tokenizer) -> None:
    """Refuses specials that can't be told apart.

    Raises:
        ValueError: pad is EOS, or either is no id of the vocabulary.
    """
    pad, eos = tokenizer.pad_id, tokenizer.eos_id
    if pad == eos:
        raise ValueError(
            f"tokenizer: pad and EOS are both id {pad}: they must differ, or EOS is never graded"
        )
    for name, value in (("pad", pad), ("EOS", eos)):
        if not 0 <= value < tokenizer.vocab:
            last = tokenizer.vocab - 1
            raise ValueError(f"tokenizer: {name} is id {value}: allowed are 0 to {last}")


def same(left: Tokenizer, right: Tokenizer) -> None:
    """Refuses two tokenizers that differ: in any id's token, not in size alone.

    Raises:
        ValueError: naming the first entries that differ.
    """
    same_entries(left.table(), right.table())
    found = [
        f"{name} is {getattr(left, name)} and {getattr(right, name)}"
        for name in ("pad_id", "eos_id")
        if getattr(left, name) != getattr(right, name)
    ]
    if found:
        raise ValueError(f"tokenizers differ: {'; '.join(found)}")


def same_entries(left: Sequence[Token], right: Sequence[Token]) -> None:
    """Refuses two tables that differ; their ends and pads may.

    Raises:
        ValueError: naming the first entries that differ.
    """
    if tuple(left) == tuple(right):
        return
    rows = enumerate(zip(left, right, strict=False))
    differing = [(i, a, b) for i, (a, b) in rows if a != b]
    found = [f"id {i} is {a!r} and {b!r}" for i, a, b in differing[:3]]
    if len(left) != len(right):
        found.append(f"vocab is {len(left)} and {len(right)}")
    more = f" ({len(differing)} ids differ)" if len(differing) > 3 else ""
    raise ValueError(f"tokenizers differ: {'; '.join(found)}{more}")


def refuse_rowless(tokenizer: Tokenizer, ids: Sequence[int], rows: int) -> None:
    """Refuses ids that a model's embedding of so many rows has none for.

    Some tokenizers have more ids than their models have rows: harmless, where none is ever read.

    Raises:
        ValueError: names the last of them.
    """
    last = max(ids, default=0)
    if last >= rows:
        raise ValueError(
            f"has {tokenizer.table()[last]!r}, id {last}: the model has rows for 0 to {rows - 1}"
        )


class _Table(abc.ABC):
    """What follows from a table: shared by the tokenizers below."""

    pad_id: int
    eos_id: int

    @property
    def vocab(self) -> int:
        return len(self.table())

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return (self.eos_id,)

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]: ...

    def encode_prompt(self, prompt: str | Messages) -> list[int]:
        return self.encode(text_of(prompt))

    def rendered(self, prompt: str | Messages) -> str:
        return text_of(prompt)

    @abc.abstractmethod
    def table(self) -> tuple[Token, ...]: ...

    def fingerprint(self) -> str:
        return digest(self.table(), self.pad_id, self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD."""
        table = self.table()
        tokens = (table[int(i)] for i in ids)
        joined = b"".join(token for token in tokens if isinstance(token, bytes))
        return joined.decode("utf-8", errors="replace")


def _without_merges(entries: Mapping[str, int]) -> hf.Tokenizer:
    """A tokenizer of single symbols, for tokenizer.json: a BPE that has nothing to merge."""
    found = hf.Tokenizer(hf.models.BPE(vocab={**entries, PAD: 0, EOS: 1}, merges=[]))
    found.add_special_tokens(list(SPECIALS))
    return found


@dataclasses.dataclass(frozen=True)
class ByteTokenizer(_Table):
    """UTF-8 bytes: V = 258."""

    pad_id = 0
    eos_id = 1

    def serialized(self) -> str:
        """The same as a tokenizer.json."""
        made = _without_merges({char: len(SPECIALS) + byte for char, byte in _escapes().items()})
        made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = hf.decoders.ByteLevel()
        return made.to_str()

    def table(self) -> tuple[Token, ...]:
        return _BYTES

    def encode(self, text: str) -> list[int]:
        return [len(SPECIALS) + byte for byte in text.encode("utf-8")]


@dataclasses.dataclass(frozen=True)
class CharTokenizer(_Table):
    """The characters of a stated alphabet, in its order: V = 2 + len(alphabet).

    Raises:
        ValueError: an empty alphabet, or one that says a character twice.
    """

    alphabet: str

    pad_id = 0
    eos_id = 1

    def __post_init__(self) -> None:
        twice = sorted({c for c in self.alphabet if self.alphabet.count(c) > 1})
        if not self.alphabet or twice:
            problem = f"has {twice[0]!r} twice" if twice else "is empty"
            raise ValueError(f"data.alphabet {problem}: needs at least one character, each once")

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.alphabet, len(SPECIALS))}

    @functools.cached_property
    def _tokens(self) -> tuple[Token, ...]:
        return (*SPECIALS, *(character.encode("utf-8") for character in self.alphabet))

    def table(self) -> tuple[Token, ...]:
        return self._tokens

    def serialized(self) -> str:
        """The same as a tokenizer.json; that of other characters is no error there, but nothing."""
        made = _without_merges(self._ids)
        made.decoder = hf.decoders.Fuse()
        return made.to_str()

    def encode(self, text: str) -> list[int]:
        """Ids of the characters.

        Raises:
            ValueError: a character outside the alphabet.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ValueError(
                f"the alphabet has no {error.args[0]!r} (in {text!r:.40}): allowed are "
                f"{self.alphabet!r}, or data.tokenizer = byte"
            ) from None


class BPETokenizer(_Table):
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), digits one by one.

    Every text has an encoding, and text that spells a special is text. The JSON is that of the
    `tokenizers` library (tokenizer.json).

    Raises:
        ValueError: the JSON is no tokenizer, lacks a special, or calls pad and EOS the same token.
    """

    def __init__(self, serialized: str, pad: str = PAD, eos: str = EOS):
        try:
            self._tokenizer = hf.Tokenizer.from_str(serialized)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer.json ({error})") from None
        self._tokenizer.encode_special_tokens = True
        for token in (pad, eos):
            if self._tokenizer.token_to_id(token) is None:
                raise ValueError(f"tokenizer.json has no token {token!r}")
        self.pad_id: int = self._tokenizer.token_to_id(pad)
        self.eos_id: int = self._tokenizer.token_to_id(eos)
        specials = {
            i for i, added in self._tokenizer.get_added_tokens_decoder().items() if added.special
        } | {self.pad_id, self.eos_id}
        size = self._tokenizer.get_vocab_size()
        names = [self._tokenizer.id_to_token(i) for i in range(size)]
        try:
            self._tokens: tuple[Token, ...] = tuple(
                name if i in specials else _unescape(name) for i, name in enumerate(names)
            )
        except (KeyError, TypeError):
            raise ValueError("tokenizer.json is not a byte-level BPE without gaps") from None
        check(self)

    def table(self) -> tuple[Token, ...]:
        return self._tokens

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def serialized(self) -> str:
        return self._tokenizer.to_str()

    def save(self, path: Path) -> None:
        path.write_text(self.serialized(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> BPETokenizer:
        """A saved tokenizer.

        Raises:
            ValueError: no such file, or not a tokenizer.json.
        """
        try:
            return cls(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def train_bpe(texts: Iterable[str], size: int) -> BPETokenizer:
    """A byte-level BPE of at most `size` tokens, specials and all 256 bytes among them.

    Raises:
        ValueError: a size too small for specials and bytes.
    """
    if size < BYTE_VOCAB:
        raise ValueError(f"data.bpe_size = {size!r}: allowed is {BYTE_VOCAB} or more")
    tokenizer = hf.Tokenizer(hf.models.BPE())
    byte_level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = hf.pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(hf.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BPETokenizer(tokenizer.to_str())


@functools.cache
def _escapes() -> dict[str, int]:
    """The printable stand-ins byte-level BPE uses for bytes: byte -> character, inverted.

    Printable Latin-1 stands for itself, the rest for U+0100 onwards, in order (Radford et al.
    2019).
    """
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(itself)]
    table = {chr(byte): byte for byte in itself}
    table.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return table


def _unescape(token: str) -> bytes:
    table = _escapes()
    return bytes(table[character] for character in token)

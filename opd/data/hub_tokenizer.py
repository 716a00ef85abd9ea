"""The tokenizer of a Hugging Face folder: its ids, its chat template, its ends."""

from __future__ import annotations

import copy as copies
import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf

from opd.data.chat import PLAIN, ChatConfig, Messages, Template
from opd.data.tokenizers import Token, Tokenizer, digest, text_of

FILE = "tokenizer.json"
# What a folder has beside config.json and weights, and an exported one takes along.
FILES = (
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def copy(source: Path, folder: Path) -> None:
    """Copies what a folder has of FILES."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """A tokenizer that was made here, as the files of a folder."""
    ends = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    table = tokenizer.table()
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": table[tokenizer.eos_id],
        "pad_token": table[tokenizer.pad_id],
        "clean_up_tokenization_spaces": False,
    }
    (folder / FILE).write_text(tokenizer.serialized(), encoding="utf-8")
    for name, content in (("tokenizer_config.json", described), ("generation_config.json", ends)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class HubTokenizer:
    """A folder's tokenizer, as `Tokenizer` has it; a prompt goes through the chat template.

    A completion ends at any of `eos_ids`: those of generation_config.json, of config.json and the
    tokenizer's own. Its pad is never one of them: masks would drop the action that ends. Solutions
    end in `eos_id`: the tokenizer's own where it is one of those.

    Raises:
        ValueError: a file that is missing or broken, no end, or a template that fails; one line.
    """

    def __init__(self, folder: Path, chat: ChatConfig = PLAIN):
        self.folder, self.chat = folder, chat
        self._tokenizer = _read(folder / FILE)
        self._plain = _read(folder / FILE)
        self._plain.encode_special_tokens = True  # in a user's text they are text
        described = _described(folder / "tokenizer_config.json")
        self._specials = _specials(described)
        names = self._tokenizer.get_vocab(with_added_tokens=True)
        self._tokens: tuple[Token, ...] = _table(names)
        self._rows = len(self._tokens)
        own = names.get(self._specials.get("eos_token", ""))
        self.eos_ids = _ends(folder, own)
        for token in self.eos_ids:
            if not 0 <= token < len(self._tokens):
                raise ValueError(f"{folder}: EOS is id {token}: allowed are 0 to {self.vocab - 1}")
        self.eos_id: int = own if own in self.eos_ids else self.eos_ids[0]
        pad = names.get(self._specials.get("pad_token", ""))
        self.pad_id: int = _padding(pad, self.eos_ids, self.vocab)
        self._identity = self.pad_id, self.eos_id
        # A pad that only stands in for one is text where a model writes it.
        self._dropped = {*self.eos_ids, *([pad] if pad == self.pad_id else [])}
        source = _template(folder, described)
        if source is None and chat.template:
            raise ValueError(f"{folder}: has no chat template, which data.chat.template asks for")
        wanted = source is not None and chat.template is not False
        if not wanted and (chat.system is not None or chat.arguments is not None):
            raise ValueError("data.chat.system and data.chat.arguments need a chat template")
        where = str(folder)
        self._template = Template(source, self._specials, where) if wanted else None

    def within(self, rows: int) -> HubTokenizer:
        """The same for a model of so many rows, where there are more ids: ends and pad have one.

        Raises:
            ValueError: no end has a row.
        """
        if rows >= self.vocab:
            return self
        found = copies.copy(self)
        found._rows = rows
        found.eos_ids = tuple(token for token in self.eos_ids if token < rows)
        if not found.eos_ids:
            raise ValueError(
                f"{self.folder}: EOS is id {self.eos_id}: allowed are 0 to {rows - 1}, for which "
                "there are rows, or nothing would end"
            )
        found.eos_id = self.eos_id if self.eos_id in found.eos_ids else found.eos_ids[0]
        if self.pad_id >= rows:
            found.pad_id = _padding(None, found.eos_ids, rows)
        return found

    @property
    def vocab(self) -> int:
        return self._rows

    def table(self) -> tuple[Token, ...]:
        """Each id's entry, as tokenizer.json writes it."""
        return self._tokens

    def fingerprint(self) -> str:
        return digest(self.table(), *self._identity)

    def encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def rendered(self, prompt: str | Messages) -> str:
        """The prompt as the model gets it."""
        if self._template is None:
            return text_of(prompt)
        return self._template.render(self.chat.messages(prompt), self.chat.given())

    def encode_prompt(self, prompt: str | Messages) -> list[int]:
        """Ids of a prompt: through the template, or with what the folder puts before any text."""
        if self._template is None:
            return self._plain.encode(text_of(prompt), add_special_tokens=True).ids
        return self._tokenizer.encode(self.rendered(prompt), add_special_tokens=False).ids

    def serialized(self) -> str:
        """The folder's tokenizer.json."""
        return (self.folder / FILE).read_text(encoding="utf-8")

    def decode(self, ids: Sequence[int]) -> str:
        """The text; ends and the folder's own pad are dropped, other specials stay."""
        kept = [int(i) for i in ids if int(i) not in self._dropped]
        return self._tokenizer.decode(kept, skip_special_tokens=False)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has one that can be read here."""
    return (folder / FILE).is_file()


def _read(path: Path) -> hf.Tokenizer:
    try:
        found = hf.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: not a tokenizer.json ({error})") from None
    found.no_truncation()
    found.no_padding()
    return found


def _described(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def _specials(described: Mapping[str, Any]) -> dict[str, str]:
    """Names like bos_token, and the token that each is."""
    found = {}
    for name, value in described.items():
        value = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(value, str):
            found[name] = value
    return found


def _table(names: Mapping[str, int]) -> tuple[Token, ...]:
    """Entries by id; an id that nothing has is an empty entry."""
    found = [""] * (max(names.values()) + 1)
    for token, i in names.items():
        found[i] = token
    return tuple(found)


def _ends(folder: Path, own: int | None) -> tuple[int, ...]:
    """Every id that ends a completion, the first for generation first."""
    found: dict[int, None] = {}
    for name in ("generation_config.json", "config.json"):
        given = _described(folder / name).get("eos_token_id")
        for token in given if isinstance(given, list) else [given]:
            if isinstance(token, int):
                found.setdefault(token)
    if own is not None:
        found.setdefault(own)
    if not found:
        raise ValueError(f"{folder}: names no eos_token_id and no eos_token, nothing would end")
    return tuple(found)


def _padding(own: int | None, ends: tuple[int, ...], vocab: int) -> int:
    """The folder's pad; where that is an end, the first id that isn't: it is never looked at."""
    if own is not None and own not in ends:
        return own
    return next(i for i in range(vocab) if i not in ends)


def _template(folder: Path, described: Mapping[str, Any]) -> str | None:
    """The chat template's source: a file of its own, or an entry; the default of several."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"{own}: cannot be read ({error})") from None
    given = _described(folder / "chat_template.json").get("chat_template")
    given = described.get("chat_template", given)
    if isinstance(given, list):
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


@functools.lru_cache(maxsize=8)  # folders and chats: more than a run has
def load(folder: Path, chat: ChatConfig = PLAIN) -> HubTokenizer:
    """A folder's tokenizer; large ones take seconds, and a run asks more than once."""
    return HubTokenizer(folder, chat)

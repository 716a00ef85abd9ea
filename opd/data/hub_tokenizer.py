"""The tokenizer of a Hugging Face folder: its ids, its chat template, its ends."""

from __future__ import annotations

import copy as copies
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers as hf

from opd.data import hub_files, lost, spelled
from opd.data.chat import PLAIN, ChatConfig, Template, asks_date
from opd.data.conversation import Conversation, absent
from opd.data.hub_files import DEFAULT, FILE, FILES, TOOL_USE, copy, has_tokenizer
from opd.data.spelled import Speller
from opd.data.tokenizers import Token, Tokenizer, digest, text_of

__all__ = [
    "FILE",
    "FILES",
    "HubTokenizer",
    "asks_for_date",
    "copy",
    "has_tokenizer",
    "load",
    "write",
]


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

    Under the template, and where there is none, special tokens that a text spells are text. With
    `chat.template` False prompts are formatted already: there they are the tokens.

    A completion ends at any of `eos_ids`: those of generation_config.json, of config.json and the
    tokenizer's own. Its pad is never one of them: masks would drop the action that ends. Solutions
    end in `eos_id`: the tokenizer's own where it is one of those.

    Raises:
        ValueError: a file that is missing or broken, no end, a template that fails, or keys of
            `chat` that it has no use for; one line.
    """

    def __init__(self, folder: Path, chat: ChatConfig = PLAIN):
        self.folder, self.chat = folder, chat
        self._tokenizer = hub_files.read(folder)
        self._plain = hub_files.read(folder)
        self._plain.encode_special_tokens = True  # in a user's text they are text
        self._specials = hub_files.specials(hub_files.described(folder))
        names = self._tokenizer.get_vocab(with_added_tokens=True)
        self._tokens: tuple[Token, ...] = _table(names)
        self._rows = len(self._tokens)
        own = names.get(self._specials.get("eos_token", ""))
        self.eos_ids = hub_files.ends(folder, own)
        for token in self.eos_ids:
            if not 0 <= token < len(self._tokens):
                raise ValueError(f"{folder}: EOS is id {token}: allowed are 0 to {self.vocab - 1}")
        self.eos_id: int = own if own in self.eos_ids else self.eos_ids[0]
        pad = names.get(self._specials.get("pad_token", ""))
        self.pad_id: int = _padding(pad, self.eos_ids, self.vocab)
        self._identity = self.pad_id, self.eos_id
        # A pad that only stands in for one is text where a model writes it.
        self._dropped = {*self.eos_ids, *([pad] if pad == self.pad_id else [])}
        self._templates = self._loaded()
        if self._templates:
            lost.chat(chat, self._templates[DEFAULT].template)

    def _loaded(self) -> dict[str, _Chat]:
        """The chat templates by name; none where prompts are to stay as they are.

        Raises:
            ValueError: there is none where `chat` asks for one, or one is broken.
        """
        chat = self.chat
        sources = {} if chat.template is False else hub_files.templates(self.folder)
        if not sources and chat.template:
            raise ValueError(
                f"{self.folder}: has no chat template, which data.chat.template asks for"
            )
        if not sources and (chat.system is not None or chat.arguments is not None):
            raise ValueError("data.chat.system and data.chat.arguments need a chat template")
        if not sources and chat.date is not None:
            raise ValueError("data.chat.date needs a chat template")
        return {
            name: _Chat(
                self._tokenizer, Template(source, self._specials, str(self.folder), chat.now)
            )
            for name, source in sources.items()
        }

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
        """Ids of what a model writes; an end that a formatted text brings is left out.

        Raises:
            ValueError: an end within a formatted text.
        """
        if self.chat.template is not False:
            return self._plain.encode(text, add_special_tokens=False).ids
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if ids and ids[-1] in self.eos_ids:
            ids.pop()
        if ends := {*ids} & {*self.eos_ids}:
            raise ValueError(
                f"{text[:40]!r} goes on after {self._tokens[min(ends)]!r}, which ends a "
                "completion: allowed at its end"
            )
        return ids

    def _chat_of(self, prompt: str | Conversation) -> tuple[Conversation, _Chat]:
        whole = self.chat.conversation(prompt)
        named = not absent(whole.tools) and TOOL_USE in self._templates
        return whole, self._templates[TOOL_USE if named else DEFAULT]

    def rendered(self, prompt: str | Conversation) -> str:
        """The prompt as the model gets it."""
        if not self._templates:
            return text_of(prompt)
        whole, chat = self._chat_of(prompt)
        return chat.template.render(whole)

    def encode_prompt(self, prompt: str | Conversation) -> list[int]:
        """Ids of a prompt: through the template, or with what the folder puts before any text.

        Raises:
            ValueError: the template fails, or can't keep what the prompt spells as text.
        """
        if self._templates:
            whole, chat = self._chat_of(prompt)
            if chat.speller.spells(whole):
                return chat.speller.encode(whole)
            text = chat.template.render(whole)
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        as_is = self._tokenizer if self.chat.template is False else self._plain
        return _going_on(as_is.encode(text_of(prompt), add_special_tokens=True))

    def refuse_lost(self, prompt: str | Conversation) -> None:
        """Refuses a prompt of which the model would not get to read all, or something twice.

        Raises:
            ValueError: what the template drops, or that the prompt went through one already.
        """
        if not self._templates:
            text_of(prompt)
            return
        whole, chat = self._chat_of(prompt)
        lost.conversation(whole, chat.template)
        for text in lost.contents(whole.messages[-1]):
            if lost.wrapped(text, chat.frame):
                raise ValueError(
                    f"the prompt ({text[:40]!r}) is formatted already, and the chat template would "
                    "wrap it again: allowed is data.chat.template = False, which keeps it as it is"
                )

    def spells(self, prompt: str | Conversation) -> set[str]:
        """The special tokens that a prompt spells, which are text there."""
        if self._templates:
            whole, chat = self._chat_of(prompt)
            return chat.speller.spells(whole)
        if self.chat.template is False:
            return set()
        return spelled.anywhere(text_of(prompt), self._special)

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        return spelled.pattern(token.content for token in added if token.special)

    def serialized(self) -> str:
        """The folder's tokenizer.json."""
        return (self.folder / FILE).read_text(encoding="utf-8")

    def decode(self, ids: Sequence[int]) -> str:
        """The text; ends and the folder's own pad are dropped, other specials stay."""
        kept = [int(i) for i in ids if int(i) not in self._dropped]
        return self._tokenizer.decode(kept, skip_special_tokens=False)


class _Chat:
    """A chat template, who finds what conversations spell of its tokens, and its frame."""

    def __init__(self, tokenizer: hf.Tokenizer, template: Template):
        self.template, self.speller = template, Speller(tokenizer, template)
        self.frame = lost.frame(template, self.speller.special)


def _going_on(encoding: hf.Encoding) -> list[int]:
    """Ids of a text with what its tokenizer puts before any, once: the text may spell it itself.

    What it puts after a text, an end, isn't for a prompt.
    """
    of_text = [at for at, part in enumerate(encoding.sequence_ids) if part is not None]
    if not of_text:
        return encoding.ids
    first, ids = encoding.ids[: of_text[0]], encoding.ids[of_text[0] : of_text[-1] + 1]
    return ids if ids[: len(first)] == first else first + ids


def _table(names: Mapping[str, int]) -> tuple[Token, ...]:
    """Entries by id; an id that nothing has is an empty entry."""
    found = [""] * (max(names.values()) + 1)
    for token, i in names.items():
        found[i] = token
    return tuple(found)


def _padding(own: int | None, ends: tuple[int, ...], vocab: int) -> int:
    """The folder's pad; where that is an end, the first id that isn't: it is never looked at."""
    if own is not None and own not in ends:
        return own
    return next(i for i in range(vocab) if i not in ends)


def asks_for_date(folder: Path, chat: ChatConfig = PLAIN) -> bool:
    """Whether a folder's chat template asks what day it is."""
    if chat.template is False or not has_tokenizer(folder):
        return False
    return any(map(asks_date, hub_files.templates(folder).values()))


@functools.lru_cache(maxsize=8)  # folders and chats: more than a run has
def load(folder: Path, chat: ChatConfig = PLAIN) -> HubTokenizer:
    """A folder's tokenizer; large ones take seconds, and a run asks more than once."""
    return HubTokenizer(folder, chat)

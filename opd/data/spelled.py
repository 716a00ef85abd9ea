"""Special tokens that a user's text spells: text, under a template that writes specials itself.

A conversation is written with marks around what it spells, so that the template's own tokens can be
told from those; then it is encoded by a tokenizer that knows the template's own under other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tokenizers as hf

from opd.data.chat import Template
from opd.data.conversation import Conversation

# Private characters, which no normaliser changes: around what is spelled, and around the number
# that stands in for a token of the template's own.
_OPEN, _CLOSE, _FIRST, _LAST = "\U0010fff0", "\U0010fff1", "\U0010fff2", "\U0010fff3"
_MARKED = re.compile(f"({_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})")
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}]")
_PRIVATE = re.compile(f"[{_OPEN}{_CLOSE}{_FIRST}{_LAST}]")


def pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Any of some tokens, the longest first, as a tokenizer finds them."""
    longest = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest)) or "(?!)")


def anywhere(value: Any, tokens: re.Pattern[str]) -> set[str]:
    """The tokens that the strings of a JSON value spell, keys included."""
    if isinstance(value, str):
        return set(tokens.findall(value))
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return set().union(*(anywhere(each, tokens) for each in value))
    return set()


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every string changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(each, change) for each in value)
    return value


class Speller:
    """Finds and encodes what conversations spell of a tokenizer's tokens.

    Special ones are text wherever a conversation has them. Added ones that the template writes
    (`<tool_call>`, DeepSeek's turns) are text in what others say; in an assistant's own turns
    (`<think>`) they are what the model wrote.
    """

    def __init__(self, tokenizer: hf.Tokenizer, template: Template):
        added = tokenizer.get_added_tokens_decoder()
        self._tokenizer, self._template = tokenizer, template
        special = {token.content for token in added.values() if token.special}
        others = {token.content for token in added.values()} - special
        written = {t for t in others if t in template.literals and not t.isspace()}
        self.special = pattern(special)
        self._all = pattern(special | written)
        self._stand_ins: tuple[hf.Tokenizer, dict[str, str], dict[int, int]] | None = None

    def spells(self, conversation: Conversation) -> set[str]:
        """The tokens that a conversation spells, where they are to be text."""
        own = [each for each in conversation.messages if each["role"] == "assistant"]
        others = [each for each in conversation.messages if each["role"] != "assistant"]
        beside = [conversation.tools, conversation.documents, conversation.arguments]
        return anywhere([others, beside], self._all) | anywhere(own, self.special)

    def encode(self, conversation: Conversation) -> list[int]:
        """Ids of a conversation in which what is spelled is text.

        Raises:
            ValueError: the template looks for what is spelled, or the tokenizer can't keep it text.
        """
        text = self._template.render(conversation)
        if _PRIVATE.search(text):
            raise ValueError("has characters from U+10FFF0 to U+10FFF3 beside special tokens")
        for tokens in (self._all, self.special):
            marked = self._template.render(self._marked(conversation, tokens))
            if _MARKS.sub("", marked) == text:
                return self._encode(marked)
        raise ValueError(
            f"spells {', '.join(sorted(self.spells(conversation)))}, which the chat template looks "
            "for: it can't be text there"
        )

    def _marked(self, conversation: Conversation, tokens: re.Pattern[str]) -> Conversation:
        def marks(pattern: re.Pattern[str]) -> Callable[[str], str]:
            return lambda text: pattern.sub(lambda token: _OPEN + token[0] + _CLOSE, text)

        others, own = marks(tokens), marks(self.special)
        return Conversation(
            tuple(
                _mapped(message, own if message["role"] == "assistant" else others)
                for message in conversation.messages
            ),
            _mapped(conversation.tools, others),
            _mapped(conversation.documents, others),
            _mapped(conversation.arguments, others),
        )

    def _encode(self, marked: str) -> list[int]:
        if self._stand_ins is None:
            self._stand_ins = _renamed(self._tokenizer, self._all)
        renamed, names, ids = self._stand_ins
        pieces = (
            piece if _MARKED.fullmatch(piece) else self._all.sub(lambda t: names[t[0]], piece)
            for piece in _MARKED.split(marked)
        )
        encoded = renamed.encode(_MARKS.sub("", "".join(pieces)), add_special_tokens=False).ids
        control = {self._tokenizer.token_to_id(name) for name in names}
        for token in encoded:
            if token not in ids and token in control:
                name = self._tokenizer.id_to_token(token)
                raise ValueError(f"spells {name}, which the tokenizer has no other ids for")
        return [ids.get(token, token) for token in encoded]


def _renamed(
    tokenizer: hf.Tokenizer, tokens: re.Pattern[str]
) -> tuple[hf.Tokenizer, dict[str, str], dict[int, int]]:
    """A tokenizer that knows some tokens by other names; those names, and ids of there as of here.

    The other added tokens keep their names; all of them may have other ids.
    """
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = []
    renamed = hf.Tokenizer.from_str(json.dumps(described))
    names: dict[str, str] = {}
    for _, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        name = token.content
        if tokens.fullmatch(name):
            name = f"{_FIRST}{len(names)}{_LAST}"
            names[token.content] = name
        renamed.add_tokens(
            [
                hf.AddedToken(
                    name,
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=token.special,
                )
            ]
        )
    back = {stand_in: name for name, stand_in in names.items()}
    ids = {
        i: tokenizer.token_to_id(back.get(token.content, token.content))
        for i, token in renamed.get_added_tokens_decoder().items()
    }
    return renamed, names, ids

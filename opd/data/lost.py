"""What a chat template would drop of a conversation, or write twice: refused, not believed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from opd.data.chat import THOUGHTS, TOLD, ChatConfig, Template
from opd.data.conversation import Conversation, Json, Message, absent, of_text

# Stand for any content where a template is tried; no template looks for them. Of equal length.
WORD, OTHER = "opdcontent", "anycontent"
# Keys that tell which one something is, a result's call or a document: templates that write them in
# turn need none.
LABELS = ("name", "tool_call_id", "id", "doc_id")
CALLED = ("tool", "function", "ipython")  # roles of results


def chat(config: ChatConfig, template: Template) -> None:
    """Refuses keys of `data.chat` that the folder's template has no use for.

    Raises:
        ValueError: a system message that isn't written, arguments or a date that aren't read.
    """
    _arguments("data.chat.arguments", config.given(), template)
    if config.date is not None and not template.dated:
        raise ValueError(
            f"data.chat.date = {config.date!r}: the chat template asks for no date; allowed is None"
        )
    if config.system is None:
        return
    whole = config.conversation(WORD)
    try:
        lacks = _vanishes(whole, 0, template)
    except ValueError as error:
        raise ValueError(f"data.chat.system: {error}") from None
    if lacks:
        raise ValueError(
            "data.chat.system: the folder's chat template writes no system message; allowed is None"
        )


def conversation(whole: Conversation, template: Template) -> None:
    """Refuses a conversation of which the model would not get to read all.

    Raises:
        ValueError: names what the template never writes.
    """
    for key in ("tools", "documents"):
        if not absent(getattr(whole, key)) and key not in template.reads:
            raise ValueError(f"the folder's chat template has no place for {key!r}")
    _arguments("'chat_template_kwargs'", whole.arguments, template)
    text, read = template.watched(whole)
    for at, (message, keys) in enumerate(zip(whole.messages, read, strict=True)):
        _keys(message, keys)
        _content(whole, at, text, template)
        for call in message.get("tool_calls") or ():
            _written("tool_calls", _parts(call, ("name", "arguments")), text)
    for tool in whole.tools or ():
        _written("tools", _parts(tool, ("name",)), text)
    for document in whole.documents or ():
        _written("documents", [v for k, v in document.items() if k not in LABELS], text)


def _arguments(where: str, arguments: Mapping[str, Any], template: Template) -> None:
    for name in arguments:
        if name in TOLD or name not in template.reads:
            others = {name for name in template.reads if not name.endswith("_token")}
            allowed = ", ".join(sorted(others - {*TOLD})) or "none"
            raise ValueError(
                f"{where} has {name!r}, which the folder's chat template never reads; it reads "
                f"{allowed}"
            )


def _keys(message: Message, read: frozenset[str]) -> None:
    """Refuses a key of a message that its template never looked at."""
    for key, value in message.items():
        names = THOUGHTS if key in THOUGHTS else (key,)
        label = key in LABELS and message["role"] in CALLED
        if key != "role" and not absent(value) and not read & {*names} and not label:
            raise ValueError(
                f"the folder's chat template never reads {key!r} of a message of "
                f"{message['role']!r}"
            )


def _content(whole: Conversation, at: int, text: str, template: Template) -> None:
    """Refuses a message whose content isn't written, or makes no difference where it stands."""
    message = whole.messages[at]
    place = (at, *(each["role"] for each in whole.messages))
    texts = [content for content in contents(message) if content.strip()]
    lacking = [content for content in texts if not _within(content, text)]
    if texts and (lacking or place not in template.places):
        if _vanishes(whole, at, template):
            raise ValueError(
                f"the folder's chat template drops what {message['role']!r} says "
                f"({(lacking or texts)[0][:40]!r})"
            )
        template.places.add(place)


def contents(message: Message) -> list[str]:
    """The texts of a message's content."""
    content = message.get("content") or ""
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _within(content: str, text: str) -> bool:
    """Whether a text has the content: as it is, trimmed, or as JSON has it."""
    forms = (content.strip(), *(json.dumps(content, ensure_ascii=a)[1:-1] for a in (True, False)))
    return any(form in text for form in forms)


def _vanishes(whole: Conversation, at: int, template: Template) -> bool:
    """Whether it makes no difference what a message says.

    Templates may cut and change content: thoughts of earlier turns, say. So their models read.
    """

    def instead(word: str) -> str:
        parts = isinstance(whole.messages[at].get("content"), list)
        content = [{"type": "text", "text": word}] if parts else word
        message = dict(whole.messages[at], content=content)
        messages = (*whole.messages[:at], message, *whole.messages[at + 1 :])
        return template.render(dataclasses.replace(whole, messages=messages))

    return instead(WORD) == instead(OTHER)


def _parts(called: Json, keys: tuple[str, ...]) -> list[Any]:
    """What says which function a call or a tool is of, and with what."""
    function = called.get("function", called)
    return [function.get(key) for key in keys] if isinstance(function, dict) else [function]


def _written(key: str, value: Any, text: str) -> None:
    """Refuses a JSON value of which a text isn't written."""
    for content in _leaves(value):
        if not _within(content, text):
            raise ValueError(f"the folder's chat template drops {content[:40]!r} of {key!r}")


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)


# --- written twice ---------------------------------------------------------------------------

_THOUGHT = re.compile(r"(\s*</?think>)*\s*$")  # that a prompt may open for the model


def frame(template: Template, specials: re.Pattern[str]) -> tuple[str, str] | None:
    """The line that a user's turn starts with, and what a prompt ends with; None without both."""
    try:
        before, word, after = template.render(of_text(WORD)).partition(WORD)
    except ValueError:
        return None
    tokens = [match.start() for match in specials.finditer(before)]
    start = before[tokens[-1] :] if tokens else before
    start, end = start.strip().rpartition("\n")[2], _THOUGHT.sub("", after).strip()
    return (start, end) if word and start and end else None


def wrapped(prompt: str, frame: tuple[str, str] | None) -> bool:
    """Whether a user's text has been through the template of this `frame` already."""
    if frame is None:
        return False
    start, end = frame
    return start in prompt and _THOUGHT.sub("", prompt).endswith(end)

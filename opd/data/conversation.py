"""What a line asks: a prompt, or a conversation with all that the line says beside it.

Its keys are those of the field: TRL's datasets, OpenAI's and vLLM's requests. Each one is read or
refused by name, so that none vanishes; `null`, and an empty list of images, say nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from opd.data.jsonl import text_field

Json = Mapping[str, Any]
Message = Json  # role, content and whatever else a template reads of one

# What a prompt may say beside its text or its messages.
BESIDE = ("system", "tools", "documents", "chat_template_kwargs")
READ = ("prompt", "messages", *BESIDE, "answer")
# What others read and nobody here: given in vain, it would be believed.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "functions": '\'tools\', a list of {"type": "function", "function": {...}}',
        "function_call": "'tools'",
        "tool_choice": "'tools'",
        "parallel_tool_calls": "'tools'",
        "response_format": "'system', or words in the prompt",
        "system_prompt": "'system'",
        "system_message": "'system'",
        "instructions": "'system'",
        "history": "'messages'",
        "conversation": "'messages', a list of role and content",
        "conversations": "'messages', a list of role and content",
        "enable_thinking": "'chat_template_kwargs', such as {\"enable_thinking\": false}",
        "reasoning_effort": '\'chat_template_kwargs\', such as {"reasoning_effort": "low"}',
        "chat_template": "the template of the model's folder",
        "add_generation_prompt": "nothing: a prompt ends where the model's turn begins",
        "continue_final_message": "nothing: a prompt ends where the model's turn begins",
        "completion": "'answer', which is imitated and graded",
        "completions": "'answer', which is imitated and graded",
        "chosen": "'prompt' and 'answer'; pairs are for reward.pairs",
        "rejected": "'prompt' and 'answer'; pairs are for reward.pairs",
        "image": "text",
        "images": "text",
        "image_url": "text",
        "video": "text",
        "videos": "text",
        "audio": "text",
        "audios": "text",
        "multi_modal_data": "text",
        "mm_processor_kwargs": "text",
        "prompt_token_ids": "text",
    }
)
# Levels of a value, far more than tools and messages have: what walks through one must end.
DEPTH = 64
# Whose turn a prompt may end with: the model's comes next.
LAST = ("user", "tool", "function", "ipython")


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Messages, as their line has them, and what a chat template gets beside them."""

    messages: tuple[Message, ...]
    tools: tuple[Json, ...] | None = None
    documents: tuple[Json, ...] | None = None
    arguments: Json = dataclasses.field(default_factory=dict)  # the line's chat_template_kwargs

    @property
    def text(self) -> str:
        """The conversation as JSON: what tells prompts apart. Messages alone are a list."""
        whole = {
            "messages": list(self.messages),
            "tools": self.tools and list(self.tools),
            "documents": self.documents and list(self.documents),
            "chat_template_kwargs": dict(self.arguments),
        }
        beside = {key: value for key, value in whole.items() if value}
        return json.dumps(
            beside if len(beside) > 1 else whole["messages"],
            ensure_ascii=False,
        )


def of_text(prompt: str, system: str | None = None) -> Conversation:
    """A user's prompt as a conversation, after a system message where there is one."""
    turns = ({"role": "user", "content": prompt},)
    if system is not None:
        turns = ({"role": "system", "content": system}, *turns)
    return Conversation(turns)


def absent(value: Any) -> bool:
    """Whether a value says nothing: null, or an empty list, text or object."""
    return value is None or (isinstance(value, (str, list, tuple, dict)) and not value)


def unread(where: str, line: Json, allowed: tuple[str, ...] = READ) -> dict[str, Any]:
    """A line's further columns, such as `id` and `source`, which change no prompt.

    Raises:
        ValueError: a key that others read as a part of the conversation; says what is allowed.
    """
    further = [key for key, value in line.items() if key not in allowed and not absent(value)]
    for key in further:
        if key in REFUSED:
            raise ValueError(f"{where}: {key!r} is not read: allowed is {REFUSED[key]}")
        if key in BESIDE:
            raise ValueError(f"{where}: {key!r} is not read: allowed are {', '.join(allowed)}")
    return {key: line[key] for key in further}


def asked(where: str, line: Json) -> str | Conversation:
    """A line's prompt, a text; or its messages with what it says beside them.

    Raises:
        ValueError: neither or both of them, or one that is something else; by file and line.
    """
    given = {key: line[key] for key in ("prompt", "messages") if line.get(key) is not None}
    if len(given) == 2:
        raise ValueError(f"{where}: has 'prompt' and 'messages': allowed is one of them")
    if not given:
        has = ", ".join(sorted(line)) or "nothing"
        raise ValueError(f"{where}: needs 'prompt' or 'messages', has {has}")
    (key, value), beside = next(iter(given.items())), {k: line.get(k) for k in BESIDE}
    for name, each in {key: value, **beside}.items():
        if _deeper(each, DEPTH):
            raise ValueError(f"{where}: {name!r} is nested deeper than {DEPTH} levels")
    if key == "prompt" and not isinstance(value, list):
        text = text_field(where, line, "prompt", allowed="non-empty string or a list of messages")
        if all(each is None for each in beside.values()):
            return text
        messages = of_text(text).messages
    else:
        messages = _messages(where, key, value)
    system = beside["system"]
    if system is not None:
        if messages[0]["role"] == "system":
            raise ValueError(f"{where}: has 'system' and a system message: allowed is one of them")
        system = text_field(where, line, "system")
        messages = ({"role": "system", "content": system}, *messages)
    arguments = beside["chat_template_kwargs"]
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError(
            f"{where}: 'chat_template_kwargs' must be an object, found {arguments!r:.60}"
        )
    whole = Conversation(
        messages,
        _objects(where, "tools", beside["tools"]),
        _objects(where, "documents", beside["documents"]),
        arguments or {},
    )
    try:
        whole.text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {key!r} holds half of a surrogate pair") from None
    return whole


def _deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value is nested deeper than so many levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(each, levels - 1) for each in inner)


def _objects(where: str, key: str, value: Any) -> tuple[Json, ...] | None:
    """A list of objects; one that a table's column could hold as text only is read."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{where}: {key!r} must be a list of objects, found {value!r:.60}")
    return tuple(value)


def _messages(where: str, key: str, value: Any) -> tuple[Message, ...]:
    """Messages of which the last one is for the model to reply to."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{where}: {key!r} must be a list of objects, found {value!r:.60}")
    for message in value:
        text_field(where, message, "role")
        _content(where, message)
        calls = message.get("tool_calls")
        _objects(where, "tool_calls", [calls] if isinstance(calls, str) else calls)
    last = value[-1]["role"] if value else None
    if last not in LAST:
        raise ValueError(
            f"{where}: {key!r} ends with {'nothing' if last is None else f'one of {last!r}'}: "
            "allowed is one of 'user' or 'tool'"
            + ("; what the model is to reply is the 'answer'" if last == "assistant" else "")
        )
    return tuple(value)


def _content(where: str, message: Message) -> None:
    """Refuses content that is neither text nor parts of text."""
    content = message.get("content")
    if content is None:
        if all(absent(value) for key, value in message.items() if key != "role"):
            raise ValueError(f"{where}: needs 'content', has {', '.join(sorted(message))}")
        if message["role"] != "assistant":
            raise ValueError(
                f"{where}: 'content' is missing: allowed for an assistant that calls tools"
            )
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise ValueError(
            f"{where}: 'content' must be a string or a list of text parts, found {content!r:.60}"
        )
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(
                f"{where}: 'content' has a part {kind!r:.60}: allowed is "
                '{"type": "text", "text": STRING}'
            )
        more = [k for k, v in part.items() if k not in ("type", "text") and not absent(v)]
        if more:
            raise ValueError(
                f"{where}: a text part has {', '.join(map(repr, more))}: allowed are type and text"
            )

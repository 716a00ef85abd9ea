"""Chat templates: a conversation to the text that a model was trained on, in jinja2's sandbox."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

from opd.data import conversation as conversations
from opd.data.bounds import OutOfTime, bounded
from opd.data.conversation import Conversation, Message

# What a template is always told, and no argument may say otherwise.
TOLD = ("messages", "add_generation_prompt")
_DAY = "%Y-%m-%d"


def today() -> str:
    """The day, as `ChatConfig.date` has it."""
    return datetime.date.today().strftime(_DAY)


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How prompts become conversations.

    Raises:
        ValueError: arguments that are no JSON object, or a date that is none.
    """

    template: bool | None = None  # None: where the tokenizer's folder has one
    system: str | None = None  # the message before the prompt, where it doesn't bring its own
    arguments: str | None = None  # JSON object, such as {"enable_thinking": false}
    # YYYY-MM-DD, for templates that ask; None: that of a run's first start, which config.json keeps
    date: str | None = None

    def __post_init__(self) -> None:
        self.given()
        try:
            _ = self.now
        except ValueError:
            raise ValueError(f"data.chat.date = {self.date!r}: allowed is YYYY-MM-DD") from None

    @property
    def now(self) -> datetime.datetime:
        """When it is, for a template: the date's midnight, or the day's where there is none."""
        return datetime.datetime.strptime(today() if self.date is None else self.date, _DAY)

    def given(self) -> dict[str, Any]:
        """The template's arguments."""
        if self.arguments is None:
            return {}
        try:
            found = json.loads(self.arguments)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(
                f"data.chat.arguments = {self.arguments!r}: allowed is a JSON object, such as "
                '{"enable_thinking": false}'
            )
        return found

    def conversation(self, prompt: str | Conversation) -> Conversation:
        """A prompt as a conversation to go on with; what it brings itself counts."""
        if isinstance(prompt, str):
            return dataclasses.replace(
                conversations.of_text(prompt, self.system), arguments=self.given()
            )
        turns = prompt.messages
        if self.system is not None and turns[0]["role"] != "system":
            turns = ({"role": "system", "content": self.system}, *turns)
        return dataclasses.replace(
            prompt, messages=turns, arguments=self.given() | dict(prompt.arguments)
        )


PLAIN = ChatConfig()

# What a template may take for one conversation. Published ones take a few milliseconds.
SECONDS, MEMORY, LONGEST = 10.0, 1 << 30, 10_000_000
# What a source that is no template, or one that never ends, is refused by.
_UNREADABLE = (
    jinja2.TemplateError,
    RecursionError,
    MemoryError,
    OutOfTime,
    ValueError,
    SyntaxError,
)


class Template:
    """A folder's chat template; `specials` are the names that it may speak of (`bos_token`).

    `reads` are the variables that it looks at of those it is told, `literals` the texts that it
    writes itself, `dated` whether it asks for the date; `places` are those, among turns of these
    roles, where content is known to be written.

    Raises:
        ValueError: the source is no template.
    """

    def __init__(
        self,
        source: str,
        specials: Mapping[str, str],
        where: str,
        now: datetime.datetime | None = None,
    ):
        self._where, self._specials = where, dict(specials)
        environment = _environment(PLAIN.now if now is None else now)
        try:
            with bounded(SECONDS, MEMORY):  # what is constant is computed here
                tree = environment.parse(source)
                self._template = environment.from_string(source)
        except _UNREADABLE as error:
            raise ValueError(f"{where}: not a chat template ({_line(error)})") from None
        self.reads: frozenset[str] = frozenset(jinja2.meta.find_undeclared_variables(tree))
        self.dated: bool = _asks_date(tree)
        self.places: set[tuple[int | str, ...]] = set()
        written = [node.data for node in tree.find_all(jinja2.nodes.TemplateData)]
        constants = (node.value for node in tree.find_all(jinja2.nodes.Const))
        written += [value for value in constants if isinstance(value, str)]
        self.literals: str = "\0".join(written)

    def render(self, conversation: Conversation) -> str:
        """The text of a conversation, up to where the model's turn starts.

        Raises:
            ValueError: the template refuses or fails; one line.
        """
        return self.watched(conversation)[0]

    def watched(self, conversation: Conversation) -> tuple[str, tuple[frozenset[str], ...]]:
        """The text of a conversation, and which keys of each message the template looked at.

        Raises:
            ValueError: the template refuses or fails; one line.
        """
        messages = [self._flat(_named(message)) for message in conversation.messages]
        # A call of tools without content: as transformers has it, else null, else empty.
        lacking = any("content" not in message for message in messages)
        forms = [{}, *([{"content": None}, {"content": ""}] if lacking else [])]
        first = None
        for form in forms:
            try:
                return self._rendered([form | message for message in messages], conversation)
            except Exception as error:  # whatever the template's own expressions raise
                first = first or error
        raise ValueError(f"{self._where}: the chat template fails ({_line(first)})") from None

    def _rendered(
        self, messages: Sequence[Message], conversation: Conversation
    ) -> tuple[str, tuple[frozenset[str], ...]]:
        read: list[set[str]] = [set() for _ in messages]
        told: dict[str, Any] = {
            "messages": [Watched(*each) for each in zip(messages, read)],
            "add_generation_prompt": True,
            # Defined, as templates find them elsewhere.
            "tools": None if conversation.tools is None else list(conversation.tools),
            "documents": None if conversation.documents is None else list(conversation.documents),
        }
        with bounded(SECONDS, MEMORY):
            text = self._template.render(**self._specials | told | dict(conversation.arguments))
        if len(text) > LONGEST:
            raise ValueError(f"it writes {len(text)} characters, allowed are {LONGEST}")
        return text, tuple(map(frozenset, read))

    @functools.cached_property
    def _takes_parts(self) -> bool:
        """Whether content that is a list of parts is written as the text alone would be.

        There are templates that take nothing else, and such that write the list as Python has it.
        """
        word = "opd"
        written = []
        for content in (word, [{"type": "text", "text": word}]):
            with contextlib.suppress(Exception):  # whatever the template's own expressions raise
                message = {"role": "user", "content": content}
                written.append(self._rendered([message], conversations.of_text(word))[0])
                continue
            written.append("")
        as_text, as_parts = written
        return word in as_parts and (as_parts == as_text or word not in as_text)

    def _flat(self, message: dict[str, Any]) -> dict[str, Any]:
        """One part of text is that text, for a template that takes no parts."""
        content = message.get("content")
        if not isinstance(content, list) or self._takes_parts:
            return message
        if len(content) > 1:
            raise ValueError(
                f"{self._where}: the chat template takes no list of parts: allowed is 'content' as "
                "one string"
            )
        return message | {"content": "".join(part["text"] for part in content)}


class RowTemplate:
    """A user's template over the columns of a row, in the same sandbox; no day is told.

    `source` is its text, `reads` are the columns that it may look at.

    Raises:
        ValueError: the source is no template, or reads nothing of the row.
    """

    def __init__(self, source: str, where: str):
        self.source = source
        environment = _environment(PLAIN.now)
        environment.undefined = jinja2.StrictUndefined
        del environment.globals[_NOW]  # the day of a resumed run is another one
        try:
            with bounded(SECONDS, MEMORY):
                tree = environment.parse(source)
                self._template = environment.from_string(source)
        except _UNREADABLE as error:
            raise ValueError(f"{where}: not a jinja2 template ({_line(error)})") from None
        undeclared = jinja2.meta.find_undeclared_variables(tree)
        self.reads: frozenset[str] = frozenset(undeclared - environment.globals.keys())
        if not self.reads:
            raise ValueError(
                f"{where} = {source[:40]!r}: reads no column of a row, allowed is one that does, "
                "such as {{ prompt }}"
            )

    def render(self, columns: Mapping[str, Any]) -> str:
        """The text of a row.

        Raises:
            ValueError: a column that the row doesn't have, or a template that fails; one line.
        """
        try:
            with bounded(SECONDS, MEMORY):
                text = self._template.render(**columns)
        except Exception as error:  # whatever the template's own expressions raise
            missing = sorted(self.reads - columns.keys())
            if isinstance(error, jinja2.UndefinedError) and missing:
                has = ", ".join(sorted(columns))
                raise ValueError(f"needs {missing[0]!r}, has {has}") from None
            raise ValueError(f"fails ({_line(error)})") from None
        if len(text) > LONGEST:
            raise ValueError(f"writes {len(text)} characters, allowed are {LONGEST}")
        return text


# The names that a message's thoughts go by; templates read the first, gpt-oss's the second.
THOUGHTS = ("reasoning_content", "thinking", "reasoning")


def _named(message: Message) -> dict[str, Any]:
    present = {key: value for key, value in message.items() if value is not None}
    thoughts = next((present[key] for key in THOUGHTS if key in present), None)
    if thoughts is None:
        return present
    return {"thinking": thoughts} | present | {"reasoning_content": thoughts}


class Watched(dict):
    """A message that notes which of its keys are looked at."""

    __slots__ = ("_read",)

    def __init__(self, message: Message, read: set[str]):
        super().__init__(message)
        self._read = read

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self._read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self._read.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        self._read.update(super().keys())
        return super().values()

    def items(self) -> Any:
        self._read.update(super().keys())
        return super().items()


def asks_date(source: str) -> bool:
    """Whether a template asks for the date; one that is none doesn't."""
    try:
        return _asks_date(_environment(PLAIN.now).parse(source))
    except _UNREADABLE:
        return False


def _asks_date(tree: jinja2.nodes.Template) -> bool:
    return any(node.name == _NOW for node in tree.find_all(jinja2.nodes.Name))


_NOW = "strftime_now"


def _line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    # Two lines of a terminal: a template's error may quote the whole template.
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what a trainer may grade; what is in it is text like any other."""

    tags = {"generation"}

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """A namespace without names that Python itself asks objects for, such as `__html__`."""

    def __init__(*args: Any, **names: Any):
        self, *rest = args
        given = dict(*rest, **names)
        for name in given:
            _public(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: Any) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no {name!r}")


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Without products and powers that one step of the interpreter would take forever for."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > LONGEST:
            raise jinja2.exceptions.SecurityError(f"a result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: Any, right: Any) -> int:
    """Bits, or entries, of a product or a power."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * abs(right)
        return left.bit_length() + right.bit_length()
    if operator == "*" and isinstance(right, int) and hasattr(left, "__len__"):
        return len(left) * right
    if operator == "*" and isinstance(left, int) and hasattr(right, "__len__"):
        return len(right) * left
    return 0


def _environment(now: datetime.datetime) -> jinja2.Environment:
    """What published templates expect: block trimming, two extensions, three helpers."""
    found = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    found.globals["namespace"] = _Namespace
    found.filters["tojson"] = _tojson
    found.globals["raise_exception"] = _refuse
    found.globals[_NOW] = now.strftime
    return found


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own escapes what HTML would need."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)

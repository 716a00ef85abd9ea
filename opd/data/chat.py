"""Chat templates: messages to the text that a model was trained on, in jinja2's sandbox."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

Message = Mapping[str, str]  # role, content
# A conversation that a prompt is, in place of a text: each message's role and content.
Messages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How prompts become conversations.

    Raises:
        ValueError: arguments that are no JSON object.
    """

    template: bool | None = None  # None: where the tokenizer's folder has one
    system: str | None = None  # the message before the prompt, where it doesn't bring its own
    arguments: str | None = None  # JSON object, such as {"enable_thinking": false}

    def __post_init__(self) -> None:
        self.given()

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

    def messages(self, prompt: str | Messages) -> list[Message]:
        """A prompt as a conversation that the model is to go on with."""
        said = (("user", prompt),) if isinstance(prompt, str) else prompt
        if self.system is not None and said[0][0] != "system":
            said = (("system", self.system), *said)
        return [{"role": role, "content": content} for role, content in said]


PLAIN = ChatConfig()


class Template:
    """A folder's chat template; `specials` are the names that it may speak of (`bos_token`).

    Raises:
        ValueError: the source is no template.
    """

    def __init__(self, source: str, specials: Mapping[str, str], where: str):
        self._where, self._specials = where, dict(specials)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"{where}: not a chat template ({_line(error)})") from None

    def render(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> str:
        """The text of a conversation, up to where the model's turn starts.

        Raises:
            ValueError: the template refuses or fails; one line.
        """
        known: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True}
        known |= {"tools": None, "documents": None}  # defined, as templates find them elsewhere
        try:
            return self._template.render(**self._specials | known | dict(arguments))
        except Exception as error:  # whatever the template's own expressions raise
            raise ValueError(f"{self._where}: the chat template fails ({_line(error)})") from None


def _line(error: Exception) -> str:
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


def _environment() -> jinja2.Environment:
    """What published templates expect: block trimming, two extensions, three helpers."""
    found = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    found.globals["namespace"] = _Namespace
    found.filters["tojson"] = _tojson
    found.globals["raise_exception"] = _refuse
    found.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return found


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """Plain JSON: jinja2's own escapes what HTML would need."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)

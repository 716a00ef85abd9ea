"""What a teacher reads in a prompt's place: a template over the columns of the prompt's row.

The completion that it grades is the student's, id by id; only what stands before it is another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from opd.data import conversation as conversations
from opd.data.builder import Example
from opd.data.chat import RowTemplate
from opd.data.conversation import Conversation

KEY = "config.teacher.prompt"


@dataclasses.dataclass(frozen=True)
class Told:
    """A template of what a teacher is told, and P', the tokens that there is room for.

    Its text is a user's message. In a conversation it takes the place of what the last message
    says; the messages before it, and tools, stay.
    """

    template: RowTemplate
    width: int = 0

    @classmethod
    def of(cls, source: str) -> Told:
        """Of a jinja2 template's source; nobody has counted its tokens yet.

        Raises:
            ValueError: it is no template, or reads nothing.
        """
        return cls(RowTemplate(source, KEY))

    def asked(self, example: Example) -> str | Conversation:
        """What a tokenizer encodes for the teacher.

        Raises:
            ValueError: by the row's line: a column that it lacks, a template that fails, no text.
        """
        try:
            text = self.template.render(columns(example))
        except ValueError as error:
            raise ValueError(f"{example.named}: {KEY} {error}") from None
        if not text.strip():
            raise ValueError(f"{example.named}: {KEY} writes no text: allowed is a prompt")
        talk = example.conversation
        if talk is None:
            return text
        *before, last = talk.messages
        return dataclasses.replace(talk, messages=(*before, {**last, "content": text}))


@dataclasses.dataclass(frozen=True)
class Taught:
    """Which of several teachers grades a prompt: what a column of the data says, of their names."""

    column: str
    names: tuple[str, ...]

    def place(self, example: Example) -> int:
        """Which of the names an example has.

        Raises:
            ValueError: by the row's line: it has no such column, or a name that no teacher has.
        """
        allowed, says = ", ".join(self.names), example.further.get(self.column)
        if says is None:
            raise ValueError(
                f"{example.named}: needs {self.column!r} (config.teachers.column): which of "
                f"{allowed} grades it"
            )
        if says not in self.names:
            raise ValueError(
                f"{example.named}: {self.column!r} is {says!r:.60}, allowed are {allowed}"
            )
        return self.names.index(says)


def columns(example: Example) -> dict[str, Any]:
    """A row's columns by name, as a template reads them; what says nothing isn't there.

    `prompt` is the text of the last message, `messages` are all, `answer` and `solution` what is
    graded against and imitated. A line's own column of one of these names comes first.
    """
    talk = example.conversation or conversations.of_text(example.prompt)
    named = {
        "prompt": _text(talk.messages[-1].get("content")),
        "messages": list(talk.messages),
        "answer": example.answer,
        "solution": example.solution,
    }
    whole = named | dict(example.further)
    return {key: value for key, value in whole.items() if value is not None}


def _text(content: str | Sequence[Mapping[str, Any]] | None) -> str | None:
    """A message's content as one text."""
    if content is None or isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)

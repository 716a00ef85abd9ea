"""Where teacher and student don't go together: what each has, and what follows from it.

A run has one tokenizer. Prompts are written with its chat template, and completions end at its
ends, whoever reads them; a player's own files may have it otherwise. Nothing here is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opd.data import hub_tokenizer
from opd.data.chat import ChatConfig
from opd.data.hub_tokenizer import HubTokenizer
from opd.data.pipeline import Example, Task
from opd.run.players import hub, players
from opd.run.players.players import PlayerPlan, Taught, TeacherConfig, parts

# Prompts that are looked at. Templates differ by the kind of a conversation, and kinds are few.
PROMPTS = 32
BEFORE, AFTER = 16, 48  # characters shown around the place where two texts part
# What follows for each player where a text has another form than its own, where an end of its own
# is none here, and where one that is none of its own is.
FORM = {
    "teacher": "the teacher grades what it was not tuned on",
    "student": "the student has yet to learn it, and is to be served so",
}
MISSING = {
    "teacher": "the teacher grades what comes after its own end",
    "student": "the student goes on after its own end",
}
ADDED = {
    "teacher": "the teacher never ends so, and grades that low",
    "student": "the student has yet to learn to end so",
}


def differences(
    teacher: Taught, student: PlayerPlan, task: Task, inputs: Mapping[str, Any]
) -> tuple[str, ...]:
    """What is different of two players, a line each; `inputs` are `Ready.inputs`."""
    found: list[str] = []
    told, config = task.told is not None, teacher.config
    if isinstance(config, TeacherConfig) and config.is_student:
        if not told:
            found.append(
                f"the teacher is the {config.words}, and is told nothing more (teacher.prompt): it "
                "teaches nothing but not to move away"
            )
    elif not told and inputs["teacher"] is not None and inputs["teacher"] == inputs["student"]:
        where = teacher.config.path or teacher.config.from_
        found.append(
            f"teacher and student are the same model ({where}): their KL is 0, and the teacher "
            "teaches nothing until the student has moved away"
        )
    for player in (*parts(teacher), student):
        folder = _folder(player)
        if folder is not None and isinstance(task.tokenizer, HubTokenizer):
            own = players.own_tokenizer(folder, task)
            found += _ends(player, own, task.tokenizer)
            found += _texts(player, own, task.tokenizer, task.split("train")[:PROMPTS])
        found += _trained_with(player, task)
    rows = (line for part in parts(teacher) for line in _rows(part, student, task))
    return tuple(found + list(_begins(task)) + list(rows))


def _folder(player: PlayerPlan) -> Path | None:
    """Where a player's own tokenizer and chat template are, if it came with some."""
    if player.hub is not None:
        return player.hub.path
    if player.trained is not None:
        made = player.trained.workdir / "models" / "student"
    elif player.config.path is not None:
        made = Path(player.config.path)
    else:
        return None
    return made / hub.KEPT if hub_tokenizer.has_tokenizer(made / hub.KEPT) else None


# --- ends ------------------------------------------------------------------------------------


def _ends(player: PlayerPlan, own: HubTokenizer, run: HubTokenizer) -> Iterator[str]:
    """Other ids that end a completion: what is graded there, and by whom it isn't meant."""
    ours = run.eos_ids
    theirs = tuple(token for token in own.eos_ids if token < run.vocab)
    if set(ours) == set(theirs):
        return
    name, table = player.name, run.table()

    def named(ids: Sequence[int]) -> str:
        return ", ".join(f"{token} {table[token]!r}" for token in ids)

    missing = [token for token in theirs if token not in ours]
    added = [token for token in ours if token not in theirs]
    follows = [f"{named(missing)} ends nothing here, so that {MISSING[name]}"] if missing else []
    follows += [f"{named(added)} ends a completion here, and {ADDED[name]}"] if added else []
    hint = f"data.tokenizer={own.folder} takes the teacher's, and " if name == "teacher" else ""
    yield (
        f"ends: completions end at {named(ours)} ({run.folder}), and the {name}'s own "
        f"ends are {named(theirs)} ({own.folder}): {'; '.join(follows)}; {hint}eos_token_id in "
        f"{run.folder}/generation_config.json may name several"
    )


# --- prompts, and how a text is split ---------------------------------------------------------


def _texts(
    player: PlayerPlan, own: HubTokenizer, run: HubTokenizer, examples: Sequence[Example]
) -> Iterator[str]:
    """Prompts that are written otherwise with a player's own files, or texts split otherwise."""
    texts = [text for each in examples for text in (each.prompt, each.solution) if text is not None]
    parted = (_parted(run.encode, own.encode, text) for text in texts)
    split = next(filter(None, parted), None)
    if split is not None:
        ours, theirs = split
        yield (
            f"tokenizer: a text has the ids {_cut(ours)} here, and {_cut(theirs)} by the "
            f"{player.name}'s own tokenizer.json ({own.folder}): {FORM[player.name]}"
        )
        return
    if own.chat != run.chat:  # a system message or arguments, and no template for them
        why = _refusal(own.folder, run.chat)
        yield _form(player, own, run, f"the {player.name}'s own files refuse data.chat ({why})")
        return
    other = next(filter(None, (_prompt(player, own, run, each) for each in examples)), None)
    if other is not None:
        yield _form(player, own, run, other)


def _refusal(folder: Path, chat: ChatConfig) -> str:
    """Why a folder doesn't take a chat."""
    try:
        hub_tokenizer.load(folder, chat)
    except ValueError as error:
        return str(error)
    return ""


def _prompt(
    player: PlayerPlan, own: HubTokenizer, run: HubTokenizer, example: Example
) -> str | None:
    """How a player's own files write a prompt, if not as the run does."""
    asked = example.asked
    ours = run.encode_prompt(asked)
    try:
        theirs, text = own.encode_prompt(asked), own.rendered(asked)
    except ValueError as error:
        return f"the {player.name}'s own template refuses a prompt ({error})"
    if ours == theirs:
        return None
    if run.rendered(asked) != text:
        mine, other = _around(run.rendered(asked), text)
        return f"a prompt is {mine!r} here, and {other!r} by the {player.name}'s own template"
    return f"a prompt has the ids {_cut(ours)} here, and {_cut(theirs)} by the {player.name}'s own"


def _form(player: PlayerPlan, own: HubTokenizer, run: HubTokenizer, what: str) -> str:
    """A line on the form of prompts: who has a template, what differs, what follows."""
    has = ["none" if _bare(each.folder) else "one" for each in (run, own)]
    hint = "" if player.name == "student" else f"; data.tokenizer={own.folder} takes the teacher's"
    whose = f"{run.folder} has {has[0]}, {own.folder} {has[1]}"
    return f"chat template ({whose}): {what}: {FORM[player.name]}{hint}"


def _bare(folder: Path) -> bool:
    """Whether a folder has no chat template: a text stays as it is."""
    try:
        return hub_tokenizer.load(folder).rendered("opd") == "opd"
    except ValueError:  # a template that refuses so short a text
        return False


def _parted(
    ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]], text: str
) -> tuple[list[int], list[int]] | None:
    """Two lists of ids of a text, if they differ; None also where one refuses it."""
    try:
        pair = ours(text), theirs(text)
    except ValueError:
        return None
    return None if pair[0] == pair[1] else pair


def _around(one: str, other: str) -> tuple[str, str]:
    """Two texts around the first place where they part."""
    at = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    where = slice(max(at - BEFORE, 0), at + AFTER)
    return one[where], other[where]


def _cut(ids: Sequence[int]) -> str:
    shown = 8
    return str(list(ids[:shown]))[:-1] + (", ...]" if len(ids) > shown else "]")


# --- what a player was trained with -----------------------------------------------------------


def _trained_with(player: PlayerPlan, task: Task) -> Iterator[str]:
    """The system message, template and arguments of the training that a player is from."""
    if player.trained is None:
        return
    try:
        begun = json.loads((player.trained.workdir / "config.json").read_text(encoding="utf-8"))
        then = begun["config"]["data"]["chat"]
        now = dataclasses.asdict(task.config.chat)
        moved = [key for key in now if key != "date" and then.get(key) != now[key]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # an older one
        return
    if moved:
        was = ", ".join(f"{key} was {then.get(key)!r}, now {now[key]!r}" for key in moved)
        yield (
            f"data.chat: the {player.name} was trained with other prompts "
            f"({player.config.from_}: {was}): it reads what it was not trained on"
        )


# --- what the teacher is told -----------------------------------------------------------------


def _begins(task: Task) -> Iterator[str]:
    """A first token that comes after another one for the teacher than for the student."""
    if task.told is None:
        return
    for example in task.split("train")[:PROMPTS]:
        ours, theirs = map(task.tokenizer.encode_prompt, (example.asked, task.told.asked(example)))
        if ours[-1] != theirs[-1]:
            ends = [repr(task.tokenizer.table()[ids[-1]]) for ids in (ours, theirs)]
            yield (
                f"teacher.prompt: the student's prompt ends in {ends[0]}, the teacher's in "
                f"{ends[1]}: a completion's first token comes after another one there"
            )
            return


# --- rows of the vocabulary --------------------------------------------------------------------


def _rows(teacher: PlayerPlan, student: PlayerPlan, task: Task) -> Iterator[str]:
    rows = teacher.model.config.vocab, student.model.config.vocab
    if rows[0] != rows[1]:
        yield (
            f"vocabulary: the teacher has {rows[0]} rows, the student {rows[1]}, the tokenizer "
            f"{task.tokenizer.vocab} ids: rows beyond these are never drawn or graded"
        )

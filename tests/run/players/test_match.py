"""Teacher and student that don't go together: said before the first step, by what each has."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers as hf

from opd.data import pipeline
from opd.model.decoder import Decoder, DecoderConfig
from opd.run.comparing import compare
from opd.run.players import match
from opd.run.players.players import PlayerPlan
from opd.run.players.trained import Trained
from opd.run.settings import config as configs
from opd.run.settings.config import PlayerConfig, TeacherConfig
from opd.run.training import train
from tests.run.players import folders

ROOT = Path(__file__).parents[3]


def edited(folder: Path, name: str, **changes) -> None:
    """A JSON file of a folder with changes; None takes a key away."""
    content = json.loads((folder / name).read_text()) | changes
    folders.dump({key: value for key, value in content.items() if value is not None}, folder / name)


def ends_at(folder: Path, *ids: int) -> None:
    """The ids that end a completion, whichever file says so."""
    edited(folder, "config.json", eos_token_id=ids[0])
    edited(folder, "generation_config.json", eos_token_id=list(ids))
    edited(folder, "tokenizer_config.json", eos_token=folders.tokenizer().id_to_token(ids[0]))


def template(folder: Path, source: str | None) -> None:
    edited(folder, "tokenizer_config.json", chat_template=source)


def begins(folder: Path) -> None:
    """No template, and a token before any text."""
    template(folder, None)
    made = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.post_processor = hf.processors.TemplateProcessing(
        single=f"{folders.PAD} $A", pair=None, special_tokens=[(folders.PAD, 402)]
    )
    made.save(str(folder / "tokenizer.json"))


def splits(folder: Path) -> None:
    """The same entries with fewer merges."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:3]
    folders.dump(content, folder / "tokenizer.json")


SYSTEM = "{{ '<|turn|>system\nYou are a helper.<|end|>' }}" + folders.TEMPLATE
THINKING = folders.TEMPLATE + (
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}"
    "{%- endif %}"
)
REFUSING = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{%- endif %}"
CASES = {
    "ends, others": (lambda t, s: (ends_at(t, 401), ends_at(s, 400)), {}, [
        "ends: completions end at 400 '<|end|>'", "teacher's own ends are 401 '<|turn|>'",
        "401 '<|turn|>' ends nothing here, so that the teacher grades what comes after",
        "400 '<|end|>' ends a completion here, and the teacher never ends so", "data.tokenizer=",
    ]),
    "ends, more": (lambda t, s: ends_at(s, 400), {}, ["401 '<|turn|>' ends nothing here"]),
    "ends, fewer": (lambda t, s: ends_at(t, 400), {}, ["401 '<|turn|>' ends a completion here"]),
    "no template here": (lambda t, s: template(s, None), {}, [
        "chat template (", "has none, ", "teacher one)", "a prompt is 'what is ",
        "teacher grades what it was not tuned on", "data.tokenizer=",
    ]),
    "no template there": (lambda t, s: template(t, None), {}, ["student has one, ", "r none)"]),
    "a system message of its own": (lambda t, s: template(t, SYSTEM), {}, ["You are a helper."]),
    "thinking": (
        lambda t, s: template(s, THINKING), {"arguments": '{"enable_thinking": false}'},
        ["the teacher's own files refuse data.chat (", "'enable_thinking', which", "never reads"],
    ),
    "no system message allowed": (
        lambda t, s: template(t, REFUSING + folders.TEMPLATE), {"system": "Be brief."},
        ["the teacher's own files refuse data.chat (data.chat.system: ", "no system"],
    ),
    "a system message, and no template": (
        lambda t, s: template(t, None), {"system": "Be brief."},
        ["the teacher's own files refuse data.chat (", "need a chat template"],
    ),
    "a token before any text": (lambda t, s: (template(s, None), begins(t)), {}, [
        "a prompt has the ids [", "here, and [402, ", "has none",
    ]),
    "other merges": (lambda t, s: splits(t), {}, [
        "tokenizer: a text has the ids [", "by the teacher's own tokenizer.json (",
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A teacher and a student that go together, and prompts."""
    folder = tmp_path_factory.mktemp("players")
    folders.write(folder / "teacher", seed=1)
    folders.write(folder / "student")
    rows = [{"prompt": f"what is {n} + {n}?", "answer": f"amen {n}"} for n in range(24)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts.jsonl").write_text(text)
    return folder


def asked(folder, teacher="teacher", student="student", chat=None, tokenizer=None, **changes):
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    values["data"] |= {"task": "jsonl", "prompts": str(folder / "prompts.jsonl")}
    values["data"] |= {"tokenizer": tokenizer, "max_completion": 6}
    values["data"]["chat"] |= chat or {}
    values["teacher"]["path"] = str(folder / teacher)
    values["student"]["path"] = str(folder / student)
    return configs.build(values | changes)


def found(config, tmp_path):
    return train.check(config, tmp_path / "nowhere").differences


MODEL = Decoder(DecoderConfig(vocab=409, width=16, layers=1, heads=2, max_length=64))


def between(folder, **changes) -> tuple[str, ...]:
    """What is different of two folders' files; weights are not looked at."""
    config = asked(folder, **changes)
    plans = [
        PlayerPlan(name, player, MODEL, hub=SimpleNamespace(path=Path(player.path)))
        for name, player in (("teacher", config.teacher), ("student", config.student))
    ]
    task = pipeline.load(config.tokenized)
    return match.differences(*plans, task, {"teacher": {"sha256": "1"}, "student": None})


@pytest.mark.parametrize("case", CASES)
def test_what_is_different_is_one_line_with_what_each_has(case, plain, tmp_path):
    change, chat, words = CASES[case]
    folder = shutil.copytree(plain, tmp_path / "folder")
    change(folder / "teacher", folder / "student")
    (line,) = between(folder, chat=chat)
    assert all(word in line for word in words), line
    assert str(folder / "teacher") in line and "\n" not in line and len(line) < 900


def test_players_that_go_together_have_nothing_said_of_them(plain, tmp_path):
    assert found(asked(plain), tmp_path) == ()
    assert between(plain, chat={"system": "Be brief."}) == ()


def test_templates_that_write_the_same_are_the_same(plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "folder")
    template(folder / "teacher", "{# another #}" + folders.TEMPLATE)
    assert between(folder) == ()
    template(folder / "teacher", THINKING)
    assert between(folder) == ()


def test_the_teacher_s_tokenizer_is_said_to_be_another_than_the_student_s(plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "folder")
    template(folder / "student", None)
    ends_at(folder / "student", 400)
    ends_at(folder / "teacher", 401)
    ends, form = between(folder, tokenizer=str(folder / "teacher"))
    assert "400 '<|end|>' ends nothing here, so that the student goes on" in ends
    assert "401 '<|turn|>' ends a completion here, and the student has yet to learn" in ends
    assert "by the student's own template: the student has yet to learn it" in form


def test_one_model_as_teacher_and_student_is_said(plain, tmp_path):
    (line,) = found(asked(plain, teacher="student"), tmp_path)
    assert line.startswith("teacher and student are the same model (") and "KL is 0" in line
    copy = shutil.copytree(plain / "student", tmp_path / "copy")
    config = asked(plain)
    config = dataclasses.replace(config, teacher=TeacherConfig(path=str(copy)))
    assert found(config, tmp_path) == (line.replace(str(plain / "student"), str(copy)),)


def test_a_teacher_that_has_no_part_is_not_looked_at(plain, tmp_path):
    config = asked(plain, teacher="student", method={"name": "grpo"})
    assert found(config, tmp_path) == ()
    measured = dataclasses.replace(config.evaluate, teacher=True)
    assert len(found(dataclasses.replace(config, evaluate=measured), tmp_path)) == 1


def test_padding_of_the_vocabulary_is_said(plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "folder")
    folders.write(folder / "teacher", seed=1, vocab=512)
    (line,) = found(asked(folder), tmp_path)
    assert "teacher has 512 rows, the student 409, the tokenizer 403 ids" in line


def test_another_training_s_prompts_are_said(tmp_path):
    """A player from another workdir: what its config says of prompts, where it says something."""
    task = pipeline.load(configs.build({"data": {"length": 8}}).data)
    student = PlayerPlan("student", PlayerConfig(), MODEL)
    config = PlayerConfig(from_=str(tmp_path))
    teacher = PlayerPlan("teacher", config, MODEL, trained=Trained(tmp_path, tmp_path, 3))
    none = {"teacher": None, "student": None}
    assert match.differences(teacher, student, task, none) == ()
    then = {"config": {"data": {"chat": {"template": None, "system": None, "arguments": None}}}}
    (tmp_path / "config.json").write_text(json.dumps(then))
    assert match.differences(teacher, student, task, none) == ()
    then["config"]["data"]["chat"] |= {"system": "Be brief.", "date": "2024-07-26"}
    (tmp_path / "config.json").write_text(json.dumps(then))
    (line,) = match.differences(teacher, student, task, none)
    assert "the teacher was trained with other prompts" in line
    assert "system was 'Be brief.', now None" in line and "date" not in line


class Stop(Exception):
    """Before the first step."""


def test_it_is_said_before_the_first_step(plain, tmp_path, monkeypatch, capfd):
    def stop(*args):
        raise Stop

    config = asked(plain, teacher="student")
    (line,) = found(config, tmp_path)
    monkeypatch.setattr(train, "prepare", stop)
    monkeypatch.setattr(compare.players, "make", stop)
    for run in (train.train, compare.compare):
        with pytest.raises(Stop):
            run(config, tmp_path / run.__name__)
        assert f"warning: {line}" in capfd.readouterr().err.splitlines()


def test_texts_are_shown_around_where_they_part():
    one, other = "a" * 100 + "b" + "c" * 100, "a" * 100 + "d"
    assert match._around(one, other) == ("a" * 16 + "b" + "c" * 47, "a" * 16 + "d")
    assert match._around("ab", "abc") == ("ab", "abc")
    assert match._cut(np.arange(9).tolist()) == "[0, 1, 2, 3, 4, 5, 6, 7, ...]"

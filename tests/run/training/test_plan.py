"""What checking found is handed on: each folder is looked at once, the data are tokenised once."""

import collections
import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from opd.data import hub_tokenizer, loading, pipeline
from opd.data.hub_tokenizer import HubTokenizer
from opd.fields import to_dict
from opd.run.comparing import compare
from opd.run.players import folder, hub, players, trained
from opd.run.settings import config as configs
from opd.run.settings.config import PlayerConfig
from opd.run.store import checkpoint
from opd.run.training import checks, train
from tests.run.players import folders

ROOT = Path(__file__).parents[3]


def debug(**parts):
    """The debug config with some of its keys changed."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    for name, changes in parts.items():
        values[name] = {**values[name], **changes} if isinstance(changes, dict) else changes
    return configs.build(values)


@pytest.fixture(scope="module")
def hub_config(tmp_path_factory):
    """Two players by folder; prompts are written by one's template, with a system message."""
    files = tmp_path_factory.mktemp("folders")
    folders.write(files / "teacher", vocab=417, width=24)
    folders.write(files / "student", seed=1)
    folders.write_prompts(files / "prompts.jsonl")
    data = {"tokenizer": None, "prompts": str(files / "prompts.jsonl"), "max_completion": 6}
    return debug(
        data=data | {"chat": {"system": "be brief"}},
        teacher={"path": str(files / "teacher")},
        student={"path": str(files / "student")},
    )


@pytest.fixture
def calls(monkeypatch):
    """How often each folder was looked at, its tokenizer and weights read, and data tokenised."""
    found = collections.Counter()

    def counted(owner, name, label):
        function = getattr(owner, name)

        def call(*arguments, **named):
            found[label(*arguments)] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    hub_tokenizer.load.cache_clear()
    counted(hub, "look", lambda path, *_: f"looked at {path.name}")
    counted(HubTokenizer, "__init__", lambda _, path, *__: f"tokenizer of {path.name}")
    counted(checkpoint, "contents", lambda path: f"contents of {path.name}")
    counted(loading, "_task", lambda *_: "tokenised")
    return found


ONCE = {
    "tokenised": 1,
    **{f"{what} {name}": 1 for name in ("teacher", "student") for what in (
        "looked at", "tokenizer of", "contents of")},
}  # fmt: skip


def test_a_training_looks_at_everything_once(hub_config, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_train", lambda *what: train.prepare(*what[:3]))
    train.train(hub_config, tmp_path)
    assert calls == ONCE
    calls.clear(), hub_tokenizer.load.cache_clear()
    train.train(hub_config, tmp_path)
    assert calls == ONCE, "gone on with"


def test_a_comparison_looks_at_everything_once(hub_config, calls, tmp_path, monkeypatch):
    class Reached(Exception):
        """The players are there."""

    def stop(*_, **__):
        raise Reached

    monkeypatch.setattr(compare.evaluate, "evaluate", stop)
    config = dataclasses.replace(hub_config, probe=dataclasses.replace(hub_config.probe, groups=4))
    with pytest.raises(Reached):
        compare.compare(config, tmp_path, compare.check(config, tmp_path))
    assert calls == ONCE


def test_what_another_training_left_is_looked_for_once(tmp_path, monkeypatch):
    """Its last checkpoint may be another by the time that the run starts."""
    task = pipeline.load(debug().data)
    model = players.look("student", debug().student, task).model
    folder.describe(tmp_path / "models" / "student", model, {}, task)
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    config = debug(student=to_dict(PlayerConfig(from_=str(tmp_path))), teacher={"path": None})
    ready = checks.ready(config, ())
    assert ready.student.trained.step == 7
    (tmp_path / "checkpoints" / "9").mkdir()
    monkeypatch.setattr(trained, "find", None)
    monkeypatch.setattr(checkpoint, "params", lambda place, abstract, step: step)
    found = players.make(ready.student, ready.world, tmp_path / "next")
    assert (found.params, ready.inputs["student"]["step"]) == (7, 7)
    described = json.loads((tmp_path / "next" / "models" / "student" / "player.json").read_text())
    assert described["identity"] == {"from": str(tmp_path), "step": 7}

"""The day that a chat template asks for belongs to a run: that of its first start."""

import dataclasses
import json

import pytest

from opd import disk
from opd.data import chat, hub_tokenizer, loading
from opd.fields import to_dict
from opd.run.comparing import compare
from opd.run.training import train
from tests.run.players import folders
from tests.run.players.test_hub_players import asked

DATED = "{{ strftime_now('%d %b %Y') }}\n" + folders.TEMPLATE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder whose template asks what day it is, in a config and as its teacher too."""
    root = tmp_path_factory.mktemp("dated")
    folders.write_model(root / "student", seed=1)
    folders.write_tokenizer(root / "student", template=DATED)
    folders.write(root / "teacher", vocab=417, width=24)
    folders.write_prompts(root / "prompts.jsonl")
    return root


@pytest.fixture
def config(files):
    return asked(files / "teacher", files / "student", files / "prompts.jsonl", updates=2)


@pytest.fixture
def day(monkeypatch):
    """Lets it be another day."""

    def be(date):
        for module in (chat, loading):
            monkeypatch.setattr(module, "today", lambda: date)
        hub_tokenizer.load.cache_clear()

    yield be
    hub_tokenizer.load.cache_clear()


def shown(plan) -> str:
    task = plan.ready.world.task
    return task.tokenizer.rendered(task.split("train")[0].asked)


@pytest.mark.parametrize("module", [train, compare])
def test_a_second_start_is_told_the_day_of_the_first(module, config, day, tmp_path):
    day("2024-07-26")
    first = module.check(config, tmp_path)
    assert first.config.data.chat.date == "2024-07-26" and shown(first).startswith("26 Jul 2024")
    begun = {"config": to_dict(first.config), "inputs": first.inputs}
    if module is train:
        disk.dump_json(begun, tmp_path / "config.json")
    else:
        disk.dump_json(begun | {"schema": compare.SCHEMA}, tmp_path / "results.json")
    day("2024-07-27")
    again = module.check(config, tmp_path)
    assert again.config == first.config and again.inputs == first.inputs
    assert shown(again) == shown(first)
    assert shown(module.check(config, tmp_path / "new")).startswith("27 Jul 2024")
    other = dataclasses.replace(
        config, data=dataclasses.replace(config.data, chat=chat.ChatConfig(date="2024-07-27"))
    )
    with pytest.raises(ValueError, match="config.data.chat.date was 2024-07-26, now 2024-07-27"):
        module.check(other, tmp_path)


def test_a_date_that_nobody_asks_for_is_refused(config, files, tmp_path):
    named = dataclasses.replace(
        config.data, chat=chat.ChatConfig(date="2024-07-26"), tokenizer=str(files / "teacher")
    )
    with pytest.raises(ValueError, match="data.chat.date = '2024-07-26': the chat template asks"):
        train.check(dataclasses.replace(config, data=named), tmp_path)
    assert train.check(
        dataclasses.replace(config, data=dataclasses.replace(named, chat=chat.PLAIN)), tmp_path
    ).config.data.chat == chat.PLAIN  # fmt: skip


@pytest.mark.slow
def test_a_training_over_midnight_is_one_training(config, day, tmp_path, capsys):
    day("2024-07-26")
    whole = train.train(config, tmp_path / "whole")
    train.train(dataclasses.replace(config, updates=1), tmp_path / "parts")
    day("2024-07-27")
    parts = train.train(config, tmp_path / "parts")
    assert parts["params_sha256"] == whole["params_sha256"]
    kept = json.loads((tmp_path / "parts" / "config.json").read_text())["config"]
    assert kept["data"]["chat"]["date"] == "2024-07-26"
    assert train.train(config, tmp_path / "other")["params_sha256"] != whole["params_sha256"]
    assert capsys.readouterr().err.count("first prompt: '26 Jul 2024") == 3

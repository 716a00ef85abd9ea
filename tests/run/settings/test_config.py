"""The config: composed, cast, validated once, and the same through every front end."""

import dataclasses
import json
import re

import pytest

from opd import fields
from opd.method import table
from opd.run.settings import config as configs
from opd.run.settings import launch
from opd.run.settings.config import CompareConfig, Config, EvaluateConfig, ProbeConfig


def test_a_dictionary_becomes_a_config_and_comes_back():
    config = Config(seed=3, compare=CompareConfig(arms=("opd",), learning_rates=(1e-3, 3e-4)))
    assert configs.build(configs.to_dict(config)) == config
    assert configs.build(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert configs.build({}) == Config()


def test_a_config_dict_has_every_key_and_the_types_of_those_that_are_none():
    found = configs.config_dict(Config())
    assert configs.build(found.to_dict()) == Config()
    assert set(found) == {field.name for field in dataclasses.fields(Config)}
    found.student.fit.stop_at = 0.5
    found.student.path = "models/student"
    assert configs.build(found.to_dict()).student.fit.stop_at == 0.5
    with pytest.raises(TypeError):
        found.student.fit.stop_at = "soon"


def test_a_method_is_a_row_and_its_axes():
    config = configs.build({"method": {"name": "opd_topk@k=4", "tail": "drop", "coef": 2}})
    assert config.method.parsed.name == "opd_topk@k=4,tail=drop,coef=2"
    assert configs.build({}).method.parsed.name == "opd"
    with pytest.raises(ValueError, match=r"config.method: opd@k=3: k means nothing there"):
        configs.build({"method": {"k": 3}})
    assert set(configs.to_dict(config)["method"]) == {"name", *table.AXES}


def test_a_key_may_be_a_word_of_python_s():
    config = configs.build({"student": {"from": "runs/a@3"}})
    assert config.student.from_ == "runs/a@3"
    assert configs.to_dict(config)["student"]["from"] == "runs/a@3"
    assert configs.kind_of("teacher.from") == str | None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, "config.sed: no such key; allowed are seed, seeds"),
        (
            {"compare": {"arm": 1}},
            "config.compare.arm: no such key; allowed are arms, learning_rates",
        ),
        ({"updates": "many"}, "config.updates = 'many': allowed is int"),
        ({"updates": True}, "config.updates = True: allowed is int"),
        ({"updates": 1.5}, "config.updates = 1.5: allowed is int"),
        ({"optimizer": {"clip": "x"}}, "config.optimizer.clip = 'x': allowed is float"),
        ({"teacher": {"fit": {"stop_at": "x"}}}, "allowed is float or None"),
        ({"seed": -1}, "config.seed = -1: allowed is 0 or more"),
        (
            {"seed": 2**31},
            "config.seed = 2147483648, config.seeds = 1: allowed is up to 2147483647",
        ),
        (
            {"seed": 2**31 - 2, "seeds": 3},
            "config.seeds = 3: allowed is up to 2147483647 for seed +",
        ),
        ({"group_size": 1}, "config.group_size = 1: allowed is 2 or more"),
        ({"temperature": 0}, "config.temperature = 0.0: allowed is more than 0"),
        ({"temperature": float("nan")}, "config.temperature = nan: allowed is a finite number"),
        ({"student": {"fit": {"batch": 0}}}, "config.student.fit.batch = 0: allowed is 1 or more"),
        ({"probe": {"groups": 9, "batch": 4}}, "config.probe.groups = 9: allowed is a multiple"),
        ({"probe": {"branches": 1}}, "config.probe.branches = 1: allowed is 0, or 2 and more"),
        ({"probe": {"rows": []}}, "config.probe.rows = (): allowed is one method or more"),
        ({"probe": {"rows": ["opd@k=2"]}}, "config.probe.rows: opd@k=2: k means nothing there"),
        ({"compare": {"arms": ["opd", "opd"]}}, "config.compare.arms: opd is given twice"),
        ({"compare": {"arms": ["k1_loss"]}}, "config.compare.arms: k1_loss: k1 as a loss"),
        ({"optimizer": {"learning_rate": 0}}, "config.optimizer.learning_rate = 0.0: allowed is"),
        ({"optimizer": {"clip": 0}}, "config.optimizer.clip = 0.0: allowed is more than 0"),
        ({"optimizer": {"spike": -1}}, "config.optimizer.spike = -1.0: allowed is 0 or more"),
        ({"optimizer": {"spike": 1}}, "config.optimizer.spike = 1.0: allowed is 0, or more than 1"),
        ({"optimizer": {"clip": -1}}, "config.optimizer.clip = -1.0: allowed is more than 0"),
        (
            {"optimizer": {"weight_decay": -0.1}},
            "config.optimizer.weight_decay = -0.1: allowed is 0",
        ),
        (
            {"teacher": {"fit": {"learning_rate": 0}}},
            "config.teacher.fit.learning_rate = 0.0: allowed is more than 0",
        ),
        (
            {"student": {"fit": {"learning_rate": -1e-3}}},
            "config.student.fit.learning_rate = -0.001: allowed is more than 0",
        ),
        ({"optimizer": 3}, "config.optimizer = 3: allowed is a mapping of learning_rate, warmup"),
        (
            {"student": {"model": None}},
            "config.student.model = None: allowed is a mapping of width",
        ),
        ({"optimizer": {"ema": 1}}, "config.optimizer.ema = 1.0: allowed is 0 to below 1"),
        ({"optimizer": {"microbatches": 5}}, "config.optimizer.microbatches = 5: allowed is a div"),
        ({"method": {"name": "opdx"}}, "config.method: unknown method 'opdx'"),
        ({"method": {"name": "opd@k=2"}}, "config.method: opd@k=2: k means nothing there"),
        ({"method": {"gamma": 2}}, "config.method: opd: gamma=2; it is a number in [0, 1]"),
        ({"compare": {"learning_rates": [1e-3, -1]}}, "allowed is more than 0"),
        (
            {"reward": {"pairs": "x.jsonl"}},
            "config.reward.pairs = 'x.jsonl': means nothing where config.trains = 'policy'",
        ),
        (
            {"trains": "reward", "reward": {"from": "x"}},
            "config.reward.from = 'x': means nothing where config.trains = 'reward'",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_on_one_line(given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        configs.build(given)
    assert "\n" not in str(error.value)


def test_the_last_seed_is_allowed():
    assert configs.build({"seed": 2**31 - 2, "seeds": 2}).seed == 2**31 - 2


def test_numbers_and_lists_are_cast_to_what_the_field_holds():
    found = configs.build({"temperature": 2, "compare": {"learning_rates": [1, 0.5]}})
    assert isinstance(found.temperature, float)
    assert found.compare.learning_rates == (1.0, 0.5)
    assert all(isinstance(rate, float) for rate in found.compare.learning_rates)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("opd", ("opd",)),
        ("opd;grpo", ("opd", "grpo")),
        ("opd_topk@k=4,tail=drop; opd", ("opd_topk@k=4,tail=drop", "opd")),
        ("('opd', 'grpo')", ("opd", "grpo")),
        ("['opd']", ("opd",)),
        ("'opd'", ("opd",)),
        ("1e-3", (1e-3,)),
        ("1e-3;1", (1e-3, 1)),
        ("", ()),
    ],
)
def test_lists_are_read_from_text(text, value):
    assert eval(launch.literal(text)) == value


def test_a_key_has_a_type():
    assert configs.kind_of("updates") is int
    assert fields.is_tuple(configs.kind_of("compare.arms"))
    assert not fields.is_tuple(configs.kind_of("compare"))
    assert configs.kind_of("evaluate") is EvaluateConfig
    with pytest.raises(ValueError, match="config.compare.nope: no such key; allowed are arms"):
        configs.kind_of("compare.nope")


def test_the_probe_has_partners_and_references_once_each():
    rows = ("opd_sampled", "opd_sampled@gamma=1", "grpo", "opd")
    found = [method.name for method in ProbeConfig(rows=rows).methods]
    assert found == [
        "opd",
        "opd_sampled",
        "opd@gamma=1",
        "opd_sampled@gamma=1",
        "reinforce",
        "grpo",
    ]

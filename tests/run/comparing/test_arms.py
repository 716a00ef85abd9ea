"""What a comparison refuses before it starts, and how it chooses among learning rates."""

import dataclasses
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from opd import disk
from opd.engine import optimizer, programs, sharding
from opd.measure.intervals import Interval
from opd.method import table
from opd.run.comparing import arms, compare
from opd.run.drawing import Player
from opd.run.probe import branches
from opd.run.settings import config as configs
from opd.run.training import policy

ROOT = Path(__file__).parents[3]


def debug(**parts):
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    for name, changes in parts.items():
        values[name] |= changes
    return configs.build(values)


def figure(value):
    return Interval(value, value - 1, value + 1)


@pytest.mark.parametrize(
    ("method", "chosen"), [("opd", "less KL"), ("grpo", "more right"), ("sft", "less KL")]
)
def test_the_best_rate_is_chosen_by_what_the_method_is_for(method, chosen):
    found = {
        "not finite": {"kl": figure(math.nan), "accuracy": figure(math.nan)},
        "less KL": {"kl": figure(1.0), "accuracy": figure(0.1)},
        "more right": {"kl": figure(2.0), "accuracy": figure(0.9)},
    }
    tried = [SimpleNamespace(last=name) for name in found]
    best = compare.best(tried, table.parse(method), lambda last, shown: (found[last], []))
    assert best.last == chosen


def test_an_evaluation_without_figures_is_worth_nothing():
    assert policy.merit({"length": figure(3.0)}, table.parse("opd")) is None
    assert policy.merit({"accuracy": figure(0.5)}, table.parse("opd")) == 0.5
    assert policy.merit({"kl": figure(0.5)}, table.parse("grpo")) == -0.5


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"probe": {"groups": 1024}}, "config.probe.groups = 1024: allowed is at most"),
        (
            {"compare": {"learning_rates": (1e-3, 3e-3)}, "data": {"validation": 0}},
            "needs a validation split to choose on",
        ),
        ({"sampling": {"temperature": 0.7}}, "config.sampling: allowed in a training only"),
        ({"reward": {"function": "a:b"}}, "config.reward: allowed in a training only"),
    ],
)
def test_what_a_comparison_cannot_do_is_said_at_once(parts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare.check(debug(**parts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Still:
    """A learner whose completions are all cut."""

    def __init__(self, config):
        made = optimizer.Optimizer(config.optimizer, 1e-3)
        self.state = SimpleNamespace(params={}, optimizer=made.init({"w": jnp.zeros(2)}))

    def start(self):
        return self.state

    def advance(self, state, memory, number):
        line = {"gradient_norm": 1.0, "tokens": 8.0, "length": 2.0, "truncated": 1.0}
        return state, {"generated": number + 1}, line


def test_an_arm_that_learns_nothing_says_so(tmp_path, monkeypatch, capsys):
    """On stderr when it begins, in its lines, and in what the report is made of."""
    config = dataclasses.replace(debug(), updates=5)
    monkeypatch.setattr(arms.policy, "make", lambda *args: Still(config))
    world = SimpleNamespace(sampling=SimpleNamespace(length=8), task=None)

    def judge(player, shown):
        return {"kl": figure(1.0)}, []

    with disk.JsonlWriter(tmp_path / "m") as metrics, disk.JsonlWriter(tmp_path / "s") as samples:
        arm = arms.train(
            world, Player(None, {}), None, table.parse("opd"), config, 1e-3, 7, judge,
            arms.Log(metrics, samples, 0),
        )  # fmt: skip
    (warning,) = arm.warnings
    assert warning.startswith("opd (seed 7, rate 0.001), update 3: every completion is cut at ")
    assert "data.max_completion = 8 tokens" in warning
    assert capsys.readouterr().err == f"warning: {warning}\n"
    names = [line["warnings"] for line in disk.read_jsonl(tmp_path / "m")]
    assert names == [[]] * 2 + [["all_cut"]] * 3


def test_running_sums_of_narrow_parameters_are_wide():
    class Narrow:
        rules = ()

        def axes(self):
            return {"w": ("embed",)}

        def trained(self, tree):
            return tree

    mesh = sharding.make_mesh()
    for dtype, wide in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32)):
        sums = programs.no_moments(mesh, Narrow(), {"w": jnp.zeros(8, dtype)}, 3)
        assert sums["w"].shape == (3, 8) and sums["w"].dtype == wide


def test_continuations_fit_a_block_of_the_vocabulary():
    assert branches.rows_together(chunk=8, vocab=15) == branches.PIECE
    for chunk, vocab in ((32, 2048), (128, 152_000)):
        rows = branches.rows_together(chunk, vocab)
        assert 1 <= rows <= branches.BLOCK // (chunk * vocab) < rows + 1

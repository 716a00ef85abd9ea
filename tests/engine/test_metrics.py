"""The table of an update's metrics: each entry says what it is, and is there for some batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scene

from opd.engine import metrics, programs, steps
from opd.engine.metrics import METRICS, Batch, metrics_of
from opd.method import facts, table
from opd.method.coefficients import weights
from opd.types import Max, Mean, Sum


@pytest.fixture(scope="module")
def here():
    return scene.ready(scene.mesh("one"))


@pytest.mark.parametrize("name", METRICS)
def test_an_entry_has_a_unit_and_a_description(name):
    metric = METRICS[name]
    assert metric.unit and metric.says and "\n" not in metric.unit + metric.says
    assert name.isidentifier() and name.islower()


def batch(here, name, **changes):
    """All that an update by a row has."""
    method = table.parse(name)
    rollout = dataclasses.replace(here.rollout, value=jnp.zeros(here.rollout.mask.shape), **changes)
    student = programs.head(here.mesh, scene.STUDENT, here.params, rollout)
    stats = programs.statistics(student, here.head, rollout.tokens, scene.HOW, method.rules)
    return Batch(
        rollout, stats, facts.weighs(method), method, weights(method, rollout), here.params,
        {"w": jnp.array([3.0, 4.0])}, Mean(jnp.ones(()), jnp.full((), 4.0)),
    )  # fmt: skip


def test_every_entry_is_there_for_some_batch_and_of_its_type(here):
    taught = jnp.arange(scene.ROWS)[:, None] % 2 == jnp.arange(2)[None]
    found = metrics_of(batch(here, "ppo", taught=taught))
    assert found.keys() == (METRICS.keys() - {"loss"}) | {"loss_reward", "loss_value"}
    assert all(isinstance(metric, Mean | Sum | Max) for metric in found.values())
    assert float(found["critic_gradient_norm"].value()) == 5.0
    assert float(found["unchanged"].value()) == 0.25


def test_a_batch_without_something_lacks_its_metrics(here):
    alone = dataclasses.replace(here.rollout, reward=None)
    stats = dataclasses.replace(here.stats, kl=None, entropy_teacher=None)
    found = metrics_of(Batch(alone, stats)).keys()
    gone = {"reward", "reward_range", "kl", "kl_by_position", "entropy_teacher"}
    gone |= {"kl_by_teacher", "tokens_by_teacher"}
    gone |= {"loss", "clip_fraction", "gradient_norm", "critic_gradient_norm", "unchanged"}
    assert found == METRICS.keys() - gone


def test_kl_and_tokens_of_several_teachers_are_those_of_their_rows(here):
    """Parts of a batch are joined as any mean's."""
    whose = np.arange(scene.ROWS) % 3
    taught = jnp.asarray(whose[:, None] == np.arange(3))
    found = metrics_of(batch(here, "opd", taught=taught))
    mask = np.asarray(here.rollout.mask)
    kl = np.where(mask, here.stats.kl, 0)
    for at in range(3):
        tokens = mask[whose == at].sum()
        assert found["tokens_by_teacher"].value()[at] == tokens
        np.testing.assert_allclose(
            found["kl_by_teacher"].value()[at], kl[whose == at].sum() / tokens, rtol=1e-5
        )


def test_losses_are_named_by_signal(here):
    """Of a reward and a teacher: -A and 0.1 KL, summed over tokens, a mean over rollouts."""
    found = metrics_of(batch(here, "rl_with_teacher"))
    kl = np.where(here.rollout.mask, here.stats.kl, 0).sum() / scene.ROWS
    np.testing.assert_allclose(found["loss_teacher"].value(), 0.1 * kl, rtol=1e-5)
    assert {name for name in found if name.startswith("loss")} == {"loss_reward", "loss_teacher"}


def test_a_line_more_is_a_metric_more(here, monkeypatch):
    """An update says it, and nothing else was written."""
    shortest = metrics.Metric(lambda b: Max(-jnp.min(b.length)), "tokens", "minus the shortest")
    monkeypatch.setitem(METRICS, "length_least", shortest)
    _, _, _, state, *arrays = here.update(table.parse("opd"))[:6]

    def update(*arrays):
        method, how = table.parse("opd"), scene.HOW
        return steps.update_step(scene.STUDENT, scene.OPTIMIZER, *arrays, method, scene.SEED, how)

    _, found = jax.eval_shape(update, state, *arrays)
    assert isinstance(found["length_least"], Max)

"""Adapters: they start as nothing, add a product, and are all that is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.engine import steps
from opd.engine.optimizer import Optimizer, OptimizerConfig
from opd.engine.vocab import Pass
from opd.method import table
from opd.model import lora
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.lora import Lora
from opd.types import Rollout

PLAIN = DecoderConfig(
    vocab=11, width=8, layers=2, heads=4, kv_heads=2, head_dim=4, mlp=10, max_length=16,
    dtype="float64", param_dtype="float64",
)  # fmt: skip
ADAPTER = Lora(3, 5.0)
ADAPTED = Decoder(dataclasses.replace(PLAIN, lora=ADAPTER))
ROW = table.parse("opd")


@pytest.fixture(autouse=True)
def wide(x64):
    """Sums to 1e-12."""


@pytest.fixture
def params():
    return Decoder(PLAIN).init(jax.random.key(0))


@pytest.fixture
def moved(params):
    """An adapter that does something."""
    start = ADAPTED.adapted(params, jax.random.key(1))
    rng = np.random.default_rng(2)
    part = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), ADAPTED.trained(start))
    return ADAPTED.with_trained(start, part)


def batch():
    rng = np.random.default_rng(3)
    return Rollout(
        prompt=jnp.asarray(rng.integers(0, 11, (3, 4)), jnp.int32),
        prompt_mask=jnp.ones((3, 4), bool),
        tokens=jnp.asarray(rng.integers(0, 11, (3, 5)), jnp.int32),
        mask=jnp.asarray(np.arange(5) < np.array([[5], [3], [1]])),
        logp_behavior=jnp.zeros((3, 5)),
        ended=jnp.ones((3,), bool),
        group=jnp.arange(3),
        row=jnp.arange(3),
    )


def hidden(model, params):
    tokens = batch().tokens
    return model.hidden(params, tokens, jnp.ones(tokens.shape, bool))


def gradient(model, params):
    teacher = Decoder(PLAIN)
    side = steps.head(teacher, teacher.init(jax.random.key(9)), batch())
    found, _ = steps.pull_back(model, params, batch(), side, (ROW,), None, Pass())
    return jax.tree.map(lambda leaf: leaf[0], found)


def test_a_fresh_adapter_changes_nothing(params):
    fresh = ADAPTED.adapted(params, jax.random.key(1))
    np.testing.assert_array_equal(hidden(ADAPTED, fresh), hidden(Decoder(PLAIN), params))


def test_merged_matrices_compute_the_same(params, moved):
    merged = lora.merged(moved, ADAPTER)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    there, plain = hidden(ADAPTED, moved), hidden(Decoder(PLAIN), merged)
    np.testing.assert_allclose(there, plain, rtol=1e-10, atol=1e-12)
    assert np.abs(there - hidden(Decoder(PLAIN), params)).max() > 0.1


@pytest.mark.slow
def test_the_gradient_is_the_whole_ones_through_the_product(moved):
    """dA = s dW B^T and dB = s A^T dW, of the merged matrix's dW."""
    whole = gradient(Decoder(PLAIN), lora.merged(moved, ADAPTER))["layers"]
    found = gradient(ADAPTED, moved)
    assert jax.tree.structure(found) == jax.tree.structure(ADAPTED.trained(moved))
    for name in ADAPTER.targets:
        first, second = (moved["layers"][form.format(name)] for form in (lora.A, lora.B))
        inputs = first.size // (2 * 3)
        dw = whole[name].reshape(2, inputs, -1)
        a, b = first.reshape(2, inputs, 3), second.reshape(2, 3, -1)
        scale = ADAPTER.alpha / ADAPTER.rank
        da, db = scale * dw @ b.swapaxes(1, 2), scale * a.swapaxes(1, 2) @ dw
        for form, wanted in ((lora.A, da), (lora.B, db)):
            given = found["layers"][form.format(name)].reshape(wanted.shape)
            np.testing.assert_allclose(given, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_only_the_adapter_moves(params):
    start = ADAPTED.adapted(params, jax.random.key(1))
    optimizer = Optimizer(OptimizerConfig(weight_decay=1e-4), 1e-2)
    state = steps.State(start, optimizer.init(ADAPTED.trained(start)), jnp.zeros((), jnp.int32))
    teacher = Decoder(PLAIN)
    side = steps.head(teacher, teacher.init(jax.random.key(9)), batch())
    after, _ = steps.update_step(ADAPTED, optimizer, state, batch(), side, ROW, 0, Pass(), 3)
    names = ADAPTER.names()
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.params):
        before = start
        for key in path:
            before = before[key.key]
        same = bool(jnp.all(leaf == before))
        # A's gradient is 0 where B is, and AdamW's decay moves it all the same.
        assert same != (path[-1].key in names), path


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rank": 0, "alpha": 1.0}, "rank is 0"),
        ({"rank": 2, "alpha": 0.0}, "alpha is 0"),
        ({"rank": 2, "alpha": 1.0, "targets": ("q", "x")}, "allowed are q, k"),
        ({"rank": 2, "alpha": 1.0, "targets": ()}, "nothing"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        Lora(**asked)


def test_a_config_comes_back_from_json():
    again = DecoderConfig.from_json(dataclasses.asdict(ADAPTED.config))
    assert again == ADAPTED.config and hash(again) == hash(ADAPTED.config)

"""The scalar head: zero at the start, causal, indifferent to padding on the left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.model.decoder import Decoder, DecoderConfig
from opd.model.scalar import Scalar

TOKENS = jnp.asarray([[1, 2, 3, 4], [4, 3, 2, 1]])
MASK = jnp.ones((2, 4), bool)


def model(tied=True, **changes):
    sizes = {"vocab": 7, "width": 8, "layers": 2, "heads": 2, "tied": tied} | changes
    return Scalar(Decoder(DecoderConfig(**sizes)))


def awake(params):
    """A head that says something."""
    scale = jnp.arange(1.0, 9.0) / 8
    return params | {"head": {"scale": scale, "offset": jnp.asarray(0.5)}}


@pytest.mark.parametrize("tied", [True, False])
def test_axes_name_every_parameter_and_no_unembedding(tied):
    critic = model(tied)
    params = critic.init(jax.random.key(0))
    assert "unembedding" not in params["body"]
    shapes = jax.tree.map(lambda leaf, names: leaf.ndim - len(names), params, critic.axes())
    assert set(jax.tree.leaves(shapes)) == {0}


@pytest.mark.parametrize("tied", [True, False])
def test_it_starts_at_zero_and_adds_the_offset(tied):
    critic = model(tied)
    body = critic.body.init(jax.random.key(0))
    params = critic.upon(body)
    np.testing.assert_array_equal(critic.values(params, TOKENS, MASK), 0)
    hidden = critic.body.hidden(body, TOKENS, MASK)
    head = awake(params)["head"]
    wanted = hidden @ head["scale"] + 0.5
    np.testing.assert_allclose(critic.values(awake(params), TOKENS, MASK), wanted, rtol=1e-6)


def test_a_value_has_seen_its_own_token_and_none_after():
    critic = model()
    params = awake(critic.init(jax.random.key(0)))
    changed = critic.values(params, TOKENS.at[:, 2].set(6), MASK)
    before = critic.values(params, TOKENS, MASK)
    np.testing.assert_array_equal(changed[:, :2], before[:, :2])
    assert np.all(np.abs(changed[:, 2:] - before[:, 2:]) > 1e-4)


def test_padding_on_the_left_changes_nothing():
    critic = model()
    params = awake(critic.init(jax.random.key(0)))
    padded = jnp.pad(TOKENS, ((0, 0), (3, 0))), jnp.pad(MASK, ((0, 0), (3, 0)))
    np.testing.assert_allclose(
        critic.values(params, *padded)[:, 3:], critic.values(params, TOKENS, MASK), rtol=1e-5
    )


def test_bfloat16_bodies_speak_in_float32():
    critic = model(dtype="bfloat16")
    assert critic.values(critic.init(jax.random.key(0)), TOKENS, MASK).dtype == jnp.float32

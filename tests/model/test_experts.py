"""Mixtures of experts: against each token's experts one by one, on one device and on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import layout
from opd.engine import sharding
from opd.model import experts
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.lora import Lora
from tests.engine import scene

B, S, D, E, F, K = 4, 6, 8, 5, 12, 2
MESHES = ("one", "data=8", "data=2,fsdp=2,tensor=2")


def case(seed=0, empty=False):
    """x, router, gate, up, down; `empty`: an expert that nobody goes to."""
    rng = np.random.default_rng(seed)
    shapes = (B, S, D), (D, E), (E, D, F), (E, D, F), (E, F, D)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    if empty:
        arrays[0][..., 0] = 1.0
        arrays[1][:, 3], arrays[1][0, 3] = 0.0, -50.0
    return arrays


def wanted(arrays, normed):
    """A loop over tokens and their experts, in float64."""
    x, router, gate, up, down = (each.astype(np.float64) for each in arrays)
    found = np.zeros_like(x)
    for at in np.ndindex(*x.shape[:2]):
        token = x[at]
        scores = np.exp(token @ router - np.max(token @ router))
        probs = scores / scores.sum()
        best = np.argsort(-probs)[:K]
        weights = probs[best] / (probs[best].sum() if normed else 1)
        for expert, weight in zip(best, weights, strict=True):
            hidden = token @ gate[expert]
            hidden = hidden / (1 + np.exp(-hidden)) * (token @ up[expert])
            found[at] += weight * (hidden @ down[expert])
    return found


def mixed(*arrays, normed=True):
    return experts.mixed(*arrays, chosen=K, normed=normed, activation=jax.nn.silu)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("empty", [False, True])
def test_a_token_gets_its_experts_and_no_others(normed, empty):
    arrays = case(empty=empty)
    found = jax.jit(functools.partial(mixed, normed=normed))(*arrays)
    np.testing.assert_allclose(found, wanted(arrays, normed), rtol=1e-4, atol=1e-4)


def test_the_router_s_weights_are_float32_of_bfloat16_tokens():
    x, router, *_ = (jnp.asarray(each, jnp.bfloat16) for each in case())
    chosen, weights = experts.route(x, router, K, normed=False)
    assert weights.dtype == jnp.float32
    scores = x.astype(jnp.float32) @ router.astype(jnp.float32)
    best = jax.lax.top_k(jax.nn.softmax(scores), K)
    np.testing.assert_array_equal(chosen, best[1])
    np.testing.assert_allclose(weights, best[0], rtol=1e-5)


def gradients(arrays, name):
    """Of a function of what comes out, to every array, on a mesh."""
    mesh = scene.mesh(name)
    names = experts.TOKENS, experts.ROUTER, experts.INTO, experts.INTO, experts.OUT_OF

    @jax.jit
    def found(arrays):
        with layout.by(sharding.Layout(mesh)):
            laid = [layout.constrain(x, *each) for x, each in zip(arrays, names, strict=True)]
            return jax.value_and_grad(lambda laid: jnp.sum(jnp.sin(mixed(*laid))))(laid)

    return jax.device_get(found([jnp.asarray(each) for each in arrays]))


@pytest.mark.parametrize("name", MESHES)
def test_gradients_are_those_of_every_expert_on_every_token(name):
    """Of the same function with all experts computed, and all but a token's own weighed by 0."""
    arrays = case(seed=1)

    def dense(arrays):
        x, router, gate, up, down = arrays
        probs = jax.nn.softmax(x @ router)
        best, at = jax.lax.top_k(probs, K)
        weights = best / best.sum(-1, keepdims=True)
        hidden = jax.nn.silu(jnp.einsum("bsd,edf->bsef", x, gate))
        each = jnp.einsum("bsef,efd->bsed", hidden * jnp.einsum("bsd,edf->bsef", x, up), down)
        weight = jnp.sum(jax.nn.one_hot(at, E) * weights[..., None], -2)
        return jnp.sum(jnp.sin(jnp.einsum("bsed,bse->bsd", each, weight)))

    value, wanted = jax.value_and_grad(dense)([jnp.asarray(each) for each in arrays])
    found = gradients(arrays, name)
    np.testing.assert_allclose(found[0], value, rtol=1e-4, atol=1e-4)
    for one, other in zip(found[1], wanted, strict=True):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one / scale, np.asarray(other) / scale, atol=1e-5)


TINY = {"vocab": 32, "width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 8}
SPARSE = {"experts": 4, "experts_per_token": 2, "expert_mlp": 6}


def test_a_sequence_token_by_token_is_the_sequence_at_once():
    model = Decoder(DecoderConfig(**TINY, **SPARSE))
    params = model.init(jax.random.key(0))
    assert params["layers"]["gate"].shape == (2, 4, 16, 6)
    tokens = np.arange(10, dtype=np.int32).reshape(2, 5)
    mask = np.ones((2, 5), bool)
    whole = model.hidden(params, tokens, mask)
    cache = model.prefill(params, tokens[:, :2], mask[:, :2], 5)
    apart = model.apart(params)
    for at in range(2, 5):
        hidden, cache = model.extend(apart, cache, tokens[:, at : at + 1], mask[:, at : at + 1])
        np.testing.assert_allclose(hidden[:, 0], whole[:, at], rtol=2e-5, atol=2e-5)


def test_flops_are_of_a_token_s_own_experts():
    dense, sparse = (Decoder(DecoderConfig(**TINY | more)) for more in ({}, SPARSE))
    per_token = 2 * TINY["layers"] * TINY["width"]
    apart = sparse.matmul_flops(1, 1) - dense.matmul_flops(1, 1)
    assert apart == per_token * (3 * 2 * 6 + 4 - 3 * TINY["mlp"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"experts": None}, "three numbers"),
        ({"experts_per_token": 5}, "the second at most the first"),
        ({"lora": Lora(2, 4.0, ("q", "up"))}, "q, k, v and o are allowed"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        DecoderConfig(**TINY | SPARSE | change)

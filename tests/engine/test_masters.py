"""What is trained is float32 whatever a model stores, and is computed with in the model's dtype."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scene

from opd import trees
from opd.engine import optimizer, programs, steps
from opd.engine.optimizer import OptimizerConfig
from opd.engine.steps import Critic
from opd.method import table
from opd.model.decoder import Decoder, rms_norm
from opd.model.lora import Lora
from opd.model.scalar import Scalar

ADAM = optimizer.Optimizer(OptimizerConfig(ema=0.9), 1e-3)
NARROW = scene.decoder(16, "bfloat16")
ADAPTED = Decoder(dataclasses.replace(NARROW.config, lora=Lora(2, 4.0)))
# Gemma's norms, whose scale is added to 1 before it is rounded.
GEMMA = Decoder(dataclasses.replace(NARROW.config, norm_offset=1.0, qk_norm=True, qkv_bias=True))


def floats(tree):
    """The names of the dtypes of a tree's floats."""
    leaves = (leaf.dtype for leaf in jax.tree.leaves(tree))
    return {dtype.name for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)}


def begun(model, critic=None):
    """The state that training starts with, from parameters at rest."""
    params = model.init(jax.random.key(0))
    assert "bfloat16" in floats(params)
    return programs.start(scene.mesh("one"), model, ADAM, params, critic)


def test_every_float_of_a_state_is_float32():
    state = begun(NARROW, Critic(Scalar(NARROW), ADAM))
    assert floats(state) == {"float32"}
    assert state.critic.params["body"]["embedding"].dtype == jnp.float32
    assert floats(begun(Scalar(NARROW))) == {"float32"}


def test_of_an_adapted_model_the_adapter_is_float32_and_the_rest_stays():
    state = begun(ADAPTED)
    assert floats(ADAPTED.trained(state.params)) == floats(state.optimizer) == {"float32"}
    frozen = dict(state.params["layers"])
    for name in ADAPTED.config.lora.names():
        assert frozen.pop(name).dtype == jnp.float32
    assert floats({**state.params, "layers": frozen}) == {"bfloat16"}
    fresh = ADAPTED.adapted(NARROW.init(jax.random.key(0)), jax.random.key(1))
    assert floats(ADAPTED.trained(fresh)) == {"float32"}


@pytest.fixture(scope="module")
def players():
    """Parameters of the scene's student, as bfloat16 has them."""
    return trees.cast(jax.tree.map(jnp.asarray, scene.params(scene.STUDENT, 1)), jnp.bfloat16)


@pytest.fixture(scope="module")
def here():
    return scene.ready(scene.mesh("one"))


def test_gradients_are_float32_and_so_are_their_sums(here, players):
    """Whatever the parameters that they are taken of: a probe's too."""
    asked = (NARROW, players, here.rollout, here.head, (table.parse("opd"),), None, scene.HOW)
    whole = jax.eval_shape(lambda: steps.pull_back(*asked)[0])
    parts = jax.eval_shape(lambda: steps.accumulate(*asked, 2)[0])
    assert floats(whole) == floats(parts) == {"float32"}


@pytest.mark.slow
def test_kl_falls_from_bfloat16_as_it_does_in_float32(here, players):
    """At a rate that moves a bfloat16 of this size now and then only."""
    step, opd = optimizer.Optimizer(OptimizerConfig(warmup=0), 3e-4), table.parse("opd")
    falls = {}
    for model in (scene.STUDENT, NARROW):
        params = trees.cast(players, model.config.param_dtype)
        state, kl = programs.start(here.mesh, model, step, params), []
        for _ in range(40):
            state, metrics = programs.update(
                here.mesh, model, step, state, here.rollout, here.head, opd, 0, scene.HOW, 2
            )
            kl.append(float(metrics["kl"].value()))
            assert float(metrics["unchanged"].value()) < 0.01
        falls[model.config.dtype] = kl[0] - kl[-1]
        assert floats(state) == {"float32"}
        moved = jax.tree.map(lambda a, b: np.mean(np.asarray(a) != b), state.params, params)
        assert np.mean(jax.tree.leaves(moved["layers"])) > 0.99
    assert falls["float32"] > 0.3
    np.testing.assert_allclose(falls["bfloat16"], falls["float32"], rtol=0.1)


@pytest.mark.slow
def test_an_update_that_rounds_away_says_so(here):
    """1e-10 beside 0.4: less than half a float32's step."""
    step = optimizer.Optimizer(OptimizerConfig(warmup=0), 1e-10)
    state = programs.start(here.mesh, scene.STUDENT, step, here.params)
    opd = table.parse("opd")
    asked = (here.mesh, scene.STUDENT, step, state, here.rollout, here.head, opd, 0, scene.HOW)
    assert float(programs.update(*asked)[1]["unchanged"].value()) > 0.9


# ------------------------------------------------------------------------ computed in bfloat16


def test_a_token_s_gradient_adds_up_in_float32():
    """Of 2,000 times one token, each with a gradient of 1; in bfloat16 it would stop at 256."""
    embedding = jnp.ones((scene.VOCAB, 16))
    tokens = jnp.full((8, 250), 3)
    flat = Decoder(dataclasses.replace(NARROW.config, max_length=250))
    params = flat.init(jax.random.key(0))

    def total(embedding):
        # Layers that add nothing and a norm that is 1 leave x / |x|: its gradient is known.
        layers = jax.tree.map(jnp.zeros_like, params["layers"])
        hidden = flat.hidden(
            params | {"embedding": embedding, "layers": layers}, tokens, jnp.ones((8, 250), bool)
        )
        return jnp.sum(hidden[..., 0].astype(jnp.float32))

    gradient = jax.grad(total)(embedding)[3]
    # d (x_0 / rms(x)) / dx = e_0 - 1 / 16 at x = (1, ..., 1)
    wanted = 2000 * (np.eye(16)[0] - 1 / 16)
    np.testing.assert_allclose(gradient, wanted, rtol=0.01)


def equations(jaxpr, name):
    """The equations of a primitive, wherever they stand."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for value in equation.params.values():
            yield from equations(value.jaxpr, name) if hasattr(value, "jaxpr") else ()


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_norm_s_gradient_adds_up_in_float32(offset):
    """Said of the program: the CPU adds bfloat16 up in float32 by itself, and others need not."""
    x = jnp.ones((1, 300, 2), jnp.bfloat16)

    def total(scale):
        return jnp.sum(rms_norm(x, scale, 0.0, offset).astype(jnp.float32))

    gradient = jax.grad(total)
    np.testing.assert_allclose(gradient(jnp.ones(2)), 300, rtol=2**-8)  # rounded once
    sums = list(equations(jax.make_jaxpr(gradient)(jnp.ones(2)).jaxpr, "reduce_sum"))
    assert sums and {each.outvars[0].aval.dtype.name for each in sums} == {"float32"}


@pytest.mark.parametrize("model", [NARROW, GEMMA, ADAPTED], ids=["plain", "gemma", "adapted"])
def test_the_masters_compute_what_their_rounding_computes(model):
    """So that an export is, bit for bit, the policy that was trained."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    masters = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape)), shapes)
    masters = trees.cast(masters, jnp.float32)
    tokens = jnp.asarray(rng.integers(0, scene.VOCAB, (2, 9)))
    there = jnp.ones((2, 9), bool)
    rounded = trees.cast(masters, jnp.bfloat16)
    one, other = (jax.jit(model.hidden)(params, tokens, there) for params in (masters, rounded))
    assert one.dtype == jnp.bfloat16
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_rollout_rounds_the_masters_once_and_draws_the_same():
    """No matrix is rounded in the loop over tokens."""
    masters = jax.tree.map(jnp.asarray, scene.params(scene.STUDENT, 1))
    rows, key, mesh = scene.batch(), jax.random.key(0), scene.mesh("one")

    def drawn(params):
        return programs.rollout(mesh, NARROW, params, **rows, key=key, sampling=scene.SAMPLING)

    one, other = drawn(masters), drawn(trees.cast(masters, jnp.bfloat16))
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.logp_behavior, other.logp_behavior)
    loops = equations(jax.make_jaxpr(drawn)(masters).jaxpr, "while")
    carried = [var.aval for loop in loops for var in loop.invars]
    gate = masters["layers"]["gate"].shape[1:]  # a layer's own
    gates = {aval.dtype.name for aval in carried if aval.shape == gate}
    assert gates == {"bfloat16"}

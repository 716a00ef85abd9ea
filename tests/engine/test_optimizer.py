"""The optimizer: what it skips, how its rate goes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opd.engine import optimizer
from opd.engine.optimizer import OptimizerConfig


def test_one_bad_gradient_moves_nothing():
    step = optimizer.make(OptimizerConfig(), 0.1)
    params = {"w": jnp.ones(3)}
    state = step.init(params)
    for gradient, moves, counts in ((np.nan, False, (1, 1)), (1.0, True, (0, 1))):
        updates, state = step.update({"w": jnp.full(3, gradient)}, state, params)
        assert bool(np.any(updates["w"])) == moves
        assert tuple(map(int, optimizer.skipped(state))) == counts


def test_the_first_update_moves_whatever_the_warm_up():
    for warmup, first in ((0, 0.1), (1, 0.1), (4, 0.025)):
        step = optimizer.make(OptimizerConfig(warmup=warmup, clip=1e9), 0.1)
        params = {"w": jnp.zeros(1)}
        updates, _ = step.update({"w": jnp.ones(1)}, step.init(params), params)
        np.testing.assert_allclose(updates["w"], -first, rtol=1e-4)


def test_a_cosine_comes_down_to_its_floor():
    step = optimizer.make(OptimizerConfig(warmup=1, decay=3, floor=0.5, clip=1e9), 0.1)
    params, taken = {"w": jnp.zeros(1)}, []
    state = step.init(params)
    for _ in range(6):
        updates, state = step.update({"w": jnp.ones(1)}, state, params)
        taken.append(-float(updates["w"][0]))
    np.testing.assert_allclose(taken, [0.1, 0.1, 0.0875, 0.0625, 0.05, 0.05], rtol=1e-3)


def run(dtype, gradients, rate=1e-3, **config):
    """Parameters and the optimizer's state after gradients, one after the other."""
    step = optimizer.make(OptimizerConfig(clip=1e9, warmup=0, **config), rate)
    params = {"w": jnp.ones(4, dtype)}

    @jax.jit
    def descend(carry, gradient):
        params, state = carry
        updates, state = step.update({"w": jnp.full(4, gradient, dtype)}, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(descend, (params, step.init(params)), jnp.asarray(gradients))[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_state_is_float32_whatever_the_parameters_are(dtype):
    _, state = run(dtype, [1.0] * 3, ema=0.9)
    floats = [
        leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert len(floats) == 3 and set(floats) == {jnp.dtype("float32")}  # mu, nu, average


def test_a_second_moment_decays_in_float32():
    """nu after g = 1 (200 updates) and 0.01 (5,000); in bfloat16 it would stop at 0.196."""
    _, state = run("bfloat16", [1.0] * 200 + [0.01] * 5000)
    small = float(jnp.asarray(0.01, jnp.bfloat16))
    exact = (1 - 0.999**200) * 0.999**5000 + small**2 * (1 - 0.999**5000)
    nu = optax.tree_utils.tree_get(state, "nu")["w"]
    np.testing.assert_allclose(nu, exact, rtol=1e-3)


def test_an_average_moves_in_float32():
    """decay^n of the start and the rest of where the parameters stand; nothing in bfloat16."""
    average = optimizer.average(0.999)
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    state, (updates, moved) = average.init(params), ({"w": jnp.zeros(4)}, {"w": 2 * params["w"]})
    for _ in range(200):
        _, state = average.update(updates, state, moved)
    np.testing.assert_allclose(state.average["w"], 2 - 0.999**200, rtol=1e-5)

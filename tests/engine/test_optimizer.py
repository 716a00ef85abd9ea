"""The optimizer: what it skips, how its rate goes."""

import jax.numpy as jnp
import numpy as np

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

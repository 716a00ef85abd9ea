"""The optimizer: what it limits, what it skips, how its rate goes."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        step = optimizer.make(OptimizerConfig(warmup=warmup), 0.1)
        params = {"w": jnp.zeros(1)}
        updates, _ = step.update({"w": jnp.ones(1)}, step.init(params), params)
        np.testing.assert_allclose(updates["w"], -first, rtol=1e-4)


def test_a_cosine_comes_down_to_its_floor():
    step = optimizer.make(OptimizerConfig(warmup=1, decay=3, floor=0.5), 0.1)
    params, taken = {"w": jnp.zeros(1)}, []
    state = step.init(params)
    for _ in range(6):
        updates, state = step.update({"w": jnp.ones(1)}, state, params)
        taken.append(-float(updates["w"][0]))
    np.testing.assert_allclose(taken, [0.1, 0.1, 0.0875, 0.0625, 0.05, 0.05], rtol=1e-3)


def run(dtype, gradients, rate=1e-3, **config):
    """Parameters and the optimizer's state after gradients, one after the other."""
    step = optimizer.make(OptimizerConfig(warmup=0, **config), rate)
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
    # mu, nu and average; of the norms the sum and its weights.
    assert len(floats) == 5 and set(floats) == {jnp.dtype("float32")}


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


# --- limits --------------------------------------------------------------------------------------


def left(step, gradients):
    """Norms of what a transformation leaves of gradients [n, 4], and its last state."""
    params = {"w": jnp.zeros(4)}

    def one(state, gradient):
        norm = jnp.linalg.norm(gradient)
        updates, state = optax.with_extra_args_support(step).update(
            {"w": gradient}, state, params, norm=norm
        )
        return state, jnp.linalg.norm(updates["w"])

    state, norms = jax.lax.scan(one, step.init(params), jnp.asarray(gradients, jnp.float32))
    return np.asarray(norms), state


def along(norms):
    """Gradients [n, 4] of these norms."""
    return np.outer(norms, [0.1, -0.7, 0.5, 0.5])


def wanted(norms, spike, decay):
    """The rule, in Python: what is left of each norm, and how many were limited."""
    kept, found, count = [], [], 0
    for norm in norms:
        if kept:
            weights = [decay**age for age in reversed(range(len(kept)))]
            most = spike * sum(w * k for w, k in zip(weights, kept)) / sum(weights)
            count += norm > most
            norm = min(norm, most)
        found.append(norm)
        if norm > optimizer.ROUNDING:
            kept.append(norm)
    return found, count


NORMS = st.one_of(st.floats(1e-3, 1e3), st.just(0.0), st.just(1e-9), st.just(1e6))


@given(st.lists(NORMS, min_size=1, max_size=30), st.sampled_from([2.0, 10.0]))
def test_a_norm_is_limited_by_those_before_it(norms, spike):
    assert math.isclose(np.linalg.norm(along([1.0])), 1.0)
    found, state = left(optimizer.limit(spike, None, 0.9), along(norms))
    expected, count = wanted(np.asarray(norms, np.float32).astype(float), spike, 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)
    close = np.isclose(found, norms, rtol=1e-4) & (found != norms)  # limited, or nearly
    assert abs(int(state.limited) - count) <= close.sum()
    assert optimizer.limited(state) == int(state.limited)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_limit_knows_no_unit(scale):
    """Nats of a sequence or of a token, rewards of 1 or of 100: the same share is left."""
    norms = np.random.default_rng(0).lognormal(0, 1.5, 60)
    plain, state = left(optimizer.limit(3.0, None), along(norms))
    scaled, other = left(optimizer.limit(3.0, None), along(scale * norms))
    assert 0 < int(state.limited) == int(other.limited) < 20
    np.testing.assert_allclose(scaled, scale * plain, rtol=1e-4)


def test_a_spike_is_limited_and_forgotten_and_a_lasting_change_is_followed():
    steady = [1.0] * 40
    found, state = left(optimizer.limit(10.0, None), along([*steady, 1e4, *steady]))
    np.testing.assert_allclose(found[40], 10.0, rtol=1e-4)
    np.testing.assert_allclose(np.delete(found, 40), 1.0, rtol=1e-4)
    assert int(state.limited) == 1
    found, _ = left(optimizer.limit(10.0, None), along([*steady, *[1000.0] * 80]))
    assert found[40] < 11 and (found[-10:] > 999).all()


def test_a_norm_that_overflows_is_skipped_and_moves_no_mean():
    """In float32 the squares of 1e30 are infinite; of the first norm too, which has no measure."""
    for first in ([], [1.0, 2.0]):
        step = optimizer.guard(optimizer.limit(10.0, None))
        found, state = left(step, along([*first, 1e30, 1.0]))
        assert found[-2] == 0 and found[-1] == 1.0
        assert bool(jnp.isfinite(state.inner_state.total)) and int(state.total_notfinite) == 1
        assert int(state.inner_state.limited) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_skipped_as_optax_skips_it(bad):
    gradients = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    gradients[[1, 4, 5], [0, 2, 3]] = bad
    found, state = left(optimizer.guard(optax.adam(0.1)), gradients)
    expected, other = left(optax.apply_if_finite(optax.adam(0.1), 99), gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    chex.assert_trees_all_close(state, other, rtol=1e-6)


def test_both_limits_hold_and_none_by_default_on_gradients_as_usual():
    usual = np.random.default_rng(0).uniform(0.3, 3.0, 30) * 50
    usual[20] = 1e5
    step = optimizer.make(OptimizerConfig(), 0.1)
    _, state = left(step, along(usual))
    assert optimizer.limited(state) == 1
    moments = {}
    for name, config in {
        "no limit": {"spike": 0.0},
        "relative": {},
        "absolute": {"spike": 0.0, "clip": 20.0},
        "both": {"clip": 20.0},
    }.items():
        _, state = left(optimizer.make(OptimizerConfig(**config), 0.1), along(usual))
        moments[name] = float(optax.tree_utils.tree_get(state, "nu")["w"][1])
        assert optimizer.limited(state) == ("spike" not in config)
    assert moments["no limit"] > 100 * moments["relative"] > 100 * moments["absolute"]
    assert moments["absolute"] == moments["both"] <= 20.0**2
    one_only = {"clip": 1e9}
    _, state = left(optimizer.make(OptimizerConfig(**one_only), 0.1), along(usual))
    assert float(optax.tree_utils.tree_get(state, "nu")["w"][1]) == moments["relative"]


def test_a_gradient_that_is_not_finite_is_no_norm():
    step = optimizer.make(OptimizerConfig(), 0.1)
    _, usual = left(step, along([1.0, 3.0]))
    _, state = left(step, along([1.0, np.nan, np.inf, 3.0]))
    for name in ("total", "weight", "limited"):
        found = optax.tree_utils.tree_get(state, name)
        assert found == optax.tree_utils.tree_get(usual, name), name


def test_an_optimizer_of_before_there_were_norms_goes_on():
    """`clip` alone: the tree of a checkpoint that a version without `spike` has written."""
    before = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda count: 0.1)), 9
    )
    step, params = optimizer.make(OptimizerConfig(clip=1.0, spike=0.0), 0.1), {"w": jnp.ones(4)}
    shapes = [jax.tree.map(jnp.shape, each.init(params)) for each in (before, step)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])

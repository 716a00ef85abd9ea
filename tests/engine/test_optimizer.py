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

from opd import trees
from opd.engine import optimizer
from opd.engine.optimizer import Norms, Optimizer, OptimizerConfig


def steps(config, rate, gradients, params):
    """What each of several gradients, one after the other, moves; and the last state."""
    chosen = Optimizer(config, rate)
    step, state, moves = jax.jit(chosen.step), chosen.init(params), []
    for gradient in gradients:
        after = step(gradient, state, params)
        moves.append(jax.tree.map(jnp.subtract, after.params, params))
        params, state = after.params, after.state
    return moves, state


def test_one_bad_gradient_moves_nothing():
    step, params = Optimizer(OptimizerConfig(), 0.1), {"w": jnp.ones(3)}
    state = step.init(params)
    for gradient, moves, counts in ((np.nan, False, (1, 1)), (1.0, True, (0, 1))):
        after, state, lost, asked = step.step({"w": jnp.full(3, gradient)}, state, params)
        assert bool(np.all(after["w"] > params["w"])) == moves == bool(asked > 0)
        assert lost == 0 and tuple(map(int, optimizer.skipped(state))) == counts


def test_an_update_that_is_not_finite_is_not_made_either():
    """Parameters that are infinite already: weight decay would make NaN of the others' sizes."""
    step, params = (
        Optimizer(OptimizerConfig(weight_decay=0.1), 0.1),
        {"w": jnp.array([1.0, np.inf])},
    )
    after, state, *_ = step.step({"w": jnp.ones(2)}, step.init(params), params)
    np.testing.assert_array_equal(after["w"], params["w"])
    assert tuple(map(int, optimizer.skipped(state))) == (1, 1)


def test_the_first_update_moves_whatever_the_warm_up():
    for warmup, first in ((0, 0.1), (1, 0.1), (4, 0.025)):
        config, ones = OptimizerConfig(warmup=warmup), {"w": jnp.ones(1)}
        ((moved,), _) = steps(config, 0.1, [ones], {"w": jnp.zeros(1)})
        np.testing.assert_allclose(moved["w"], first, rtol=1e-4)


def test_a_cosine_comes_down_to_its_floor():
    config = OptimizerConfig(warmup=1, decay=3, floor=0.5)
    moves, _ = steps(config, 0.1, [{"w": jnp.ones(1)}] * 6, {"w": jnp.zeros(1)})
    taken = [float(move["w"][0]) for move in moves]
    np.testing.assert_allclose(taken, [0.1, 0.1, 0.0875, 0.0625, 0.05, 0.05], rtol=1e-3)


@pytest.mark.parametrize("bad", [False, True])
def test_it_steps_as_optax_steps_down_the_opposite(bad):
    """Warm-up, clip, weight decay and an average, over what isn't finite too; states as well."""
    config = OptimizerConfig(
        warmup=3, decay=9, floor=0.2, clip=1.0, spike=0.0, weight_decay=0.1, ema=0.9
    )
    step = Optimizer(config, 0.05)
    adamw = optax.adamw(step.schedule, weight_decay=0.1)
    reference = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), adamw), 99)
    random = np.random.default_rng(0)
    params = {"w": jnp.asarray(random.normal(size=(3, 4)), jnp.float32), "b": jnp.zeros(4)}
    state, theirs, expected = step.init(params), reference.init(params), params
    average = params
    for number in range(7):
        gradient = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params)
        if bad and number == 3:
            gradient["b"] = gradient["b"].at[1].set(np.inf)
        down = jax.tree.map(jnp.negative, gradient)
        updates, theirs = reference.update(down, theirs, expected)
        expected = optax.apply_updates(expected, updates)
        average = optax.incremental_update(expected, average, 0.1)
        params, state, _, asked = step.step(gradient, state, params)
        size = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(updates))
        np.testing.assert_allclose(asked, size, rtol=1e-5, atol=1e-12)
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-7)
    guard, averaged = state
    chex.assert_trees_all_close(guard, theirs, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(averaged.average, average, rtol=1e-5, atol=1e-7)
    assert int(guard.total_notfinite) == bad


def test_rounding_that_takes_an_update_is_told():
    """Float32 at 1 has steps of 1.2e-7: an update of 1e-9 is lost there, and none at 0."""
    step, params = Optimizer(OptimizerConfig(warmup=0), 1e-9), {"w": jnp.array([1.0, 0.0, 0.0])}
    _, _, lost, asked = step.step({"w": jnp.ones(3)}, step.init(params), params)
    np.testing.assert_allclose([lost, asked], [1e-9, 3e-9], rtol=1e-4)


def test_nothing_of_the_parameters_size_is_made_beside_the_new_ones():
    """Donated parameters and moments are written where they lie: no copy, and no update as such."""
    step, shape = Optimizer(OptimizerConfig(clip=1.0, weight_decay=0.1), 0.1), (512, 1024)
    params = {"w": jnp.ones(shape)}
    state = jax.eval_shape(step.init, params)

    def ascend(params, state, gradient):  # donated in the order in which they come back
        return step.step(gradient, state, params)

    ascending = jax.jit(ascend, donate_argnums=(0, 1)).lower(params, state, params)
    used = ascending.compile().memory_analysis()
    assert used.alias_size_in_bytes >= 3 * 4 * 512 * 1024 > 10 * used.temp_size_in_bytes


def run(dtype, gradients, rate=1e-3, **config):
    """Parameters and the optimizer's state after gradients, one after the other."""
    step = Optimizer(OptimizerConfig(warmup=0, **config), rate)
    params = {"w": jnp.ones(4, dtype)}

    @jax.jit
    def ascend(carry, gradient):
        params, state = carry
        after = step.step({"w": jnp.full(4, gradient, dtype)}, state, params)
        return (trees.cast(after.params, dtype), after.state), None

    return jax.lax.scan(ascend, (params, step.init(params)), jnp.asarray(gradients))[0]


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
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    _, state = run("bfloat16", [0.0] * 200, ema=0.999)
    np.testing.assert_array_equal(state[1].average["w"], 1)
    average = trees.masters(params)
    for _ in range(200):
        average = optimizer.averaged({"w": 2 * jnp.ones(4)}, average, 0.999)
    np.testing.assert_allclose(average["w"], 2 - 0.999**200, rtol=1e-5)


# --- limits --------------------------------------------------------------------------------------


def left(norms, spike, clip=None, decay=optimizer.DECAY):
    """What `limit` leaves of norms one after the other, and its last state."""
    zero = jnp.zeros(())
    start = Norms(zero, zero, jnp.zeros((), jnp.int32))

    def one(state, norm):
        kept, state = optimizer.limit(norm, state, spike, clip, decay)
        return state, kept

    state, kept = jax.lax.scan(one, start, jnp.asarray(norms, jnp.float32))
    return np.asarray(kept), state


def trained(gradients, **config):
    """The last state of an optimizer that is given these gradients [n, 4]."""
    rows = [{"w": jnp.asarray(row, jnp.float32)} for row in gradients]
    return steps(OptimizerConfig(**config), 0.1, rows, {"w": jnp.zeros(4)})[1]


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
    found, state = left(norms, spike, None, 0.9)
    expected, count = wanted(np.asarray(norms, np.float32).astype(float), spike, 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)
    close = np.isclose(found, norms, rtol=1e-4) & (found != norms)  # limited, or nearly
    assert abs(int(state.limited) - count) <= close.sum()
    assert optimizer.limited(state) == int(state.limited)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_limit_knows_no_unit(scale):
    """Nats of a sequence or of a token, rewards of 1 or of 100: the same share is left."""
    norms = np.random.default_rng(0).lognormal(0, 1.5, 60)
    plain, state = left(norms, 3.0)
    scaled, other = left(scale * norms, 3.0)
    assert 0 < int(state.limited) == int(other.limited) < 20
    np.testing.assert_allclose(scaled, scale * plain, rtol=1e-4)


def test_a_spike_is_limited_and_forgotten_and_a_lasting_change_is_followed():
    steady = [1.0] * 40
    found, state = left([*steady, 1e4, *steady], 10.0)
    np.testing.assert_allclose(found[40], 10.0, rtol=1e-4)
    np.testing.assert_allclose(np.delete(found, 40), 1.0, rtol=1e-4)
    assert int(state.limited) == 1
    found, _ = left([*steady, *[1000.0] * 80], 10.0)
    assert found[40] < 11 and (found[-10:] > 999).all()


def test_a_norm_that_overflows_is_skipped_and_moves_no_mean():
    """In float32 the squares of 1e30 are infinite; of the first norm too, which has no measure."""
    for first in ([], [1.0, 2.0]):
        state = trained(along([*first, 1e30, 1.0]))
        norms = state.inner_state[0]
        assert bool(jnp.isfinite(norms.total)) and int(state.total_notfinite) == 1
        assert int(norms.limited) == 0


def test_both_limits_hold_and_none_by_default_on_gradients_as_usual():
    usual = np.random.default_rng(0).uniform(0.3, 3.0, 30) * 50
    usual[20] = 1e5
    assert optimizer.limited(trained(along(usual))) == 1
    moments = {}
    for name, config in {
        "no limit": {"spike": 0.0},
        "relative": {},
        "absolute": {"spike": 0.0, "clip": 20.0},
        "both": {"clip": 20.0},
    }.items():
        state = trained(along(usual), **config)
        moments[name] = float(optax.tree_utils.tree_get(state, "nu")["w"][1])
        assert optimizer.limited(state) == ("spike" not in config)
    assert moments["no limit"] > 100 * moments["relative"] > 100 * moments["absolute"]
    assert moments["absolute"] == moments["both"] <= 20.0**2
    one_only = {"clip": 1e9}
    state = trained(along(usual), **one_only)
    assert float(optax.tree_utils.tree_get(state, "nu")["w"][1]) == moments["relative"]


def test_a_gradient_that_is_not_finite_is_no_norm():
    usual, state = trained(along([1.0, 3.0])), trained(along([1.0, np.nan, np.inf, 3.0]))
    for name in ("total", "weight", "limited"):
        found = optax.tree_utils.tree_get(state, name)
        assert found == optax.tree_utils.tree_get(usual, name), name


def test_an_optimizer_of_before_there_were_norms_goes_on():
    """`clip` alone: the tree of a checkpoint that a version without `spike` has written."""
    before = optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda count: 0.1)), 9
    )
    step, params = (
        Optimizer(OptimizerConfig(clip=1.0, spike=0.0), 0.1),
        {"w": jnp.ones(4)},
    )
    shapes = [jax.tree.map(jnp.shape, each.init(params)) for each in (before, step)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])

"""Inner products, norms and sketches of stacks of trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import trees


def stack(seed, count=3):
    """A stack of trees with leaves of several ranks, one of them a scalar each."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (4, 5), "b": {"c": (7,), "d": ()}, "e": (2, 3, 2)}
    return jax.tree.map(
        lambda shape: rng.normal(size=(count, *shape)).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def flat(tree):
    """[K, M] float64."""
    return np.concatenate(
        [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], 1
    ).astype(np.float64)


def test_gram_is_all_inner_products():
    left, right = stack(0, 3), stack(1, 2)
    found = trees.gram(jax.tree.map(jnp.asarray, left), jax.tree.map(jnp.asarray, right))
    np.testing.assert_allclose(found, flat(left) @ flat(right).T, rtol=1e-5, atol=1e-5)


def test_gram_of_bfloat16_adds_up_in_float32():
    """4,096 ones times 1 + 2^-7: in bfloat16 the sum would stop growing at 256."""
    ones = jnp.ones((1, 4096), jnp.bfloat16)
    found = trees.gram({"a": ones}, {"a": ones * jnp.asarray(1 + 2**-7, jnp.bfloat16)})
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [[4096 + 32]])


def test_norm_is_euclidean():
    tree = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stack(0))
    np.testing.assert_allclose(trees.norm(tree), np.linalg.norm(flat(stack(0))[0]), rtol=1e-6)


def test_sketch_is_linear():
    """What jackknife sums of sketches stand on: sketch(2 x - 3 y) = 2 sketch(x) - 3 sketch(y)."""
    both = jax.tree.map(lambda x, y: 2 * x - 3 * y, stack(0), stack(1))
    found = trees.sketch(both, 8)
    wanted = 2 * trees.sketch(stack(0), 8) - 3 * trees.sketch(stack(1), 8)
    assert found.shape == (3, 8)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_sketch_is_a_function_of_tree_and_seed():
    """The same map for every member of the stack, another one for another seed."""
    tree = stack(0, 1)
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), tree)
    found = np.asarray(trees.sketch(twice, 8))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[:1], trees.sketch(tree, 8))
    assert not np.allclose(found[:1], trees.sketch(tree, 8, seed=1))


def sketched_products(x, y, width, seeds):
    """<sketch(x), sketch(y)> for each seed."""
    run = jax.jit(lambda seed: jnp.sum(trees.sketch(x, width, seed) * trees.sketch(y, width, seed)))
    return np.array([run(seed) for seed in range(seeds)], np.float64)


def test_sketch_keeps_inner_products_on_average_with_the_error_it_states():
    """Mean over 300 seeds within 4 of its own sigma; spread near sqrt((1 + cos^2) / W) |x| |y|."""
    x, y = stack(0, 1), jax.tree.map(np.add, stack(0, 1), stack(1, 1))
    width = 8
    exact = float((flat(x) @ flat(y).T)[0, 0])
    size = np.linalg.norm(flat(x)) * np.linalg.norm(flat(y))
    found = sketched_products(x, y, width, 300)
    assert abs(found.mean() - exact) < 4 * found.std() / 300**0.5
    spread = ((1 + (exact / size) ** 2) / width) ** 0.5
    assert 0.6 * spread < found.std() / size < (2 / width) ** 0.5 * 1.1


def test_sketch_of_one_leaf_that_fits_is_exact():
    """Each entry has a bucket of its own; two leaves share buckets, so there it is an estimate."""
    x = {"a": np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)}
    sketched = np.asarray(trees.sketch(x, 15))
    np.testing.assert_allclose(sketched @ sketched.T, flat(x) @ flat(x).T, rtol=1e-5, atol=1e-5)
    two = {"a": x["a"], "b": np.flip(x["a"])}
    sketched = np.asarray(trees.sketch(two, 30))
    assert not np.allclose(sketched @ sketched.T, flat(two) @ flat(two).T, rtol=1e-2)


@pytest.mark.parametrize("width", [64, 2048])
def test_sketch_spreads_a_column(width):
    """A gradient that lives in one column of a matrix, as an outlier feature's does.

    If the number of columns divides the width, an entry's place modulo the width says its column,
    and a whole column would fall into width / columns buckets.
    """
    matrix = np.zeros((1, 256, 64), np.float32)
    matrix[0, :, 5] = np.random.default_rng(0).normal(size=256)
    tree = {"a": jnp.asarray(matrix)}
    found = sketched_products(tree, tree, width, 40) / (matrix.astype(np.float64) ** 2).sum()
    assert np.std(found - 1) < 1.6 * (2 / width) ** 0.5


def test_what_is_trained_is_float32_or_wider():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float16), "c": jnp.ones(2)}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trees.masters(tree))} == {"float32"}
    assert trees.wider("float64") == "float64"
    assert trees.masters(tree)["c"] is tree["c"]


def test_unchanged_is_the_movement_that_rounds_away():
    """1 + 1e-9 is 1 in float32: 2e-9 of an update of 3e-3 + 2e-9 is lost."""
    before = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}
    updates = {"a": jnp.array([[0.0, 1e-3, 1e-9], [0.0, 1e-3, -1e-3]]), "b": jnp.asarray(-1e-9)}
    after = jax.tree.map(jnp.add, before, updates)
    lost, asked = trees.unchanged(before, updates, after)
    np.testing.assert_allclose([lost, asked], [2e-9, 3e-3], rtol=1e-5)


def test_unchanged_adds_up_more_than_float32_does_one_by_one():
    """A sum of ones in float32 stops growing at 2^24."""
    ones = jnp.ones((2**11, 2**14), jnp.bfloat16)
    small = {"a": jnp.full(ones.shape, 2.0**-12)}
    lost, asked = jax.jit(trees.unchanged)({"a": ones}, small, {"a": ones})
    assert float(lost) == float(asked) == 2**13

"""Counter-based uniforms and draws by inverse CDF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import draws

LARGEST = np.nextafter(np.float32(1), np.float32(0))  # the largest uniform below 1


def noise(rows, length, k=None, seed=0, step=0, stream="action"):
    key = draws.key(seed, step, stream)
    return np.asarray(draws.uniforms(key, jnp.asarray(rows), length, k))


def first_above(weights, uniform):
    """The oracle, in float64: the first v whose cdf exceeds u times the total."""
    cdf = np.cumsum(weights, dtype=np.float64)
    return np.searchsorted(cdf, uniform * cdf[-1], side="right")


@pytest.mark.parametrize("k", [None, 2])
def test_a_positions_noise_is_its_own(k):
    """It depends on neither T, nor the other rows, nor their order; k only adds to it."""
    whole = noise([0, 1, 2, 3, 4, 5], 8, k)
    assert whole.shape == (6, 8) + (() if k is None else (k,))
    np.testing.assert_array_equal(noise([4, 1], 3, k), whole[[4, 1], :3])
    if k is not None:
        np.testing.assert_array_equal(noise([0, 1, 2, 3, 4, 5], 8, 3)[..., :k], whole)


def test_no_two_uses_share_a_number():
    """Rows, positions, candidates, steps, seeds and streams: all different."""
    used = [noise(range(4), 5, seed=s, step=t) for s in range(3) for t in range(3)]
    used += [noise(range(4), 5, stream=stream) for stream in ("candidate", "branch")]
    used += [noise(range(4), 5, 3)]
    numbers = np.concatenate([u.ravel() for u in used])
    # Of 280 numbers of 23 bits, a pair may meet by chance: less than once in a hundred.
    assert len(np.unique(numbers)) == len(numbers)
    assert numbers.min() >= 0 and numbers.max() < 1


def test_the_same_use_repeats():
    np.testing.assert_array_equal(noise([7], 4, seed=3, step=9), noise([7], 4, seed=3, step=9))


def test_noise_is_uniform():
    """Mean, variance and lag-one correlation along rows and positions, within 4.5 sigma."""
    u = noise(range(64), 64).astype(np.float64) - 0.5
    n = u.size
    assert abs(u.mean()) < 4.5 * (1 / 12 / n) ** 0.5
    assert abs((u**2).mean() - 1 / 12) < 4.5 * (1 / 180 / n) ** 0.5
    for lagged in (u[1:] * u[:-1], u[:, 1:] * u[:, :-1]):
        assert abs(lagged.mean()) < 4.5 / 12 / lagged.size**0.5


@pytest.mark.parametrize("vocab", [1, 2, 3, 5, 16, 17, 31])
def test_inverse_cdf_is_a_search_of_the_cdf(vocab):
    """Vocabularies that are and are not squares; whole weights, so that every cdf is exact."""
    rng = np.random.default_rng(vocab)
    weights = rng.integers(0, 4, size=(2, 3, vocab))
    weights[..., rng.integers(vocab)] += 1  # not all zero
    uniform = rng.uniform(size=(2, 3, 6)).astype(np.float32)
    found = np.asarray(draws.inverse_cdf(jnp.asarray(weights, jnp.float32), jnp.asarray(uniform)))
    assert found.dtype == np.int32 and found.shape == (2, 3, 6)
    for at in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[at], first_above(weights[at], uniform[at]))


@pytest.mark.parametrize("vocab", [6, 40])
def test_inverse_cdf_never_draws_a_zero_weight(vocab):
    """At u = 0, at the largest u, and on the very edges of the cdf; the first and last are 0."""
    weights = np.tile([0.0, 1.0, 0.0], vocab)[:vocab].astype(np.float32)
    weights[-1] = 0
    cdf = np.cumsum(weights) / weights.sum()
    edges = np.concatenate([cdf, np.nextafter(cdf, np.float32(0)), [0, LARGEST]])
    uniform = np.clip(edges, 0, LARGEST).astype(np.float32)
    found = np.asarray(draws.inverse_cdf(jnp.asarray(weights), jnp.asarray(uniform)))
    assert np.all(weights[found] > 0)
    assert found[-2] == 1 and found[-1] == np.flatnonzero(weights)[-1]


def test_inverse_cdf_survives_the_rounding_of_float32():
    """At the edges of the cdf of weights from 1 to 1e8, a float32 next to them, and beside zeros.

    Within a block the sum may end below the block's own edge: then the block's last token is it.
    """
    rng = np.random.default_rng(0)
    weights = np.exp(rng.uniform(0, 18, size=(400, 50))).astype(np.float32)
    weights[:, ::3] = 0
    weights[:, 0] = 1e8
    prob = weights / weights.sum(-1, keepdims=True, dtype=np.float64)
    cdf = np.cumsum(prob, -1)
    edge = cdf.astype(np.float32)
    near = [np.nextafter(edge, np.float32(0)), edge, np.nextafter(edge, np.float32(2))]
    uniform = np.clip(np.concatenate(near, -1), 0, LARGEST)
    found = np.asarray(draws.inverse_cdf(jnp.asarray(weights), jnp.asarray(uniform)))
    share = np.take_along_axis(prob, found, -1)
    upper = np.take_along_axis(cdf, found, -1)
    assert np.all(share > 0)
    assert np.all(upper > uniform - 1e-6)
    assert np.all(upper - share < uniform + 1e-6)


def test_inverse_cdf_draws_by_weight():
    """On an even grid of n uniforms every token's share is its probability within 1 / n."""
    prob = np.random.default_rng(1).dirichlet(np.ones(11))
    n = 5000
    uniform = jnp.asarray((np.arange(n) + 0.5) / n, jnp.float32)
    found = np.asarray(draws.inverse_cdf(jnp.asarray(3 * prob, jnp.float32), uniform))
    share = np.bincount(found, minlength=11) / n
    np.testing.assert_allclose(share, prob, atol=2 / n)


def test_streams_are_distinct():
    keys = [jax.random.key_data(draws.key(0, 0, stream)).tolist() for stream in draws.STREAMS]
    assert len(set(map(tuple, keys))) == len(draws.STREAMS)

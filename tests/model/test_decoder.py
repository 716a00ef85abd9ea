"""The decoder against a NumPy forward, and what masks, caches and dtypes must not change."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.model.decoder import Decoder, DecoderConfig
from opd.types import Model

TINY = DecoderConfig(
    vocab=11, width=6, layers=2, heads=4, kv_heads=2, head_dim=4, mlp=10, max_length=16
)
FULL = dataclasses.replace(TINY, qk_norm=True, tied=False, rope_base=50.0)  # every option


def made_up(config: DecoderConfig, seed: int = 0):
    """Parameters from NumPy: quick, and with norms whose scales are not all 1."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.5, 1.0, leaf.shape) / 2, leaf.dtype), shapes
    )


def batch(padding: tuple[int, ...], length: int, vocab: int = 11, seed: int = 1):
    """Left-padded tokens; a row of a given length is the same whatever its padding."""
    tokens = np.zeros((len(padding), length), np.int32)
    mask = np.zeros((len(padding), length), bool)
    for row, left in enumerate(padding):
        rng = np.random.default_rng((seed, row))
        tokens[row, left:] = rng.integers(0, vocab, length - left)
        mask[row, left:] = True
    return jnp.asarray(tokens), jnp.asarray(mask)


def numpy_forward(config: DecoderConfig, params, tokens) -> np.ndarray:
    """One row without padding, token by token and head by head: hidden states [S, D]."""

    def norm(x, scale):
        return x / np.sqrt(np.mean(x * x) + config.norm_eps) * scale

    def rotate(x, position):
        out, half = np.empty_like(x), len(x) // 2
        for i in range(half):
            angle = position / config.rope_base ** (2 * i / len(x))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            out[[i, i + half]] = turn @ x[[i, i + half]]
        return out

    params = jax.tree.map(np.asarray, params)
    x = np.stack([params["embedding"][token] for token in tokens])
    for layer in range(config.layers):
        w = jax.tree.map(operator.itemgetter(layer), params["layers"])
        y = np.stack([norm(row, w["attention_norm"]["scale"]) for row in x])
        attended = np.zeros_like(x)
        for head in range(config.heads):
            shared = head * config.kv_heads // config.heads
            queries, keys = y @ w["q"][:, head], y @ w["k"][:, shared]
            values = y @ w["v"][:, shared]
            if config.qk_norm:
                queries = np.stack([norm(q, w["q_norm"]["scale"]) for q in queries])
                keys = np.stack([norm(k, w["k_norm"]["scale"]) for k in keys])
            queries = np.stack([rotate(q, t) for t, q in enumerate(queries)])
            keys = np.stack([rotate(k, t) for t, k in enumerate(keys)])
            for t in range(len(tokens)):
                scores = np.exp(keys[: t + 1] @ queries[t] / np.sqrt(config.head_dim))
                out = scores / scores.sum() @ values[: t + 1]
                attended[t] += out @ w["o"][head]
        x = x + attended
        y = np.stack([norm(row, w["mlp_norm"]["scale"]) for row in x])
        gate = y @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up"])) @ w["down"]
    return np.stack([norm(row, params["final_norm"]["scale"]) for row in x])


@pytest.mark.parametrize("config", [TINY, FULL], ids=["plain", "every option"])
def test_equals_a_numpy_forward(config, x64):
    config = dataclasses.replace(config, dtype="float64", param_dtype="float64")
    model, params = Decoder(config), made_up(config)
    tokens, mask = batch((0, 2), 5)
    hidden = jax.jit(model.hidden)(params, tokens, mask)
    assert hidden.dtype == model.unembedding(params).dtype == jnp.float64
    for row, left in enumerate((0, 2)):
        expected = numpy_forward(config, params, tokens[row, left:])
        np.testing.assert_allclose(hidden[row, left:], expected, rtol=1e-10, atol=1e-10)
    empty = model.prefill(params, tokens[:, :0], mask[:, :0], 8)
    cached, _ = jax.jit(model.extend)(model.apart(params), empty, tokens, mask)
    np.testing.assert_allclose(cached, hidden, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def full():
    return Decoder(FULL), made_up(FULL)


@pytest.fixture(scope="module")
def hidden(full):
    return jax.jit(full[0].hidden)


def test_is_a_model(full):
    model, _ = full
    assert isinstance(model, Model)
    assert hash(model) == hash(Decoder(dataclasses.replace(FULL)))
    assert (model.vocab, model.width) == (11, 6)


def test_left_padding_changes_nothing(full, hidden):
    _, params = full
    rows = jax.random.randint(jax.random.key(3), (4,), 0, 11)
    tokens, mask = np.full((3, 7), 5, np.int32), np.zeros((3, 7), bool)
    for row, left in enumerate((0, 1, 3)):
        tokens[row, left : left + 4], mask[row, left : left + 4] = rows, True
    states = hidden(params, jnp.asarray(tokens), jnp.asarray(mask))
    other = hidden(params, jnp.asarray(np.where(mask, tokens, 2)), jnp.asarray(mask))
    for row, left in ((1, 1), (2, 3)):
        np.testing.assert_allclose(states[row, left : left + 4], states[0, :4], rtol=1e-4)
        np.testing.assert_array_equal(other[row, left : left + 4], states[row, left : left + 4])


@pytest.mark.parametrize("first", [0, 3])
def test_cached_decode_equals_the_full_forward(full, hidden, first):
    model, params = full
    tokens, mask = batch((0, 2, 4), 7)
    expected = hidden(params, tokens, mask)
    extend, states, apart = jax.jit(model.extend), [], model.apart(params)
    prefill = jax.jit(model.prefill, static_argnums=3)
    # Room to spare: empty slots must not be seen.
    cache = prefill(params, tokens[:, :first], mask[:, :first], 9)
    for start, stop in ((first, 4), (4, 5), (5, 6), (6, 7)):
        part, cache = extend(apart, cache, tokens[:, start:stop], mask[:, start:stop])
        states.append(part)
    found = jnp.concatenate(states, axis=1)
    kept = mask[:, first:, None]
    np.testing.assert_allclose(
        np.where(kept, found, 0), np.where(kept, expected[:, first:], 0), atol=2e-5
    )
    assert int(cache.index) == 7 and cache.keys[1].shape == (3, 2, 4, 9)
    np.testing.assert_array_equal(cache.count, mask.sum(1))
    np.testing.assert_array_equal(cache.mask[:, :7], mask)


def test_a_row_sees_the_past_and_nothing_else(full):
    """The gradient of row t's state with respect to token t's embedding, all pairs."""
    model, params = full  # untied, so the embedding enters as the input only
    tokens = jnp.arange(6, dtype=jnp.int32)[None]  # distinct: a token's embedding is a position's
    mask = jnp.asarray([[False, True, True, True, True, True]])

    def row(embedding, t):
        states = model.hidden({**params, "embedding": embedding}, tokens, mask)
        return states[0, t] @ jnp.arange(1.0, 7.0)

    slopes = jax.jit(jax.vmap(jax.grad(row), (None, 0)))(params["embedding"], jnp.arange(6))
    seen = np.any(np.asarray(slopes)[:, :6] != 0, axis=-1)  # [t, t']
    expected = np.tril(np.ones((6, 6), bool))
    expected[1:, 0] = False  # padding is seen by itself alone
    np.testing.assert_array_equal(seen, expected)


def test_a_row_of_padding_is_finite_and_so_is_its_gradient(full):
    model, params = full
    tokens, _ = batch((0, 0), 5)
    mask = jnp.asarray([[False] * 5, [True] * 5])

    def total(params):
        states = model.hidden(params, tokens, mask)
        return jnp.sum(jnp.sin(states)), states

    gradient, states = jax.jit(jax.grad(total, has_aux=True))(params)
    assert np.all(np.isfinite(states))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_grouped_queries_equal_repeated_keys_and_values():
    grouped, repeated = Decoder(TINY), Decoder(dataclasses.replace(TINY, kv_heads=4))
    params = made_up(TINY)
    layers = dict(params["layers"])
    for name in ("k", "v"):
        layers[name] = jnp.repeat(layers[name], 2, axis=2)
    tokens, mask = batch((0, 1), 5)
    np.testing.assert_allclose(
        jax.jit(repeated.hidden)({**params, "layers": layers}, tokens, mask)[:, 1:],
        jax.jit(grouped.hidden)(params, tokens, mask)[:, 1:],
        atol=1e-5,
    )


def test_bfloat16_computes_on_float32_parameters(full, hidden):
    _, params = full
    half = Decoder(dataclasses.replace(FULL, dtype="bfloat16"))
    tokens, mask = batch((0, 2), 5)
    states = jax.jit(half.hidden)(params, tokens, mask)
    assert states.dtype == half.unembedding(params).dtype == jnp.bfloat16
    assert half.prefill(params, tokens, mask, 6).keys[0].dtype == jnp.bfloat16
    wide = np.asarray(hidden(params, tokens, mask))
    difference = np.abs(states.astype(np.float32) - wide)[np.asarray(mask)]
    assert 0 < difference.mean() < 0.05 * np.abs(wide).mean()
    program = str(jax.make_jaxpr(half.hidden)(params, tokens, mask))
    assert "f32[2,2,2,5,5] = exp" in program  # attention's softmax is not in bfloat16,
    assert program.count("preferred_element_type=float32") == 1  # nor are the scores it is of


def test_init_is_a_plain_tree_that_axes_name():
    config = dataclasses.replace(FULL, vocab=400, width=32, mlp=64, param_dtype="float32")
    model = Decoder(config)
    params = jax.jit(model.init)(jax.random.key(0))
    is_names = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    named = jax.tree.map(lambda leaf, names: len(names) == leaf.ndim, params, model.axes())
    assert all(jax.tree.leaves(named))
    assert jax.tree.structure(params) == jax.tree.structure(model.axes(), is_leaf=is_names)
    assert model.axes()["layers"]["q"] == ("layers", "embed", "heads", "head_dim")
    for name, fan_in in (("embedding", 32), ("unembedding", 32)):
        assert np.std(params[name]) == pytest.approx(fan_in**-0.5, rel=0.05)
    layers = params["layers"]
    assert np.std(layers["gate"]) == pytest.approx(32**-0.5, rel=0.05)
    assert np.std(layers["down"]) == pytest.approx((2 * 2 * 64) ** -0.5, rel=0.05)
    assert np.abs(layers["gate"]).max() < 2.3 * 32**-0.5
    assert not np.allclose(layers["gate"][0], layers["gate"][1])
    assert np.all(layers["q_norm"]["scale"] == 1)


def test_tied_and_untied():
    tied, untied = Decoder(TINY), Decoder(dataclasses.replace(TINY, tied=False))
    params = made_up(TINY)
    assert "unembedding" not in params
    np.testing.assert_array_equal(tied.unembedding(params), params["embedding"])
    params = made_up(untied.config)
    np.testing.assert_array_equal(untied.unembedding(params), params["unembedding"])


def test_sequences_longer_than_the_model_are_refused(full):
    model, params = full
    tokens, mask = batch((0,), 17)
    with pytest.raises(ValueError, match="17 tokens: the model allows 16"):
        model.hidden(params, tokens, mask)
    tokens, mask = batch((0,), 4)
    with pytest.raises(ValueError, match="17 tokens: the model allows 16"):
        model.prefill(params, tokens, mask, 17)


def test_defaults_are_filled_in():
    config = DecoderConfig(vocab=10, width=12, layers=1, heads=3)
    assert (config.kv_heads, config.head_dim, config.mlp) == (3, 4, 48)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocab": 0}, "vocab is 0"),
        ({"layers": 2.5}, "layers is 2.5"),
        ({"heads": 0}, "heads is 0"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"head_dim": 3}, "head_dim is 3"),
        ({"head_dim": None}, "width 6 is not a multiple of heads 4"),
        ({"rope_base": float("nan")}, "rope_base is nan"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"dtype": "float16"}, "dtype is 'float16': bfloat16, float32, float64 are allowed"),
        ({"param_dtype": "int8"}, "param_dtype is 'int8'"),
    ],
)
def test_impossible_configs_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(TINY, **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_is_computed_again_is_not_kept_and_gradients_stay(remat):
    config = dataclasses.replace(TINY, width=32, mlp=256, layers=4, max_length=64)
    params = made_up(config)
    tokens, mask = batch((0, 2), 48)

    def gradient(**how):
        model = Decoder(config, **how)
        total = lambda params: jnp.sum(jnp.sin(model.hidden(params, tokens, mask)))  # noqa: E731
        compiled = jax.jit(jax.grad(total)).lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (kept, most), (again, less) = gradient(), gradient(remat=remat)
    assert less < 0.8 * most
    for left, right in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        assert np.abs(left - right).max() <= 1e-4 * np.abs(right).max()


@pytest.mark.parametrize("how", [{"attention": "flash"}, {"remat": "some"}])
def test_ways_that_are_not_there_are_refused(how):
    with pytest.raises(ValueError, match="are allowed") as error:
        Decoder(TINY, **how)
    assert "\n" not in str(error.value)

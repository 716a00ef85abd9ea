"""The sampler: what is drawn, what is said about it, and when it stops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import draws
from opd.engine import sampling
from opd.model.decoder import Decoder, DecoderConfig

EOS, PAD = 1, 0
CONFIG = DecoderConfig(
    vocab=13, width=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=12, max_length=16
)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A Markov chain as a model: the next token's logits are a row of the parameter table [V, V].

    `calls` is told of every call of `extend`, so that a test can count them.
    """

    vocab: int
    calls: list | None = dataclasses.field(default=None, compare=False)

    logit_cap = None

    @property
    def width(self):
        return self.vocab

    tokens = width

    def unembedding(self, params):
        return params.T

    def prefill(self, params, tokens, mask, length):
        if self.calls is not None and tokens.shape[1]:
            jax.debug.callback(self.calls.append, tokens.shape[1])
        return jnp.asarray(tokens.shape[1], jnp.int32)

    def grown(self, cache, length):
        return cache

    def apart(self, params):
        return params

    def extend(self, params, cache, tokens, mask):
        if self.calls is not None:
            jax.debug.callback(self.calls.append, tokens.shape[1])
        return jax.nn.one_hot(tokens, self.vocab, dtype=params.dtype), cache + tokens.shape[1]


def sampler(model, **options):
    options = {"eos_ids": (EOS,), "pad_id": PAD, **options}
    return jax.jit(functools.partial(sampling.generate, model, **options))


def noise(rows, length, step=0):
    return draws.uniforms(draws.key(0, step, "action"), jnp.asarray(rows), length)


@pytest.fixture(scope="module")
def decoder():
    """A decoder whose EOS is likely enough to end some rows early, and prompts for it."""
    model = Decoder(CONFIG)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype), shapes
    )
    prompt_mask = np.arange(4)[None] >= rng.integers(0, 4, 8)[:, None]
    prompt = np.where(prompt_mask, rng.integers(2, 13, (8, 4)), PAD).astype(np.int32)
    return model, params, jnp.asarray(prompt), jnp.asarray(prompt_mask)


@pytest.fixture(scope="module")
def plain(decoder):
    return sampler(decoder[0])


@pytest.fixture(scope="module")
def completion(decoder, plain):
    _, params, prompt, prompt_mask = decoder
    return plain(params, prompt, prompt_mask, noise(range(8), 10))


def scores(model, params, prompt, prompt_mask, completion, temperature=1.0):
    """Logits [B, T, V] of a completion by the full forward, without the cache."""
    tokens = jnp.concatenate([prompt, completion.tokens], axis=1)
    mask = jnp.concatenate([prompt_mask, completion.mask], axis=1)
    hidden = jax.jit(model.hidden)(params, tokens, mask)[:, prompt.shape[1] - 1 : -1]
    return np.asarray(hidden @ model.unembedding(params).T, np.float64) / temperature


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def truncated(logits, top_k=None, top_p=None):
    """Probabilities of one row after top-k and then top-p, by sorting. No ties here."""
    order = np.argsort(-logits)[: top_k or len(logits)]
    mass = np.exp(logits[order])
    mass /= mass.sum()
    if top_p is not None:
        order = order[: np.searchsorted(np.cumsum(mass), top_p) + 1]
    out = np.zeros(len(logits))
    out[order] = np.exp(logits[order])
    return out / out.sum()


def test_logp_is_what_the_full_forward_says(decoder, completion):
    expected = log_softmax(scores(*decoder, completion))
    expected = np.take_along_axis(expected, np.asarray(completion.tokens)[..., None], -1)[..., 0]
    assert np.all(expected < -0.01)
    np.testing.assert_allclose(completion.logp, np.where(completion.mask, expected, 0), atol=1e-5)


def test_eos_is_graded_and_nothing_after_it(completion):
    """A student whose EOS action is masked out never learns to stop."""
    tokens, mask = np.asarray(completion.tokens), np.asarray(completion.mask)
    lengths = mask.sum(1)
    assert set(np.asarray(completion.ended)) == {True, False}  # or this test says nothing
    for row, length in enumerate(lengths):
        assert mask[row, :length].all() and length >= 1
        assert np.all(tokens[row, length:] == PAD)
        assert np.all(completion.logp[row, length:] == 0)
        assert np.all(tokens[row, : length - 1] != EOS)
        assert (tokens[row, length - 1] == EOS) == bool(completion.ended[row])
        assert completion.ended[row] or length == 10


def test_several_tokens_may_end_a_completion():
    table = jnp.full((6, 6), -20.0).at[2, 3].set(20).at[3, 5].set(20).at[4, 1].set(20)
    prompt = jnp.asarray([[2], [3], [4]], jnp.int32)
    out = sampler(Chain(6), eos_ids=(1, 5))(table, prompt, prompt > 0, noise(range(3), 3))
    np.testing.assert_array_equal(out.tokens, [[3, 5, 0], [5, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(out.ended, [True, True, True])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"pad_id": EOS}, "pad_id 1 is in eos_ids"),
        ({"pad_id": 13}, "pad_id has token 13: 0 to 12 are allowed"),
        ({"eos_ids": (1, -1)}, "eos_ids has token -1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 14}, "top_k is 14: 1 to 13"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        (
            {"partner": sampling.Partner(Chain(5), None, 0.5)},
            "partner has 5 tokens: the policy's 13",
        ),
        ({"partner": sampling.Partner(Chain(13), None, 1.1)}, "share is 1.1: 0 to 1"),
        (
            {"partner": sampling.Partner(Chain(13), None, 0.5), "temperature": 0.0},
            "temperature is 0 with a partner",
        ),
        ({"uniforms": jnp.zeros((8, 13))}, "17 tokens: the model allows 16"),
        ({"uniforms": jnp.zeros((7, 3))}, "uniforms \\(7, 3\\)"),
        ({"prompt": jnp.zeros((8, 0), jnp.int32)}, "prompt \\(8, 0\\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_compiles(decoder, argument, message):
    model, params, prompt, prompt_mask = decoder
    arrays = {"prompt": prompt, "prompt_mask": prompt_mask, "uniforms": jnp.zeros((8, 3))}
    options = {"eos_ids": (EOS,), "pad_id": PAD}
    for name, value in argument.items():
        (arrays if name in arrays else options)[name] = value
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(lambda: sampling.generate(model, params, **arrays, **options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "argument",
    [
        {"top_k": 1}, {"top_k": 13}, {"top_p": 1.0}, {"top_p": 1e-6}, {"temperature": 0.0},
        {"pad_id": 12}, {"eos_ids": (12, 2)}, {"uniforms": jnp.zeros((8, 12))},
    ],
)  # fmt: skip
def test_arguments_at_their_bounds_are_allowed(decoder, argument):
    model, _, prompt, prompt_mask = decoder
    usual = {
        "prompt": prompt, "prompt_mask": prompt_mask, "uniforms": jnp.zeros((8, 3)),
        "eos_ids": (EOS,), "pad_id": 0, "temperature": 1.0, "top_k": None, "top_p": None,
    }  # fmt: skip
    sampling._check(model, **usual | argument)


def test_noise_does_not_depend_on_the_batch_split(decoder, plain, completion):
    _, params, prompt, prompt_mask = decoder
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [6, 1, 7, 0]):
        rows = np.asarray(rows)
        half = plain(params, prompt[rows], prompt_mask[rows], noise(rows, 10))
        np.testing.assert_array_equal(half.tokens, completion.tokens[rows])
        np.testing.assert_allclose(half.logp, completion.logp[rows], atol=1e-5)


@pytest.mark.parametrize("most", [2, 9])
def test_a_cache_that_grows_holds_the_same_tokens(decoder, completion, monkeypatch, most):
    """In steps that a prompt is longer than, and in steps after it."""
    monkeypatch.setattr(sampling, "BUCKET", 3)
    monkeypatch.setattr(sampling, "BUCKETS", most)
    rooms = sampling.buckets(4, 10)
    assert rooms[-1] == (14, 10) and len(rooms) > 1
    model, params, prompt, prompt_mask = decoder
    with pytest.raises(ValueError, match="17 tokens: the model allows 16"):
        sampler(model)(params, prompt, prompt_mask, noise(range(8), 13))
    found = sampler(model)(params, prompt, prompt_mask, noise(range(8), 10))
    np.testing.assert_array_equal(found.tokens, completion.tokens)
    np.testing.assert_allclose(found.logp, completion.logp, atol=1e-5)


def test_a_groups_prompt_is_read_once(decoder):
    """And its rows draw what they draw alone."""
    model, params, prompt, prompt_mask = decoder
    rows = np.repeat([1, 6], 4)
    given = params, prompt[rows], prompt_mask[rows], noise(range(8), 10)
    alone, together = sampler(model)(*given), sampler(model, group_size=4)(*given)
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    np.testing.assert_allclose(together.logp, alone.logp, atol=1e-5)
    calls = []

    @dataclasses.dataclass(frozen=True)
    class Read(Decoder):
        def prefill(self, params, tokens, mask, length):
            calls.append(tokens.shape)
            return super().prefill(params, tokens, mask, length)

    options = {"eos_ids": (EOS,), "pad_id": PAD}
    jax.eval_shape(lambda: sampling.generate(Read(CONFIG), *given, **options, group_size=4))
    assert calls == [(2, 3)]
    with pytest.raises(ValueError, match="group_size is 3: a divisor of the 8 rows is allowed"):
        sampling.generate(model, *given, **options, group_size=3)


def test_noise_does_not_depend_on_padding_or_length(decoder, plain, completion):
    _, params, prompt, prompt_mask = decoder
    prompt = jnp.pad(prompt, ((0, 0), (2, 0)), constant_values=7)
    prompt_mask = jnp.pad(prompt_mask, ((0, 0), (2, 0)))
    shorter = plain(params, prompt, prompt_mask, noise(range(8), 6))
    np.testing.assert_array_equal(shorter.tokens, completion.tokens[:, :6])
    np.testing.assert_array_equal(shorter.mask, completion.mask[:, :6])


def test_every_step_draws_anew(decoder, plain, completion):
    """Against a seed that never advances, so that every step has the same noise."""
    _, params, prompt, prompt_mask = decoder
    again = plain(params, prompt, prompt_mask, noise(range(8), 10))
    np.testing.assert_array_equal(again.tokens, completion.tokens)
    later = plain(params, prompt, prompt_mask, noise(range(8), 10, step=1))
    assert np.mean(np.any(np.asarray(later.tokens != completion.tokens), axis=1)) > 0.5


def test_temperature_zero_is_the_arg_max(decoder):
    model, params, prompt, prompt_mask = decoder
    greedy = sampler(model, temperature=0.0)(params, prompt, prompt_mask, noise(range(8), 10))
    best = np.argmax(scores(*decoder, greedy), axis=-1)
    np.testing.assert_array_equal(greedy.tokens, np.where(greedy.mask, best, PAD))
    assert np.all(greedy.logp == 0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.7, "top_k": 5, "top_p": 0.8},
    ],
    ids=str,
)
def test_frequencies_and_logp_are_those_of_the_truncated_distribution(options):
    """Against log-probabilities of the whole distribution where a part of it is sampled."""
    rows, vocab = 8192, 7
    table = np.random.default_rng(0).normal(0, 1.5, (vocab, vocab)).astype(np.float32)
    prompt = jnp.full((rows, 1), 2, jnp.int32)
    # No EOS, so that every second token has a known law: its row of the table.
    draw = sampler(Chain(vocab), eos_ids=(), **options)
    out = draw(jnp.asarray(table), prompt, prompt > 0, noise(range(rows), 2))
    law = np.stack(
        [
            truncated(
                row.astype(np.float64) / options.get("temperature", 1.0),
                options.get("top_k"),
                options.get("top_p"),
            )
            for row in table
        ]
    )
    tokens = np.asarray(out.tokens)
    states = np.concatenate([np.full((rows, 1), 2), tokens[:, :1]], axis=1)
    np.testing.assert_allclose(out.logp, np.log(law[states, tokens]), atol=1e-5)
    for state, drawn in ((2, tokens[:, 0]), (4, tokens[tokens[:, 0] == 4, 1])):
        count = len(drawn)
        frequency = np.bincount(drawn, minlength=vocab) / count
        error = np.sqrt(law[state] * (1 - law[state]) / count)
        assert np.all(np.abs(frequency - law[state]) <= 4 * error)
        assert count > 100


@pytest.fixture(scope="module")
def other():
    """A mixture's other policy: another model with the same vocabulary."""
    model = Decoder(dataclasses.replace(CONFIG, width=12, layers=1, tied=False))
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype), shapes
    )


def mixture(decoder, other, share, uniforms, **options):
    """Completions of the mixture; parameters are traced, the models and the share are not."""
    model, params, prompt, prompt_mask = decoder

    @jax.jit
    def draw(params, partner):
        return sampling.generate(
            model, params, prompt, prompt_mask, uniforms, eos_ids=(EOS,), pad_id=PAD,
            partner=sampling.Partner(other[0], partner, share), **options,
        )  # fmt: skip

    return draw(params, other[1])


def test_the_ends_of_a_mixture_are_its_policies(decoder, other, plain, completion):
    """To the bit, from the same uniforms."""
    _, _, prompt, prompt_mask = decoder
    uniforms = noise(range(8), 10)
    theirs = sampler(other[0])(other[1], prompt, prompt_mask, uniforms)
    assert np.any(np.asarray(theirs.tokens != completion.tokens))
    for share, wanted in ((1, completion), (0, theirs)):
        found = mixture(decoder, other, share, uniforms)
        for name in ("tokens", "mask", "logp", "ended"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_a_mixtures_logp_is_what_two_full_forwards_say(decoder, other):
    """Of the law that was sampled, and neither policy's own; each has its own cache."""
    found = mixture(decoder, other, 0.3, noise(range(8), 10), temperature=0.8)
    own = log_softmax(scores(*decoder, found, temperature=0.8))
    theirs = log_softmax(scores(*other, *decoder[2:], found, temperature=0.8))
    law = np.log(0.3 * np.exp(own) + 0.7 * np.exp(theirs))
    at, mask = np.asarray(found.tokens)[..., None], np.asarray(found.mask)
    wanted, *policies = (np.take_along_axis(x, at, -1)[..., 0] for x in (law, own, theirs))
    np.testing.assert_allclose(found.logp, np.where(mask, wanted, 0), atol=1e-5)
    assert all(np.abs(wanted - logp)[mask].mean() > 0.05 for logp in policies)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.7, "top_k": 5, "top_p": 0.8}], ids=str)
def test_a_mixtures_frequencies_are_its_laws(options):
    """At evenly spread uniforms, to one draw in a thousand; each policy is cut by itself."""
    rows, vocab, share = 1000, 7, 0.3
    tables = np.random.default_rng(0).normal(0, 1.5, (2, vocab, vocab)).astype(np.float32)
    prompt = jnp.full((rows, 1), 2, jnp.int32)
    uniforms = (jnp.arange(rows)[:, None] + 0.5) / rows
    chain = Chain(vocab), jnp.asarray(tables[0]), prompt, prompt > 0
    found = mixture(chain, (Chain(vocab), jnp.asarray(tables[1])), share, uniforms, **options)
    scaled = tables[:, 2].astype(np.float64) / options.get("temperature", 1.0)
    cuts = options.get("top_k"), options.get("top_p")
    own, theirs = (truncated(logits, *cuts) for logits in scaled)
    law = share * own + (1 - share) * theirs
    assert not options or np.any((own == 0) != (theirs == 0))
    tokens = np.asarray(found.tokens)[:, 0]
    assert np.all(np.abs(np.bincount(tokens, minlength=vocab) - rows * law) <= 1)
    np.testing.assert_allclose(found.logp[:, 0], np.log(law[tokens]), atol=1e-5)


def test_ties_at_the_cut_are_kept_and_signs_are_ordered():
    logits = jnp.log(jnp.asarray([[0.1, 0.3, 0.3, 0.1, 0.2]]))  # negative
    kept = sampling.truncated_logits(logits, top_k=1)
    np.testing.assert_array_equal(jnp.isfinite(kept), [[False, True, True, False, False]])
    kept = sampling.truncated_logits(logits, top_p=0.75)
    np.testing.assert_array_equal(jnp.isfinite(kept), [[False, True, True, False, True]])
    mixed = jnp.asarray([[-2.0, 3.0, -0.5, 0.0, 1.0]])
    kept = sampling.truncated_logits(mixed, top_k=4)
    np.testing.assert_array_equal(jnp.isfinite(kept), [[False, True, True, True, True]])


def test_options_that_are_off_cost_nothing():
    logits = jnp.zeros((2, 5))
    plain = jax.make_jaxpr(sampling.truncated_logits)(logits)
    whole = functools.partial(sampling.truncated_logits, top_k=5, top_p=1.0)
    assert not plain.eqns and not jax.make_jaxpr(whole)(logits).eqns


def test_the_loop_ends_when_all_rows_have_ended():
    calls = []
    # 2 -> 3 -> EOS, and 4 -> 4 for ever.
    table = jnp.full((5, 5), -50.0).at[2, 3].set(50).at[3, 1].set(50).at[4, 4].set(50)
    draw = sampler(Chain(5, calls))
    prompt = jnp.asarray([[0, 2], [2, 3], [0, 2]], jnp.int32)
    out = jax.block_until_ready(draw(table, prompt, prompt > 0, noise(range(3), 9)))
    jax.effects_barrier()
    np.testing.assert_array_equal(out.tokens[:, :3], [[3, 1, 0], [1, 0, 0], [3, 1, 0]])
    assert calls == [1, 1, 1]  # the prefill, and two of nine steps
    calls.clear()
    prompt = prompt.at[0, 1].set(4)
    out = jax.block_until_ready(draw(table, prompt, prompt > 0, noise(range(3), 9)))
    jax.effects_barrier()
    np.testing.assert_array_equal(out.mask.sum(1), [9, 1, 2])
    assert calls == [1] * 10


def test_bfloat16_logits_come_out_of_the_matmul_in_float32(decoder):
    """Against logits rounded to bfloat16 before the float32 softmax."""
    _, params, prompt, prompt_mask = decoder
    model = Decoder(dataclasses.replace(CONFIG, dtype="bfloat16"))
    generate = functools.partial(sampling.generate, model, eos_ids=(EOS,), pad_id=PAD)
    # As many rows as nothing else: the matrix is [8, 13], and in bfloat16.
    arguments = (params, prompt[:5], prompt_mask[:5], noise(range(5), 3))
    program = str(jax.make_jaxpr(generate)(*arguments))
    assert "f32[5,13] = dot_general" in program and "bf16[5,13]" not in program
    assert jax.eval_shape(generate, *arguments).logp.dtype == jnp.float32


def test_float64_stays_float64(x64):
    table = jnp.asarray(np.random.default_rng(0).normal(0, 1, (5, 5)))
    prompt = jnp.full((3, 1), 2, jnp.int32)
    out = sampler(Chain(5), top_k=4, top_p=0.9)(table, prompt, prompt > 0, noise(range(3), 1))
    expected = np.log(truncated(np.asarray(table)[2], 4, 0.9)[np.asarray(out.tokens)])
    assert out.logp.dtype == jnp.float64
    np.testing.assert_allclose(out.logp, expected, rtol=1e-12)


@dataclasses.dataclass(frozen=True)
class Padded(Chain):
    """A chain whose last ids are padding, and whose logits are capped."""

    tokens: int = 0
    logit_cap: float | None = None


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.0}], ids=str
)
def test_padded_ids_are_never_drawn(options):
    """However likely they would be."""
    params = jnp.zeros((6, 6)).at[:, 4:].set(9.0)
    prompt = jnp.full((64, 1), 3, jnp.int32)
    model = Padded(6, tokens=4)
    found = sampler(model, **options)(params, prompt, prompt == 3, noise(range(64), 8))
    assert set(np.unique(found.tokens)) <= {0, 1, 2, 3}
    if options != {"temperature": 0.0}:
        assert len(np.unique(found.tokens)) == 4
    assert np.all(np.isfinite(found.logp))
    with pytest.raises(ValueError, match="eos_ids has token 4: 0 to 3 are allowed"):
        sampler(model, eos_ids=(4,))(params, prompt, prompt == 3, noise(range(64), 8))


def test_a_cap_is_of_the_distribution_that_is_drawn():
    """Logits of 0 and 50, capped at 2, are 0 and 2 / temperature."""
    params = jnp.zeros((6, 6)).at[:, 3].set(50.0)
    prompt = jnp.full((64, 1), 3, jnp.int32)
    model = Padded(6, tokens=6, logit_cap=2.0)
    for tau in (1.0, 0.5):
        found = sampler(model, temperature=tau)(params, prompt, prompt == 3, noise(range(64), 8))
        likeliest = np.asarray(found.tokens) == 3
        wanted = np.where(likeliest, 2 / tau, 0) - np.log(np.exp(2 / tau) + 5)
        assert likeliest.any() and not likeliest[np.asarray(found.mask)].all()
        np.testing.assert_allclose(found.logp, np.where(found.mask, wanted, 0), atol=1e-5)

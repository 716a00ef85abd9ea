"""Attention without all scores at once, against the plain formula differentiated in float64."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import layout
from opd.engine import sharding
from opd.model import attention, kernels
from opd.model.decoder import Decoder, DecoderConfig

B, S, H, N, K = 3, 21, 4, 2, 6


def arrays(length=S, heads=H):
    """Rows with padding on the left: none, more than a block of 8, everything."""
    rng = np.random.default_rng(0)
    query, key, value, cotangent = (rng.normal(size=(B, length, n, K)) for n in (heads, N, N, H))
    left = np.array([0, length * 3 // 7, length])
    return (query, key, value), cotangent, np.arange(length)[None] >= left[:, None]


def formula(query, key, value, seen, window, scale, cap):
    """softmax(cap(scale q k)) v of one head and one row at a time, by whom each query sees."""
    length, heads = query.shape[1:3]
    slot = np.arange(length)
    behind = slot[:, None] - slot[None]
    out = []
    for row in range(B):
        near = (behind > 0) & seen[row][None] | (behind == 0)
        near &= behind < (length if window is None else window)
        for head in range(heads):
            shared = head // (heads // N)
            scores = scale * query[row, :, head] @ key[row, :, shared].T
            scores = scores if cap is None else cap * jnp.tanh(scores / cap)
            weights = jax.nn.softmax(jnp.where(near, scores, -jnp.inf), axis=-1)
            out.append(weights @ value[row, :, shared])
    return jnp.moveaxis(jnp.stack(out).reshape(B, heads, length, K), 1, 2)


def wanted(given, cotangent, seen, window=None, scale=0.4, cap=None):
    """The formula and its pull-back, in float64."""
    with jax.enable_x64(True):
        out, pull = jax.vjp(lambda *x: formula(*x, seen, window, scale, cap), *given)
        return jax.tree.map(np.asarray, (out, *pull(jnp.asarray(cotangent))))


def found(given, cotangent, seen, *how, **keys):
    """`over_sequence` and its pull-back, in float32."""
    out, pull = jax.vjp(
        lambda *x: attention.over_sequence(*x, jnp.asarray(seen), *how, **keys),
        *(jnp.asarray(x, jnp.float32) for x in given),
    )
    assert out.dtype == jnp.float32
    return out, *pull(jnp.asarray(cotangent, jnp.float32))


@pytest.fixture
def anywhere(monkeypatch):
    """Kernels run where they aren't made for: a TPU's as an XLA program, in blocks of 128."""
    monkeypatch.setattr(attention, "refuse_elsewhere", lambda how, platform: None)
    monkeypatch.setattr(kernels, "block", lambda length: 128)


def close(found, wanted):
    for left, right in zip(found, wanted, strict=True):
        assert left.shape == right.shape
        assert np.abs(left - right).max() <= 1e-5 * np.abs(right).max()


@pytest.mark.parametrize("how", ["plain", "blockwise", "splash"])
@pytest.mark.parametrize(
    ("window", "cap", "size"),
    [(None, None, 8), (11, None, 8), (3, 1.5, 4), (None, 0.7, 64)],
    ids=["causal", "window", "window and cap", "one block"],
)
def test_attention_and_its_gradient_are_the_formulas(how, window, cap, size, monkeypatch, anywhere):
    monkeypatch.setattr(attention, "sizes", lambda: (1, size))
    given = arrays()
    close(found(*given, (window,), 0, 0.4, cap, how), wanted(*given, window=window, cap=cap))


@pytest.mark.parametrize("how", ["plain", "blockwise", "splash"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_layer_of_a_scan_says_which_window_is_its_own(which, how, monkeypatch, anywhere):
    """Of 300 tokens, in three blocks of 128 or ten of 32; a window skips some."""
    monkeypatch.setattr(attention, "sizes", lambda: (1, 32))
    given = arrays(300)
    windows = (None, 70)
    traced = jax.jit(lambda which: found(*given, windows, which, 0.4, 2.0, how))(which)
    close(traced, wanted(*given, window=windows[which], cap=2.0))


def test_splash_attention_is_in_bfloat16_what_it_is_in_float32(anywhere):
    given, cotangent, seen = arrays(150)

    def made(dtype):
        out, pull = jax.vjp(
            lambda *x: attention.over_sequence(*x, jnp.asarray(seen), how="splash"),
            *(jnp.asarray(x, dtype) for x in given),
        )
        assert out.dtype == dtype
        return [np.asarray(x, np.float32) for x in (out, *pull(jnp.asarray(cotangent, dtype)))]

    for narrow, wide in zip(made(jnp.bfloat16), made(jnp.float32), strict=True):
        assert 0 < np.abs(narrow - wide).max() <= 2e-2 * np.abs(wide).max()


@pytest.mark.parametrize(
    ("sizes", "heads", "moves"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, 4, False),
        ({"fsdp": 8}, 4, False),
        ({"data": 2, "tensor": 4}, 4, True),
        ({"data": 2, "tensor": 4}, 6, False),
    ],
    ids=["heads split", "rows split", "key heads copied", "heads whole"],
)
def test_splash_attention_is_each_devices_own(sizes, heads, moves, anywhere):
    """Where key heads are copied, their gradients meet; elsewhere nothing goes anywhere."""
    mesh = sharding.make_mesh(jax.devices(), **{"data": 1} | sizes)
    (query, key, value), cotangent, seen = arrays(heads=heads)
    cotangent = np.random.default_rng(1).normal(size=query.shape)
    given = [np.concatenate([x] * 8)[:8] for x in (query, key, value, cotangent, seen)]
    *operands, cotangent, seen = (jnp.asarray(x, jnp.float32) for x in given)

    @jax.jit
    def pulled(*operands):
        with layout.by(sharding.Layout(mesh)):
            out, pull = jax.vjp(
                lambda *x: attention.over_sequence(*x, seen > 0, (9,), how="splash"), *operands
            )
        return out, *pull(cotangent)

    close(pulled(*operands), found(operands, cotangent, seen > 0, (9,), how="plain"))
    axes = [("batch", "time", name, "head_dim") for name in ("heads", "kv_heads", "kv_heads")]
    laid = [
        jax.device_put(x, jax.sharding.NamedSharding(mesh, sharding.spec(names, x.shape, mesh)))
        for x, names in zip(operands, axes, strict=True)
    ]
    program = pulled.lower(*laid).compile().as_text()
    moved = re.findall(r"= \S+ (all-gather|all-reduce|all-to-all|collective-permute)\(", program)
    assert bool(moved) is moves


SLIDES = DecoderConfig(
    vocab=19, width=12, layers=2, heads=4, kv_heads=2, head_dim=6, mlp=8, attention_cap=3.0,
    query_scale=0.7, window=5, sliding=(True, False), max_length=40,
)  # fmt: skip


def test_a_rollout_begins_by_a_kernel_in_layers_of_two_kinds(anywhere):
    """What the token after a prompt, padding before it, makes of the prompt's keys and values."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(19, size=(2, 33)), jnp.int32)
    mask = jnp.arange(33)[None] >= jnp.asarray([[0], [9]])

    def hidden(how):
        model = Decoder(SLIDES, attention=how)
        params = model.init(jax.random.key(0))
        cache = model.prefill(params, tokens[:, :-1], mask[:, :-1], 40)
        return model.extend(model.apart(params), cache, tokens[:, -1:], mask[:, -1:])[0]

    np.testing.assert_allclose(hidden("splash"), hidden("plain"), atol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_cudnn_is_asked_for_the_formula(which):
    """By XLA's answer to the same call: rows whose tokens come first, and no mask of all pairs."""
    given, cotangent, seen = arrays()
    cotangent = np.where(seen[:, :, None, None], cotangent, 0)
    windows = (None, 5)
    out, pull = jax.vjp(
        lambda *x: kernels.cudnn(*x, jnp.asarray(seen), which, windows, 0.4, "xla"),
        *(jnp.asarray(x, jnp.float32) for x in given),
    )
    out = np.where(seen[:, :, None, None], out, 0)
    want, *gradients = wanted(given, cotangent, seen, windows[which])
    want = np.where(seen[:, :, None, None], want, 0)
    close((out, *pull(jnp.asarray(cotangent, jnp.float32))), (want, *gradients))


def test_cudnn_is_lowered_for_a_gpu(monkeypatch, anywhere):
    """With cotangents side by side, as several estimators have them; nothing is run."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    query, key = (jax.ShapeDtypeStruct((2, 64, n, 16), jnp.bfloat16) for n in (H, N))

    def pulled(query, key, value):
        _, pull = jax.vjp(
            lambda *x: attention.over_sequence(
                *x, jnp.ones((2, 64), bool), (None, 8), jnp.int32(1), how="cudnn"
            ),
            query, key, value,
        )  # fmt: skip
        return jax.vmap(pull)(jnp.stack([query, query]))

    traced = jax.jit(pulled).trace(query, key, key)
    program = traced.lower(lowering_platforms=("cuda",)).as_text().replace("\\22", '"')
    assert "@__cudnn$fmhaSoftmax(" in program and "@__cudnn$fmhaSoftmaxBackward(" in program
    assert set(re.findall(r'"mask_type": "(\w+)"', program)) == {"CAUSAL"}
    assert set(re.findall(r'"sliding_window_length": (\d+)', program)) == {"0", "8"}
    assert "64x64" not in program


MODEL = DecoderConfig(vocab=8, width=16, layers=1, heads=2, head_dim=8, dtype="bfloat16")


@pytest.mark.parametrize(
    ("how", "changes", "says"),
    [
        ("splash", {"dtype": "float64"}, "float32 and bfloat16"),
        ("cudnn", {"dtype": "float32"}, "bfloat16 is allowed, not float32"),
        ("cudnn", {"head_dim": 12}, "not 12"),
        ("cudnn", {"head_dim": 264}, "not 264"),
        ("cudnn", {"attention_cap": 50.0}, "50.0"),
    ],
)
def test_a_kernel_that_isnt_made_for_a_model_is_refused(how, changes, says):
    Decoder(MODEL, attention=how)
    with pytest.raises(ValueError, match=f"attention = '{how}': .*{says}") as error:
        Decoder(dataclasses.replace(MODEL, **changes), attention=how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("how", "wanted"), [("splash", "tpu"), ("cudnn", "gpu")])
def test_a_kernel_is_refused_elsewhere(how, wanted):
    given, _, seen = arrays()
    with pytest.raises(ValueError, match=f"{how}.*allowed on {wanted}, and this is cpu"):
        attention.over_sequence(*given, seen, how=how)


@pytest.mark.parametrize(
    ("platform", "length", "dtype", "how"),
    [
        ("tpu", 127, "bfloat16", "plain"),
        ("tpu", 128, "bfloat16", "splash"),
        ("tpu", 2048, "float64", "blockwise"),
        ("gpu", 2047, "bfloat16", "plain"),
        ("gpu", 2048, "bfloat16", "blockwise"),
        ("cpu", 255, "float32", "plain"),
        ("cpu", 256, "float32", "blockwise"),
    ],
)
def test_auto_is_a_kernel_on_a_tpu_alone(platform, length, dtype, how, monkeypatch):
    monkeypatch.setattr(layout, "platform", lambda: platform)
    assert attention.chosen("auto", length, jnp.dtype(dtype)) == how


def test_blocks_are_large_and_fill_up_little():
    sizes = {length: kernels.block(length) for length in (1, 128, 129, 1279, 1300, 1408, 8703)}
    assert sizes == {1: 128, 128: 128, 129: 256, 1279: 256, 1300: 256, 1408: 512, 8703: 512}


def test_cotangents_side_by_side_are_each_its_own(monkeypatch):
    """Estimators share a forward: their pull-backs are one under vmap."""
    monkeypatch.setattr(attention, "sizes", lambda: (1, 8))
    given, cotangent, seen = arrays()
    given = tuple(jnp.asarray(x, jnp.float32) for x in given)
    _, pull = jax.vjp(
        lambda *x: attention.over_sequence(*x, jnp.asarray(seen), how="blockwise"), *given
    )
    both = jnp.asarray(np.stack([cotangent, cotangent[::-1]]), jnp.float32)
    together = jax.vmap(pull)(both)
    for n in range(2):
        close([each[n] for each in together], pull(both[n]))


def test_long_sequences_hold_no_square_of_scores(monkeypatch):
    """By the choice that is made from the length alone."""
    monkeypatch.setattr(attention, "sizes", lambda: (48, 16))

    def program(length):
        x = jnp.zeros((1, length, 2, 4))
        seen = jnp.ones((1, length), bool)

        def total(x):
            return jnp.sum(attention.over_sequence(x, x, x, seen))

        return jax.jit(jax.grad(total)).lower(x).compile().as_text()

    assert re.search(r"\[[\d,]*47,47\]", program(47))
    long = program(80)
    assert not re.search(r"\[[\d,]*80,80\]", long) and re.search(r"\[[\d,]*16,16\]", long)

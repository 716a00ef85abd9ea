"""Attention a block of scores at a time, against the plain formula differentiated in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.model import attention

B, S, H, N, K = 3, 21, 4, 2, 6
LEFT = np.array([0, 9, S])  # padding: none, more than a block, everything


def arrays():
    rng = np.random.default_rng(0)
    query, key, value, cotangent = (rng.normal(size=(B, S, n, K)) for n in (H, N, N, H))
    return (query, key, value), cotangent, np.arange(S)[None] >= LEFT[:, None]


def formula(query, key, value, seen, window, scale, cap):
    """softmax(cap(scale q k)) v of one head and one row at a time, by whom each query sees."""
    slot = np.arange(S)
    behind = slot[:, None] - slot[None]
    out = []
    for row in range(B):
        near = (behind > 0) & seen[row][None] | (behind == 0)
        near &= behind < (S if window is None else window)
        for head in range(H):
            shared = head // (H // N)
            scores = scale * query[row, :, head] @ key[row, :, shared].T
            scores = scores if cap is None else cap * jnp.tanh(scores / cap)
            weights = jax.nn.softmax(jnp.where(near, scores, -jnp.inf), axis=-1)
            out.append(weights @ value[row, :, shared])
    return jnp.moveaxis(jnp.stack(out).reshape(B, H, S, K), 1, 2)


def close(found, wanted):
    for left, right in zip(found, wanted, strict=True):
        assert np.abs(left - right).max() <= 1e-5 * np.abs(right).max()


@pytest.mark.parametrize("how", ["plain", "blockwise"])
@pytest.mark.parametrize(
    ("window", "cap", "size"),
    [(None, None, 8), (11, None, 8), (3, 1.5, 4), (None, 0.7, 64)],
    ids=["causal", "window", "window and cap", "one block"],
)
def test_attention_and_its_gradient_are_the_formulas(how, window, cap, size, monkeypatch):
    monkeypatch.setattr(attention, "sizes", lambda: (1, size))
    given, cotangent, seen = arrays()
    with jax.enable_x64(True):
        wanted, pull = jax.vjp(lambda *x: formula(*x, seen, window, 0.4, cap), *given)
        wanted = jax.tree.map(np.asarray, (wanted, *pull(jnp.asarray(cotangent))))
    found, pull = jax.vjp(
        lambda *x: attention.over_sequence(*x, jnp.asarray(seen), window, 0.4, cap, how),
        *(jnp.asarray(x, jnp.float32) for x in given),
    )
    assert found.dtype == jnp.float32
    close((found, *pull(jnp.asarray(cotangent, jnp.float32))), wanted)


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

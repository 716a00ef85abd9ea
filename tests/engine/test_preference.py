"""The Bradley-Terry step against finite differences, in parts, and on a mesh."""

import dataclasses
import functools

import jax
import numpy as np
import scene

from opd.engine import preference, programs, sharding
from opd.engine.preference import Pairs
from opd.engine.steps import State
from opd.model.decoder import Decoder
from opd.model.scalar import Scalar
from opd.types import Rollout

COUNT = 4
RATE = 1.0


def pairs() -> Pairs:
    """Prompts of 4 and 3 tokens, completions of 1 to T; sequences of 5 or 10 without padding."""
    rng = np.random.default_rng(0)
    length = np.asarray([[1, 6], [7, 2], [6, 6], [2, 7]])
    mask = np.arange(scene.LENGTH)[None, None] < length[..., None]
    prompt_mask = np.arange(scene.PROMPT)[None] >= np.asarray([[0], [1], [0], [1]])
    return Pairs(
        prompt=rng.integers(2, scene.VOCAB, (COUNT, scene.PROMPT)).astype(np.int32) * prompt_mask,
        prompt_mask=prompt_mask,
        tokens=rng.integers(2, scene.VOCAB, mask.shape).astype(np.int32) * mask,
        mask=mask,
    )


def model(dtype: str = "float32") -> Scalar:
    return Scalar(scene.decoder(8, dtype))


def ready(optimizer, dtype: str = "float32") -> State:
    params = scene.params(model(dtype), 1)
    return State(params, optimizer.init(params), np.int32(0))


@functools.partial(jax.jit, static_argnums=0)
def hidden_of(config, body, tokens):
    """Hidden states of the body; it has no unembedding, as a tied decoder has none."""
    decoder = Decoder(dataclasses.replace(config, tied=True))
    return decoder.hidden(body, tokens, np.ones(tokens.shape, bool))


def scores(scalar: Scalar, params, given: Pairs) -> np.ndarray:
    """Each sequence by itself, without padding: <scale, last hidden state> + offset in NumPy."""
    found = np.zeros((COUNT, 2))
    for row in range(COUNT):
        for side in range(2):
            kept = [
                given.prompt[row][given.prompt_mask[row]],
                given.tokens[row, side][given.mask[row, side]],
            ]
            tokens = np.concatenate(kept)[None]
            hidden = np.asarray(hidden_of(scalar.body.config, params["body"], tokens))
            found[row, side] = hidden[0, -1] @ params["head"]["scale"] + params["head"]["offset"]
    return found


def loss(scored: np.ndarray) -> float:
    """-mean log sigma(chosen - rejected)."""
    return float(np.mean(np.logaddexp(0, scored[:, 1] - scored[:, 0])))


def test_a_step_goes_down_the_gradient_of_the_negative_log_likelihood(x64):
    """A step of plain SGD is the gradient; along a direction it is a central difference."""
    scalar, optimizer, given = model("float64"), scene.Ascent(RATE), pairs()
    state = ready(optimizer, "float64")
    step = functools.partial(preference.preference_step, scalar, optimizer)
    moved, metrics = jax.device_get(jax.jit(step)(state, given))
    gradient = jax.tree.map(lambda old, new: (old - new) / RATE, state.params, moved.params)
    rng = np.random.default_rng(1)
    directions = [
        jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), state.params) for _ in range(3)
    ]
    for direction in [gradient, *directions]:
        ends = [
            jax.tree.map(lambda leaf, way, s=sign: leaf + s * 1e-5 * way, state.params, direction)
            for sign in (1, -1)
        ]
        up, down = (loss(scores(scalar, jax.tree.map(np.asarray, end), given)) for end in ends)
        along = sum(
            np.sum(a * b)
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        np.testing.assert_allclose(along, (up - down) / 2e-5, rtol=1e-6, atol=1e-8)
    scored = scores(scalar, state.params, given)
    margin = scored[:, 0] - scored[:, 1]
    values = {name: float(metric.value()) for name, metric in metrics.items()}
    np.testing.assert_allclose(values["loss"], loss(scored), rtol=1e-9)
    np.testing.assert_allclose(values["margin"], margin.mean(), rtol=1e-9)
    assert values["accuracy"] == np.mean(margin > 0) and 0 < values["accuracy"] < 1
    squares = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(values["gradient_norm"], np.sqrt(squares), rtol=1e-9)
    assert values["tokens"] == given.mask.sum() and moved.step == 1


def test_parts_and_the_mesh_change_nothing():
    scalar, optimizer, params = model(), scene.Ascent(RATE), scene.params(model(), 1)

    def prefer(mesh, parts):
        state = programs.start(mesh, scalar, optimizer, params)
        given = sharding.shard_batch(pairs(), mesh)
        return programs.prefer(mesh, scalar, optimizer, state, given, parts)

    wanted, said = prefer(scene.mesh("one"), 1)
    mesh = scene.mesh("data=2,fsdp=2,tensor=2")
    found, metrics = prefer(mesh, 2)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    where = sharding.param_shardings(scalar, mesh)
    same = jax.tree.map(
        lambda leaf, s: leaf.sharding.is_equivalent_to(s, leaf.ndim), found.params, where
    )
    assert all(jax.tree.leaves(same))
    for key, metric in metrics.items():
        np.testing.assert_allclose(metric.value(), said[key].value(), rtol=1e-4)


def test_a_rollout_is_scored_as_a_side_of_a_pair():
    given, mesh, scalar = pairs(), scene.mesh("data=4,tensor=2"), model()
    params = scene.params(scalar, 1)
    rollout = Rollout(
        prompt=given.prompt,
        prompt_mask=given.prompt_mask,
        tokens=given.tokens[:, 1],
        mask=given.mask[:, 1],
        logp_behavior=np.zeros(given.mask[:, 1].shape, np.float32),
        ended=np.ones(COUNT, bool),
        group=np.arange(COUNT, dtype=np.int32),
        row=np.arange(COUNT, dtype=np.int32),
    )
    scored = programs.preferred(mesh, scalar, params, given)
    np.testing.assert_allclose(scored, scores(scalar, params, given), rtol=1e-4, atol=1e-4)
    found = programs.reward_of(mesh, scalar, params, rollout)
    np.testing.assert_allclose(found, scores(scalar, params, given)[:, 1], rtol=1e-4, atol=1e-4)


def test_a_tie_is_half_right():
    found = preference.figures(np.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]]))
    np.testing.assert_array_equal(found["accuracy"], [0.5, 1, 0])
    np.testing.assert_allclose(found["loss"], np.log([2, 1 + np.exp(-1), 1 + np.exp(3)]), rtol=1e-6)

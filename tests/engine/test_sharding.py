"""The table of rules, and that eight devices do what one does."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from opd import draws
from opd.engine import sampling, sharding
from opd.model.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig(
    vocab=12, width=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp=12, tied=False, max_length=16
)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(jax.devices()[:8], data=2, fsdp=2, tensor=2)


def test_a_mesh_has_the_sizes_asked_for():
    devices = jax.devices()
    assert len(devices) == 8  # see conftest.py
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(fsdp=-1, data=2).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(sharding.make_mesh(devices[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 3},
        {"data": -1, "tensor": 3},
        {"data": -1, "fsdp": -1},
        {"data": 0},
        {"data": 1, "fsdp": -2},
        {"fsdp": 16},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes):
    with pytest.raises(ValueError, match="mesh data=") as error:
        sharding.make_mesh(**sizes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("vocab", "embed"), (12, 8), ("tensor", "fsdp")),
        (("vocab", "embed"), (11, 8), (None, "fsdp")),  # 2 doesn't divide 11
        (("batch", "time", "embed"), (8, 5, 8), (("data", "fsdp"), None, None)),  # fsdp is taken
        (("batch", "time", "embed"), (6, 5, 8), ("data", None, "fsdp")),  # 4 doesn't divide 6
        (("batch", None), (3, 4), (None, None)),
        (("layers", "norm"), (2, 8), (None, None)),
        ((), (), ()),
    ],
)
def test_specs_follow_the_table(mesh, names, shape, expected):
    assert sharding.spec(names, shape, mesh) == PartitionSpec(*expected)


def test_axes_without_a_rule_are_refused(mesh):
    with pytest.raises(ValueError, match="no rule for axis 'voacb'"):
        sharding.spec(("voacb",), (4,), mesh)
    with pytest.raises(ValueError, match="1 axis names"):
        sharding.spec(("vocab",), (4, 4), mesh)


def test_parameters_are_split_by_their_axes(mesh):
    shardings = sharding.param_shardings(Decoder(CONFIG), mesh)
    assert shardings["embedding"].spec == PartitionSpec("tensor", "fsdp")
    assert shardings["layers"]["q"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert shardings["layers"]["k"].spec == PartitionSpec(None, "fsdp", None, None)  # one key head
    assert shardings["layers"]["down"].spec == PartitionSpec(None, "tensor", "fsdp")
    assert shardings["final_norm"]["scale"].is_fully_replicated
    one = sharding.param_shardings(Decoder(CONFIG), sharding.make_mesh(jax.devices()[:1]))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(one))


def test_a_batch_is_split_by_rows(mesh):
    tree = {"tokens": np.zeros((8, 3), np.int32), "odd": np.zeros(7), "number": np.zeros(())}
    placed = sharding.shard_batch(tree, mesh)
    assert placed["tokens"].sharding.spec == PartitionSpec(("data", "fsdp"), None)
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 3)
    assert placed["odd"].sharding.is_fully_replicated
    assert placed["number"].sharding.is_fully_replicated
    assert sharding.replicated(mesh).is_fully_replicated


def test_constrain_lays_out_an_intermediate(mesh):
    @jax.jit
    def double(x):
        return sharding.constrain(2 * x, ("batch", "time", "embed"), mesh)

    out = double(jnp.ones((4, 3, 8)))
    assert out.sharding.shard_shape(out.shape) == (1, 3, 8)


def test_eight_devices_sample_what_one_does(mesh):
    """Noise by counters: the same tokens on any mesh. And no device holds the whole batch."""
    model = Decoder(CONFIG)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes)
    prompt_mask = np.arange(3)[None] >= rng.integers(0, 3, 8)[:, None]
    prompt = np.where(prompt_mask, rng.integers(2, 12, (8, 3)), 0).astype(np.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def step(model, params, prompt, prompt_mask, row):
        uniforms = draws.uniforms(draws.key(0, 0, "action"), row, 9)
        return sampling.generate(
            model, params, prompt, prompt_mask, uniforms, eos_ids=(1,), pad_id=0
        )

    batch = (prompt, prompt_mask, np.arange(8, dtype=np.int32))
    alone = step(model, params, *batch)
    placed = jax.device_put(params, sharding.param_shardings(model, mesh))
    lowered = step.lower(model, placed, *sharding.shard_batch(batch, mesh)).compile()
    together = lowered(placed, *sharding.shard_batch(batch, mesh))
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    np.testing.assert_array_equal(together.mask, alone.mask)
    np.testing.assert_allclose(together.logp, alone.logp, atol=1e-5)
    assert 0 < np.mean(alone.ended) < 1
    caches = set(re.findall(r"f32\[(\d+),1,(?:4,12|12,4)\]", lowered.as_text()))
    assert caches == {"2"}  # [B, N, K, C], [B, N, C, K]: a quarter of the rows on each device


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # and narrowed
def test_shapes_are_found_once_for_each_width_of_numbers(x64):
    """What is kept of a model with 64 bits isn't what it is without, and is the same tree."""
    model = Decoder(DecoderConfig(vocab=8, width=4, layers=1, heads=1, param_dtype="float64"))
    wide = sharding.shapes(model, jnp.result_type(float))
    assert wide is sharding.shapes(model, jnp.result_type(float))
    with jax.enable_x64(False):
        narrow = sharding.shapes(model, jnp.result_type(float))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(wide)} == {"float64"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow)} == {"float32"}
    mesh = sharding.make_mesh()
    assert sharding.param_shardings(model, mesh) is sharding.param_shardings(model, mesh)

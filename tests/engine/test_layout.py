"""Layouts by name: what a device of a mesh holds of activations, caches and the vocabulary."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.scale import hlo
from opd import layout
from opd.engine import programs, sharding
from opd.method import table
from tests.engine import scene

NAME = "data=2,fsdp=2,tensor=2"
OWN = scene.ROWS // 4  # rows of a device
TOKENS = scene.PROMPT + scene.LENGTH


def text(lowered):
    return lowered.compile().as_text()


def arrays(program):
    """Sizes of every array of a program."""
    return {shape.sizes for shape in hlo.every_shape(hlo.parse(program)[0]).values()}


def test_names_mean_nothing_where_nobody_says_what():
    x = jnp.ones((4, 2))
    assert layout.constrain(x, "batch", "no such name") is x
    assert layout.pieces("batch") == 1 and layout.platform() == "cpu"


def test_names_mean_what_the_mesh_says_within_the_call_alone():
    mesh = scene.mesh(NAME)

    @jax.jit
    def laid(x):
        with layout.by(sharding.Layout(mesh)):
            assert layout.pieces("batch") == 4
            found = layout.constrain(x, "batch", "heads")
        assert layout.pieces("batch") == 1
        return found

    assert laid(jnp.ones((8, 4))).sharding.spec == PartitionSpec(("data", "fsdp"), "tensor")


def test_a_mesh_of_one_device_changes_no_program():
    x, one = jnp.ones((4, 2)), sharding.Layout(scene.mesh("one"))
    assert one.constrain(x, ("batch", "heads")) is x


@functools.cache
def update(**how):
    """The update's program for a student that is computed as said, and what it is given."""
    here = scene.ready(scene.mesh(NAME))
    mesh, student, *rest = here.update(table.parse("opd@gamma=1"))
    student = dataclasses.replace(student, **how)
    return programs.update.lower(mesh, student, *rest, parts=2)


def test_between_layers_a_device_has_its_part_of_each_sequence():
    """What a gradient keeps of a layer is its input: [L, rows, S / tensor, D]."""
    kept = arrays(text(update(remat="full")))
    width, length = scene.STUDENT.width, TOKENS - 1  # the last token predicts nothing
    own = OWN // 2  # of a microbatch
    assert length % 2 == 0 and (own, length // 2, width) in kept
    assert not [size for size in kept if size[:2] == (scene.ROWS, length)]  # nobody has all rows


def test_no_program_holds_all_logits_or_all_scores():
    """Nor does it hold them of its own rows: chunks of 3 of 7 tokens, blocks of keys."""
    found, _ = hlo.parse(text(update(attention="blockwise", remat="full")))
    vocab, widths = {scene.VOCAB, scene.VOCAB // 2}, {16, 8, 24, 12}
    assert 0 < hlo.positions(found, vocab, widths) <= OWN // 2 * scene.CHUNK


@pytest.mark.parametrize("rows", [1, 3, 4, 16, 99])
def test_rows_in_parts_are_rows_at_once(rows):
    """A mesh keeps the rows that it has; of 16 rows, parts of 3 at most are parts of 2."""
    here = scene.ready(scene.mesh(NAME))
    teacher = dataclasses.replace(scene.TEACHER, rows=rows)
    params = scene.params(scene.TEACHER, 2)
    found = programs.hidden(here.mesh, teacher, params, here.rollout)
    np.testing.assert_allclose(found, here.head.hidden, atol=1e-5)
    lowered = text(programs.hidden.lower(here.mesh, teacher, params, here.rollout))
    queries = (TOKENS - 1, teacher.config.heads // 2, teacher.config.head_dim)
    at_once = {1: 1, 3: 1, 4: 1, 16: 4, 99: 4}[rows]  # of a device's own 4
    assert {size[0] for size in arrays(lowered) if size[1:] == queries} == {at_once}


def test_rows_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="rows is 0"):
        dataclasses.replace(scene.TEACHER, rows=0)


def loops(program):
    """The text of the computations that run inside a loop whose length depends on data."""
    module, entry = hlo.parse(program)
    return [one for one, times in hlo.walk(module, entry, lambda _: 7) if times % 7 == 0]


def test_decoding_gathers_no_matrix_at_every_token():
    """A token's step moves activations: less than the smallest matrix of a layer.

    Without `gather` jaxlib 0.10 gathers matrices there, and 0.12 doesn't of itself.
    """
    here, student = scene.ready(scene.mesh(NAME)), scene.STUDENT
    rows = sharding.shard_batch(scene.batch(), here.mesh)
    lowered = text(
        programs.rollout.lower(
            here.mesh, student, here.params, **rows, key=jax.random.key(0), sampling=scene.SAMPLING
        )
    )
    kv = student.width * student.config.kv_heads // 2 * student.config.head_dim
    gathered = [
        int(np.prod(shape.sizes))
        for one in loops(lowered)
        if one.opcode in ("all-gather", "all-gather-start")
        for shape in one.shapes
    ]
    assert max(gathered, default=0) < kv
    caches = {size for size in arrays(lowered) if TOKENS in size and len(size) == 4}
    assert caches <= {(OWN, 1, 4, TOKENS), (OWN, 1, TOKENS, 4)}  # a head of the two on each device


def test_a_gathered_rollout_is_the_same():
    here = scene.ready(scene.mesh(NAME))
    rows = sharding.shard_batch(scene.batch(), here.mesh)
    how = {"key": jax.random.key(scene.SEED), "sampling": scene.SAMPLING}
    one, other = (
        programs.rollout(
            here.mesh, dataclasses.replace(scene.STUDENT, gather=gather), here.params, **rows, **how
        )
        for gather in (True, False)
    )
    assert one.digests()[0] == other.digests()[0]


def test_gradients_of_the_vocabulary_meet_once_and_not_at_every_chunk():
    """Within the loop over chunks nothing of the size of [V, D] goes from device to device."""
    module, entry = hlo.parse(text(update()))
    least = scene.VOCAB // 2 * scene.STUDENT.width // 2
    chunks = -(-scene.LENGTH // scene.CHUNK)
    moved = [
        one
        for one, times in hlo.walk(module, entry)
        if times % (2 * chunks) == 0
        and one.opcode.removesuffix("-start") in hlo.COLLECTIVES
        and any(np.prod(shape.sizes) >= least for shape in one.shapes)
    ]
    assert not moved, [one.says for one in moved]


@pytest.mark.parametrize("name", ["data=8", "data=4,tensor=2", NAME])
def test_a_sum_over_devices_is_the_sum_and_lies_in_its_shards(name):
    mesh = scene.mesh(name)
    rows = sharding.row_shards(mesh)
    x = np.random.default_rng(0).normal(size=(rows, 6, 4)).astype(np.float32)

    @jax.jit
    def summed(x):
        with layout.by(sharding.Layout(mesh)):
            return layout.summed(layout.constrain(x, "batch", "vocab", None), "vocab", "embed")

    found = summed(x)
    np.testing.assert_allclose(found, x.sum(0), atol=1e-6)
    want = sharding.spec(("vocab", "embed"), (6, 4), mesh)
    assert found.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, want), 2)
    np.testing.assert_allclose(layout.summed(jnp.asarray(x)), x.sum(0), atol=1e-6)

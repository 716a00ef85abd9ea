"""How a process among several lays arrays out, and which rows are its own: here it has all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import processes
from opd.data.functions import RewardError
from opd.engine import sharding
from opd.run import drawing
from opd.types import Rollout


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(jax.devices()[:8], data=2, fsdp=2, tensor=2)


@pytest.fixture
def among_two(monkeypatch):
    """As if there were another process, without devices, that says nothing."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", lambda text: [text])


@pytest.mark.parametrize("rows", [8, 6])
def test_parts_are_laid_out_as_the_whole_is(mesh, rows, among_two):
    tree = {"a": np.arange(rows * 3.0).reshape(rows, 3), "b": None, "c": jnp.arange(rows)}
    laid = sharding.shard_batch(tree, mesh)
    for name in "ac":
        assert laid[name].sharding == sharding.batch_sharding(mesh, laid[name].shape)
        np.testing.assert_array_equal(laid[name], tree[name])


@pytest.mark.parametrize("rows", [8, 6])
def test_own_rows_are_all_rows_once_where_a_process_has_all(mesh, rows, among_two):
    """Rows that lie on several devices, over `tensor`, are one process's once."""
    tokens = np.arange(rows * 3).reshape(rows, 3)
    laid = sharding.shard_batch((tokens, tokens > 4), mesh)
    own, (found, mask) = sharding.own_rows(*laid)
    assert own.tolist() == list(range(rows))
    np.testing.assert_array_equal(found, tokens)
    np.testing.assert_array_equal(mask, tokens > 4)


class Shard:
    """A part of an array that lies on one of this process's devices."""

    def __init__(self, start, data):
        self.index, self.data = (slice(start, start + len(data)), slice(None)), data


class Parts:
    """An array of which this process has the rows 4, 5 and 0, 1, these on two devices."""

    addressable_shards = tuple(Shard(start, np.full((2, 3), start)) for start in (4, 0, 0))


def test_rows_of_others_are_left_out(among_two):
    own, (found,) = sharding.own_rows(Parts())
    assert own.tolist() == [0, 1, 4, 5]
    assert found[:, 0].tolist() == [0, 0, 4, 4]


def test_rows_are_graded_where_they_lie(mesh, among_two, monkeypatch):
    rollout = sharding.shard_batch(Rollout.of(jnp.ones((8, 3), jnp.int32)), mesh)
    monkeypatch.setattr(
        sharding, "own_rows", lambda *arrays: (np.array([5, 2]), [a[:2] for a in arrays])
    )
    asked = []

    def grade(rows, tokens, mask):
        asked.append(rows.tolist())
        return rows / 2

    reward = np.asarray(drawing.graded(rollout, grade).reward)
    assert asked == [[5, 2]] and reward[[5, 2]].tolist() == [2.5, 1.0]
    assert np.isnan(np.delete(reward, [5, 2])).all()  # another process's, never looked at


def test_a_grader_that_fails_elsewhere_fails_here(mesh, among_two, monkeypatch):
    rollout = sharding.shard_batch(Rollout.of(jnp.ones((8, 3), jnp.int32)), mesh)
    monkeypatch.setattr(processes, "gathered", lambda text: ["raised KeyError", text])
    with pytest.raises(RewardError, match="process 0: raised KeyError"):
        drawing.graded(rollout, lambda rows, tokens, mask: np.zeros(len(rows)))

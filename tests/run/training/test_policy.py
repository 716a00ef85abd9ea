"""A policy's updates: what goes from one to the next, and through a checkpoint."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from opd.method import table
from opd.run.settings import config as configs
from opd.run.store import checkpoint
from opd.run.training import policy, train

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """The debug config, two updates a batch."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    values["reuse"]["updates"] = 2
    values["method"]["name"] = "opd_resampled@k=2"
    config, workdir = configs.build(values), tmp_path_factory.mktemp("policy") / "run"
    return train.prepare(config, workdir, train.check(config, workdir))


def test_bug_12_a_restored_run_goes_on_with_the_same_rollouts_and_draws(learner, tmp_path):
    """Peers re-seed the sampler, replay batches or forget what was in flight when they resume."""
    state, memory, figures = learner.advance(learner.start(), {}, 0)
    with checkpoint.Checkpoints(tmp_path, 1) as kept:
        kept.save(1, state, {"update": 1}, memory)

    def goes_on(state, memory):
        """Three more updates: one on the batch in flight, two on the next."""
        said = []
        for number in (1, 2, 3):
            state, memory, found = learner.advance(state, memory, number)
            tokens = np.asarray(memory["flight"]["rollout"]["tokens"])
            said.append((found["refresh"], found["uses"], float(found["kl"]), tokens))
        return checkpoint.digest(state.params), int(memory["generated"]), said

    digest, generated, straight = goes_on(state, memory)
    fresh = learner.start()
    with checkpoint.Checkpoints(tmp_path, 1) as kept:
        found = kept.restore(checkpoint.abstract(fresh))
    again, counted, resumed = goes_on(found.tree, found.memory)
    assert [line[:2] for line in straight] == [(None, 2), ("updates", 1), (None, 2)]
    assert (digest, generated) == (again, counted) and generated == 2 * 16
    for one, other in zip(straight, resumed, strict=True):
        assert one[:3] == other[:3]
        np.testing.assert_array_equal(one[3], other[3])
    assert not np.array_equal(straight[0][3], straight[1][3])  # the next batch is another
    assert straight[0][2] != straight[2][2]


def test_a_memory_without_arrays_needs_no_folder(tmp_path):
    with checkpoint.Checkpoints(tmp_path, 1) as kept:
        kept.save(1, {"w": np.ones(2)}, {"update": 1}, {})
        found = kept.restore({"w": np.ones(2)})
    assert found.memory == {} and found.note == {"update": 1}


def test_what_is_in_flight_is_packed_without_what_is_not_there(learner):
    _, memory, _ = learner.advance(learner.start(), {}, 0)
    flight = memory["flight"]
    assert flight.keys() == {"rollout", "teacher", "behavior"}
    assert "value" not in flight["rollout"] and "logp_behavior" in flight["rollout"]
    width = learner.teacher.model.width
    assert flight["teacher"].shape == (*flight["rollout"]["tokens"].shape, width)


@pytest.mark.parametrize(("number", "last", "due"), [(0, -1, True), (4, 0, False), (5, 0, True)])
def test_a_probe_is_due_at_the_first_new_rollouts_of_every_n_updates(number, last, due):
    class Asked(policy.Policy):
        def __init__(self):
            pass

        config = configs.Config(probe=configs.ProbeConfig(every=5))

    assert Asked()._due({"probed": last}, number) == due


def test_flops_of_an_update_count_a_rollout_where_one_was_drawn(learner):
    assert learner._flops(fresh=True) > learner._flops(fresh=False) > 0
    assert learner.method == table.parse("opd_resampled@k=2")

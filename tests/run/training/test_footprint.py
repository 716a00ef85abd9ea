"""What a training holds, counted from shapes: as much as its arrays take."""

import dataclasses

import jax
import pytest

from opd.engine import optimizer, programs, sharding
from opd.engine.optimizer import OptimizerConfig
from opd.engine.steps import Critic
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.lora import Lora
from opd.model.scalar import Scalar
from opd.run.training import footprint

PLAIN = DecoderConfig(
    vocab=64, width=16, layers=2, heads=4, max_length=32, tied=False,
    dtype="bfloat16", param_dtype="bfloat16",
)  # fmt: skip
MESHES = {"one": {"data": 1}, "data=2,fsdp=2,tensor=2": {"data": 2, "fsdp": 2, "tensor": 2}}


def mesh(name):
    sizes = MESHES[name]
    count = 1 if name == "one" else 8
    return sharding.make_mesh(jax.devices()[:count], **sizes)


def lying(tree):
    """Bytes on the first device of arrays that are there, single numbers aside."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size > 1]
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("lora", [None, Lora(2, 4.0)], ids=["whole", "adapter"])
def test_it_is_what_the_arrays_take(name, lora):
    here, model = mesh(name), Decoder(dataclasses.replace(PLAIN, lora=lora))
    adam = optimizer.Optimizer(OptimizerConfig(ema=0.9), 1e-3)
    params = programs.init(here, model, 0)
    state = programs.start(here, model, adam, params, Critic(Scalar(model), adam))
    held = footprint.parts(here, model, model, critic=True, average=True)
    assert held["student"] == lying(state.params)
    assert held["its start"] == held["teacher"] == lying(params)
    assert held["Adam's moments"] + held["average"] == lying(state.optimizer)
    assert held["gradients"] == lying(model.trained(state.params))
    # Its offset is one number; with two moments and a gradient there are four of each.
    assert held["critic"] == 4 * (lying(state.critic.params) + 4)


def test_a_master_takes_four_bytes_and_what_is_not_trained_two():
    model, here = Decoder(PLAIN), mesh("one")
    count = sum(leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0))))
    held = footprint.parts(here, model, model)
    assert held == {
        "student": 4 * count,
        "its start": 2 * count,
        "Adam's moments": 8 * count,
        "gradients": 4 * count,
        "teacher": 2 * count,
    }
    assert footprint.parts(here, model, microbatches=2)["gradients"] == 8 * count


def test_a_reward_model_trains_itself_and_grades_at_rest():
    model, here = Decoder(PLAIN), mesh("one")
    held = footprint.parts(here, model, trains="reward")
    whole = footprint.on_device(jax.device_put(Scalar(model).init(jax.random.key(0))))
    assert "student" not in held and held["gradients"] == 2 * held["reward model"]
    assert whole < held["reward model"] < 2 * whole
    assert footprint.parts(here, model, reward=Scalar(model))["grader"] == whole


def test_the_line_has_one_unit():
    held = {"student": 2**31, "Adam's moments": 2**32, "teacher": 2**29}
    assert footprint.line(held, 1) == (
        "memory: 6.5 GiB and activations (student 2, Adam's moments 4, teacher 0.5)"
    )
    assert footprint.line({"student": 3 * 2**10}, 8) == (
        "memory on each of 8 devices: 3 KiB and activations (student 3)"
    )

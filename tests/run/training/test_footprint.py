"""What a training holds, counted from shapes: as much as its arrays take."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import debug
from experiments.scale import hlo
from opd import draws
from opd.engine import optimizer, programs, sharding
from opd.engine.optimizer import OptimizerConfig
from opd.engine.steps import Critic, Sampling
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.lora import Lora
from opd.model.scalar import Scalar
from opd.run.players import folder
from opd.run.settings import config as configs
from opd.run.training import checks, footprint

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
        # All are copies but the embedding, which a rollout in bfloat16 has another one of.
        "a rollout's matrices": 2 * (count - PLAIN.width),  # the final norm is read as it is
        "teacher": 2 * count,
    }
    assert footprint.parts(here, model, microbatches=2)["gradients"] == 8 * count


def test_a_reward_model_trains_itself_and_grades_at_rest():
    model, here = Decoder(PLAIN), mesh("one")
    held = footprint.parts(here, model, trains="reward")
    whole = footprint.on_device(jax.device_put(Scalar(model).init(jax.random.key(0))))
    assert "student" not in held and "a rollout's matrices" not in held
    assert held["gradients"] == 2 * held["reward model"]
    assert whole < held["reward model"] < 2 * whole
    assert footprint.parts(here, model, reward=Scalar(model))["grader"] == whole


def carried(program):
    """Bytes of what the largest loop of a program has from turn to turn."""
    module, _ = hlo.parse(program)
    loops = [one for lines in module.values() for one in lines if one.opcode == "while"]
    return max(sum(shape.bytes for shape in one.shapes) for one in loops)


@pytest.mark.parametrize("name", MESHES)
def test_a_rollout_s_matrices_are_what_its_loop_reads(name):
    """By the compiled program: all that its loop has, but the caches and the embedding it finds."""
    rows, tokens, here = 8, 4, mesh(name)
    sizes = {"vocab": 256, "width": 64, "mlp": 256, "dtype": "float32", "param_dtype": "float32"}
    model = Decoder(dataclasses.replace(PLAIN, **sizes))

    def array(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(here, shape))

    program = programs.rollout.lower(
        here,
        model,
        folder.abstract(model, here, trained=True),
        prompt=array(rows, tokens // 2),
        prompt_mask=array(rows, tokens // 2, dtype=bool),
        group=array(rows),
        row=array(rows),
        key=jax.eval_shape(lambda: draws.key(0, 0, "action")),
        sampling=Sampling(tokens // 2, eos_ids=(1,), pad_id=0),
    ).compile()
    c = model.config
    caches = 2 * c.layers * rows * c.kv_heads * tokens * c.head_dim * 4 // here.size
    found = 0 if here.size > 1 else c.vocab * c.width * 4  # split, it is gathered first
    counted = footprint.parts(here, model)["a rollout's matrices"]
    assert carried(program.as_text()) == pytest.approx(counted + caches + found, abs=1000)


WHO = {
    "opd": (),
    "teacher_behavior": (("teacher",),),
    "gkd": (),  # its other rows are the dataset's
    "gkd@level=token,other=teacher": (("student", "teacher"),),
    "gkd@level=sequence,other=teacher": (("teacher",),),
}


@pytest.mark.parametrize("name", WHO)
def test_who_draws_together_is_counted_together(name, tmp_path):
    """The largest of a training's rollouts: the student's own, or the method's."""
    keys = debug.get_config()
    keys.update_from_flattened_dict({"mesh.data": 8, "method.name": name})
    config = configs.build(keys.to_dict())
    ready = checks.ready(config, ())
    models = {"student": ready.student.model, "teacher": ready.teacher.model}
    one = {
        who: footprint.parts(ready.world.mesh, model)["a rollout's matrices"]
        for who, model in models.items()
    }
    most = max([one["student"], *(sum(one[who] for who in each) for each in WHO[name])])
    said = footprint.said(config, ready, table.parse(name), True)
    assert f" or a rollout's matrices {most / 1024:.3g}" in said, (most, said)


def test_gradients_and_a_rollout_s_matrices_are_not_there_together():
    held = {"student": 2**20, "gradients": 2**20, "a rollout's matrices": 2**21}
    line = "memory: 3 MiB and activations (student 1, gradients 1 or a rollout's matrices 2)"
    assert footprint.line(held, 1) == line
    line = "memory: 3 MiB and activations (student 1, gradients 2 or a rollout's matrices 1)"
    held |= {"gradients": 2**21, "a rollout's matrices": 2**20}
    assert footprint.line(held, 1) == line


def test_the_line_has_one_unit():
    held = {"student": 2**31, "Adam's moments": 2**32, "teacher": 2**29}
    assert footprint.line(held, 1) == (
        "memory: 6.5 GiB and activations (student 2, Adam's moments 4, teacher 0.5)"
    )
    assert footprint.line({"student": 3 * 2**10}, 8) == (
        "memory on each of 8 devices: 3 KiB and activations (student 3)"
    )

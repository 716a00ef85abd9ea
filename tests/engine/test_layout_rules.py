"""A player's own rules: where its arrays lie, that numbers stay, and what can't be done."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.scale import hlo
from opd import layout
from opd.engine import optimizer, programs, sharding
from opd.engine.optimizer import OptimizerConfig
from opd.engine.sharding import ShardingConfig
from opd.method import table
from opd.model import attention, experts, kernels
from opd.model.scalar import Scalar
from tests.engine import scene

NAME = "data=2,fsdp=2,tensor=2"
# By width alone, over both axes; and with the two axes' parts the other way round.
ALONG = ShardingConfig(sequence=(), vocab=(), embed=("fsdp", "tensor"), heads=(), mlp=()).rules
ACROSS = ShardingConfig(
    vocab=("fsdp",), embed=("tensor",), heads=("fsdp",), mlp=("data", "fsdp")
).rules


def ruled(model, rules):
    return dataclasses.replace(model, rules=rules)


def test_the_usual_is_no_rule_of_one_s_own():
    assert ShardingConfig().rules == ()
    assert ShardingConfig(mlp=("fsdp",), rank=("data",)).rules == (
        ("mlp", ("fsdp",)),
        ("rank", ("data",)),
    )
    assert ShardingConfig(heads=()).rules == (("heads", ()), ("kv_heads", ()))
    with pytest.raises(ValueError, match=r"x\.mlp = \('fsdp', 'fsdp'\): each axis of the mesh"):
        ShardingConfig(mlp=("fsdp", "fsdp")).check("x")


def test_parameters_lie_by_the_rules_of_their_model():
    mesh = scene.mesh(NAME)
    found = sharding.param_shardings(ruled(scene.STUDENT, ALONG), mesh)
    assert found["embedding"].spec == PartitionSpec(None, ("fsdp", "tensor"))
    assert found["layers"]["down"].spec == PartitionSpec(None, None, ("fsdp", "tensor"))
    assert found["final_norm"]["scale"].is_fully_replicated
    critic = sharding.param_shardings(Scalar(ruled(scene.STUDENT, ALONG)), mesh)
    assert critic["body"]["layers"] == found["layers"]
    usual = sharding.param_shardings(scene.STUDENT, mesh)
    assert usual["embedding"].spec == PartitionSpec("tensor", "fsdp")


REFUSED = {
    "a size that isn't divided": (
        {"vocab": ("data", "fsdp")},
        r"config\.student\.sharding\.vocab = \('data', 'fsdp'\): not allowed for "
        r"embedding \(26, 16\): 26 is no multiple of 4 devices",
    ),
    "an axis of the mesh that another one has": (
        {"head_dim": ("tensor",)},
        r"sharding\.head_dim = \('tensor',\): not allowed for layers\.k \(1, 16, 2, 4\): "
        r"another of its axes has one of them: .*'kv_heads': 'tensor'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rules_that_can_t_be_followed_are_refused(case):
    said, why = REFUSED[case]
    model = ruled(scene.STUDENT, ShardingConfig(**said).rules)
    with pytest.raises(ValueError, match=why) as error:
        sharding.refuse_unsplit("config.student.sharding", model, scene.mesh(NAME))
    assert "\n" not in str(error.value)
    sharding.refuse_unsplit("config.student.sharding", model, scene.mesh("one"))


@pytest.mark.parametrize("rules", [ALONG, ACROSS])
def test_rules_that_can_be_followed_are_not(rules):
    sharding.refuse_unsplit("x", ruled(scene.STUDENT, rules), scene.mesh(NAME))
    # What the usual rules ask for and a size doesn't give is no mistake: 4 doesn't divide 26 ids.
    mesh = sharding.make_mesh(jax.devices()[:8], data=1, fsdp=2, tensor=4)
    sharding.refuse_unsplit("x", scene.STUDENT, mesh)


CASES = [pytest.param(ALONG, ACROSS), pytest.param(ACROSS, ALONG, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("own", "theirs"), CASES)
def test_numbers_do_not_depend_on_the_rules(own, theirs, monkeypatch):
    """Rollouts token by token; gradients to rounding, and in their parameters' shards."""
    one = scene.ready(scene.mesh("one"))
    wanted = programs.gradients(*one.gradients)
    monkeypatch.setattr(scene, "STUDENT", ruled(scene.STUDENT, own))
    monkeypatch.setattr(scene, "TEACHER", ruled(scene.TEACHER, theirs))
    here = scene.ready(scene.mesh(NAME))
    assert here.rollout.digests()[0] == one.rollout.digests()[0]
    np.testing.assert_allclose(here.stats.kl, one.stats.kl, atol=1e-5)
    found = programs.gradients(*here.gradients)
    where = sharding.param_shardings(scene.STUDENT, here.mesh)
    for a, b, rule in zip(*map(jax.tree.leaves, (found, wanted, where)), strict=True):
        scale = np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True) + 1e-6
        np.testing.assert_allclose(a / scale, np.asarray(b) / scale, atol=2e-5, rtol=0)
        laid = jax.sharding.NamedSharding(here.mesh, PartitionSpec(None, *rule.spec))
        assert a.sharding.is_equivalent_to(laid, a.ndim)


def test_each_of_two_policies_lies_by_its_own_rules():
    """A mixture's rollout: the student's caches by heads, the teacher's not."""
    mesh, share = scene.mesh(NAME), 0.4
    teacher = ruled(scene.TEACHER, ShardingConfig(heads=()).rules)
    program = programs.rollout.lower(
        mesh,
        scene.STUDENT,
        scene.params(scene.STUDENT, 1),
        **sharding.shard_batch(scene.batch(), mesh),
        key=jax.random.key(0),
        sampling=scene.SAMPLING,
        partner=teacher,
        partner_params=scene.params(scene.TEACHER, 2),
        share=share,
    ).compile()
    arrays = {shape.sizes for shape in hlo.every_shape(hlo.parse(program.as_text())[0]).values()}
    tokens, rows = scene.PROMPT + scene.LENGTH, scene.ROWS // 4
    dims = scene.STUDENT.config.head_dim, scene.TEACHER.config.head_dim
    caches = {
        (dim, size[1]) for size in arrays for dim in dims if size in caches_of(rows, dim, tokens)
    }
    assert caches == {(dims[0], 1), (dims[1], 2)}


def caches_of(rows, dim, tokens):
    return [(rows, heads, dim, tokens) for heads in (1, 2)]


def test_a_kernel_s_heads_are_whole(monkeypatch):
    """Where rules cut the heads themselves: a device's product over a part of one is another."""
    monkeypatch.setattr(attention, "refuse_elsewhere", lambda how, platform: None)
    monkeypatch.setattr(kernels, "block", lambda length: 128)
    mesh, rules = scene.mesh(NAME), ShardingConfig(heads=(), head_dim=("tensor",)).rules
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(4, 9, heads, 6)).astype(np.float32) for heads in (4, 2, 2)]

    @functools.partial(jax.jit, static_argnums=0)
    def attended(how, *given):
        with layout.by(sharding.Layout(mesh, rules)):
            return attention.over_sequence(*given, jnp.ones((4, 9), bool), how=how)

    np.testing.assert_allclose(attended("splash", *given), attended("plain", *given), atol=1e-5)


def test_experts_add_up_over_no_rows():
    """Where a rule cuts their inner width by what cuts rows, too: each device has its own rows."""
    mesh, rules = scene.mesh(NAME), ShardingConfig(mlp=("fsdp", "tensor")).rules
    rng = np.random.default_rng(0)
    shapes = (8, 6, 8), (8, 3), (3, 8, 12), (3, 8, 12), (3, 12, 8)
    given = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    how = {"chosen": 2, "normed": True, "activation": jax.nn.silu}

    @jax.jit
    def split(*given):
        with layout.by(sharding.Layout(mesh, rules)):
            return experts.mixed(*given, **how)

    alone = jax.jit(lambda *given: experts.mixed(*given, **how))(*given)
    np.testing.assert_allclose(split(*given), alone, rtol=1e-4, atol=1e-4)


# Vectors, numbers and keys.
SMALL = re.compile(r"\b(scale|step|count|seed|key|total|weight|limited|\w*finite\w*)\b")


@pytest.mark.parametrize("kind", ["update", "probe"])
def test_no_argument_is_whole_on_every_device(kind):
    """Of a compiled program: parameters by `fsdp` and `tensor`, and so masters, moments, averages;
    rollout and hidden states by `data` and `fsdp`."""
    here = scene.ready(scene.mesh(NAME))
    where = sharding.param_shardings(scene.TEACHER, here.mesh)
    matrix = jax.device_put(here.head.unembedding, where["unembedding"])
    head = dataclasses.replace(here.head, unembedding=matrix)
    here = dataclasses.replace(here, head=head)
    if kind == "probe":
        compiled = programs.probe.lower(*here.probe).compile()
    else:
        adam = optimizer.Optimizer(OptimizerConfig(ema=0.9), 1e-3)
        state = programs.start(here.mesh, scene.STUDENT, adam, here.params)
        given = list(here.update(table.parse("opd@gamma=1")))
        given[2:4] = adam, state
        compiled = programs.update.lower(*given).compile()
    entry = compiled.as_text().partition("\nENTRY ")[2]
    arguments = dict(
        reversed(found)
        for found in re.findall(r"parameter\(\d+\), sharding=\{(.*?)\}.*op_name=\"(.*?)\"", entry)
    )
    assert len(arguments) > 30
    few = [name for name, laid in arguments.items() if parts(laid) < 4]
    assert few and not [name for name in few if not SMALL.search(name)], few


def parts(laid):
    """Into how many an array is cut, of XLA's `devices=[2,2,2]<=[8] last_tile_dim_replicate`."""
    tiles = re.match(r"devices=\[([\d,]+)\]", laid)
    if tiles is None:
        return 1
    sizes = list(map(int, tiles[1].split(",")))
    return int(np.prod(sizes[:-1] if "last_tile_dim_replicate" in laid else sizes))

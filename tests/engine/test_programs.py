"""The jitted programs: one device and eight say the same, probe and update are one pull-back."""

import dataclasses
import functools
import inspect
import re

import jax
import numpy as np
import pytest
import scene

from opd import draws, trees
from opd.engine import programs, sharding, steps, vocab
from opd.engine.vocab import Pass
from opd.method import table
from opd.types import Rollout

# How long it takes, and that data=4,tensor=2 cuts along two of the three axes of the last mesh.
MARKS = {"data=8": pytest.mark.slow, "data=4,tensor=2": pytest.mark.deep}
MESHES = [pytest.param(name, marks=MARKS.get(name, ())) for name in scene.MESHES]
SPLIT = MESHES[1:]
METHOD = scene.METHODS[2]  # opd@gamma=1: a local rule, own tokens, and a pass before


@functools.cache
def ready(name):
    """The scene on a mesh; every test of this file shares it."""
    return scene.ready(scene.mesh(name))


@functools.cache
def whole(name):
    """K gradients of the whole batch, on the host."""
    return jax.device_get(programs.gradients(*ready(name).gradients))


@functools.cache
def compiled(name, kind):
    """A program, compiled for a mesh: to run, and to read."""
    here = ready(name)
    if kind == "probe":
        return programs.probe.lower(*here.probe).compile()
    return programs.update.lower(*here.update(METHOD)).compile()


def close(found, wanted, rtol=2e-5):
    """Equal to rounding, on the scale of each leaf of each estimator."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True) + 1e-6
        np.testing.assert_allclose(a / scale, b / scale, atol=rtol, rtol=0)


def logit_squares(here):
    """A rollout's sum_t |dJ/dlogits_t|^2 in its own unit, by group, from logits themselves."""
    mesh, model, params, rollout, teacher, methods, _, uniforms, _, how, *_ = here.probe
    student = programs.head(mesh, model, params, rollout)
    sides = [vocab.Head(vocab.logits(side)) for side in (student, teacher)]
    made, _ = programs.cotangents(*sides, rollout, methods, uniforms, how)
    each = np.sum(np.square(np.asarray(made.hidden, np.float64)), (2, 3))  # [K, B]
    one = each.T * len(each.T) ** 2  # the batch's gradient is a mean over its rollouts
    return one.reshape(scene.GROUPS, -1, len(methods)).mean(1)


@pytest.mark.parametrize("name", MESHES)
def test_the_probe_sums_what_the_gradients_are(name):
    """Sum over groups of Y_g = U times the batch's gradient, columns relative to a reference."""
    _, _, params, rollout, head, _, coefs, uniforms, total, *_ = ready(name).probe
    total, gram, sketch, squares = compiled(name, "probe")(
        params, rollout, head, coefs, uniforms, total
    )
    base = steps.differences(scene.METHODS)
    assert any(at >= 0 for at in base)

    def relative(leaf):
        kept = [row - (leaf[at] if at >= 0 else 0) for row, at in zip(leaf, base, strict=True)]
        return scene.GROUPS * np.stack(kept)

    close(total, jax.tree.map(relative, whole("one")))
    # <sum Y, sum Y> >= 0, and each group's Gram matrix is one: symmetric, no negative eigenvalue.
    assert gram.shape == (scene.GROUPS, len(base), len(base))
    assert sketch.shape == (scene.GROUPS, len(base), scene.SKETCH)
    np.testing.assert_allclose(squares, logit_squares(ready(name)), rtol=1e-4)
    least = np.linalg.eigvalsh(np.asarray(gram, np.float64)).min()
    assert least > -1e-4 * np.abs(gram).max()


@pytest.mark.parametrize("name", SPLIT)
def test_gradients_do_not_depend_on_the_mesh(name):
    close(whole(name), whole("one"))
    found = programs.gram(programs.gradients(*ready(name).gradients))
    np.testing.assert_allclose(found, programs.gram(whole("one")), rtol=1e-4)


@pytest.mark.parametrize("name", MESHES)
def test_an_sgd_update_moves_the_parameters_by_the_gradient(name):
    """Probe and update are one pull-back: with K = 1 and plain SGD, p + rate x gradient."""
    here = ready(name)
    before = jax.device_get(here.params)
    at = scene.METHODS.index(METHOD)
    _, _, _, state, rollout, head, _, seed, _ = here.update(METHOD)
    state, metrics = compiled(name, "update")(state, rollout, head, seed)
    moved = jax.tree.map(lambda new, old: (np.asarray(new) - old)[None], state.params, before)
    close(moved, jax.tree.map(lambda leaf: scene.RATE * leaf[at : at + 1], whole("one")), 1e-4)
    squares = [np.sum(np.square(leaf[at])) for leaf in jax.tree.leaves(whole("one"))]
    np.testing.assert_allclose(metrics["gradient_norm"].value(), np.sqrt(sum(squares)), rtol=1e-4)
    assert int(state.step) == 1


@pytest.mark.parametrize("name", SPLIT)
def test_rollouts_do_not_depend_on_the_mesh(name):
    assert ready(name).rollout.digests()[0] == ready("one").rollout.digests()[0]
    np.testing.assert_allclose(
        ready(name).rollout.logp_behavior, ready("one").rollout.logp_behavior, atol=2e-5
    )


def test_a_mixture_draws_by_both_policies():
    """Its log-probabilities are the mixture's of what both give a token when they are scored."""
    here, share = ready("data=2,fsdp=2,tensor=2"), 0.4
    partner = scene.params(scene.TEACHER, 2)
    drawn = programs.rollout(
        here.mesh, scene.STUDENT, here.params, **sharding.shard_batch(scene.batch(), here.mesh),
        key=draws.key(scene.SEED, scene.STEP, "action"), sampling=scene.SAMPLING,
        partner=scene.TEACHER, partner_params=partner, share=share,
    )  # fmt: skip
    head = programs.head(here.mesh, scene.TEACHER, partner, drawn)
    said = programs.score(here.mesh, scene.STUDENT, here.params, drawn, head, scene.HOW)
    wanted = np.log(share * np.exp(said.logp_student) + (1 - share) * np.exp(said.logp_teacher))
    np.testing.assert_allclose(drawn.logp_behavior, np.where(drawn.mask, wanted, 0), atol=2e-5)
    assert drawn.digests()[0] != here.rollout.digests()[0]


def test_rollouts_do_not_depend_on_the_batch_split():
    mesh, rows = scene.mesh("one"), scene.batch()
    whole = scene.draw(mesh, rows)
    assert 0 < np.mean(whole.ended) < 1 and len({*map(bytes, np.asarray(whole.tokens))}) > 8
    half = scene.ROWS // 2
    for part in (slice(None, half), slice(half, None)):
        drawn = scene.draw(mesh, {key: value[part] for key, value in rows.items()})
        np.testing.assert_array_equal(drawn.tokens, whole.tokens[part])
    assert scene.draw(mesh, rows, scene.SEED + 1).digests()[0] != whole.digests()[0]


@pytest.fixture
def compilations():
    """Grows by one with every program that is compiled."""
    found = []

    def listen(name, seconds, **_):
        if "backend_compile" in name:
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", MESHES)
def test_nothing_is_compiled_twice(name, compilations):
    """Other numbers of the same shapes; what a program hands back as its own next argument."""
    here = ready(name)
    update, probe = list(here.update(METHOD)), list(here.probe)
    first = scene.draw(here.mesh, scene.batch())
    state, total = programs.update(*update)[0], programs.probe(*probe)[0]
    programs.gradients(*here.gradients)
    other = scene.Ready(**vars(here) | {"rollout": scene.rewarded(first)})
    jax.jit(lambda x: 3 * x)(np.float32(1))
    assert compilations  # it does count
    del compilations[:]

    scene.draw(here.mesh, scene.batch(), scene.SEED + 1)
    update[3], probe[8] = state, total
    assert int(programs.update(*update)[0].step) == 2
    programs.probe(*probe)
    programs.gradients(*other.gradients)
    assert compilations == []


def outputs(text, operation):
    """Shapes of what an operation of compiled code makes, tuples taken apart."""
    found = []
    for line in text.splitlines():
        made = re.match(rf"\s*(?:ROOT )?%?\S+ = (.*?) {operation}(?:-start)?\(", line)
        if made:
            shapes = re.findall(r"\w+\[([\d,]*)\]", made[1])
            found += [tuple(map(int, filter(None, shape.split(",")))) for shape in shapes]
    return found


@pytest.mark.parametrize("kind", ["probe", "update"])
@pytest.mark.parametrize("name", SPLIT)
def test_each_device_computes_its_own_rows_of_the_vocabulary(name, kind):
    """Chunked along T, a device's logits are [its rows x c, V]; flattened, they'd be all rows'."""
    mesh = scene.mesh(name)
    rows = scene.GROUP_SIZE if kind == "probe" else scene.ROWS
    own_rows = rows // (mesh.shape["data"] * mesh.shape["fsdp"])
    vocab = scene.VOCAB // mesh.shape["tensor"]
    shapes = outputs(compiled(name, kind).as_text(), "dot")
    logits = [shape for shape in shapes if shape[-1] == vocab]
    assert logits, sorted(set(shapes))
    # A product over a sharded width has all rows of `fsdp` and a part of the width each.
    most = own_rows * scene.CHUNK * mesh.shape["fsdp"]
    assert {int(np.prod(shape[:-1])) for shape in logits} <= {own_rows * scene.CHUNK, most}
    assert not [shape for shape in shapes if shape[-1] == scene.VOCAB != vocab]


@functools.cache
def sums(name):
    """Running sums of K gradients, laid out as the probe has them."""
    return ready(name).probe[8]


@pytest.mark.parametrize("name", SPLIT)
def test_inner_products_gather_nothing(name):
    """A Gram matrix by reshape to [K, -1] would gather K x params on every device."""
    text = programs.gram.lower(sums(name)).compile().as_text()
    assert outputs(text, "all-gather") == [] and outputs(text, "dot")


@pytest.mark.xfail(reason="a leaf is flattened for its sketch: K x leaf are gathered, one by one")
@pytest.mark.parametrize("name", [SPLIT[-1]])
def test_sketches_gather_less_than_a_leaf(name):
    """A reshape of a leaf that is split over the mesh would gather K x leaf on every device."""
    text = jax.jit(lambda tree: trees.sketch(tree, scene.SKETCH)).lower(sums(name)).compile()
    gathered = [int(np.prod(shape)) for shape in outputs(text.as_text(), "all-gather")]
    leaves = [leaf.size for leaf in jax.tree.leaves(sums(name))]
    assert max(gathered, default=0) < max(leaves)


def test_no_estimator_leaks_into_another():
    """Beside `opd`, a row with no reward has a zero column, and `opd` is what it is alone.

    At the size of a run: a jaxlib with a fault in its sums gets small programs right.
    """
    mesh, rows, prompt, length = scene.mesh("one"), 64, 20, 80
    config = dataclasses.replace(
        scene.STUDENT.config, vocab=64, width=128, head_dim=32, mlp=128, tied=True, max_length=100
    )
    model = type(scene.STUDENT)(config)
    rng = np.random.default_rng(0)
    full = np.ones((rows, length), bool)
    rollout = Rollout(
        prompt=rng.integers(0, 64, (rows, prompt)).astype(np.int32),
        prompt_mask=np.ones((rows, prompt), bool),
        tokens=rng.integers(0, 64, (rows, length)).astype(np.int32),
        mask=full,
        logp_behavior=np.zeros((rows, length), np.float32),
        ended=full[:, 0],
        group=np.arange(rows, dtype=np.int32) // 4,
        row=np.arange(rows, dtype=np.int32),
        reward=np.zeros(rows, np.float32),
    )
    student, teacher = (programs.init(mesh, model, seed) for seed in (1, 2))
    head = programs.head(mesh, model, teacher, rollout)
    opd, reinforce = table.parse("opd"), table.parse("reinforce")
    run = functools.partial(programs.gradients, mesh, model, student, rollout, head)
    how = Pass(chunk=40)
    together = jax.device_get(run((opd, reinforce), None, how))
    alone = jax.device_get(run((opd,), None, how))
    assert all(not leaf[1].any() for leaf in jax.tree.leaves(together))
    close(jax.tree.map(lambda leaf: leaf[:1], together), alone)


PROGRAMS = {
    name: each for name, each in vars(programs).items() if type(each) is type(programs.gram)
}
# What lies where it lies: on every device, or wherever a caller's own arrays are.
ANYWHERE = {"seed", "key", "uniforms", "coefs", "stats", "student", "tokens", "rules", "decay"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_argument_is_static_or_has_a_layout(name):
    """A new argument whose name says nothing would lie on every device, unseen."""
    named = set(inspect.signature(PROGRAMS[name]).parameters)
    assert named <= set(programs.LAYOUTS) | set(programs.STATIC) | ANYWHERE
    # How a pass is made is told where it runs, and selects the program.
    assert len(PROGRAMS) > 15 and set(programs.LAYOUTS) & set(programs.STATIC) == {"how"}


def test_what_a_program_consumes_is_gone():
    """State and running sums are donated, so that an update holds one copy of them."""
    here = ready("one")
    update, probe = here.update(METHOD), here.probe
    programs.update(*update), programs.probe(*probe)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((update[3], probe[8])))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((here.params, here.rollout)))


@pytest.mark.parametrize("name", ["data=2,fsdp=2,tensor=2"])
def test_results_lie_as_arguments_do(name):
    """Of arrays that come from the host, all on one device: parameters by rule, batches by row."""
    here = ready(name)
    host = jax.device_get((here.params, here.rollout, here.head))
    where = sharding.param_shardings(scene.STUDENT, here.mesh)
    batch = sharding.batch_sharding(here.mesh, here.rollout.mask.shape)
    stats = programs.score(here.mesh, scene.STUDENT, *host, scene.HOW)
    assert stats.kl.sharding.is_equivalent_to(batch, 2)
    made = programs.hidden(here.mesh, scene.STUDENT, *host[:2])
    rows = sharding.batch_sharding(here.mesh, made.shape)
    assert made.sharding.is_equivalent_to(rows, 3) and not made.is_fully_replicated
    head = programs.head(here.mesh, scene.STUDENT, here.params, here.rollout)
    assert head.unembedding is here.params["unembedding"]  # the parameters' own, not a copy
    found = programs.gradients(here.mesh, scene.STUDENT, *host, *here.gradients[5:])
    for leaf, rule in zip(jax.tree.leaves(found), jax.tree.leaves(where), strict=True):
        own = jax.sharding.NamedSharding(here.mesh, jax.P(None, *rule.spec))
        assert leaf.sharding.is_equivalent_to(own, leaf.ndim)

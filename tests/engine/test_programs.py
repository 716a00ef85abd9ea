"""The jitted programs: one device and eight say the same, probe and update are one pull-back."""

import functools
import re

import jax
import numpy as np
import pytest
import scene

from opd.engine import programs, steps

MESHES = [
    name
    if name in ("one", "data=2,fsdp=2,tensor=2")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in scene.MESHES
]
SPLIT = [name for name in MESHES if name != "one"]


@functools.cache
def ready(name):
    """The scene on a mesh; every test of this file shares it."""
    return scene.ready(scene.mesh(name))


@functools.cache
def whole(name):
    """K gradients of the whole batch, on the host."""
    return jax.device_get(programs.gradients(*ready(name).gradients))


def close(found, wanted, rtol=2e-5):
    """Equal to rounding, on the scale of each leaf of each estimator."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True) + 1e-6
        np.testing.assert_allclose(a / scale, b / scale, atol=rtol, rtol=0)


@pytest.mark.parametrize("name", MESHES)
def test_the_probe_sums_what_the_gradients_are(name):
    """Sum over groups of Y_g = U times the batch's gradient, columns relative to a reference."""
    total, gram, sketch = programs.probe(*ready(name).probe)
    base = steps.differences(scene.METHODS)
    assert any(at >= 0 for at in base)

    def relative(leaf):
        kept = [row - (leaf[at] if at >= 0 else 0) for row, at in zip(leaf, base, strict=True)]
        return scene.GROUPS * np.stack(kept)

    close(total, jax.tree.map(relative, whole("one")))
    # <sum Y, sum Y> >= 0, and each group's Gram matrix is one: symmetric, no negative eigenvalue.
    assert gram.shape == (scene.GROUPS, len(base), len(base))
    assert sketch.shape == (scene.GROUPS, len(base), scene.SKETCH)
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
    at = 2  # opd@gamma=1: a local rule, the own tokens, and a pass before the pull-back
    state, metrics = programs.update(*here.update(scene.METHODS[at]))
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


def test_rollouts_do_not_depend_on_the_batch_split():
    mesh, rows = scene.mesh("one"), scene.batch()
    whole = scene.draw(mesh, rows)
    assert 0 < np.mean(whole.ended) < 1 and len({*map(bytes, np.asarray(whole.tokens))}) > 8
    half = scene.ROWS // 2
    for part in (slice(None, half), slice(half, None)):
        drawn = scene.draw(mesh, {key: value[part] for key, value in rows.items()})
        np.testing.assert_array_equal(drawn.tokens, whole.tokens[part])
    assert scene.draw(mesh, rows, scene.SEED + 1).digests()[0] != whole.digests()[0]


def test_nothing_is_compiled_twice():
    """Two calls with the same shapes: one entry in each program's cache."""
    here = ready("one")
    calls = {
        programs.rollout: lambda: scene.draw(here.mesh, scene.batch()),
        programs.probe: lambda: programs.probe(*here.probe),
        programs.update: lambda: programs.update(*here.update(scene.METHODS[0])),
        programs.gradients: lambda: programs.gradients(*here.gradients),
    }
    for program, call in calls.items():
        call()
        size = program._cache_size()
        call()
        assert program._cache_size() == size > 0, program
    # The state and the sums that come out go in again: no layout of theirs is new.
    state = programs.update(*here.update(scene.METHODS[0]))[0]
    total = programs.probe(*here.probe)[0]
    sizes = programs.update._cache_size(), programs.probe._cache_size()
    update, probe = list(here.update(scene.METHODS[0])), list(here.probe)
    update[3], probe[8] = state, total
    programs.update(*update), programs.probe(*probe)
    assert (programs.update._cache_size(), programs.probe._cache_size()) == sizes


@functools.cache
def compiled(name, kind):
    """The optimized code of a program on a mesh."""
    here = ready(name)
    if kind == "probe":
        return programs.probe.lower(*here.probe).compile().as_text()
    return programs.update.lower(*here.update(scene.METHODS[0])).compile().as_text()


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
    shapes = outputs(compiled(name, kind), "dot")
    logits = [shape for shape in shapes if shape[-1] == vocab]
    assert logits, sorted(set(shapes))
    # A product over a sharded width has all rows of `fsdp` and a part of the width each.
    most = own_rows * scene.CHUNK * mesh.shape["fsdp"]
    assert {int(np.prod(shape[:-1])) for shape in logits} <= {own_rows * scene.CHUNK, most}
    assert not [shape for shape in shapes if shape[-1] == scene.VOCAB != vocab]


@pytest.mark.parametrize("name", SPLIT)
def test_no_device_gathers_all_estimators_gradients(name):
    """A Gram matrix by reshape would gather K x params on every device."""
    gathered = outputs(compiled(name, "probe"), "all-gather")
    leaves = [leaf.size for leaf in jax.tree.leaves(ready(name).params)]
    largest = max((int(np.prod(shape)) for shape in gathered), default=0)
    assert largest < len(scene.METHODS) * sum(leaves) / 2

"""The chunked pass over the vocabulary."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from opd.engine import estimator, vocab
from opd.engine.vocab import Head, Pass
from opd.method import facts, table
from opd.types import Coefficients, Rollout

B, T, V, D = 3, 5, 11, 4
MASK = np.arange(T) < np.array([5, 2, 4])[:, None]
NAMES = (
    "opd",
    "opd_sampled",
    "opd_resampled@k=2",
    "opd_topk@k=3",
    "opd_topk@k=3,tail=bucket",
    "soft_label@expectation=sampled",
    "reinforce",
)
WHOLE = Pass(chunk=T)


@dataclasses.dataclass(frozen=True)
class Case:
    """Student and teacher of a vocabulary, tokens and uniforms; float32."""

    student: Head
    teacher: Head
    rollout: Rollout
    uniforms: np.ndarray


def case(seed=0, batch=B, length=T, size=V, scale=1.0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (scale * rng.normal(size=shape)).astype(np.float32)  # noqa: E731
    mask = np.resize(MASK, (batch, length)) if (batch, length) == (B, T) else None
    mask = np.ones((batch, length), bool) if mask is None else mask
    rollout = Rollout(
        prompt=np.zeros((batch, 1), np.int32),
        prompt_mask=np.ones((batch, 1), bool),
        tokens=rng.integers(0, size, size=(batch, length)).astype(np.int32),
        mask=mask,
        logp_behavior=np.zeros((batch, length), np.float32),
        ended=np.ones(batch, bool),
        group=np.arange(batch),
        row=np.arange(batch),
        reward=rng.uniform(size=batch).astype(np.float32),
    )
    # The teacher is wider than the student, as teachers are.
    return Case(
        Head(normal(batch, length, D), normal(size, D)),
        Head(normal(batch, length, D + 2), normal(size, D + 2)),
        rollout,
        rng.uniform(size=(batch, length, 2)).astype(np.float32),
    )


def pull(given: Case, names=NAMES, how=WHOLE):
    """All rows in one pass: (cotangents, statistics)."""
    methods = tuple(map(table.parse, names))
    assert all(facts.pointwise(method) for method in methods)
    return estimator.cotangents(
        given.student, given.teacher, given.rollout, methods, given.uniforms, how
    )


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


@functools.cache
def whole(names=NAMES):
    """The pass in one chunk."""
    return numpy(jax.jit(lambda: pull(case(), names))())


def assert_trees_close(found, wanted, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, wanted)


@pytest.mark.parametrize("chunk", [1, 3, T + 4])
def test_chunks_do_not_matter(chunk):
    """Cotangents and statistics: one token at a time, a padded last chunk, or more than T."""
    found = numpy(jax.jit(lambda: pull(case(), how=Pass(chunk=chunk)))())
    assert_trees_close(found, whole())
    assert found[0].hidden.shape == (len(NAMES), B, T, D)
    assert found[0].unembedding.shape == (len(NAMES), V, D)
    # and the statistics by themselves
    given = case()
    stats = jax.jit(vocab.stats, static_argnums=3)(
        given.student, given.teacher, given.rollout.tokens, Pass(chunk=chunk)
    )
    assert_trees_close(numpy(stats), whole()[1])


@pytest.mark.parametrize("chunk", [2, T])
def test_squares_are_of_the_logits_cotangents(chunk):
    """Of sides that are logits, whose cotangents a pass hands back as they are."""
    given = case(seed=5)
    sides = [Head(vocab.logits(side)) for side in (given.student, given.teacher)]
    methods = tuple(map(table.parse, NAMES))
    asked = *sides, given.rollout, methods, given.uniforms, Pass(chunk=chunk)
    made, stats = estimator.cotangents(*asked, squares=True)
    wanted = np.sum(np.square(np.asarray(made.hidden, np.float64)), -1)  # [K, B, T]
    np.testing.assert_allclose(stats.squares, wanted, rtol=1e-5, atol=1e-12)
    assert np.all(wanted.sum((1, 2)) > 0)
    assert estimator.cotangents(*asked)[1].squares == ()


@pytest.mark.parametrize("positions", [1, 3, 5])
def test_blocks_do_not_matter(positions, monkeypatch):
    """Of a CPU's caches: 15 positions by one, by three and by five."""
    wanted = whole()  # without blocks
    monkeypatch.setitem(vocab.BLOCK, "cpu", positions * V)
    assert WHOLE.sizes(B, T, V) == (T, positions)
    found = numpy(jax.jit(lambda: pull(case()))())
    assert_trees_close(found, wanted)
    given = case()
    stats = vocab.stats(given.student, given.teacher, given.rollout.tokens, WHOLE)
    assert_trees_close(numpy(stats), wanted[1])


@pytest.mark.parametrize("estimators", [1, 6])
@pytest.mark.parametrize("batch, length, size", [(4, 96, 151936), (512, 8192, 151936), (1, 7, 10)])
def test_a_chunk_follows_from_the_shapes(batch, length, size, estimators):
    """At most so many logits on a device, in no more chunks than that takes."""
    for platform, shards in (("cpu", 1), ("tpu", 1), ("gpu", 8)):
        how = Pass(shards=shards, platform=platform)
        chunk, block = how.sizes(batch, length, size, estimators)
        held = vocab.HELD.get(platform, vocab.HELD_ELSEWHERE)
        rows = -(-batch // shards)
        assert 1 <= chunk <= length and batch * chunk % block == 0
        assert chunk == 1 or (2 + estimators) * rows * chunk * size <= held
        fewer = -(-length // chunk) - 1  # chunks that would not do
        assert not fewer or (2 + estimators) * rows * -(-length // fewer) * size > held
        small = platform == "cpu" and block * size <= vocab.BLOCK["cpu"]
        assert small or block == batch * chunk
        assert dataclasses.replace(how, chunk=5).sizes(batch, length, size)[0] == 5


@pytest.mark.parametrize("name", ["opd", "opd_resampled@k=2", "reinforce"])
def test_one_estimator_is_a_column_of_many(name):
    """Rows share forward, statistics and uniforms; none changes another."""
    found = numpy(jax.jit(lambda: pull(case(), (name,)))())
    column = jax.tree.map(lambda leaf: leaf[[NAMES.index(name)]], whole()[0])
    assert_trees_close(found[0], column)


def test_statistics_are_their_definitions():
    given, stats = case(), whole()[1]
    logp, other = (
        log_softmax(np.einsum("btd,vd->btv", *map(np.float64, (h.hidden, h.unembedding))))
        for h in (given.student, given.teacher)
    )
    own = given.rollout.tokens[..., None]
    wanted = {
        "logp_student": np.take_along_axis(logp, own, -1)[..., 0],
        "logp_teacher": np.take_along_axis(other, own, -1)[..., 0],
        "entropy_student": -np.sum(np.exp(logp) * logp, -1),
        "entropy_teacher": -np.sum(np.exp(other) * other, -1),
        "kl": np.sum(np.exp(logp) * (logp - other), -1),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(stats, name), value, atol=1e-5, err_msg=name)


def test_without_a_teacher_its_statistics_are_missing():
    given = case()
    stats = vocab.stats(given.student, None, given.rollout.tokens, Pass(chunk=2))
    np.testing.assert_allclose(stats.logp_student, whole()[1].logp_student, atol=1e-6)
    assert stats.logp_teacher is None and stats.kl is None and stats.entropy_teacher is None


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def intermediates(jaxpr):
    """Every array of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield equation.primitive.name, variable.aval
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, core.ClosedJaxpr | core.Jaxpr),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if isinstance(inner, core.Jaxpr):
                yield from intermediates(inner)


def test_no_array_is_as_large_as_the_logits():
    """Chunks of 2 of 12 tokens; V above K x D, so that nothing else is that large either."""
    length, size = 12, 64
    given = case(length=length, size=size)
    names = ("opd", "opd_sampled", "opd_resampled@k=2", "opd_topk@k=3")
    # inverse_cdf and top-k hold a block for each draw: [B, 2, k, V] at most, k = 2.
    jaxpr = jax.make_jaxpr(lambda: pull(given, names, Pass(chunk=2)))().jaxpr
    found = list(intermediates(jaxpr))
    assert any(aval.shape == (B, 2, size) for _, aval in found)  # the walk goes inside the scan
    largest = max(found, key=lambda item: item[1].size if hasattr(item[1], "size") else 0)
    assert largest[1].size < B * length * size, largest


@functools.cache
def at_temperature(tau):
    return numpy(jax.jit(lambda: pull(case(), ("opd", "soft_label"), Pass(tau, 2)))()[0])


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_one_temperature_serves_both_sides(tau):
    """Cotangents of hidden states and matrix are autodiff of D(softmax(z / tau), teacher's)."""
    given = case()
    mask = given.rollout.mask

    @jax.jit
    def slopes(student):
        def loss(student, forward):
            z = jnp.einsum("btd,vd->btv", student.hidden, student.unembedding)
            y = jnp.einsum("btd,vd->btv", given.teacher.hidden, given.teacher.unembedding)
            logp, other = jax.nn.log_softmax(z / tau), jax.nn.log_softmax(y / tau)
            left, right = (other, logp) if forward else (logp, other)
            each = jnp.sum(jnp.exp(left) * (left - right), -1)
            return jnp.sum(jnp.where(mask, each, 0)) / B

        return [jax.grad(loss)(student, forward) for forward in (False, True)]

    for k, slope in enumerate(slopes(given.student)):
        found = jax.tree.map(lambda leaf, k=k: leaf[k], at_temperature(tau))
        assert_trees_close(found, jax.tree.map(lambda leaf: -np.asarray(leaf), slope), 1e-5)


def test_bfloat16_logits_leave_the_matmul_in_float32():
    """Log-probabilities of a wide bfloat16 head against float64: 50 x nearer than rounded ones."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 3, 64)), jnp.bfloat16)
    matrix = jnp.asarray(rng.normal(size=(50, 64)), jnp.bfloat16)
    exact = np.einsum("btd,vd->btv", np.float64(hidden), np.float64(matrix))
    rounded = np.float64(jnp.asarray(exact, jnp.bfloat16))
    found = vocab.log_softmax(vocab.logits(Head(hidden, matrix)), 1.0)
    assert found.dtype == jnp.float32
    error = np.abs(found - log_softmax(exact)).max()
    assert error < np.abs(log_softmax(rounded) - log_softmax(exact)).max() / 50


def test_float64_stays_float64():
    with jax.enable_x64(True):
        head = Head(jnp.ones((1, 2, 3)), jnp.ones((4, 3)))
        assert vocab.log_softmax(vocab.logits(head), 1.0).dtype == jnp.float64


def test_a_large_vocabulary_and_large_logits_give_numbers():
    """V = 4096 and logits of hundreds of nats in float32."""
    given = case(batch=1, length=2, size=4096, scale=12.0)
    found, stats = numpy(jax.jit(lambda: pull(given, how=Pass(chunk=1)))())
    for leaf in jax.tree.leaves((found, stats)):
        assert np.all(np.isfinite(leaf))
    assert stats.kl.max() > 100
    assert np.all(stats.kl >= 0) and np.all(stats.entropy_student >= 0)


def test_draws_are_the_most_that_one_estimator_needs():
    rules = [table.parse(name).rules for name in ("opd", "opd_resampled@k=3", "opd_topk@k=2")]
    assert vocab.draws(tuple(rules)) == 3
    assert vocab.draws((rules[0],)) == 0
    assert vocab.draws(()) == 0
    assert vocab.draws((rules[1] + rules[2],)) == 4


def test_the_rules_of_one_estimator_draw_from_uniforms_of_their_own():
    """Two resampled terms of a method with uniforms (u, v) are one row at u plus one at v."""
    (rule,) = table.parse("opd_resampled@k=1").rules
    given = case()
    ones = jnp.ones((B, T))

    def pulled(rules, uniforms):
        given_weights = (Coefficients((ones,) * len(rules), 0 * ones),)
        return vocab.pull(
            given.student,
            given.teacher,
            given.rollout.tokens,
            (rules,),
            lambda stats, weights: weights,
            given_weights,
            uniforms,
            Pass(chunk=T),
        )[0].hidden

    @jax.jit
    def run(u):
        return pulled((rule, rule), u), pulled((rule,), u[..., :1]), pulled((rule,), u[..., 1:])

    both, first, second = run(given.uniforms)
    assert not np.allclose(first, second)
    np.testing.assert_allclose(both, first + second, atol=1e-5)


# ------------------------------------------------------------------- caps and padded vocabularies

KNOWN = V - 2  # ids that there are
ROWS = ("opd", "soft_label", "skew@argument=0.1", "opd_sampled")
SIDES = {
    "student capped": ({"cap": 1.5}, {}, 0),
    "teacher capped": ({}, {"cap": 1.5}, 0),
    "as many rows of padding": ({"tokens": KNOWN}, {"tokens": KNOWN}, 0),
    "teacher has more rows": ({"tokens": KNOWN}, {"tokens": KNOWN}, 3),
    "teacher has fewer rows": ({"tokens": KNOWN}, {"tokens": KNOWN}, -1),
    "everything": ({"cap": 1.5, "tokens": KNOWN}, {"cap": 2.5, "tokens": KNOWN}, 3),
    "teacher has the ids alone": ({"tokens": KNOWN}, {}, -2),
}


def sides(name, dtype=np.float64):
    """A case shaped as a row of SIDES says; tokens are ids that there are."""
    student, teacher, rows = SIDES[name]
    given, rng = case(scale=1.5), np.random.default_rng(7)
    wide = jax.tree.map(dtype, (given.student, given.teacher))
    more = 3 * rng.normal(size=(3, D + 2)).astype(dtype)
    matrix = np.concatenate([wide[1].unembedding, more])[: V + rows]
    return dataclasses.replace(
        given,
        student=dataclasses.replace(wide[0], **student),
        teacher=dataclasses.replace(wide[1], unembedding=matrix, **teacher),
        rollout=dataclasses.replace(given.rollout, tokens=given.rollout.tokens % KNOWN),
        uniforms=dtype(given.uniforms),
    )


def full_logp(head, tau, ids):
    """log softmax over the ids that there are, by the plain full logits."""
    logits = head.hidden @ head.unembedding.T
    logits = head.cap * jnp.tanh(logits / head.cap) if head.cap else logits
    exists = (jnp.arange(logits.shape[-1]) < ids)[None, None]
    return jax.nn.log_softmax(jnp.where(exists, logits, -jnp.inf) / tau, axis=-1)[..., :ids]


def plain_losses(student, given, tau):
    """-J of each of ROWS, whole and in the open: what `pull` ascends."""
    ids = student.tokens or V
    logp, other = full_logp(student, tau, ids), full_logp(given.teacher, tau, ids)
    own = given.rollout.tokens[..., None]
    at, there = (jnp.take_along_axis(each, own, -1)[..., 0] for each in (logp, other))
    mixed = jnp.log(0.1 * jnp.exp(other) + 0.9 * jnp.exp(logp))
    losses = (
        jnp.sum(jnp.exp(logp) * (logp - other), -1),
        -jnp.sum(jnp.exp(other) * logp, -1),
        jnp.sum(jnp.exp(other) * (other - mixed), -1),
        -jax.lax.stop_gradient(there - at) * at,
    )
    return [jnp.sum(jnp.where(given.rollout.mask, each, 0)) / B for each in losses]


@pytest.mark.parametrize("name", SIDES)
def test_caps_and_padding_are_autodiff_of_the_full_logits(name, x64):
    given, tau = sides(name), 0.7
    cotangents, stats = numpy(jax.jit(lambda: pull(given, ROWS, Pass(tau, 2)))())

    @jax.jit
    def slopes(student):
        found = jax.jacrev(lambda head: jnp.stack(plain_losses(head, given, tau)))(student)
        ids = student.tokens or V
        return found, full_logp(student, tau, ids), full_logp(given.teacher, tau, ids)

    slope, logp, other = slopes(given.student)
    assert_trees_close(cotangents, jax.tree.map(lambda leaf: -np.asarray(leaf), slope), 1e-12)
    assert np.abs(cotangents.unembedding[:, :KNOWN]).max(axis=(1, 2)).min() > 1e-3
    own = given.rollout.tokens[..., None]
    for field, wanted in {
        "logp_student": np.take_along_axis(logp, own, -1)[..., 0],
        "logp_teacher": np.take_along_axis(other, own, -1)[..., 0],
        "entropy_student": -np.sum(np.exp(logp) * logp, -1),
        "entropy_teacher": -np.sum(np.exp(other) * other, -1),
        "kl": np.sum(np.exp(logp) * (logp - other), -1),
    }.items():
        np.testing.assert_allclose(getattr(stats, field), wanted, atol=1e-12, err_msg=field)


@pytest.mark.parametrize("name", ["everything", "teacher has the ids alone"])
def test_no_row_pushes_padding(name):
    """Rows that draw or take the likeliest as well, in float32: its NEVER squared is infinite."""
    cotangents, stats = numpy(jax.jit(lambda: pull(sides(name, np.float32)))())
    assert np.all(cotangents.unembedding[:, KNOWN:] == 0)
    assert np.abs(cotangents.unembedding).max(axis=(1, 2)).min() > 1e-3
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((cotangents, stats)))

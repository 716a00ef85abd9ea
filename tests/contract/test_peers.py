"""Regression tests for mistakes that distillation code in the field has shipped.

Each test says what went wrong elsewhere and what holds here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import draws
from opd.engine import metrics, programs, sampling, steps, vocab
from opd.engine.optimizer import Optimizer, OptimizerConfig
from opd.engine.steps import Sampling, State
from opd.engine.vocab import Head, Pass
from opd.method import facts, local, reduction, returns, table
from opd.method.coefficients import weights
from opd.types import Coefficients, Max, Mean, Rollout, merge_metrics

B, P, T, V, D = 3, 4, 5, 6, 3
LENGTHS = np.array([5, 2, 3])
MASK = np.arange(T) < LENGTHS[:, None]
PROMPTS = np.array([4, 1, 2])  # real tokens of each prompt
EOS, PAD = 1, 0


@dataclasses.dataclass(frozen=True)
class States:
    """A model whose parameters are its hidden states: gradients say which rows were pushed."""

    vocab: int = V
    tokens: int = V
    width: int = D
    logit_cap: float | None = None
    rules: tuple = ()

    def trained(self, tree):
        return tree

    def with_trained(self, tree, part):
        return part

    def hidden(self, params, tokens, mask):
        return params["hidden"][:, : tokens.shape[1]]

    def unembedding(self, params):
        return params["unembedding"]


@dataclasses.dataclass(frozen=True)
class Chain:
    """A Markov chain: the next token's logits are a row of the parameters [V, V]."""

    vocab: int = V
    tokens: int = V
    width: int = V
    logit_cap: float | None = None
    rules: tuple = ()

    def trained(self, tree):
        return tree

    def with_trained(self, tree, part):
        return part

    def hidden(self, params, tokens, mask):
        return jax.nn.one_hot(tokens, self.vocab, dtype=params.dtype)

    def unembedding(self, params):
        return params.T

    def prefill(self, params, tokens, mask, length):
        return ()

    def grown(self, cache, length):
        return cache

    def apart(self, params):
        return params

    def extend(self, params, cache, tokens, mask):
        return self.hidden(params, tokens, mask), cache


def batch(seed=0, mask=MASK):
    rng = np.random.default_rng(seed)
    return Rollout(
        prompt=rng.integers(2, V, size=(B, P)).astype(np.int32),
        prompt_mask=np.arange(P) >= P - PROMPTS[:, None],
        tokens=rng.integers(0, V, size=(B, T)).astype(np.int32),
        mask=mask,
        logp_behavior=np.zeros((B, T), np.float32),
        ended=np.ones(B, bool),
        group=np.arange(B) // 2,
        row=np.arange(B),
        reward=np.float32([1, 0, 2]),
    )


def states(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"hidden": (B, P + T, D), "unembedding": (V, D)}
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


# Rows of every kind: enumerated, sampled, fresh draws, future, reward, group, batch.
NAMES = (
    "opd",
    "opd_sampled",
    "opd_baseline",
    "opd_resampled@k=2",
    "opd_topk@k=2",
    "opd_topk@k=2,tail=bucket",
    "opd@gamma=0.5",
    "opd_sampled@gamma=1",
    "opd_sampled@normaliser=whiten",
    "soft_label",
    "soft_label@expectation=sampled",
    "grpo",
    "sft@reduction=token_mean",
    "opd@divergence=jsd,argument=0.5",
)


@functools.cache
def program(names=NAMES):
    """Gradients of hidden states [K, B, S, D] and matrix, and statistics: two chunks."""
    methods = tuple(map(table.parse, names))

    @jax.jit
    def run(params, rollout, teacher, uniforms):
        return steps.pull_back(States(), params, rollout, teacher, methods, uniforms, Pass(chunk=3))

    return run


def gradients(rollout=None, params=None, teacher=None, uniforms=None, names=NAMES):
    rng = np.random.default_rng(9)
    rollout = batch() if rollout is None else rollout
    params = states() if params is None else params
    side = states(1) if teacher is None else teacher
    head = Head(side["hidden"][:, P - 1 : P - 1 + T], side["unembedding"])
    uniforms = rng.uniform(size=(B, T, 2)).astype(np.float32) if uniforms is None else uniforms
    return jax.tree.map(np.asarray, program(names)(params, rollout, head, uniforms))


GRADED = np.zeros((B, P + T), bool)  # the rows of the sequence that predict graded tokens
for _b, _n in enumerate(LENGTHS):
    GRADED[_b, P - 1 : P - 1 + _n] = True


@pytest.mark.parametrize(
    ("name", "unit"),
    [("sum", "rollouts"), ("token_mean", "tokens"), ("sequence_mean", "rollouts")],
)
def test_bug_01_the_loss_is_divided_by_what_was_generated(name, unit):
    """An on-policy loss was divided by the labels of the dataset's completions, not by its own.

    Here a uniform grade of 1 is worth mean length, 1 and 1: whatever the prompts' lengths, the
    padding, or what a dataset's completions would have counted.
    """
    grade = reduction.reduce(jnp.asarray(MASK), name).sum()
    wanted = {"sum": LENGTHS.mean(), "token_mean": 1, "sequence_mean": 1}[name]
    assert grade == pytest.approx(wanted, rel=1e-6), unit
    method = table.parse(f"opd@reduction={name}")
    padded = dataclasses.replace(batch(), prompt_mask=np.ones((B, P), bool))
    longer = dataclasses.replace(
        batch(),
        prompt=np.pad(batch().prompt, ((0, 0), (3, 0))),
        prompt_mask=np.pad(batch().prompt_mask, ((0, 0), (3, 0))),
        tokens=np.pad(batch().tokens, ((0, 0), (0, 2))),
        mask=np.pad(MASK, ((0, 0), (0, 2))),
        logp_behavior=np.pad(batch().logp_behavior, ((0, 0), (0, 2))),
    )
    plain = np.asarray(weights(method, batch()).terms[0].candidates)
    np.testing.assert_array_equal(weights(method, padded).terms[0].candidates, plain)
    np.testing.assert_array_equal(weights(method, longer).terms[0].candidates[:, :T], plain)


def test_bug_01_metrics_count_generated_tokens_across_parts():
    """The mean of two microbatches is over their tokens together, and the unit is the name's."""
    rollout = batch()
    stats = gradients()[1]

    def said(rows):
        part = jax.tree.map(lambda leaf: leaf[rows], (rollout, stats))
        return metrics.metrics_of(metrics.Batch(*part))

    joined = merge_metrics(said(slice(0, 1)), said(slice(1, 3)))
    entropy = stats.entropy_student[MASK].mean()
    assert float(joined["entropy_student"].value()) == pytest.approx(entropy, rel=1e-6)
    assert float(joined["tokens"].value()) == LENGTHS.sum()
    per_sequence = np.where(MASK, stats.kl, 0).sum() / B
    assert float(joined["kl"].value()) == pytest.approx(per_sequence, rel=1e-6)


def test_bug_02_a_return_counts_from_its_own_token():
    """Token t's advantage was weighted by gamma^t: late tokens taught nothing.

    Here the return-to-go is the double loop over t' >= t, and the same rewards two tokens later,
    behind padding, have the same returns.
    """
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(B, T)).astype(np.float32)
    wanted = np.zeros((B, T))
    for b, t in zip(*np.nonzero(MASK)):
        later = np.arange(t, LENGTHS[b])
        wanted[b, t] = np.sum(0.7 ** (later - t) * reward[b, later])
    found = returns.discounted(jnp.asarray(reward), jnp.asarray(MASK), 0.7)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    shifted = [jnp.pad(jnp.asarray(x), ((0, 0), (2, 0))) for x in (reward, MASK)]
    np.testing.assert_array_equal(returns.discounted(*shifted, 0.7)[:, 2:], found)


@pytest.mark.parametrize("name", NAMES)
def test_bug_03_the_rows_that_predict_the_completion_get_the_gradient(name):
    """The mask was shifted by one: the row of a token was pushed, not the row that predicts it.

    Here row P - 1 (the prompt's last) to row P + |y| - 2 get a gradient, and no other.
    """
    pushed = np.abs(gradients()[0]["hidden"][NAMES.index(name)]).max(-1)
    np.testing.assert_array_equal(pushed[~GRADED], 0)
    if name != "grpo":  # the reward of the third rollout, alone in its group, teaches nothing
        assert np.all(pushed[GRADED] > 0)
    else:
        assert np.all(pushed[:2][GRADED[:2]] > 0)


def test_bug_03_the_row_pushed_is_pushed_towards_its_token():
    """Demonstrations: row P - 1 + t is pushed by 1_{y_t} - pi, the token it is to predict."""
    params = {"hidden": np.zeros((B, P + T, D), np.float32), "unembedding": states()["unembedding"]}
    found = gradients(params=params)[0]["hidden"][NAMES.index("sft@reduction=token_mean")]
    matrix = params["unembedding"]
    for b, t in zip(*np.nonzero(MASK)):
        wanted = matrix[batch().tokens[b, t]] - matrix.mean(0)
        np.testing.assert_allclose(found[b, P - 1 + t], wanted / LENGTHS.sum(), atol=1e-6)


LOGITS = np.random.default_rng(3).normal(size=(V, V)).astype(np.float32)
HOW = Sampling(length=6, eos_ids=(EOS,), pad_id=PAD)


@functools.cache
def sampler(how):
    @jax.jit
    def run(params, prompt, key):
        rows = prompt.shape[0]
        return steps.rollout_step(
            Chain(),
            params,
            prompt,
            jnp.ones(prompt.shape, bool),
            jnp.zeros(rows, jnp.int32),
            jnp.arange(rows),
            key,
            how,
        )

    return run


def drawn(params, step, seed=0, rows=8, how=HOW):
    prompt = np.full((rows, 1), 2, np.int32)
    key = draws.key(seed, step, "action")
    return jax.tree.map(np.asarray, sampler(how)(params, prompt, key))


def test_bug_04_every_step_draws_other_rollouts():
    """The sampler's seed was a default that nobody advanced: all steps had the same noise.

    Here two steps with a learning rate of zero leave the parameters and differ in their samples;
    going back to a step repeats it.
    """
    optimizer = Optimizer(OptimizerConfig(weight_decay=0.1), 0.0)
    state = State(jnp.asarray(LOGITS), optimizer.init(LOGITS), jnp.zeros((), jnp.int32))
    method = table.parse("sft")
    update = jax.jit(
        lambda state, rollout: steps.update_step(
            Chain(), optimizer, state, rollout, None, method, 0, Pass()
        )
    )
    tokens = []
    for _ in range(3):
        rollout = drawn(state.params, state.step)
        tokens.append(rollout.tokens)
        state, _ = update(state, rollout)
    np.testing.assert_array_equal(state.params, LOGITS)
    assert state.step == 3
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(tokens[left], tokens[right])
    np.testing.assert_array_equal(drawn(state.params, 1).tokens, tokens[1])


@pytest.mark.parametrize("cut", [{"top_p": 0.6}, {"top_k": 2}, {"temperature": 0.5, "top_p": 0.8}])
def test_bug_05_log_probabilities_are_of_the_distribution_sampled(cut):
    """Top-p and top-k cut the distribution; the log-probabilities were those of the uncut one.

    Here the probabilities of the tokens that can be drawn add up to one, and each is the token's
    share of the draws.
    """
    rows = 512
    first = drawn(LOGITS, 0, rows=rows, how=dataclasses.replace(HOW, length=1, **cut))
    tokens, logp = first.tokens[:, 0], first.logp_behavior[:, 0]
    seen, at, counts = np.unique(tokens, return_index=True, return_counts=True)
    assert 1 < len(seen) < V
    np.testing.assert_allclose(np.exp(logp[at]).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(counts / rows, np.exp(logp[at]), atol=4.5 * 0.5 / rows**0.5)


def test_bug_06_the_kl_reported_is_over_the_whole_vocabulary():
    """A KL over the teacher's top-k was small where the student's mass lay outside of it.

    Here the statistic is exact: over 20 nats, where the sum over the set is below one. The rows
    that do leave the tail out say that they are biased.
    """
    teacher = np.full((1, 1, 8), -24.0, np.float32)
    teacher[..., :2] = 0
    student = np.full((1, 1, 8), -8.0, np.float32)
    student[..., 5] = 0
    eye = jnp.eye(8)
    stats = vocab.stats(Head(student, eye), Head(teacher, eye), np.zeros((1, 1), np.int32), Pass())
    logp, other = (x - np.log(np.exp(x).sum()) for x in (student[0, 0], teacher[0, 0]))
    exact = np.sum(np.exp(logp) * (logp - other))
    assert exact > 20 and abs(np.sum((np.exp(logp) * (logp - other))[:2])) < 1
    np.testing.assert_allclose(stats.kl[0, 0], exact, rtol=1e-6)
    for tail in local.TAILS:
        biased = facts.bias(table.parse(f"opd_topk@k=2,tail={tail},topk_from=teacher"))
        assert (biased is None) == (tail in ("sample", "own"))


@pytest.mark.parametrize(
    "name",
    ["k1_loss", "kl_advantage", "opd_sampled@signal=one", "opd_sampled@signal=teacher_kl"],
)
def test_bug_07_objectives_without_a_gradient_are_refused_by_meaning(name):
    """The log ratio as a loss, and a detached KL as an advantage: both have no gradient.

    Here the trainer refuses them, whatever the row is called, and they stay measurable: the
    expectation of their gradient over the token drawn is zero, that of a single draw is not.
    """
    method = table.parse(name)
    with pytest.raises(ValueError, match="zero"):
        facts.trainable(method)
    mean, size = expected_cotangent(name)
    assert size > 0.1
    assert np.abs(mean).max() < 1e-6


def expected_cotangent(name):
    """E over v ~ pi of one row's logit cotangent at one state, every v in turn; and its size."""
    rng = np.random.default_rng(4)
    student, teacher = rng.normal(size=(2, V)).astype(np.float32)
    method = table.parse(name)
    rollout = dataclasses.replace(
        batch(),
        tokens=np.arange(V, dtype=np.int32)[:, None],
        mask=np.ones((V, 1), bool),
        logp_behavior=np.zeros((V, 1), np.float32),
        ended=np.ones(V, bool),
        group=np.arange(V),
        reward=None,
    )

    sides = [Head(jnp.tile(x, (V, 1, 1))) for x in (student, teacher)]
    made, _ = programs.cotangents(*sides, rollout, (method,), None, Pass())
    each = V * np.asarray(made.hidden)[0, :, 0]  # [v, V]; V rollouts share the mean
    prob = np.exp(student) / np.exp(student).sum()
    return prob @ each, np.abs(each).max()


def test_bug_07_the_log_ratio_as_a_reward_has_one():
    """The row that the refusal points to: its expectation is the enumerated row's."""
    assert facts.trainable(table.parse("opd_sampled")) is None
    sampled, enumerated = expected_cotangent("opd_sampled")[0], expected_cotangent("opd")[0]
    np.testing.assert_allclose(sampled, enumerated, atol=1e-6)
    assert np.abs(sampled).max() > 0.05


def test_bug_08_what_stands_off_the_mask_changes_no_gradient():
    """A soft loss ignored the mask: padding was distilled.

    Here tokens, states of student and teacher, log-probabilities and uniforms off the mask may be
    anything; and prompts are never graded.
    """
    rng = np.random.default_rng(7)
    junk = rng.uniform(size=(B, T, 2)).astype(np.float32)
    plain = np.random.default_rng(9).uniform(size=(B, T, 2)).astype(np.float32)
    other_tokens = dataclasses.replace(
        batch(),
        tokens=np.where(MASK, batch().tokens, 3).astype(np.int32),
        logp_behavior=np.where(MASK, 0, np.nan).astype(np.float32),
    )

    def other(side):
        noise = 50 * rng.normal(size=side["hidden"].shape).astype(np.float32)
        return {**side, "hidden": np.where(GRADED[..., None], side["hidden"], noise)}

    found = gradients(
        other_tokens,
        other(states()),
        other(states(1)),
        np.where(MASK[..., None], plain, junk),
    )[0]
    wanted = gradients()[0]
    np.testing.assert_array_equal(found["hidden"][:, ~GRADED], 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def test_bug_10_the_eos_action_is_graded():
    """Padding had the id of EOS: masking padding masked EOS, and nobody learned to stop.

    Here the drawn EOS is on the mask and nothing after it is, it is rewarded like any action, and
    a padding id among the EOS ids is refused.
    """
    rollout = drawn(LOGITS, 0)
    for tokens, mask, ended in zip(rollout.tokens, rollout.mask, rollout.ended, strict=True):
        assert tokens[mask][-1] == EOS or not ended
        assert ended == (EOS in tokens)
        np.testing.assert_array_equal(tokens[~mask], PAD)
    assert 0 < rollout.ended.sum() < len(rollout.ended)
    # A reward for a completion of EOS alone raises its probability after the prompt's token.
    only = dataclasses.replace(
        jax.tree.map(lambda leaf: leaf[:1], rollout),
        tokens=np.array([[EOS, PAD]], np.int32),
        mask=np.array([[True, False]]),
        logp_behavior=np.zeros((1, 2), np.float32),
        ended=np.array([True]),
        reward=np.ones(1, np.float32),
    )
    method = table.parse("reinforce")
    up = steps.pull_back(Chain(), jnp.asarray(LOGITS), only, None, (method,), None, Pass())[0][0]
    prob = np.exp(LOGITS[2]) / np.exp(LOGITS[2]).sum()
    wanted = np.zeros((V, V))
    wanted[2] = np.eye(V)[EOS] - prob
    np.testing.assert_allclose(up, wanted, atol=1e-6)


@pytest.mark.parametrize("eos_ids", [(EOS,), (EOS, 4)])
def test_bug_10_padding_may_not_be_an_eos(eos_ids):
    with pytest.raises(ValueError, match="pad_id") as error:
        sampling.generate(
            Chain(),
            jnp.asarray(LOGITS),
            jnp.full((1, 1), 2),
            jnp.ones((1, 1), bool),
            jnp.zeros((1, 2)),
            eos_ids=eos_ids,
            pad_id=eos_ids[-1],
        )
    assert len(str(error.value).splitlines()) == 1


def test_bug_11_metrics_are_joined_by_their_type():
    """A metric whose key said max was averaged over microbatches.

    Here the type says how parts are joined: `length_max` of two parts is the longest rollout, and
    `log_ratio_max` the largest drift; a Mean that is called max stays a mean.
    """
    rollout, stats = batch(), gradients()[1]
    parts = [
        metrics.metrics_of(
            metrics.Batch(*jax.tree.map(lambda leaf, rows=rows: leaf[rows], (rollout, stats)))
        )
        for rows in (slice(0, 1), slice(1, 3))
    ]
    joined = merge_metrics(*parts)
    assert float(joined["length_max"].value()) == LENGTHS.max() == 5
    assert float(joined["length"].value()) == pytest.approx(LENGTHS.mean())
    drift = np.abs(stats.logp_student[MASK]).max()
    assert float(joined["log_ratio_max"].value()) == pytest.approx(drift)
    named = [
        {"x_max": Mean(jnp.asarray(x), jnp.asarray(1)), "x": Max(jnp.asarray(x))} for x in (1, 4)
    ]
    merged = merge_metrics(*named)
    assert (float(merged["x_max"].value()), float(merged["x"].value())) == (2.5, 4.0)


def test_bug_14_bfloat16_gradients_are_those_of_float32_logits():
    """Logits were rounded to bfloat16 before a float32 softmax: up to a fifth of the gradient.

    Here, with bfloat16 states and matrix, the cotangent differs from float64's by the rounding of
    the result alone: several times less than with rounded logits.
    """
    rng = np.random.default_rng(5)
    size, width = 32, 64
    hidden, teacher = (jnp.asarray(rng.normal(size=(1, 4, width)), jnp.bfloat16) for _ in range(2))
    matrix = jnp.asarray(rng.normal(size=(size, width)), jnp.bfloat16)

    @jax.jit
    def run():
        given = (Coefficients((jnp.ones((1, 4)),), jnp.zeros((1, 4))),)
        return vocab.pull(
            Head(hidden, matrix),
            Head(teacher, matrix),
            jnp.zeros((1, 4), jnp.int32),
            (table.parse("opd").rules,),
            lambda stats, given: given,
            given,
            None,
            Pass(),
        )

    def exact(rounding):
        logp, other = (
            rounding(np.einsum("btd,vd->btv", np.float64(x), np.float64(matrix)))
            for x in (hidden, teacher)
        )
        logp, other = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (logp, other))
        push = np.exp(logp) * (other - logp)
        cotangent = push - push.sum(-1, keepdims=True) * np.exp(logp)
        return cotangent @ np.float64(matrix)

    wanted = exact(lambda x: x)
    rounded = exact(lambda x: np.float64(jnp.asarray(x, jnp.bfloat16)))
    cotangent, stats = run()
    assert stats.kl.dtype == stats.logp_student.dtype == jnp.float32
    error = np.linalg.norm(np.float64(cotangent.hidden[0]) - wanted)
    assert error < 0.005 * np.linalg.norm(wanted)
    assert error < np.linalg.norm(rounded - wanted) / 3


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_bug_15_one_temperature_serves_teacher_and_student(tau):
    """The student was scored at its sampling temperature and the teacher at 1.

    Here KL and gradient are those of softmax(z / tau) on both sides, and a teacher of equal
    logits is at no distance.
    """
    rng = np.random.default_rng(6)
    student, teacher = rng.normal(size=(2, 1, 2, V)).astype(np.float32)
    eye = jnp.eye(V)

    @jax.jit
    def run():
        given = (Coefficients((jnp.ones((1, 2)),), jnp.zeros((1, 2))),)
        found, stats = vocab.pull(
            Head(student, eye),
            Head(teacher, eye),
            jnp.zeros((1, 2), jnp.int32),
            (table.parse("opd").rules,),
            lambda stats, given: given,
            given,
            None,
            Pass(temperature=tau),
        )

        def loss(z):
            logp, other = jax.nn.log_softmax(z / tau), jax.nn.log_softmax(teacher / tau)
            each = jnp.sum(jnp.exp(logp) * (logp - other), -1)
            return jnp.sum(each), each

        same = vocab.stats(
            Head(student, eye), Head(student, eye), jnp.zeros((1, 2), jnp.int32), Pass(tau)
        )
        return found.hidden[0], stats.kl, jax.grad(loss, has_aux=True)(student), same.kl

    found, kl, (slope, wanted), same = run()
    np.testing.assert_allclose(kl, wanted, rtol=1e-5)
    np.testing.assert_allclose(found, -slope, atol=1e-6)
    np.testing.assert_array_equal(same, 0)


def test_a_teacher_that_is_the_student_gives_no_kl_and_no_gradient():
    """The self-test before a first step: zero to rounding wherever theory says so.

    Enumerated rows, since the gradient of a divergence is zero at its minimum; sampled ones of the
    log ratio, since every grade is zero, and their returns too. A soft label's own draw is not.
    """
    quiet = [name for name in NAMES if name.startswith("opd")] + ["soft_label"]
    found, stats = gradients(teacher=states())
    np.testing.assert_array_equal(stats.kl, 0)
    np.testing.assert_array_equal(stats.logp_teacher, stats.logp_student)
    for name in NAMES:
        size = max(np.abs(leaf[NAMES.index(name)]).max() for leaf in jax.tree.leaves(found))
        if name in quiet:
            assert size < 1e-6, (name, size)
        else:
            assert size > 1e-2, (name, size)

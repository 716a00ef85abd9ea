"""Divergences, and the rules that turn one into candidate weights."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.measure import exact
from opd.method import local
from opd.method.local import Rule

ARGUMENTS = (0.1, 0.5, 0.9)
CASES = [
    (name, argument)
    for name, divergence in local.DIVERGENCES.items()
    for argument in (ARGUMENTS if divergence.argument else (None,))
]
N, V = 6, 9


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


RNG = np.random.default_rng(0)
TEACHER, STUDENT = (log_softmax(1.5 * RNG.normal(size=(N, V))) for _ in range(2))


@jax.jit
def everything(teacher, student):
    """(value, weight, push, -d value / d pi) of every divergence, one program."""

    def one(name, argument):
        divergence = local.DIVERGENCES[name]

        def total(prob):
            return jnp.sum(divergence.value(teacher, jnp.log(prob), argument))

        return (
            divergence.value(teacher, student, argument),
            divergence.weight(teacher, student, argument),
            divergence.push(teacher, student, argument),
            -jax.grad(total)(jnp.exp(student)),
        )

    return {case: one(*case) for case in CASES}


@pytest.fixture(scope="module")
def found():
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, everything(TEACHER, STUDENT))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_is_minus_the_slope_of_the_value_and_a_gauge(case, found):
    _, weight, _, slope = found[case]
    gauge = local.DIVERGENCES[case[0]].gauge
    np.testing.assert_allclose(weight, slope + gauge, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_push_is_the_probability_times_the_weight(case, found):
    _, weight, push, _ = found[case]
    np.testing.assert_allclose(push, np.exp(STUDENT) * weight, rtol=1e-12, atol=1e-15)


def kl(a, b):
    return np.sum(np.exp(a) * (a - b), -1)


def mix(share):
    return np.log(share * np.exp(TEACHER) + (1 - share) * np.exp(STUDENT))


WANTED = {
    "reverse_kl": lambda _: kl(STUDENT, TEACHER),
    "forward_kl": lambda _: kl(TEACHER, STUDENT),
    "jeffreys": lambda _: kl(STUDENT, TEACHER) + kl(TEACHER, STUDENT),
    "jsd": lambda b: b * kl(TEACHER, mix(b)) + (1 - b) * kl(STUDENT, mix(b)),
    "skew": lambda a: kl(TEACHER, mix(a)),
    "skew_reverse": lambda a: kl(STUDENT, mix(a)),
    "total_variation": lambda _: np.sum(np.abs(np.exp(STUDENT) - np.exp(TEACHER)), -1) / 2,
}


def test_every_divergence_has_its_formula_and_its_oracle():
    assert set(WANTED) == set(local.DIVERGENCES), (
        "add its closed form to WANTED in tests/method/test_local.py"
    )
    assert set(exact.DIVERGENCES) >= set(local.DIVERGENCES), (
        "add its summand to DIVERGENCES in opd/measure/exact.py"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_add_up_to_the_divergence(case, found):
    np.testing.assert_allclose(found[case][0].sum(-1), WANTED[case[0]](case[1]), rtol=1e-12)
    assert np.all(found[case][0].sum(-1) > 0)


def test_a_student_that_is_its_teacher_is_at_no_distance_and_stays():
    """D = 0, and the push is a multiple of pi: the law's gradient a - |a| pi is 0."""
    with jax.enable_x64(True):
        same = jax.tree.map(np.asarray, everything(STUDENT, STUDENT))
    for case, (value, _, push, _) in same.items():
        np.testing.assert_allclose(value.sum(-1), 0, atol=1e-14, err_msg=str(case))
        gradient = push - push.sum(-1, keepdims=True) * np.exp(STUDENT)
        np.testing.assert_allclose(gradient, 0, atol=1e-14, err_msg=str(case))


# Student and teacher that underflow float32, alone and together; every row normalised.
EXTREME = np.float32([[0, -1e30, -1e30, -200], [-200, 0, -1e30, -50], [-1e30, -103.5, 0, -88]])
RULES = [
    Rule(name, argument, expectation, k, tail, "student" if tail else None)
    for name, argument in CASES
    for expectation, k, tail in (
        ("enumerated", None, None),
        ("resampled", 2, None),
        *(("topk", k, tail) for tail in local.TAILS for k in (1, 4)),
    )
    if argument in (None, 0.5)
] + [Rule("entropy")]


@functools.cache
def extreme_weights():
    """Every rule at every pair of extreme rows, one program."""
    teacher, student = (x.reshape(-1, 4) for x in np.broadcast_arrays(EXTREME[:, None], EXTREME))
    uniforms = np.tile(np.float32([0.0, 0.999]), (len(teacher), 1))

    @jax.jit
    def run():
        return [local.candidate_weights(rule, teacher, student, uniforms) for rule in RULES]

    return dict(zip(RULES, map(np.asarray, run()), strict=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_probabilities_that_underflow_push_finitely(rule):
    """Weights may be as large as the log ratio's 1e30, never NaN and never infinite.

    But for p / pi of a token sampled from a tail whose mass is no normal float32.
    """
    found = extreme_weights()[rule]
    assert found.dtype == np.float32
    if rule.tail == "sample" and rule.divergence in ("forward_kl", "jeffreys"):
        assert not np.any(np.isnan(found))
    else:
        assert np.all(np.isfinite(found))


def test_values_at_probabilities_that_underflow_are_finite():
    teacher, student = (x.reshape(-1, 4) for x in np.broadcast_arrays(EXTREME[:, None], EXTREME))
    run = jax.jit(
        lambda: [local.DIVERGENCES[name].value(teacher, student, arg) for name, arg in CASES]
    )
    for case, value in zip(CASES, run(), strict=True):
        assert np.all(np.isfinite(value)), case


def test_a_token_of_no_probability_on_either_side_is_not_there():
    """-inf in both: d = 0 and a = 0 there, and all is as with -1e30, which underflows."""
    uniforms = np.full((N, 2), 0.5, np.float32)
    few = [rule for rule in RULES if rule.divergence in ("reverse_kl", "jsd") and rule.k != 1]

    @jax.jit
    def run(teacher, student):
        values = [local.DIVERGENCES[name].value(teacher, student, arg) for name, arg in CASES]
        return values, [local.candidate_weights(rule, teacher, student, uniforms) for rule in few]

    def with_token(logp):
        token = np.full((N, 1), logp, np.float32)
        return run(*(np.concatenate([np.float32(x), token], -1) for x in (TEACHER, STUDENT)))

    for found, wanted in zip(*map(jax.tree.leaves, (with_token(-np.inf), with_token(-1e30)))):
        np.testing.assert_array_equal(found[:, V], 0)
        np.testing.assert_array_equal(found, wanted)


WEIGH = jax.jit(local.candidate_weights, static_argnums=0)


def law(push, logp):
    return push - push.sum(-1, keepdims=True) * np.exp(logp)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jeffreys"])
def test_bucket_of_a_sure_student_survives_float32(divergence):
    """pi(not S) of 1e-9 and p(not S) of a half: float32 against float64."""
    teacher = np.array([[0.3, -0.2, 0.5, 0.1, -0.4, 0.2]])
    teacher = log_softmax(teacher)
    student = log_softmax(np.array([[0.4, 0.1, -0.3, -20.1, -19.5, -21.0]]))
    rule = Rule(divergence, None, "topk", 3, "bucket", "student")
    found = WEIGH(rule, np.float32(teacher), np.float32(student), None)
    with jax.enable_x64(True):
        exact = np.asarray(WEIGH(rule, teacher, student, None))
    found = law(np.asarray(found, np.float64), student)
    np.testing.assert_allclose(found, law(exact, student), atol=1e-5)
    assert np.abs(found).max() > 0.1


MEMBERS = jax.jit(local.topk_set, static_argnums=0)


@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_topk_set_has_exactly_k_members_where_values_tie(k, whose):
    """Log-probabilities rounded to bfloat16, as a served teacher's are: ties at the edge."""
    logp = np.asarray(jnp.asarray(RNG.normal(size=(20, 16)), jnp.bfloat16), np.float32) // 1
    assert min(len(np.unique(row)) for row in logp) < 6
    pair = {"student": (np.zeros_like(logp), logp), "teacher": (logp, np.zeros_like(logp))}[whose]
    chosen = np.asarray(MEMBERS(Rule("reverse_kl", None, "topk", k, "drop", whose), *pair))
    assert np.all(chosen.sum(-1) == k)
    for row, member in zip(logp, chosen, strict=True):
        order = np.argsort(-row, kind="stable")[:k]  # ties in vocabulary order
        assert set(order) == set(np.flatnonzero(member))


def test_a_union_holds_both_sets():
    rule = Rule("reverse_kl", None, "topk", 3, "drop", "union")
    chosen = np.asarray(MEMBERS(rule, TEACHER, STUDENT))
    for row, teacher, student in zip(chosen, TEACHER, STUDENT, strict=True):
        assert set(np.flatnonzero(row)) == set(np.argsort(-teacher)[:3]) | set(
            np.argsort(-student)[:3]
        )


def top(tail, uniforms=None, k=3):
    rule = Rule("reverse_kl", None, "topk", k, tail, "student")
    return np.asarray(WEIGH(rule, np.float32(TEACHER), np.float32(STUDENT), uniforms))


ON = np.argsort(np.argsort(-STUDENT, -1), -1) < 3
PUSH = np.exp(STUDENT) * (TEACHER - STUDENT)


def test_tails_off_the_set():
    """Drop and truncate push nothing there and differ by pi; renormalise has no sum."""
    drop, truncate, renormalise = top("drop"), top("truncate"), top("renormalise")
    np.testing.assert_allclose(drop, np.where(ON, PUSH, 0), atol=1e-6)
    np.testing.assert_allclose(drop - truncate, np.where(ON, np.exp(STUDENT), 0), atol=1e-6)
    assert np.all(renormalise[~ON] == 0)
    np.testing.assert_allclose(renormalise.sum(-1), 0, atol=1e-6)


def test_a_sampled_tail_pushes_one_token_off_the_set():
    """Its push is pi(not S) w; u walks through the tail in vocabulary order."""
    rest = np.where(ON, 0, np.exp(STUDENT))
    for share in (0.0, 0.37, 0.9999):
        fresh = top("sample", np.full((N, 1), share, np.float32)) - top("drop")
        hit = (np.cumsum(rest, -1) <= share * rest.sum(-1, keepdims=True)).sum(-1)
        for n in range(N):
            wanted = np.zeros(V)
            wanted[hit[n]] = rest[n].sum() * (TEACHER - STUDENT)[n, hit[n]]
            assert not ON[n, hit[n]]
            np.testing.assert_allclose(fresh[n], wanted, atol=1e-6)


def test_a_topk_of_the_whole_vocabulary_is_the_enumerated_push():
    """Nothing is left to sample or to put into a bucket."""
    uniforms = np.full((N, 1), 0.5, np.float32)
    for tail in ("drop", "sample", "bucket"):
        found = law(top(tail, uniforms, k=V), STUDENT)
        np.testing.assert_allclose(found, law(PUSH, STUDENT), atol=1e-6)


def test_resampled_tokens_share_the_push_evenly():
    """k draws at w / k each, from pi; k hits at 1 / k each, from p, for a soft label."""
    uniforms = RNG.uniform(size=(N, 5)).astype(np.float32)  # one more than are asked for
    for name, proposal in (("reverse_kl", STUDENT), ("forward_kl", TEACHER)):
        rule = Rule(name, None, "resampled", 4)
        found = WEIGH(rule, np.float32(TEACHER), np.float32(STUDENT), uniforms)
        drawn = (np.cumsum(np.exp(proposal), -1)[:, None] <= uniforms[:, :4, None]).sum(-1)
        hits = (drawn[..., None] == np.arange(V)).sum(1) / 4
        weight = TEACHER - STUDENT if name == "reverse_kl" else 1.0
        np.testing.assert_allclose(found, hits * weight, atol=1e-6)


def test_the_entropy_bonus_is_the_gradient_of_the_entropy():
    logits = np.float32(STUDENT)

    @jax.jit
    def both(logits):
        logp = jax.nn.log_softmax(logits)
        entropy = jax.grad(lambda x: -jnp.sum(jax.nn.softmax(x) * jax.nn.log_softmax(x)))
        return local.candidate_weights(Rule("entropy"), None, logp, None), entropy(logits)

    push, gradient = map(np.asarray, both(logits))
    np.testing.assert_allclose(law(push, STUDENT), gradient, atol=1e-6)


def test_a_target_between_the_policies_pulls_half_way_and_not_at_all():
    """Soft labels of softmax(own z_pi + (1 - own) z_p): the teacher's at 0, one's own at 1."""
    for own in (0.0, 0.3, 1.0):
        rule = Rule("forward_kl", own=own)
        found = WEIGH(rule, np.float32(TEACHER), np.float32(STUDENT), None)
        between = np.exp(log_softmax(own * STUDENT + (1 - own) * TEACHER))
        np.testing.assert_allclose(found, between, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(law(np.asarray(found), STUDENT), 0, atol=1e-6)


ASKED = {
    "off_set": local.Statistic("off_set", 3, "student"),
    "optimal_kl": local.Statistic("optimal_kl"),
    "head_share": local.Statistic("head_share"),
    "score_square": local.Statistic("score_square"),
}
ASK = jax.jit(local.statistic, static_argnums=0)
OWN = np.arange(N)[:, None] == np.arange(V)


def test_what_rows_ask_of_a_state():
    assert set(ASKED) == set(local.STATISTICS), "add its definition here"
    teacher, student = np.float32(TEACHER), np.float32(STUDENT)
    found = {name: np.asarray(ASK(asked, teacher, student, OWN)) for name, asked in ASKED.items()}
    np.testing.assert_array_equal(found["off_set"], ~ON[OWN])
    prob, other = np.exp(STUDENT), np.exp(TEACHER)
    for n in range(N):
        score = np.eye(V) - prob[n]
        square = np.sum(score**2, -1)
        # The constant of least variance of (w - b) s in logit space, by least squares.
        slope = np.sqrt(prob[n] * square)
        best = np.sum(slope**2 * (TEACHER - STUDENT)[n]) / np.sum(slope**2)
        assert found["score_square"][n] == pytest.approx(square[n], rel=1e-5)
        assert found["optimal_kl"][n] == pytest.approx(best, rel=1e-4)
        order = np.argsort(-other[n])
        count = 1 + int(np.sum(np.cumsum(other[n][order]) < 0.5))
        gap = np.abs(other - prob)[n]
        assert found["head_share"][n] == pytest.approx(gap[order[:count]].sum() / gap.sum())


def test_an_optimal_baseline_leaves_less_variance_than_any_other_constant():
    """sum_v pi |(w - b) s|^2 is least at it, and more at -KL, at nothing and beside it."""
    teacher, student = TEACHER.astype(np.float32), STUDENT.astype(np.float32)
    best = np.asarray(ASK(ASKED["optimal_kl"], teacher, student, OWN), np.float64)
    prob = np.exp(STUDENT)
    square = 1 - 2 * prob + np.sum(prob**2, -1, keepdims=True)

    def left(b):
        return np.sum(prob * square * (TEACHER - STUDENT - np.reshape(b, (-1, 1))) ** 2, -1)

    for other in (-kl(STUDENT, TEACHER), np.zeros(N), best + 0.1, best - 0.1):
        assert np.all(left(best) < left(other))


def test_what_is_asked_of_extreme_states_is_a_number():
    teacher, student = (x.reshape(-1, 4) for x in np.broadcast_arrays(EXTREME[:, None], EXTREME))
    own = np.arange(len(teacher))[:, None] % 4 == np.arange(4)
    for asked in ASKED.values():
        assert np.all(np.isfinite(ASK(asked, teacher, student, own)))


@pytest.mark.parametrize(
    ("rule", "draws"),
    [
        (Rule("reverse_kl"), 0),
        (Rule("reverse_kl", expectation="resampled", k=3), 3),
        (Rule("reverse_kl", expectation="topk", k=3, tail="sample", topk_from="student"), 1),
        (Rule("reverse_kl", expectation="topk", k=3, tail="drop", topk_from="student"), 0),
        (Rule("entropy"), 0),
    ],
)
def test_how_many_uniforms_a_rule_draws(rule, draws):
    assert rule.draws == draws
    assert rule.teacher == (rule.divergence != "entropy")


def test_arguments_and_papers_are_stated():
    for divergence in local.DIVERGENCES.values():
        assert divergence.paper
        assert divergence.proposal in ("student", "teacher")
        assert math.isfinite(divergence.gauge)

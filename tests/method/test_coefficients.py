"""From a method, a rollout and its statistics to the law's [B, T] weights."""

import contextlib
import dataclasses
import functools

import jax
import numpy as np
import pytest

from opd.engine import programs
from opd.engine.vocab import Head, Pass
from opd.method import facts, local, table
from opd.method.axes import AXES, Origin, Term
from opd.method.coefficients import bounded, coefficients, losses, weights
from opd.method.table import Method
from opd.types import Rollout, TokenStats

B, T, V = 4, 5, 6
LENGTHS = np.array([5, 2, 1, 4])
MASK = np.arange(T) < LENGTHS[:, None]
GROUP = np.array([0, 0, 1, 1])
RNG = np.random.default_rng(0)
REWARD = np.float32([1, 0, 0.5, 2])
STUDENT, TEACHER = (-RNG.exponential(size=(B, T)).astype(np.float32) for _ in range(2))
KL = RNG.exponential(size=(B, T)).astype(np.float32)
BEHAVIOR, PROXIMAL, REFERENCE = (
    (STUDENT + 0.3 * RNG.normal(size=(B, T))).astype(np.float32) for _ in range(3)
)
VALUE, MOVED = RNG.normal(size=(2, B, T)).astype(np.float32)
ENDED = np.array([False, True, True, True])
GRADE = TEACHER - STUDENT

NAMES = (
    "opd",
    "opd_sampled",
    "opd_baseline",
    "opd_resampled",
    "opd@gamma=0.5",
    "opd_sampled@gamma=0.5",
    "opd_sampled@normaliser=whiten",
    "opd_sampled@gamma=1,baseline=leave_one_out",
    "reinforce",
    "grpo",
    "sft@reduction=token_mean",
    "kl_advantage",
    "k1_loss",
    "dapo",
    "grpo@importance=token",
    "gspo",
    "ppo",
    "vtrace",
    "rl_with_reference",
    "rl_with_teacher",
    "opd@importance=prefix",
    "opd_sampled@importance=prefix_inclusive",
    "minillm@returns=mean",
    "reinforce@correction=prefix,correction_rule=none",
)


def rollout(mask=MASK, junk=None, proximal=PROXIMAL):
    def fill(values):
        return values if junk is None else np.where(MASK, values, np.float32(junk))

    return Rollout(
        prompt=np.zeros((B, 1), np.int32),
        prompt_mask=np.ones((B, 1), bool),
        tokens=np.zeros(mask.shape, np.int32),
        mask=mask,
        logp_behavior=fill(BEHAVIOR),
        ended=ENDED,
        group=GROUP,
        row=np.arange(B),
        reward=REWARD,
        logp_proximal=None if proximal is None else fill(proximal),
        logp_reference=fill(REFERENCE),
        value=fill(VALUE),
    )


@functools.cache
def program(methods):
    """Compiled, since leak checking compiles every eager operation anew."""

    @jax.jit
    def run(rollout, stats):
        return [coefficients(m, weights(m, rollout), stats, rollout.group) for m in methods]

    return run


def weighed(*methods, junk=None, moved=None, proximal=PROXIMAL):
    """Each method's coefficients; `junk` stands everywhere off the mask."""

    def fill(values):
        return values if junk is None else np.where(MASK, values, np.float32(junk))

    stats = TokenStats(fill(STUDENT), fill(STUDENT), fill(TEACHER), fill(TEACHER), fill(KL), moved)
    drawn = rollout(junk=junk, proximal=proximal)
    return jax.tree.map(np.asarray, program(methods)(drawn, stats))


@functools.cache
def by_name():
    return dict(zip(NAMES, weighed(*map(table.parse, NAMES)), strict=True))


def loop(reward, gamma, skip=0):
    out = np.zeros((B, T))
    for b, t in zip(*np.nonzero(MASK)):
        later = np.arange(t + skip, LENGTHS[b])
        out[b, t] = np.sum(gamma ** (later - t) * reward[b, later])
    return out


TOTAL = loop(GRADE, 1.0)
PAIRS = REWARD.reshape(2, 2)
GRADED = GRADE[MASK].astype(np.float64)
# The own tokens' advantage by row.
WANTED = {
    "opd": np.zeros((B, T)),
    "opd_sampled": GRADE,
    "opd_baseline": GRADE + KL,
    "opd_resampled": np.zeros((B, T)),
    "opd@gamma=0.5": loop(GRADE, 0.5, skip=1),
    "opd_sampled@gamma=0.5": loop(GRADE, 0.5),
    "opd_sampled@normaliser=whiten": (GRADE - GRADED.mean()) / (GRADED.std() + 1e-4),
    "opd_sampled@gamma=1,baseline=leave_one_out": TOTAL - TOTAL[[1, 0, 3, 2], :1],
    "reinforce": np.broadcast_to(REWARD[:, None], (B, T)),
    "grpo": ((PAIRS - PAIRS.mean(1, keepdims=True)) / (PAIRS.std(1, keepdims=True) + 1e-4))
    .reshape(B, 1)
    .repeat(T, 1),
    "sft@reduction=token_mean": np.full((B, T), B / LENGTHS.sum()),
    "kl_advantage": -KL,
    "k1_loss": np.full((B, T), -1.0),
}
PUBLISHED = [name for name in NAMES if name not in WANTED]  # their oracle: tests/contract


def divided():
    """Every method whose advantage a group's spread divides: signals, returns and baselines."""
    credits = [
        f"gamma=1,returns={returns},baseline={baseline},normaliser=group_std"
        for returns in AXES["returns"].choices
        for baseline in AXES["baseline"].choices
    ]
    ratio = "importance=token,ratio_rule=truncate,high=1"  # V-trace's; it makes nothing larger
    for row in ("opd_sampled", "kl_advantage", "reinforce", "rl_with_reference@penalty=k1"):
        start = row if "@" in row else row + "@"
        of = "reference." if "reference" in row else ""
        for credit in credits:
            keys = f"{credit},{ratio}" if "vtrace" in credit else credit
            name = start + "," * ("@" in row) + ",".join(of + key for key in keys.split(","))
            with contextlib.suppress(ValueError):  # means nothing
                yield table.parse(name)


def equal_totals(values):
    """Values [B, T] whose sum over a rollout is 1 to rounding, whatever it is at each token."""
    last = np.arange(T) == LENGTHS[:, None] - 1
    rest = np.where(MASK & ~last, values, 0)
    return np.where(last, 1 - rest.sum(1, keepdims=True), rest).astype(np.float32)


def test_equal_totals_are_not_divided_by_nothing():
    """No coefficient passes what a number can be of a root mean square of 1, nor is any NaN."""
    methods = tuple(divided())
    assert len(methods) >= 20
    grade, dense = equal_totals(GRADE), equal_totals(RNG.normal(size=(B, T)))
    asked = {it.name: np.abs(dense) for it in facts.statistics(methods)}
    stats = TokenStats(STUDENT, STUDENT, STUDENT + grade, STUDENT, dense, asked=asked)
    drawn = dataclasses.replace(
        rollout(), reward=np.ones(B, np.float32), logp_reference=STUDENT + dense
    )
    for method, found in zip(methods, program(methods)(drawn, stats), strict=True):
        size = np.abs(np.asarray(found.onehot)) * B
        terms = sum(abs(term.coef) * np.sqrt(B * T) for term in method.terms)
        assert np.all(size <= terms * 1.001), (method.name, size.max())


@pytest.mark.parametrize("name", WANTED)
def test_own_tokens_get_the_rows_advantage(name):
    """On the mask, over B; nothing off it."""
    wanted = np.where(MASK, WANTED[name], 0) / B
    np.testing.assert_allclose(by_name()[name].onehot, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", WANTED)
def test_local_rules_get_the_reduction(name):
    method = table.parse(name)
    found = by_name()[name]
    assert len(found.local) == len(method.rules) == (name.partition("@")[0] in ENUMERATED)
    for coef in found.local:
        np.testing.assert_array_equal(coef, MASK / np.float32(B))


ENUMERATED = ("opd", "opd_resampled")


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_what_stands_off_the_mask_does_not_matter(junk):
    found = weighed(*map(table.parse, NAMES), junk=junk)
    for name, coefs in zip(NAMES, found, strict=True):
        for a, b in zip(jax.tree.leaves(coefs), jax.tree.leaves(by_name()[name]), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert np.all(a[~MASK] == 0)


def test_a_pointwise_row_may_be_given_a_slice_of_time():
    stats = TokenStats(STUDENT, STUDENT, TEACHER, TEACHER, KL)
    for name in ("opd_baseline", "grpo", "dapo", "rl_with_reference", "ppo", CORRECTED):
        method = table.parse(name)
        assert facts.pointwise(method)

        @jax.jit
        def run(rollout, stats, method=method):
            part = jax.tree.map(lambda leaf: leaf[:, 1:3], (weights(method, rollout), stats))
            return coefficients(method, *part, rollout.group)

        found, whole = run(rollout(), stats), by_name()[name]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b[:, 1:3], rtol=1e-6, atol=1e-9)


CORRECTED = "reinforce@correction=prefix,correction_rule=none"


def exp_gap(new, old, upto):
    """exp of the summed log-ratio over t' in upto(t) at every token, in float64."""
    gap = np.where(MASK, new.astype(np.float64) - old, 0)
    return np.exp([[gap[b, upto(t)].sum() for t in range(T)] for b in range(B)])


def test_a_local_rule_takes_the_ratio_of_its_state():
    """Of current and proximal policy; where none is kept the behavior is the proximal."""
    method = table.parse("opd@importance=prefix")
    for proximal, old in ((PROXIMAL, PROXIMAL), (None, BEHAVIOR)):
        (found,) = weighed(method, proximal=proximal)
        wanted = np.where(MASK, exp_gap(STUDENT, old, lambda t: slice(t)), 0) / B
        np.testing.assert_allclose(found.local[0], wanted, rtol=1e-5, atol=1e-7)
        assert not found.onehot.any()


def test_a_correction_is_of_proximal_policy_and_behavior():
    wanted = np.where(MASK, exp_gap(PROXIMAL, BEHAVIOR, lambda t: slice(t)) * REWARD[:, None], 0)
    np.testing.assert_allclose(by_name()[CORRECTED].onehot, wanted / B, rtol=1e-5, atol=1e-7)
    (without,) = weighed(table.parse(CORRECTED), proximal=None)
    np.testing.assert_array_equal(without.onehot, by_name()["reinforce"].onehot)


def test_a_rollout_that_was_cut_weighs_nothing_and_counts_nothing():
    """DAPO's overlong masking: neither above nor below the token mean's bar."""
    found, plain = weighed(table.parse("dapo"), table.parse("dapo@cut=keep"))
    assert not found.onehot[~ENDED].any() and plain.onehot[~ENDED].any()
    kept, count = MASK & ENDED[:, None], LENGTHS.sum()
    scale = count / LENGTHS[ENDED].sum()
    np.testing.assert_allclose(found.onehot[kept], scale * plain.onehot[kept], rtol=1e-5)


def test_a_critic_learns_its_target_and_nothing_else():
    """Its cotangent is target - V of now, reduced: no coefficient, no ratio, no clip."""
    lam, gap = 0.95, np.zeros((B, T))
    for b in range(B):
        value = np.append(VALUE[b, : LENGTHS[b]].astype(np.float64), 0)
        reward = np.append(np.zeros(LENGTHS[b] - 1), REWARD[b])
        error = reward + value[1:] - value[:-1]
        for t in range(LENGTHS[b]):
            gap[b, t] = np.sum(lam ** np.arange(LENGTHS[b] - t) * error[t:])
    for name in ("ppo", "ppo@coef=3,importance=none", "ppo@correction=token"):
        still, moved = weighed(table.parse(name)), weighed(table.parse(name), moved=MOVED)
        wanted = np.where(MASK, gap, 0) / LENGTHS.sum()
        np.testing.assert_allclose(still[0].value, wanted, rtol=1e-4, atol=1e-6)
        wanted = np.where(MASK, gap + VALUE - MOVED, 0) / LENGTHS.sum()
        np.testing.assert_allclose(moved[0].value, wanted, rtol=1e-4, atol=1e-6)
        # The actor's advantage is of the values stored with the rollout.
        np.testing.assert_array_equal(still[0].onehot, moved[0].onehot)


def test_the_critics_cotangent_is_the_slope_of_its_regression():
    """-(target - V)^2 / 2 summed with the reduction's weights, by central differences."""
    (found,) = weighed(table.parse("vtrace"), moved=MOVED)
    target = np.where(MASK, found.value * B + MOVED, 0).astype(np.float64)

    def gain(value):
        return -np.sum(np.where(MASK, (target - value) ** 2, 0)) / 2 / B

    step = 1e-4
    for b, t in zip(*np.nonzero(MASK)):
        bump = step * (np.arange(B)[:, None] == b) * (np.arange(T) == t)
        slope = (gain(MOVED + bump) - gain(MOVED - bump)) / (2 * step)
        np.testing.assert_allclose(found.value[b, t], slope, rtol=1e-3, atol=1e-6)


def test_rows_without_a_critic_have_no_cotangent_for_one():
    for name, coefs in by_name().items():
        assert (coefs.value is not None) == (name in ("ppo", "vtrace")), name


SAMPLED = table.parse("opd_sampled").terms[0]
BONUS = Term(signal="entropy", coef=0.3)
FIVE = Method(
    "made up",
    "opd_sampled",
    Origin(),
    (
        SAMPLED,
        dataclasses.replace(SAMPLED, coef=2.0),
        BONUS,
        Term(signal="reward", gamma=1.0, coef=-1.0),
        Term(divergence="forward_kl", expectation="enumerated", coef=0.5, reduction="constant"),
    ),
)


def test_one_hot_parts_merge_and_each_rule_has_its_own_weight():
    """Five terms, two of them with rules: two [B, T] for the rules, one for own tokens."""
    (found,) = weighed(FIVE)
    assert FIVE.rules == (local.Rule("entropy"), local.Rule("forward_kl"))
    np.testing.assert_allclose(found.local[0], 0.3 * MASK / B, rtol=1e-6)
    np.testing.assert_allclose(found.local[1], 0.5 * MASK / (B * T), rtol=1e-6)
    wanted = np.where(MASK, 3 * GRADE - REWARD[:, None], 0) / B
    np.testing.assert_allclose(found.onehot, wanted, rtol=1e-5, atol=1e-6)


def test_a_sampled_teacher_and_an_entropy_bonus_are_the_hand_formula():
    """dJ/dlogits = [w (1_y - pi) - c pi (log pi + H)] / B: one column of the vocabulary pass."""
    method = Method("made up", "opd_sampled", Origin(), (SAMPLED, BONUS))
    logits, other = RNG.normal(size=(2, B, T, V)).astype(np.float32)
    tokens = RNG.integers(0, V, size=(B, T)).astype(np.int32)
    sample = dataclasses.replace(rollout(), tokens=tokens)

    sides, how = (Head(logits), Head(other)), Pass(chunk=2)
    made, _ = programs.cotangents(*sides, sample, (method,), None, how)
    logp, logp_teacher = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (logits, other))
    prob, own = np.exp(logp), np.eye(V)[tokens]
    grade = np.sum((logp_teacher - logp) * own, -1, keepdims=True)
    entropy = -np.sum(prob * logp, -1, keepdims=True)
    wanted = grade * (own - prob) - 0.3 * prob * (logp + entropy)
    wanted = np.where(MASK[..., None], wanted, 0) / B
    np.testing.assert_allclose(made.hidden[0], wanted, atol=1e-6)


ENTROPY, DESCENDED = RNG.exponential(size=(2, B, T)).astype(np.float32)
SEEN = TokenStats(
    logp_student=STUDENT, entropy_student=ENTROPY, logp_teacher=TEACHER, entropy_teacher=TEACHER,
    kl=KL, divergences=(DESCENDED,),
)  # fmt: skip


def test_losses_are_by_signal_and_the_terms_of_one_signal_add_up():
    found = losses(FIVE, weights(FIVE, rollout()), SEEN, GROUP)
    wanted = {
        "teacher": -3 * GRADE[MASK].sum() / B + 0.5 * DESCENDED[MASK].sum() / (B * T),
        "entropy": -0.3 * ENTROPY[MASK].sum() / B,
        "reward": np.broadcast_to(REWARD[:, None], (B, T))[MASK].sum() / B,
    }
    assert found.keys() == wanted.keys()
    for signal, value in wanted.items():
        np.testing.assert_allclose(found[signal], value, rtol=1e-5)


def test_a_demonstration_s_loss_and_a_critic_s_are_their_papers():
    sft, ppo = map(table.parse, ("sft", "ppo@importance=none"))
    found = losses(sft, weights(sft, rollout()), SEEN, GROUP)
    np.testing.assert_allclose(found["one"], -STUDENT[MASK].sum() / B, rtol=1e-5)
    known = weights(ppo, rollout())
    told = dataclasses.replace(SEEN, divergences=(), value=MOVED)
    found = losses(ppo, known, told, GROUP)
    (term,) = known.terms
    error = np.where(MASK, np.asarray(term.target) - MOVED, 0.0)
    np.testing.assert_allclose(
        found["value"], np.sum(np.asarray(term.critic) * error**2) / 2, rtol=1e-5
    )


def test_bounds_of_two_terms_are_told_together():
    """One term's ratio is past its bound at some tokens, the other's at others."""
    low, high = (
        dataclasses.replace(SAMPLED, importance="token", ratio_rule="mask", low=a, high=b)
        for a, b in ((0.8, 100.0), (0.0, 1.3))
    )
    method = Method("made up", "opd_sampled", Origin(), (low, SAMPLED, high))
    found = bounded(method, weights(method, rollout()), SEEN, GROUP)
    ratio = np.exp(STUDENT - PROXIMAL)
    wanted = MASK & ((ratio < 0.8) | (ratio > 1.3))
    assert 0 < wanted.sum() < MASK.sum()
    np.testing.assert_array_equal(np.asarray(found) & MASK, wanted)
    assert bounded(table.parse("opd"), weights(table.parse("opd"), rollout()), SEEN, GROUP) is None

"""What each row is unbiased for on rollouts that another policy drew, on a tree enumerated whole.

The behavior is another set of parameters: an older student, a teacher or a dataset; or it is the
student itself, drawn at another temperature or with the vocabulary cut. Sequences are weighed by
its probability, and its log-probabilities are what the library is told. The library's
coefficients are put on the oracle's own fields: no vocabulary pass, which test_rows.py is about.
"""

import dataclasses

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.measure import exact
from opd.method import facts, table
from opd.types import Coefficients

RTOL = 1e-9
RATIO_KINDS = ("token", "prefix", "prefix_inclusive", "trajectory")
BOUNDED = ("clip", "dual_clip", "clip_ungated", "truncate", "mask", "soft", "band", "taper", "flip")
# Enumerated and sampled with every kind of ratio, other rules, other gammas, rows of other
# behaviors, bounded ratios, rows of several terms.
NAMES = (
    "opd",
    *(f"opd@importance={kind}" for kind in RATIO_KINDS),
    *(f"opd@gamma=1,importance={kind}" for kind in RATIO_KINDS),
    "opd@gamma=1",
    "opd@gamma=0.6,importance=trajectory",
    "opd@importance=prefix,ratio_rule=truncate,high=1.1",
    "opd_sampled",
    *(f"opd_sampled@importance={kind}" for kind in RATIO_KINDS),
    *(f"opd_sampled@gamma=1,importance={kind}" for kind in RATIO_KINDS),
    *(f"opd_sampled@importance=token,ratio_rule={rule}" for rule in BOUNDED),
    "opd_sampled@importance=sequence",
    "opd_baseline@importance=token",
    "opd_baseline@importance=prefix_inclusive",
    "opd_optimal@importance=token",
    "opd_resampled",
    "opd_resampled@importance=prefix",
    "opd_sampled@divergence=jsd,argument=0.3,importance=prefix_inclusive",
    "soft_label",
    "soft_label@importance=prefix",
    "reinforce",
    *(f"reinforce@importance={kind}" for kind in RATIO_KINDS),
    "reinforce@gamma=0,importance=prefix_inclusive",
    "ppo@lam=1,reduction=sum,importance=trajectory,ratio_rule=none",
    "vtrace",
    "dagger",
    "gkd",
    "gkd@expectation=sampled",
    "gkd@expectation=sampled,importance=token",
    "teacher_behavior",
    "teacher_behavior@importance=prefix",
    "teacher_behavior@expectation=sampled",
    "offline_rl",
    "offline_rl@importance=trajectory",
    "offline_rl@importance=token",
    "rl_with_teacher@reward.baseline=none",
    "rl_with_teacher@reward.baseline=none,reward.importance=trajectory",
    "rl_with_teacher@reward.baseline=none,reward.importance=trajectory,teacher.importance=prefix",
    "rl_with_reference@reward.baseline=none,importance=trajectory",
)
# Between the student and the behavior lies a third policy, the proximal one.
TWO_RATIOS = (
    "opd_sampled@importance=token,correction=token,correction_rule=none",
    "opd_sampled@importance=prefix_inclusive,correction=prefix_inclusive,correction_rule=none",
    "opd_sampled@importance=token,correction=token",
    "opd_sampled@importance=token,correction=token,correction_rule=mask",
    "opd@importance=prefix,correction=prefix,correction_rule=none",
    "opd@importance=prefix,correction=token,correction_rule=none",
    "opd@importance=token,correction=token",
    "reinforce@importance=trajectory,correction=trajectory,correction_rule=none",
)
COUPLED = (
    "rloo",
    "rloo@importance=trajectory",
    "rl_with_teacher@reward.importance=trajectory,teacher.importance=prefix",
)


@pytest.fixture(scope="module")
def stale(labs):
    """Each lab with another policy's rollouts: (lab, the behavior's problem, name -> [M])."""
    with jax.enable_x64(True):
        return [_stale(lab) for lab in labs]


@pytest.fixture(scope="module")
def drawn(labs):
    """Labs with the student's own rollouts by other laws: law -> as `stale`."""
    with jax.enable_x64(True):
        return {law: [_stale(lab, _drawn(lab, law)) for lab in labs[:2]] for law in facts.DRAWN}


CUT = -1e4  # a logit whose token is never drawn


def _drawn(lab, law):
    """The student at temperature 1/3, or cut to the two likeliest tokens of each state."""
    logits = lab.problem.logits
    likely = logits >= np.sort(logits)[:, -2:-1]
    laws = {"tempered": 3 * logits, "truncated": np.where(likely, logits, CUT)}
    return dataclasses.replace(lab.problem, logits=laws[law])


def _stale(lab, behavior=None):
    behavior = behavior or enumeration.spoiled(lab, lab.seed + 50)
    proximal = enumeration.spoiled(lab, lab.seed + 60)
    tree = lab.problem.tree
    # What is never drawn weighs nothing, whatever its ratio: one that leaves it a number.
    logp = [
        jnp.asarray(np.maximum(exact.at_actions(tree, policy.logp), -60))
        for policy in (behavior, proximal)
    ]
    one = dataclasses.replace(lab.rollout, logp_behavior=logp[0])
    two = dataclasses.replace(one, logp_proximal=logp[1])
    found = {}
    for names, rollout in ((NAMES, one), (TWO_RATIOS, two)):
        methods = tuple(map(table.parse, names))
        aged = dataclasses.replace(lab, rollout=rollout)
        weight = len(tree.tokens) * behavior.joint
        coefs = enumeration.batch_coefficients(aged, methods)
        given = [enumeration.scaled(each, weight) for each in coefs]
        found |= dict(zip(names, _gradients(lab, methods, given), strict=True))
    methods, aged = tuple(map(table.parse, COUPLED)), dataclasses.replace(lab, rollout=one)
    given = enumeration.group_coefficients(aged, methods, exact.groups(behavior, 2))
    found |= dict(zip(COUPLED, _gradients(lab, methods, given), strict=True))
    return lab, behavior, found


def _gradients(lab, methods, given: list[Coefficients]):
    """sum over n, t of onehot score + local (-grad D), the oracle's fields of the student's."""
    problem = lab.problem
    score = exact.at_actions(problem.tree, problem.score)
    for method, coefs in zip(methods, given, strict=True):
        total = np.einsum("nt,ntm->m", coefs.onehot, score)
        for rule, coef in zip(method.rules, coefs.local, strict=True):
            loss = (rule.divergence,) if rule.argument is None else (rule.divergence, rule.argument)
            slope = exact.divergence_gradient(loss, problem.logits, problem.logp_teacher)
            field = exact.at_states(problem.tree, np.einsum("sv,svm->sm", slope, problem.jacobian))
            total = total - np.einsum("nt,ntm->m", coef, field)
        yield total


def test_the_behavior_is_another_policy(stale):
    """Ratios on both sides of 1, some beyond each rule's usual bounds."""
    for lab, behavior, _ in stale:
        ratio = exact.at_actions(lab.problem.tree, lab.problem.logp - behavior.logp)
        ratio = np.exp(ratio[lab.problem.tree.mask])
        assert ratio.min() < 0.5 and ratio.max() > 5
        assert abs(behavior.joint.sum() - 1) < 1e-12


def test_all_three_answers_are_here():
    found = [facts.stale(table.parse(name)) for name in (*NAMES, *TWO_RATIOS, *COUPLED)]
    assert {found.count(answer) > 10 for answer in ("current", "behavior", None)} == {True}


@pytest.mark.parametrize("name", (*NAMES, *TWO_RATIOS, *COUPLED))
def test_stale_says_whose_states(name, stale):
    """Unbiased for its claim on the states that it names, or for neither's and it says so."""
    _check_states(name, stale, facts.stale(table.parse(name)))


@pytest.mark.parametrize("name", (*NAMES, *TWO_RATIOS, *COUPLED))
def test_bias_and_states_go_by_the_law_that_drew_the_tokens(name, drawn):
    method = table.parse(name)
    for law, found in drawn.items():
        wanted = None if facts.bias(method, law) else facts.states(method, law)
        _check_states(name, found, wanted)
        assert facts.stale(method, law) == wanted


def test_a_cut_vocabulary_leaves_what_asks_no_own_token(drawn):
    """And a row that is unbiased of the policy itself has each of the three answers."""
    for _, behavior, _ in drawn["truncated"]:
        assert np.any(behavior.joint == 0) and abs(behavior.joint.sum() - 1) < 1e-12
    names = [name for name in (*NAMES, *COUPLED) if facts.bias(table.parse(name)) is None]
    found = {
        law: {facts.stale(table.parse(name), law) for name in names} for law in ("policy", *drawn)
    }
    assert found["tempered"] == found["policy"] == {"current", "behavior", None}
    assert found["truncated"] == {"behavior", None}


def test_demonstrations_of_a_tempered_teacher_are_not_the_teachers(labs):
    """-grad KL(p || pi) on the teacher's states of p's own tokens, and of no other law's."""
    method, lab = table.parse("sft@behavior=teacher"), labs[0]
    for law, temperature in (("policy", 1), ("tempered", 2)):
        teacher = dataclasses.replace(lab.problem, logits=lab.problem.logp_teacher / temperature)
        with jax.enable_x64(True):
            (coefs,) = enumeration.batch_coefficients(lab, (method,))
            given = enumeration.scaled(coefs, len(lab.problem.tree.tokens) * teacher.joint)
        (found,) = _gradients(lab, (method,), [given])
        wanted = enumeration.claim(lab, method, teacher.reach)
        distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert distance > 1e-3 if facts.bias(method, law) else distance <= RTOL


def _check_states(name, stale, wanted):
    method = table.parse(name)
    for lab, behavior, expected in stale:
        found = expected[name]
        targets = {"current": enumeration.claim(lab, method)}
        if all(map(enumeration.myopic, facts.parts(method))):
            targets["behavior"] = enumeration.claim(lab, method, behavior.reach)
        for states, target in targets.items():
            distance = np.linalg.norm(found - target) / np.linalg.norm(target)
            if states == wanted:
                assert distance <= RTOL, (states, distance)
            else:
                assert distance > 1e-3, (states, distance)
    assert wanted is None or wanted in targets


def test_a_token_ratio_on_a_sampled_token_is_the_enumerated_row(stale):
    """It corrects the action, not the states: D1's repaired form."""
    for _, _, expected in stale:
        np.testing.assert_allclose(
            expected["opd_sampled@importance=token"], expected["opd"], rtol=1e-7, atol=1e-12
        )


def test_the_vocabulary_pass_gives_the_same(stale):
    lab, behavior, expected = stale[0]
    name = "opd@gamma=1,importance=trajectory"
    with jax.enable_x64(True):
        logp = jnp.asarray(exact.at_actions(lab.problem.tree, behavior.logp))
        rollout = dataclasses.replace(lab.rollout, logp_behavior=logp)
        aged = dataclasses.replace(lab, rollout=rollout)
        (found,) = enumeration.expected(aged, (table.parse(name),), behavior.joint)
    np.testing.assert_allclose(found, expected[name], rtol=1e-9, atol=1e-12)

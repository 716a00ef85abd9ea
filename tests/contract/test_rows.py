"""Every row of the methods table against the oracle, on a tree enumerated whole.

The expectation of what the library computes is held against (1) what the row says it is unbiased
for and (2) the same estimator written out by the oracle. A row that says it is biased must differ
from (1). A row added to the table is held to (1) with no new line here.
"""

import dataclasses

import enumeration
import jax
import numpy as np
import pytest

from opd.measure import exact
from opd.method import facts, table

RTOL = 1e-9
JSD, SKEW = ("jsd", 0.3), ("skew", 0.1)


def grouped(baseline, ddof=None, eps=0.0):
    def mean(lab):
        pairs = exact.groups(lab.problem, 2, baseline, ddof, eps)
        score = exact.at_actions(lab.problem.tree, lab.problem.score)
        return exact.decompose_groups(lab.problem, score, pairs).mean

    return mean


def per_state(estimator):
    return lambda lab: lab.problem.joint @ estimator(lab.problem).h.sum(1)


def in_pairs(weight):
    """A score times `weight` [P, 2] or [P, 2, T] of each of a pair's rollouts, over all pairs."""

    def mean(lab):
        tree, pairs = lab.problem.tree, exact.groups(lab.problem, 2)
        each = weight(lab, pairs.members)
        each = each if each.ndim == 3 else each[..., None] * np.ones(enumeration.DEPTH)
        total = np.zeros(tree.mask.shape)
        np.add.at(total, pairs.members, pairs.prob[:, None, None] * each)
        return np.einsum("nt,ntm->m", total, exact.at_actions(tree, lab.problem.score))

    return mean


def centred(lab, pair):
    reward = lab.problem.reward[pair]
    return reward - reward.mean(1, keepdims=True)


def group_normalised(lab, pair):
    return centred(lab, pair) / (lab.problem.reward[pair].std(1, keepdims=True) + 1e-4)


def dapo(lab, pair):
    """The mean over the pair's graded tokens, those of rollouts that were cut left out."""
    ended, length = lab.problem.tree.ended[pair], lab.problem.tree.length[pair]
    count = np.maximum((ended * length).sum(1, keepdims=True), 1)
    return group_normalised(lab, pair) * ended / count


def gae(lab, gamma, lam):
    """sum over l of (gamma lambda)^l (r + gamma V' - V), term by term: [N, T]."""
    tree = lab.problem.tree
    out = np.zeros(tree.mask.shape)
    for n, length in enumerate(tree.length):
        value = np.append(lab.value[tree.visited[n, :length]], 0.0)
        reward = np.append(np.zeros(length - 1), lab.problem.reward[n])
        error = reward + gamma * value[1:] - value[:-1]
        for t in range(length):
            out[n, t] = np.sum((gamma * lam) ** np.arange(length - t) * error[t:])
    return out


def ppo(lab, pair):
    return gae(lab, 1.0, 0.95)[pair] / lab.problem.tree.length[pair].sum(1)[:, None, None]


def reward_and_reference(estimator):
    """The reward's gradient, and 0.04 times that of a divergence from the reference."""

    def mean(lab):
        problem = dataclasses.replace(lab.problem, logp_teacher=lab.logp_reference)
        penalty = problem.joint @ estimator(problem).h.sum(1)
        return per_state(exact.reinforce)(lab) + 0.04 * penalty

    return mean


def by_length(lab, pair):
    """OPO: less the mean of the pair's rewards weighted by their lengths."""
    reward, length = lab.problem.reward[pair], lab.problem.tree.length[pair]
    return reward - (reward * length).sum(1, keepdims=True) / length.sum(1, keepdims=True)


def over_the_mean(lab, pair):
    """MaxRL: less the pair's mean reward, over it; nothing where both failed."""
    reward = lab.problem.reward[pair]
    mean = reward.mean(1, keepdims=True)
    return np.where(mean > 0, (reward - mean) / np.where(mean > 0, mean, 1), 0)


def extrapolated(lab):
    """1.25 of the teacher's reverse KL, less a quarter of the reference's."""
    problem = dataclasses.replace(lab.problem, logp_teacher=lab.logp_reference)
    away = problem.joint @ exact.enumerated(problem).h.sum(1)
    return 1.25 * per_state(exact.enumerated)(lab) - 0.25 * away


def first_tokens(lab, count):
    """The reverse KL of the first states of every rollout."""
    h = exact.enumerated(lab.problem).h[:, :count]
    return lab.problem.joint @ h.sum(1)


def topk(*args):
    return per_state(lambda problem: exact.topk(problem, *args))


# Each name's estimator as the oracle writes it: [M], its expectation.
ORACLE = {
    "opd": per_state(exact.enumerated),
    "opd@gamma=0.6": per_state(lambda p: exact.enumerated(p, gamma=0.6)),
    "opd@gamma=1": per_state(lambda p: exact.enumerated(p, gamma=1.0)),
    "opd@divergence=jsd,argument=0.3": per_state(lambda p: exact.enumerated(p, JSD)),
    "opd@divergence=jeffreys": per_state(lambda p: exact.enumerated(p, ("jeffreys",))),
    "opd@divergence=skew,argument=0.1": per_state(lambda p: exact.enumerated(p, SKEW)),
    "opd@divergence=skew_reverse,argument=0.1": per_state(
        lambda p: exact.enumerated(p, ("skew_reverse", 0.1))
    ),
    "opd@divergence=total_variation": per_state(
        lambda p: exact.enumerated(p, ("total_variation",))
    ),
    "opd_sampled": per_state(exact.sampled),
    "opd_sampled@gamma=0.6": per_state(lambda p: exact.sampled(p, gamma=0.6)),
    "opd_sampled@gamma=1": per_state(lambda p: exact.sampled(p, gamma=1.0)),
    "opd_sampled@divergence=jsd,argument=0.3": per_state(lambda p: exact.sampled(p, JSD)),
    "opd_sampled@divergence=jeffreys": per_state(lambda p: exact.sampled(p, ("jeffreys",))),
    "opd_baseline": per_state(lambda p: exact.sampled(p, baseline=True)),
    "opd_resampled": per_state(lambda p: exact.resampled(p, 4)),
    "opd_resampled@k=2,gamma=0.6": per_state(lambda p: exact.enumerated(p, gamma=0.6)),
    "opd_resampled@k=1,divergence=skew,argument=0.1": per_state(
        lambda p: exact.resampled(p, 1, SKEW)
    ),
    "opd_topk@k=2": topk(2),
    "opd_topk@k=1,topk_from=teacher": topk(1, "sample", "teacher"),
    "opd_topk@k=1,topk_from=union": topk(1, "sample", "union"),
    "opd_topk@k=2,tail=own": topk(2, "rollout"),
    "opd_topk@k=1,tail=own,topk_from=teacher": topk(1, "rollout", "teacher"),
    "opd_topk@k=2,tail=drop": topk(2, "drop"),
    "opd_topk@k=2,tail=truncate": topk(2, "truncate"),
    "opd_topk@k=2,tail=renormalise": topk(2, "renormalise"),
    "opd_topk@k=2,tail=bucket": topk(2, "bucket"),
    "opd_topk@k=2,tail=bucket,topk_from=teacher": topk(2, "bucket", "teacher"),
    "opd_topk@k=2,tail=renormalise,topk_from=union": topk(2, "renormalise", "union"),
    "soft_label": per_state(lambda p: exact.enumerated(p, ("forward_kl",))),
    "soft_label@expectation=sampled": per_state(exact.teacher_sampled),
    "reinforce": per_state(exact.reinforce),
    "reinforce@gamma=0.6": per_state(lambda p: exact.reinforce(p, 0.6)),
    "reinforce@gamma=0": per_state(lambda p: exact.reinforce(p, 0.0)),
    "topr": per_state(exact.reinforce),
    "opo": in_pairs(lambda lab, pair: by_length(lab, pair) / 2),
    "maxrl": in_pairs(lambda lab, pair: over_the_mean(lab, pair) / 2),
    "exopd": lambda lab: extrapolated(lab),
    "prefix_opd": lambda lab: first_tokens(lab, 2),
    "rloo": grouped("leave_one_out"),
    "grpo": grouped("mean", 0, 1e-4),
    "grpo@normaliser=none": grouped("mean"),
    "dr_grpo": in_pairs(lambda lab, pair: centred(lab, pair) / (2 * enumeration.DEPTH)),
    "dapo": in_pairs(dapo),
    "gspo": in_pairs(
        lambda lab, pair: group_normalised(lab, pair) / (2 * lab.problem.tree.length[pair])
    ),
    "ppo": in_pairs(ppo),
    "ppo@lam=1,reduction=sum": per_state(exact.reinforce),
    "vtrace": per_state(exact.reinforce),
    "offline_rl": per_state(exact.reinforce),
    "offline_rl@importance=trajectory": per_state(exact.reinforce),
    "dagger": per_state(lambda p: exact.enumerated(p, ("forward_kl",))),
    "gkd": per_state(lambda p: exact.enumerated(p, ("jsd", 0.5))),
    "skew": per_state(lambda p: exact.enumerated(p, SKEW)),
    "minillm": per_state(lambda p: exact.enumerated(p, gamma=1.0)),
    "teacher_behavior": per_state(exact.enumerated),
    "rl_with_teacher": lambda lab: (
        per_state(exact.reinforce)(lab) + 0.1 * per_state(exact.enumerated)(lab)
    ),
    "rl_with_reference": reward_and_reference(lambda p: exact.enumerated(p, ("forward_kl",))),
    "rl_with_reference@penalty=k1,reference.gamma=1": reward_and_reference(
        lambda p: exact.sampled(p, gamma=1.0)
    ),
    "k1_loss": lambda lab: np.zeros(lab.problem.jacobian.shape[-1]),
    "kl_advantage": lambda lab: np.zeros(lab.problem.jacobian.shape[-1]),
}


def on_the_tree(row):
    """The row; with a top-k set that leaves out two of the tree's four tokens, where it has one."""
    method = table.parse(row)
    return table.parse(row, k=2) if any(rule.tail for rule in method.rules) else method


def demonstrates(method):
    """Whether a row weighs other people's tokens: of the student's own rollouts it says nothing."""
    one = any(term.signal == "one" for term in method.terms)
    return one and facts.states(method) == "behavior"


ROWS = [method.name for method in map(on_the_tree, table.ROWS) if not demonstrates(method)]
NAMES = list(dict.fromkeys([*ROWS, *ORACLE]))


@pytest.fixture(scope="module")
def expectations(labs):
    """name -> one [M] a seed; M is larger where the embedding is not tied."""
    methods = {name: table.parse(name) for name in NAMES}
    plain = [n for n, m in methods.items() if not draws(m) and not facts.coupled(m)]
    fresh = [n for n, m in methods.items() if draws(m)]
    coupled = [n for n, m in methods.items() if facts.coupled(m)]
    assert len(plain) + len(fresh) + len(coupled) == len(methods)
    found = {name: [] for name in methods}
    with jax.enable_x64(True):
        for lab in labs:
            for names, run in (
                (plain, enumeration.expected),
                (coupled, enumeration.expected_grouped),
            ):
                rows = run(lab, tuple(methods[name] for name in names))
                for name, row in zip(names, rows, strict=True):
                    found[name].append(row)
            for name in fresh:
                found[name].append(enumeration.expected_fresh(lab, methods[name]))
    return found


def draws(method):
    return sum(rule.draws for rule in method.rules)


def assert_close(found, wanted, scale):
    """Within RTOL of the scale: a row whose expectation is zero has no scale of its own."""
    assert np.linalg.norm(found - wanted) <= RTOL * scale, np.linalg.norm(found - wanted) / scale


def test_the_tree_is_a_hard_one(labs):
    """Shared parameters with a cross term, a teacher at a distance, branches that end early."""
    for lab in labs:
        problem = lab.problem
        parts = exact.decompose(problem, exact.sampled(problem).h)
        assert abs(parts.cross) > 1e-3 * parts.total
        assert exact.objective(problem) > 0.05
        assert 0.02 < problem.joint[problem.tree.length < enumeration.DEPTH].sum() < 0.98
        assert abs(problem.joint.sum() - 1) < 1e-12


@pytest.mark.parametrize("name", ORACLE)
def test_expectation_is_the_oracles(name, expectations, labs):
    for found, lab in zip(expectations[name], labs, strict=True):
        wanted = ORACLE[name](lab)
        scale = np.linalg.norm(wanted) or np.linalg.norm(enumeration.claim(lab, table.parse(name)))
        assert_close(found, wanted, scale)


@pytest.mark.parametrize("name", NAMES)
def test_claim_holds_or_the_row_says_biased(name, expectations, labs):
    method = table.parse(name)
    for found, lab in zip(expectations[name], labs, strict=True):
        wanted = enumeration.claim(lab, method)
        if facts.bias(method) is None:
            assert_close(found, wanted, np.linalg.norm(wanted))
        elif method.behavior == "student":  # others: test_stale.py, on rollouts not its own
            assert np.linalg.norm(found - wanted) > 1e-3 * np.linalg.norm(wanted)


def test_sft_is_forward_kl_on_the_datas_states(labs):
    """Demonstrations drawn from p: -grad KL(p || pi), averaged over the states that p visits."""
    method = table.parse("sft")
    assert facts.states(method) == "behavior"
    for lab in labs:
        problem = lab.problem
        teacher = exact.sequence_prob(problem.tree, problem.logp_teacher)
        with jax.enable_x64(True):
            found = enumeration.expected(lab, (method,), 0.5 * teacher)[0]
        reach = exact.visitation(problem.tree, problem.logp_teacher, problem.prompt_prob)
        slope = exact.divergence_gradient(("forward_kl",), problem.logits, problem.logp_teacher)
        wanted = -np.einsum("s,sv,svm->m", reach, slope, problem.jacobian)
        assert_close(found, wanted, np.linalg.norm(wanted))

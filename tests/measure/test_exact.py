"""The oracle against brute force, finite differences and the identities of its subject.

Brute force here lists words with itertools and reads nothing of the oracle but logits.
"""

import dataclasses
import itertools

import numpy as np
import pytest

from opd.measure import exact

EOS = 2
LOSSES = [
    ("reverse_kl",),
    ("forward_kl",),
    ("jeffreys",),
    ("jsd", 0.5),
    ("jsd", 0.1),
    ("skew", 0.1),
    ("skew_reverse", 0.3),
]
SEEDS = range(5)


def make(seed, vocab=4, depth=4, prompts=2, params=6, tabular=False, eos=EOS):
    """A student linear in shared parameters, a teacher apart from it, prompts of unequal weight."""
    rng = np.random.default_rng(seed)
    tree = exact.tree(vocab, depth, eos, prompts)
    shape = tree.child.shape
    features = rng.normal(size=(*shape, params))
    if tabular:
        features = np.eye(tree.child.size).reshape(*shape, -1)
    return exact.problem(
        tree,
        features @ rng.normal(size=features.shape[-1]),
        exact.log_softmax(rng.normal(size=shape)),
        features,
        rng.dirichlet(np.full(prompts, 3.0)),
        rng.normal(size=len(tree.tokens)),
    )


def moved(problem, direction):
    """The problem at parameters moved by `direction` [M]; its student is linear."""
    return dataclasses.replace(problem, logits=problem.logits + problem.jacobian @ direction)


def slope(value, problem, step=1e-5):
    """Central differences of value(problem) in the parameters: [M, ...]."""
    eye = step * np.eye(problem.jacobian.shape[-1])
    return np.array(
        [(value(moved(problem, e)) - value(moved(problem, -e))) / 2 / step for e in eye]
    )


def words(problem):
    """Brute force: (prompt, word, states passed, probability) of all sequences, in any order."""
    tree, vocab = problem.tree, problem.logits.shape[1]
    depth = tree.mask.shape[1]
    where = {
        (x, tuple(int(v) for v in prefix[:t])): s
        for s, (x, t, prefix) in enumerate(
            zip(tree.state_prompt, tree.state_time, tree.state_tokens)
        )
    }
    probs = np.exp(problem.logits)
    probs = probs / probs.sum(-1, keepdims=True)
    out = []
    for x, word in itertools.product(
        range(len(problem.prompt_prob)), itertools.product(range(vocab), repeat=depth)
    ):
        if EOS in word:
            word = word[: word.index(EOS) + 1]
        if any(x == x2 and word == w2 for x2, w2, _, _ in out):
            continue
        path = [where[x, word[:t]] for t in range(len(word))]
        prob = problem.prompt_prob[x] * np.prod([probs[s, v] for s, v in zip(path, word)])
        out.append((x, word, path, prob))
    return out


def tr_cov(prob, vectors):
    mean = prob @ vectors
    return prob @ (vectors**2).sum(-1) - mean @ mean


def close(actual, desired, rtol=1e-9):
    scale = np.max(np.abs(desired))
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=rtol * scale)


# ------------------------------------------------------------------------------- tree, policy


def test_tree_lists_every_sequence_and_eos_ends_branches():
    problem = make(0)
    tree = problem.tree
    listed = {
        (x, tuple(row[on])) for x, row, on in zip(tree.prompt, tree.tokens, tree.mask, strict=True)
    }
    brute = words(problem)
    assert listed == {(x, word) for x, word, _, _ in brute}
    assert len(tree.tokens) == len(brute) == 2 * 121
    assert len(tree.child) == 2 * (1 + 3 + 9 + 27)
    before_last = np.arange(4) < tree.length[:, None] - 1
    assert (tree.tokens[before_last] != EOS).all()
    assert ((tree.tokens == EOS).any(1) == tree.ended).all()
    assert (tree.ended | (tree.length == 4)).all()
    assert (tree.tokens[~tree.mask] == -1).all() and (tree.visited[~tree.mask] == -1).all()
    assert (exact.tree(4, 4, EOS, pad=9).tokens[0] == [EOS, 9, 9, 9]).all()
    assert not exact.tree(3, 2, None).ended.any() and len(exact.tree(3, 2, None).tokens) == 9


def test_tree_links_states_to_children_and_leaves():
    tree = make(0).tree
    assert ((tree.child >= 0) ^ (tree.leaf >= 0)).all()
    for s, v in np.argwhere(tree.child >= 0):
        t = tree.state_time[s]
        word = [*tree.state_tokens[s, :t], v]
        c = tree.child[s, v]
        assert (
            c > s and tree.state_time[c] == t + 1 and tree.state_prompt[c] == tree.state_prompt[s]
        )
        assert list(tree.state_tokens[c]) == word + [-1] * (3 - t)
    for s, v in np.argwhere(tree.leaf >= 0):
        n, t = tree.leaf[s, v], tree.state_time[s]
        assert tree.length[n] == t + 1 and tree.visited[n, t] == s and tree.tokens[n, t] == v


def test_probabilities_and_visitation():
    problem = make(1)
    tree = problem.tree
    brute = {(x, word): prob for x, word, _, prob in words(problem)}
    for x, row, on, prob in zip(tree.prompt, tree.tokens, tree.mask, problem.joint):
        close(prob, brute[x, tuple(row[on])])
    for x in range(2):
        close(exact.sequence_prob(tree, problem.logits)[tree.prompt == x].sum(), 1)
    reach = np.zeros(len(tree.child))
    for _, _, path, prob in words(problem):
        reach[path] += prob
    close(exact.visitation(tree, problem.logits, problem.prompt_prob), reach)
    close(reach.sum(), problem.joint @ tree.length)


def test_score_is_the_gradient_of_log_pi():
    problem = make(2)
    close(np.moveaxis(problem.score, -1, 0), slope(lambda p: p.logp, problem), 1e-8)
    close(exact.log_softmax(np.array([2000.0, 0.0])), [0.0, -2000.0])  # no overflow


def test_problem_refuses():
    good = make(0)
    args = (good.tree, good.logits, good.logp_teacher, good.jacobian)
    for index in (1, 2, 3):
        bad = [*args[:index], args[index][1:], *args[index + 1 :]]
        with pytest.raises(ValueError, match="shape"):
            exact.problem(*bad)
    with pytest.raises(ValueError, match="sum to 1"):
        exact.problem(*args[:2], good.logp_teacher + 0.1, good.jacobian)
    with pytest.raises(ValueError, match="sum to 1"):
        exact.problem(*args, prompt_prob=[0.5, 0.6])
    with pytest.raises(ValueError, match="reward"):
        exact.problem(*args, reward=np.zeros(3))
    assert np.isnan(exact.target_gradient(exact.problem(*args), "reward")).all()
    for bad in (0, 4, EOS), (4, 0, EOS), (4, 4, 4), (4, 4, -1):
        with pytest.raises(ValueError, match="eos"):
            exact.tree(*bad)
    for call in (
        lambda: exact.divergence(("hellinger",), *args[1:3]),
        lambda: exact.divergence("reverse_kl", *args[1:3]),
        lambda: exact.divergence(("reverse_kl",), *args[1:3], good.logits > 0, "drop"),
        lambda: exact.target_gradient(good, "discounted", gamma=1.5),
        lambda: exact.target_gradient(good, "full"),
        lambda: exact.sampled(good, ("forward_kl",), gamma=0.5),
        lambda: exact.topk(good, 5),
        lambda: exact.topk(good, 2, "none"),
        lambda: exact.topk(good, 2, source="both"),
        lambda: exact.groups(good, 1),
        lambda: exact.groups(good, 4),
        lambda: exact.groups(good, 2, "median"),
    ):
        with pytest.raises(ValueError):
            call()


# --------------------------------------------------------------------------------- objectives


def test_divergences_at_one_state():
    """Values by hand, from pi = (1/2, 1/4, 1/4) and p = (1/4, 1/4, 1/2)."""
    q, p = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.25, 0.5]])
    kl = 0.25 * np.log(2)  # both ways
    m = (0.375, 0.25, 0.375)
    js = 0.5 * np.log(0.5 / m[0]) + 0.25 * np.log(0.25 / m[0])  # KL(pi||m) = KL(p||m)
    mix = 0.1 * np.array([0.25, 0.25, 0.5]) + 0.9 * np.array([0.5, 0.25, 0.25])
    to_mix = 0.25 * np.log(0.25 / mix[0]) + 0.5 * np.log(0.5 / mix[2])
    from_mix = 0.5 * np.log(0.5 / mix[0]) + 0.25 * np.log(0.25 / mix[2])
    for loss, value in {
        ("reverse_kl",): kl,
        ("forward_kl",): kl,
        ("jeffreys",): 2 * kl,
        ("jsd", 0.5): js,
        ("jsd", 0.1): 0.1 * to_mix + 0.9 * from_mix,
        ("skew", 0.1): to_mix,
        ("skew_reverse", 0.1): from_mix,
        ("skew", 0.0): kl,
        ("skew_reverse", 1.0): kl,
    }.items():
        close(exact.divergence(loss, q, p), [value])
        assert abs(exact.divergence(loss, p, p)[0]) < 1e-15
    q, p = np.log([[0.5, 0.3, 0.2]]), np.log([[0.1, 0.3, 0.6]])  # which way round?
    close(exact.divergence(("reverse_kl",), q, p), [0.5 * np.log(5) - 0.2 * np.log(3)])
    close(exact.divergence(("forward_kl",), q, p), [-0.1 * np.log(5) + 0.6 * np.log(3)])


def test_divergences_on_a_topk_set():
    q, p = np.log([[0.5, 0.3, 0.1, 0.1]]), np.log([[0.2, 0.2, 0.2, 0.4]])
    kept = np.array([[True, True, False, False]])
    head = 0.5 * np.log(2.5) + 0.3 * np.log(1.5)
    rule = {
        "truncate": head,
        "renormalise": 0.625 * np.log(1.25) + 0.375 * np.log(0.75),
        "bucket": head + 0.2 * np.log(0.2 / 0.6),
    }
    for tail, value in rule.items():
        close(exact.divergence(("reverse_kl",), q, p, kept, tail), [value])
    for tail in rule:  # nothing left over: the divergence itself
        full = exact.divergence(("jsd", 0.3), q, p)
        close(exact.divergence(("jsd", 0.3), q, p, kept | True, tail), full)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tail", [None, "truncate", "renormalise", "bucket"])
def test_divergence_gradient_is_that_of_the_value(loss, tail):
    problem = make(3)
    top = ()
    if tail is not None:
        top = exact.topk_set(problem.logp, problem.logp_teacher, 2, "union"), tail
    found = exact.divergence_gradient(loss, problem.logits, problem.logp_teacher, *top)

    def value(logits):
        return exact.divergence(loss, logits, problem.logp_teacher, *top)

    eye = 1e-5 * np.eye(4)
    difference = [(value(problem.logits + e) - value(problem.logits - e)) / 2e-5 for e in eye]
    close(found, np.transpose(difference), 1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_weight_gives_the_gradient_of_the_divergence(loss):
    problem = make(4)
    w = exact.weight(loss, problem.logits, problem.logp_teacher)
    field = np.einsum("sv,svm->sm", problem.probs * w, problem.score)
    local = exact.divergence_gradient(loss, problem.logits, problem.logp_teacher)
    close(field, -np.einsum("sv,svm->sm", local, problem.jacobian))


def test_weight_in_closed_form():
    """The constant in w counts: it is in the variance of whatever samples."""
    problem = make(4)
    ratio = problem.logp_teacher - problem.logp
    mix = 0.3 * np.exp(problem.logp_teacher) + 0.7 * problem.probs
    for loss, w in {
        ("reverse_kl",): ratio,
        ("forward_kl",): np.exp(ratio),
        ("jeffreys",): ratio + np.exp(ratio),
        ("jsd", 0.3): 0.7 * (np.log(mix) - problem.logp),
        ("skew", 0.3): 0.7 * np.exp(problem.logp_teacher) / mix,
    }.items():
        close(exact.weight(loss, problem.logits, problem.logp_teacher), w)


@pytest.mark.parametrize("loss", LOSSES)
def test_sequence_target_is_the_gradient_of_the_objective(loss):
    problem = make(5)

    def value(p):
        return exact.objective(p, loss)

    brute = sum(
        prob * exact.divergence(loss, problem.logits, problem.logp_teacher)[path].sum()
        for _, _, path, prob in words(problem)
    )
    close(value(problem), brute)
    close(exact.target_gradient(problem, "sequence", loss), -slope(value, problem), 1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_myopic_target_holds_the_visitation_fixed(loss):
    problem = make(6)

    def value(p):
        return problem.reach @ exact.divergence(loss, p.logits, p.logp_teacher)

    close(exact.target_gradient(problem, "myopic", loss), -slope(value, problem), 1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_discount_leads_from_myopic_to_sequence(loss):
    problem = make(7)
    myopic = exact.target_gradient(problem, "myopic", loss)
    sequence = exact.target_gradient(problem, "sequence", loss)
    close(exact.target_gradient(problem, "discounted", loss, gamma=0.0), myopic)
    close(exact.target_gradient(problem, "discounted", loss, gamma=1.0), sequence)
    half = exact.target_gradient(problem, "discounted", loss, gamma=0.5)
    costs = exact.divergence(loss, problem.logits, problem.logp_teacher)
    brute = myopic
    for _, word, path, prob in words(problem):
        for t, later in itertools.combinations(range(len(word)), 2):
            credit = -(0.5 ** (later - t)) * costs[path[later]]
            brute = brute + prob * credit * problem.score[path[t], word[t]]
    close(half, brute)


def test_discounted_reverse_kl_is_the_return_of_log_ratios():
    problem = make(7)
    ratio = problem.logp_teacher - problem.logp
    brute = 0
    for _, word, path, prob in words(problem):
        w = [ratio[s, v] for s, v in zip(path, word)]
        for t in range(len(word)):
            credit = sum(0.7 ** (j - t) * w[j] for j in range(t, len(word)))
            brute = brute + prob * credit * problem.score[path[t], word[t]]
    close(exact.target_gradient(problem, "discounted", gamma=0.7), brute)


def test_reward_target():
    problem = make(8)
    full = exact.target_gradient(problem, "reward")
    close(full, slope(lambda p: p.joint @ p.reward, problem), 1e-8)
    reward = {
        (x, tuple(row[on])): r
        for x, row, on, r in zip(
            problem.tree.prompt, problem.tree.tokens, problem.tree.mask, problem.reward
        )
    }
    brute = 0
    for x, word, path, prob in words(problem):
        for t, (s, v) in enumerate(zip(path, word)):
            credit = 0.6 ** (len(word) - 1 - t) * reward[x, word]
            brute = brute + prob * credit * problem.score[s, v]
    close(exact.target_gradient(problem, "reward", gamma=0.6), brute)


# --------------------------------------------------------------------------------- the algebra


def test_self_entropy_term_vanishes_over_the_full_vocabulary_only():
    problem = make(0)
    field = problem.probs[..., None] * problem.score
    assert np.abs(field.sum(1)).max() < 1e-14
    kept = exact.topk_set(problem.logp, problem.logp_teacher, 2)
    assert np.abs(np.where(kept[..., None], field, 0).sum(1)).max() > 0.01


def test_sampled_is_unbiased_per_state_under_pi_itself():
    problem = make(0)
    field = exact.partner(problem, exact.enumerated(problem).h)
    close(exact.partner(problem, exact.sampled(problem).h), field)
    ratio = (problem.logp_teacher - problem.logp)[..., None] * problem.score
    hot = np.exp(exact.log_softmax(problem.logits / 0.7))
    assert np.abs(np.einsum("sv,svm->sm", hot, ratio) - field).max() > 0.01


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_detached_kl_as_a_reward_misses_the_myopic_term(gamma):
    problem = make(1)
    tree = problem.tree
    ratio = exact.at_actions(tree, problem.logp_teacher - problem.logp)
    minus_kl = exact.at_states(tree, (problem.probs * (problem.logp_teacher - problem.logp)).sum(1))
    from_ratio, from_kl = (
        problem.joint @ exact.policy_gradient(problem, r, gamma).h.sum(1) for r in (ratio, minus_kl)
    )
    close(from_ratio, exact.target_gradient(problem, "discounted", gamma=gamma))
    close(from_ratio - from_kl, exact.target_gradient(problem, "myopic"))
    if gamma == 0:
        assert np.abs(from_kl).max() < 1e-14


def test_the_objective_is_the_sequence_kl():
    problem = make(2)
    brute = 0.0
    for x, word, path, prob in words(problem):
        teacher = sum(problem.logp_teacher[s, v] for s, v in zip(path, word))
        brute += prob * (np.log(prob / problem.prompt_prob[x]) - teacher)
    close(exact.objective(problem), brute)


# --------------------------------------------------------------------------------- estimators

UNBIASED = {
    "enumerated": (lambda p: exact.enumerated(p), ("myopic",)),
    "sampled": (lambda p: exact.sampled(p), ("myopic",)),
    "baseline": (lambda p: exact.sampled(p, baseline=True), ("myopic",)),
    "resampled": (lambda p: exact.resampled(p, 4), ("myopic",)),
    "topk sample": (lambda p: exact.topk(p, 2), ("myopic",)),
    "topk sample union": (lambda p: exact.topk(p, 1, source="union"), ("myopic",)),
    "topk sample jsd": (
        lambda p: exact.topk(p, 2, loss=("jsd", 0.3)),
        ("myopic", ("jsd", 0.3)),
    ),
    "topk rollout": (lambda p: exact.topk(p, 2, "rollout"), ("myopic",)),
    "topk of everything": (lambda p: exact.topk(p, 4, "bucket"), ("myopic",)),
    "soft label": (lambda p: exact.enumerated(p, ("forward_kl",)), ("myopic", ("forward_kl",))),
    "teacher_sampled": (lambda p: exact.teacher_sampled(p), ("myopic", ("forward_kl",))),
    "sampled jeffreys": (lambda p: exact.sampled(p, ("jeffreys",)), ("myopic", ("jeffreys",))),
    "gamma": (
        lambda p: exact.enumerated(p, gamma=0.5),
        ("discounted", ("reverse_kl",), 0.5),
    ),
    "gamma, enumerated future": (
        lambda p: exact.enumerated(p, ("skew", 0.2), 0.5, "enumerated"),
        ("discounted", ("skew", 0.2), 0.5),
    ),
    "return-to-go": (
        lambda p: exact.sampled(p, gamma=0.9),
        ("discounted", ("reverse_kl",), 0.9),
    ),
    "whole return": (lambda p: exact.sampled(p, gamma=1.0), ("sequence",)),
    "C1": (lambda p: exact.enumerated(p, gamma=1.0, future="enumerated"), ("sequence",)),
    "reinforce": (lambda p: exact.reinforce(p), ("reward",)),
    "reinforce gamma": (lambda p: exact.reinforce(p, 0.6), ("reward", (), 0.6)),
}
BIASED = {
    "drop": lambda p: exact.topk(p, 2, "drop"),
    "truncate": lambda p: exact.topk(p, 2, "truncate"),
    "renormalise": lambda p: exact.topk(p, 2, "renormalise"),
    "bucket": lambda p: exact.topk(p, 2, "bucket"),
    "bucket union": lambda p: exact.topk(p, 1, "bucket", "union"),
    "soft label": lambda p: exact.enumerated(p, ("forward_kl",)),
    "gamma": lambda p: exact.enumerated(p, gamma=0.5),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators(name):
    make_estimator, target = UNBIASED[name]
    for seed in SEEDS:
        problem = make(seed)
        estimator = make_estimator(problem)
        assert (estimator.h[~problem.tree.mask] == 0).all()
        mean = exact.decompose(problem, estimator.h, estimator.fresh).mean
        close(mean, exact.target_gradient(problem, *target))


@pytest.mark.parametrize("name", BIASED)
def test_biased_estimators(name):
    for seed in SEEDS:
        problem = make(seed)
        mean = exact.decompose(problem, BIASED[name](problem).h).mean
        target = exact.target_gradient(problem, "myopic")
        assert np.linalg.norm(mean - target) > 0.01 * np.linalg.norm(target)


def test_topk_rules_in_closed_form():
    """Reverse KL on A: pi w; pi (w - 1); q (w_A - E_q w_A); pi (w - w_tail)."""
    problem = make(3)
    kept = exact.topk_set(problem.logp, problem.logp_teacher, 2)
    pi, p = problem.probs, np.exp(problem.logp_teacher)
    w = problem.logp_teacher - problem.logp
    mass, mass_p = ((kept * x).sum(-1, keepdims=True) for x in (pi, p))
    q = kept * pi / mass
    rules = {
        "drop": pi * w,
        "truncate": pi * (w - 1),
        "renormalise": q * (w - (q * w).sum(-1, keepdims=True)),
        "bucket": pi * (w - np.log((1 - mass_p) / (1 - mass))),
    }
    for tail, a in rules.items():
        field = np.einsum("sv,svm->sm", kept * a, problem.score)
        close(exact.partner(problem, exact.topk(problem, 2, tail).h), field)


def test_policy_gradient_reads_no_reward_off_the_mask():
    problem = make(4)
    tree = problem.tree
    h = exact.policy_gradient(problem, np.ones(tree.mask.shape), 1.0).h
    left = np.where(tree.mask, tree.length[:, None] - np.arange(4), 0)  # tokens to go
    close(h, left[..., None] * exact.at_actions(tree, problem.score))


def test_expected_baseline_adds_kl_to_the_weight():
    problem = make(4)
    kl = exact.divergence(("reverse_kl",), problem.logits, problem.logp_teacher)[:, None]
    vectors = (problem.logp_teacher - problem.logp + kl)[..., None] * problem.score
    h = exact.at_actions(problem.tree, vectors)
    close(exact.sampled(problem, baseline=True).h, h)


def test_topk_set_sources():
    student, teacher = np.log([[0.4, 0.3, 0.2, 0.1]]), np.log([[0.1, 0.4, 0.1, 0.4]])

    def kept(source, k):
        return exact.topk_set(student, teacher, k, source)[0].tolist()

    assert kept("student", 2) == [True, True, False, False]
    assert kept("teacher", 2) == [False, True, False, True]
    assert kept("teacher", 3) == [True, True, False, True]
    assert kept("union", 2) == [True, True, False, True]


# ------------------------------------------------------------------------------------ variance


DECOMPOSED = {
    "sampled": lambda p: exact.sampled(p),
    "baseline": lambda p: exact.sampled(p, baseline=True),
    "topk rollout": lambda p: exact.topk(p, 2, "rollout"),
    "drop": lambda p: exact.topk(p, 2, "drop"),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_total_is_across_within_cross(name):
    """The cross term is 2 sum_{t<t'} E<D_t, g_t'>, and no other inner product is left."""
    for seed in SEEDS:
        problem = make(seed)
        h = DECOMPOSED[name](problem).h
        parts = exact.decompose(problem, h)
        g = exact.at_states(problem.tree, exact.partner(problem, h))
        noise = h - g  # D_t
        inner = np.einsum("n,ntm,num->tu", problem.joint, noise, g)
        tiny = 1e-12 * parts.total
        assert np.abs(np.tril(inner)).max() < tiny  # <D_t, g_t'> for t' <= t
        own = np.einsum("n,ntm,num->tu", problem.joint, noise, noise)
        assert np.abs(own - np.diag(np.diag(own))).max() < tiny
        assert abs(parts.cross - 2 * np.triu(inner, 1).sum()) < tiny
        assert abs(parts.within - np.trace(own)) < tiny
        close(parts.total, tr_cov(problem.joint, h.sum(1)))
        close(parts.across, tr_cov(problem.joint, g.sum(1)))
        if name == "sampled":
            assert abs(parts.cross) > 0.01 * parts.within  # a tree that can show it
        if name == "drop":
            assert abs(parts.cross) < tiny and abs(parts.within) < tiny


def test_one_draw_never_has_a_cross_term():
    for seed in SEEDS:
        problem = make(seed, depth=1)
        parts = exact.decompose(problem, exact.sampled(problem).h)
        assert abs(parts.cross) < 1e-13 * parts.total and parts.within > 0.01 * parts.total
    twin = dataclasses.replace(problem, logits=problem.logp_teacher)
    parts = exact.decompose(twin, exact.sampled(twin).h)  # h is constant in v, at 0: equality
    assert parts.within < 1e-20


def test_a_sampled_rollout_can_vary_less_than_its_partner():
    """Counterexamples to "never an increase", found by search over 400 random starts."""
    for params, seed in (1, 325), (1, 121), (3, 75):
        rng = np.random.default_rng(seed)
        tree = exact.tree(3, 3, 2)
        jacobian = rng.normal(size=(*tree.child.shape, params))
        logits = jacobian @ rng.normal(size=params)
        teacher = exact.log_softmax(rng.normal(size=tree.child.shape))
        problem = exact.problem(tree, logits, teacher, jacobian)
        parts = exact.decompose(problem, exact.sampled(problem).h)
        assert parts.total < 0.98 * parts.across
        assert parts.cross < 0


def test_tabular_students_hide_the_cross_term_in_the_trace_only():
    problem = make(0, vocab=3, depth=3, tabular=True)
    h = exact.sampled(problem).h
    parts = exact.decompose(problem, h)
    assert abs(parts.cross) < 1e-13 * parts.total
    g = exact.at_states(problem.tree, exact.partner(problem, h))
    weight = problem.joint[:, None]

    def cov(x):
        centred = x - problem.joint @ x
        return (weight * centred).T @ centred

    assert np.linalg.eigvalsh(cov(h.sum(1)) - cov(g.sum(1))).min() < -1e-3


FRESH = {  # name: estimator, law [S, V], fresh vectors [S, V, M], rest of h at each state [S, M]
    "resampled": lambda p: (
        exact.resampled(p, 1),
        p.probs,
        (p.logp_teacher - p.logp)[..., None] * p.score,
        None,
    ),
    "teacher": lambda p: (exact.teacher_sampled(p), np.exp(p.logp_teacher), p.score, None),
    "topk": lambda p: (exact.topk(p, 1), *tail_of_top1(p)),
}


def tail_of_top1(p):
    kept = p.logits == p.logits.max(-1, keepdims=True)
    vectors = (p.logp_teacher - p.logp)[..., None] * p.score
    off = np.where(kept, 0, p.probs)
    mass = off.sum(-1, keepdims=True)
    return off / mass, mass[..., None] * vectors, (p.probs * kept)[:, None] @ vectors


@pytest.mark.parametrize("name", FRESH)
def test_fresh_draws_by_enumeration_of_rollouts_and_draws(name):
    """Var(S') = Var(G) + within, by listing the fresh tokens of every rollout too."""
    problem = make(1, vocab=3, depth=3)
    estimator, law, vectors, rest = FRESH[name](problem)
    parts = exact.decompose(problem, estimator.h, estimator.fresh)
    prob, sums = [], []
    for _, _, path, p in words(problem):
        base = 0 if rest is None else rest[path].sum((0, 1))
        for fresh in itertools.product(range(3), repeat=len(path)):
            prob.append(p * np.prod([law[s, u] for s, u in zip(path, fresh)]))
            sums.append(base + sum(vectors[s, u] for s, u in zip(path, fresh)))
    prob, sums = np.array(prob), np.array(sums)
    close(prob.sum(), 1)
    close(parts.mean, prob @ sums)
    close(parts.total, tr_cov(prob, sums))
    assert abs(parts.cross) < 1e-13 * parts.total
    close(parts.total, parts.across + parts.within)
    if name == "resampled":
        sampled = exact.decompose(problem, exact.sampled(problem).h)
        close(parts.within, sampled.within)
        close(parts.across, sampled.across)


def test_draws_average():
    problem = make(2)
    for one, four in (
        (exact.resampled(problem, 1), exact.resampled(problem, 4)),
        (exact.teacher_sampled(problem, 1), exact.teacher_sampled(problem, 4)),
        (exact.topk(problem, 1), exact.topk(problem, 1, draws=4)),
    ):
        close(four.fresh, one.fresh / 4)
    assert (exact.topk(problem, 4).fresh == 0).all()


def test_a_fresh_tail_never_hurts_at_a_state_but_a_rollout_tail_can():
    worse = 0
    for seed in range(20):
        problem = make(seed, vocab=4, depth=2)
        every = exact.resampled(problem, 1).fresh
        for k in (1, 2, 3):
            assert (exact.topk(problem, k).fresh <= every * (1 + 1e-12)).all()
        rollout = exact.decompose(problem, exact.topk(problem, 1, "rollout").h)
        sampled = exact.decompose(problem, exact.sampled(problem).h)
        worse += rollout.within > sampled.within
    assert 0 < worse < 20


def test_full_is_myopic_plus_visitation():
    problem = make(3)
    tree = problem.tree
    kl = exact.divergence(("reverse_kl",), problem.logits, problem.logp_teacher)
    visits = slope(lambda p: exact.visitation(tree, p.logits, p.prompt_prob), problem) @ kl
    full = exact.target_gradient(problem, "sequence")
    close(full, exact.target_gradient(problem, "myopic") - visits, 1e-8)


# -------------------------------------------------------------------------------------- groups


def dense(problem, x, groups):
    """G tr Var(Y) with every group's vector written out, and E Y."""
    size = groups.members.shape[1]
    y = (groups.weight[..., None] * x.sum(1)[groups.members]).mean(1)
    return size * tr_cov(groups.prob, y), groups.prob @ y


@pytest.mark.parametrize("size", [2, 3])
def test_uncoupled_groups_equal_the_formula(size):
    problem = make(2, vocab=3, depth=3)
    every = exact.groups(problem, size)
    close(every.prob.sum(), 1)
    ones = dataclasses.replace(every, weight=np.ones(every.members.shape))
    x = exact.sampled(problem).h
    total, mean = dense(problem, x, ones)
    formula = exact.decompose(problem, x, group_size=size)
    paired = exact.decompose_groups(problem, x, ones)
    close(formula.total, total)
    close(formula.mean, mean)
    for part in ("total", "across", "within", "cross", "mean"):
        close(getattr(paired, part), getattr(formula, part))
    single = exact.decompose(problem, x)
    close(single.within, formula.within)
    close(single.cross, formula.cross)
    assert formula.across > 1.001 * single.across  # prompts differ, and a group has one


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("baseline,ddof", [("mean", None), ("leave_one_out", None), ("mean", 0)])
def test_coupled_groups_by_enumeration(size, baseline, ddof):
    problem = make(3, vocab=3, depth=2)
    score = exact.at_actions(problem.tree, problem.score)
    groups = exact.groups(problem, size, baseline, ddof)
    total, mean = dense(problem, score, groups)
    parts = exact.decompose_groups(problem, score, groups)
    close(parts.total, total)
    close(parts.mean, mean)
    close(parts.total, parts.across + parts.within + parts.cross)
    # The first member stands for all: h_t = a_1 x_1t, its partner by brute force.
    member, first = groups.members[:, 0], groups.weight[:, 0]
    h = first[:, None, None] * score[member]
    visited = problem.tree.visited[member]
    g = np.zeros(h.shape)
    for s in range(len(problem.logits)):
        here = (visited == s) * groups.prob[:, None]
        g[visited == s] = np.einsum("kt,ktm->m", here, h) / here.sum()
    close(parts.within, groups.prob @ ((h - g) ** 2).sum((1, 2)))
    ones = dataclasses.replace(groups, weight=np.ones(groups.members.shape))
    rollout_g = np.zeros(score.shape)
    rollout_g[member] = g
    close(parts.across, dense(problem, rollout_g, ones)[0])


def test_group_baselines_and_their_bias():
    problem = make(4, vocab=3, depth=3)
    score = exact.at_actions(problem.tree, problem.score)
    target = exact.target_gradient(problem, "reward")

    def mean(size, *args):
        return exact.decompose_groups(problem, score, exact.groups(problem, size, *args)).mean

    close(mean(2, "zero"), target)
    close(mean(2, "leave_one_out"), target)
    close(mean(3, "leave_one_out"), target)
    three = exact.groups(problem, 3, "leave_one_out")
    r = problem.reward[three.members]
    close(three.weight[:, 0], r[:, 0] - (r[:, 1] + r[:, 2]) / 2)
    close(mean(2, "mean"), target / 2)  # (G - 1) / G of it
    close(mean(3, "mean"), target * 2 / 3)
    grpo = mean(2, "mean", 0)
    cosine = grpo @ target / np.linalg.norm(grpo) / np.linalg.norm(target)
    assert cosine < 0.999
    # Two rollouts: the normalised advantage is +-1 (or 0), +-sqrt(1/2) with ddof 1.
    weights = exact.groups(problem, 2, "mean", 0).weight
    tied = np.ptp(problem.reward[exact.groups(problem).members], axis=1) == 0
    close(np.abs(weights[~tied]), np.ones(weights[~tied].shape))
    assert (weights[tied] == 0).all()
    close(np.abs(exact.groups(problem, 2, "mean", 1).weight[~tied]), np.sqrt(0.5))
    assert np.abs(exact.groups(problem, 2, "mean", 0, 1e-1).weight).max() < 1


def test_reinforce_is_the_group_of_zero_baseline():
    problem = make(5, vocab=3, depth=3)
    score = exact.at_actions(problem.tree, problem.score)
    coupled = exact.decompose_groups(problem, score, exact.groups(problem, 2, "zero"))
    plain = exact.decompose(problem, exact.reinforce(problem).h, group_size=2)
    for part in ("total", "across", "within", "cross", "mean"):
        close(getattr(coupled, part), getattr(plain, part))


def test_visits_of_probability_zero_do_no_harm():
    problem = dataclasses.replace(make(0), prompt_prob=np.array([1.0, 0.0]))
    parts = exact.decompose(problem, exact.sampled(problem).h, group_size=4)
    one = exact.decompose(problem, exact.sampled(problem).h)
    close(parts.total, one.total)  # one prompt: nothing is shared
    assert np.isfinite(one.cross)

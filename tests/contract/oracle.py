"""Any method on a tree of forty sequences, in the time of a few NumPy calls.

The policies share parameters across states by way of random features. The library gives a method's
[B, T] coefficients, without its vocabulary pass (test_rows.py is about that): they are put on the
oracle's own fields. Whoever draws, the expectation is a sum over all sequences, or all pairs.

Run under `jax.enable_x64(True)`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from opd.measure import exact
from opd.method import facts, local
from opd.method.coefficients import coefficients, weights
from opd.method.table import Method
from opd.types import Coefficients, Rollout, TokenStats

V, DEPTH, EOS, M = 4, 3, 3, 7
TREE = exact.tree(V, DEPTH, EOS, pad=0)
N = len(TREE.tokens)
CUT = -300.0  # a logit whose token is never drawn: its probability is no zero, and no number


def _policy(rng, features):
    return features @ rng.normal(size=M)


_RNG = np.random.default_rng(5)
_FEATURES = _RNG.normal(size=(len(TREE.child), V, M))
STUDENT, TEACHER, REFERENCE, OLDER, KEPT, PROXIMAL = (
    0.7 * _policy(_RNG, _FEATURES) + 0.5 * _RNG.normal(size=_FEATURES.shape[:2]) for _ in range(6)
)
VALUE = _RNG.normal(size=len(TREE.child))
HERE = exact.problem(
    TREE,
    STUDENT,
    exact.log_softmax(TEACHER),
    _FEATURES,
    reward=_RNG.uniform(0.1, 1, size=N).round(1),
)


def policy(logits) -> exact.Problem:
    """Another policy's problem: the same tree, teacher and reward."""
    return dataclasses.replace(HERE, logits=logits)


def tempered(logits):
    return 2 * logits


def truncated(logits):
    """Its two likeliest tokens at each state."""
    return np.where(logits >= np.sort(logits)[:, -2:-1], logits, CUT)


BY_LAW = {"policy": lambda logits: logits, "tempered": tempered, "truncated": truncated}
OWN = [law(STUDENT) for law in BY_LAW.values()]
# Whose tokens a behavior names: a dataset's and a buffer's are two older policies'.
POLICIES = {"student": STUDENT, "teacher": TEACHER, "dataset": OLDER, "buffer": KEPT}


def drawers(method: Method, law: str = "policy") -> list[tuple[float, exact.Problem]]:
    """Who draws a method's rollouts, each with its share of them."""
    origin = method.origin
    if origin.behavior != "mixture":
        return [(1.0, policy(BY_LAW[law](POLICIES[origin.behavior])))]
    own, other = (policy(BY_LAW[law](POLICIES[who])) for who in ("student", origin.other))
    if origin.level == "token":
        mixed = origin.share * own.probs + (1 - origin.share) * other.probs
        return [(1.0, policy(np.log(np.maximum(mixed, 1e-300))))]
    return [(origin.share, own), (1 - origin.share, other)]


# --- what the library makes of a rollout ---------------------------------------------------------


def rollout(drawer: exact.Problem, proximal: exact.Problem | None = None) -> Rollout:
    """Every sequence once, drawn by a policy."""
    own = [np.maximum(exact.at_actions(TREE, p.logp), -60) for p in (drawer, proximal or drawer)]
    return Rollout(
        prompt=jnp.zeros((N, 1), jnp.int32),
        prompt_mask=jnp.ones((N, 1), bool),
        tokens=jnp.asarray(TREE.tokens, jnp.int32),
        mask=jnp.asarray(TREE.mask),
        logp_behavior=jnp.asarray(own[0]),
        ended=jnp.asarray(TREE.ended),
        group=jnp.arange(N),
        row=jnp.arange(N),
        reward=jnp.asarray(HERE.reward),
        version=jnp.full(N, 0 if any(np.array_equal(drawer.logits, o) for o in OWN) else -1),
        logp_proximal=None if proximal is None else jnp.asarray(own[1]),
        logp_reference=jnp.asarray(exact.at_actions(TREE, exact.log_softmax(REFERENCE))),
        value=jnp.asarray(exact.at_states(TREE, VALUE)),
    )


def stats(method: Method, teacher: np.ndarray = TEACHER) -> TokenStats:
    pi, p = HERE.logp, exact.log_softmax(teacher)
    own = [exact.at_actions(TREE, logp) for logp in (pi, p)]
    each = [-np.exp(pi) * pi, -np.exp(p) * p, np.exp(pi) * (pi - p)]
    entropy, entropy_teacher, kl = (exact.at_states(TREE, x.sum(-1)) for x in each)
    found = map(jnp.asarray, (own[0], entropy, own[1], entropy_teacher, kl))
    asked = {it.name: jnp.asarray(_asked(it, pi, p)) for it in facts.statistics((method,))}
    return TokenStats(*found, asked=asked)


def _asked(asked: local.Statistic, pi: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What a row asks to know of each state, by its definition, [N, T]."""
    if asked.kind == "off_set":
        kept = exact.topk_set(pi, p, asked.k, asked.topk_from)
        return exact.at_actions(TREE, 1.0 - kept)
    if asked.kind == "score_square":
        score = np.eye(V) - np.exp(pi)[:, None]
        return exact.at_actions(TREE, np.sum(score**2, -1))
    prob, other = np.exp(pi), np.exp(p)
    found = np.zeros(len(pi))
    for s in range(len(pi)):
        if asked.kind == "optimal_kl":
            square = np.sum((np.eye(V) - prob[s]) ** 2, -1)
            found[s] = prob[s] @ (square * (p - pi)[s]) / (prob[s] @ square)
        else:
            assert asked.kind == "head_share", f"say in {__file__} what {asked.kind} is"
            gap, order = np.abs(prob - other)[s], np.argsort(-other[s])
            before = np.cumsum(other[s][order]) - other[s][order]
            found[s] = gap[order][before < 0.5].sum() / gap.sum() if gap.any() else 0.5
    return exact.at_states(TREE, found)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def alone(method: Method, drawn: Rollout, known: TokenStats) -> Coefficients:
    """Each rollout's own share, as if it were a batch by itself, times the batch's size."""
    return jax.tree.map(
        lambda leaf: N * leaf,
        coefficients(method, weights(method, drawn), known, drawn.group),
    )


def in_pairs(method: Method, drawn: Rollout, known: TokenStats, prob: np.ndarray) -> Coefficients:
    """What each sequence has over all ordered pairs, times its probability: [N, T]."""
    members = np.stack(np.meshgrid(np.arange(N), np.arange(N), indexing="ij"), -1).reshape(-1, 2)

    def one(members):
        batch, its = take((drawn, known), members)
        batch = dataclasses.replace(batch, group=jnp.zeros_like(members))
        return coefficients(method, weights(method, batch), its, batch.group)

    found = jax.vmap(one)(jnp.asarray(members))
    weight = prob[members].prod(-1)[:, None, None]

    def added(leaf):
        total = np.zeros(TREE.mask.shape)
        np.add.at(total, members, weight * np.asarray(leaf))
        return total

    return jax.tree.map(added, found)


# --- the oracle's fields -------------------------------------------------------------------------


def slope(loss, teacher=TEACHER) -> np.ndarray:
    """-grad D at every state, [S, M]."""
    slopes = exact.divergence_gradient(loss, HERE.logits, exact.log_softmax(teacher))
    return -np.einsum("sv,svm->sm", slopes, HERE.jacobian)


def entropy_slope() -> np.ndarray:
    """grad H at every state, [S, M]: sum_v pi (-log pi) grad log pi."""
    return np.einsum("sv,svm->sm", -HERE.probs * HERE.logp, HERE.score)


def candidate_slope(rule: local.Rule) -> np.ndarray:
    """What a rule's candidates push on average at every state, [S, M].

    By the oracle, but for tails that are no divergence's slope: those the library has.
    """
    if rule.divergence == "entropy":
        return entropy_slope()
    if rule.tail in (None, "sample"):
        loss = (rule.divergence,) if rule.argument is None else (rule.divergence, rule.argument)
        return slope(loss, (1 - rule.own) * HERE.logp_teacher + rule.own * HERE.logp)
    teacher, student = map(jnp.asarray, (HERE.logp_teacher, HERE.logp))
    return np.einsum(
        "sv,svm->sm", np.asarray(local.candidate_weights(rule, teacher, student, None)), HERE.score
    )


def vectors(method: Method, coefs: Coefficients) -> np.ndarray:
    """h [N, T, M]: coefficients on the fields of the rollout's own tokens and its states."""
    h = np.asarray(coefs.onehot)[..., None] * exact.at_actions(TREE, HERE.score)
    for rule, weight in zip(method.rules, coefs.local, strict=True):
        h = h + np.asarray(weight)[..., None] * exact.at_states(TREE, candidate_slope(rule))
    return h


def expected(
    method: Method,
    behind: list[tuple[float, exact.Problem]],
    proximal: exact.Problem | None = None,
) -> np.ndarray:
    """E of the method's gradient, [M], over the rollouts of those who draw."""
    total = np.zeros(M)
    for share, drawer in behind:
        if not share:
            continue
        if facts.coupled(method):
            drawn = rollout(drawer, proximal if corrects(method) else None)
            coefs = in_pairs(method, drawn, stats(method), drawer.joint)
            total += share * vectors(method, coefs).sum((0, 1))
        else:
            total += share * (drawer.joint @ of_each(method, drawer, proximal).sum(1))
    return total


def of_each(method: Method, drawer: exact.Problem, proximal: exact.Problem | None) -> np.ndarray:
    """h [N, T, M] of each rollout by itself, for methods whose weights hold no other."""
    drawn = rollout(drawer, proximal if corrects(method) else None)
    return vectors(method, alone(method, drawn, stats(method)))


def on_its_own(method: Method, law: str = "policy") -> np.ndarray:
    """E of the method's gradient, [M], on the rollouts of its behavior.

    A student that has just drawn them is its own proximal policy; for others it is a third one.
    """
    behind = drawers(method, law)
    fresh = law == "policy" and all(drawer.logits is STUDENT for share, drawer in behind if share)
    return expected(method, behind, HERE if fresh else policy(PROXIMAL))


def corrects(method: Method) -> bool:
    """Whether the method's rollouts keep a proximal policy's log-probabilities."""
    return any(term.correction != "none" for term in method.terms)


# --- what a goal asks for ------------------------------------------------------------------------


def wanted(
    goal: facts.Goal, behind: list[tuple[float, exact.Problem]], law: str = "policy"
) -> np.ndarray:
    """The gradient [M] that a goal asks for, on rollouts of those who draw.

    Data are whatever they were drawn by, `law` and all; a teacher is itself.
    """
    reach = sum(share * drawer.reach for share, drawer in behind)
    return sum(
        part.coef * _wanted(part, HERE.reach if goal.states == "current" else reach, law)
        for part in goal.parts
    )


def _wanted(part: facts.Part, reach: np.ndarray, law: str) -> np.ndarray:
    here = np.allclose(reach, HERE.reach, rtol=0, atol=1e-12)
    if part.signal == "entropy":
        return reach @ entropy_slope()
    if part.signal == "reward":
        if here:
            return exact.target_gradient(HERE, "reward", gamma=part.gamma)
        assert part.gamma == 0, "a future has no other states to be on"
        final = np.where(TREE.leaf >= 0, HERE.reward[TREE.leaf], 0.0)
        return reach @ np.einsum("sv,svm->sm", HERE.probs * final, HERE.score)
    to = {"teacher": TEACHER, "reference": REFERENCE, "dataset": BY_LAW[law](OLDER)}[part.to]
    loss = (part.divergence,) if part.argument is None else (part.divergence, part.argument)
    if part.gamma == 0:
        return reach @ slope(loss, to)
    assert here, "a future has no other states to be on"
    problem = dataclasses.replace(HERE, logp_teacher=exact.log_softmax(to))
    return exact.target_gradient(problem, "discounted", loss, part.gamma)


def distance(found: np.ndarray, target: np.ndarray) -> float:
    """|found - target| over the target's size."""
    return float(np.linalg.norm(found - target) / np.linalg.norm(target))

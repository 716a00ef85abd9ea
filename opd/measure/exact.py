"""The oracle: every quantity of on-policy learning by enumeration of a small tree, in float64.

A prompt x, a student pi and a teacher p over V tokens, at most T tokens, EOS ends early. All
states s = (x, prefix) and all sequences y are listed, so that expectations are finite sums.

    D(s)   divergence of pi(.|s) and p(.|s), nats
    d(s)   probability that a rollout visits s; summed over s it is the mean length
    w(v)   -dD/dpi(v), the weight of a sampled token: log p - log pi for KL(pi||p)
    h_t    an estimator's vector at position t; S = sum_t h_t, g_s = E[h_t|s_t=s], G = sum_t g_{s_t}

Gradients are *ascent* directions in the M parameters. Derivatives of values are complex steps
(Squire and Trapp 1998): exact to rounding, and free of the algebra that they are here to judge.
The file imports nothing of ours, on purpose. It is read from the top: tree, policy, objectives,
estimators, decomposition. Shapes: S states, N sequences, T depth, V vocabulary, M parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
_STEP = 1e-30  # of a complex step: no difference is taken, so nothing cancels


# ---------------------------------------------------------------------------------------- tree


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """All states and all complete sequences. A state is listed after its parent."""

    state_prompt: Array  # [S]
    state_time: Array  # [S], tokens so far
    state_tokens: Array  # [S, T], -1 after the prefix
    child: Array  # [S, V], the next state, -1 where the token completes the sequence
    leaf: Array  # [S, V], the sequence that the token completes, -1 where it does not
    tokens: Array  # [N, T], `pad` off the mask
    mask: Array  # [N, T], bool; EOS is on
    prompt: Array  # [N]
    visited: Array  # [N, T], the state at which the token is drawn, -1 off the mask
    length: Array  # [N]
    ended: Array  # [N], by EOS rather than by the cut at T


def tree(vocab: int, depth: int, eos: int | None, prompts: int = 1, pad: int = -1) -> Tree:
    """Lists the states and sequences of at most `depth` tokens; the token `eos` ends a branch.

    `eos=None`: no token does. ValueError on empty sizes or an EOS outside [0, vocab).
    """
    if min(vocab, depth, prompts) < 1 or eos not in (None, *range(vocab)):
        raise ValueError(f"tree{vocab, depth, eos, prompts}: sizes >= 1, eos None or in [0, vocab)")
    states = [(x, (), ()) for x in range(prompts)]  # prompt, prefix, states passed
    ends: list[tuple] = []
    child, leaf = [], []
    for index, (x, prefix, path) in enumerate(states):  # grows while it is walked: breadth first
        rows = [-1] * vocab, [-1] * vocab
        for v in range(vocab):
            done = v == eos or len(prefix) + 1 == depth
            rows[done][v] = len(ends if done else states)
            (ends if done else states).append((x, (*prefix, v), (*path, index)))
        child.append(rows[0])
        leaf.append(rows[1])

    def padded(rows: list[tuple], value: int) -> Array:
        return np.array([row + (value,) * (depth - len(row)) for row in rows])

    length = np.array([len(word) for _, word, _ in ends])
    return Tree(
        state_prompt=np.array([x for x, _, _ in states]),
        state_time=np.array([len(prefix) for _, prefix, _ in states]),
        state_tokens=padded([prefix for _, prefix, _ in states], -1),
        child=np.array(child),
        leaf=np.array(leaf),
        tokens=padded([word for _, word, _ in ends], pad),
        mask=np.arange(depth) < length[:, None],
        prompt=np.array([x for x, _, _ in ends]),
        visited=padded([path for _, _, path in ends], -1),
        length=length,
        ended=np.array([word[-1] == eos for _, word, _ in ends]),
    )


def at_states(tree: Tree, table: Array) -> Array:
    """Reads table [S, ...] at the visited states: [N, T, ...], zero off the mask."""
    mask = tree.mask.reshape(tree.mask.shape + (1,) * (table.ndim - 1))
    return np.where(mask, table[tree.visited], 0.0)


def at_actions(tree: Tree, table: Array) -> Array:
    """Reads table [S, V, ...] at the visited states and tokens: [N, T, ...], zero off the mask."""
    mask = tree.mask.reshape(tree.mask.shape + (1,) * (table.ndim - 2))
    return np.where(mask, table[tree.visited, np.where(tree.mask, tree.tokens, 0)], 0.0)


# -------------------------------------------------------------------------------------- policy


def log_softmax(logits: Array) -> Array:
    """Log-probabilities, logits - log sum_v exp(logits) over the last axis; real or complex."""
    logits = logits - logits.real.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def score(logits: Array, jacobian: Array) -> Array:
    """Gradients of log pi(v|s) [S, V, M]: jacobian(v) - sum_u pi(u) jacobian(u)."""
    return jacobian - np.einsum("sv,svm->sm", np.exp(log_softmax(logits)), jacobian)[:, None]


def sequence_prob(tree: Tree, logits: Array) -> Array:
    """pi(y|x) = prod_t pi(y_t|s_t), [..., S, V] -> [..., N]; sums to 1 over each prompt."""
    logp = log_softmax(logits)[..., tree.visited, np.where(tree.mask, tree.tokens, 0)]
    return np.exp(np.where(tree.mask, logp, 0.0).sum(-1))


def visitation(tree: Tree, logits: Array, prompt_prob: Array) -> Array:
    """d(s) [S], the probability that a rollout of `logits` passes s, its prompt drawn too."""
    probs = np.exp(log_softmax(logits))
    reach = np.where(tree.state_time == 0, prompt_prob[tree.state_prompt], 0.0)
    for s, row in enumerate(tree.child):  # parents come first
        reach[row[row >= 0]] = reach[s] * probs[s, row >= 0]
    return reach


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A tree with a student, a teacher, prompts and a reward; `problem` checks and casts them."""

    tree: Tree
    logits: Array  # [S, V], the student's
    logp_teacher: Array  # [S, V], normalised
    jacobian: Array  # [S, V, M], d logits / d parameters
    prompt_prob: Array  # [prompts]
    reward: Array  # [N], of each complete sequence

    logp = property(lambda self: log_softmax(self.logits))
    probs = property(lambda self: np.exp(self.logp))
    score = property(lambda self: score(self.logits, self.jacobian))
    reach = property(lambda self: visitation(self.tree, self.logits, self.prompt_prob))
    given = property(lambda self: sequence_prob(self.tree, self.logits))  # pi(y|x) [N]
    joint = property(lambda self: self.prompt_prob[self.tree.prompt] * self.given)  # P(x) pi(y|x)


def problem(
    tree: Tree,
    logits: Array,
    logp_teacher: Array,
    jacobian: Array,
    prompt_prob: Array | None = None,
    reward: Array | None = None,
) -> Problem:
    """A checked `Problem` in float64; unless given, prompts are uniform and the reward is NaN.

    ValueError on a wrong shape, or on probabilities that do not sum to 1.
    """
    prompts = tree.prompt.max() + 1
    prompt_prob = np.full(prompts, 1 / prompts) if prompt_prob is None else prompt_prob
    reward = np.full(len(tree.tokens), np.nan) if reward is None else reward
    named = (logits, logp_teacher, jacobian, prompt_prob, reward)
    made = Problem(tree, *(np.array(x, np.float64) for x in named))
    size = tree.child.shape
    shapes = size, size, (*size, *made.jacobian.shape[2:3]), (prompts,), (len(tree.tokens),)
    for field, shape in zip(dataclasses.fields(made)[1:], shapes):
        if getattr(made, field.name).shape != shape:
            raise ValueError(f"{field.name}: shape {getattr(made, field.name).shape}, not {shape}")
    # Far above the rounding of float64, far below what anyone would mean.
    for name, x in ("exp(logp_teacher)", np.exp(made.logp_teacher)), ("prompt_prob", prompt_prob):
        if np.min(x) < 0 or not np.allclose(np.sum(x, -1), 1, rtol=0, atol=1e-9):
            raise ValueError(f"{name}: must be non-negative and sum to 1")
    return made


# ---------------------------------------------------------------------------------- objectives


def _jsd(q: Array, p: Array, beta: float) -> Array:
    m = beta * p + (1 - beta) * q
    return beta * p * np.log(p / m) + (1 - beta) * q * np.log(q / m)


# Summands over v, in q = pi(v), p = p(v) and the argument, where there is one.
DIVERGENCES: Mapping[str, Callable[..., Array]] = {
    # KL(pi||p)
    "reverse_kl": lambda q, p: q * (np.log(q) - np.log(p)),
    # KL(p||pi)
    "forward_kl": lambda q, p: p * (np.log(p) - np.log(q)),
    # KL(pi||p) + KL(p||pi), without a half
    "jeffreys": lambda q, p: (q - p) * (np.log(q) - np.log(p)),
    # beta KL(p||m) + (1 - beta) KL(pi||m), m = beta p + (1 - beta) pi, 0 < beta < 1 (GKD, sec. 2)
    "jsd": _jsd,
    # KL(p || alpha p + (1 - alpha) pi), 0 <= alpha < 1 (DistiLLM, sec. 3.1)
    "skew": lambda q, p, alpha: p * np.log(p / (alpha * p + (1 - alpha) * q)),
    # KL(pi || (1 - alpha) pi + alpha p), 0 < alpha <= 1 (DistiLLM, sec. 3.1)
    "skew_reverse": lambda q, p, alpha: q * np.log(q / ((1 - alpha) * q + alpha * p)),
    # |pi - p| / 2, whose sign is taken of the real part: a complex step leaves it alone
    "total_variation": lambda q, p: (q - p) * np.sign((q - p).real) / 2,
}
Loss = tuple  # a name and its arguments: ("reverse_kl",), ("jsd", 0.1)
REVERSE: Loss = ("reverse_kl",)
# A constant in w moves no expectation, as sum_v pi grad log pi = 0, but it moves the variance.
# The field writes log p - log pi for KL(pi||p), where -dD/dpi is log p - log pi - 1.
_GAUGE: Mapping[str, float] = {"reverse_kl": 1.0, "jeffreys": 1.0}


def _summand(loss: Loss) -> Callable[[Array, Array], Array]:
    if not isinstance(loss, tuple) or loss[0] not in DIVERGENCES:
        raise ValueError(f"loss {loss!r}: a tuple of one of {', '.join(DIVERGENCES)} and argument")
    return lambda q, p: DIVERGENCES[loss[0]](q, p, *loss[1:])


def divergence(
    loss: Loss,
    logits: Array,
    logp_teacher: Array,
    kept: Array | None = None,
    tail: str | None = None,
) -> Array:
    """D(s), nats, over the last axis: [..., S, V] -> [..., S]; real or complex logits.

    `kept` [S, V] (bool) restricts the sum to a top-k set, and `tail` says how: `truncate` leaves
    the other tokens out, `renormalise` makes pi and p sum to 1 on the set, `bucket` makes the
    others one token.
    """
    summand, tails = _summand(loss), (None, "truncate", "renormalise", "bucket")
    if tail not in tails or (tail is None) != (kept is None):
        raise ValueError(f"tail {tail!r}: must be one of {tails}, None without a top-k set")
    q, p = np.exp(log_softmax(logits)), np.exp(logp_teacher)
    if kept is None:
        return summand(q, p).sum(-1)
    if tail == "renormalise":
        q, p = (x / np.where(kept, x, 0.0).sum(-1, keepdims=True) for x in (q, p))
    value = np.where(kept, summand(q, p), 0.0).sum(-1)
    if tail == "bucket":
        rest = ~kept.all(-1)  # where nothing is left over: 1 against 1, which is 0
        q, p = (np.where(rest, np.where(kept, 0.0, x).sum(-1), 1.0) for x in (q, p))
        value = value + summand(q, p)
    return value


def divergence_gradient(loss: Loss, logits: Array, logp_teacher: Array, *top: object) -> Array:
    """dD(s)/dlogits [S, V] of `divergence`, by complex steps; a top-k set is held fixed."""
    steps = logits + 1j * _STEP * np.eye(logits.shape[-1])[:, None]  # [V, S, V]
    return divergence(loss, steps, logp_teacher, *top).imag.T / _STEP


def weight(loss: Loss, logits: Array, logp_teacher: Array) -> Array:
    """w(v) = -dD/dpi(v) [S, V], each pi(v) free: log p - log pi for KL(pi||p), p/pi for KL(p||pi).

    -grad D = sum_v pi(v) w(v) grad log pi(v), so w is what a token drawn from pi carries.
    """
    q = np.exp(log_softmax(logits)) + 1j * _STEP
    return _GAUGE.get(loss[0], 0.0) - _summand(loss)(q, np.exp(logp_teacher)).imag / _STEP


def objective(problem: Problem, loss: Loss = REVERSE, logits: Array | None = None) -> Array:
    """E_{y~pi} sum_t D(s_t), nats per rollout; at other `logits` [..., S, V] where given."""
    tree, logits = problem.tree, problem.logits if logits is None else logits
    costs = divergence(loss, logits, problem.logp_teacher)[..., tree.visited]
    joint = problem.prompt_prob[tree.prompt] * sequence_prob(tree, logits)
    return (joint * np.where(tree.mask, costs, 0.0).sum(-1)).sum(-1)


def target_gradient(problem: Problem, kind: str, loss: Loss = REVERSE, gamma: float = 1.0) -> Array:
    """What an estimator may be unbiased for: an ascent direction [M].

    myopic      sum_s d(s) (-grad D(s)), the visitation held fixed
    sequence    -grad E sum_t D_t of the enumerated objective; reverse KL: -grad KL(pi(y)||p(y))
    discounted  sum_s d(s) (-grad D(s) + gamma sum_v pi(v|s) F(s') grad log pi(v|s)), s' the child,
                F(s) = -D(s) + gamma E_pi F(s'): myopic at gamma 0, sequence at gamma 1
    reward      sum_y P(y) R(y) sum_t gamma^(|y|-1-t) grad log pi(y_t|s_t): grad E R at gamma 1
    """
    tree, probs = problem.tree, problem.probs
    if kind == "sequence":
        return -np.einsum("sv,svm->m", _objective_gradient(problem, loss), problem.jacobian)
    if kind not in ("myopic", "discounted", "reward") or not 0 <= gamma <= 1:
        raise ValueError(f"{kind}, {gamma}: myopic, sequence, discounted, reward; gamma in [0, 1]")
    if kind == "reward":
        local, now = np.zeros(probs.shape), np.zeros(len(probs))
        final = np.where(tree.leaf >= 0, problem.reward[tree.leaf], 0.0)
    else:
        local = -divergence_gradient(loss, problem.logits, problem.logp_teacher)
        now = -divergence(loss, problem.logits, problem.logp_teacher)
        gamma, final = gamma * (kind == "discounted"), np.zeros(probs.shape)
    value, after = np.zeros(len(probs)), np.zeros(probs.shape)  # F(s), and what (s, v) leads to
    for s in reversed(range(len(probs))):  # children first
        after[s] = final[s] + gamma * np.where(tree.child[s] >= 0, value[tree.child[s]], 0.0)
        value[s] = now[s] + probs[s] @ after[s]
    field = np.einsum("sv,svm->sm", local, problem.jacobian)
    return problem.reach @ (field + np.einsum("sv,svm->sm", probs * after, problem.score))


def _objective_gradient(problem: Problem, loss: Loss) -> Array:
    gradient = np.zeros(problem.logits.shape)
    for s, row in enumerate(np.eye(len(gradient))):
        direction = row[:, None] * np.eye(gradient.shape[1])[:, None]  # [V, S, V]
        gradient[s] = objective(problem, loss, problem.logits + 1j * _STEP * direction).imag / _STEP
    return gradient


# ---------------------------------------------------------------------------------- estimators


@dataclasses.dataclass(frozen=True, eq=False)
class Estimator:
    """An estimator on all rollouts; its update is the mean over rollouts of sum_t h_t."""

    h: Array  # [N, T, M], its mean given the rollout, zero off the mask
    fresh: Array  # [S], tr Cov that its fresh draws add at s, independent of all else


def _from_states(problem: Problem, field: Array, fresh: Array | None = None) -> Estimator:
    fresh = np.zeros(len(problem.logits)) if fresh is None else fresh
    return Estimator(at_states(problem.tree, field), fresh)


def _fresh(problem: Problem, law: Array, vectors: Array, draws: int) -> Estimator:
    """The mean of `draws` iid of vectors [S, V, M], from law [S, V]; a row of zeros draws none."""
    mean = np.einsum("sv,svm->sm", law, vectors)
    trace = np.einsum("sv,svm->s", law, (vectors - mean[:, None]) ** 2)
    return _from_states(problem, mean, trace / draws)


def _local(problem: Problem, loss: Loss, *top: object) -> Array:
    """-grad D(s) [S, M]."""
    local = -divergence_gradient(loss, problem.logits, problem.logp_teacher, *top)
    return np.einsum("sv,svm->sm", local, problem.jacobian)


def policy_gradient(problem: Problem, rewards: Array, gamma: float = 1.0) -> Estimator:
    """h_t = grad log pi(y_t|s_t) sum_{t'>=t} gamma^(t'-t) r_t', detached rewards r [N, T]."""
    credit = np.where(problem.tree.mask, rewards, 0.0)
    for t in reversed(range(credit.shape[1] - 1)):
        credit[:, t] += gamma * credit[:, t + 1]
    h = at_actions(problem.tree, problem.score) * credit[..., None]
    return Estimator(h, np.zeros(len(problem.logits)))


def reinforce(problem: Problem, gamma: float = 1.0) -> Estimator:
    """h_t = gamma^(|y|-1-t) R(y) grad log pi(y_t|s_t); R is paid at the last graded token."""
    last = np.arange(problem.tree.mask.shape[1]) == problem.tree.length[:, None] - 1
    return policy_gradient(problem, last * problem.reward[:, None], gamma)


def _future(problem: Problem, loss: Loss, gamma: float, future: str) -> Array:
    """The term gamma grad log pi(y_t|s_t) sum_{t'>t} gamma^(t'-t-1) r_t', as [N, T, M]."""
    if gamma == 0:
        return np.zeros(())
    if future not in ("sampled", "enumerated") or (future == "sampled" and loss != REVERSE):
        raise ValueError(f"future {future!r} with {loss}: enumerated, or sampled with reverse_kl")
    if future == "sampled":
        w = weight(loss, problem.logits, problem.logp_teacher)
        rewards = at_actions(problem.tree, w)
    else:
        costs = divergence(loss, problem.logits, problem.logp_teacher)
        rewards = at_states(problem.tree, -costs)
    now = policy_gradient(problem, rewards, 0.0).h
    return policy_gradient(problem, rewards, gamma).h - now


def enumerated(
    problem: Problem, loss: Loss = REVERSE, gamma: float = 0.0, future: str = "sampled"
) -> Estimator:
    """h_t = -grad D(s_t) + gamma grad log pi(y_t|s_t) sum_{t'>t} gamma^(t'-t-1) r_t'.

    r_t' is w(y_t') where `future` is `sampled` (reverse KL only), -D(s_t') where `enumerated`.
    Forward KL: the soft label, sum_v p grad log pi. Target: discounted(gamma), myopic at 0.
    """
    now = _from_states(problem, _local(problem, loss))
    return Estimator(now.h + _future(problem, loss, gamma, future), now.fresh)


def sampled(
    problem: Problem,
    loss: Loss = REVERSE,
    gamma: float = 0.0,
    future: str = "sampled",
    baseline: bool = False,
) -> Estimator:
    """h_t = w(y_t) grad log pi(y_t|s_t), at the rollout's own token, + the future of `enumerated`.

    `baseline`: w - E_pi w in place of w; for reverse KL E_pi w = -KL_t, the control variate of
    vOPD. gamma > 0: the return-to-go. Target: discounted(gamma), myopic at 0.
    """
    w = weight(loss, problem.logits, problem.logp_teacher)
    w = w - baseline * (problem.probs * w).sum(-1, keepdims=True)
    now = policy_gradient(problem, at_actions(problem.tree, w), 0.0)
    return Estimator(now.h + _future(problem, loss, gamma, future), now.fresh)


def resampled(problem: Problem, k: int, loss: Loss = REVERSE) -> Estimator:
    """(1/k) sum_j w(v_j) grad log pi(v_j|s_t), v_j ~ pi fresh and iid. Target: myopic."""
    w = weight(loss, problem.logits, problem.logp_teacher)
    return _fresh(problem, problem.probs, w[..., None] * problem.score, k)


def teacher_sampled(problem: Problem, k: int = 1) -> Estimator:
    """(1/k) sum_j grad log pi(v_j|s_t), v_j ~ p fresh and iid. Target: myopic, forward_kl."""
    return _fresh(problem, np.exp(problem.logp_teacher), problem.score, k)


def topk_set(logp_student: Array, logp_teacher: Array, k: int, source: str = "student") -> Array:
    """The k likeliest tokens [S, V] (bool) of student, teacher or both (`union`: k to 2k tokens).

    Ties go to the lower token id.
    """
    laws = {"student": [logp_student], "teacher": [logp_teacher]}
    laws["union"] = laws["student"] + laws["teacher"]
    if source not in laws or not 1 <= k <= logp_student.shape[-1]:
        raise ValueError(f"{source!r}, k {k}: must be one of {', '.join(laws)}; 1 <= k <= V")
    kept = np.zeros(logp_student.shape, bool)
    for logp in laws[source]:
        np.put_along_axis(kept, np.argsort(-logp, axis=-1, kind="stable")[:, :k], True, axis=-1)
    return kept


def topk(
    problem: Problem,
    k: int,
    tail: str = "sample",
    source: str = "student",
    loss: Loss = REVERSE,
    draws: int = 1,
) -> Estimator:
    """Enumerated on a top-k set A, held fixed, with a rule for the tokens off A.

    sample       sum_A pi w grad log pi + pi(off A) w(v) grad log pi(v), v ~ pi off A, the mean of
                 `draws` fresh ones. Target: myopic
    rollout      the same with the rollout's own token, where it is off A. Target: myopic
    drop         sum_A pi w grad log pi, no more. Biased, as are all below
    truncate     -grad of the sum over A; for reverse KL sum_A pi (w - 1) grad log pi
    renormalise  -grad D of pi and p renormalised on A
    bucket       -grad D with the tokens off A as one
    """
    kept = topk_set(problem.logp, problem.logp_teacher, k, source)
    if tail in ("truncate", "renormalise", "bucket"):
        return _from_states(problem, _local(problem, loss, kept, tail))
    w = weight(loss, problem.logits, problem.logp_teacher)
    vectors = w[..., None] * problem.score
    off = np.where(kept, 0.0, problem.probs)
    head = _from_states(problem, np.einsum("sv,svm->sm", problem.probs - off, vectors))
    if tail == "drop":
        return head
    if tail == "rollout":
        own = at_actions(problem.tree, np.where(kept[..., None], 0.0, vectors))
        return Estimator(head.h + own, head.fresh)
    if tail != "sample":
        raise ValueError(f"tail {tail!r}: sample, rollout, drop, truncate, renormalise, bucket")
    mass = off.sum(-1, keepdims=True)
    rest = _fresh(problem, off / np.where(mass > 0, mass, 1), mass[..., None] * vectors, draws)
    return Estimator(head.h + rest.h, rest.fresh)


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """All K ordered G-tuples of rollouts of one prompt; an update is (1/G) sum_i a_i sum_t x_it."""

    prob: Array  # [K], prompt included
    members: Array  # [K, G], sequences
    weight: Array  # [K, G], a_i


def groups(
    problem: Problem, size: int = 2, baseline: str = "mean", ddof: int | None = None, eps: float = 0
) -> Groups:
    """Group-coupled weights a_i of the terminal reward R, for every group.

    baseline: `mean` (of the group), `leave_one_out` (mean of the others, RLOO), `zero`;
    ddof not None: divided by the group's std + eps (GRPO), std over G - ddof; 0 where that is 0.
    """
    tree, given = problem.tree, problem.given
    rows = [np.flatnonzero(tree.prompt == x) for x in range(len(problem.prompt_prob))]
    # What fits into memory, G integers a group; chosen by hand.
    if size < 2 or sum(len(row) ** size for row in rows) > 5_000_000:
        raise ValueError(f"group size {size}: must be >= 2, with at most 5000000 groups")
    if baseline not in ("zero", "mean", "leave_one_out"):
        raise ValueError(f"baseline {baseline!r}: must be zero, mean or leave_one_out")
    tuples = [np.stack(np.meshgrid(*[row] * size), -1).reshape(-1, size) for row in rows]
    members = np.concatenate(tuples)
    prob = problem.prompt_prob[tree.prompt[members[:, 0]]] * given[members].prod(-1)
    reward = problem.reward[members]
    mean = reward.mean(-1, keepdims=True)
    others = (size * mean - reward) / (size - 1)
    a = reward - {"zero": 0.0 * mean, "mean": mean, "leave_one_out": others}[baseline]
    if ddof is not None:
        std = np.sqrt(((reward - mean) ** 2).sum(-1, keepdims=True) / (size - ddof)) + eps
        a = np.where(std > 0, a / np.where(std > 0, std, 1.0), 0.0)
    return Groups(prob, members, a)


# ------------------------------------------------------------------------------- decomposition


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """total = across + within + cross, of one rollout or one rollout's share of a group."""

    total: float
    across: float
    within: float
    cross: float
    mean: Array  # [M], E sum_t h_t


def partner(problem: Problem, h: Array) -> Array:
    """g_s = E[h_t|s_t=s] [S, M] of h [N, T, M]; zero where s is never visited."""
    joint, states = problem.joint, np.arange(len(problem.logits))
    total, reach = np.zeros((len(states), h.shape[-1])), np.zeros(len(states))
    for t in range(h.shape[1]):
        here = np.equal.outer(states, problem.tree.visited[:, t]) * joint  # [S, N]
        total, reach = total + here @ h[:, t], reach + here.sum(-1)
    return total / np.where(reach > 0, reach, 1.0)[:, None]


def group_variance(problem: Problem, x: Array, size: int = 1) -> float:
    """G tr Var of the mean of G draws of x [N, M], iid given the prompt that they share.

    = G tr Var_prompt(E[x|prompt]) + E tr Var(x|prompt); at G = 1 the plain tr Var(x).
    """
    prompts = np.equal.outer(np.arange(len(problem.prompt_prob)), problem.tree.prompt)
    means = (prompts * problem.given) @ x
    between = problem.prompt_prob @ ((means - problem.prompt_prob @ means) ** 2).sum(-1)
    inside = problem.joint @ ((x - means[problem.tree.prompt]) ** 2).sum(-1)
    return float(size * between + inside)


def decompose(
    problem: Problem, h: Array, fresh: Array | float = 0.0, group_size: int = 1
) -> Decomposition:
    """The parts of G tr Var(Y), Y the mean of G rollouts' S = sum_t h_t, h [N, T, M], fresh [S].

    tr Var(S) = tr Var(G) + sum_t E tr Var(h_t|s_t) + cross; fresh adds to within and total. The
    prompt is random and shared by a group, so group_size weighs the part of across that it makes.
    """
    g = at_states(problem.tree, partner(problem, h))
    across = group_variance(problem, g.sum(1), group_size)
    rollout = group_variance(problem, h.sum(1), group_size)
    action = float(problem.joint @ ((h - g) ** 2).sum((1, 2)))
    extra = float((problem.reach * fresh).sum())
    mean = problem.joint @ h.sum(1)
    cross = rollout - across - action
    return Decomposition(rollout + extra, across, action + extra, cross, mean)


def decompose_groups(problem: Problem, x: Array, groups: Groups) -> Decomposition:
    """The parts of G tr Var((1/G) sum_i a_i sum_t x_it), x [N, T, M], by enumeration of groups.

    h_it = a_i x_it has the partner E[h_it|s_it]; cross holds the covariances of rollouts too.
    With all a_i = 1 it is `decompose`.
    """
    size, joint = groups.members.shape[1], problem.joint
    gram = x.sum(1) @ x.sum(1).T  # K vectors would not fit: |Y|^2 from inner products
    square = np.zeros(len(groups.prob))
    for i, j in itertools.product(range(size), repeat=2):
        pair = groups.weight[:, i] * groups.weight[:, j] / size**2
        square += pair * gram[groups.members[:, i], groups.members[:, j]]
    share = groups.prob[:, None] * groups.weight / size

    def by_rollout(values: Array) -> Array:  # [K, G] -> [N], the sum over groups that hold it
        return np.bincount(groups.members.ravel(), values.ravel(), len(joint))

    first = by_rollout(share) / np.where(joint > 0, joint, 1.0)  # E[a|y]
    h = first[:, None, None] * x
    g, mean = partner(problem, h), joint @ h.sum(1)
    total = float(size * (groups.prob @ square - mean @ mean))
    across = group_variance(problem, at_states(problem.tree, g).sum(1), size)
    second = by_rollout(share * groups.weight) @ (x**2).sum((1, 2))
    within = float(second - problem.reach @ (g**2).sum(-1))
    return Decomposition(total, across, within, total - across - within, mean)

"""The vocabulary axis: divergences, and the local rules that turn one into candidate weights a(v).

A local rule pushes every candidate token v of a state by a(v); the gradient in logit space is
a - (sum_v a(v)) pi, that is sum_v a(v) grad log pi(v). Nothing here knows about time.

All functions take log-probabilities [..., V] in nats and are detached: they build cotangents and
are never differentiated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from opd import draws
from opd.masked import zero
from opd.types import Array

Pointwise = Callable[[Array, Array, float | None], Array]


@dataclasses.dataclass(frozen=True)
class Divergence:
    """A distance D(pi, p) = sum_v d(p(v), pi(v)), and how it pushes.

    `weight` is w(v) = -dd/dpi(v) + `gauge`: a constant is free, since sum_v pi grad log pi = 0.
    `push` is pi(v) w(v), written so that it never overflows. Where `proposal` is "teacher", a
    candidate is drawn from p and pushed by 1; else it is drawn from pi and pushed by w.
    """

    value: Pointwise
    weight: Pointwise
    push: Pointwise
    gauge: float = 0.0
    argument: str | None = None  # the argument's name, where it has one
    proposal: str = "student"
    paper: str = ""


def _times(logp: Array, factor: Array) -> Array:
    """exp(logp) * factor, and 0 where the probability is 0."""
    prob = jnp.exp(logp)
    return zero(prob * factor, prob > 0)


def _log_mix(left: Array, right: Array, share: float) -> Array:
    """log(share exp(left) + (1 - share) exp(right))."""
    return jnp.logaddexp(jnp.log(share) + left, jnp.log1p(-share) + right)


def reverse_kl(teacher: Array, student: Array, _: float | None = None) -> Array:
    """d = pi log(pi / p), so that D = KL(pi || p)."""
    return _times(student, student - teacher)


def reverse_kl_weight(teacher: Array, student: Array, _: float | None = None) -> Array:
    """w = log p - log pi: policy gradient on the log ratio as a reward."""
    return teacher - student


def forward_kl(teacher: Array, student: Array, _: float | None = None) -> Array:
    """d = p log(p / pi), so that D = KL(p || pi)."""
    return _times(teacher, teacher - student)


def forward_kl_weight(teacher: Array, student: Array, _: float | None = None) -> Array:
    """w = p / pi; pi w = p, the soft label."""
    return jnp.exp(teacher - student)


def jeffreys(teacher: Array, student: Array, _: float | None = None) -> Array:
    """d = (pi - p) log(pi / p), so that D = KL(pi || p) + KL(p || pi)."""
    return reverse_kl(teacher, student) + forward_kl(teacher, student)


def jeffreys_weight(teacher: Array, student: Array, _: float | None = None) -> Array:
    """w = log(p / pi) + p / pi."""
    return reverse_kl_weight(teacher, student) + forward_kl_weight(teacher, student)


def jsd(teacher: Array, student: Array, beta: float) -> Array:
    """d of beta KL(p || m) + (1 - beta) KL(pi || m), m = beta p + (1 - beta) pi."""
    mix = _log_mix(teacher, student, beta)
    return beta * _times(teacher, teacher - mix) + (1 - beta) * _times(student, student - mix)


def jsd_weight(teacher: Array, student: Array, beta: float) -> Array:
    """w = (1 - beta) log(m / pi)."""
    return (1 - beta) * (_log_mix(teacher, student, beta) - student)


def skew(teacher: Array, student: Array, alpha: float) -> Array:
    """d of KL(p || m), m = alpha p + (1 - alpha) pi."""
    return _times(teacher, teacher - _log_mix(teacher, student, alpha))


def skew_weight(teacher: Array, student: Array, alpha: float) -> Array:
    """w = (1 - alpha) p / m, at most (1 - alpha) / alpha."""
    return (1 - alpha) * jnp.exp(teacher - _log_mix(teacher, student, alpha))


def skew_reverse(teacher: Array, student: Array, alpha: float) -> Array:
    """d of KL(pi || m), m = alpha p + (1 - alpha) pi."""
    return _times(student, student - _log_mix(teacher, student, alpha))


def skew_reverse_weight(teacher: Array, student: Array, alpha: float) -> Array:
    """w = log(m / pi) + (1 - alpha) pi / m."""
    mix = _log_mix(teacher, student, alpha)
    return mix - student + (1 - alpha) * jnp.exp(student - mix)


def total_variation(teacher: Array, student: Array, _: float | None = None) -> Array:
    """d = |pi - p| / 2."""
    return jnp.abs(jnp.exp(student) - jnp.exp(teacher)) / 2


def total_variation_weight(teacher: Array, student: Array, _: float | None = None) -> Array:
    """w = sign(p - pi) / 2: never more than 1/2, and 0 where they meet."""
    return jnp.sign(teacher - student) / 2


def _pushed(weight: Pointwise) -> Pointwise:
    """pi w, for a weight that grows no faster than log(1 / pi)."""
    return lambda teacher, student, arg=None: _times(student, weight(teacher, student, arg))


def _soft_label(teacher: Array, student: Array, _: float | None = None) -> Array:
    """pi (p / pi) = p, which doesn't overflow where pi vanishes."""
    return jnp.exp(teacher)


def _jeffreys_push(teacher: Array, student: Array, _: float | None = None) -> Array:
    return _times(student, teacher - student) + jnp.exp(teacher)


DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": Divergence(
        reverse_kl, reverse_kl_weight, _pushed(reverse_kl_weight), gauge=1.0,
        paper="Gu et al. 2024 (MiniLLM), eq. 2",
    ),
    "forward_kl": Divergence(
        forward_kl, forward_kl_weight, _soft_label, proposal="teacher",
        paper="Hinton, Vinyals and Dean 2015, section 2",
    ),
    "jeffreys": Divergence(
        jeffreys, jeffreys_weight, _jeffreys_push, gauge=1.0, paper="Jeffreys 1946",
    ),
    "jsd": Divergence(
        jsd, jsd_weight, _pushed(jsd_weight), argument="beta",
        paper="Agarwal et al. 2024 (GKD), eq. 1",
    ),
    "skew": Divergence(
        skew, skew_weight, _pushed(skew_weight), argument="alpha",
        paper="Ko et al. 2024 (DistiLLM), section 3.1",
    ),
    "skew_reverse": Divergence(
        skew_reverse, skew_reverse_weight, _pushed(skew_reverse_weight), gauge=1.0,
        argument="alpha", paper="Ko et al. 2024 (DistiLLM), section 3.1",
    ),
    "total_variation": Divergence(
        total_variation, total_variation_weight, _pushed(total_variation_weight),
        paper="Wen et al. 2023 (f-distill), section 3.2",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rule:
    """A local rule: which divergence pushes, and over which candidates its sum is taken.

    `expectation` is enumerated, resampled (k fresh draws) or topk; `entropy` has no divergence.
    The teacher has `own` of the student's logits mixed into its own, held fixed. Static and
    hashable: it selects code.
    """

    divergence: str
    argument: float | None = None
    expectation: str = "enumerated"
    k: int | None = None
    tail: str | None = None
    topk_from: str | None = None
    own: float = 0.0

    @property
    def draws(self) -> int:
        """How many fresh uniforms a position needs."""
        if self.expectation == "resampled":
            return self.k or 1
        return 0 if self.tail is None else TAILS[self.tail].draws

    @property
    def teacher(self) -> bool:
        return self.divergence != "entropy"


def candidate_weights(
    rule: Rule, logp_teacher: Array | None, logp_student: Array, uniforms: Array | None
) -> Array:
    """The push a(v) of one local rule at every candidate token.

    Args:
        rule: which rule.
        logp_teacher: [..., V] nats, or None for a rule that asks no teacher.
        logp_student: [..., V] nats.
        uniforms: [..., >= rule.draws] in [0, 1), fresh: nothing else of the rollout uses them.

    Returns:
        a(v), [..., V].
    """
    if logp_teacher is not None:
        chex.assert_equal_shape((logp_teacher, logp_student))
    if uniforms is not None:
        chex.assert_equal_rank((logp_student, uniforms))
        chex.assert_equal_shape_prefix((logp_student, uniforms), logp_student.ndim - 1)
    if rule.divergence == "entropy":
        return entropy_bonus(logp_student)
    target = _target(rule, logp_teacher, logp_student)
    return EXPECTATIONS[rule.expectation](rule, target, logp_student, uniforms)


def _target(rule: Rule, teacher: Array, student: Array) -> Array:
    """log p' [..., V], p' proportional to pi^own p^(1 - own); the teacher's itself at own = 0.

    Forward KL to it descends (1 - own) / own times Renyi's divergence of order own of pi and p:
    its gradient is p' - pi, p' detached (Shing et al. 2025, TAID, eq. 3).
    """
    if not rule.own:
        return teacher
    return jax.nn.log_softmax(rule.own * student + (1 - rule.own) * teacher)


def divergence(rule: Rule, logp_teacher: Array, logp_student: Array) -> Array:
    """D(pi, p) of a rule's divergence in closed form, [...] nats, of log-probabilities [..., V].

    Over the whole vocabulary, whatever candidates the rule pushes.
    """
    chex.assert_equal_shape((logp_teacher, logp_student))
    value, target = DIVERGENCES[rule.divergence].value, _target(rule, logp_teacher, logp_student)
    return jnp.sum(value(target, logp_student, rule.argument), -1)


def entropy_bonus(logp_student: Array) -> Array:
    """a = -pi log pi: the gradient of the entropy H(pi) (Williams and Peng 1991)."""
    return -_times(logp_student, logp_student)


def enumerated(rule: Rule, teacher: Array, student: Array, _: Array | None) -> Array:
    """a = pi w: the sum over v in closed form; -grad D(pi, p) at the state."""
    return DIVERGENCES[rule.divergence].push(teacher, student, rule.argument)


def resampled(rule: Rule, teacher: Array, student: Array, uniforms: Array) -> Array:
    """a = (1/k) sum_i w(v_i) 1[v = v_i], v_i drawn afresh from the divergence's proposal.

    Unbiased for the enumerated push. Fresh draws are independent of the state's own action, so
    the cross term of the variance is absent.
    """
    k = rule.k or 1
    divergence = DIVERGENCES[rule.divergence]
    proposal = teacher if divergence.proposal == "teacher" else student
    drawn = draws.inverse_cdf(jnp.exp(proposal), uniforms[..., :k])
    hits = sum(_onehot(drawn[..., i], student.shape[-1], student.dtype) for i in range(k)) / k
    if divergence.proposal == "teacher":
        return hits
    weight = divergence.weight(teacher, student, rule.argument)
    return zero(hits * weight, hits > 0)


def topk(rule: Rule, teacher: Array, student: Array, uniforms: Array | None) -> Array:
    """The sum over a top-k set S of the vocabulary, with one of TAILS for what S leaves out."""
    chosen = topk_set(rule, teacher, student)
    return TAILS[rule.tail].push(rule, teacher, student, chosen, uniforms)


def topk_set(rule: Rule | Statistic, teacher: Array, student: Array) -> Array:
    """Membership [..., V] of the k likeliest tokens of the student, the teacher or either."""
    members = [_largest(logp, rule.k) for logp in TOPK_FROM[rule.topk_from](teacher, student)]
    return members[0] if len(members) == 1 else members[0] | members[1]


def tail_drop(rule: Rule, teacher: Array, student: Array, chosen: Array, _) -> Array:
    """a = pi w on S: the coefficient is dropped off S. Biased: E_S w stays uncentred."""
    return zero(DIVERGENCES[rule.divergence].push(teacher, student, rule.argument), chosen)


def tail_truncate(rule: Rule, teacher: Array, student: Array, chosen: Array, _) -> Array:
    """a = pi (w - gauge) on S: autodiff of the truncated sum sum_S d. Biased."""
    divergence = DIVERGENCES[rule.divergence]
    push = divergence.push(teacher, student, rule.argument) - divergence.gauge * jnp.exp(student)
    return zero(push, chosen)


def tail_renormalise(rule: Rule, teacher: Array, student: Array, chosen: Array, _) -> Array:
    """a = q (w - E_q w), q = pi / pi(S) on S: -grad D(q, p / p(S)). Biased."""
    teacher_on, student_on = (
        logp - _logsumexp(logp, chosen)[..., None] for logp in (teacher, student)
    )
    push = DIVERGENCES[rule.divergence].push(teacher_on, student_on, rule.argument)
    push = zero(push, chosen)
    return push - zero(jnp.exp(student_on), chosen) * jnp.sum(push, -1, keepdims=True)


def tail_bucket(rule: Rule, teacher: Array, student: Array, chosen: Array, _) -> Array:
    """a = pi w on S and pi w_tail off it: -grad of D with everything off S as one outcome. Biased.

    The same gradient as pi (w - w_tail) on S, whose w_tail drowns w where pi(not S) is small.
    """
    push = DIVERGENCES[rule.divergence].push
    off = ~chosen
    rest = [jnp.where(jnp.any(off, -1), _logsumexp(logp, off), 0.0) for logp in (teacher, student)]
    tail = push(rest[0], rest[1], rule.argument)[..., None]
    share = jnp.exp(student - rest[1][..., None])
    return jnp.where(chosen, push(teacher, student, rule.argument), share * tail)


def tail_sample(
    rule: Rule, teacher: Array, student: Array, chosen: Array, uniforms: Array
) -> Array:
    """a = pi w on S, plus pi(not S) w(v') 1[v = v'] for one fresh v' ~ pi off S. Unbiased."""
    divergence = DIVERGENCES[rule.divergence]
    rest = zero(jnp.exp(student), ~chosen)
    drawn = draws.inverse_cdf(rest, uniforms[..., :1])[..., 0]
    hit = _onehot(drawn, student.shape[-1], jnp.bool_)
    weight = divergence.weight(teacher, student, rule.argument)
    fresh = zero(weight * jnp.sum(rest, -1, keepdims=True), hit & (rest > 0))
    return tail_drop(rule, teacher, student, chosen, None) + fresh


EXPECTATIONS = {"enumerated": enumerated, "resampled": resampled, "topk": topk}


@dataclasses.dataclass(frozen=True)
class Tail:
    """What stands for the vocabulary off a top-k set.

    `push` is f(rule, teacher, student, members, uniforms) -> a(v), with `draws` fresh uniforms a
    position. `leaves_out` says that the sum's expectation is another's. `own`: where the rollout's
    own token is off the set, it is pushed by w besides, as a sampled token is.
    """

    push: Callable[..., Array]
    draws: int = 0
    leaves_out: bool = True
    own: bool = False


TAILS: dict[str, Tail] = {
    "drop": Tail(tail_drop),
    "truncate": Tail(tail_truncate),
    "renormalise": Tail(tail_renormalise),
    "bucket": Tail(tail_bucket),
    "sample": Tail(tail_sample, draws=1, leaves_out=False),
    "own": Tail(tail_drop, leaves_out=False, own=True),
}
# Whose likeliest tokens a top-k set has: f(teacher, student) -> the policies.
TOPK_FROM: dict[str, Callable[[Array, Array], tuple[Array, ...]]] = {
    "student": lambda teacher, student: (student,),
    "teacher": lambda teacher, student: (teacher,),
    "union": lambda teacher, student: (student, teacher),
}


# --- what some rows ask to know of a state -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A number of a state that only some rows ask for, one of STATISTICS; static and hashable.

    `k` and `topk_from` are those of a top-k set, where it is of one.
    """

    kind: str
    k: int | None = None
    topk_from: str | None = None

    @property
    def name(self) -> str:
        """What `TokenStats.asked` has it by."""
        return self.kind if self.k is None else f"{self.kind}({self.k},{self.topk_from})"


def statistic(
    asked: Statistic, logp_teacher: Array | None, logp_student: Array, own: Array
) -> Array:
    """A statistic [...] of log-probabilities [..., V] and the own token's one-hot, [..., V]."""
    assert asked.kind == "score_square" or logp_teacher is not None, f"{asked} without a teacher"
    chex.assert_equal_shape((logp_student, own))
    return STATISTICS[asked.kind](asked, logp_teacher, logp_student, own)


def off_set(asked: Statistic, teacher: Array, student: Array, own: Array) -> Array:
    """1 where the own token lies off a top-k set."""
    off = own & ~topk_set(asked, teacher, student)
    return jnp.any(off, -1).astype(student.dtype)


def optimal_kl(asked: Statistic, teacher: Array, student: Array, own: Array) -> Array:
    """b = E[w |s|^2] / E[|s|^2] over v ~ pi, w = log p - log pi, s = onehot - pi.

    |s(v)|^2 = 1 - 2 pi(v) + sum pi^2. The state's constant that leaves the least variance of the
    sampled token's push in logit space (Greensmith, Bartlett and Baxter 2004, theorem 8), where
    -KL leaves the least of w. A state with one token left has -KL.
    """
    prob = jnp.exp(student)
    square = 1 - 2 * prob + jnp.sum(prob**2, -1, keepdims=True)
    whole = jnp.sum(prob * square, -1)
    graded = jnp.sum(_times(student, (teacher - student) * square), -1)
    least = -jnp.sum(reverse_kl(teacher, student), -1)
    spread = whole > jnp.finfo(whole.dtype).eps
    return jnp.where(spread, graded / jnp.where(spread, whole, 1), least)


def head_share(asked: Statistic, teacher: Array, student: Array, own: Array) -> Array:
    """How much of sum_v |p - pi| lies in the teacher's head, 1/2 where they are equal.

    The head has its likeliest tokens, up to and with the one that reaches half of the mass (Wu et
    al. 2025, adaptive KL, section 4.3).
    """
    order = jnp.argsort(-teacher, -1)
    likeliest, apart = (
        jnp.take_along_axis(values, order, -1)
        for values in (jnp.exp(teacher), jnp.abs(jnp.exp(teacher) - jnp.exp(student)))
    )
    head = jnp.cumsum(likeliest, -1) - likeliest < 0.5
    whole = jnp.sum(apart, -1)
    part = jnp.sum(zero(apart, head), -1)
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0.5)


def score_square(asked: Statistic, teacher: Array | None, student: Array, own: Array) -> Array:
    """|onehot - pi|^2 = 1 - 2 pi(y) + sum pi^2 of the own token y: its score in logit space."""
    return jnp.sum((own - jnp.exp(student)) ** 2, -1)


STATISTICS: dict[str, Callable[..., Array]] = {
    "off_set": off_set,
    "optimal_kl": optimal_kl,
    "head_share": head_share,
    "score_square": score_square,
}


def _onehot(token: Array, vocab: int, dtype) -> Array:
    return jax.nn.one_hot(token, vocab, dtype=dtype)


def _largest(logp: Array, k: int) -> Array:
    """Exactly k members, [..., V]; equal values are taken in vocabulary order."""
    kth = jax.lax.top_k(logp, k)[0][..., -1:]
    above, level = logp > kth, logp == kth
    room = k - jnp.sum(above, -1, keepdims=True)
    return above | (level & (jnp.cumsum(level, -1) <= room))


def _logsumexp(logp: Array, where: Array) -> Array:
    return jax.nn.logsumexp(logp, axis=-1, where=where)

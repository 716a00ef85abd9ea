"""The losses of the table's rows as their papers have them, on plain logits.

Nothing of the library is used, so that a row and its loss can't be wrong in the same way: NumPy for
what is detached, jax.grad for the rest, sums over tokens and rollouts written out. A row's logit
cotangent is minus the gradient of its loss.

LOSSES is the whole list: a loss for every row, under ROW or ROW@axis=value,...; UNPUBLISHED says
why a row has none. A loss takes a `Case` and the student's logits [B, T, V], and gives a scalar, in
nats or in rewards. B rollouts, T tokens, V vocabulary, G rollouts of a prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray

# Small, and still one rollout that was cut, one of a single token, an odd vocabulary for the
# chunks, and rewards that differ within both groups.
B, T, V, G = 4, 5, 7, 2
LENGTHS = np.array([5, 3, 1, 4])
ENDED = np.array([False, True, True, True])
REWARD = np.array([1.0, 0.0, 0.5, 2.0])
OWN = np.array([True, False, False, True])  # of a mixture: whether the student drew the rollout
EPSILON = 1e-4  # added to a standard deviation, in rewards: the library's, papers leave it open


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Rollouts of an older policy, graded: all that a loss may look at besides the logits."""

    logits: Array  # [B, T, V], the student's: where the losses are differentiated
    teacher: Array  # [B, T, V], logits
    tokens: Array  # [B, T]
    mask: Array  # [B, T]
    uniforms: Array  # [B, T, 4], what fresh tokens are drawn by
    behavior: Array  # [B, T], log-probabilities of the policy that drew the tokens
    proximal: Array  # [B, T], and of one between that and the student
    reference: Array  # [B, T], and of the policy not to be left
    value: Array  # [B, T], a critic's estimates, of any size

    @property
    def pi(self) -> Array:
        """The student's probabilities, detached, [B, T, V]."""
        return softmax(self.logits)

    @property
    def p(self) -> Array:
        """The teacher's probabilities, [B, T, V]."""
        return softmax(self.teacher)

    @property
    def logp(self) -> Array:
        """log pi of the tokens, detached, [B, T]."""
        return at(np.log(self.pi), self.tokens)

    @property
    def log_ratio(self) -> Array:
        """log p - log pi of the tokens, detached, [B, T]."""
        return at(np.log(self.p), self.tokens) - self.logp

    @property
    def kl(self) -> Array:
        """KL(pi || p) of each state, detached, [B, T]."""
        return np.sum(self.pi * np.log(self.pi / self.p), -1)


Loss = Callable[[Case, jax.Array], jax.Array]
Advantage = Callable[[Case], Array]  # [B, T], or [B, 1] where all tokens have the rollout's


def draw(seed: int) -> Case:
    """The case of a seed: logits 1.5 apart, so that ratios leave all clips; older policies near."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(B, T, V))
    teacher = 1.5 * rng.normal(size=(B, T, V))
    tokens = rng.integers(0, V, size=(B, T))
    mask = np.arange(T) < LENGTHS[:, None]
    uniforms = rng.uniform(size=(B, T, 4))
    near = logits + 0.5 * rng.normal(size=(3, B, T, V))
    behavior, proximal, reference = (at(np.log(softmax(policy)), tokens) for policy in near)
    value = rng.normal(size=(B, T))
    return Case(logits, teacher, tokens, mask, uniforms, behavior, proximal, reference, value)


def gradients(case: Case, names: list[str]) -> Array:
    """The gradients of losses of LOSSES in the student's logits, [K, B, T, V]."""
    where = jnp.asarray(case.logits)
    return np.stack(
        [jax.grad(lambda logits, name=name: LOSSES[name](case, logits))(where) for name in names]
    )


# --- distributions and tokens ----------------------------------------------------------------


def softmax(x: Array) -> Array:
    """Probabilities of logits [..., V]."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def at(values: Array, tokens: Array) -> Array:
    """What values [B, T, V] are at the tokens, [B, T]."""
    return np.take_along_axis(values, tokens[..., None], -1)[..., 0]


def logp_of(logits: jax.Array, tokens: Array) -> jax.Array:
    """log pi of the tokens, to be differentiated, [B, T]."""
    logp = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logp, jnp.asarray(tokens)[..., None], -1)[..., 0]


def by_cdf(prob: Array, uniform: Array) -> Array:
    """The first token whose cumulative probability exceeds u, [B, T]; prob needs no sum of 1."""
    return (np.cumsum(prob / prob.sum(-1, keepdims=True), -1) <= uniform[..., None]).sum(-1)


# --- what a loss is a mean of: scalars of [B, T] and a mask --------------------------------------


def over_rollouts(per_token: jax.Array, mask: Array) -> jax.Array:
    """The sum over tokens, the mean over rollouts."""
    return jnp.sum(jnp.where(mask, per_token, 0)) / B


def over_constant(per_token: jax.Array, mask: Array) -> jax.Array:
    """Dr. GRPO: divided by a stated constant, the longest completion."""
    return over_rollouts(per_token, mask) / T


def over_tokens(per_token: jax.Array, mask: Array) -> jax.Array:
    """DAPO, section 3.3: the mean over all tokens."""
    return jnp.sum(jnp.where(mask, per_token, 0)) / mask.sum()


def over_tokens_of_ended(per_token: jax.Array, mask: Array) -> jax.Array:
    """DAPO, section 3.4: the rollouts that were cut are not there."""
    return over_tokens(per_token, mask & ENDED[:, None])


def over_sequences(per_token: jax.Array, mask: Array) -> jax.Array:
    """GRPO's 1 / |o|: the mean over a rollout's tokens, then over rollouts."""
    return jnp.mean(jnp.sum(jnp.where(mask, per_token, 0), 1) / mask.sum(1))


# --- enumerated: sums over the vocabulary ----------------------------------------------------


def divergence(value: Callable[[jax.Array, Array], jax.Array]) -> Loss:
    """sum over v of d(pi, p), at each state."""
    return lambda case, logits: over_rollouts(
        jnp.sum(value(jax.nn.softmax(logits), case.p), -1), case.mask
    )


def kl(a, b):
    """KL's summand; sums to KL(a || b)."""
    return a * jnp.log(a / b)


def cross_entropy(pi: jax.Array, p: Array) -> jax.Array:
    """Hinton et al. 2015, section 2, at temperature 1: what soft labels cost."""
    return -p * jnp.log(pi)


def jeffreys(pi: jax.Array, p: Array) -> jax.Array:
    """Both KLs."""
    return kl(pi, p) + kl(p, pi)


def jensen_shannon(beta: float):
    """GKD, eq. 1: beta KL(p || m) + (1 - beta) KL(pi || m), m = beta p + (1 - beta) pi."""

    def value(pi: jax.Array, p: Array) -> jax.Array:
        mix = beta * p + (1 - beta) * pi
        return beta * kl(p, mix) + (1 - beta) * kl(pi, mix)

    return value


def skew(alpha: float):
    """Ko et al. 2024 (DistiLLM), section 3.1: KL(p || alpha p + (1 - alpha) pi)."""
    return lambda pi, p: kl(p, alpha * p + (1 - alpha) * pi)


def skew_reverse(alpha: float):
    """The same mixture from the student's side: KL(pi || alpha p + (1 - alpha) pi)."""
    return lambda pi, p: kl(pi, alpha * p + (1 - alpha) * pi)


# --- a part of the vocabulary: k tokens and what is done about the rest ----------------------


def top(case: Case, k: int, whose: str) -> Array:
    """The most probable k tokens of the student, of the teacher, or of each, [B, T, V] bool."""
    policies = {"student": [case.pi], "teacher": [case.p], "union": [case.pi, case.p]}
    chosen = np.zeros((B, T, V), bool)
    for prob in policies[whose]:
        np.put_along_axis(chosen, np.argsort(-prob, -1)[..., :k], True, -1)
    return chosen


def drop(k: int, whose: str = "student") -> Loss:
    """sum over the set of the detached coefficient pi log p/pi, times -log pi."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        weight = case.pi * np.log(case.p / case.pi) * top(case, k, whose)
        return over_rollouts(-jnp.sum(weight * jax.nn.log_softmax(logits), -1), case.mask)

    return loss


def truncate(k: int) -> Loss:
    """The sum of the KL cut off, and differentiated as it stands."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        inside = kl(jax.nn.softmax(logits), case.p) * top(case, k, "student")
        return over_rollouts(jnp.sum(inside, -1), case.mask)

    return loss


def renormalise(k: int, whose: str = "student") -> Loss:
    """KL of both policies given that the token is in the set."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        chosen = top(case, k, whose)
        pi, p = jax.nn.softmax(logits) * chosen, case.p * chosen
        q, p = pi / pi.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
        ratio = jnp.log(jnp.where(chosen, q, 1) / jnp.where(chosen, p, 1))
        return over_rollouts(jnp.sum(q * ratio, -1), case.mask)

    return loss


def bucket(k: int) -> Loss:
    """KL of the k tokens and one more, which stands for the rest."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        chosen, pi = top(case, k, "student"), jax.nn.softmax(logits)
        inside = jnp.sum(kl(pi, case.p) * chosen, -1)
        outside = kl(jnp.sum(pi * ~chosen, -1), np.sum(case.p * ~chosen, -1))
        return over_rollouts(inside + outside, case.mask)

    return loss


def own_tail(k: int, whose: str = "teacher") -> Loss:
    """`drop`, and the rollout's own token where it lies off the set: -sg(log p/pi) log pi."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        off = ~at(top(case, k, whose), case.tokens)
        own = policy_gradient(lambda case: off * case.log_ratio)
        return drop(k, whose)(case, logits) + own(case, logits)

    return loss


def sum_and_sample(k: int) -> Loss:
    """Kool et al. 2020, section 3: `drop`, and one fresh token of the rest for all of it."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        rest = case.pi * ~top(case, k, "student")
        token = by_cdf(rest, case.uniforms[..., 0])
        weight = rest.sum(-1) * at(np.log(case.p / case.pi), token)
        fresh = over_rollouts(-weight * logp_of(logits, token), case.mask)
        return drop(k)(case, logits) + fresh

    return loss


# --- sampled tokens: -A log pi, A detached ---------------------------------------------------


def policy_gradient(advantage: Advantage, mean=over_rollouts) -> Loss:
    """-A log pi(y), A detached: the surrogate that every sampled row is published as."""
    return lambda case, logits: mean(-advantage(case) * logp_of(logits, case.tokens), case.mask)


def fresh_tokens(k: int) -> Loss:
    """The mean over k tokens of the student's, graded by log p/pi, drawn for grading alone."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        total = 0.0
        for i in range(k):
            token = by_cdf(case.pi, case.uniforms[..., i])
            weight = at(np.log(case.p / case.pi), token)
            total += over_rollouts(-weight * logp_of(logits, token), case.mask) / k
        return total

    return loss


def teachers_token(case: Case, logits: jax.Array) -> jax.Array:
    """Cross entropy to one token of the teacher's."""
    token = by_cdf(case.p, case.uniforms[..., 0])
    return over_rollouts(-logp_of(logits, token), case.mask)


def k1_loss(case: Case, logits: jax.Array) -> jax.Array:
    """Schulman 2020, k1 = log pi/p of the token, differentiated as it stands."""
    gap = logp_of(logits, case.tokens) - at(np.log(case.p), case.tokens)
    return over_rollouts(gap, case.mask)


def log_ratio(case: Case) -> Array:
    """log p/pi of the token as its reward."""
    return case.log_ratio


def return_to_go(reward: Array, mask: Array, gamma: float) -> Array:
    """sum over t' >= t of gamma^(t' - t) r_t', [B, T]."""
    out = np.zeros(reward.shape)
    for b in range(B):
        for t in range(T):
            for later in range(t, T):
                if mask[b, t] and mask[b, later]:
                    out[b, t] += gamma ** (later - t) * reward[b, later]
    return out


def credit(gamma: float) -> Advantage:
    """log p/pi of this token and of those that follow."""
    return lambda case: return_to_go(case.log_ratio, case.mask, gamma)


def least_variance(case: Case) -> Array:
    """log p/pi less E[w |s|^2] / E[|s|^2], the squares summed over the vocabulary's outcomes."""
    score = np.eye(V) - case.pi[..., None, :]  # [B, T, v, V]
    square = np.sum(score**2, -1)
    graded = np.sum(case.pi * np.log(case.p / case.pi) * square, -1)
    return case.log_ratio - graded / np.sum(case.pi * square, -1)


def mean_credit(case: Case) -> Array:
    """The same, undiscounted, over the number of tokens from here on."""
    return credit(1.0)(case) / np.maximum(LENGTHS[:, None] - np.arange(T), 1)


def now_and_later(later: Advantage) -> Loss:
    """MiniLLM, section 2.2: the single step enumerated, what follows from the sampled tokens."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        return divergence(kl)(case, logits) + policy_gradient(later)(case, logits)

    return loss


def future(gamma: float) -> Advantage:
    """log p/pi of what follows the token, discounted; the token's own left out."""
    return lambda case: credit(gamma)(case) - case.log_ratio


def mean_future(case: Case) -> Array:
    """MiniLLM's length normalisation: the future over the number of tokens ahead."""
    return future(1.0)(case) / np.maximum(LENGTHS[:, None] - np.arange(T) - 1, 1)


# --- rewards: one number a rollout -----------------------------------------------------------


def terminal(per_rollout: Array) -> Advantage:
    """A rollout's number at all its tokens."""
    return lambda case: np.broadcast_to(per_rollout[:, None], (B, T))


def at_the_end(case: Case) -> Array:
    """The reward at the last token, and nowhere else."""
    return REWARD[:, None] * (np.arange(T) == LENGTHS[:, None] - 1)


def leave_one_out() -> Array:
    """RLOO (Ahmadian et al. 2024, section 3): less the mean of the group's others."""
    groups = REWARD.reshape(-1, G)
    return ((G * groups - groups.sum(1, keepdims=True)) / (G - 1)).ravel()


def group_centred() -> Array:
    """Dr. GRPO, section 3.2: less the group's mean."""
    groups = REWARD.reshape(-1, G)
    return (groups - groups.mean(1, keepdims=True)).ravel()


def group_normalised() -> Array:
    """GRPO, section 4.1.2: less the group's mean, over its standard deviation."""
    groups = REWARD.reshape(-1, G)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / (groups.std(1, keepdims=True) + EPSILON)).ravel()


def by_length() -> Array:
    """OPO, section 3: less the group's mean weighted by length."""
    groups, lengths = REWARD.reshape(-1, G), LENGTHS.reshape(-1, G)
    return (
        groups - (groups * lengths).sum(1, keepdims=True) / lengths.sum(1, keepdims=True)
    ).ravel()


def optimal_token(case: Case) -> Array:
    """The group's rewards that reach t, by |onehot - pi|^2 of the tokens up to it."""
    square = np.sum((np.eye(V)[case.tokens] - case.pi) ** 2, -1)
    out = np.zeros((B, T))
    for b in range(B):
        for t in range(LENGTHS[b]):
            first = b - b % G
            reach = [i for i in range(first, first + G) if LENGTHS[i] > t]
            weight = np.array([square[i, : t + 1].sum() for i in reach])
            out[b, t] = REWARD[b] - weight @ REWARD[reach] / weight.sum()
    return out


def dro(beta: float) -> Loss:
    """Richemond et al. 2024: (R - beta log pi/reference of the rollout)^2 / (2 beta), V = 0."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        gap = jnp.where(case.mask, logp_of(logits, case.tokens) - case.reference, 0)
        return jnp.mean((REWARD - beta * jnp.sum(gap, 1)) ** 2) / (2 * beta)

    return loss


def over_the_mean() -> Array:
    """MaxRL, algorithm 1: less the group's mean, over it."""
    groups = REWARD.reshape(-1, G)
    return (groups / groups.mean(1, keepdims=True) - 1).ravel()


REWARDED, NORMALISED = terminal(REWARD), terminal(group_normalised())
RLOO = policy_gradient(terminal(leave_one_out()))


# --- ratios of the current and an older policy -----------------------------------------------


def product(log_rho: Array, kind: str) -> Array:
    """Which tokens' ratios are multiplied at t, and the product, [B, T]; detached.

    `sequence` is the geometric mean of all of them (GSPO, eq. 7).
    """
    out = np.ones((B, T))
    for b, n in enumerate(LENGTHS):
        for t in range(n):
            first, last = {
                "token": (t, t + 1),
                "prefix": (0, t),
                "prefix_inclusive": (0, t + 1),
                "trajectory": (0, n),
                "sequence": (0, n),
            }[kind]
            total = log_rho[b, first:last].sum()
            out[b, t] = np.exp(total / n if kind == "sequence" else total)
    return out


def weighed(advantage: Advantage, kind: str, rule=lambda rho: rho) -> Loss:
    """A detached function of a detached ratio, times A log pi."""
    return policy_gradient(
        lambda case: rule(product(case.logp - case.behavior, kind)) * advantage(case)
    )


def cut_off(low: float, high: float):
    """IcePop: a ratio outside of the bounds counts nothing."""
    return lambda rho: rho * ((rho >= low) & (rho <= high))


def surrogate(rho: jax.Array, advantage: Array, low: float, high: float) -> jax.Array:
    """PPO, eq. 7: the smaller of the plain and the clipped one, rho differentiated."""
    return jnp.minimum(rho * advantage, jnp.clip(rho, low, high) * advantage)


def clipped(advantage: Advantage, low=0.8, high=1.2, mean=over_rollouts) -> Loss:
    """PPO's surrogate, token by token, of the current policy over the behavior."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
        return -mean(surrogate(rho, advantage(case), low, high), case.mask)

    return loss


def corrected(kind: str, rule=lambda rho: rho, high=1.2, mean=over_rollouts) -> Loss:
    """Two ratios: PPO's clip of current / proximal, weighed by proximal / behavior, detached."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        correction = rule(product(case.proximal - case.behavior, kind))
        rho = jnp.exp(logp_of(logits, case.tokens) - case.proximal)
        gain = surrogate(rho, NORMALISED(case), 0.8, high)
        return -mean(correction * gain, case.mask)

    return loss


def dual_clipped(advantage: Advantage, dual: float) -> Loss:
    """Ye et al. 2020, eq. 5: PPO's surrogate, and where A < 0 the larger of it and dual A."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
        graded = advantage(case)
        gain = surrogate(rho, graded, 0.8, 1.2)
        return -over_rollouts(
            jnp.where(graded < 0, jnp.maximum(gain, dual * graded), gain), case.mask
        )

    return loss


def sapo(case: Case, logits: jax.Array) -> jax.Array:
    """Gao et al. 2025: (4 / tau) sigma(tau (rho - 1)) A, tau 1 or 1.05 by the sign of A."""
    rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
    graded = NORMALISED(case)
    tau = np.where(graded > 0, 1.0, 1.05)
    return -over_sequences(4 / tau * jax.nn.sigmoid(tau * (rho - 1)) * graded, case.mask)


def dppo(delta: float) -> Loss:
    """Qi et al. 2026: rho A, masked where pi - mu is beyond delta on the side A pushes to."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
        moved, graded = np.exp(case.logp) - np.exp(case.behavior), NORMALISED(case)
        within = np.where(graded > 0, moved <= delta, moved >= -delta)
        return -over_rollouts(rho * graded * within, case.mask)

    return loss


def gmpo(case: Case, logits: jax.Array) -> jax.Array:
    """Zhao et al. 2025, eq. 4: prod |min(rho A, clip(rho) A)|^(1 / |y|) sgn A, a sequence."""
    rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
    graded = NORMALISED(case)
    each = jnp.abs(surrogate(rho, graded, np.exp(-0.4), np.exp(0.4)))
    product = jnp.prod(jnp.where(case.mask, each, 1), 1)
    return -jnp.mean(product ** (1 / LENGTHS) * np.sign(graded[:, 0]))


def topr(per_rollout: Array) -> Loss:
    """Le Roux et al. 2025, eq. 8: log pi of successes, rho cut to [0, 1] times that of failures."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        logp = jnp.sum(jnp.where(case.mask, logp_of(logits, case.tokens), 0), 1)
        rho = np.exp(np.where(case.mask, case.logp - case.behavior, 0).sum(1))
        weight = np.where(per_rollout > 0, 1, np.clip(rho, 0, 1))
        return -jnp.mean(weight * per_rollout * logp)

    return loss


def aspo(case: Case, logits: jax.Array) -> jax.Array:
    """Wang et al. 2025: mu pi / sg(pi)^2, at most 3, for pi / mu where A > 0; clipped."""
    logp, graded = logp_of(logits, case.tokens), NORMALISED(case)
    rho = np.exp(case.logp - case.behavior)
    turned = jnp.exp(case.behavior + logp - 2 * case.logp) * np.minimum(1, 3 * rho)
    weight = jnp.where(graded > 0, turned, jnp.exp(logp - case.behavior))
    inside = np.where(graded > 0, rho <= 1.2, rho >= 0.8)
    return -over_tokens(weight * graded * inside, case.mask)


def m2po(tau: float) -> Loss:
    """Zheng et al. 2025, section 4: the largest (log rho)^2 go until their mean is tau."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        gap = case.logp - case.behavior
        kept = case.mask.copy()
        while kept.any() and np.mean(gap[kept] ** 2) > tau:
            kept[np.unravel_index(np.argmax(np.where(kept, gap**2, -1)), kept.shape)] = False
        rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
        return -over_tokens(rho * NORMALISED(case) * kept, case.mask)

    return loss


def of_whole_rollouts(case: Case, logits: jax.Array) -> jax.Array:
    """Each rollout's reward times the ratio of its probabilities, which is differentiated."""
    gap = jnp.where(case.mask, logp_of(logits, case.tokens) - case.behavior, 0)
    return -jnp.mean(jnp.exp(jnp.sum(gap, 1)) * REWARD)


def gspo(low: float, high: float) -> Loss:
    """Zheng et al. 2025, eq. 5 and 7: one clipped ratio a sequence, to the power of 1 / |y|."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        gap = jnp.where(case.mask, logp_of(logits, case.tokens) - case.behavior, 0)
        rho = jnp.exp(jnp.sum(gap, 1) / case.mask.sum(1))
        return -jnp.mean(surrogate(rho, group_normalised(), low, high))

    return loss


def on_student_states(case: Case, logits: jax.Array) -> jax.Array:
    """KL(pi || p) at the behavior's states, weighed by how much oftener the student is there."""
    oftener = product(case.logp - case.behavior, "prefix")
    return over_rollouts(oftener * jnp.sum(kl(jax.nn.softmax(logits), case.p), -1), case.mask)


def corrected_future(gamma: float) -> Loss:
    """`now_and_later` there; the future counts as often as the whole rollout would be drawn."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        later = weighed(future(gamma), "trajectory")
        return on_student_states(case, logits) + later(case, logits)

    return loss


# --- tokens and rollouts that count more, or not at all -------------------------------------------


def weighted(weight: Advantage, per_token, mean=over_rollouts) -> Loss:
    """A detached weight times a loss of each token, [B, T]."""
    return lambda case, logits: mean(weight(case) * per_token(case, logits), case.mask)


def at_states(value: Callable[[jax.Array, Array], jax.Array]):
    """A divergence's loss of each token."""
    return lambda case, logits: jnp.sum(value(jax.nn.softmax(logits), case.p), -1)


def first_tokens(part: float) -> Advantage:
    """Zhang et al. 2026: the first tokens alone."""
    return lambda case: np.broadcast_to(np.arange(T) < part * T, (B, T))


def iw_opd(boost: float) -> Advantage:
    """Xie et al. 2026: 1 + gamma (1 - sum_{k < t} |A_k| / sum_{k < n} |A_k|), and A."""

    def advantage(case: Case) -> Array:
        out = np.zeros((B, T))
        for b, n in enumerate(LENGTHS):
            size = np.abs(case.log_ratio[b])
            for t in range(n):
                share = size[:t].sum() / size[: n - 1].sum() if t else 0.0
                out[b, t] = (1 + boost * (1 - share)) * case.log_ratio[b, t]
        return out

    return advantage


def unsure(threshold: float) -> Advantage:
    """Where the teacher's entropy is above a threshold."""
    return lambda case: -np.sum(case.p * np.log(case.p), -1) > threshold


def most_unsure(part: float) -> Advantage:
    """Wang et al. 2025: the tokens of the batch with the largest entropies of the student."""

    def weight(case: Case) -> Array:
        entropy = np.where(case.mask, -np.sum(case.pi * np.log(case.pi), -1), -1)
        count = int(np.ceil(part * case.mask.sum()))
        return entropy >= np.sort(entropy.ravel())[-count]

    return weight


def forking(case: Case, logits: jax.Array) -> jax.Array:
    """Wang et al. 2025: DAPO's objective of a fifth of the tokens, divided by all of them."""
    rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
    gain = surrogate(rho, NORMALISED(case), 0.8, 1.28) * most_unsure(0.2)(case)
    return -over_tokens_of_ended(gain, case.mask)


def adaptive_kl(case: Case, logits: jax.Array) -> jax.Array:
    """Wu et al. 2025: the head has the likeliest tokens of p up to half of its mass."""
    gap = np.abs(case.p - case.pi)
    head = np.zeros((B, T, V), bool)
    for b, t in np.ndindex(B, T):
        mass = 0.0
        for v in np.argsort(-case.p[b, t]):
            if mass < 0.5:
                head[b, t, v] = True
            mass += case.p[b, t, v]
    share = (gap * head).sum(-1) / gap.sum(-1)
    pi = jax.nn.softmax(logits)
    each = share * jnp.sum(kl(case.p, pi), -1) + (1 - share) * jnp.sum(kl(pi, case.p), -1)
    return over_rollouts(each, case.mask)


def by_outcome(weight: list[float]) -> Loss:
    """KL(pi || p) of some rollouts."""
    return weighted(terminal(np.array(weight)), at_states(kl))


def intermediate(share: float) -> Loss:
    """TAID, eq. 3: cross entropy to softmax(share z_pi + (1 - share) z_p), which is detached."""

    def loss(case: Case, logits: jax.Array) -> jax.Array:
        target = softmax(share * case.logits + (1 - share) * case.teacher)
        return over_rollouts(-jnp.sum(target * jax.nn.log_softmax(logits), -1), case.mask)

    return loss


def distillm2(case: Case, logits: jax.Array) -> jax.Array:
    """Ko et al. 2025: skew KL on the teacher's rollouts, its reverse on the student's own."""
    pi = jax.nn.softmax(logits)
    own = case.mask & OWN[:, None]
    given = over_tokens(jnp.sum(skew(0.1)(pi, case.p), -1), case.mask & ~own)
    return given + over_tokens(jnp.sum(skew_reverse(0.1)(pi, case.p), -1), own)


# --- critics ---------------------------------------------------------------------------------


def rewards_and_values(case: Case, b: int) -> tuple[Array, Array]:
    """A rollout's rewards [n] and values [n + 1], with nothing after its end."""
    n = LENGTHS[b]
    return np.append(np.zeros(n - 1), REWARD[b]), np.append(case.value[b, :n], 0.0)


def gae(gamma: float, lam: float) -> Advantage:
    """Schulman et al. 2016, eq. 16, the sum written out."""

    def advantage(case: Case) -> Array:
        out = np.zeros((B, T))
        for b, n in enumerate(LENGTHS):
            reward, value = rewards_and_values(case, b)
            for t in range(n):
                for i in range(t, n):
                    error = reward[i] + gamma * value[i + 1] - value[i]
                    out[b, t] += (gamma * lam) ** (i - t) * error
        return out

    return advantage


def whitened(advantage: Advantage) -> Advantage:
    """Mean 0 and standard deviation 1 over the batch's tokens, as PPO is mostly implemented."""

    def white(case: Case) -> Array:
        plain = advantage(case)
        tokens = plain[case.mask]
        return (plain - tokens.mean()) / (tokens.std() + EPSILON)

    return white


def vtrace(rho_bar: float, c_bar: float, lam: float) -> Advantage:
    """Espeholt et al. 2018, eq. 1 written out, gamma = 1; rho_s (r_s + v_{s+1} - V_s)."""

    def advantage(case: Case) -> Array:
        rho = np.exp(case.logp - case.behavior)
        out = np.zeros((B, T))
        for b, n in enumerate(LENGTHS):
            reward, value = rewards_and_values(case, b)
            target = value.copy()
            for start in range(n):
                for t in range(start, n):
                    trace = np.prod(lam * np.minimum(c_bar, rho[b, start:t]))
                    error = reward[t] + value[t + 1] - value[t]
                    target[start] += trace * min(rho_bar, rho[b, t]) * error
            for t in range(n):
                out[b, t] = min(rho_bar, rho[b, t]) * (reward[t] + target[t + 1] - value[t])
        return out

    return advantage


# --- two signals -----------------------------------------------------------------------------


def plus(first: Loss, coef: float, second: Loss) -> Loss:
    """The sum of two losses."""
    return lambda case, logits: first(case, logits) + coef * second(case, logits)


def k3(case: Case, logits: jax.Array) -> jax.Array:
    """Schulman 2020: r - 1 - log r, r = reference / current, [B, T], differentiated as it is."""
    gap = case.reference - logp_of(logits, case.tokens)
    return jnp.exp(gap) - 1 - gap


def penalty(case: Case, logits: jax.Array) -> jax.Array:
    """k3 as a loss: for leaving the reference policy."""
    return over_rollouts(k3(case, logits), case.mask)


def negative_entropy(case: Case, logits: jax.Array) -> jax.Array:
    """-H(pi) of each state."""
    logp = jax.nn.log_softmax(logits)
    return over_rollouts(jnp.sum(jnp.exp(logp) * logp, -1), case.mask)


def k2(case: Case, logits: jax.Array) -> jax.Array:
    """Schulman 2020: (log pi/p)^2 / 2 of the token, differentiated as it stands."""
    gap = logp_of(logits, case.tokens) - at(np.log(case.p), case.tokens)
    return over_tokens(gap**2 / 2, case.mask)


def reward_in_one_return(case: Case) -> Array:
    """REINFORCE++: the reward at the end, 0.01 log reference/pi at every token, added up."""
    each = at_the_end(case) + 0.01 * (case.reference - case.logp)
    return return_to_go(each, case.mask, 1.0)


def extrapolated(case: Case) -> Array:
    """G-OPD: lambda log p + (1 - lambda) log reference - log pi, lambda 1.25."""
    return 1.25 * at(np.log(case.p), case.tokens) - 0.25 * case.reference - case.logp


def penalised_reward(case: Case) -> Array:
    """RLOO's advantage, and 0.04 log reference/pi of this and later tokens as a reward."""
    gap = case.reference - case.logp
    return leave_one_out()[:, None] + 0.04 * return_to_go(gap, case.mask, 1.0)


def grpo_whole(case: Case, logits: jax.Array) -> jax.Array:
    """Shao et al. 2024, eq. 3: clip, 1 / |o|, and the penalty inside the sum."""
    rho = jnp.exp(logp_of(logits, case.tokens) - case.behavior)
    gain = surrogate(rho, group_normalised()[:, None], 0.8, 1.2) - 0.04 * k3(case, logits)
    return -over_sequences(gain, case.mask)


# --- the list --------------------------------------------------------------------------------

_CLIP = "grpo@importance=token,ratio_rule=clip"

LOSSES: Mapping[str, Loss] = {
    # Distillation, enumerated.
    "opd": divergence(kl),
    "opd@divergence=jeffreys": divergence(jeffreys),
    "opd@divergence=jsd,argument=0.3": divergence(jensen_shannon(0.3)),
    "opd@divergence=skew,argument=0.1": divergence(skew(0.1)),
    "opd@divergence=skew_reverse,argument=0.1": divergence(skew_reverse(0.1)),
    "opd@gamma=0.7": now_and_later(future(0.7)),
    "opd@gamma=1": now_and_later(future(1.0)),
    "opd@gamma=0.7,importance=trajectory": corrected_future(0.7),
    "opd@divergence=total_variation": divergence(lambda pi, p: jnp.abs(pi - p) / 2),
    "soft_label": divergence(cross_entropy),
    "dagger": divergence(cross_entropy),
    "gkd": divergence(jensen_shannon(0.5)),
    "skew": divergence(skew(0.1)),
    "minillm": now_and_later(future(1.0)),
    "minillm@returns=mean": now_and_later(mean_future),
    "teacher_behavior": divergence(kl),
    "teacher_behavior@importance=prefix": on_student_states,
    # Distillation, sampled.
    "opd_sampled": policy_gradient(log_ratio),
    "opd_sampled@gamma=0.7": policy_gradient(credit(0.7)),
    "opd_sampled@gamma=1": policy_gradient(credit(1.0)),
    "opd_sampled@gamma=1,returns=mean": policy_gradient(mean_credit),
    "opd_sampled@importance=prefix_inclusive": weighed(log_ratio, "prefix_inclusive"),
    "opd_sampled@importance=token,ratio_rule=clip": clipped(log_ratio),
    "opd_baseline": policy_gradient(lambda case: case.log_ratio + case.kl),
    "opd_optimal": policy_gradient(least_variance),
    "opd_resampled": fresh_tokens(4),
    "opd_resampled@k=1": fresh_tokens(1),
    "soft_label@expectation=sampled": teachers_token,
    # Distillation on a part of the vocabulary; all of it is no part.
    "opd_topk@k=3": sum_and_sample(3),
    "opd_topk@k=3,tail=drop": drop(3),
    "opd_topk@k=3,tail=drop,topk_from=teacher": drop(3, "teacher"),
    "opd_topk@k=3,tail=drop,topk_from=union": drop(3, "union"),
    "opd_topk@k=3,tail=truncate": truncate(3),
    "opd_topk@k=3,tail=renormalise": renormalise(3),
    "opd_topk@k=3,tail=renormalise,topk_from=union": renormalise(3, "union"),
    "opd_topk@k=3,tail=bucket": bucket(3),
    "opd_topk@k=3,tail=own,topk_from=teacher": own_tail(3),
    "opd_topk@k=3,tail=own": own_tail(3, "student"),
    "opd_topk@k=7,tail=sample": divergence(kl),
    "opd_topk@k=7,tail=bucket": divergence(kl),
    # Demonstrations.
    "sft": policy_gradient(terminal(np.ones(B))),
    "sft@reduction=token_mean": policy_gradient(terminal(np.ones(B)), over_tokens),
    # A reward.
    "reinforce": policy_gradient(REWARDED),
    "reinforce@gamma=0": policy_gradient(at_the_end),
    "reinforce@baseline=batch": policy_gradient(terminal(REWARD - REWARD.mean())),
    "rloo": RLOO,
    "grpo": policy_gradient(NORMALISED),
    "grpo@reduction=sequence_mean": policy_gradient(NORMALISED, over_sequences),
    "grpo@normaliser=none,reduction=constant": policy_gradient(
        terminal(group_centred()), over_constant
    ),
    "dr_grpo": clipped(terminal(group_centred()), mean=over_constant),
    "dapo": clipped(NORMALISED, high=1.28, mean=over_tokens_of_ended),
    "gspo": gspo(1 - 3e-4, 1 + 4e-4),
    "gspo@low=0.9,high=1.3": gspo(0.9, 1.3),
    "offline_rl": policy_gradient(REWARDED),
    "offline_rl@importance=trajectory": of_whole_rollouts,
    # What is done with a ratio.
    "grpo@importance=token": weighed(NORMALISED, "token"),
    "grpo@importance=token,ratio_rule=clip_ungated,low=0.5,high=1.1": weighed(
        NORMALISED, "token", lambda rho: np.clip(rho, 0.5, 1.1)
    ),
    "grpo@importance=token,ratio_rule=truncate,high=1.2": weighed(
        NORMALISED, "token", lambda rho: np.minimum(rho, 1.2)
    ),
    "grpo@importance=token,ratio_rule=mask,low=0.8,high=1.2": weighed(
        NORMALISED, "token", cut_off(0.8, 1.2)
    ),
    # Two ratios, on rollouts that keep the proximal policy's log-probabilities too.
    "dapo@correction=token,correction_high=1.1": corrected(
        "token", lambda rho: np.minimum(rho, 1.1), 1.28, over_tokens_of_ended
    ),
    f"{_CLIP},correction=token,correction_rule=mask,correction_low=0.8,correction_high=1.3": (
        corrected("token", cut_off(0.8, 1.3))
    ),
    f"{_CLIP},correction=prefix,correction_rule=none": corrected("prefix"),
    f"{_CLIP},correction=prefix_inclusive,correction_rule=none": corrected("prefix_inclusive"),
    f"{_CLIP},correction=trajectory,correction_rule=clip_ungated,correction_high=1.5": corrected(
        "trajectory", lambda rho: np.clip(rho, 0, 1.5)
    ),
    f"{_CLIP},correction=sequence,correction_rule=none": corrected("sequence"),
    "tis": corrected("token", lambda rho: np.minimum(rho, 2.0)),
    "tis@correction=trajectory,correction_high=1.1": corrected(
        "trajectory", lambda rho: np.minimum(rho, 1.1)
    ),
    "icepop": corrected("token", cut_off(0.5, 5.0), mean=over_sequences),
    # Other rules for a ratio.
    "cispo": policy_gradient(
        lambda case: np.minimum(np.exp(case.logp - case.behavior), 1.2) * NORMALISED(case),
        over_tokens,
    ),
    "grpo@importance=token,ratio_rule=dual_clip,dual=1.5": dual_clipped(NORMALISED, 1.5),
    "sapo": sapo,
    "dppo": dppo(0.2),
    "dppo@band=0.05": dppo(0.05),
    "gmpo": gmpo,
    "topr": topr(REWARD),
    "topr@baseline=group": topr(group_centred()),
    "aspo": aspo,
    "m2po": m2po(0.04),
    "m2po@tau=0.3": m2po(0.3),
    # Baselines and normalisers.
    "opo": policy_gradient(terminal(by_length())),
    "optimal_token": policy_gradient(optimal_token),
    "dro": dro(0.1),
    "maxrl": policy_gradient(terminal(over_the_mean())),
    "reinforce_pp": clipped(whitened(reward_in_one_return), mean=over_tokens),
    # Critics.
    "ppo": clipped(gae(1.0, 0.95), mean=over_tokens),
    "ppo@gamma=0.9,lam=0.7,high=1.1": clipped(gae(0.9, 0.7), high=1.1, mean=over_tokens),
    "ppo@normaliser=whiten": clipped(whitened(gae(1.0, 0.95)), mean=over_tokens),
    "vtrace": policy_gradient(vtrace(1.0, 1.0, 1.0)),
    "vtrace@high=1.5,c_bar=0.9,lam=0.8": policy_gradient(vtrace(1.5, 0.9, 0.8)),
    # Two signals.
    "rl_with_teacher": plus(RLOO, 0.1, divergence(kl)),
    "rl_with_reference": plus(RLOO, 0.04, penalty),
    "rl_with_reference@penalty=k1,reference.gamma=1": policy_gradient(penalised_reward),
    f"{_CLIP},reduction=sequence_mean,reference.coef=0.04": grpo_whole,
    "grpo@entropy.coef=0.1": plus(policy_gradient(NORMALISED), 0.1, negative_entropy),
    "kdrl": plus(policy_gradient(NORMALISED, over_tokens), 0.002, k2),
    "exopd": policy_gradient(extrapolated),
    "mopd@k=3": drop(3, "teacher"),
    # Tokens and rollouts that count more, or not at all.
    "akl": adaptive_kl,
    "prefix_opd": policy_gradient(lambda case: first_tokens(0.3)(case) * case.log_ratio),
    "iw_opd": policy_gradient(iw_opd(0.5)),
    "entropy_opd@threshold=1.2": plus(
        divergence(kl), 1, weighted(unsure(1.2), at_states(cross_entropy))
    ),
    "dapo@weigh=entropy_student": forking,
    "opd_sampled@weigh=bounded_ratio,most=0.7": policy_gradient(
        lambda case: np.clip(case.log_ratio, -0.7, 0.7)
    ),
    "opd@gate=right,passing=1.5": by_outcome([0, 0, 0, 1]),
    "opd@gate=wrong,passing=1.5": by_outcome([1, 1, 1, 0]),
    "opd@gate=failed,passing=1.5": by_outcome([1, 1, 0, 0]),
    "opd@gate=mixed,passing=1.5": by_outcome([0, 0, 1, 1]),
    "opd@gate=failure_rate,passing=1.5": by_outcome([1, 1, 0.5, 0.5]),
    # A target that holds the student's own logits; terms on different rollouts.
    "taid": intermediate(0.5),
    "taid@own=0.2": intermediate(0.2),
    "distillm2": distillm2,
    # Two published mistakes.
    "k1_loss": k1_loss,
    "kl_advantage": policy_gradient(lambda case: -case.kl),
}

# Rows that no paper has a loss of, and why; the contract asks for one line here or above.
UNPUBLISHED: Mapping[str, str] = {}

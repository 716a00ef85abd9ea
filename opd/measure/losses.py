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
    # Two published mistakes.
    "k1_loss": k1_loss,
    "kl_advantage": policy_gradient(lambda case: -case.kl),
}

# Rows that no paper has a loss of, and why; the contract asks for one line here or above.
UNPUBLISHED: Mapping[str, str] = {}

"""The losses of the table's rows as their papers have them, and the library's side of each.

They are written on plain logits and share nothing with the library: NumPy for what is detached,
jax.grad for the rest. The library is run through its chunked vocabulary pass (chunks of two), with
logits as hidden states and the identity as unembedding.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.lab import relative
from opd.engine import vocab
from opd.engine.vocab import Head, Pass
from opd.method import table
from opd.method.coefficients import coefficients, weights
from opd.types import Rollout

B, T, V, G, K_TOP = 4, 5, 7, 2, 3
LENGTHS = (5, 3, 1, 4)
ENDED = np.array([False, True, True, True])
REWARD = np.array([1.0, 0.0, 0.5, 2.0])


class Case:
    """Student and teacher logits, tokens, masks, uniforms of one seed."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.logits = 1.5 * rng.normal(size=(B, T, V))
        self.teacher = 1.5 * rng.normal(size=(B, T, V))
        self.tokens = rng.integers(0, V, size=(B, T))
        self.mask = np.arange(T) < np.array(LENGTHS)[:, None]
        self.uniforms = rng.uniform(size=(B, T, 4))
        self.p = softmax(self.teacher)
        self.pi = softmax(self.logits)
        near = self.logits + 0.5 * rng.normal(size=(3, B, T, V))  # an older policy's, and so on
        self.behavior, self.proximal, self.reference = (
            own(np.log(softmax(policy)), self.tokens) for policy in near
        )
        self.value = rng.normal(size=(B, T))
        self.old = self.behavior  # whose ratio a loss clips

    def rollout(self, two_ratios: bool = False) -> Rollout:
        return Rollout(
            prompt=jnp.zeros((B, 1), jnp.int32),
            prompt_mask=jnp.ones((B, 1), bool),
            tokens=jnp.asarray(self.tokens, jnp.int32),
            mask=jnp.asarray(self.mask),
            logp_behavior=jnp.asarray(self.behavior),
            ended=jnp.asarray(ENDED),
            group=jnp.arange(B) // G,
            row=jnp.arange(B),
            reward=jnp.asarray(REWARD),
            logp_proximal=jnp.asarray(self.proximal) if two_ratios else None,
            logp_reference=jnp.asarray(self.reference),
            value=jnp.asarray(self.value),
        )


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def own(values, tokens):
    return np.take_along_axis(values, tokens[..., None], -1)[..., 0]


def logp(logits):
    return jax.nn.log_softmax(logits)


def picked(logits, tokens):
    return jnp.take_along_axis(logp(logits), jnp.asarray(tokens)[..., None], -1)[..., 0]


def mean_rollout(per_token, mask):
    return jnp.sum(jnp.where(mask, per_token, 0)) / B


def policy_gradient(advantage):
    """-A log pi(y), A detached: the surrogate that every sampled row is published as."""
    return lambda case, logits: mean_rollout(
        -advantage(case) * picked(logits, case.tokens), case.mask
    )


def divergence_loss(value):
    """Sum over v of d(pi, p) at each state."""
    return lambda case, logits: mean_rollout(
        jnp.sum(value(jnp.exp(logp(logits)), case.p), -1), case.mask
    )


def kl(a, b):
    return a * jnp.log(a / b)


def log_ratio(case):
    return own(np.log(case.p) - np.log(case.pi), case.tokens)


def return_to_go(reward, mask, gamma):
    out = np.zeros(reward.shape)
    for b in range(B):
        for t in range(T):
            for later in range(t, T):
                if mask[b, t] and mask[b, later]:
                    out[b, t] += gamma ** (later - t) * reward[b, later]
    return out


def returns_of_log_ratio(gamma):
    return lambda case: return_to_go(log_ratio(case), case.mask, gamma)


def future_loss(gamma):
    """Enumerated now, plus gamma times the sampled cost-to-go from the next token on."""

    def loss(case, logits):
        later = return_to_go(log_ratio(case), case.mask, gamma) - log_ratio(case)
        now = divergence_loss(kl)(case, logits)
        return now + mean_rollout(-later * picked(logits, case.tokens), case.mask)

    return loss


def by_cdf(prob, uniform):
    """The first token whose cumulative probability exceeds u."""
    return (np.cumsum(prob / prob.sum(-1, keepdims=True), -1) <= uniform[..., None]).sum(-1)


def drawn_loss(k):
    def loss(case, logits):
        total = 0.0
        for i in range(k):
            token = by_cdf(case.pi, case.uniforms[..., i])
            weight = own(np.log(case.p / case.pi), token)
            total += mean_rollout(-weight * picked(logits, token), case.mask) / k
        return total

    return loss


def teacher_draw_loss(case, logits):
    return mean_rollout(-picked(logits, by_cdf(case.p, case.uniforms[..., 0])), case.mask)


def members(case, whose):
    sets = {"student": [case.pi], "teacher": [case.p], "union": [case.pi, case.p]}
    chosen = np.zeros((B, T, V), bool)
    for prob in sets[whose]:
        top = np.argsort(-prob, -1)[..., :K_TOP]
        np.put_along_axis(chosen, top, True, -1)
    return chosen


def drop_loss(case, logits, whose="student"):
    """sum over S of the detached coefficient pi w, times -log pi."""
    weight = case.pi * np.log(case.p / case.pi) * members(case, whose)
    return mean_rollout(-jnp.sum(weight * logp(logits), -1), case.mask)


def truncate_loss(case, logits):
    pi = jnp.exp(logp(logits))
    return mean_rollout(jnp.sum(kl(pi, case.p) * members(case, "student"), -1), case.mask)


def renormalise_loss(case, logits, whose="student"):
    chosen = members(case, whose)
    pi = jnp.exp(logp(logits)) * chosen
    p = case.p * chosen
    q, p = pi / pi.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    ratio = jnp.log(jnp.where(chosen, q, 1) / jnp.where(chosen, p, 1))
    return mean_rollout(jnp.sum(q * ratio, -1), case.mask)


def bucket_loss(case, logits):
    chosen = members(case, "student")
    pi = jnp.exp(logp(logits))
    inside = jnp.sum(kl(pi, case.p) * chosen, -1)
    outside = kl(jnp.sum(pi * ~chosen, -1), np.sum(case.p * ~chosen, -1))
    return mean_rollout(inside + outside, case.mask)


def sample_loss(case, logits):
    chosen = members(case, "student")
    rest = case.pi * ~chosen
    token = by_cdf(rest, case.uniforms[..., 0])
    weight = rest.sum(-1) * own(np.log(case.p / case.pi), token)
    fresh = mean_rollout(-weight * picked(logits, token), case.mask)
    return drop_loss(case, logits) + fresh


def at_every_token(advantage):
    return lambda case: np.broadcast_to(advantage[:, None], (B, T))


def loo():
    pairs = REWARD.reshape(-1, G)
    return ((G * pairs - pairs.sum(1, keepdims=True)) / (G - 1)).ravel()


def group_normalised():
    pairs = REWARD.reshape(-1, G)
    centred = pairs - pairs.mean(1, keepdims=True)
    return (centred / (pairs.std(1, keepdims=True) + 1e-4)).ravel()


def grpo_sequence_mean(case, logits):
    per_token = -group_normalised()[:, None] * picked(logits, case.tokens)
    sums = jnp.sum(jnp.where(case.mask, per_token, 0), 1)
    return jnp.mean(sums / case.mask.sum(1))


def token_mean_nll(case, logits):
    nll = jnp.where(case.mask, -picked(logits, case.tokens), 0)
    return jnp.sum(nll) / case.mask.sum()


def over_length(case, logits):
    """Dr. GRPO's normaliser: the stated constant is the longest completion."""
    pairs = REWARD.reshape(-1, G)
    advantage = (pairs - pairs.mean(1, keepdims=True)).ravel()
    return policy_gradient(at_every_token(advantage))(case, logits) / T


def k1_as_loss(case, logits):
    gap = picked(logits, case.tokens) - own(np.log(case.p), case.tokens)
    return mean_rollout(gap, case.mask)


def per_state_kl(case):
    return np.sum(case.pi * np.log(case.pi / case.p), -1)


def ratio(case, logits):
    """Current over older policy, token by token; it is differentiated."""
    return jnp.exp(picked(logits, case.tokens) - case.old)


def surrogate(rho, advantage, low, high):
    """PPO, eq. 7: the smaller of the plain and the clipped one."""
    return jnp.minimum(rho * advantage, jnp.clip(rho, low, high) * advantage)


def clipped(advantage, low=0.8, high=1.2, mean=mean_rollout):
    def loss(case, logits):
        return -mean(surrogate(ratio(case, logits), advantage(case), low, high), case.mask)

    return loss


def over_tokens(per_token, mask):
    return jnp.sum(jnp.where(mask, per_token, 0)) / mask.sum()


def over_tokens_of_ended(per_token, mask):
    """DAPO: the rollouts that were cut are not there."""
    return over_tokens(per_token, mask & ENDED[:, None])


def over_sequences(per_token, mask):
    return jnp.mean(jnp.sum(jnp.where(mask, per_token, 0), 1) / mask.sum(1))


def group_centred():
    pairs = REWARD.reshape(-1, G)
    return (pairs - pairs.mean(1, keepdims=True)).ravel()


def gspo(low, high):
    """Zheng et al. 2025, eq. 5 and 7: one ratio a sequence, to the power of 1 / |y|."""

    def loss(case, logits):
        gap = jnp.where(case.mask, picked(logits, case.tokens) - case.old, 0)
        rho = jnp.exp(jnp.sum(gap, 1) / case.mask.sum(1))
        return -jnp.mean(surrogate(rho, group_normalised(), low, high))

    return loss


def whole_ratio(case, logits):
    """Each rollout's reward, times the ratio of its probabilities."""
    gap = jnp.where(case.mask, picked(logits, case.tokens) - case.old, 0)
    return -jnp.mean(jnp.exp(jnp.sum(gap, 1)) * REWARD)


def weighed(rule):
    """A detached function of the token ratio, times A log pi."""
    return policy_gradient(
        lambda case: (
            rule(np.exp(own(np.log(case.pi), case.tokens) - case.old)) * group_normalised()[:, None]
        )
    )


def prefix_ratio(case):
    """Of the state at t: the product over t' < t."""
    out = np.ones((B, T))
    gap = own(np.log(case.pi), case.tokens) - case.old
    for b in range(B):
        for t in range(LENGTHS[b]):
            out[b, t] = np.exp(gap[b, :t].sum())
    return out


def whole_trajectory(case):
    gap = np.where(case.mask, own(np.log(case.pi), case.tokens) - case.old, 0)
    return np.broadcast_to(np.exp(gap.sum(1))[:, None], (B, T))


def on_corrected_states(case, logits):
    kl_t = jnp.sum(kl(jnp.exp(logp(logits)), case.p), -1)
    return mean_rollout(prefix_ratio(case) * kl_t, case.mask)


def corrected_future(gamma):
    """Enumerated now on corrected states, the future by the whole rollout's ratio."""

    def loss(case, logits):
        later = return_to_go(log_ratio(case), case.mask, gamma) - log_ratio(case)
        weight = whole_trajectory(case) * later
        now = on_corrected_states(case, logits)
        return now + mean_rollout(-weight * picked(logits, case.tokens), case.mask)

    return loss


def mean_future_loss(case, logits):
    """MiniLLM's length normalisation: the future over the number of tokens ahead."""
    later = return_to_go(log_ratio(case), case.mask, 1.0) - log_ratio(case)
    ahead = np.maximum(np.array(LENGTHS)[:, None] - np.arange(T) - 1, 1)
    now = divergence_loss(kl)(case, logits)
    return now + mean_rollout(-later / ahead * picked(logits, case.tokens), case.mask)


def values(case, b):
    """The rollout's rewards and values, with nothing after its end."""
    n = LENGTHS[b]
    return np.append(np.zeros(n - 1), REWARD[b]), np.append(case.value[b, :n], 0.0)


def gae(gamma, lam):
    """Schulman et al. 2016, eq. 16, the sum written out."""

    def advantage(case):
        out = np.zeros((B, T))
        for b in range(B):
            reward, value = values(case, b)
            for t in range(LENGTHS[b]):
                for i in range(t, LENGTHS[b]):
                    error = reward[i] + gamma * value[i + 1] - value[i]
                    out[b, t] += (gamma * lam) ** (i - t) * error
        return out

    return advantage


def vtrace_advantage(rho_bar, c_bar, lam):
    """Espeholt et al. 2018, eq. 1 written out, gamma = 1; rho_s (r_s + v_{s+1} - V_s)."""

    def advantage(case):
        rho = np.exp(own(np.log(case.pi), case.tokens) - case.old)
        out = np.zeros((B, T))
        for b in range(B):
            n = LENGTHS[b]
            reward, value = values(case, b)
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


def k3(case, logits):
    """Schulman 2020: r - 1 - log r, r = reference / current, differentiated as it stands."""
    gap = case.reference - picked(logits, case.tokens)
    return jnp.exp(gap) - 1 - gap


def with_reference(case, logits):
    return policy_gradient(at_every_token(loo()))(case, logits) + 0.04 * mean_rollout(
        k3(case, logits), case.mask
    )


def reference_in_reward(case):
    gap = case.reference - own(np.log(case.pi), case.tokens)
    return loo()[:, None] + 0.04 * return_to_go(gap, case.mask, 1.0)


def grpo_published(case, logits):
    """Shao et al. 2024, eq. 3, whole: clip, 1 / |o|, and the penalty inside the sum."""
    advantage = group_normalised()[:, None]
    gain = surrogate(ratio(case, logits), advantage, 0.8, 1.2) - 0.04 * k3(case, logits)
    return -over_sequences(gain, case.mask)


def with_teacher(case, logits):
    return policy_gradient(at_every_token(loo()))(case, logits) + 0.1 * divergence_loss(kl)(
        case, logits
    )


def with_entropy(case, logits):
    pi = jnp.exp(logp(logits))
    entropy = mean_rollout(-jnp.sum(pi * logp(logits), -1), case.mask)
    return policy_gradient(at_every_token(group_normalised()))(case, logits) - 0.1 * entropy


def two_ratios(correct, mean=mean_rollout, high=1.2):
    """PPO's clip of current / proximal, times a detached function of proximal / behavior."""

    def loss(case, logits):
        correction = correct(np.exp(case.proximal - case.behavior))
        rho = jnp.exp(picked(logits, case.tokens) - case.proximal)
        gain = surrogate(rho, group_normalised()[:, None], 0.8, high)
        return -mean(correction * gain, case.mask)

    return loss


def inside(low, high):
    return lambda rho: rho * ((rho >= low) & (rho <= high))


def gkd(beta):
    """Agarwal et al. 2024, eq. 1: beta KL(p || m) + (1 - beta) KL(pi || m)."""

    def value(pi, p):
        mix = beta * p + (1 - beta) * pi
        return beta * kl(p, mix) + (1 - beta) * kl(pi, mix)

    return divergence_loss(value)


LOSSES = {
    "opd": divergence_loss(kl),
    "opd_sampled": policy_gradient(log_ratio),
    "opd_baseline": policy_gradient(lambda case: log_ratio(case) + per_state_kl(case)),
    "opd_resampled": drawn_loss(4),
    "opd_resampled@k=1": drawn_loss(1),
    "opd_topk@k=3": sample_loss,
    "opd_topk@k=3,tail=drop": drop_loss,
    "opd_topk@k=3,tail=drop,topk_from=teacher": lambda c, x: drop_loss(c, x, "teacher"),
    "opd_topk@k=3,tail=drop,topk_from=union": lambda c, x: drop_loss(c, x, "union"),
    "opd_topk@k=3,tail=truncate": truncate_loss,
    "opd_topk@k=3,tail=renormalise": renormalise_loss,
    "opd_topk@k=3,tail=renormalise,topk_from=union": lambda c, x: renormalise_loss(c, x, "union"),
    "opd_topk@k=3,tail=bucket": bucket_loss,
    "opd_topk@k=7,tail=sample": divergence_loss(kl),
    "opd_topk@k=7,tail=bucket": divergence_loss(kl),
    "opd@gamma=0.7": future_loss(0.7),
    "opd@gamma=1": future_loss(1.0),
    "opd_sampled@gamma=0.7": policy_gradient(returns_of_log_ratio(0.7)),
    "opd_sampled@gamma=1": policy_gradient(returns_of_log_ratio(1.0)),
    "soft_label": divergence_loss(lambda pi, p: -p * jnp.log(pi)),
    "soft_label@expectation=sampled": teacher_draw_loss,
    "reinforce": policy_gradient(at_every_token(REWARD)),
    "reinforce@gamma=0": policy_gradient(
        lambda case: REWARD[:, None] * (np.arange(T) == np.array(LENGTHS)[:, None] - 1)
    ),
    "rloo": policy_gradient(at_every_token(loo())),
    "grpo": policy_gradient(at_every_token(group_normalised())),
    "grpo@reduction=sequence_mean": grpo_sequence_mean,
    "grpo@normaliser=none,reduction=constant": over_length,
    "sft": policy_gradient(at_every_token(np.ones(B))),
    "sft@reduction=token_mean": token_mean_nll,
    "k1_loss": k1_as_loss,
    "kl_advantage": policy_gradient(lambda case: -per_state_kl(case)),
    "opd@divergence=jsd,argument=0.3": gkd(0.3),
    "opd@divergence=jeffreys": divergence_loss(lambda pi, p: kl(pi, p) + kl(p, pi)),
    "opd@divergence=skew,argument=0.1": divergence_loss(lambda pi, p: kl(p, 0.1 * p + 0.9 * pi)),
    "opd@divergence=skew_reverse,argument=0.1": divergence_loss(
        lambda pi, p: kl(pi, 0.1 * p + 0.9 * pi)
    ),
}


NORMALISED = at_every_token(group_normalised())
LOSSES |= {
    "dr_grpo": lambda case, x: clipped(at_every_token(group_centred()))(case, x) / T,
    "dapo": clipped(NORMALISED, high=1.28, mean=over_tokens_of_ended),
    "gspo": gspo(1 - 3e-4, 1 + 4e-4),
    "gspo@low=0.9,high=1.3": gspo(0.9, 1.3),
    "ppo": clipped(gae(1.0, 0.95), mean=over_tokens),
    "ppo@gamma=0.9,lam=0.7,high=1.1": clipped(gae(0.9, 0.7), high=1.1, mean=over_tokens),
    "vtrace": policy_gradient(vtrace_advantage(1.0, 1.0, 1.0)),
    "vtrace@high=1.5,c_bar=0.9,lam=0.8": policy_gradient(vtrace_advantage(1.5, 0.9, 0.8)),
    "offline_rl": policy_gradient(at_every_token(REWARD)),
    "offline_rl@importance=trajectory": whole_ratio,
    "dagger": divergence_loss(lambda pi, p: -p * jnp.log(pi)),
    "gkd": gkd(0.5),
    "skew": divergence_loss(lambda pi, p: kl(p, 0.1 * p + 0.9 * pi)),
    "minillm": future_loss(1.0),
    "minillm@returns=mean": mean_future_loss,
    "teacher_behavior": divergence_loss(kl),
    "teacher_behavior@importance=prefix": on_corrected_states,
    "opd@gamma=0.7,importance=trajectory": corrected_future(0.7),
    "opd_sampled@importance=prefix_inclusive": policy_gradient(
        lambda c: prefix_ratio(c) * np.exp(own(np.log(c.pi), c.tokens) - c.old) * log_ratio(c)
    ),
    "opd_sampled@importance=token,ratio_rule=clip": clipped(log_ratio),
    "opd_sampled@gamma=1,returns=mean": policy_gradient(
        lambda c: (
            return_to_go(log_ratio(c), c.mask, 1.0)
            / np.maximum(np.array(LENGTHS)[:, None] - np.arange(T), 1)
        )
    ),
    "rl_with_teacher": with_teacher,
    "rl_with_reference": with_reference,
    "rl_with_reference@penalty=k1,reference.gamma=1": policy_gradient(reference_in_reward),
    "grpo@importance=token,ratio_rule=clip,reduction=sequence_mean,reference.coef=0.04": (
        grpo_published
    ),
    "grpo@entropy.coef=0.1": with_entropy,
    "grpo@importance=token": weighed(lambda rho: rho),
    "grpo@importance=token,ratio_rule=clip_ungated,low=0.5,high=1.1": weighed(
        lambda rho: np.clip(rho, 0.5, 1.1)
    ),
    "grpo@importance=token,ratio_rule=truncate,high=1.2": weighed(lambda rho: np.minimum(rho, 1.2)),
    "grpo@importance=token,ratio_rule=mask,low=0.8,high=1.2": weighed(inside(0.8, 1.2)),
}
# On rollouts that keep the proximal policy's log-probabilities too.
TWO_RATIOS = {
    "dapo@correction=token,correction_high=1.1": two_ratios(
        lambda rho: np.minimum(rho, 1.1), over_tokens_of_ended, 1.28
    ),
    "grpo@importance=token,ratio_rule=clip,correction=token,correction_rule=mask,"
    "correction_low=0.8,correction_high=1.3": two_ratios(inside(0.8, 1.3)),
}
LOSSES |= TWO_RATIOS


def library_cotangents(case: Case, names, one_pass: bool = False):
    """The library's dJ/dlogits [K, B, T, V], through the vocabulary pass in chunks of 2."""
    eye = jnp.eye(V)
    student, teacher = Head(jnp.asarray(case.logits), eye), Head(jnp.asarray(case.teacher), eye)
    rollouts = {both: case.rollout(two_ratios=both) for both in (False, True)}
    return _cotangents(
        tuple(names), one_pass, rollouts, student, teacher, jnp.asarray(case.uniforms)
    )


@partial(jax.jit, static_argnums=(0, 1))
def _cotangents(names, one_pass, rollouts, student, teacher, uniforms):
    methods, how, rollout = tuple(map(table.parse, names)), Pass(chunk=2), rollouts[False]
    known = tuple(
        weights(method, rollouts[name in TWO_RATIOS]) for name, method in zip(names, methods)
    )

    def finish(stats, known):
        return tuple(
            coefficients(method, part, stats, rollout.group) for method, part in zip(methods, known)
        )

    if one_pass:
        weigh, given = finish, known
    else:
        given = finish(vocab.stats(student, teacher, rollout.tokens, how), known)
        weigh = lambda stats, given: given  # noqa: E731
    rules = tuple(method.rules for method in methods)
    cotangent, _ = vocab.pull(student, teacher, rollout.tokens, rules, weigh, given, uniforms, how)
    return cotangent.hidden


def published_errors(seed: int, names) -> dict[str, float]:
    """Each row's |cotangents - minus autodiff of its loss| over the latter's size, by name."""
    case = Case(seed)
    found, wanted = np.asarray(library_cotangents(case, names)), loss_cotangents(case, names)
    return {name: relative(*pair) for name, *pair in zip(names, found, wanted, strict=True)}


def loss_cotangents(case: Case, names):
    """Minus the gradients of the published losses, [K, B, T, V]."""
    at = jnp.asarray(case.logits)
    return np.stack(
        [-jax.grad(lambda logits, loss=LOSSES[name]: loss(case, logits))(at) for name in names]
    )

"""Each row's logit cotangent is minus autodiff of its published loss, written out here.

The losses below are written from the papers on plain logits and share nothing with the library:
NumPy for what is detached, jax.grad for the rest. The library is run through its chunked
vocabulary pass (two chunks), with logits as hidden states and the identity as unembedding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.engine import vocab
from opd.engine.vocab import Head, Pass
from opd.method import local, table
from opd.method.coefficients import coefficients, weights
from opd.types import Rollout

B, T, V, G, K_TOP = 4, 5, 7, 2, 3
LENGTHS = (5, 3, 1, 4)
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

    def rollout(self) -> Rollout:
        return Rollout(
            prompt=jnp.zeros((B, 1), jnp.int32),
            prompt_mask=jnp.ones((B, 1), bool),
            tokens=jnp.asarray(self.tokens, jnp.int32),
            mask=jnp.asarray(self.mask),
            logp_behavior=jnp.zeros((B, T)),
            ended=jnp.ones(B, bool),
            group=jnp.arange(B) // G,
            row=jnp.arange(B),
            reward=jnp.asarray(REWARD),
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


def library_cotangents(case: Case, methods, one_pass: bool):
    """The library's dJ/dlogits [K, B, T, V], through the vocabulary pass in chunks of 2."""
    rollout = case.rollout()
    eye = jnp.eye(V)
    student, teacher = Head(jnp.asarray(case.logits), eye), Head(jnp.asarray(case.teacher), eye)
    how = Pass(chunk=2)
    known = tuple(weights(method, rollout) for method in methods)

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
    cotangent, _ = vocab.pull(
        student, teacher, rollout.tokens, rules, weigh, given, jnp.asarray(case.uniforms), how
    )
    return cotangent.hidden


@pytest.fixture(scope="module", params=[0, 1, 2])
def found(request):
    """Every row's cotangent of one seed, all in one program."""
    with jax.enable_x64(True):
        case = Case(request.param)
        methods = tuple(map(table.parse, LOSSES))
        cotangents = jax.jit(lambda: library_cotangents(case, methods, one_pass=False))()
        return case, dict(zip(LOSSES, np.asarray(cotangents), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_cotangent_is_minus_the_loss_gradient(name, found):
    case, cotangents = found
    with jax.enable_x64(True):
        expected = -jax.grad(lambda logits: LOSSES[name](case, logits))(jnp.asarray(case.logits))
    np.testing.assert_allclose(cotangents[name], expected, rtol=1e-9, atol=1e-12)


def test_every_row_and_every_choice_is_here():
    """A new row, divergence or tail must bring its published loss."""
    methods = [table.parse(name) for name in LOSSES]
    terms = [term for method in methods for term in method.terms]
    assert {method.row for method in methods} == set(table.ROWS)
    assert {term.divergence for term in terms} - {None} == {"forward_kl", *local.DIVERGENCES}
    assert {term.tail for term in terms} - {None} == set(local.TAILS)
    assert {term.topk_from for term in terms} - {None} == set(local.TOPK_FROM)


def test_one_pass_is_two_passes(found):
    """Pointwise rows may be weighed chunk by chunk."""
    case, cotangents = found
    names = [name for name in LOSSES if table.pointwise(table.parse(name))]
    assert 10 < len(names) < len(LOSSES)
    with jax.enable_x64(True):
        methods = tuple(map(table.parse, names))
        one = jax.jit(lambda: library_cotangents(case, methods, one_pass=True))()
    np.testing.assert_allclose(one, np.stack([cotangents[n] for n in names]), rtol=0, atol=1e-14)

"""From a method, a rollout and its statistics to coefficients: the only home of the time axis.

Everything here is [B, T] or [B] and runs on the global batch, so that group statistics,
whitening and token means don't depend on how a step is cut into microbatches.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from opd.masked import zero
from opd.method import baselines, importance, local, reduction, returns
from opd.method.axes import Term
from opd.method.table import Method
from opd.types import Array, Coefficients, Rollout, TokenStats, pytree


@pytree
class Known:
    """What one term's coefficients hold besides statistics; [B, T] each, None where unused.

    `candidates` scales its local rule, `own` its own tokens, `critic` its critic's regression:
    reduction and mask, and for the first two coefficient and correction. `advantage` is there
    where the term needs no statistics for it, and so is `target`, the critic's.
    """

    candidates: Array | None
    own: Array | None
    critic: Array | None
    advantage: Array | None
    target: Array | None


@pytree
class Weights:
    """What a method's coefficients hold besides statistics: its terms', and [B, T] of a rollout."""

    terms: tuple[Known, ...]
    reward: Array | None  # paid at the last token; None where `advantage` has it
    logp_proximal: Array | None
    logp_reference: Array | None
    value: Array | None
    mask: Array


def weights(method: Method, rollout: Rollout) -> Weights:
    """The part of the coefficients that is known before any forward pass."""
    _check_rollout(rollout)
    terms, reward, proximal = method.terms, None, None
    if any(term.signal == "reward" for term in terms):
        assert rollout.reward is not None, f"{method.name} has no reward"
        reward = returns.terminal(rollout.reward, rollout.mask)
    if any(term.importance != "none" for term in terms):
        proximal = _proximal(rollout)
    referred = any(term.signal == "reference" for term in terms)
    valued = any(term.baseline == "value" for term in terms)
    later = any(term.returns == "vtrace" for term in terms)
    assert not referred or rollout.logp_reference is not None, f"{method.name} has no reference"
    assert not valued or rollout.value is not None, f"{method.name} has no critic"
    return Weights(
        terms=tuple(_known(term, rollout, reward) for term in terms),
        reward=reward if later else None,
        logp_proximal=proximal,
        logp_reference=rollout.logp_reference if referred else None,
        value=rollout.value if valued else None,
        mask=rollout.mask,
    )


def coefficients(method: Method, weights: Weights, stats: TokenStats, group: Array) -> Coefficients:
    """One estimator's [B, T] weights: one for each local rule, and one for the own tokens.

    onehot_t = sum over terms of scale_t * rho_t * A_t, A_t the term's advantage and rho_t what its
    ratio of current and proximal policy costs; all one-hot parts merge. A local rule's candidates
    are the current policy's: they take the state's ratio only. The critic's cotangent is that of
    -(target - V)^2 / 2, its regression; only one term has one.

    A method that is `pointwise` may be given a slice of the time axis.

    Args:
        method: which method.
        weights: of the global batch, or the same slice of it that `stats` has.
        stats: [B, T] statistics under the current student.
        group: [B] prompt groups.
    """
    mask = weights.mask
    chex.assert_rank((mask, group), (2, 1))
    chex.assert_equal_shape((mask, *jax.tree.leaves(stats)))
    pushed, onehot, value = [], zero(jnp.zeros(mask.shape), mask), None
    for term, known in zip(method.terms, weights.terms, strict=True):
        if known.candidates is not None:
            state = _ratio(term, importance.STATE_PART[term.importance], None, weights, stats)
            pushed.append(zero(known.candidates * state, mask))
        if known.own is not None:
            advantage, target = _credited(term, known, weights, stats, group)
            own = known.own * _ratio(term, term.importance, advantage, weights, stats)
            onehot = onehot + zero(own * advantage, mask)
            if known.critic is not None:
                value = zero(known.critic * (target - _now(weights, stats)), mask)
    return Coefficients(tuple(pushed), onehot, value)


def losses(method: Method, weights: Weights, stats: TokenStats, group: Array) -> dict[str, Array]:
    """What each signal's terms descend, by signal: scalars under the method's own reduction.

    An own token counts -rho A, a demonstration -log pi, an enumerated candidate set the divergence
    to the teacher, an entropy bonus -H; coefficients are in. `value` is the critic's regression.

    Args:
        method: which method.
        weights: of the whole batch.
        stats: [B, T] with the divergences of the method's rules.
        group: [B] prompt groups.
    """
    found: dict[str, Array] = {}
    divergences = iter(stats.divergences)
    for term, known in zip(method.terms, weights.terms, strict=True):
        loss = jnp.zeros(())
        if term.signal == "entropy":
            loss -= jnp.sum(zero(known.candidates * stats.entropy_student, weights.mask))
        elif term.rule is not None:
            state = _ratio(term, importance.STATE_PART[term.importance], None, weights, stats)
            loss += jnp.sum(zero(known.candidates * state * next(divergences), weights.mask))
        if known.own is not None:
            advantage, target = _credited(term, known, weights, stats, group)
            own = known.own * _ratio(term, term.importance, advantage, weights, stats)
            graded = own * (stats.logp_student if term.signal == "one" else advantage)
            loss -= jnp.sum(zero(graded, weights.mask))
            if known.critic is not None:
                error = known.critic * (target - _now(weights, stats)) ** 2 / 2
                found["value"] = jnp.sum(zero(error, weights.mask))
        found[term.signal] = found.get(term.signal, 0.0) + loss
    return found


def bounded(method: Method, weights: Weights, stats: TokenStats, group: Array) -> Array | None:
    """Where some term's bound makes its ratio another, [B, T] bool; None where none has a bound."""
    found = None
    for term, known in zip(method.terms, weights.terms, strict=True):
        if term.ratio_rule in (None, "none"):
            continue
        kind = term.importance if term.onehot else importance.STATE_PART[term.importance]
        advantage = _credited(term, known, weights, stats, group)[0] if term.onehot else None
        log_rho = importance.log_ratio(
            stats.logp_student, weights.logp_proximal, weights.mask, kind
        )
        here = importance.bounded(log_rho, advantage, term.ratio_rule, term.low, term.high)
        found = here if found is None else found | here
    return found


def _check_rollout(rollout: Rollout) -> None:
    """[B, T] of each token and [B] of each rollout: one in the other's place would broadcast."""
    ours = (rollout.logp_behavior, rollout.logp_proximal, rollout.logp_reference, rollout.value)
    of_tokens = [rollout.mask, *(each for each in ours if each is not None)]
    of_rollouts = [rollout.ended, rollout.group]
    of_rollouts += [] if rollout.reward is None else [rollout.reward]
    chex.assert_rank(of_tokens, 2)
    chex.assert_equal_shape(of_tokens)
    chex.assert_rank(of_rollouts, 1)
    chex.assert_equal_shape_prefix((rollout.mask, *of_rollouts), 1)


def _credited(
    term: Term, known: Known, weights: Weights, stats: TokenStats, group: Array
) -> tuple[Array, Array | None]:
    """The advantage of a term's own tokens, and its critic's target, [B, T]."""
    if known.advantage is not None:
        return known.advantage, known.target
    return _graded(term, weights, stats, group)


def _now(weights: Weights, stats: TokenStats) -> Array:
    """The critic's estimates now, [B, T]."""
    return weights.value if stats is None or stats.value is None else stats.value


def _known(term: Term, rollout: Rollout, reward: Array | None) -> Known:
    kept = rollout.mask if term.cut == "keep" else rollout.mask & rollout.ended[:, None]
    share = reduction.reduce(kept, term.reduction)
    scale = term.coef * share
    candidates, own = None, None
    if term.rule is not None:
        candidates = scale * _correction(term, importance.STATE_PART[term.correction], rollout)
    if term.onehot:
        own = scale * _correction(term, term.correction, rollout)
    advantage, target = None, None
    if term.signal == "one":
        advantage = rollout.mask.astype(float)
    elif term.signal == "reward" and term.returns != "vtrace":
        advantage, target = _credit(term, reward, rollout.mask, rollout.group, rollout.value)
    return Known(candidates, own, share if term.baseline == "value" else None, advantage, target)


def _proximal(rollout: Rollout) -> Array:
    return rollout.logp_behavior if rollout.logp_proximal is None else rollout.logp_proximal


def _correction(term: Term, kind: str, rollout: Rollout) -> Array | float:
    """What the ratio of proximal policy and behavior costs, [B, T]."""
    if kind == "none" or rollout.logp_proximal is None:
        return 1.0
    log_rho = importance.log_ratio(rollout.logp_proximal, rollout.logp_behavior, rollout.mask, kind)
    bounds = term.correction_low, term.correction_high
    return importance.weight(log_rho, None, term.correction_rule, *bounds)


def _ratio(
    term: Term, kind: str, advantage: Array | None, weights: Weights, stats: TokenStats
) -> Array | float:
    """What the ratio of current and proximal policy costs, [B, T]."""
    if kind == "none":
        return 1.0
    log_rho = importance.log_ratio(stats.logp_student, weights.logp_proximal, weights.mask, kind)
    return importance.weight(log_rho, advantage, term.ratio_rule, term.low, term.high)


def _graded(
    term: Term, weights: Weights, stats: TokenStats, group: Array
) -> tuple[Array, Array | None]:
    """The advantage of a term that needs statistics, and its critic's target, [B, T]."""
    mask = weights.mask
    grade = _grade(term, weights, stats)
    if term.penalty == "k3":
        return importance.saturating_exp(zero(grade, mask)) - 1, None
    if term.rule is not None:  # the rule has the present, so the own token has what is left
        later = returns.mean_future if term.returns == "mean" else returns.future
        return later(grade, mask, term.gamma), None
    if term.baseline == "expected_kl":
        return grade + stats.kl, None
    log_rho = None
    if term.returns == "vtrace":
        log_rho = importance.log_ratio(stats.logp_student, weights.logp_proximal, mask, "token")
    return _credit(term, grade, mask, group, weights.value, log_rho)


def _grade(term: Term, weights: Weights, stats: TokenStats) -> Array:
    """What a token is worth by itself, [B, T]."""
    if term.signal == "reward":
        return weights.reward
    if term.signal == "reference":
        return weights.logp_reference - stats.logp_student
    if term.signal == "teacher_kl":
        return -stats.kl
    divergence = local.DIVERGENCES[term.divergence]
    return divergence.weight(stats.logp_teacher, stats.logp_student, term.argument)


def _credit(
    term: Term,
    reward: Array,
    mask: Array,
    group: Array,
    value: Array | None,
    log_rho: Array | None = None,
) -> tuple[Array, Array | None]:
    """Return-to-go, less its baseline, normalised; and what a critic should say. [B, T] each."""
    total = returns.discounted(reward, mask, term.gamma) if term.gamma > 0 else reward
    target = None
    if term.returns == "vtrace":
        target, advantage = returns.vtrace(
            reward, value, log_rho, mask, term.gamma, term.lam, term.high, term.c_bar
        )
    elif term.returns == "gae":
        advantage = returns.gae(reward, value, mask, term.gamma, term.lam)
        target = zero(advantage + value, mask)
    else:
        if term.returns == "mean":
            total = returns.mean(reward, mask, term.gamma)
        advantage = total - baselines.baseline(total, mask, group, term.baseline)
    return baselines.normalise(advantage, mask, group, term.normaliser), target

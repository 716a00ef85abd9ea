"""From a method, a rollout and its statistics to coefficients: the only home of the time axis.

Everything here is [B, T] or [B] and runs on the global batch, so that group statistics,
whitening and token means don't depend on how a step is cut into microbatches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from opd.masked import zero
from opd.method import baselines, importance, local, reduction, returns, weighing
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
    rewarded = [term for term in terms if term.signal == "reward" or term.gate != "none"]
    assert not rewarded or rollout.reward is not None, f"{method.name} has no reward"
    told = all(term.on == "all" for term in terms) or rollout.version is not None
    assert told, f"{method.name} doesn't know who drew the rollouts"
    if any(term.signal == "reward" for term in terms):
        reward = returns.terminal(rollout.reward, rollout.mask)
    if any(term.importance != "none" for term in terms):
        proximal = _proximal(rollout)
    referred = any(term.signal == "reference" for term in terms)
    valued = any(term.baseline == "value" for term in terms)
    later = any(map(_later, terms))
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
    credits = _credits(method, weights, stats, group)
    for term, known, credit in zip(method.terms, weights.terms, credits, strict=True):
        counts = _counts(term, weights, stats)
        if known.candidates is not None:
            state = _ratio(term, importance.STATE_PART[term.importance], None, weights, stats)
            pushed.append(zero(known.candidates * counts * state, mask))
        if credit is not None:
            own = known.own * counts
            own *= _ratio(term, term.importance, credit.judged, weights, stats)
            onehot = onehot + zero(own * credit.advantage, mask)
            if known.critic is not None:
                value = zero(known.critic * (credit.target - _now(weights, stats)), mask)
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
    credits = _credits(method, weights, stats, group)
    for term, known, credit in zip(method.terms, weights.terms, credits, strict=True):
        loss, counts = jnp.zeros(()), _counts(term, weights, stats)
        if term.signal == "entropy":
            entropy = known.candidates * counts * stats.entropy_student
            loss -= jnp.sum(zero(entropy, weights.mask))
        elif term.rule is not None:
            state = _ratio(term, importance.STATE_PART[term.importance], None, weights, stats)
            there = known.candidates * counts * state * next(divergences)
            loss += jnp.sum(zero(there, weights.mask))
        if credit is not None:
            own = known.own * counts
            own *= _ratio(term, term.importance, credit.judged, weights, stats)
            graded = own * (stats.logp_student if term.signal == "one" else credit.advantage)
            loss -= jnp.sum(zero(graded, weights.mask))
            if known.critic is not None:
                error = known.critic * (credit.target - _now(weights, stats)) ** 2 / 2
                found["value"] = jnp.sum(zero(error, weights.mask))
        found[term.signal] = found.get(term.signal, 0.0) + loss
    return found


def bounded(method: Method, weights: Weights, stats: TokenStats, group: Array) -> Array | None:
    """Where some term's bound makes its ratio another, [B, T] bool; None where none has a bound."""
    found = None
    for term, credit in zip(method.terms, _credits(method, weights, stats, group), strict=True):
        if term.ratio_rule in (None, "none"):
            continue
        kind = term.importance if term.onehot else importance.STATE_PART[term.importance]
        judged = None if credit is None else credit.judged
        log_rho = importance.log_ratio(
            stats.logp_student, weights.logp_proximal, weights.mask, kind
        )
        here = importance.bounded(log_rho, judged, term.ratio_rule, **_told(term, weights, stats))
        found = here if found is None else found | here
    return found


def _check_rollout(rollout: Rollout) -> None:
    """[B, T] of each token and [B] of each rollout: one in the other's place would broadcast."""
    ours = (rollout.logp_behavior, rollout.logp_proximal, rollout.logp_reference, rollout.value)
    of_tokens = [rollout.mask, *(each for each in ours if each is not None)]
    of_rollouts = [rollout.ended, rollout.group]
    of_rollouts += [each for each in (rollout.reward, rollout.version) if each is not None]
    chex.assert_rank(of_tokens, 2)
    chex.assert_equal_shape(of_tokens)
    chex.assert_rank(of_rollouts, 1)
    chex.assert_equal_shape_prefix((rollout.mask, *of_rollouts), 1)


class Credit(NamedTuple):
    """What a term's own tokens are worth, [B, T] each.

    `judged` is what a ratio's gate takes the sign of: the advantage, or that of all terms that are
    normalised together. `target` is a critic's.
    """

    advantage: Array
    judged: Array
    target: Array | None


def _credits(
    method: Method, weights: Weights, stats: TokenStats, group: Array
) -> list[Credit | None]:
    """Every term's credit; None of a term that pushes no own tokens.

    Terms whose normaliser is `shared` are divided by one number, the spread of their sum.
    """
    mask = weights.mask
    credits: list[Credit | None] = []
    for term, known in zip(method.terms, weights.terms, strict=True):
        if known.own is None:
            credits.append(None)
            continue
        advantage, target = known.advantage, known.target
        if advantage is None:
            advantage, target = _graded(term, weights, stats, group)
        credits.append(Credit(advantage, advantage, target))
    return _over_shared_spread(method, credits, mask)


def _over_shared_spread(
    method: Method, credits: list[Credit | None], mask: Array
) -> list[Credit | None]:
    """The credits, those of a `shared` normaliser over the spread of their sum."""
    shared = [baselines.NORMALISERS[term.normaliser].shared for term in method.terms]
    together = [
        term.coef * credit.advantage
        for term, credit, one in zip(method.terms, credits, shared, strict=True)
        if one and credit is not None
    ]
    if not together:
        return credits
    total = sum(together[1:], start=together[0])
    judged = baselines.over_spread(total, total, mask)
    return [
        Credit(baselines.over_spread(credit.advantage, total, mask), judged, credit.target)
        if one and credit is not None
        else credit
        for credit, one in zip(credits, shared, strict=True)
    ]


def _now(weights: Weights, stats: TokenStats) -> Array:
    """The critic's estimates now, [B, T]."""
    return weights.value if stats is None or stats.value is None else stats.value


def _known(term: Term, rollout: Rollout, reward: Array | None) -> Known:
    kept = rollout.mask if term.cut == "keep" else rollout.mask & rollout.ended[:, None]
    if term.on != "all":
        kept = kept & ((rollout.version >= 0) == (term.on == "student"))[:, None]
    share = reduction.reduce(kept, term.reduction)
    scale = term.coef * share * weighing.of_positions(rollout.mask, term.weigh, **_numbers(term))
    scale *= weighing.of_outcome(rollout.reward, rollout.group, term.gate, term.passing)
    candidates, own = None, None
    if term.rule is not None:
        candidates = scale * _correction(term, importance.STATE_PART[term.correction], rollout)
    if term.onehot:
        own = scale * _correction(term, term.correction, rollout)
    advantage, target = None, None
    if term.signal == "one":
        advantage = rollout.mask.astype(float)
    elif term.signal == "reward" and not _later(term):
        advantage, target = _credit(term, reward, rollout.mask, rollout.group, rollout.value)
    return Known(candidates, own, share if term.baseline == "value" else None, advantage, target)


def _later(term: Term) -> bool:
    """Whether a reward's advantage needs statistics."""
    return term.returns == "vtrace" or term.baseline in baselines.OF_SCORES


def _numbers(term: Term) -> dict[str, float | None]:
    """The numbers of a term's weighing."""
    return {name: getattr(term, name) for name in weighing.NUMBERS}


def _counts(term: Term, weights: Weights, stats: TokenStats) -> Array | float:
    """How much each token counts, of what statistics say, [B, T]."""
    return weighing.of_statistics(stats, weights.mask, term.weigh, **_numbers(term))


def _proximal(rollout: Rollout) -> Array:
    return rollout.logp_behavior if rollout.logp_proximal is None else rollout.logp_proximal


def _correction(term: Term, kind: str, rollout: Rollout) -> Array | float:
    """What the ratio of proximal policy and behavior costs, [B, T]."""
    if kind == "none" or rollout.logp_proximal is None:
        return 1.0
    log_rho = importance.log_ratio(rollout.logp_proximal, rollout.logp_behavior, rollout.mask, kind)
    bounds = {"low": term.correction_low, "high": term.correction_high}
    return importance.weight(log_rho, None, term.correction_rule, **bounds)


def _ratio(
    term: Term, kind: str, advantage: Array | None, weights: Weights, stats: TokenStats
) -> Array | float:
    """What the ratio of current and proximal policy costs, [B, T]."""
    if kind == "none":
        return 1.0
    log_rho = importance.log_ratio(stats.logp_student, weights.logp_proximal, weights.mask, kind)
    return importance.weight(log_rho, advantage, term.ratio_rule, **_told(term, weights, stats))


def _told(term: Term, weights: Weights, stats: TokenStats) -> dict[str, Any]:
    """What a term's ratio rule may ask, by name."""
    numbers = {name: getattr(term, name) for name in importance.BOUNDS}
    return numbers | {"mask": weights.mask, "logp": stats.logp_student}


def _graded(
    term: Term, weights: Weights, stats: TokenStats, group: Array
) -> tuple[Array, Array | None]:
    """The advantage of a term that needs statistics, and its critic's target, [B, T]."""
    mask = weights.mask
    grade = _grade(term, weights, stats)
    if term.penalty == "k3":
        return importance.saturating_exp(zero(grade, mask)) - 1, None
    if term.rule is not None:  # the rule has the present, so the own token has what is left
        left = LEFT[term.returns](grade, mask, term.gamma)
        if term.tail is not None and local.TAILS[term.tail].own:
            off = local.Statistic("off_set", term.k, term.topk_from)
            left = left + zero(grade, mask & (stats.asked[off.name] > 0))
        return left, None
    if term.baseline == "expected_kl":
        return grade + stats.kl, None
    if term.baseline == "optimal_kl":
        return grade - stats.asked["optimal_kl"], None
    log_rho = None
    if term.returns == "vtrace":
        log_rho = importance.log_ratio(stats.logp_student, weights.logp_proximal, mask, "token")
    square = stats.asked["score_square"] if term.baseline in baselines.OF_SCORES else None
    return _credit(term, grade, mask, group, weights.value, log_rho, square)


def _around(grade: Array, mask: Array, gamma: float) -> Array:
    """What the whole rollout adds up to without the token itself."""
    return returns.whole(grade, mask, gamma) - zero(grade, mask)


# What an own token is credited with beside a rule that has the present, by `returns`.
LEFT = {"sum": returns.future, "mean": returns.mean_future, "whole": _around}


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
    square: Array | None = None,
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
        if term.returns in ("mean", "whole"):
            kind = returns.mean if term.returns == "mean" else returns.whole
            total = kind(reward, mask, term.gamma)
        if term.baseline in baselines.OF_SCORES:
            advantage = total - baselines.optimal_token(total, square, mask, group)
        else:
            advantage = total - baselines.baseline(total, mask, group, term.baseline)
    return baselines.normalise(advantage, total, mask, group, term.normaliser), target

"""From a method, a rollout and its statistics to coefficients: the only home of the time axis.

Everything here is [B, T] or [B] and runs on the global batch, so that group statistics,
whitening and token means don't depend on how a step is cut into microbatches.
"""

from __future__ import annotations

from opd.masked import zero
from opd.method import baselines, local, reduction, returns
from opd.method.table import Method, Term
from opd.types import Array, Coefficients, Rollout, TokenStats, pytree


@pytree
class Weights:
    """What a method's coefficients hold besides statistics; [B, T] arrays, one for each term.

    `scale` has coefficient, reduction and mask in it. `advantage` is a reward's, or None where
    the term is graded from the statistics.
    """

    scale: tuple[Array, ...]
    advantage: tuple[Array | None, ...]
    mask: Array


def weights(method: Method, rollout: Rollout) -> Weights:
    """The part of the coefficients that is known before any forward pass."""
    mask = rollout.mask
    scale = tuple(term.coef * reduction.REDUCTIONS[term.reduction](mask) for term in method.terms)
    advantage = tuple(_given(term, rollout) for term in method.terms)
    return Weights(scale, advantage, mask)


def coefficients(method: Method, weights: Weights, stats: TokenStats, group: Array) -> Coefficients:
    """One estimator's [B, T] weights: one for each local rule, and one for the own tokens.

    onehot_t = sum over terms of scale_t * A_t, A_t the term's advantage; all one-hot parts merge.
    A method that is `pointwise` may be given a slice of the time axis.

    Args:
        method: which method.
        weights: of the global batch, or the same slice of it that `stats` has.
        stats: [B, T] statistics under the current student.
        group: [B] prompt groups.
    """
    pushed, onehot = [], zero(weights.scale[0], weights.mask) * 0
    for term, scale, advantage in zip(method.terms, weights.scale, weights.advantage, strict=True):
        if term.rule is not None:
            pushed.append(zero(scale, weights.mask))
        if term.onehot:
            if advantage is None:
                advantage = _graded(term, weights.mask, stats, group)
            onehot = onehot + zero(scale * advantage, weights.mask)
    return Coefficients(tuple(pushed), onehot)


def _given(term: Term, rollout: Rollout) -> Array | None:
    """The advantage of a term that needs no statistics, [B, T]; else None."""
    if term.signal == "one":
        return rollout.mask.astype(float)
    if term.signal == "reward":
        assert rollout.reward is not None, f"{term} has no reward"
        reward = returns.terminal(rollout.reward, rollout.mask)
        return _credit(term, reward, rollout.mask, rollout.group)
    return None


def _graded(term: Term, mask: Array, stats: TokenStats, group: Array) -> Array:
    """The advantage of a term that the teacher grades, [B, T]."""
    if term.signal == "teacher_kl":
        grade = -stats.kl
    else:
        divergence = local.DIVERGENCES[term.divergence]
        grade = divergence.weight(stats.logp_teacher, stats.logp_student, term.argument)
    if term.rule is not None:  # the rule has the present, so the own token has what is left
        return returns.future(grade, mask, term.gamma)
    if term.baseline == "expected_kl":
        return grade + stats.kl
    return _credit(term, grade, mask, group)


def _credit(term: Term, reward: Array, mask: Array, group: Array) -> Array:
    """Return-to-go, less its baseline, normalised: [B, T]."""
    total = returns.discounted(reward, mask, term.gamma) if term.gamma > 0 else reward
    advantage = total - baselines.baseline(total, mask, group, term.baseline)
    return baselines.normalise(advantage, total, mask, group, term.normaliser)

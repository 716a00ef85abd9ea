"""A9: V, the summed per-state KL of a rollout, is the KL of the two laws of sequences."""

from __future__ import annotations

import jax
import numpy as np

from experiments.claims import rules
from experiments.claims.algebra.shared import SHAPES, problems, where
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.lab import Shape, heads, rollout
from opd.engine import vocab
from opd.engine.vocab import Pass
from opd.measure import exact
from opd.measure.exact import Problem

Array = np.ndarray
ALL = (*SHAPES, Shape(vocab=2, depth=6, eos=1, student="by_depth"))


@jax.jit
def statistics(student, teacher, tokens):
    """The library's token statistics."""
    return vocab.stats(student, teacher, tokens, Pass())


def sequence_kl(here: Problem) -> float:
    """KL(pi(y) || p(y)) from the sequences' probabilities."""
    other = exact.sequence_prob(here.tree, here.logp_teacher)
    return float(here.joint @ np.log(here.given / other))


def summed(here: Problem, mask: Array) -> tuple[float, float]:
    """E of the library's sum over a mask of KL_t, and of log pi/p of the tokens."""
    found = statistics(*heads(here), rollout(here).tokens)
    terms = found.kl, found.logp_student - found.logp_teacher
    enumerated, sampled = (
        float(here.joint @ np.where(mask, np.asarray(term), 0.0).sum(1)) for term in terms
    )
    return enumerated, sampled


def measure(effort: Effort) -> Finding:
    """Both sums against the sequence KL; and what they lack where EOS is not graded."""
    errors, short = [], []
    for here in problems(effort, ALL):
        wanted = sequence_kl(here)
        errors += [abs(x / wanted - 1) for x in summed(here, here.tree.mask)]
        last = np.arange(here.tree.mask.shape[1]) == here.tree.length[:, None] - 1
        eos = last & here.tree.ended[:, None]
        if eos.any():
            short += [abs(x / wanted - 1) for x in summed(here, here.tree.mask & ~eos)]
    numbers = {
        "error": worst("relative error of E sum KL_t and E sum log pi/p", errors),
        "short": spread("the same where the EOS action is not graded", short),
    }
    return Finding(numbers, "error", where(*ALL), effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """An identity."""
    return Judgement(rules.identity(numbers["error"]))


CLAIM = Claim(
    "A9",
    "V is the sequence-level KL",
    "The expected sum of per-state KLs along the student's rollouts, EOS's included, is the KL of "
    "the two distributions of sequences.",
    measure,
    judge,
    wrong="Rollouts of one length would hide a mistake at the end: they end by EOS, by the cut "
    "and on trees without EOS. Leaving EOS out of the mask breaks the identity at once.",
)

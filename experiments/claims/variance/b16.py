"""B16: Rao-Blackwell for the KL's value: Var sum_t KL_t > Var of the log-ratio is looked for."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from experiments.claims import rules, trees
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
    worst,
)
from experiments.claims.lab import Shape, heads, lab, rollout
from experiments.claims.search import search, simplify
from experiments.claims.variance.shared import LONG, MAIN, at, free
from experiments.claims.variance.shared import spread as variance
from opd.engine import vocab
from opd.engine.vocab import Pass
from opd.measure import exact
from opd.measure.exact import Problem

SMALL = Shape(vocab=2, depth=2, eos=None, student="tabular")  # a value doesn't see what is shared
STEPS = 60
statistics = jax.jit(partial(vocab.stats, how=Pass()))


def values(here: Problem) -> tuple[np.ndarray, np.ndarray]:
    """log(pi/p) of the rollout's tokens and KL_t, the library's statistics, [N, T] each."""
    found = statistics(*heads(here), rollout(here).tokens)
    mask = here.tree.mask
    return np.where(mask, found.logp_student - found.logp_teacher, 0), np.where(mask, found.kl, 0)


def worse(point: np.ndarray) -> float:
    """1 - Var(log-ratio) / Var(sum of KL_t) by the oracle, less 5 %."""
    here = at(SMALL, point)
    ratio = exact.at_actions(here.tree, here.logp - here.logp_teacher).sum(1)
    costs = exact.divergence(exact.REVERSE, here.logits, here.logp_teacher)
    summed = exact.at_states(here.tree, costs).sum(1)
    size = variance(here.joint, summed)
    return 1 - variance(here.joint, ratio) / size - 0.05 if size > 1e-6 else -np.inf


def gain(here: Problem) -> float:
    """Var(log-ratio) / Var(sum of KL_t), whole rollouts."""
    sampled, enumerated = (variance(here.joint, x.sum(1)) for x in values(here))
    return sampled / enumerated


def per_position(here: Problem) -> list[float]:
    """Var(KL_t) / Var(log-ratio at t), by position."""
    sampled, enumerated = values(here)
    return [
        variance(here.joint, enumerated[:, t]) / variance(here.joint, sampled[:, t])
        for t in range(here.tree.mask.shape[1])
    ]


def bias(here: Problem) -> float:
    """Relative error of E sum KL_t against the sequence's KL."""
    sampled, enumerated = (here.joint @ x.sum(1) for x in values(here))
    return abs(enumerated - sampled) / abs(sampled)


def measure(effort: Effort) -> Finding:
    """Searches two tokens a rollout; random trees say what is usual."""
    found = search(worse, free(SMALL), effort.starts, STEPS, seed=0)
    here = at(SMALL, simplify(worse, found.point) if found.successes else found.point)
    random = [lab(shape, seed).problem for shape in (MAIN, LONG) for seed in effort.seeds]
    numbers = {
        "ratio": exactly("Var of the log-ratio / Var of the sum of KL_t, the example", gain(here)),
        "share": exactly("share of starts that end below 1", found.share),
        "random": spread("the same ratio on random trees", [gain(x) for x in random]),
        "position": worst(
            "Var(KL_t) / Var(log-ratio), one position",
            [x for made in (*random, here) for x in per_position(made)],
        ),
        "bias": worst("relative error of the sum's mean", [bias(x) for x in (*random, here)]),
    }
    sampled, enumerated = (x.sum(1) for x in values(here))
    lines = ["| rollout | probability | log-ratio | sum of KL_t |", "|---|---|---|---|"]
    for tokens, *row in zip(here.tree.tokens, here.joint, sampled, enumerated, strict=True):
        lines.append(
            f"| {' '.join(map(str, tokens))} | " + " | ".join(f"{x:.3f}" for x in row) + " |"
        )
    text = (
        f"{SMALL}: Var of the log-ratio / Var of the sum of KL_t = {gain(here):.3f}. The first "
        "token's log-ratio is low where the KL that follows is high.\n\n"
        f"{trees.table(here)}\n\n" + "\n".join(lines)
    )
    where = "; ".join(map(str, (SMALL, MAIN, LONG))) + f"; {effort.starts} starts"
    return Finding(numbers, "ratio", where, effort.seeds, text)


def judge(numbers: Numbers) -> Judgement:
    """Fails by one example below 1; a search that finds none proves nothing."""
    fails = rules.below(numbers["ratio"], 1 - rules.CLEAR)
    most, bias = numbers["position"].high, numbers["bias"].high
    repaired = rules.settle(
        most <= 1 + rules.EXACT and bias <= rules.EXACT,
        most > 1 + rules.CLEAR or bias > rules.CLEAR,
    )
    return Judgement(rules.settle(False, fails), repaired=repaired)


CLAIM = Claim(
    "B16",
    "Rao-Blackwell for the KL's value",
    "As an estimate of the sequence's KL, the sum of enumerated KL_t has a lower variance than the "
    "rollout's log-ratio.",
    measure,
    judge,
    repaired="At one position of a rollout, its state random, KL_t has no more variance than the "
    "token's log-ratio, and the sums have one mean.",
    wrong="An example of rounding: it is at least 5 % below 1, made round, and the library's "
    "statistics are measured on it. A log-ratio that is high where the KL that follows is low has "
    "less variance than its terms.",
    advice="Usually the sum of KL_t is the better monitor; where it matters, print both with their "
    "intervals, since they are had in one pass.",
)

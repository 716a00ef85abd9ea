"""B10: top-k: which tails bias, and whose tail token may be noisier than the sampled row."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import (
    CAVEAT,
    HOLDS,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
    worst,
)
from experiments.claims.lab import Shape, fresh, lab, mean, relative, vectors
from experiments.claims.search import search, simplify
from experiments.claims.variance.shared import MAIN, at, free, read
from opd.measure import exact
from opd.measure.exact import Problem

SETS = {MAIN: 1, Shape(vocab=4, depth=2, eos=None): 2}  # k
ONE = Shape(vocab=3, depth=1, eos=None, student="constant")
LEFT_OUT = ("drop", "truncate", "renormalise", "bucket")
STEPS = 60


def at_each_state(here: Problem, h: np.ndarray, g: np.ndarray) -> np.ndarray:
    """tr Cov(h_t | s_t = s) [S], g the mean given the state."""
    return exact.partner(here, ((h - g) ** 2).sum(-1, keepdims=True))[:, 0]


def own_tail(here: Problem, k: int, dropped: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """The row whose tail is dropped, and the sampled row where the rollout's own token is in it.

    The table has no such row: it is put together from two.
    """
    off = exact.at_actions(here.tree, ~exact.topk_set(here.logp, here.logp_teacher, k))
    return dropped + off[..., None] * sampled


def noisier(point: np.ndarray) -> float:
    """How much noisier the own token's tail is than the sampled token, by the oracle, less 5 %."""
    here = at(ONE, point)
    own, sampled = (
        exact.group_variance(here, made.h.sum(1))
        for made in (exact.topk(here, 1, "rollout"), exact.sampled(here))
    )
    average = here.joint @ exact.sampled(here).h.sum(1)
    clear = sampled > 0.1 * float(average @ average)  # not next to a state without any noise
    return own / sampled - 1.05 if clear else -np.inf


@dataclasses.dataclass(frozen=True)
class Tails:
    """What was measured on one tree."""

    biased: list[float]  # relative errors of the mean, by what is left out
    unbiased: float  # of the fresh tail's
    fresh: np.ndarray  # [S], noise at a state over the sampled token's
    own: np.ndarray  # the same, the tail being the rollout's own token


def tails(here: Problem, k: int) -> Tails:
    """The library's rows on one tree."""
    rows = [f"opd_topk@k={k},tail={tail}" for tail in LEFT_OUT]
    h = vectors(here, "opd", "opd_sampled", *rows)
    wanted, drawn = mean(here, h["opd"]), fresh(here, f"opd_topk@k={k}")
    own = own_tail(here, k, h[rows[0]], h["opd_sampled"])
    usual = at_each_state(here, h["opd_sampled"], h["opd"])
    return Tails(
        [relative(mean(here, h[row]), wanted) for row in rows],
        relative(mean(here, drawn.h), wanted),
        drawn.fresh / usual,
        at_each_state(here, own, h["opd"]) / usual,
    )


def measure(effort: Effort) -> Finding:
    """Bias of each tail; noise at each state, of a fresh tail and of the rollout's own token."""
    random = [tails(lab(x, i).problem, k) for x, k in SETS.items() for i in effort.seeds]
    found = search(noisier, free(ONE), effort.starts, STEPS, seed=0)
    here = at(ONE, simplify(noisier, found.point) if found.successes else found.point)
    dropped, sampled = vectors(here, "opd_topk@k=1,tail=drop", "opd_sampled").values()
    own, oracle = own_tail(here, 1, dropped, sampled), exact.topk(here, 1, "rollout").h
    ratio = exact.group_variance(here, own.sum(1)) / exact.group_variance(here, sampled.sum(1))
    numbers = {
        "biased": spread(f"relative bias, tail {', '.join(LEFT_OUT)}", [x.biased for x in random]),
        "unbiased": worst("relative error of the mean, fresh tail", [x.unbiased for x in random]),
        "fresh": worst(
            "noise at a state, fresh tail / sampled token",
            np.concatenate([x.fresh for x in random]),
        ),
        "own": exactly("noise at a state, own token's tail / sampled token, the example", ratio),
        "usual": spread(
            "the same at the states of random trees", np.concatenate([x.own for x in random])
        ),
        "share": exactly("share of starts that end above 1", found.share),
        "oracle": exactly("relative error of the own token's tail", relative(own, oracle)),
    }
    text = f"{ONE}, k 1: {ratio:.3f}.\n\n" + read(here, sampled=sampled.sum(1), own=own.sum(1))
    sizes = [f"{shape}, k {k}" for shape, k in {**SETS, ONE: 1}.items()]
    where = "; ".join(sizes) + f"; {effort.starts} starts"
    return Finding(numbers, "own", where, effort.seeds, text)


def judge(numbers: Numbers) -> Judgement:
    """Bias, none, and no more noise; the last only as long as no own token's tail has more."""
    said = (
        numbers["biased"].low > rules.CLEAR
        and numbers["unbiased"].high <= rules.EXACT
        and numbers["fresh"].high <= 1 + rules.EXACT
    )
    fails = numbers["unbiased"].high > rules.CLEAR or numbers["fresh"].high > 1 + rules.CLEAR
    verdict = rules.settle(said, fails)
    if verdict == HOLDS and rules.above(numbers["own"], 1 + rules.CLEAR):
        return Judgement(
            CAVEAT,
            "the tail's token is drawn afresh, given that it is off the set; the rollout's own "
            "token in its place is unbiased too, but can be noisier than the sampled row",
        )
    return Judgement(verdict)


CLAIM = Claim(
    "B10",
    "top-k and its tail",
    "A sum over the top k tokens is biased if its tail is left out, renormalised or made one "
    "bucket; with a sampled tail it is unbiased, and at a state no noisier than the sampled token.",
    measure,
    judge,
    wrong="The own token's tail is no row of the table and is put together from two; the oracle's "
    "agrees with it (printed). At a state only: on whole rollouts the cross term may make the "
    "sampled token the quieter one (B3).",
    advice="Draw the tail's token afresh from the student, off the top-k set, as "
    "opd_topk@tail=sample does.",
)

"""B14: bits of supervision a rollout: a 0/1 reward's, the teacher's, and what they are worth."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

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
from experiments.claims.lab import Shape, vectors
from experiments.claims.variance.b15 import SHAPES, rewarded
from experiments.claims.variance.shared import snr
from opd.measure.exact import Problem

PRECISION = 8  # bits of a bfloat16's significand
# A small language model's, for the count alone: vocabulary, width and tokens a rollout.
WORDS, WIDTH, TOKENS = 151_936, 896, 1024


def entropy(here: Problem) -> float:
    """Bits of the 0/1 reward of one rollout."""
    right = float(here.joint @ here.reward)
    return -sum(p * np.log2(p) for p in (right, 1 - right) if p > 0)


def rank(here: Problem) -> int:
    """Of the teacher's weights [S, V], less each state's constant, which moves nothing."""
    weight = here.logp_teacher - here.logp
    return int(np.linalg.matrix_rank(weight - weight.mean(-1, keepdims=True)))


@dataclasses.dataclass(frozen=True)
class Worth:
    """Bits of one rollout, and what the teacher's are worth to its gradient."""

    reward: float  # bits
    teacher: float  # bits: tokens x rank x precision
    gain: float  # SNR enumerated / SNR with the reward

    @property
    def count(self) -> float:
        return self.teacher / self.reward


def worth(shape: Shape, seed: int) -> Worth:
    """On a random tree, by the library's enumerated row and REINFORCE."""
    here = rewarded(shape, seed)
    h = vectors(here, "opd", "reinforce")
    tokens = float(here.joint @ here.tree.length)
    gain = snr(here, h["opd"]) / snr(here, h["reinforce"])
    return Worth(entropy(here), tokens * rank(here) * PRECISION, gain)


def drawn(found: list[Worth]) -> Figure:
    """The gain in SNR against the count; one dot a tree."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    count = np.array([x.count for x in found])
    axes.loglog(count, [x.gain for x in found], "o", markersize=4, label="random trees")
    ends = np.array([count.min(), count.max()])
    axes.loglog(ends, ends, color="black", linewidth=0.8, label="gain = count")
    axes.set_xlabel("bits of the teacher / bits of the reward")
    axes.set_ylabel("SNR enumerated / SNR reward")
    axes.legend()
    return figure


def measure(effort: Effort) -> Finding:
    """Counts and gains over sizes; the count of a language model's sizes beside them."""
    found = [worth(shape, i) for shape in SHAPES for i in effort.seeds]
    count = np.array([x.count for x in found])
    gain = np.array([x.gain for x in found])
    numbers = {
        "reward": worst("bits of a 0/1 reward, a rollout", [x.reward for x in found]),
        "teacher": spread(
            "bits of the teacher's weights (tokens x rank x 8)", [x.teacher for x in found]
        ),
        "count": spread("bits of the teacher / bits of the reward", count),
        "model": exactly(
            f"least count at V {WORDS}, rank {WIDTH}, {TOKENS} tokens", TOKENS * WIDTH * PRECISION
        ),
        "gain": spread("SNR of enumerated / SNR of REINFORCE, a rollout", gain),
        "worth": spread(
            "gain in SNR of a rollout / ratio of bits, teacher over reward", gain / count
        ),
    }
    where = "; ".join(map(str, SHAPES)) + "; random 0/1 rewards; teacher of the student's family"
    return Finding(numbers, "worth", where, effort.seeds, figure=drawn(found))


ORDER = 10.0  # "orders of magnitude": one at the least
FOLLOWS = 10.0  # a gain that follows the count is the same share of it, to an order of magnitude


def judge(numbers: Numbers) -> Judgement:
    """Of the count; with a caveat where the gain in SNR isn't a steady share of it."""
    most, count, worth = numbers["reward"].high, numbers["count"], numbers["worth"]
    more = most <= 1 + rules.EXACT and rules.above(count, ORDER)
    verdict = rules.settle(more, rules.below(count, ORDER))
    if verdict == HOLDS and worth.high > FOLLOWS * worth.low:
        return Judgement(
            CAVEAT,
            "bits are counted, not used: the SNR of a rollout's gradient gains by a factor that "
            "doesn't follow the count",
        )
    return Judgement(verdict)


CLAIM = Claim(
    "B14",
    "bits of supervision",
    "A teacher's weights give a rollout orders of magnitude more bits of supervision than a 0/1 "
    "reward, which has one at the most.",
    measure,
    judge,
    wrong="What is counted as a bit. A number for each token of the vocabulary would overstate it: "
    "the weights' rank is bounded by student's and teacher's widths, and is measured. Eight bits a "
    "number is a convention; with one bit, a rollout of ten numbers would still have ten times as "
    "many. The two gradients have different aims, so that only their SNR is compared.",
    advice="Don't argue with bits: compare the SNR of both per rollout, on your own models.",
    needs="rank and precision of a trained teacher's weights, and the SNR of both in transformers",
)

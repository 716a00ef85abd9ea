"""B8: "strictly higher SNR per rollout": a tree where enumerating has a lower one is sought."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
)
from experiments.claims.lab import lab, vectors
from experiments.claims.variance import b3
from experiments.claims.variance.shared import LONG, MAIN, SMALLEST, read, redrawn, snr
from experiments.claims.variance.shared import spread as variance
from opd.measure.exact import Problem

FRESH = ("opd_resampled@k=1", "opd_topk@k=1")


def over_sampled(here: Problem) -> float:
    """SNR of a rollout, the enumerated row's over the sampled one's."""
    h = vectors(here, "opd_sampled", "opd")
    return snr(here, h["opd"]) / snr(here, h["opd_sampled"])


def over_fresh(here: Problem, row: str) -> float:
    """The same over that of a row which grades a fresh token."""
    prob, found = redrawn(here, row)
    average = np.einsum("cn,cnm->m", prob, found)
    other = float(average @ average) / variance(prob, found)
    return snr(here, vectors(here, "opd_sampled", "opd")["opd"]) / other


def measure(effort: Effort) -> Finding:
    """Searches the smallest shape; random trees say what is usual."""
    found = b3.looked_for(SMALLEST, effort)
    here = b3.smallest(SMALLEST, found) if found.successes else b3.at(SMALLEST, found.point)
    random = [lab(shape, seed).problem for shape in (MAIN, LONG) for seed in effort.seeds]
    h, least = vectors(here, "opd_sampled", "opd"), over_sampled(here)
    numbers = {
        "ratio": exactly("SNR of enumerated / SNR of sampled, the example", least),
        "random": spread("the same on random trees", [over_sampled(x) for x in random]),
        "redrawn": spread(
            "SNR of enumerated / SNR of one fresh token", [over_fresh(x, FRESH[0]) for x in random]
        ),
        "topk": spread(
            "SNR of enumerated / SNR of top-1 and a fresh tail",
            [over_fresh(x, FRESH[1]) for x in random],
        ),
        "fresh": exactly(
            "the less of both on the example", min(over_fresh(here, row) for row in FRESH)
        ),
    }
    text = (
        f"{SMALLEST}: SNR {snr(here, h['opd']):.3f} enumerated, "
        f"{snr(here, h['opd_sampled']):.3f} sampled.\n\n"
        + read(here, S=h["opd_sampled"].sum(1), G=h["opd"].sum(1))
    )
    where = "; ".join(map(str, (SMALLEST, MAIN, LONG))) + f"; {effort.starts} starts"
    return Finding(numbers, "ratio", where, effort.seeds, text)


def judge(numbers: Numbers) -> Judgement:
    """Fails by one example below 1; a search that finds none proves nothing."""
    least = min(numbers[name].low for name in ("redrawn", "topk", "fresh"))
    repaired = rules.settle(least >= 1 - rules.EXACT, least < 1 - rules.CLEAR)
    fails = rules.below(numbers["ratio"], 1 - rules.CLEAR)
    return Judgement(rules.settle(False, fails), repaired=repaired)


CLAIM = Claim(
    "B8",
    "SNR strictly dominates",
    "Per rollout, enumerating the vocabulary has a strictly higher signal-to-noise ratio than the "
    "sampled token.",
    measure,
    judge,
    repaired="Per rollout, enumerating never has a lower signal-to-noise ratio than estimators of "
    "the same expectation that grade fresh tokens: k of them, or a top-k set's tail.",
    wrong="Both rows have one mean, so B3's example decides here too, if the library's rows on it "
    "do: they were measured. The repaired form is not read off a formula: all rollouts with all "
    "fresh tokens are enumerated.",
    advice="Expect a gain, usually, and measure it: the probe prints the SNR of both per rollout "
    "and per second.",
    needs="how large the gain is in transformers, per rollout and per second",
)

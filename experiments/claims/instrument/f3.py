"""F3: identical rollouts matter: how many tell two estimators apart, paired and independent."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from experiments.claims import rules
from experiments.claims.claim import (
    CAVEAT,
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    exactly,
    spread,
)
from experiments.claims.lab import Shape, lab, vectors
from experiments.coverage.run import moments
from opd.measure.exact import Problem
from opd.measure.intervals import Moments, RowSpec, estimate, ratio, t_interval
from opd.measure.jackknife import t_quantile

Array = np.ndarray

SHAPES = (Shape(), Shape(prompts=4))
ROWS = ("opd", "opd_sampled", "opd_baseline", "opd_topk@k=1,tail=drop", "soft_label", "reinforce")
# By the trace of their covariance: rows of one claim, and of two.
NOISE = (("opd", "opd_sampled"), ("opd_sampled", "opd_baseline"), ("opd_sampled", "reinforce"))
# By their expectation: a biased row, and a row of another divergence.
MEAN = (("opd", "opd_topk@k=1,tail=drop"), ("opd", "soft_label"))
PAIRS = tuple(
    (kind, *pair)
    for kind, pairs in (("noise", NOISE), ("snr", NOISE), ("mean", MEAN))
    for pair in pairs
)
LARGE = 2.0  # half the rollouts
SAMPLE, REPEATS = 512, 20


@dataclasses.dataclass(frozen=True)
class Needed:
    """Rollouts at which the 95 % interval of a difference just leaves zero, to first order."""

    paired: float
    independent: float

    @property
    def factor(self) -> float:
        return self.independent / self.paired


def variances(law: Array, a: Array, b: Array) -> tuple[float, float]:
    """Var(a - b) and Var(a) + Var(b) of scalars [N] under a law."""

    def var(x: Array) -> float:
        return float(law @ (x - law @ x) ** 2)

    return var(a - b), var(a) + var(b)


def needed(here: Problem, kind: str, a: Array, b: Array) -> Needed:
    """To tell log tr Cov, log SNR, or the expectations (along their gap) of a, b [N, M] apart."""
    law, z = here.joint, t_quantile(10_000) ** 2
    means = [law @ x for x in (a, b)]
    if kind == "mean":
        gap = means[0] - means[1]
        pair, size = [a @ gap, b @ gap], float(gap @ gap) ** 2
    else:
        squares = [((x - mean) ** 2).sum(-1) for x, mean in zip((a, b), means, strict=True)]
        # What a rollout moves the logarithm of a figure by, to first order.
        pair = [square / (law @ square) for square in squares]
        logs = [np.log(law @ square) for square in squares]
        if kind == "snr":
            both = list(zip((a, b), means, pair, strict=True))
            pair = [2 * (x @ mean) / (mean @ mean) - moved for x, mean, moved in both]
            logs = [np.log(mean @ mean) - log for mean, log in zip(means, logs, strict=True)]
        size = float(logs[0] - logs[1]) ** 2
    return Needed(*(z * variance / size for variance in variances(law, *pair)))


def widths(here: Problem, a: Array, b: Array, rng: np.random.Generator) -> float:
    """Squared width of the library's interval of log total_a / total_b: apart over paired."""

    def sample() -> Moments:
        chosen = rng.choice(len(here.joint), SAMPLE, p=here.joint / here.joint.sum())
        return moments(np.stack([a[chosen], b[chosen]], 1), 1)

    first, second = sample(), sample()
    both = ratio(first, 0, 1)["total"]
    alone = [estimate(first, [RowSpec(0)])[0]["total"], estimate(second, [RowSpec(1)])[0]["total"]]
    # Of log total to first order: an interval may reach down to 0.
    apart = sum(((one.high - one.low) / one.value) ** 2 for one in alone)
    return apart / np.log(both.high / both.low) ** 2


def drawn(found: dict[tuple[str, str, str], list[Needed]]) -> Figure:
    """Rollouts needed, one way against the other."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (pair, ones) in enumerate(found.items()):
        x, y = [one.paired for one in ones], [one.independent for one in ones]
        axes.plot(x, y, "o", ms=3, color=f"C{index}", label=f"{pair[1]}, {pair[2]} ({pair[0]})")
    ends = np.array([1.0, 1e5])
    axes.plot(ends, ends, "k--", lw=0.8)
    axes.set(xlabel="rollouts needed, the same for both", ylabel="rollouts needed of each")
    axes.set(xscale="log", yscale="log", xlim=(1, None), ylim=(1, None))
    axes.legend(fontsize=6)
    return figure


def measure(effort: Effort) -> Finding:
    """Variances of differences, enumerated; one pair by the library's intervals on samples."""
    found: dict[tuple[str, str, str], list[Needed]] = {pair: [] for pair in PAIRS}
    sampled, wanted, seeds = [], [], range(2 * effort.trees)
    for shape in SHAPES:
        for seed in seeds:
            here = lab(shape, seed, inside=seed % 2 == 0).problem
            sums = {row: h.sum(1) for row, h in vectors(here, *ROWS).items()}
            for kind, a, b in PAIRS:
                found[kind, a, b].append(needed(here, kind, sums[a], sums[b]))
            rng = np.random.default_rng(seed)
            a, b = (sums[row] for row in NOISE[0])
            sampled.append(np.mean([np.log(widths(here, a, b, rng)) for _ in range(REPEATS)]))
            wanted.append(np.log(needed(here, "noise", a, b).factor))
    numbers = {
        " ".join(pair): spread(
            f"rollouts apart over paired, {pair[0]} of {pair[1]} and {pair[2]}",
            [one.factor for one in ones],
        )
        for pair, ones in found.items()
    }
    numbers["all"] = spread(
        "rollouts apart over paired, all pairs and trees",
        [one.factor for ones in found.values() for one in ones],
    )
    numbers["loses"] = exactly(
        "share of pairs and trees where pairing costs rollouts",
        np.mean([one.factor < 1 for ones in found.values() for one in ones]),
    )
    numbers["library"] = estimated(
        "log of the library's factor over the enumerated one, noise of opd and opd_sampled",
        t_interval(np.array(sampled) - wanted),
    )
    where = "; ".join(map(str, SHAPES)) + ", the latter with four prompts; "
    where += f"{REPEATS} samples of {SAMPLE} rollouts a tree"
    return Finding(numbers, "all", where, seeds, figure=drawn(found))


def judge(numbers: Numbers) -> Judgement:
    """Holds where pairing halves the rollouts of every pair on every tree, fails where of none."""
    factors = {pair: numbers[" ".join(pair)] for pair in PAIRS}
    # An interval that doesn't deliver the factor would make it a matter of paper.
    if not rules.near(numbers["library"], 0, np.log(LARGE)):
        return Judgement(OPEN)
    if all(rules.above(one, LARGE) for one in factors.values()):
        return Judgement(HOLDS)
    most = [pair for pair, one in factors.items() if one.value > LARGE]
    if not most:
        return Judgement(FAILS)
    of = "; ".join(f"{a} and {b} ({kind}), {factors[kind, a, b].value:.2g}" for kind, a, b in most)
    return Judgement(
        CAVEAT,
        "where rollouts move the two figures together, with a correlation of about a half or more "
        f"(median factors: {of}); not for the other pairs, and in {numbers['loses'].value:.0%} of "
        "all cases pairing costs rollouts",
    )


CLAIM = Claim(
    "F3",
    "identical rollouts matter",
    "To tell two estimators apart takes at most half the rollouts where both are measured on the "
    "same ones.",
    measure,
    judge,
    wrong="A factor of first-order variances that the library's intervals don't deliver: their "
    "squared widths on samples are compared with it. Noise and expectation are two questions with "
    "two factors.",
    advice="Compare on the same rollouts: it saves generation even where it saves no samples, and "
    "most where two rows are close. Between OPD and RL it buys little.",
    needs="the factor with transformers",
)

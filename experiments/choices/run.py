"""Are the choices within a goal right? On trees whose truth is enumerated.

N prompt groups are drawn from a tree's own law, the rows of each goal compared in pairs as a probe
compares them (`opd.measure.intervals.compare`), and every statement held against the oracle's
totals; so many times, and over. Writes one JSON file. See the README beside it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.coverage.run import JUDGED, Case, moments, problem
from opd.measure import exact
from opd.measure.intervals import (
    Comparison,
    Interval,
    Moments,
    RowSpec,
    comparable,
    compare,
    estimate,
)

Array = np.ndarray
GROUPS = (64, 128, 512)
REPEATS = 5  # of the clock, as probes have them by default
# Standard deviation of a call's log time: of a machine of one's own, and of a busy one, whose calls
# of one program took from 0.6 to 1.8 times their median.
QUIET, BUSY = 0.03, 0.3
HICCUP = 0.05  # share of calls that something else slows down, by a factor between 1 and 2
RESAMPLED, TOP = 4, 2  # k of opd_resampled and of opd_topk

# The rows of the default configs that are unbiased for one goal, with seconds like a laptop's.
GOALS = {
    "myopic reverse KL": {
        "opd": 1.0,
        "opd_sampled": 0.9,
        "opd_baseline": 0.9,
        f"opd_resampled@k={RESAMPLED}": 1.1,
        f"opd_topk@k={TOP}": 1.4,
    },
    "discounted reverse KL": {"opd@gamma=0.5": 1.1, "opd_sampled@gamma=0.5": 0.95},
    "sequence reverse KL": {"opd@gamma=1": 1.1, "opd_sampled@gamma=1": 0.95},
    "forward KL": {"soft_label": 1.0, "soft_label@expectation=sampled": 1.05},
    "reward": {"reinforce": 0.7, "rloo": 0.7},
}
# What is stated: SNR per rollout; SNR per second with the seconds above, and with seconds that make
# all rows of the goal equal, so that every "behind" is wrong, on a quiet and on a busy machine.
FAMILIES = ("per rollout", "per second", "all equal per second", "all equal per second, busy")
COUNTS = ("spoke", "wrong", "outside", "beaten", "pairs", "told", "overlap")


@dataclasses.dataclass(frozen=True, eq=False)
class Fresh:
    """Draws at every visited state, apart from the rollout's own tokens."""

    law: Array  # [S, V], normalised
    vectors: Array  # [S, V, M], what a drawn token contributes
    draws: int


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a tree: what a sequence contributes, what is drawn beside it, and the truth."""

    problem: exact.Problem
    case: Case
    sums: dict[str, Array]  # name -> [sequences, M], sum_t of what the rollout alone decides
    fresh: dict[str, Fresh]
    totals: dict[str, float]

    @property
    def goals(self) -> dict[str, dict[str, float]]:
        """Seconds by goal and row; groups of one have no others to leave one out of."""
        return {goal: rows for goal, rows in GOALS.items() if rows.keys() <= self.totals.keys()}


def rows(case: Case) -> Rows:
    """The rows of GOALS on a case's tree, each with its total."""
    tree = problem(case)
    score = tree.score
    vectors = exact.weight(exact.REVERSE, tree.logits, tree.logp_teacher)[..., None] * score
    off = np.where(exact.topk_set(tree.logp, tree.logp_teacher, TOP), 0.0, tree.probs)
    mass = off.sum(-1, keepdims=True)
    head = exact.topk(tree, TOP, "drop")
    estimators = {
        "opd": exact.enumerated(tree),
        "opd_sampled": exact.sampled(tree),
        "opd_baseline": exact.sampled(tree, baseline=True),
        f"opd_resampled@k={RESAMPLED}": exact.resampled(tree, RESAMPLED),
        f"opd_topk@k={TOP}": exact.topk(tree, TOP),
        "opd@gamma=0.5": exact.enumerated(tree, gamma=0.5),
        "opd_sampled@gamma=0.5": exact.sampled(tree, gamma=0.5),
        "opd@gamma=1": exact.enumerated(tree, gamma=1.0),
        "opd_sampled@gamma=1": exact.sampled(tree, gamma=1.0),
        "soft_label": exact.enumerated(tree, ("forward_kl",)),
        "soft_label@expectation=sampled": exact.teacher_sampled(tree),
        "reinforce": exact.reinforce(tree),
    }
    fresh = {
        f"opd_resampled@k={RESAMPLED}": Fresh(tree.probs, vectors, RESAMPLED),
        f"opd_topk@k={TOP}": Fresh(off / mass, mass[..., None] * vectors, 1),
        "soft_label@expectation=sampled": Fresh(np.exp(tree.logp_teacher), score, 1),
    }
    # What the draws contribute on average is in the estimators' h, and must not count twice.
    alone = dict.fromkeys(fresh, 0.0) | {f"opd_topk@k={TOP}": head.h.sum(1)}
    sums = {name: estimator.h.sum(1) for name, estimator in estimators.items()}
    sums |= {name: alone[name] + np.zeros_like(sums["opd"]) for name in fresh}
    totals = {
        name: exact.decompose(tree, estimator.h, estimator.fresh, case.group_size).total
        for name, estimator in estimators.items()
    }
    if case.group_size > 1:
        totals["rloo"] = leave_one_out_total(tree, case.group_size)
    return Rows(tree, case, sums, fresh, totals)


def leave_one_out_total(problem: exact.Problem, size: int) -> float:
    """G tr Var of RLOO's Y = (1/G) sum_i (R_i - mean of the others' R) s_i, s the rollout's score.

    Y is a U-statistic with the kernel (R_i - R_j) (s_i - s_j) / 2, so that for one prompt
    Var = 2 / (G (G - 1)) (2 (G - 2) Var E[kernel | i] + Var kernel) (Hoeffding 1948).
    """
    tree, means, inside = problem.tree, [], []
    score = exact.at_actions(tree, problem.score).sum(1)
    for prompt in range(len(problem.prompt_prob)):
        here = tree.prompt == prompt
        p, r, s = problem.given[here], problem.reward[here], score[here]
        mean = (p * r) @ s - (p @ r) * (p @ s)
        given_one = (r[:, None] * (s - p @ s) - (p @ r) * s + (p * r) @ s) / 2
        norms = (s**2).sum(-1)
        apart = norms[:, None] + norms - 2 * s @ s.T
        square = p @ ((r[:, None] - r) ** 2 * apart / 4) @ p
        first = p @ ((given_one - mean) ** 2).sum(-1)
        pair = square - mean @ mean
        means.append(mean)
        inside.append(2 / (size * (size - 1)) * (2 * (size - 2) * first + pair))
    weights = problem.prompt_prob
    apart = np.array(means) - weights @ np.array(means)
    return float(size * (weights @ (apart**2).sum(-1) + weights @ np.array(inside)))


def draw(made: Rows, groups: int, rng: np.random.Generator) -> dict[str, Array]:
    """Y [N, M] of each row: the same N prompt groups for all, averaged over their G rollouts."""
    tree, case = made.problem.tree, made.case
    prompts = rng.choice(case.prompts, size=(groups, 1), p=made.problem.prompt_prob)
    # By inversion: one unit of the law for each prompt, its sequences side by side.
    u = prompts + rng.random((groups, case.group_size))
    order = np.argsort(tree.prompt, kind="stable")
    place = np.searchsorted(np.cumsum(made.problem.given[order]), u)
    chosen = order[np.minimum(place, len(order) - 1)]  # [N, G]
    values = {name: sums[chosen].mean(1) for name, sums in made.sums.items()}
    visited, mask = tree.visited[chosen], tree.mask[chosen]  # [N, G, T]
    for name, fresh in made.fresh.items():
        law = np.cumsum(fresh.law, -1)[visited]
        u = rng.random((*visited.shape, fresh.draws)) * law[..., -1:]
        token = np.minimum((law[..., None, :] <= u[..., None]).sum(-1), law.shape[-1] - 1)
        drawn = fresh.vectors[visited[..., None], token].mean(-2)  # [N, G, T, M]
        values[name] = values[name] + (drawn * mask[..., None]).sum(2).mean(1)
    if "rloo" in made.totals:
        reward = made.problem.reward[chosen]
        others = (reward.sum(1, keepdims=True) - reward) / (case.group_size - 1)
        score = exact.at_actions(tree, made.problem.score).sum(1)[chosen]
        values["rloo"] = ((reward - others)[..., None] * score).mean(1)
    return values


def clock(seconds: Sequence[float], noise: float, rng: np.random.Generator) -> Array:
    """Times of each row in each repeat [rows, REPEATS]; a repeat has one speed of the machine."""
    shape = len(seconds), REPEATS
    common = np.exp(rng.normal(0, noise, REPEATS))
    slowed = 1 + (rng.random(shape) < HICCUP) * rng.random(shape)
    return np.asarray(seconds)[:, None] * common * np.exp(rng.normal(0, noise, shape)) * slowed


def count(
    pairs: Sequence[Comparison],
    figure: str,
    worth: Array,
    enough: Sequence[bool],
    apart: Array | None = None,
) -> dict[str, int]:
    """What the statements about one goal's rows come to, each row truly worth `worth`.

    spoke    1 if two rows at least have groups `enough` to be compared
    wrong    1 if a row is called behind one that it is truly equal to or ahead of
    outside  1 if any interval misses the truth, so that a stated factor or bound is false
    beaten   1 if the chosen row is truly behind another by more than was said
    pairs    compared pairs that truly differ; `told` of them are told apart, rightly, and
    overlap  of them would be if two rows' own intervals had to be `apart`
    """
    counts = dict.fromkeys(COUNTS, 0)
    scores = np.zeros(len(worth))
    compared = [
        (pair.first, pair.second, getattr(pair, figure))
        for pair in pairs
        if enough[pair.first] and enough[pair.second]
    ]
    for i, j, interval in compared:
        truth = worth[i] / worth[j]
        equal = abs(truth - 1) < 1e-9
        ahead, behind = interval.low > 1, interval.high < 1
        counts["spoke"] = 1
        right = (ahead and truth > 1) or (behind and truth < 1)
        counts["wrong"] |= (ahead or behind) and (equal or not right)
        counts["outside"] |= not interval.low <= truth <= interval.high
        counts["pairs"] += not equal
        counts["told"] += not equal and right
        counts["overlap"] += not equal and apart is not None and bool(apart[i, j])
        scores[i] += np.log(interval.value)
        scores[j] -= np.log(interval.value)
    chosen = max((k for k in range(len(worth)) if enough[k]), key=scores.__getitem__, default=None)
    for i, j, interval in compared:
        truth = worth[i] / worth[j]
        if chosen == i:
            counts["beaten"] |= truth < min(interval.low, 1 - 1e-9)
        if chosen == j:
            counts["beaten"] |= truth > max(interval.high, 1 + 1e-9)
    return {key: int(value) for key, value in counts.items()}


def study(case: Case, groups: int, replicates: int, seed: int = 0) -> dict[str, dict[str, list]]:
    """Summed counts, in the order of COUNTS, by family and goal."""
    made = rows(case)
    rng = np.random.default_rng([seed, case.seed, groups, case.group_size])
    sums = {
        family: {goal: np.zeros(len(COUNTS), int) for goal in made.goals} for family in FAMILIES
    }
    for _ in range(replicates):
        values = draw(made, groups, rng)
        sketch = None
        if case.width is not None:
            shape = (values["opd"].shape[-1], case.width)
            sketch = rng.choice([-1.0, 1.0], size=shape) / np.sqrt(case.width)
        for goal, costs in made.goals.items():
            stacked = np.stack([values[name] for name in costs], 1)
            sample = moments(stacked, case.group_size, sketch)
            totals = np.array([made.totals[name] for name in costs])
            for family, counts in statements(sample, totals, list(costs.values()), rng).items():
                sums[family][goal] += [counts[key] for key in COUNTS]
    return {
        family: {goal: total.tolist() for goal, total in goals.items()}
        for family, goals in sums.items()
    }


def statements(
    sample: Moments, totals: Array, costs: Sequence[float], rng: np.random.Generator
) -> dict[str, dict[str, int]]:
    """Counts by family of what one sample of a goal's rows, all its columns, leads to."""
    columns = range(len(totals))
    enough = [comparable(sample)] * len(totals)
    snr = [figures["snr"] for figures in estimate(sample, [RowSpec(k) for k in columns])]
    found = {
        "per rollout": count(
            compare(sample, columns), "snr", 1 / totals, enough, intervals_apart(snr)
        )
    }
    for family, seconds, noise in zip(
        FAMILIES[1:], (np.array(costs), 1 / totals, 1 / totals), (QUIET, QUIET, BUSY)
    ):
        pairs = compare(sample, columns, clock(seconds, noise, rng))
        found[family] = count(pairs, "snr_per_second", 1 / totals / seconds, enough)
    return found


def intervals_apart(figures: Sequence[Interval | None]) -> Array:
    """Which pairs of intervals don't meet [rows, rows]."""
    apart = np.zeros((len(figures), len(figures)), bool)
    for (i, a), (j, b) in itertools.permutations(enumerate(figures), 2):
        apart[i, j] = a is not None and b is not None and (a.low > b.high or b.low > a.high)
    return apart


def summary(counts: dict[str, dict[str, list]], replicates: int) -> dict[str, dict]:
    """Shares in % by family: mean and worst over goals of what can be false, and what is told."""
    table = {}
    for family, goals in counts.items():
        named = {goal: dict(zip(COUNTS, total)) for goal, total in goals.items()}
        shares = {}
        for key in ("wrong", "outside", "beaten"):
            worst = max(named, key=lambda goal: named[goal][key])
            each = [100 * total[key] / replicates for total in named.values()]
            shares[key] = {
                "mean": round(float(np.mean(each)), 2),
                "worst": round(max(each), 2),
                "worst_goal": worst,
            }
        summed = {key: sum(total[key] for total in named.values()) for key in COUNTS}
        shares["spoke"] = round(100 * summed["spoke"] / (replicates * len(named)), 1)
        if summed["pairs"]:
            shares["told"] = round(100 * summed["told"] / summed["pairs"], 1)
        if family == "per rollout" and summed["pairs"]:
            shares["overlap"] = round(100 * summed["overlap"] / summed["pairs"], 1)
        table[family] = shares
    return table


BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def tables(report: Mapping[str, Any]) -> str:
    """The README's tables: how often each family is false, and every tree at 128 groups."""
    plain = [case for case in report["cases"] if "tails" not in case["case"]["name"]]
    heavy = [case for case in report["cases"] if "tails" in case["case"]["name"]]
    parts = [
        f"**{title}** ({len(trees)}), % of samples: mean over goals and trees, worst of all.\n\n"
        + _false(trees)
        for title, trees in (("Trees without heavy tails", plain), ("With heavy tails", heavy))
    ]
    parts.append(
        "**At 128 groups**, in %: goals that are compared; of pairs that truly differ, those "
        "told apart,\nand those whose own intervals don't meet; goals of which any statement about "
        "SNR per rollout is false.\n\n" + _trees(report["cases"])
    )
    return "\n".join(parts)


def _false(cases: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| N = | {' | '.join(map(str, GROUPS))} |", "|---|" + "---|" * len(GROUPS)]
    for key, title in (("outside", "anything false"), ("wrong", "a row wrongly behind")):
        for family in FAMILIES:
            cells = []
            for n in map(str, GROUPS):
                shares = [case["groups"][n]["summary"][family][key] for case in cases]
                mean = np.mean([share["mean"] for share in shares])
                cells.append(f"{mean:.1f} ({max(share['worst'] for share in shares):.1f})")
            lines.append(f"| {title}, {family} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _trees(cases: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| tree | compared | told apart | by overlap | false, mean | false, worst |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        found = case["groups"]["128"]["summary"]["per rollout"]
        shares = [f"{found[key]:.0f}" for key in ("spoke", "told", "overlap")]
        outside = found["outside"]
        worst = f"{outside['worst']:.1f}, {outside['worst_goal']}"
        cells = [case["case"]["name"], *shares, f"{outside['mean']:.1f}", worst]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all cases and writes `--out`, and the tables of the README beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args(argv)
    start = time.perf_counter()
    jobs = [(c, n, options.replicates, options.seed) for c in JUDGED for n in GROUPS]
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        counts = dict(zip(((c, n) for c, n, _, _ in jobs), pool.map(study, *zip(*jobs))))
    cases = [
        {
            "case": dataclasses.asdict(case),
            "groups": {
                n: {
                    "summary": summary(counts[case, n], options.replicates),
                    "goals": counts[case, n],
                }
                for n in GROUPS
            },
        }
        for case in JUDGED
    ]
    report = {
        "command": f"python -m experiments.choices.run --replicates={options.replicates}"
        f" --seed={options.seed}",
        "replicates": options.replicates,
        "counts": COUNTS,
        "seconds": round(time.perf_counter() - start),
        "environment": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "cases": cases,
    }
    options.out.write_text(json.dumps(report, allow_nan=False) + "\n")
    readme = options.out.with_name("README.md")
    if readme.exists():
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        block = tables(json.loads(options.out.read_text())) + END
        readme.write_text(before + BEGIN + block + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()

"""Coverage of the intervals of opd/measure/intervals.py on trees whose truth is enumerated.

N prompt groups are drawn from a tree's own law, their moments taken, the intervals compared with
the oracle's numbers; so many times, and over. Writes one JSON file. See the README beside it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opd.measure import exact
from opd.measure.intervals import Branches, Interval, Moments, RowSpec, estimate, ratio

Array = np.ndarray
GROUPS = (32, 64, 128, 256, 512, 1024)
FIGURES = (
    "total",
    "across",
    "within",
    "cross",
    "mean_square",
    "snr",
    "relative_error",
    "cosine",
    "total_ratio",
    "snr_ratio",
)
COUNTS = ("given", "above", "below", "trusted_given", "trusted_missed")


@dataclasses.dataclass(frozen=True)
class Case:
    """A tree: a log-linear student with shared parameters, a teacher apart from it, prompts."""

    name: str
    group_size: int = 4
    prompts: int = 8
    seed: int = 0
    student: float = 1.0  # size of the student's logits: 1 is soft, 3 is sharp
    distance: float = 1.0  # of the teacher's parameters from the student's
    teacher: float = 1.0  # the teacher's logits times this: > 1 is near-deterministic
    width: int | None = None  # of the sketch; None: exact inner products
    branches: bool = False  # a row that holds the future gets branches for a partner


CASES = (
    Case("plain"),
    Case("plain, G = 1", group_size=1),
    Case("another tree", seed=1),
    Case("near the teacher", distance=0.2),
    Case("far from the teacher", student=2.0, distance=4.0),
    Case("branches", prompts=2, branches=True),
    Case("sketch of 32", width=32),
    Case("heavy tails", student=3.0, distance=0.3, teacher=4.0),
    Case("heavy tails, G = 1", student=3.0, distance=0.3, teacher=4.0, group_size=1),
    Case("heaviest tails, G = 1", student=4.0, distance=0.3, teacher=8.0, group_size=1),
)


def problem(case: Case, vocab: int = 4, depth: int = 4, width: int = 12) -> exact.Problem:
    """The enumerated tree of a case: V 4, depth 4, EOS 0, M = 48 parameters, sparse 0/1 reward."""
    rng = np.random.default_rng(case.seed)
    tree = exact.tree(vocab, depth, 0, case.prompts)
    states = tree.child.shape[0]
    # A state's features: its prompt's and its tokens', each position with its own.
    prompt = rng.normal(size=(case.prompts, width))
    token = rng.normal(size=(depth, vocab, width))
    features = prompt[tree.state_prompt]
    for t in range(depth):
        here = tree.state_tokens[:, t]
        features = features + np.where(here[:, None] >= 0, token[t, here], 0.0)
    features = features / np.sqrt(width * (1 + tree.state_time[:, None]))
    weights = case.student * rng.normal(size=(vocab, width))
    apart = weights + case.distance * rng.normal(size=(vocab, width))
    jacobian = np.einsum("vu,sd->svud", np.eye(vocab), features).reshape(states, vocab, -1)
    return exact.problem(
        tree,
        features @ weights.T,
        exact.log_softmax(case.teacher * features @ apart.T),
        jacobian,
        reward=(rng.random(len(tree.tokens)) < 0.3).astype(float),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The gradients of all sequences, which columns make up which row, and the rows' truth."""

    sums: Array  # [sequences, K, M], sum_t h_t
    h: Array  # [sequences, T, M], of the row that is branched
    given: Array  # [sequences], pi(y|x)
    rows: dict[str, RowSpec]
    truth: dict[str, dict[str, float]]


def columns(problem: exact.Problem, case: Case) -> Columns:
    """Rows of the probe: enumerated, sampled, with baseline, biased, with the future, terminal."""
    estimators = {
        "opd": exact.enumerated(problem),
        "opd_sampled": exact.sampled(problem),
        "opd_baseline": exact.sampled(problem, baseline=True),
        "opd_topk@k=2,tail=drop": exact.topk(problem, 2, "drop"),
        "opd@gamma=1": exact.enumerated(problem, gamma=1.0),
        "soft_label": exact.enumerated(problem, ("forward_kl",)),
        "reinforce": exact.reinforce(problem),
    }
    names = list(estimators)
    partners = {"opd": 0, "opd_sampled": 0, "opd_baseline": 0}
    partners |= {"opd_topk@k=2,tail=drop": 3, "soft_label": 5}
    if case.branches:
        partners["reinforce"] = Branches(7, 8, 9, 10)
    rows = {name: RowSpec(k, partners.get(name), 0) for k, name in enumerate(names)}
    split = {
        name: exact.decompose(problem, estimator.h, group_size=case.group_size)
        for name, estimator in estimators.items()
    }
    base = split["opd"]
    truth = {name: _truth(one, base) for name, one in split.items()}
    sums = np.stack([estimator.h.sum(1) for estimator in estimators.values()], 1)
    return Columns(sums, estimators["reinforce"].h, problem.given, rows, truth)


def _truth(one: exact.Decomposition, base: exact.Decomposition) -> dict[str, float]:
    square, reference = float(one.mean @ one.mean), float(base.mean @ base.mean)
    return {
        "total": one.total,
        "across": one.across,
        "within": one.within,
        "cross": one.cross,
        "mean_square": square,
        "snr": square / one.total,
        "relative_error": float(np.linalg.norm(one.mean - base.mean)) / reference**0.5,
        "cosine": float(one.mean @ base.mean) / (square * reference) ** 0.5,
        "total_ratio": one.total / base.total,
        "snr_ratio": square / one.total / (reference / base.total),
    }


def draw(
    problem: exact.Problem, columns: Columns, case: Case, groups: int, rng: np.random.Generator
) -> Array:
    """Y [N, K, M]: N prompt groups from the tree's own law, averaged over their G rollouts."""
    prompts = rng.choice(case.prompts, size=(groups, 1), p=problem.prompt_prob)
    # By inversion: one unit of the law for each prompt, its sequences side by side.
    u = prompts + rng.random((groups, case.group_size))
    order = np.argsort(problem.tree.prompt, kind="stable")
    place = np.searchsorted(np.cumsum(columns.given[order]), u)
    chosen = order[np.minimum(place, len(order) - 1)]
    drawn = columns.sums[chosen]  # [N, G, K, M]
    if case.branches:
        drawn = np.concatenate([drawn, _branches(problem, columns.h, chosen, rng)], axis=2)
    return drawn.mean(1)


def _branches(problem: exact.Problem, h: Array, chosen: Array, rng: np.random.Generator) -> Array:
    """Two copies of sum_t b_t, then two spreads: [N, G, 4, M]; one fresh continuation per token."""
    tree = problem.tree
    through = np.equal.outer(np.arange(len(tree.child)), tree.visited).any(-1)  # [S, sequences]
    law = np.cumsum(through * problem.joint, -1)
    copies, spreads = [], []
    mask = tree.mask[chosen]
    sign = np.where(mask, rng.choice([-1.0, 1.0], size=mask.shape), 0.0)[..., None]
    for _ in range(2):
        last = law[tree.visited[chosen], -1]
        u = rng.random(last.shape) * last
        fresh = (law[tree.visited[chosen]] <= u[..., None]).sum(-1)  # [N, G, T]
        fresh = np.where(mask, np.minimum(fresh, len(h) - 1), 0)
        estimate = np.where(mask[..., None], h[fresh, np.arange(h.shape[1])], 0.0)
        copies.append(estimate.sum(2))
        spreads.append((sign * (h[chosen] - estimate)).sum(2))
    return np.stack(copies + spreads, 2)


def moments(values: Array, group_size: int, sketch: Array | None = None) -> Moments:
    """Moments of Y [N, K, M]; `sketch` [M, W] is the projection, None keeps Y itself (exact)."""
    sums = values.sum(0)
    projected = values if sketch is None else values @ sketch
    return Moments(values @ values.swapaxes(1, 2), sums @ sums.T, projected, group_size)


def measured(sample: Moments, rows: dict[str, RowSpec]) -> dict[str, dict]:
    """All figures of all rows, the paired ratios to the first row among them."""
    found = dict(zip(rows, estimate(sample, list(rows.values()))))
    for name, spec in rows.items():
        both = ratio(sample, spec.column, 0) if spec.column else {"total": None, "snr": None}
        found[name] |= {f"{key}_ratio": value for key, value in both.items()}
    return found


def coverage(case: Case, groups: int, replicates: int, seed: int = 0) -> dict[str, dict]:
    """For each row and figure: how many intervals were given, and how many lay above and below.

    `trusted` counts the replicates whose row says so; `trusted_given` and `trusted_missed` are the
    same counts among those. Figures that are constants (the parts of a deterministic row) are left
    out.
    """
    tree = problem(case)
    made = columns(tree, case)
    rng = np.random.default_rng([seed, case.seed, groups])
    counts: dict[str, dict] = {name: {"trusted": 0} for name in made.rows}
    for _ in range(replicates):
        values = draw(tree, made, case, groups, rng)
        sketch = None
        if case.width is not None:
            signs = rng.choice([-1.0, 1.0], size=(values.shape[-1], case.width))
            sketch = signs / np.sqrt(case.width)
        for name, figures in measured(moments(values, case.group_size, sketch), made.rows).items():
            counts[name]["trusted"] += bool(figures["trusted"])
            for figure in FIGURES:
                _count(counts[name], figure, figures, made.truth[name][figure])
    return counts


def _count(row: dict, figure: str, figures: dict, truth: float) -> None:
    interval: Interval | None = figures[figure]
    if interval is None or interval.low == interval.high:
        return
    count = row.setdefault(figure, dict.fromkeys(COUNTS, 0))
    slack = 1e-9 * max(1.0, abs(truth))
    above, below = interval.low > truth + slack, interval.high < truth - slack
    count["given"] += 1
    count["above"] += bool(above)
    count["below"] += bool(below)
    count["trusted_given"] += bool(figures["trusted"])
    count["trusted_missed"] += bool(figures["trusted"] and (above or below))


def summary(counts: dict[str, dict], replicates: int) -> dict[str, dict]:
    """Mean and worst coverage over rows, in %; rows whose figure is mostly null are left out."""
    table = {}
    for figure in FIGURES:
        rows = {
            name: 100 * (1 - (row[figure]["above"] + row[figure]["below"]) / row[figure]["given"])
            for name, row in counts.items()
            if figure in row and row[figure]["given"] >= replicates / 2
        }
        if rows:
            worst = min(rows, key=rows.get)
            table[figure] = {
                "mean": round(float(np.mean(list(rows.values()))), 1),
                "worst": round(rows[worst], 1),
                "worst_row": worst,
            }
    return table


def packed(counts: dict[str, dict]) -> dict[str, dict]:
    """Counts as lists, in the order of COUNTS: the file is under version control."""
    return {
        name: {
            key: value if key == "trusted" else [value[count] for count in COUNTS]
            for key, value in row.items()
        }
        for name, row in counts.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all cases and writes `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args(argv)
    start = time.perf_counter()
    jobs = [(c, n, options.replicates, options.seed) for c in CASES for n in GROUPS]
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        found = dict(zip(((c, n) for c, n, _, _ in jobs), pool.map(coverage, *zip(*jobs))))
    cases = [
        {
            "case": dataclasses.asdict(case),
            "groups": {
                n: {
                    "summary": summary(found[case, n], options.replicates),
                    "rows": packed(found[case, n]),
                }
                for n in GROUPS
            },
        }
        for case in CASES
    ]
    report = {
        "command": f"python -m experiments.coverage.run --replicates={options.replicates}"
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


if __name__ == "__main__":
    main()

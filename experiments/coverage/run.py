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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opd.measure import exact
from opd.measure.intervals import (
    Branches,
    Interval,
    Moments,
    RowSpec,
    estimate,
    mean_interval,
    ratio,
    t_interval,
)

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
# Those given, those whose interval lies above and below the truth; then given and missed among the
# trusted, among those with two finite ends, and among those with a sign of a heavy tail.
COUNTS = (
    *("given", "above", "below", "trusted_given", "trusted_missed"),
    *("bounded_given", "bounded_missed", "sign_given", "sign_missed"),
)
FAILS = 90  # a figure that is trusted and covers less often than this, in %, fails


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
    vocab: int = 4
    depth: int = 4


# What the rules were made on, and nothing is judged by.
MADE = (
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
HEAVY = {"student": 3.0, "distance": 0.3, "teacher": 4.0}
HEAVIEST = {"student": 4.0, "distance": 0.3, "teacher": 8.0}
# Drawn after the rules were committed.
JUDGED = (
    Case("unseen", seed=101),
    Case("unseen, G = 1", seed=102, group_size=1),
    Case("32 prompts", seed=103, prompts=32),
    Case("V = 6, depth 3", seed=104, vocab=6, depth=3),
    Case("V = 3, depth 6", seed=105, vocab=3, depth=6),
    Case("weak signal, G = 1", seed=106, distance=0.05, group_size=1),
    Case("unseen heavy tails", seed=107, **HEAVY),
    Case("unseen heavy tails, G = 1", seed=108, group_size=1, **HEAVY),
    Case("weak signal, heavy tails, G = 1", seed=109, group_size=1, **HEAVY | {"distance": 0.05}),
    Case("unseen heaviest tails, G = 1", seed=110, group_size=1, **HEAVIEST),
    Case("heaviest tails, V = 3, depth 6", seed=111, vocab=3, depth=6, **HEAVIEST),
)
TREES = {"judged": JUDGED, "made": MADE}
# Laws of one prompt's figure, mean 1; N prompts have the mean of N draws.
LAWS = {
    "normal, sd 0.3": lambda rng, shape: rng.normal(1, 0.3, shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "gamma 0.5": lambda rng, shape: rng.gamma(0.5, 2, shape),
    "gamma 0.25": lambda rng, shape: rng.gamma(0.25, 4, shape),
    "half are 0, half exponential": lambda rng, shape: (
        2 * rng.integers(0, 2, shape) * rng.exponential(size=shape)
    ),
    "Pareto 3": lambda rng, shape: 2 * rng.pareto(3, shape),
    **{
        f"log-normal {sigma}": lambda rng, shape, sigma=sigma: rng.lognormal(
            -(sigma**2) / 2, sigma, shape
        )
        for sigma in (0.5, 1.0, 1.5, 2.0)
    },
}
PROMPTS = (4, 8, 16, 32, 64)


def problem(case: Case, width: int = 12) -> exact.Problem:
    """The enumerated tree of a case: EOS 0, M = V width parameters, sparse 0/1 reward."""
    rng, vocab, depth = np.random.default_rng(case.seed), case.vocab, case.depth
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
    rows = {
        name: RowSpec(k, partners.get(name), 0 if k else None, sums=name == "opd@gamma=1")
        for k, name in enumerate(names)
    }
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

    `trusted` counts the replicates whose row says so, `sign` those with a sign of a heavy tail;
    COUNTS has what else. `cosine_error` has the number, sum and sum of squares of what is stated
    of the cosine less the truth. Figures that are constants (the parts of a deterministic row) are
    left out.
    """
    tree = problem(case)
    made = columns(tree, case)
    rng = np.random.default_rng([seed, case.seed, groups])
    counts: dict[str, dict] = {
        name: {"trusted": 0, "sign": 0, "cosine_error": np.zeros(3)} for name in made.rows
    }
    for _ in range(replicates):
        values = draw(tree, made, case, groups, rng)
        sketch = None
        if case.width is not None:
            signs = rng.choice([-1.0, 1.0], size=(values.shape[-1], case.width))
            sketch = signs / np.sqrt(case.width)
        for name, figures in measured(moments(values, case.group_size, sketch), made.rows).items():
            counts[name]["trusted"] += bool(figures["trusted"])
            counts[name]["sign"] += bool(figures["heavy_tail"])
            if figures["cosine"] is not None and np.isfinite(figures["cosine"].value):
                error = figures["cosine"].value - made.truth[name]["cosine"]
                counts[name]["cosine_error"] += [1, error, error**2]
            for figure in FIGURES:
                _count(counts[name], figure, figures, made.truth[name][figure])
    return counts


def _count(row: dict, figure: str, figures: dict, truth: float) -> None:
    interval: Interval | None = figures[figure]
    slack = 1e-9 * max(1.0, abs(truth))
    if interval is None or interval.high - interval.low <= slack:
        return
    count = row.setdefault(figure, dict.fromkeys(COUNTS, 0))
    above, below = interval.low > truth + slack, interval.high < truth - slack
    count["given"] += 1
    count["above"] += bool(above)
    count["below"] += bool(below)
    among = {
        "trusted": figures["trusted"],
        "bounded": np.isfinite([interval.low, interval.high]).all(),
        "sign": figures["heavy_tail"],
    }
    for name, applies in among.items():
        count[f"{name}_given"] += bool(applies)
        count[f"{name}_missed"] += bool(applies and (above or below))


def packed(counts: dict[str, dict]) -> dict[str, dict]:
    """Counts as lists, in the order of COUNTS: the file is under version control."""
    return {
        name: {key: _packed(value) for key, value in row.items()} for name, row in counts.items()
    }


def _packed(value: int | Array | dict[str, int]) -> int | list:
    if isinstance(value, dict):
        return [value[count] for count in COUNTS]
    return [float(f"{x:.4g}") for x in value] if isinstance(value, np.ndarray) else value


def means(prompts: int, replicates: int, seed: int = 0) -> dict[str, list[float]]:
    """By law: coverage of `mean_interval` and of `t_interval` in %, their median widths."""
    rng = np.random.default_rng([seed, prompts])
    table = {}
    for name, law in LAWS.items():
        values = law(rng, (prompts, replicates))
        table[name] = []
        for interval in (mean_interval(values), t_interval(values)):
            covers = (interval.low <= 1) & (interval.high >= 1)
            width = float(np.median(interval.high - interval.low))
            table[name] += [round(100 * float(covers.mean()), 1), float(f"{width:.3g}")]
    return table


def tables(report: Mapping[str, Any]) -> str:
    """The README's tables."""
    light = [case for case in report["cases"] if "tails" not in case["case"]["name"]]
    heavy = [case for case in report["cases"] if "tails" in case["case"]["name"]]
    parts = []
    for title, cases in (("Without heavy tails", light), ("With heavy tails", heavy)):
        parts += [f"**{title}** ({len(cases)} trees)\n", _coverage(cases), ""]
    parts += ["**Trusted, by row**\n", _given(report["cases"], "trusted"), ""]
    parts += ["**With a sign of a heavy tail and without, by row**\n", _signs(report["cases"]), ""]
    parts += ["**Ratios whose intervals have two ends**\n", _bounded(report["cases"]), ""]
    parts += ["**Bias of the cosine**\n", _biases(report["cases"]), ""]
    failures = [f"- {failure}" for failure in failed(report["cases"])]
    many = trusted_cells(report["cases"])
    parts += [f"**What fails**: {len(failures)} of {many} trusted figures.\n", *failures, ""]
    parts += ["**Means over prompts**, of the t interval in brackets\n", _means(report["means"])]
    return "\n".join(parts) + "\n"


def _rows(
    cases: Iterable[Mapping[str, Any]], n: int | str, figure: str
) -> Iterator[tuple[str, str, dict[str, int], dict]]:
    """Tree, row, counts of a figure and all of the row's, at N groups."""
    for case in cases:
        for name, row in case["groups"][str(n)]["rows"].items():
            if figure in row:
                yield case["case"]["name"], name, dict(zip(COUNTS, row[figure])), row


def _share(given: float, missed: float) -> float:
    return 100 * (1 - missed / given) if given else float("nan")


def _covered(counts: Mapping[str, int]) -> float:
    return _share(counts["given"], counts["above"] + counts["below"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _coverage(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for figure in FIGURES:
        cells = []
        for n in GROUPS:
            each = [_covered(counts) for _, _, counts, _ in _rows(cases, n, figure)]
            cells.append(f"{np.mean(each):.0f} ({min(each):.0f})" if each else "")
        rows.append([f"`{figure}`", *cells])
    return _table(["figure, N =", *map(str, GROUPS)], rows)


def _pooled(cases: Sequence[Mapping[str, Any]], among: str) -> dict[str, list[tuple[int, int]]]:
    """By row, what was given and missed, of every figure, tree and N with enough to go by."""
    pooled: dict[str, list[tuple[int, int]]] = {}
    for figure in FIGURES:
        for n in GROUPS:
            for _, name, counts, _ in _rows(cases, n, figure):
                pair = counts[f"{among}_given"], counts[f"{among}_missed"]
                pooled.setdefault(name, []).extend([pair] if pair[0] >= 20 else [])
    return pooled


def _given(cases: Sequence[Mapping[str, Any]], among: str) -> str:
    rows = []
    for name, pairs in _pooled(cases, among).items():
        shares = [_share(*pair) for pair in pairs] or [float("nan")]
        low = sum(share < FAILS for share in shares)
        rows.append([f"`{name}`", f"{np.mean(shares):.1f}", f"{min(shares):.1f}", f"{low}"])
    return _table(["row", "mean", "worst", f"below {FAILS}"], rows)


def _signs(cases: Sequence[Mapping[str, Any]]) -> str:
    """`total` from 128 groups on, given the sign and given none."""
    rows: dict[str, Array] = {}
    for n in GROUPS[2:]:
        for _, name, counts, _ in _rows(cases, n, "total"):
            sign = counts["sign_given"], counts["sign_missed"]
            every = counts["given"], counts["above"] + counts["below"]
            rows[name] = rows.get(name, 0) + np.array([*every, *sign])
    cells = []
    for name, (given, missed, sign, with_sign) in rows.items():
        share = 100 * sign / given
        shares = _share(sign, with_sign), _share(given - sign, missed - with_sign)
        shown = ["–" if np.isnan(x) else f"{x:.1f}" for x in shares]
        cells.append([f"`{name}`", f"{share:.0f}", *shown])
    return _table(["row", "a sign in, % of samples", "covers with it", "without"], cells)


def _bounded(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for figure in ("relative_error", "snr_ratio"):
        for n in GROUPS:
            every = [counts for _, _, counts, _ in _rows(cases, n, figure)]
            bounded = [c for c in every if c["bounded_given"] >= 20]
            share = 100 * np.mean([c["bounded_given"] / c["given"] for c in every])
            shares = [_share(c["bounded_given"], c["bounded_missed"]) for c in bounded] or [np.nan]
            all_of_them = [_covered(c) for c in every]
            cells = [f"{share:.0f}", f"{np.mean(all_of_them):.0f} ({min(all_of_them):.0f})"]
            rows.append(
                [f"`{figure}`", f"{n}", *cells, f"{np.mean(shares):.0f} ({min(shares):.0f})"]
            )
    return _table(["figure", "N", "bounded, %", "all", "the bounded"], rows)


def _biases(cases: Sequence[Mapping[str, Any]]) -> str:
    """Median over trees and rows of the size of the cosine's mean error and its standard error."""
    rows = []
    for n in GROUPS:
        errors = [row["cosine_error"] for _, _, _, row in _rows(cases, n, "cosine")]
        known = [(m, s / m, q / m) for m, s, q in errors if m > 1]
        bias = np.median([abs(mean) for _, mean, _ in known])
        error = np.median([np.sqrt(max(q - mean**2, 0) / m) for m, mean, q in known])
        rows.append([f"{n}", f"{bias:.4f}", f"{error:.4f}"])
    return _table(["N", "size of the mean error, median row", "its standard error"], rows)


def failed(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Figures that are trusted and cover in less than FAILS % of samples."""
    failures = []
    for case, name, n, figure, counts in _trusted(cases):
        share = _share(counts["trusted_given"], counts["trusted_missed"])
        if share < FAILS:
            failures.append(f"{case}, `{name}`, N = {n}, `{figure}`: {share:.1f}")
    return failures


def _trusted(cases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, str, dict]]:
    for n in GROUPS:
        for figure in FIGURES:
            for case, name, counts, _ in _rows(cases, n, figure):
                if counts["trusted_given"] >= 20:
                    yield case, name, n, figure, counts


def trusted_cells(cases: Sequence[Mapping[str, Any]]) -> int:
    """How many figures of rows at an N are trusted."""
    return len(list(_trusted(cases)))


def _means(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    rows = [
        [law, *(f"{found[str(n)][law][0]:.0f} ({found[str(n)][law][2]:.0f})" for n in PROMPTS)]
        for law in LAWS
    ]
    return _table(["a prompt's law, prompts =", *map(str, PROMPTS)], rows)


BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the trees and the means, writes `--out` and the tables of the README beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--trees", choices=list(TREES), default="judged")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args(argv)
    start = time.perf_counter()
    cases = TREES[options.trees]
    jobs = [(c, n, options.replicates, options.seed) for c in cases for n in GROUPS]
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        found = dict(zip(((c, n) for c, n, _, _ in jobs), pool.map(coverage, *zip(*jobs))))
    report = {
        "command": f"python -m experiments.coverage.run --trees={options.trees}"
        f" --replicates={options.replicates} --seed={options.seed}",
        "replicates": options.replicates,
        "counts": COUNTS,
        "seconds": round(time.perf_counter() - start),
        "environment": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "cases": [
            {
                "case": dataclasses.asdict(case),
                "groups": {str(n): {"rows": packed(found[case, n])} for n in GROUPS},
            }
            for case in cases
        ],
        "means": {str(n): means(n, 10 * options.replicates, options.seed) for n in PROMPTS},
    }
    options.out.write_text(json.dumps(report, allow_nan=False) + "\n")
    page = options.out.with_name("README.md")
    if page.exists():
        text = page.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        page.write_text(before + BEGIN + tables(report) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

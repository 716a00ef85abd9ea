"""D1: "r_t corrects visitation", and which weight is unbiased for whose states."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.importance.shared import SHAPES, older, on_states
from experiments.claims.lab import Shape, lab, mean, problem, relative, rollout, vectors
from experiments.claims.search import search, simplify
from opd.measure import exact
from opd.measure.exact import Problem
from opd.method import facts, table

SMALLEST = Shape(vocab=2, depth=2, eos=None, student="constant")
STEPS = 40
DRIFT = 2.0  # of the behavior's parameters, in a random direction
AT_LEAST = 0.1  # relative error of a counterexample: no rounding, no matter of taste
KINDS = ("none", "token", "prefix", "prefix_inclusive", "trajectory")
ROWS = tuple(f"{row}@importance={kind}" for row in ("opd", "opd_sampled") for kind in KINDS)
SOURCE = "opd_sampled@importance=token"
PLAIN = "opd@importance=none"


def errors(here: Problem, behavior: Problem) -> dict[str, tuple[float, float]]:
    """Each row's relative error against the claim on the current and on the behavior's states."""
    targets = on_states(here, here), on_states(here, behavior)
    h = vectors(here, *ROWS, batch=rollout(here, behavior))
    found = {row: mean(here, h[row], behavior) for row in ROWS}
    errors = {row: tuple(relative(found[row], target) for target in targets) for row in ROWS}
    return errors | {"same": (relative(found[SOURCE], found[PLAIN]),) * 2}


def source(here: Problem, behavior: Problem) -> float:
    """The relative error of the library's sampled x r_t on current states."""
    h = vectors(here, SOURCE, batch=rollout(here, behavior))[SOURCE]
    return relative(mean(here, h, behavior), on_states(here, here))


def at(point: np.ndarray) -> tuple[Problem, Problem]:
    """Student and behavior: two numbers are logit gaps, three the teacher's at its states."""
    student, old, *teacher = point
    logp_teacher = exact.log_softmax(np.array([[x, 0.0] for x in teacher]))
    here, behavior = (problem(SMALLEST, np.array([x, 0.0]), logp_teacher) for x in (student, old))
    return here, behavior


def above(point: np.ndarray) -> float:
    """By the oracle: the relative error of sampled x r_t on current states, less AT_LEAST."""
    here, behavior = at(point)
    wanted = on_states(here, here)
    if np.linalg.norm(wanted) < 1e-2:
        return -np.inf  # a small gradient would make any error a large one
    ratio = np.exp(exact.at_actions(here.tree, here.logp - behavior.logp))
    found = mean(here, ratio[..., None] * exact.sampled(here).h, behavior)
    return relative(found, wanted) - AT_LEAST


def grid(found: list[dict[str, tuple[float, float]]]) -> str:
    """The least and the largest error over trees, by row, in Markdown."""
    lines = ["| row | error on current states | on the behavior's states |", "|---|---|---|"]
    for row in ROWS:
        both = np.array([one[row] for one in found])
        cells = (f"{low:.1e} to {high:.1e}" for low, high in zip(both.min(0), both.max(0)))
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(point: np.ndarray, error: float) -> str:
    """The smallest example as a table."""
    here, behavior = at(point)
    lines = ["| state | pi(0) | mu(0) | p(0) |", "|---|---|---|---|"]
    laws = zip(
        ("start", "0", "1"), here.probs[:, 0], behavior.probs[:, 0], np.exp(here.logp_teacher[:, 0])
    )
    lines += [f"| {name} | {pi:.3g} | {mu:.3g} | {p:.3g} |" for name, pi, mu, p in laws]
    return f"{SMALLEST}: `{SOURCE}` is {100 * error:.0f} % off.\n\n" + "\n".join(lines)


def measure(effort: Effort) -> Finding:
    """The grid on random trees; the smallest counterexample, read back from the library."""
    found = []
    for shape in SHAPES:
        for seed in effort.seeds:
            here = lab(shape, seed, inside=seed % 2 == 0)
            found.append(errors(here.problem, older(here, seed, DRIFT)))
    point = search(above, 5, effort.starts, STEPS, seed=0).point
    point = simplify(above, point)
    smallest = source(*at(point))
    right, wrong = [], []
    for one in found:
        for row in ROWS:
            states = facts.stale(table.parse(row))
            for error, name in zip(one[row], ("current", "behavior"), strict=True):
                (right if name == states else wrong).append(error)
    numbers = {
        "source": spread(
            "relative error of sampled x r_t on current states",
            [smallest, *(one[SOURCE][0] for one in found)],
        ),
        "right": worst("relative error where the grid says unbiased", right),
        "wrong": spread("relative error everywhere else in the grid", wrong),
        "same": worst(
            "relative error of E(sampled x r_t) against E(enumerated x 1)",
            [one["same"][0] for one in found],
        ),
    }
    where = "; ".join(map(str, (*SHAPES, SMALLEST))) + f"; behavior {DRIFT:g} away in parameters"
    example = shown(point, smallest) + "\n\n" + grid(found)
    return Finding(numbers, "source", where, effort.seeds, example)


def judge(numbers: Numbers) -> Judgement:
    """The source's identity; the repaired one needs both halves: unbiased there, and only there."""
    holds = max(numbers["right"].high, numbers["same"].high) <= rules.EXACT
    fails = max(numbers["right"].high, numbers["same"].high) > rules.CLEAR
    apart = rules.different(numbers["wrong"])
    repaired = rules.settle(holds and apart, fails)
    return Judgement(rules.identity(numbers["source"]), repaired=repaired)


CLAIM = Claim(
    "D1",
    "which weight is unbiased for what",
    "The token ratio r_t = pi(y_t|s_t) / mu(y_t|s_t) corrects the visitation: an older policy's "
    "rollouts then give the gradient on the current policy's states.",
    measure,
    judge,
    repaired="Sampled x r_t has the expectation of enumerated x 1, the behavior's states. For "
    "current states enumerated needs the prefix's ratio, and sampled the inclusive prefix's or "
    "the trajectory's; no other weight of the grid is right for either.",
    wrong="A bias that is only noise, or a library and oracle that share a weight: expectations "
    "are enumerated, targets are complex-step derivatives of the KL with d(s) of either policy, "
    "and the example is at least 10 % off with the library's own row. Teachers are of the "
    "student's family and not, students soft and sharp; with a ratio broken the grid falls.",
    advice="Read r_t as a correction of the action, and none at all where the vocabulary is summed "
    "over. Where the visitation matters use `importance=prefix` (enumerated) or "
    "`prefix_inclusive` (sampled), or refresh.",
)

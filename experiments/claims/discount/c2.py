"""C2: what gamma multiplies: a token's credit for its future, not a position's weight."""

from __future__ import annotations

import numpy as np

from experiments.claims import rules
from experiments.claims.claim import Claim, Effort, Finding, Judgement, Numbers, spread, worst
from experiments.claims.lab import Shape, lab, mean, relative, vectors
from opd.measure import exact
from opd.measure.exact import Problem

SHAPES = (Shape(depth=4, width=2), Shape(vocab=2, depth=4, eos=None, student="by_depth"))
GAMMAS = (0.0, 0.5, 1.0)
ROWS = tuple(f"{row}@gamma={gamma:g}" for row in ("opd", "opd_sampled") for gamma in GAMMAS)
STEP = 1e-30  # of a complex step


def objective_gradient(here: Problem, gamma: float) -> np.ndarray:
    """-grad E sum_t gamma^t KL_t [M], of the enumerated value, by complex steps."""
    tree, size = here.tree, here.logits.size
    steps = here.logits + 1j * STEP * np.eye(size).reshape(size, *here.logits.shape)
    costs = exact.divergence(exact.REVERSE, steps, here.logp_teacher)[:, tree.visited]
    paid = np.where(tree.mask, costs, 0.0) @ gamma ** np.arange(tree.mask.shape[1])
    joint = here.prompt_prob[tree.prompt] * exact.sequence_prob(tree, steps)
    slope = -(joint * paid).sum(-1).imag.reshape(here.logits.shape) / STEP
    return np.einsum("sv,svm->m", slope, here.jacobian)


def first_share(here: Problem, h: np.ndarray) -> float:
    """|E h_0| / |(E h_t)_t|: 1 where the first token alone is pushed."""
    sizes = np.linalg.norm(np.einsum("n,ntm->tm", here.joint, h), axis=-1)
    return float(sizes[0] / np.linalg.norm(sizes))


def measure(effort: Effort) -> Finding:
    """E of the rows at each gamma against both readings' gradients."""
    credit, apart, same, weighed, first = [], [], [], [], []
    for shape in SHAPES:
        for seed in effort.seeds:
            here = lab(shape, seed).problem
            h = vectors(here, *ROWS)
            for row in ROWS:
                gamma = float(row.split("=")[1])
                found, wanted = mean(here, h[row]), objective_gradient(here, gamma)
                discounted = exact.target_gradient(here, "discounted", gamma=gamma)
                credit.append(relative(found, discounted))
                (same if gamma == 1 else apart).append(relative(found, wanted))
                by_time = gamma ** np.arange(shape.depth)[:, None] * h[row]
                weighed.append(relative(mean(here, by_time), wanted))
            first.append(first_share(here, h["opd@gamma=0"]))
    numbers = {
        "apart": spread("relative difference of E row and the objective's gradient", apart),
        "same": worst("the same at gamma = 1", same),
        "credit": worst("relative error of E row against the credit field", credit),
        "weighed": worst("of the rows with position t weighed by gamma^t as well", weighed),
        "first": spread("share of the first position in the row at gamma = 0", first),
    }
    where = f"{'; '.join(map(str, SHAPES))}; opd and opd_sampled; gamma {GAMMAS}"
    return Finding(numbers, "apart", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Fails where a row leaves the objective's gradient at some gamma < 1."""
    apart = numbers["apart"]
    return Judgement(
        rules.settle(apart.high <= rules.EXACT, rules.different(apart)),
        repaired=rules.identity(numbers["credit"]),
    )


CLAIM = Claim(
    "C2",
    "what gamma multiplies",
    "gamma is the discount of the objective: the rows at gamma follow the gradient of "
    "E sum_t gamma^t KL_t.",
    measure,
    judge,
    repaired="gamma discounts credit: the token at t answers for gamma^(t'-t) of the KL at t', and "
    "no position weighs less than another.",
    wrong="A wrong gradient of the objective would differ as well: it agrees with the rows at "
    "gamma = 1, and with the rows at every gamma once position t is weighed by gamma^t. The "
    "objective's limit at gamma = 0 is the first token's KL alone.",
    advice="Read gamma as how far ahead a token is blamed. gamma = 0 trains every token; don't "
    "multiply by gamma^t, which would leave the late tokens untrained.",
)

"""A10: under 1/|y| sampled and enumerated gradients have different expectations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.algebra.shared import problems, where
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    spread,
    worst,
)
from experiments.claims.lab import Shape, coupled, group_mean, mean, relative, vectors
from opd.measure import exact
from opd.measure.exact import Problem
from opd.method import reduction

Array = np.ndarray
SHAPES = (Shape(), Shape(vocab=2, depth=4, eos=1, width=2))  # lengths differ
HOW = {
    "sum": "reduction=sum",
    "constant": "reduction=constant",
    "length": "reduction=sequence_mean",
    "cut": "cut=mask",
}
ROWS = {(row, how): f"{row}@{axis}" for row in ("opd", "opd_sampled") for how, axis in HOW.items()}
BATCHES = 2 ** np.arange(3, 11)
ORDER_SLACK = 0.1  # of a fitted order


def token_mean(here: Problem, h: Array, batch: int) -> Array:
    """E sum_i S_i / sum_i |y_i| of a batch, [M]: B E S / (|y| + the others' lengths), by their law.

    Enumerating batches would be V^(H B); the sum of B - 1 lengths is a convolution.
    """
    lengths = np.bincount(here.tree.length, here.joint)
    others = np.ones(1)
    for bit in np.binary_repr(batch - 1):
        others = np.convolve(others, others)
        others = np.convolve(others, lengths) if bit == "1" else others
    sums = np.arange(len(others))
    weight = (others / (here.tree.length[:, None] + sums)).sum(1)
    return batch * (here.joint * weight) @ h.sum(1)


def pairs(here: Problem, h: Array) -> Array:
    """The same of a batch of 2, by the library's reduction on every pair."""
    found = exact.groups(here, 2)
    mask = jnp.asarray(here.tree.mask[found.members])
    weight = np.asarray(jax.vmap(reduction.token_mean)(mask))
    total = np.zeros(here.tree.mask.shape)
    np.add.at(total, found.members, found.prob[:, None, None] * weight)
    return np.einsum("nt,ntm->m", total, h)


def of_batches(here: Problem, sampled: Array, enumerated: Array) -> Array:
    """Relative error [2, n] at BATCHES: the enumerated row's from its limit, sampled from it."""
    limit = here.joint @ enumerated.sum(1) / (here.joint @ here.tree.length)
    ours, theirs = (
        np.array([token_mean(here, h, size) for size in BATCHES]) for h in (enumerated, sampled)
    )
    gaps = ours - limit, theirs - ours
    return np.array([np.linalg.norm(gap, axis=1) for gap in gaps]) / np.linalg.norm(limit)


def draw(found: Array) -> Figure:
    """Errors [trees, 2, n] of the token mean against the batch."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    names = ("enumerated, from its limit", "sampled, from enumerated")
    for line, name in enumerate(names):
        axes.loglog(BATCHES, np.median(found[:, line], 0), "o-", label=f"{name} (median)")
    axes.loglog(BATCHES, BATCHES[0] * np.median(found[:, 0, 0]) / BATCHES, "k--", label="1 / B")
    axes.set_xlabel("rollouts in a batch, B")
    axes.set_ylabel("relative error under the token mean")
    axes.legend()
    return figure


def measure(effort: Effort) -> Finding:
    """Both rows under each normaliser; the token mean also by its order in the batch."""
    apart: dict[str, list[float]] = {how: [] for how in HOW}
    scale, two, orders = [], [], []
    for here in problems(effort, SHAPES):
        h = vectors(here, *ROWS.values())
        found = {key: mean(here, h[name]) for key, name in ROWS.items()}
        for how in HOW:
            apart[how].append(relative(found["opd_sampled", how], found["opd", how]))
        depth = here.tree.mask.shape[1]
        scale += [
            relative(depth * found[row, "constant"], exact.target_gradient(here, "myopic"))
            for row in ("opd", "opd_sampled")
        ]
        sampled, enumerated = (h[ROWS[row, "sum"]] for row in ("opd_sampled", "opd"))
        (group,) = coupled(here, "opd_sampled@reduction=token_mean").values()
        two.append(relative(group_mean(here, group), token_mean(here, sampled, 2)))
        two.append(relative(pairs(here, enumerated), token_mean(here, enumerated, 2)))
        orders.append(of_batches(here, sampled, enumerated))
    lines = np.array(orders)
    numbers = {
        "length": spread("relative difference of sampled and enumerated, 1/|y|", apart["length"]),
        "cut": spread("the same where rollouts that were cut are masked", apart["cut"]),
        "constant": worst("the same, sum and constant", apart["sum"] + apart["constant"] + scale),
        "bias": estimated(
            "order in B of the token mean's bias", fits.exponent(BATCHES, lines[:, 0])
        ),
        "order": estimated(
            "order in B of sampled minus enumerated, token mean",
            fits.exponent(BATCHES, lines[:, 1]),
        ),
        "two": worst("relative error of the library's token mean at B = 2", two),
    }
    sizes = f"{where(*SHAPES)}; B {BATCHES[0]} to {BATCHES[-1]}"
    return Finding(numbers, "length", sizes, effort.seeds, figure=draw(lines))


def judge(numbers: Numbers) -> Judgement:
    """Fails where 1/|y| parts the two on every tree."""
    errors = max(numbers["constant"].high, numbers["two"].high)
    orders = [rules.near(numbers[name], -1, ORDER_SLACK) for name in ("bias", "order")]
    return Judgement(
        rules.settle(
            numbers["length"].high <= rules.EXACT, rules.above(numbers["length"], rules.CLEAR)
        ),
        repaired=rules.settle(errors <= rules.EXACT and all(orders), errors > rules.CLEAR),
    )


CLAIM = Claim(
    "A10",
    "length normalisation and masking",
    "How the tokens' terms are averaged is a matter of scale: sampled and enumerated gradients "
    "keep one expectation.",
    measure,
    judge,
    repaired="Under a constant they agree exactly; under the mean over a batch's tokens they "
    "differ by O(1/B), as both do from their limit; under 1/|y| they differ at any batch size.",
    wrong="Trees whose rollouts have one length: there all normalisers are one constant, so the "
    "trees end early. The token mean of large batches is not enumerated but convolved; at B = 2 "
    "it is the library's on every pair.",
    advice="Divide by a constant. 1/|y| and the masking of cut rollouts hold the token's own "
    "future, which the token has a hand in: sampled and enumerated rows then go different ways.",
)

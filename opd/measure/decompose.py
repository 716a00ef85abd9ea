"""The variance, SNR and bias of gradients that someone has at hand, with 95 % intervals.

`intervals` works on inner products, because a model's gradients are too many to keep. Whoever has
arrays gets the same figures from here, with every inner product exact.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from opd.measure import intervals
from opd.measure.intervals import Interval, Moments, RowSpec

Array = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """Figures of one estimator; each an Interval(value, low, high) or None where it can't be said.

    Squares of gradients are in the gradients' own unit, squared.
    """

    total: Interval  # an update's variance times its rollouts: of one rollout's gradient
    across: Interval | None  # of the partner's; None without one, as are the next two
    within: Interval | None  # of what is drawn besides
    cross: Interval | None  # twice their covariance; the three add up to total
    snr: Interval | None  # |mean|^2 / total, of one rollout
    mean_square: Interval  # |mean|^2, unbiased, so that it may come out negative
    # |mean - reference's| / |reference's|, signed by its square; an end is infinite where the
    # reference can't be told from zero
    relative_error: Interval | None
    cosine: Interval | None  # of the two means
    trusted: bool  # whether there are enough groups to trust the intervals
    trusted_from: int  # from how many on, for a row of its kind; no matter of the sample
    effective_groups: float  # how many groups make up total (or within)
    heavy_tail: bool  # whether those are less than a tenth of the groups: a sign, no proof


def decompose(
    gradients: ArrayLike,
    partner: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    group_size: int = 1,
    sums: bool = True,
) -> Decomposition:
    """What a sample of an estimator's gradients says of it: variance and its parts, SNR and bias.

        total = tr Var(Y) = tr Var(P) + tr Var(Y - P) + 2 tr Cov(Y - P, P)
                            across      within          cross

    for one rollout Y and its partner P. Of groups' means, which may share a prompt, each of these
    is the group's times G. `intervals.estimate` has the estimates and the intervals. A bias shows
    where `relative_error` leaves 0 out. Memory is 8 N M bytes for each of the arrays.

    Args:
        gradients: [N, M], of N independent rollouts or of the means of N independent groups; or
            [N, G, M], of the G rollouts of each of N groups.
        partner: the same shape, the same rollouts' E[gradient | states], the sum over actions in
            closed form.
        reference: the same shape, an estimator on the same rollouts whose mean this one should
            have; or [M], that mean itself.
        group_size: G, rollouts behind each of [N, M].
        sums: whether an estimator's weights add up grades over what comes after, or multiply ratios
            over tokens: its tail is heavier, and its intervals are trusted from more groups on.

    Returns:
        Decomposition.

    Raises:
        ValueError: shapes that don't go together, fewer than 3 groups, a number that isn't finite.

    >>> import numpy as np
    >>> import opd
    >>> sample = np.random.default_rng(0).normal(1.0, 2.0, (500, 4))
    >>> found = opd.decompose(sample, reference=np.ones(4))
    >>> found.total.low < 16 < found.total.high  # 4 numbers of variance 4
    True
    >>> found.relative_error.low < 0 < found.relative_error.high, found.across is None
    (True, True)
    """
    sample = np.asarray(gradients, np.float64)
    if sample.ndim not in (2, 3):
        raise ValueError(f"gradients have shape {sample.shape}: [N, M] or [N, G, M] is allowed")
    if group_size < 1 or (sample.ndim == 3 and group_size != 1):
        given = f"group_size is {group_size} of gradients {sample.shape}"
        raise ValueError(
            f"{given}: at least 1 is allowed, and none of [N, G, M], which has its own"
        )
    size = group_size if sample.ndim == 2 else sample.shape[1]
    columns = [_means(sample)]
    places: dict[str, int | None] = {"partner": None, "reference": None}
    for name, given in (("partner", partner), ("reference", reference)):
        if given is None:
            continue
        other = np.asarray(given, np.float64)
        if name == "reference" and other.shape == sample.shape[-1:]:
            other = np.broadcast_to(other, columns[0].shape)
        elif other.shape != sample.shape:
            known = " or [M]" if name == "reference" else ""
            raise ValueError(f"{name} has shape {other.shape}: {sample.shape}{known} is allowed")
        else:
            other = _means(other)
        places[name] = len(columns)
        columns.append(other)
    (figures,) = intervals.estimate(
        _moments(np.stack(columns, 1), size), [RowSpec(0, **places, sums=sums)]
    )
    return Decomposition(**figures)


def _means(sample: Array) -> Array:
    """Each group's mean gradient, [N, M]."""
    return sample if sample.ndim == 2 else sample.mean(1)


def _moments(columns: Array, group_size: int) -> Moments:
    """Moments of columns [N, K, M]; in the place of a sketch the columns themselves."""
    total = columns.sum(0)
    gram = columns @ columns.swapaxes(1, 2)
    return Moments(gram, total @ total.T, columns, group_size)

"""Which tokens and which rollouts count how much: detached weights that a term is multiplied by.

A token's weight g(s_t, y_t) [B, T] is of its position, of what the vocabulary says at its state, or
of the rollout; a gate [B] is of the rewards of its group. All of them leave the goal that a term
has without them, and say how.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp

from opd import masked
from opd.masked import zero
from opd.types import Array, TokenStats

# --- tokens --------------------------------------------------------------------------------------


def prefix(mask: Array, part: float) -> Array:
    """1 at the first `part` of the T positions (Zhang et al. 2026, prefix OPD)."""
    reached = jnp.arange(mask.shape[1]) < part * mask.shape[1]
    return jnp.broadcast_to(reached[None], mask.shape).astype(float)


def entropy_teacher(stats: TokenStats, mask: Array, threshold: float) -> Array:
    """1 where H(p) is above `threshold` nats (Jin et al. 2026, entropy-aware OPD)."""
    return _float(stats.entropy_teacher > threshold, stats)


def entropy_student(stats: TokenStats, mask: Array, part: float) -> Array:
    """1 at the `part` of the batch's graded tokens with the largest H(pi) (Wang et al. 2025)."""
    chosen = jnp.ceil(part * jnp.sum(mask)).astype(int)
    order = jnp.argsort(jnp.where(mask, -stats.entropy_student, jnp.inf).ravel())
    rank = jnp.zeros(mask.size, int).at[order].set(jnp.arange(mask.size))
    return _float((rank < chosen).reshape(mask.shape), stats)


def agreement(stats: TokenStats, mask: Array, boost: float) -> Array:
    """1 + boost (1 - sum_{k < t} |a_k| / sum_{k < n} |a_k|), a = log p - log pi, n the last token.

    From 1 + boost at the first token to 1 at the last: less, the farther teacher and student have
    come apart on the way (Xie et al. 2026, IW-OPD, section 4).
    """
    apart = zero(jnp.abs(stats.logp_teacher - stats.logp_student), mask)
    before = jnp.cumsum(apart, 1) - apart
    last = mask & (masked.remaining(mask) == 1)
    whole = jnp.sum(zero(before, last), 1, keepdims=True)
    return 1 + boost * (1 - before / jnp.where(whole > 0, whole, 1))


def bounded_ratio(stats: TokenStats, mask: Array, most: float) -> Array:
    """min(1, most / |log p - log pi|): the log-ratio clamped to [-most, most]."""
    apart = jnp.abs(stats.logp_teacher - stats.logp_student)
    return jnp.minimum(1, most / jnp.maximum(apart, most))


def head(stats: TokenStats, mask: Array) -> Array:
    """How much of |p - pi| lies at the teacher's likeliest tokens (Wu et al. 2025, AKL, eq. 11)."""
    return stats.asked["head_share"]


def tail(stats: TokenStats, mask: Array) -> Array:
    """And how much at all others."""
    return 1 - stats.asked["head_share"]


@dataclasses.dataclass(frozen=True)
class Weighing:
    """A token's weight: f(mask, numbers) of positions, f(stats, mask, numbers) else; [B, T].

    `holds` says what of: `position`, `state`, `token` (the state and the rollout's own token),
    `rollout` or `batch`. `usual` has its numbers by name, each an axis. `teacher` says that it asks
    one: its log-probability of the `token`, or the `full` distribution. `asks` names a statistic
    of `local.STATISTICS` that it is made of.
    """

    value: Callable[..., Array]
    holds: str
    says: str  # how it moves the expectation
    usual: Mapping[str, float] = dataclasses.field(default_factory=dict)
    teacher: str | None = None
    asks: str | None = None

    @property
    def of(self) -> str | None:
        """Which other rollouts it holds."""
        return "batch" if self.holds == "batch" else None


WEIGHINGS: dict[str, Weighing] = {
    "prefix": Weighing(prefix, "position", "leaves out later tokens", {"part": 0.3}),
    "entropy_teacher": Weighing(
        entropy_teacher,
        "state",
        "leaves out states where the teacher is sure",
        {"threshold": 0.8},
        "full",
    ),
    "entropy_student": Weighing(
        entropy_student, "batch", "leaves out states where the student is sure", {"part": 0.2}
    ),
    "agreement": Weighing(
        agreement,
        "rollout",
        "weighs tokens by how far teacher and student have come apart",
        {"boost": 0.5},
        "token",
    ),
    "bounded_ratio": Weighing(
        bounded_ratio, "token", "bounds the log-ratio to the teacher", {"most": 1.0}, "token"
    ),
    "head": Weighing(
        head, "state", "weighs states by the head's share of |p - pi|", {}, "full", "head_share"
    ),
    "tail": Weighing(
        tail, "state", "weighs states by the tail's share of |p - pi|", {}, "full", "head_share"
    ),
}
# Every weighing's numbers, by name: the usual one of each weighing that has it.
NUMBERS: dict[str, dict[str, float]] = {
    name: {kind: known.usual[name] for kind, known in WEIGHINGS.items() if name in known.usual}
    for name in ("part", "threshold", "boost", "most")
}


def of_positions(mask: Array, kind: str, **numbers: float | None) -> Array | float:
    """A weight that is known before any forward pass, [B, T]; 1 of another kind."""
    if kind not in WEIGHINGS or WEIGHINGS[kind].holds != "position":
        return 1.0
    chex.assert_rank(mask, 2)
    return WEIGHINGS[kind].value(mask, **_own(kind, numbers))


def of_statistics(
    stats: TokenStats, mask: Array, kind: str, **numbers: float | None
) -> Array | float:
    """A weight that is made of statistics, [B, T]; 1 of another kind."""
    if not of_state(kind):
        return 1.0
    chex.assert_rank(mask, 2)
    chex.assert_equal_shape((mask, stats.logp_student))
    return WEIGHINGS[kind].value(stats, mask, **_own(kind, numbers))


def of_state(kind: str) -> bool:
    """Whether a weight is made of statistics."""
    return kind in WEIGHINGS and WEIGHINGS[kind].holds != "position"


def _own(kind: str, numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: numbers[name] for name in WEIGHINGS[kind].usual}


def _float(chosen: Array, stats: TokenStats) -> Array:
    return chosen.astype(stats.logp_student.dtype)


# --- rollouts ------------------------------------------------------------------------------------


def of_outcome(reward: Array, group: Array, kind: str, passing: float | None) -> Array | float:
    """A gate's weight of a rollout, [B, 1]; 1 of another kind.

    Args:
        reward: [B].
        group: [B] prompt groups.
        kind: one of GATES.
        passing: from which reward on a rollout is a success.
    """
    if kind not in GATES:
        return 1.0
    chex.assert_rank((reward, group), 1)
    success = (reward >= passing).astype(float)
    return GATES[kind].value(success, group)[:, None]


def _mean(values: Array, group: Array) -> Array:
    """The mean over each row's own group, [B]."""

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, group, num_segments=group.shape[0])[group]

    return total(values) / total(jnp.ones_like(values))


def right(success: Array, group: Array) -> Array:
    """1 where a rollout is a success."""
    return success


def wrong(success: Array, group: Array) -> Array:
    """1 where it isn't."""
    return 1 - success


def failed(success: Array, group: Array) -> Array:
    """1 in groups without a success."""
    return (_mean(success, group) == 0).astype(success.dtype)


def mixed(success: Array, group: Array) -> Array:
    """1 in groups with a success and a failure."""
    rate = _mean(success, group)
    return ((rate > 0) & (rate < 1)).astype(success.dtype)


def failure_rate(success: Array, group: Array) -> Array:
    """The share of the group that failed."""
    return 1 - _mean(success, group)


@dataclasses.dataclass(frozen=True)
class Gate:
    """A rollout's weight by outcome, f(success [B], group [B]) -> [B]; a success is 1, else 0.

    `of` says whose outcomes: None, or the `group`'s.
    """

    value: Callable[[Array, Array], Array]
    of: str | None = None


GATES: dict[str, Gate] = {
    "right": Gate(right),
    "wrong": Gate(wrong),
    "failed": Gate(failed, "group"),
    "mixed": Gate(mixed, "group"),
    "failure_rate": Gate(failure_rate, "group"),
}

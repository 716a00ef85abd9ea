"""What an update says of its batch: one table, a line a metric.

Adding a metric is one entry of METRICS: what it is of a `Batch`, its unit, and what it says. It is
then in every update's record that has what it is made of. How parts of a batch are joined follows
from its type (Mean, Sum or Max).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp

from opd import masked, trees
from opd.masked import zero
from opd.method import importance
from opd.method.coefficients import Weights, bounded, losses
from opd.method.table import Method
from opd.types import Array, Max, Mean, Metrics, Params, Rollout, Sum, TokenStats

# ------------------------------------------------------------------------- what they are taken of


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """What metrics are taken of: a rollout and its statistics, and an update on it if there was.

    `kind` names the log-ratio whose weights `weight_max` and `ess_rule` are of.
    """

    rollout: Rollout
    stats: TokenStats
    kind: str = "trajectory"
    method: Method | None = None
    weights: Weights | None = None  # the method's
    gradient: Params | None = None
    critic_gradient: Params | None = None
    unchanged: Mean | None = None  # of the optimizer's step

    def per_token(self, values: Array) -> Mean:
        """Mean of values [B, T] over the graded tokens."""
        return Mean(jnp.sum(zero(values, self.rollout.mask)), jnp.sum(self.rollout.mask))

    def per_rollout(self, total: Array) -> Mean:
        """A total of the batch as a mean over its B rollouts."""
        rows = self.rollout.mask.shape[0]
        return Mean(total, jnp.asarray(rows, self.stats.logp_student.dtype))

    def ratio(self, kind: str) -> Array:
        """Log-ratios of policy and behavior [B, T], of the rows whose log-probability is known."""
        logp, mask = self.stats.logp_student, measurable(self.rollout)
        return importance.log_ratio(logp, self.rollout.logp_behavior, mask, kind)

    def of_ratios(self, value: Array) -> Array:
        """The figure, or NaN where no row's ratio is known."""
        return value + self._none

    @functools.cached_property
    def _none(self) -> Array:
        # Once for all figures: of a batch that lies on a mesh it is a collective.
        return jnp.where(jnp.any(measurable(self.rollout)), 0.0, jnp.nan)

    @functools.cached_property
    def length(self) -> Array:
        """Graded tokens of each rollout, [B]."""
        return jnp.sum(self.rollout.mask, 1)

    @functools.cached_property
    def kl(self) -> Array | None:
        """KL(pi || p) at graded tokens, 0 elsewhere, [B, T]."""
        return None if self.stats.kl is None else zero(self.stats.kl, self.rollout.mask)

    @functools.cached_property
    def losses(self) -> dict[str, Array]:
        """What the method descends, by signal; nothing without a method."""
        if self.method is None:
            return {}
        return losses(self.method, self.weights, self.stats, self.rollout.group)


def measurable(rollout: Rollout) -> Array:
    """The graded tokens whose behavior's log-probabilities are known, [B, T]."""
    return rollout.mask & ~jnp.isnan(rollout.logp_behavior)


def whole(value: Array) -> Mean:
    """A figure of the whole batch: parts of one have no such thing to join."""
    return Mean(value, jnp.ones(()))


# --------------------------------------------------------------------------------------- the table


@dataclasses.dataclass(frozen=True)
class Metric:
    """A line of the table. `of` gives None where a batch lacks what the metric is made of.

    What it gives by name is as many metrics: `loss_reward` and `loss_teacher` of `loss`.
    """

    of: Callable[[Batch], Mean | Sum | Max | dict[str, Mean] | None]
    unit: str
    says: str


def _ess(batch: Batch, kind: str) -> Mean:
    return whole(batch.of_ratios(ess(batch.rollout, batch.stats.logp_student, kind)))


def _weight_max(batch: Batch) -> Max:
    ratio = jnp.where(measurable(batch.rollout), batch.ratio(batch.kind), -jnp.inf)
    return Max(batch.of_ratios(importance.saturating_exp(jnp.max(ratio))))


def _entropy_teacher(batch: Batch) -> Mean | None:
    entropy = batch.stats.entropy_teacher
    return None if entropy is None else batch.per_token(entropy)


def _kl_by_position(batch: Batch) -> Mean | None:
    if batch.kl is None:
        return None
    return Mean(jnp.sum(batch.kl, 0), jnp.sum(batch.rollout.mask, 0))


def _kl_by_teacher(batch: Batch) -> Mean | None:
    taught = batch.rollout.taught
    if batch.kl is None or taught is None:
        return None
    return Mean(*(_by_teacher(value, taught) for value in (jnp.sum(batch.kl, 1), batch.length)))


def _by_teacher(value: Array, taught: Array) -> Array:
    """Totals [K] of what each rollout has, [B], over those that each teacher grades."""
    return jnp.sum(zero(value[:, None], taught), 0)


def _tokens_by_teacher(batch: Batch) -> Sum | None:
    taught = batch.rollout.taught
    return None if taught is None else Sum(_by_teacher(batch.length, taught))


def _reward(batch: Batch) -> Mean | None:
    reward = batch.rollout.reward
    return None if reward is None else batch.per_rollout(jnp.sum(reward))


def _reward_range(batch: Batch) -> Mean | None:
    reward = batch.rollout.reward
    return None if reward is None else whole(jnp.max(reward) - jnp.min(reward))


def _clip_fraction(batch: Batch) -> Mean | None:
    if batch.method is None:
        return None
    rollout = batch.rollout
    clipped = bounded(batch.method, batch.weights, batch.stats, rollout.group)
    return None if clipped is None else Mean(jnp.sum(clipped & rollout.mask), jnp.sum(rollout.mask))


def _norm(gradient: Params | None) -> Mean | None:
    return None if gradient is None else whole(trees.norm(gradient))


METRICS: dict[str, Metric] = {
    "tokens": Metric(
        lambda b: Sum(jnp.sum(b.length)),
        "tokens", "graded tokens of the batch",
    ),
    "length": Metric(
        lambda b: b.per_rollout(jnp.sum(b.length)),
        "tokens", "graded tokens of a rollout, on average",
    ),
    "length_max": Metric(
        lambda b: Max(jnp.max(b.length)),
        "tokens", "graded tokens of the longest rollout",
    ),
    "truncated": Metric(
        lambda b: b.per_rollout(jnp.sum(~b.rollout.ended)),
        "share of rollouts", "cut at the most tokens, before an EOS",
    ),
    "reward": Metric(
        _reward,
        "reward", "terminal reward of a rollout, on average",
    ),
    "reward_range": Metric(
        _reward_range,
        "reward", "the best rollout's less the worst's",
    ),
    "entropy_student": Metric(
        lambda b: b.per_token(b.stats.entropy_student),
        "nats per token", "entropy of the student at the rollouts' states",
    ),
    "entropy_teacher": Metric(
        _entropy_teacher,
        "nats per token", "entropy of the teacher at the rollouts' states",
    ),
    "kl": Metric(
        lambda b: None if b.kl is None else b.per_rollout(jnp.sum(b.kl)),
        "nats per rollout", "KL(student || teacher), enumerated at every state and summed",
    ),
    "kl_by_position": Metric(
        _kl_by_position,
        "nats per token", "the same at each position t, over the rollouts that reach it",
    ),
    "kl_by_teacher": Metric(
        _kl_by_teacher,
        "nats per token", "the same of each of several teachers, over its own rollouts",
    ),
    "tokens_by_teacher": Metric(
        _tokens_by_teacher,
        "tokens", "that each of several teachers graded",
    ),
    "ess_token": Metric(
        lambda b: _ess(b, "token"),
        "share of tokens", "ESS / N of the ratios of student and behavior, a token's each",
    ),
    "ess_trajectory": Metric(
        lambda b: _ess(b, "trajectory"),
        "share of rollouts", "ESS / N of the ratios of student and behavior, a rollout's each",
    ),
    "ess_rule": Metric(
        lambda b: _ess(b, b.kind),
        "share", "ESS / N of the ratios of the kind that the method uses (`ess_of`)",
    ),
    "weight_max": Metric(
        _weight_max,
        "ratio", "the largest ratio of that kind",
    ),
    "log_ratio_max": Metric(
        lambda b: Max(b.of_ratios(jnp.max(jnp.abs(b.ratio("token"))))),
        "nats", "the largest |log pi - log mu| of a token",
    ),
    "drift": Metric(
        lambda b: whole(b.of_ratios(drift(b.rollout, b.stats.logp_student))),
        "nats per rollout", "KL(behavior || student), from the tokens drawn",
    ),
    "clip_fraction": Metric(
        _clip_fraction,
        "share of tokens", "whose ratio a bound has changed",
    ),
    "loss": Metric(
        lambda b: {signal: whole(loss) for signal, loss in b.losses.items()},
        "the signal's", "what the terms of each signal descend, coefficients in; `loss_value`: "
        "half the critic's squared error",
    ),
    "gradient_norm": Metric(
        lambda b: _norm(b.gradient),
        "objective per parameter", "Euclidean norm of the gradient, before the optimizer",
    ),
    "critic_gradient_norm": Metric(
        lambda b: _norm(b.critic_gradient),
        "loss per parameter", "the same of the critic's",
    ),
    "unchanged": Metric(
        lambda b: b.unchanged,
        "share of an update", "of sum |u|, where a parameter is as it was: rounded away",
    ),
}  # fmt: skip


def metrics_of(batch: Batch) -> Metrics:
    """Every metric of the table that the batch has what it takes for."""
    metrics: Metrics = {}
    for name, metric in METRICS.items():
        value = metric.of(batch)
        if isinstance(value, dict):
            metrics |= {f"{name}_{part}": each for part, each in value.items()}
        elif value is not None:
            metrics[name] = value
    return metrics


# ------------------------------------------------------------------------------------- staleness


def ess(rollout: Rollout, logp: Array, kind: str) -> Array:
    """ESS / N of the ratios of log-probabilities [B, T] and the behavior's; NaN of none known."""
    mask = measurable(rollout)
    ratio = importance.log_ratio(logp, rollout.logp_behavior, mask, kind)
    return importance.effective_sample_size(ratio, importance.counted(mask, kind))


def drift(rollout: Rollout, logp: Array) -> Array:
    """sum_t log mu / pi (y_t) of log-probabilities [B, T], over the rollouts that are known."""
    mask = measurable(rollout)
    ratio = importance.log_ratio(logp, rollout.logp_behavior, mask, "token")
    return masked.mean(-jnp.sum(ratio, 1), mask[:, 0])


def staleness(rollout: Rollout, logp: Array, kind: str) -> dict[str, Array]:
    """`ess_rule` and the sampled `drift` of log-probabilities [B, T] against the behavior's."""
    return {"ess_rule": ess(rollout, logp, kind), "drift": drift(rollout, logp)}

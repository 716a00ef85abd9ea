"""The probe: K estimators side by side on identical rollouts, and what each of them costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opd import draws, processes
from opd.data import pipeline
from opd.engine import estimator, programs, steps
from opd.fields import setting
from opd.masked import zero
from opd.measure import intervals
from opd.measure.intervals import Interval, Moments, RowSpec
from opd.method import facts, importance, table
from opd.method.table import Method
from opd.report import alike
from opd.run import drawing
from opd.run.drawing import Player, World
from opd.run.probe import branches
from opd.run.probe.branches import Plan
from opd.run.probe.price import Price
from opd.run.store import progress
from opd.types import Rollout, TokenStats

# Steps of a probe's keys: far from training's, which count from 0.
PROBE_STEP = 2**30
# Rollouts of an update at which a choice is predicted, beside the config's own.
BATCHES = tuple(4**power for power in range(9))


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Which rows are measured side by side, and on how many rollouts."""

    rows: tuple[str, ...] = ("opd", "opd_sampled")
    # Prompt groups, the units of independence; an interval of fewer than 4 says nothing.
    groups: int = setting(128, at_least=4)
    batch: int = setting(64, at_least=1)  # groups rolled out together
    sketch: int = setting(2048, at_least=1)  # interval widths are then right to 0.2 %
    # Interleaved timings: of 5 the extremes are an interval of 93.75 %, of fewer nothing near.
    repeats: int = setting(5, at_least=5)
    # Fresh continuations at each state, for rows that hold the future.
    branches: int = setting(0, at_least=0)
    # Updates between two probes of a training's own rollouts; 0: none.
    every: int = setting(0, at_least=0)

    def check(self, path: str) -> None:
        """Refuses rows that aren't any, and numbers that don't fit each other.

        Raises:
            ValueError: one line.
        """
        if self.groups % self.batch:
            raise ValueError(
                f"{path}.groups = {self.groups}: allowed is a multiple of {path}.batch = "
                f"{self.batch}"
            )
        if self.branches == 1:
            raise ValueError(f"{path}.branches = 1: allowed is 0, or 2 and more")
        methods_of(f"{path}.rows", self.rows)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The rows to measure, with the partners and references that they are compared with.

        Each once: by its name, which says its terms and whose rollouts it takes.
        """
        methods: dict[str, Method] = {}
        for method in map(table.parse, self.rows):
            for needed in (facts.reference(method), facts.partner(method), method):
                if needed is not None:
                    methods.setdefault(needed.name, needed)
        return tuple(methods.values())


def methods_of(path: str, names: tuple[str, ...]) -> tuple[Method, ...]:
    """The methods that a key names, one at least.

    Raises:
        ValueError: there is none, or one is unknown or can't be.
    """
    if not names:
        raise ValueError(f"{path} = (): allowed is one method or more")
    try:
        return tuple(map(table.parse, names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What a probe leaves on the host: moments, and the rollouts with their statistics."""

    moments: Moments  # of `methods` in the basis of the gradients themselves, then `plan`'s
    methods: tuple[Method, ...]
    rollouts: tuple[Rollout, ...]
    stats: tuple[TokenStats, ...]
    plan: Plan
    squares: np.ndarray  # [N, K], a rollout's sum_t |dJ/dlogits_t|^2, mean over each group


def measure(
    world: World,
    student: Player,
    teacher: Player,
    config: ProbeConfig,
) -> Measured:
    """Run the probe: for each batch one rollout, one teacher forward, and K pull-backs a group."""
    batches = pipeline.prompts(world.task, "train", world.seed, config.batch)
    count = config.groups // config.batch

    def drawn(advance: progress.Advance) -> Iterator[Batch]:
        for number in range(count):
            step, batch = PROBE_STEP + number, batches[number]
            rollout = drawing.draw(world, student, batch, step, world.seed, world.group_size)
            yield Batch(step, rollout, batch["answers"])
            advance()

    plan = branches.plan(config.methods, config.branches)
    with progress.progress("probe", count) as advance:
        return _measure(world, student, teacher, plan, config.sketch, world.seed, drawn(advance))


def follow(
    world: World,
    student: Player,
    teacher: Player,
    rollout: Rollout,
    step: int,
    seed: int,
    config: ProbeConfig,
) -> list[dict[str, Any]]:
    """The probe on one batch of rollouts that the policy has just drawn: a line a row.

    Without costs, and without branches. So few groups are seldom enough to trust an interval.
    """
    plan = branches.plan(config.methods, 0)
    batch = Batch(step, rollout, [])
    measured = _measure(world, student, teacher, plan, config.sketch, seed, [batch])
    tokens, _ = processes.on_host(rollout).digests()
    return [{"rollouts_digest": tokens} | entry for entry in entries(measured, name="training")]


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """A part of a probe's rollouts, and the step whose keys its candidates are drawn with."""

    step: int
    rollout: Rollout
    answers: list[str]


def _measure(
    world: World,
    student: Player,
    teacher: Player,
    plan: Plan,
    sketch_width: int,
    seed: int,
    batches: Iterable[Batch],
) -> Measured:
    methods, columns = plan.methods, plan.columns
    scoring = estimator.asking(world.scoring, methods)
    total = programs.no_moments(world.mesh, *student, len(columns))
    grams, sketches, squares, rollouts, scored = [], [], [], [], []
    for batch in batches:
        rollout = batch.rollout
        head = drawing.head(world, teacher, rollout)
        stats = programs.score(world.mesh, *student, rollout, head, scoring)
        coefficients = programs.coefficients_of(methods, rollout, stats)
        if plan.branched:
            extend = branches.continuing(world, student, teacher, plan, batch.answers)
            key = draws.key(seed, batch.step, "branch")
            together = branches.rows_together(world.scoring.chunk, student.model.vocab)
            coefficients += branches.coefficients(
                plan, rollout, coefficients, key, world.group_size, extend, together
            )
        uniforms = estimator.fresh_uniforms(seed, batch.step, rollout, methods)
        total, gram, sketch, square = programs.probe(
            world.mesh, *student, rollout, head, columns, coefficients, uniforms, total,
            world.scoring, world.group_size, sketch_width,
        )  # fmt: skip
        gram, sketch, square, rollout, stats = processes.on_host(
            (gram, sketch, square, rollout, stats)
        )
        grams.append(np.asarray(gram, np.float64))
        sketches.append(np.asarray(sketch, np.float64))
        squares.append(np.asarray(square, np.float64)[:, : len(methods)])
        rollouts.append(rollout)
        scored.append(stats)
    sums = np.asarray(processes.on_host(programs.gram(total)), np.float64)
    moments = as_gradients(
        np.concatenate(grams), sums, np.concatenate(sketches), plan, world.group_size
    )
    kept = tuple(rollouts), tuple(scored)
    return Measured(moments, methods, *kept, plan, np.concatenate(squares))


def as_gradients(
    gram: np.ndarray, sums: np.ndarray, sketch: np.ndarray, plan: Plan, group_size: int
) -> Moments:
    """From a plan's columns, kept relative to a reference, to its basis, in float64."""
    absolute = np.eye(len(plan.columns))
    for row, column in enumerate(steps.differences(plan.columns)):
        if column >= 0:
            absolute[row, column] = 1.0
    basis = plan.basis @ absolute
    return Moments(
        gram=basis @ gram @ basis.T,
        total_gram=basis @ sums @ basis.T,
        sketch=basis @ sketch,
        group_size=group_size,
    )


def entries(
    measured: Measured, prices: Mapping[str, Price] | None = None, name: str = "start"
) -> list[dict[str, Any]]:
    """One entry of results.json for each row of the probe; without costs where none are given."""
    names = [method.name for method in measured.methods]
    parts = measured.plan.parts
    specs = [_spec(method, names, parts.get(method.name)) for method in measured.methods]
    rows = []
    for method, figures in zip(
        measured.methods, intervals.estimate(measured.moments, specs), strict=True
    ):
        row = _entry(method, figures, name, measured)
        if prices is not None:
            price, snr = prices[method.name], figures["snr"]
            row |= {
                "snr_per_second": None if snr is None else _quotient(snr, price.seconds),
                "seconds": price.seconds,
                "flops": price.flops,
                "bytes": price.bytes,
            }
        rows.append(row)
    return rows


def choices(
    measured: Measured, prices: Mapping[str, Price], batch: int, name: str = "start"
) -> list[dict[str, Any]]:
    """The unbiased rows of each goal in pairs, on the probe's rollouts: entries of results.json.

    Goals of one row have no pairs and no entry. The intervals of each of the ratios hold together
    over the pairs of the goal. `batch`: rollouts of an update, for which, and for more and fewer,
    it is predicted how many a row would need.
    """
    goals: dict[facts.Goal, list[int]] = {}
    for column, method in enumerate(measured.methods):
        if facts.bias(method) is None:
            goals.setdefault(facts.goal(method), []).append(column)
    return [
        _choice(measured, prices, batch, name, goal, columns)
        for goal, columns in goals.items()
        if len(columns) > 1
    ]


def _choice(
    measured: Measured,
    prices: Mapping[str, Price],
    batch: int,
    name: str,
    goal: facts.Goal,
    columns: list[int],
) -> dict[str, Any]:
    names = [measured.methods[column].name for column in columns]
    seconds = [prices[row].repeats for row in names]
    batches = sorted({batch, *BATCHES})
    pairs = intervals.compare(measured.moments, columns, seconds, batches=batches)
    return {
        "probe": name,
        "goal": dataclasses.asdict(goal),
        "level": intervals.LEVEL,
        "count": len(pairs),
        "batch": batch,
        "batches": batches,
        "untrusted": [] if intervals.comparable(measured.moments) else names,
        "pairs": [
            {
                "rows": [names[pair.first], names[pair.second]],
                "snr_ratio": pair.snr,
                "snr_per_second_ratio": pair.snr_per_second,
                "rollouts_ratio": pair.rollouts,
            }
            for pair in pairs
        ],
    }


def _spec(method: Method, names: list[str], parts: intervals.Branches | None) -> RowSpec:
    partner, reference = facts.partner(method), facts.reference(method)
    return RowSpec(
        column=names.index(method.name),
        partner=parts if partner is None else names.index(partner.name),
        reference=None if reference.name == method.name else names.index(reference.name),
        sums=_sums(method),
    )


def _sums(method: Method) -> bool:
    """Whether weights add up a model's grades over what comes after, or multiply over tokens.

    A terminal reward is one number, and adds nothing up.
    """
    ratios = importance.LOG_RATIOS
    products = {kind for kind, ratio in ratios.items() if ratio.product and ratio.past}
    return any(
        (term.gamma > 0 and term.signal != "reward")
        or not products.isdisjoint({term.importance, term.correction})
        for term in method.terms
    )


def _entry(
    method: Method, figures: intervals.Figures, probe: str, measured: Measured
) -> dict[str, Any]:
    names = [other.name for other in measured.methods]
    reference, paired = facts.reference(method).name, None
    if reference != method.name:
        at = names.index(method.name), names.index(reference)
        paired = intervals.ratio(measured.moments, *at)["snr"]
    return {
        "name": method.name,
        "label": method.label,
        "row": method.row,
        "probe": probe,
        "goal": dataclasses.asdict(facts.goal(method)),
        "axes": facts.axes(method),
        "biased": facts.bias(method) is not None,
        "note": _note(method, measured.moments.group_size, measured.plan),
        "reference": None if reference == method.name else reference,
        "cosine": figures["cosine"],
        "relative_error": figures["relative_error"],
        "twins": _twins(method, measured),
        "mean_square": figures["mean_square"],
        **intervals.beside_proxy(measured.moments, measured.squares, names.index(method.name)),
        "variance": {key: figures[key] for key in ("total", "across", "within", "cross")},
        "snr": figures["snr"],
        "snr_ratio": paired,
        "trusted": figures["trusted"],
        "trusted_from": figures["trusted_from"],
        "effective_groups": figures["effective_groups"],
        "heavy_tail": figures["heavy_tail"],
    }


def _note(method: Method, group_size: int, plan: Plan) -> str | None:
    notes = []
    bias, reason = facts.bias(method), facts.partnerless(method)
    if bias is not None:
        notes.append(f"biased: {bias}")
    if method in plan.branched:
        notes.append(plan.remark(method))
    elif reason is not None:
        notes.append(f"no parts: {reason}")
    if facts.coupled(method) == "group":
        notes.append(f"one draw per group of {group_size}, scaled to one rollout")
    if facts.coupled(method) == "batch":
        notes.append("groups of a batch share statistics, which the intervals take no notice of")
    return "; ".join(notes) or None


def _twins(method: Method, measured: Measured) -> dict[str, Any]:
    """Rows of another goal that differ in one axis alone, with what the two have on one sample.

    Of a row with gamma > 0 the one at gamma = 0; of a row that a teacher grades, the one that a
    reward does.
    """
    column, axes = measured.methods.index(method), facts.axes(method)
    twins = {}
    for at, other in enumerate(measured.methods):
        gamma = alike.step(axes, facts.axes(other), "gamma")
        signal = alike.step(axes, facts.axes(other), "signal")
        if signal == ("teacher", "reward") or (gamma is not None and gamma[1] == 0):
            spec = RowSpec(column, None, at)
            paired = intervals.ratio(measured.moments, column, at)
            twins[other.name] = {
                "axis": "gamma" if gamma else "signal",
                "cosine": intervals.estimate(measured.moments, [spec])[0]["cosine"],
                "total_ratio": paired["total"],
                "snr_ratio": paired["snr"],
            }
    return twins


def _quotient(value: Interval, by: Interval) -> Interval:
    """value / by, the errors of the two independent; a slow clock lowers it, a fast one raises."""
    centre = value.value / by.value
    down = math.hypot((value.value - value.low) / by.value, centre * (1 - by.value / by.high))
    up = math.hypot((value.high - value.value) / by.value, centre * (by.value / by.low - 1))
    return Interval(centre, centre - down, centre + up)


def by_position(measured: Measured, world: World) -> dict[str, Any]:
    """KL and both entropies against the position in the completion, intervals over groups."""
    mask = _grouped([rollout.mask for rollout in measured.rollouts], world.group_size)
    counts = mask.sum(1)  # [N, T]
    longest = int(np.max(np.nonzero(counts.sum(0))[0])) + 1

    def curve(field: str) -> list[Interval]:
        values = [np.asarray(zero(getattr(s, field), r.mask)) for s, r in _pairs(measured)]
        sums = _grouped(values, world.group_size).sum(1)
        interval = intervals.mean_interval(sums[:, :longest], counts[:, :longest], 0.0)
        return [Interval(*at) for at in zip(interval.value, interval.low, interval.high)]

    return {
        "position": list(range(longest)),
        "count": counts.sum(0)[:longest].tolist(),
        "kl": curve("kl"),
        "entropy_student": curve("entropy_student"),
        "entropy_teacher": curve("entropy_teacher"),
    }


def _pairs(measured: Measured):
    return zip(measured.stats, measured.rollouts, strict=True)


def _grouped(parts: list[np.ndarray], group_size: int) -> np.ndarray:
    """[B, T] parts as [N, G, T]."""
    whole = np.concatenate([np.asarray(part) for part in parts])
    return whole.reshape(-1, group_size, whole.shape[1])


def rollouts(measured: Measured, world: World) -> dict[str, Any]:
    """Count, digests and lengths of a probe's rollouts."""
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *measured.rollouts)
    tokens, both = whole.digests()
    return {
        "count": len(whole.mask),
        "digest": tokens,
        "digest_logp": both,
        "mean_length": float(whole.mask.sum(1).mean()),
        "truncated": float(np.mean(~whole.ended)),
        "groups": measured.moments.groups,
        "group_size": world.group_size,
    }


def staleness(measured: Measured, world: World, policy: Player) -> dict[str, float]:
    """ESS / N of a probe's rollouts under another policy than the one that drew them.

    Named by the log-ratio whose weights they are; 1 where nothing has moved, to rounding.
    """
    ratios: dict[str, list[np.ndarray]] = {kind: [] for kind in importance.LOG_RATIOS}
    masks = []
    for rollout in measured.rollouts:
        now = programs.score(world.mesh, *policy, rollout, None, world.scoring)
        mask = jnp.asarray(rollout.mask)
        masks.append(rollout.mask)
        for kind, parts in ratios.items():
            ratio = importance.log_ratio(
                now.logp_student, jnp.asarray(rollout.logp_behavior), mask, kind
            )
            parts.append(processes.on_host(ratio))
    mask = jnp.asarray(np.concatenate(masks))
    shares = {
        kind: importance.effective_sample_size(
            jnp.asarray(np.concatenate(parts)), importance.counted(mask, kind)
        )
        for kind, parts in ratios.items()
    }
    return {kind: min(float(share), 1.0) for kind, share in shares.items()}

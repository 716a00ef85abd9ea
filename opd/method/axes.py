"""The axes: what a method can be told, each in one place.

An axis is a field of `Origin` (whose rollouts: once a method) or of `Term` (one push on the
logits). The field says all that is known of it: its kind, its choices or range, its default, and
what brings it in. AXES collects the fields; checks, command-line keys and listings follow from it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from opd.method import baselines, importance, local, reduction, weighing


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; the bounds are left out where it is `open`."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return inside and math.isfinite(value)

    def __str__(self) -> str:
        if math.isfinite(self.high):
            bounds = f"{self.low:g}, {self.high:g}"
            return f"in ({bounds})" if self.open else f"in [{bounds}]"
        if math.isfinite(self.low):
            return f"of {'more than' if self.open else 'at least'} {self.low:g}"
        return "finite"


@dataclasses.dataclass(frozen=True)
class With:
    """What brings an axis in: the values of another one, each with the usual value that it brings.

    None where there is none and the axis must be told. `but` takes it out again where all axes
    there have one of the values named. `afresh`: another value of `axis` brings its own usual
    value, whatever stood there before.
    """

    axis: str
    usual: Mapping[str, object]
    but: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    afresh: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """What is known of an axis. It is None where what brings it in isn't there."""

    name: str
    of: str  # origin or term
    says: str
    kind: type  # str, int or float
    choices: tuple[str, ...]  # of a str
    range: Range  # of a number
    default: object
    brought: With | None  # None: it is always there

    @property
    def allowed(self) -> str:
        """Its values in words."""
        if self.kind is str:
            return f"one of {', '.join(self.choices)}"
        kind = "whole number" if self.kind is int else "number"
        if self.range == Range():
            return f"a {self.range} {kind}"
        return f"a {kind} {self.range}"

    @property
    def where(self) -> str:
        """What brings it in, in words; empty where it is always there."""
        if self.brought is None:
            return ""
        by, usual, but = AXES[self.brought.axis], self.brought.usual, self.brought.but
        others = [value for value in by.choices if value not in usual]
        words = f"{by.name}={' or '.join(usual)}"
        if len(others) < len(usual):
            words = f"{by.name} other than {' or '.join(others)}"
        unless = " and ".join(f"{axis}={' or '.join(values)}" for axis, values in but.items())
        return words + (f", unless {unless}" if unless else "")

    @property
    def usual(self) -> str:
        """What it is unless it is told, in words."""
        if self.brought is None:
            return text(self.default)
        usual = {by: "must be told" if value is None else text(value)
                 for by, value in self.brought.usual.items()}  # fmt: skip
        if len(set(usual.values())) == 1:
            return next(iter(usual.values()))
        return ", ".join(f"{value} for {by}" for by, value in usual.items())

    def read(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            ValueError: what was given, and what is allowed.
        """
        if self.kind is str:
            return self.checked(text)
        try:
            return self.checked(self.kind(text))
        except ValueError:
            raise ValueError(f"{self.name}={text}; it is {self.allowed}") from None

    def checked(self, value: object) -> Any:
        """The value, where it is one of the axis; a whole number may stand for a number.

        Raises:
            ValueError: what was given, and what is allowed.
        """
        if self.kind is str:
            good = value in self.choices
        else:
            number = numbers.Integral if self.kind is int else numbers.Real
            good = isinstance(value, number) and not isinstance(value, bool) and value in self.range
        if not good:
            plain = self.kind is str or (self.kind is float and isinstance(value, numbers.Real))
            shown = text(value) if plain else repr(value)
            raise ValueError(f"{self.name}={shown}; it is {self.allowed}")
        return self.kind(value)

    def used(self, part: Any) -> bool:
        """Whether the other axes of an origin or a term bring it in."""
        if self.brought is None:
            return True
        there = getattr(part, self.brought.axis) in self.brought.usual
        but = self.brought.but
        return there and not (but and all(getattr(part, axis) in but[axis] for axis in but))


def text(value: object) -> str:
    """A value as a name has it: a number as short as it can be read back from."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _field(kind: type, says: str, default: object, brought: With | None, **more) -> Any:
    known = {"kind": kind, "says": says, "brought": brought, "choices": (), "range": Range()} | more
    return dataclasses.field(default=default, metadata=known)


def choice(
    says: str, choices: Iterable[str], default: str | None = None, brought: With | None = None
) -> Any:
    """An axis whose value is one of some words."""
    return _field(str, says, default, brought, choices=tuple(choices))


def number(
    says: str, range: Range, default: float | None = None, brought: With | None = None
) -> Any:
    """An axis whose value is a number."""
    return _field(float, says, default, brought, range=range)


def whole(says: str, range: Range, default: int | None = None, brought: With | None = None) -> Any:
    """An axis whose value is a whole number."""
    return _field(int, says, default, brought, range=range)


SHARE = Range(0, 1)
LEAST, LARGEST = Range(0, 1), Range(1)  # a ratio's bounds, on either side of 1


@dataclasses.dataclass(frozen=True)
class Origin:
    """Whose rollouts, and which of their groups are left: the same for all terms of a method."""

    behavior: str = choice(
        "whose rollouts; a buffer keeps the student's of all iterations",
        ("student", "teacher", "mixture", "dataset", "buffer"),
        "student",
    )
    share: float | None = number(
        "how much of a mixture the student draws", SHARE, brought=With("behavior", {"mixture": 0.5})
    )
    level: str | None = choice(
        "what a mixture's coin is thrown for",
        ("batch", "sequence", "token"),
        brought=With("behavior", {"mixture": "batch"}),
    )
    other: str | None = choice(
        "who draws the rest of a mixture",
        ("dataset", "teacher"),
        brought=With("behavior", {"mixture": "dataset"}),
    )
    # What is given or kept can't be drawn again. A whole batch of given solutions has equal
    # rewards, and a mixture would lose it.
    redraws: int | None = whole(
        "how often a group of equal rewards is drawn again, of other prompts",
        Range(0),
        0,
        With(
            "behavior",
            {"student": 0, "mixture": 0},
            but={"level": ("batch",), "other": ("dataset",)},
        ),
    )


_KINDS, _RULES = tuple(importance.LOG_RATIOS), tuple(importance.RATIO_RULES)
_CORRECTIONS = importance.CORRECTION_RULES


def _bound(says: str, range: Range, name: str) -> Any:
    """The axis of one of a ratio rule's numbers."""
    return number(says, range, brought=With("ratio_rule", importance.BOUNDS[name], afresh=True))


def _weight(says: str, range: Range, name: str) -> Any:
    """The axis of one of a weighing's numbers."""
    return number(says, range, brought=With("weigh", weighing.NUMBERS[name], afresh=True))


def _correction_bound(says: str, range: Range, name: str) -> Any:
    usual = {rule: it for rule, it in importance.BOUNDS[name].items() if rule in _CORRECTIONS}
    return number(says, range, brought=With("correction_rule", usual, afresh=True))


@dataclasses.dataclass(frozen=True)
class Term:
    """One push on the logits: a point on the axes.

    `importance` is the ratio of current and proximal policy, `correction` that of proximal policy
    and behavior; each has a kind, a rule and bounds. Where a rollout keeps no proximal policy's
    log-probabilities the behavior is the proximal policy.
    """

    signal: str = choice(
        "who grades a token: a teacher, the terminal reward, 1 for all (demonstrations), a "
        "teacher's detached -KL, -log pi, a reference policy",
        ("teacher", "reward", "one", "teacher_kl", "entropy", "reference"),
        "teacher",
    )
    divergence: str | None = choice(
        "which distance to the teacher",
        local.DIVERGENCES,
        brought=With("signal", {"teacher": None, "teacher_kl": "reverse_kl"}),
    )
    argument: float | None = number(
        "the divergence's argument, its beta or alpha",
        Range(0, 1, open=True),
        brought=With(
            "divergence",
            {name: None for name, known in local.DIVERGENCES.items() if known.argument},
        ),
    )
    own: float | None = number(
        "share of the student's own logits in the teacher's, held fixed",
        Range(0, 1),
        brought=With("signal", {"teacher": 0.0}),
    )
    # k3, as a loss, is sampled forward KL: accepted from a reference by that name only.
    penalty: str | None = choice(
        "form of a reference's penalty: k1 in the reward, reverse KL; k3 as a loss, forward KL",
        ("k1", "k3"),
        brought=With("signal", {"reference": "k3"}),
    )
    expectation: str = choice(
        "how the sum over the vocabulary is taken", ("sampled", *local.EXPECTATIONS), "sampled"
    )
    k: int | None = whole(
        "how many candidates", Range(1), brought=With("expectation", {"resampled": 4, "topk": 8})
    )
    tail: str | None = choice(
        "what stands for the tokens off a top-k set",
        local.TAILS,
        brought=With("expectation", {"topk": "sample"}),
    )
    topk_from: str | None = choice(
        "whose likeliest tokens",
        local.TOPK_FROM,
        brought=With("expectation", {"topk": "student"}),
    )
    gamma: float = number("discount of what the future adds", SHARE, 0.0)
    returns: str = choice(
        "what adds up to a return: the future, its mean, the whole rollout, with a critic",
        ("sum", "mean", "whole", "gae", "vtrace"),
        "sum",
    )
    lam: float | None = number(
        "lambda of GAE and V-trace", SHARE, brought=With("returns", {"gae": 0.95, "vtrace": 1.0})
    )
    c_bar: float | None = number(
        "V-trace's bound on how far an error travels",
        Range(0, open=True),
        brought=With("returns", {"vtrace": 1.0}),
    )
    baseline: str = choice(
        "what is subtracted from a return",
        (*baselines.BASELINES, *baselines.OF_STATES, *baselines.OF_SCORES, "value"),
        "none",
    )
    normaliser: str = choice("what divides an advantage", baselines.NORMALISERS, "none")
    importance: str = choice("ratio of current and proximal policy", ("none", *_KINDS), "none")
    ratio_rule: str | None = choice(
        "what becomes of that ratio",
        _RULES,
        brought=With("importance", dict.fromkeys(_KINDS, "none")),
    )
    low: float | None = _bound("that ratio's lower bound", LEAST, "low")
    high: float | None = _bound("that ratio's upper bound", LARGEST, "high")
    dual: float | None = _bound(
        "dual_clip's bound where the advantage is negative, flip's on 1 / ratio", LARGEST, "dual"
    )
    band: float | None = _bound(
        "how far a token's probability may move", Range(0, 1, open=True), "band"
    )
    tau: float | None = _bound(
        "soft: how steep its gate is; second_moment: the most that (log ratio)^2 is on average",
        Range(0, open=True),
        "tau",
    )
    tau_negative: float | None = _bound(
        "soft: how steep where the advantage is negative", Range(0, open=True), "tau_negative"
    )
    correction: str = choice("ratio of proximal policy and behavior", ("none", *_KINDS), "none")
    correction_rule: str | None = choice(
        "what becomes of that ratio",
        _CORRECTIONS,
        brought=With("correction", dict.fromkeys(_KINDS, "truncate")),
    )
    correction_low: float | None = _correction_bound("that ratio's lower bound", LEAST, "low")
    correction_high: float | None = _correction_bound("that ratio's upper bound", LARGEST, "high")
    weigh: str = choice("which tokens count how much", ("none", *weighing.WEIGHINGS), "none")
    part: float | None = _weight(
        "prefix: the share of the longest completion that counts; entropy_student: of the tokens",
        Range(0, 1, open=True),
        "part",
    )
    threshold: float | None = _weight(
        "from which entropy of the teacher on, in nats", Range(0), "threshold"
    )
    boost: float | None = _weight(
        "how much more the first token counts than the last", Range(0, open=True), "boost"
    )
    most: float | None = _weight(
        "the largest log-ratio to the teacher, in nats", Range(0, open=True), "most"
    )
    gate: str = choice(
        "which rollouts count how much, by their outcome", ("none", *weighing.GATES), "none"
    )
    passing: float | None = number(
        "from which reward on a rollout is a success",
        Range(),
        brought=With("gate", dict.fromkeys(weighing.GATES, 0.5)),
    )
    on: str = choice("whose rollouts of a mixture", ("all", "student", "other"), "all")
    reduction: str = choice("from tokens to one number", reduction.REDUCTIONS, "sum")
    cut: str = choice("whether rollouts that were cut are kept", ("keep", "mask"), "keep")
    coef: float = number("factor of the term", Range(), 1.0)

    @property
    def rule(self) -> local.Rule | None:
        """The term's local rule; None where its sum runs over the rollout's own token only."""
        if self.signal == "entropy":
            return local.Rule("entropy")
        if self.signal != "teacher":
            return None
        from_teacher = local.DIVERGENCES[self.divergence].proposal == "teacher"
        if self.expectation == "sampled" and not from_teacher:
            return None
        drawn = self.expectation in ("sampled", "resampled")
        return local.Rule(
            self.divergence,
            self.argument,
            "resampled" if drawn else self.expectation,
            (self.k or 1) if drawn else self.k,
            self.tail,
            self.topk_from,
            self.own or 0.0,
        )

    @property
    def onehot(self) -> bool:
        """Whether the rollout's own tokens are pushed."""
        own = self.tail is not None and local.TAILS[self.tail].own
        return self.rule is None or self.gamma > 0 or own

    @property
    def asks(self) -> tuple[local.Statistic, ...]:
        """What it asks to know of a state besides what all terms may look at."""
        found = []
        if self.tail is not None and local.TAILS[self.tail].own:
            found.append(local.Statistic("off_set", self.k, self.topk_from))
        if self.baseline in baselines.OF_SCORES:
            found.append(local.Statistic("score_square"))
        if self.baseline == "optimal_kl":
            found.append(local.Statistic("optimal_kl"))
        if self.weigh in weighing.WEIGHINGS and weighing.WEIGHINGS[self.weigh].asks:
            found.append(local.Statistic(weighing.WEIGHINGS[self.weigh].asks))
        return tuple(found)

    @property
    def bounded(self) -> bool:
        """Whether a ratio is clipped, truncated or masked."""
        return not {self.ratio_rule, self.correction_rule} <= {None, "none"}


def _collected(kind: type, of: str) -> dict[str, Axis]:
    return {
        field.name: Axis(field.name, of, default=field.default, **field.metadata)
        for field in dataclasses.fields(kind)
    }


AXES: dict[str, Axis] = {**_collected(Origin, "origin"), **_collected(Term, "term")}
ORIGIN = tuple(name for name, axis in AXES.items() if axis.of == "origin")
TERM = tuple(name for name, axis in AXES.items() if axis.of == "term")

Part = TypeVar("Part", Origin, Term)


def changed(part: Part, changes: Mapping[str, object]) -> Part:
    """An origin or a term with its changes.

    An axis that the result doesn't use goes; one that it uses, and that has no value, gets what is
    usual.
    """
    new = types.SimpleNamespace(**vars(part) | changes)
    for field in dataclasses.fields(part):
        axis = AXES[field.name]
        if axis.brought is None:
            continue
        value, by = getattr(new, axis.name), getattr(new, axis.brought.axis)  # `by` is settled
        if axis.brought.afresh and axis.name not in changes:
            value = value if by == getattr(part, axis.brought.axis) else None
        if value is None and axis.used(new):
            value = axis.brought.usual[by]
        setattr(new, axis.name, value if axis.used(new) else None)
    return type(part)(**vars(new))


def check(part: Origin | Term) -> None:
    """Refuses an axis that has no value where it needs one, or one that is not its own.

    Raises:
        ValueError: what was given, and what is allowed.
    """
    for field in dataclasses.fields(part):
        axis, value = AXES[field.name], getattr(part, field.name)
        if value is not None:
            axis.checked(value)
        elif axis.brought is not None and axis.used(part):
            by = axis.brought.axis
            raise ValueError(f"{by}={getattr(part, by)} needs {axis.name}, {axis.allowed}")

"""The methods table: from a name to a method, and back.

Its rows stand in `rows`, what can be said on an axis in `axes`, and what follows in `facts`.

A row is named `ROW` or `ROW@axis=value,...`: `opd_topk@k=8,tail=drop`, `opd@gamma=0.5`. In a row of
several terms `SIGNAL.axis=value` changes the terms of one signal: `rl_with_teacher@teacher.coef=2`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

from opd.method import axes, baselines, importance, local
from opd.method.axes import AXES, ORIGIN, TERM, Axis, Origin, Term, changed
from opd.method.rows import ROWS


@dataclasses.dataclass(frozen=True)
class Method:
    """A row with its overrides applied. Static and hashable: it selects code."""

    name: str
    row: str
    origin: Origin
    terms: tuple[Term, ...]

    @property
    def label(self) -> str:
        _, _, overrides = self.name.partition("@")
        return ROWS[self.row].label + (f" ({overrides.replace(',', ', ')})" if overrides else "")

    @property
    def rules(self) -> tuple[local.Rule, ...]:
        """The local rules, in the order of `Coefficients.local`."""
        return tuple(term.rule for term in self.terms if term.rule is not None)

    @property
    def behavior(self) -> str:
        """Whose rollouts: one behavior for all terms."""
        return self.origin.behavior


# Terms that any row may be given, by naming one of their axes: `grpo@entropy.coef=0.01`. They take
# the row's reduction and what becomes of rollouts that were cut.
ADDED = {"entropy": Term("entropy"), "reference": Term("reference")}
INHERITED = ("reduction", "cut")


def parse(name: str, **changes: object) -> Method:
    """The method that a name stands for, `ROW` or `ROW@axis=value,...`, with more axes changed.

        parse("opd@gamma=0.5")
        parse("opd_topk", k=8, tail="drop")
        parse("rl_with_teacher", **{"teacher.coef": 2.0})

    Args:
        name: a row and its overrides.
        changes: more of them, numbers as numbers.

    Raises:
        ValueError: unknown row, axis or value, or a combination that means nothing.
    """
    row, at, written = name.strip().partition("@")
    if row not in ROWS:
        raise ValueError(f"unknown method {row!r}; the rows are {', '.join(ROWS)}")
    overrides: dict[str, object] = {}
    for change in written.split(",") if at else ():
        key, equals, text = (part.strip() for part in change.partition("="))
        axis = _axis(name, key) if equals else None
        if axis is None:
            raise ValueError(
                f"{name}: {change!r} is not axis=value; the axes are {', '.join(AXES)}"
            )
        _add(overrides, name, key, axis.read, text)
    for key, value in changes.items():
        axis = _axis(name, key)
        if axis is None:
            raise ValueError(f"{name}: {key} is no axis; they are {', '.join(AXES)}")
        _add(overrides, name, key, axis.checked, value)
    return _made(row, overrides)


def _axis(name: str, key: str) -> Axis | None:
    """The axis that an override is for; None where there is none, or not for one signal alone."""
    signal, axis = _addressed(key)
    if signal and signal not in AXES["signal"].choices:
        allowed = ", ".join(AXES["signal"].choices)
        raise ValueError(f"{name}: {signal!r} is no signal; they are {allowed}")
    if signal and (axis in ORIGIN or axis == "signal"):
        return None
    return AXES.get(axis)


def _add(overrides: dict[str, object], name: str, key: str, read, value: object) -> None:
    if key in overrides:
        raise ValueError(f"{name}: {key} is given twice")
    try:
        overrides[key] = read(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _made(row: str, changes: Mapping[str, object]) -> Method:
    """A row with some axes changed, in every term that the change addresses, and checked."""
    written = ",".join(f"{key}={axes.text(value)}" for key, value in changes.items())
    name = f"{row}@{written}" if changes else row
    start = changed(ROWS[row].origin, {})
    origin = changed(start, {key: value for key, value in changes.items() if key in ORIGIN})
    before, after = _changed_terms(ROWS[row].terms, changes)
    try:
        _check_used(changes, origin, before, after)
        axes.check(origin)
        _check_origin(origin)
        for term in after:
            axes.check(term)
            _check(term)
        _check_together(before, after)
        _check_whose(origin, after)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Method(name, row, origin, after)


def _changed_terms(
    start: tuple[Term, ...], changes: Mapping[str, object]
) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """A row's terms and those that it is given, before and after the changes."""
    before = tuple(changed(term, {}) for term in start)
    theirs = [_addressing(term, changes, before) for term in before]
    for signal, term in ADDED.items():
        asked = any(_addressed(key)[0] == signal for key in changes)
        if asked and signal not in (other.signal for other in before):
            inherited = {axis: theirs[0].get(axis, getattr(before[0], axis)) for axis in INHERITED}
            before += (changed(term, {}),)
            theirs.append(inherited | _addressing(term, changes, ()))
    after = (changed(term, its) for term, its in zip(before, theirs, strict=True))
    return before, tuple(after)


def _addressed(key: str) -> tuple[str, str]:
    """The signal that an override is for, empty for all, and its axis."""
    signal, _, axis = key.rpartition(".")
    return signal, axis


def _addressing(
    term: Term, changes: Mapping[str, object], everyone: tuple[Term, ...]
) -> dict[str, object]:
    """The changes that address a term; its own signal's come before everyone's.

    A change for everyone goes to those of `everyone` that use the axis, or to all if none does.
    """
    addressed: dict[str, object] = {}
    for key, value in changes.items():
        used = [getattr(other, key, None) is not None for other in everyone]
        if key in TERM and everyone and (getattr(term, key) is not None or not any(used)):
            addressed[key] = value
    for key, value in changes.items():
        signal, axis = _addressed(key)
        if signal == term.signal:
            addressed[axis] = value
    return addressed


# --- what axes can't say one by one --------------------------------------------------------------


def _check_used(
    changes: Mapping[str, object],
    origin: Origin,
    before: tuple[Term, ...],
    after: tuple[Term, ...],
) -> None:
    """Refuses a change of an axis that nothing which it addresses then uses."""
    for key in changes:
        signal, axis = _addressed(key)
        terms = [new for old, new in zip(before, after) if signal in ("", old.signal)]
        parts = [origin] if axis in ORIGIN else terms
        if all(getattr(part, axis) is None for part in parts):
            where = f"; it goes with {AXES[axis].where}" if AXES[axis].brought else ""
            raise ValueError(f"{key} means nothing there{where}")


def _check_together(before: tuple[Term, ...], after: tuple[Term, ...]) -> None:
    """Refuses terms that are good by themselves, and mean nothing beside each other."""
    if sum(term.baseline == "value" for term in after) > 1:
        raise ValueError("baseline=value in several terms; one critic learns one return")
    if len({term.signal for term in after}) < len({term.signal for term in before}):
        raise ValueError("two terms of one signal: neither could be told from the other")
    if not any(term.coef for term in after):
        raise ValueError("coef=0 in all terms: nothing is pushed")


def _check_whose(origin: Origin, terms: tuple[Term, ...]) -> None:
    on = {term.on for term in terms} - {"all"}
    if on and (origin.behavior != "mixture" or origin.level == "token"):
        raise ValueError(f"on={on.pop()} needs behavior=mixture, and not level=token")


def _check_origin(origin: Origin) -> None:
    if origin.level == "token" and origin.other == "dataset":
        raise ValueError("level=token needs other=teacher: a dataset has no next token to give")


def _check(term: Term) -> None:
    """Refuses values that mean nothing together; says what was given and what is allowed."""
    for rule in (_check_signal, _check_credit, _check_ratios):
        for refusal in rule(term):
            raise ValueError(refusal)


def _check_signal(term: Term) -> Iterator[str]:
    gamma = f"gamma={term.gamma:g}"
    if term.signal == "teacher_kl" and term.divergence != "reverse_kl":
        yield "signal=teacher_kl is a reverse KL: it needs divergence=reverse_kl"
    if term.signal != "teacher" and term.expectation != "sampled":
        yield f"expectation={term.expectation} needs a teacher signal, not {term.signal}"
    if term.gamma > 0 and term.divergence not in (None, "reverse_kl"):
        yield f"{gamma} needs divergence=reverse_kl, not {term.divergence}"
    if term.gamma > 0 and term.signal in ("one", "entropy"):
        yield f"{gamma} needs a reward or a teacher signal, not {term.signal}"
    if term.own and (term.rule is None or term.gamma > 0):
        yield f"own={term.own:g} needs an enumerated sum and gamma=0"
    if term.weigh == "bounded_ratio" and (term.rule is not None or term.signal != "teacher"):
        yield f"weigh={term.weigh} needs a teacher's log-ratio of a sampled token"
    if term.gamma > 0 and term.penalty == "k3":
        yield f"{gamma} needs penalty=k1, a reward: k3 is a loss"


def _check_credit(term: Term) -> Iterator[str]:
    normal, base = f"normaliser={term.normaliser}", f"baseline={term.baseline}"
    plain = term.baseline == "none" and term.normaliser == "none"
    if term.baseline in baselines.OF_STATES and (
        term.signal != "teacher" or term.divergence != "reverse_kl" or term.gamma > 0
    ):
        yield f"{base} needs a teacher signal, divergence=reverse_kl and gamma=0"
    if term.baseline in baselines.OF_STATES and term.normaliser != "none":
        yield f"{normal} needs a return, not {base}"
    if term.rule is not None and not plain:
        yield f"a baseline or normaliser needs a sampled token, not {_sum(term)}"
    if (term.penalty == "k3" or term.signal == "one") and not plain:
        instead = "signal=one" if term.penalty is None else f"penalty={term.penalty}"
        yield f"a baseline or normaliser needs a return, not {instead}"
    if (term.returns in ("gae", "vtrace")) != (term.baseline == "value"):
        yield f"returns={term.returns} with {base}; returns=gae or vtrace go with baseline=value"
    if term.returns == "whole" and term.gamma != 1:
        yield f"returns=whole needs gamma=1, not {term.gamma:g}"
    if term.returns == "mean" and term.gamma == 0:
        yield "returns=mean needs gamma > 0: there is no future to average"
    if term.returns == "vtrace" and (term.importance, term.ratio_rule) != ("token", "truncate"):
        yield "returns=vtrace needs importance=token and ratio_rule=truncate"
    whole = term.baseline in baselines.OF_SCORES or (
        term.baseline in baselines.BASELINES and baselines.BASELINES[term.baseline].of
    )
    if (whole or baselines.NORMALISERS[term.normaliser].rollouts) and term.gamma != 1:
        yield (
            f"{base}, {normal} with gamma={term.gamma:g}; "
            "statistics of whole rollouts need gamma=1, at which a return is one"
        )


KINDS = tuple(importance.LOG_RATIOS)


def _check_ratios(term: Term) -> Iterator[str]:
    for kind in (term.importance, term.correction):
        if kind != "none" and term.signal == "one":
            yield f"a ratio of kind {kind} means nothing for signal=one: the data is the law"
        if kind not in importance.STATE_PART and term.rule is not None:
            yield f"a ratio of kind {kind} needs a sampled token, not {_sum(term)}"
    rule = term.ratio_rule
    if rule is not None and importance.RATIO_RULES[rule].gated and term.rule is not None:
        yield f"ratio_rule={rule} gates by a sampled token's advantage, not {_sum(term)}"
    if rule is not None and term.importance not in (importance.RATIO_RULES[rule].kinds or KINDS):
        kinds = " or ".join(importance.RATIO_RULES[rule].kinds)
        yield f"ratio_rule={rule} needs importance={kinds}, not {term.importance}"


def _sum(term: Term) -> str:
    """What stands in the place of a sampled token."""
    return "signal=entropy" if term.signal == "entropy" else f"expectation={term.expectation}"


# --- from terms to a name ------------------------------------------------------------------------


@functools.cache
def named(origin: Origin, terms: tuple[Term, ...]) -> Method | None:
    """The method of these terms, by a name that `parse` reads; None where no name says them.

    It is spelled from the nearest row: the one of which the fewest words change, and the first of
    the table where several are as near. A number is no other kind of row, and counts nothing; a
    term that a row has to be given counts as a word.
    """
    rows = sorted(_rows(), key=lambda row: _distance(row, origin, terms))
    spelled = (_spelled(row, origin, terms) for row in rows)
    return next((method for method in spelled if method is not None), None)


@functools.cache
def _rows() -> tuple[Method, ...]:
    return tuple(map(parse, ROWS))


def _pairs(row: Method, terms: tuple[Term, ...]) -> list[tuple[Term, Term]]:
    """The row's terms, and then those that it has to be given, each beside the wanted one."""
    inherited = {axis: getattr(terms[0], axis) for axis in INHERITED}
    added = [changed(ADDED.get(term.signal, term), inherited) for term in terms[len(row.terms) :]]
    return list(zip((*row.terms, *added), terms))


def _differ(start: Origin | Term, wanted: Origin | Term) -> dict[str, object]:
    """The axes on which two differ, with the wanted value; what goes by itself left out."""
    return {
        axis: value
        for axis, value in vars(wanted).items()
        if value is not None and value != getattr(start, axis)
    }


def _distance(row: Method, origin: Origin, terms: tuple[Term, ...]) -> int:
    pairs: list[tuple[Origin, Origin] | tuple[Term, Term]]
    pairs = [(row.origin, origin), *_pairs(row, terms)]
    words = sum(
        AXES[axis].kind is str and not _follows(axis, *pair)
        for pair in pairs
        for axis in _differ(*pair)
    )
    return words + abs(len(terms) - len(row.terms))


def _follows(axis: str, start: Origin | Term, wanted: Origin | Term) -> bool:
    """Whether the wanted value comes by itself with what brings the axis in."""
    by = AXES[axis].brought
    if by is None or getattr(start, axis) is not None:
        return False
    return getattr(wanted, axis) == by.usual[getattr(wanted, by.axis)]


def _spelled(row: Method, origin: Origin, terms: tuple[Term, ...]) -> Method | None:
    """A row with what differs changed, but for what follows from the rest; None: it can't be."""
    changes = _differ(row.origin, origin)
    for number, (start, wanted) in enumerate(_pairs(row, terms)):
        alone = number == 0 and len(row.terms) == 1
        if start.signal != wanted.signal and not alone:
            return None  # one term's signal is no axis of its own
        for axis, value in _differ(start, wanted).items():
            changes[axis if alone else f"{start.signal}.{axis}"] = value
        if number >= len(row.terms):  # a term is added by naming one of its axes
            changes.setdefault(f"{start.signal}.coef", wanted.coef)
    if not _says(row, changes, origin, terms):
        return None
    for key in reversed(list(changes)):
        fewer = {other: value for other, value in changes.items() if other != key}
        if _says(row, fewer, origin, terms):
            changes = fewer
    return _made(row.row, changes)


def _says(
    row: Method, changes: Mapping[str, object], origin: Origin, terms: tuple[Term, ...]
) -> bool:
    try:
        made = _made(row.row, changes)
    except ValueError:
        return False
    return (made.origin, made.terms) == (origin, terms)

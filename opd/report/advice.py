"""From the numbers of a run to plain words: pure rules over the `results.json` dict.

A rule never says more than the intervals do: where two of them meet it says "no difference", where
one is missing it says so. Where a ratio was measured on the same rollouts, its interval decides.
Every rule returns `Advice`, whose verdict is what tests look at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opd.measure.intervals import t_quantile
from opd.report.measured import Measured, measured, overlap, prose, ratio, times

Entry = Mapping[str, Any]
Results = Mapping[str, Any]

UNSOLVED = 0.02  # an accuracy whose whole interval lies below this is no reward signal
SOLVED = 0.98  # above this there is little left to win
ALIGNED = 0.9  # cosines above this point the same way for our purposes
TRUNCATED = 0.01  # share of rollouts cut at the cap that deserves a warning
ONE = Measured(1.0, 1.0, 1.0)

ONE_SEED = "The arms were trained with one seed, which settles nothing between arms."

DIVERGENCES = {
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "jeffreys": "Jeffreys",
    "jsd": "JSD",
    "skew": "skew KL",
    "skew_reverse": "skew reverse KL",
}


@dataclasses.dataclass(frozen=True)
class Advice:
    """One sentence or two, what it is about, the verdict behind it, and the rows it names."""

    topic: str
    verdict: str
    text: str
    rows: tuple[str, ...] = ()
    goal: str | None = None
    why: str | None = None


@dataclasses.dataclass(frozen=True, order=True)
class Goal:
    """What a row is unbiased for (or aims at); rows are compared within one goal only."""

    order: int
    kind: str
    divergence: str
    gamma: float
    states: str

    @property
    def label(self) -> str:
        """As a heading: `Myopic reverse KL`, `Sequence reverse KL`, `Reward`."""
        divergence = DIVERGENCES.get(self.divergence, self.divergence.replace("_", " "))
        label = {
            "myopic": f"Myopic {divergence}",
            "discounted": f"Discounted {divergence}, γ = {self.gamma:g}",
            "sequence": f"Sequence {divergence}",
            "reward": "Reward" if self.gamma == 1 else f"Reward, γ = {self.gamma:g}",
        }.get(self.kind, f"{self.kind} {divergence}".strip())
        return f"{label}, behavior's states" if self.states == "behavior" else label


MEANINGS = {
    "myopic": "match the teacher at each state for itself (γ = 0)",
    "discounted": "match it with some credit for the states that follow",
    "sequence": "match its distribution over whole completions (γ = 1)",
    "reward": "raise the expected reward",
}
_ORDER = {"myopic": 0, "discounted": 2, "sequence": 3, "reward": 4}


def goal(entry: Entry) -> Goal:
    """The goal of a row, from its target and its states."""
    target = entry.get("target") or {}
    kind = target.get("kind") or "none"
    divergence = target.get("divergence") or ""
    gamma = target.get("gamma")
    order = _ORDER.get(kind, 5)
    if kind == "myopic" and divergence != "reverse_kl":
        order = 1
    return Goal(
        order=order,
        kind=kind,
        divergence="" if kind == "reward" else str(divergence),
        gamma=float(1.0 if gamma is None else gamma) if kind in ("discounted", "reward") else 0.0,
        states=entry.get("states") or "current",
    )


def probe(results: Results, name: str) -> list[Entry]:
    """The estimators of one probe, `start` or `late`."""
    return [e for e in results.get("estimators") or [] if e.get("probe", "start") == name]


def by_goal(entries: Iterable[Entry]) -> dict[Goal, list[Entry]]:
    """Rows under their goals, goals in reading order, the best SNR per second first."""
    goals: dict[Goal, list[Entry]] = {}
    for entry in entries:
        goals.setdefault(goal(entry), []).append(entry)
    return {key: sorted(goals[key], key=_descending) for key in sorted(goals)}


def _descending(entry: Entry) -> tuple[float, str]:
    figure = measured(entry.get("snr_per_second"))
    return (math.inf if figure is None else -figure.value, entry["name"])


def _names(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(entry["name"] for entry in entries)


def _list(words: Sequence[str]) -> str:
    if len(words) <= 1:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------- which row, for which goal


def best_rows(results: Results, where: str = "start") -> list[Advice]:
    """For each goal, the best SNR per second among the rows that are unbiased for it."""
    return [_best(key, rows) for key, rows in by_goal(probe(results, where)).items()]


def _best(key: Goal, rows: Sequence[Entry]) -> Advice:
    fit = [e for e in rows if not e.get("biased")]
    known = [(e, f) for e in fit if (f := measured(e.get("snr_per_second"))) is not None]
    aside = _left_out([e for e in rows if e.get("biased")])

    def say(verdict: str, choice: str, why: str, chosen: Sequence[Entry] = ()) -> Advice:
        text = f"{key.label}: {choice}. {why}{aside}".replace(". .", ".").strip()
        return Advice("goal", verdict, text, _names(chosen), key.label, f"{why}{aside}".strip())

    if not fit:
        return say("only biased", "no choice", "Every row that aims at it is biased.")
    if not known:
        return say("undefined", "no choice", "No SNR is defined at this number of rollouts.")
    best, top = known[0]
    if top.value <= 0 or (top.known and top.low <= 0):
        why = (
            f"No row's SNR can be told from zero; the highest is {best['name']}, {prose(top)} per "
            "second. More rollouts are needed before a choice means anything."
        )
        return say("undefined", "no choice", why)
    choice = f"use {best['name']}, {prose(top)} SNR per second"
    if len(known) == 1:
        return say("only", choice, "It is the only unbiased row for this goal.", [best])
    tied = [(e, f) for e, f in known[1:] if overlap(f, top)]
    beaten = [(e, f) for e, f in known[1:] if not overlap(f, top)]
    after = ""
    if beaten:
        row, figure = beaten[0]
        more = f", and {len(beaten) - 1} more" if len(beaten) > 1 else ""
        after = f"Clearly behind: {row['name']}, {prose(figure)}{more}."
    if not tied:
        return say("clear", choice, after, [best])
    others = _list([f"{e['name']}, {prose(f)}" for e, f in tied])
    reason = "the intervals overlap"
    if not all(f.known for f in [top, *(f for _, f in tied)]):
        reason = "the intervals overlap or are missing"
    why = f"No difference from {others}: {reason}. {after}".strip()
    return say("no difference", choice, why, [best, *_first(tied)])


def _first(pairs: Iterable[tuple[Entry, Any]]) -> list[Entry]:
    return [first for first, _ in pairs]


def _left_out(biased: Sequence[Entry]) -> str:
    if not biased:
        return ""
    names = list(_names(biased))
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    return f" Not counted, as biased: {_list(names)}."


# ---------------------------------------------------------------- what enumeration buys


def _twin(entry: Entry, entries: Iterable[Entry], **change: Any) -> Entry | None:
    """The row that differs from this one in the given axes only."""
    wanted = _axes(entry) | change
    for other in entries:
        if other is entry or other.get("biased") or other.get("states") != entry.get("states"):
            continue
        if {k: _axes(other).get(k) for k in wanted} == wanted:
            return other
    return None


def _axes(entry: Entry) -> dict[str, Any]:
    axes = dict(entry.get("axes") or {})
    return axes | {"gamma": axes.get("gamma") or 0.0}


def enumeration(results: Results, where: str = "start") -> list[Advice]:
    """What summing over the vocabulary buys over one sampled token, all other axes equal."""
    rows = probe(results, where)
    found = []
    for row in rows:
        if _axes(row).get("expectation") != "enumerated" or row.get("biased"):
            continue
        twin = _twin(row, rows, expectation="sampled")
        if twin is not None:
            found.append(_enumeration(row, twin))
    return found


def _enumeration(row: Entry, twin: Entry) -> Advice:
    names = (row["name"], twin["name"])
    a, b = measured(row.get("snr")), measured(twin.get("snr"))
    if a is None or b is None or b.value <= 0:
        text = f"{names[0]} over {names[1]}: an SNR is undefined, so their ratio is too."
        return Advice("enumeration", "undefined", text, names)
    paired = _paired(row, twin)
    factor, same = _factor(a, b, paired)
    shown = times(factor).replace(" times", "")
    if same:
        verdict, start = "no difference", f"No difference in SNR per rollout between {names[0]}"
        text = f"{start}, {prose(a)}, and {names[1]}, {prose(b)}"
        text += f": the factor is {shown} on the same rollouts." if paired else "."
    else:
        verdict = "gain" if factor.value > 1 else "loss"
        text = (
            f"Enumerating ({names[0]}) instead of sampling ({names[1]}) multiplies the SNR per "
            f"rollout by {shown}{', paired on the same rollouts' if paired else ''}."
        )
    text += _enumeration_per_second(row, twin, paired)
    return Advice("enumeration", verdict, f"{text} {_parts(twin)}", names)


def _enumeration_per_second(row: Entry, twin: Entry, paired: Measured | None) -> str:
    """The factor per second in words; empty where it is undefined."""
    a, b = measured(row.get("snr_per_second")), measured(twin.get("snr_per_second"))
    if a is None or b is None or b.value <= 0:
        return ""
    clocks = measured(twin.get("seconds")), measured(row.get("seconds"))
    faster = None if None in clocks else ratio(*clocks)
    # Seconds are not paired: their ratio takes the worst ends.
    paired = ratio(paired, faster) if paired and faster and faster.known else None
    factor, same = _factor(a, b, paired)
    why = "the interval covers 1" if paired else "the intervals overlap"
    text = f" Per second the factor is {times(factor).replace(' times', '')}"
    return f"{text} (no difference: {why})." if same else f"{text}."


def _paired(row: Entry, twin: Entry) -> Measured | None:
    """The twin's SNR over the row's, from their common rollouts; None where that is not known."""
    found = measured(twin.get("snr_ratio")) if twin.get("reference") == row["name"] else None
    return found if found is not None and found.value > 0 else None


def _factor(a: Measured, b: Measured, paired: Measured | None) -> tuple[Measured, bool]:
    """a / b, and whether it is no different from 1.

    From the paired quotient b / a where there is one, else from the two intervals.
    """
    if paired is None:
        return ratio(a, b), overlap(a, b)
    return ratio(ONE, paired), paired.covers(1.0)


def _parts(row: Entry) -> str:
    """The sampled row's within and cross terms in words."""
    variance = row.get("variance") or {}
    total, within = measured(variance.get("total")), measured(variance.get("within"))
    cross = measured(variance.get("cross"))
    if total is None or within is None or cross is None or total.value <= 0:
        reason = no_parts(row) or "its weights hold the future or other rollouts"
        return f"The parts of {row['name']}'s variance are undefined: {reason.rstrip('.')}."
    percent = 100 / total.value
    text = (
        f"The choice of the token itself (within) is {prose(within.scaled(percent), ' %')} "
        f"of {row['name']}'s variance; the cross term is {prose(cross.scaled(percent), ' %')}"
    )
    sign = cross_sign(row)
    if sign == "positive":
        return f"{text}: positive, so enumeration removes more than within alone."
    if sign == "negative":
        if within.value + cross.value < 0:
            return f"{text}: negative and larger than within, so here sampling is the quieter one."
        return f"{text}: negative, so enumeration removes less than within promises."
    return f"{text}: not told from zero."


def no_parts(row: Entry) -> str | None:
    """Why a row's parts are null: its note, or what the note says under `no parts:`."""
    note = row.get("note")
    pieces = [p.strip() for p in (note or "").split(";") if p.strip().startswith("no parts:")]
    return pieces[0].removeprefix("no parts:").strip() if pieces else note


def cross_sign(row: Entry) -> str:
    """`positive`, `negative`, `not told from zero`, or `undefined`: the limit of Rao-Blackwell.

    Per state, enumeration never adds variance. Over a rollout the cross term may have either sign.
    """
    cross = measured((row.get("variance") or {}).get("cross"))
    if cross is None:
        return "undefined"
    if cross.covers(0.0):
        return "not told from zero"
    return "positive" if cross.value > 0 else "negative"


# ---------------------------------------------------------------- bias


def biases(results: Results, where: str = "start") -> list[Advice]:
    """How large the bias of each row that says `biased` is; rows with one verdict share a line."""
    detected, hidden, unknown = [], [], []
    for row in probe(results, where):
        if not row.get("biased"):
            continue
        error = measured(row.get("relative_error"))
        if error is None or not error.known:
            unknown.append(row)
        elif error.covers(0.0):
            hidden.append(row)
        else:
            detected.append(row)
    found = [_detected(row) for row in detected]
    if hidden:
        listed = _list([f"{e['name']}, {prose(e['relative_error'])}," for e in hidden]).rstrip(",")
        text = (
            f"Biased by construction, but not detected at this number of rollouts: {listed} "
            "(relative error covers 0)."
        )
        found.append(Advice("bias", "not detected", text, _names(hidden)))
    if unknown:
        text = f"The bias of {_list(_names(unknown))} was not measured here."
        found.append(Advice("bias", "not measured", text, _names(unknown)))
    return found


def _detected(row: Entry) -> Advice:
    cosine = measured(row.get("cosine"))
    text = (
        f"{row['name']} is off its reference {row.get('reference')} by a relative error of "
        f"{prose(row['relative_error'])}"
    )
    if cosine is not None:
        text += f"; cosine {prose(cosine)}"
        if cosine.known and cosine.low > ALIGNED:
            text += ": the direction is nearly kept"
    return Advice("bias", "detected", f"{text}.", _names([row]))


def broken_claims(results: Results) -> list[Advice]:
    """Rows that say unbiased, and whose relative error to a row of the same goal excludes 0."""
    rows = {(e.get("probe", "start"), e["name"]): e for e in results.get("estimators") or []}
    broken, checked = [], 0
    for (where, _), row in rows.items():
        reference = rows.get((where, row.get("reference")))
        error = measured(row.get("relative_error"))
        if row.get("biased") or reference is None or error is None or not error.known:
            continue
        if reference.get("biased") or goal(reference) != goal(row):
            continue
        checked += 1
        if not error.covers(0.0):
            broken.append(f"{row['name']} at the {where}, {prose(error)}")
    if not broken:
        return []
    text = (
        f"{len(broken)} of {checked} unbiased rows have a relative error that excludes 0: "
        f"{'; '.join(broken)}. By chance about one in twenty does."
    )
    return [Advice("warning", "claim in doubt", text)]


# ---------------------------------------------------------------- discount


def discounts(results: Results, where: str = "start") -> list[Advice]:
    """Whether crediting the future turns the gradient, and what it costs in variance."""
    rows = probe(results, where)
    found, unmeasured = [], []
    for row in rows:
        if not _axes(row)["gamma"] or _axes(row).get("signal") != "teacher":
            continue
        twin = _twin(row, rows, gamma=0.0)
        if twin is None or row.get("biased"):
            continue
        advice = _discount(row, twin)
        (unmeasured if advice.verdict == "not measured" else found).append(advice)
    if unmeasured:
        text = (
            "; ".join(advice.text for advice in unmeasured) + ". Their cosines were not measured."
        )
        names = tuple(name for advice in unmeasured for name in advice.rows)
        found.append(Advice("gamma", "not measured", text, names))
    return found


def _discount(row: Entry, twin: Entry) -> Advice:
    names = (row["name"], twin["name"])
    cosine = _cosine_between(row, twin)
    total = [measured((e.get("variance") or {}).get("total")) for e in (row, twin)]
    cost = f"{names[0]} has an undefined variance"
    if None not in total and total[1].value > 0:
        cost = f"{names[0]} has {times(ratio(*total))} the variance of {names[1]}"
    if cosine is None:
        return Advice("gamma", "not measured", cost, names)
    cost = f"{cost} and a cosine of {prose(cosine)} with it"
    if cosine.known and cosine.low > ALIGNED:
        text = f"{cost}: the same direction, dearer. γ = 0 is the better buy here."
        return Advice("gamma", "aligned", text, names)
    if cosine.known and cosine.high < ALIGNED:
        text = f"{cost}: another direction. Choose γ for the objective, not for the SNR."
        return Advice("gamma", "differs", text, names)
    text = f"{cost}: too wide to say whether γ turns the gradient. Take γ = 0 until it is known."
    return Advice("gamma", "not settled", text, names)


def _cosine_between(a: Entry, b: Entry) -> Measured | None:
    """From `cosines` (name -> figure) where a row has it, or from its reference's."""
    for one, other in ((a, b), (b, a)):
        figure = (one.get("cosines") or {}).get(other["name"])
        if figure is None and one.get("reference") == other["name"]:
            figure = one.get("cosine")
        if figure is not None:
            return measured(figure)
    return None


# ---------------------------------------------------------------- RL or distillation


def rl_or_distillation(results: Results) -> Advice:
    """From the teacher's and the student's accuracy, and whether the reward says anything."""
    models = results.get("models") or {}
    teacher, student = (
        measured((models.get(name) or {}).get("accuracy")) for name in ("teacher", "student")
    )
    topic = "rl or distillation"
    if student is None:
        text = "No verifier graded the student: KL and SNR are all this run can compare."
        return Advice(topic, "no reward", text)
    if teacher is None:
        text = (
            f"No teacher's accuracy is known; the student solves {_share(student)}. "
            f"{_reward_words(student)}"
        )
        return Advice(topic, "no teacher", text)
    scores = f"The teacher solves {_share(teacher)} of the task, the student {_share(student)}."
    top_student = student.value if student.high is None else student.high
    top_teacher = teacher.value if teacher.high is None else teacher.high
    if top_student < UNSOLVED and top_teacher < UNSOLVED:
        text = f"{scores} Neither solves it: read KL and SNR only. RL has no signal here."
        return Advice(topic, "neither", text)
    if student.value < UNSOLVED and teacher.value < UNSOLVED:
        text = (
            f"{scores} Neither was seen to solve it: read KL and SNR only. Whether RL has any "
            "signal here takes more prompts to say."
        )
        return Advice(topic, "neither", text)
    factor = _dense_over_sparse(results)
    if _apart(teacher, student) and teacher.value > student.value:
        text = f"{scores} Distil: the teacher has much to give.{factor}"
        if top_student < UNSOLVED:
            text += " The reward has no signal yet: nearly every rollout fails."
        elif teacher.value < SOLVED:
            text += " Once the student has caught up, only a reward can take it further."
        return Advice(topic, "distil", text)
    if _apart(teacher, student):
        text = (
            f"{scores} Use the reward: the teacher is behind its student, and distillation would "
            f"pull it back. {_reward_words(student)}"
        )
        return Advice(topic, "rl", text)
    text = (
        f"{scores} No difference can be told. Distillation has little to add in accuracy; "
        f"a reward may. {_reward_words(student)}"
    )
    return Advice(topic, "level", text)


def _share(figure: Measured) -> str:
    return prose(figure.scaled(100), " %")


def _apart(a: Measured, b: Measured) -> bool:
    if a.known and b.known:
        return not overlap(a, b)
    return abs(a.value - b.value) > 0.05  # plain numbers: a difference anyone would call one


def _reward_words(student: Measured) -> str:
    if (student.value if student.high is None else student.high) < UNSOLVED:
        return "The reward has no signal: nearly every rollout fails."
    if student.value < UNSOLVED:
        return "Whether the reward has a signal is not settled: few rollouts succeed."
    if (student.value if student.low is None else student.low) > SOLVED:
        return "The reward has little signal left: nearly every rollout succeeds."
    return "The reward has signal: rollouts both fail and succeed."


def _dense_over_sparse(results: Results) -> str:
    rows = by_goal(probe(results, "start"))
    first = {key.kind: group for key, group in reversed(rows.items())}
    pick = [_top(first.get(kind, [])) for kind in ("myopic", "reward")]
    if None in pick:
        return ""
    factor = ratio(measured(pick[0]["snr"]), measured(pick[1]["snr"]))
    if factor is None or factor.value < 1:
        return ""
    return (
        f" Per rollout {pick[0]['name']} has {times(factor)} the SNR of {pick[1]['name']} "
        "(each for its own goal)."
    )


def _top(entries: Iterable[Entry]) -> Entry | None:
    known = [e for e in entries if measured(e.get("snr")) is not None and not e.get("biased")]
    return max(known, key=lambda e: measured(e["snr"]).value, default=None)


# ---------------------------------------------------------------- start against late


def start_or_late(results: Results) -> list[Advice]:
    """Whether the choice survives training: best rows and SNR at the start and late."""
    late = probe(results, "late")
    if not late:
        return [Advice("probes", "no late probe", "There is no late probe to compare with.")]
    before, after = by_goal(probe(results, "start")), by_goal(late)
    found = []
    for key, rows in before.items():
        if key in after and (advice := _moved(key, rows, after[key])) is not None:
            found.append(advice)
    return found


def _moved(key: Goal, before: Sequence[Entry], after: Sequence[Entry]) -> Advice | None:
    first, second = _best(key, before), _best(key, after)
    if not first.rows or not second.rows:
        return None
    row = first.rows[0]
    snr = [
        next((measured(e.get("snr")) for e in rows if e["name"] == row), None)
        for rows in (before, after)
    ]
    if set(first.rows) & set(second.rows):
        verdict = "same choice"
        kept = [name for name in first.rows if name in second.rows]
        text = f"{key.label}: {_list(kept)}, at the start and late."
    else:
        verdict = "changed"
        text = f"{key.label}: {_list(first.rows)} at the start, but late {_list(second.rows)}."
    if None not in snr and snr[0].value > 0:
        same = overlap(*snr)
        text += f" SNR per rollout of {row}: {prose(snr[0])}, late {prose(snr[1])}"
        text += "; no difference." if same else "."
        if not same and 0 < snr[1].value < snr[0].value / 2:
            more = snr[0].value / snr[1].value
            text += f" A late update needs about {more:.2g} times the rollouts."
    return Advice("probes", verdict, text, (*first.rows, *second.rows), key.label)


# ---------------------------------------------------------------- training


def seeds(results: Results) -> int:
    """How many seeds the arms were trained with; 0 where nothing was trained."""
    counts: dict[str, set] = {}
    for arm in results.get("training") or []:
        counts.setdefault(arm["name"], set()).add(arm.get("seed"))
    return min((len(found) for found in counts.values()), default=0)


def over_seeds(values: Sequence[float]) -> Measured:
    """Mean and 95 % t interval over seeds; no interval from a single one."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Measured(mean)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (count - 1))
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return Measured(mean, mean - half, mean + half)


def last(arm: Mapping[str, Any], key: str) -> Measured | None:
    """An arm's last known figure of one kind, null entries passed over."""
    known = [f for f in map(measured, arm.get(key) or []) if f is not None]
    return known[-1] if known else None


def training(results: Results) -> list[Advice]:
    """Where the arms ended; with one seed, that this settles nothing between them."""
    arms = results.get("training") or []
    if not arms:
        return []
    ends: dict[str, dict[str, list[Measured]]] = {}
    for arm in arms:
        for key in ("accuracy", "kl"):
            figure = last(arm, key)
            if figure is not None:
                ends.setdefault(key, {}).setdefault(arm["name"], []).append(figure)
    count = seeds(results)
    found = []
    for key, what, sign in (("accuracy", "accuracy", 1), ("kl", "sequence KL", -1)):
        if key in ends:
            found.append(_arms(what, sign, ends[key], count))
    if found and count < 2:
        found.append(Advice("training", "one seed", ONE_SEED, found[0].rows))
    return found


def _arms(what: str, sign: int, ends: Mapping[str, list[Measured]], count: int) -> Advice:
    if count < 2:
        figures = {name: found[0] for name, found in ends.items()}
    else:
        figures = {name: over_seeds([f.value for f in found]) for name, found in ends.items()}
    ranked = sorted(figures.items(), key=lambda pair: -sign * pair[1].value)
    listed = ", ".join(f"{name} {prose(figure)}" for name, figure in ranked)
    if count < 2:
        return Advice("training", "one seed", f"Final {what}: {listed}.", tuple(figures))
    text = f"Final {what} over {count} seeds: {listed}."
    name, top = ranked[0]
    tied = [other for other, figure in ranked[1:] if overlap(figure, top)]
    if tied:
        text = f"{text} No difference between {name} and {_list(tied)}."
        return Advice("training", "no difference", text, (name, *tied))
    return Advice("training", "ahead", f"{text} {name} is ahead.", (name,))


# ---------------------------------------------------------------- warnings


def warnings(results: Results) -> list[Advice]:
    """What to keep in mind before believing the rest."""
    found = [Advice("warning", "from the run", str(line)) for line in results.get("warnings") or []]
    found += _untrusted(results) + _truncated(results) + broken_claims(results)
    if results.get("training") and seeds(results) < 2:
        found.append(Advice("warning", "one seed", ONE_SEED))
    return found


def _untrusted(results: Results) -> list[Advice]:
    found = []
    groups = (results.get("rollouts") or {}).get("groups")
    few = f"; {groups} prompt groups are too few" if groups else ": too few prompt groups"
    for name, when in (("start", "at the start"), ("late", "late")):
        rows = probe(results, name)
        doubted = [e for e in rows if e.get("trusted") is False]
        if doubted:
            who = "All rows'" if len(doubted) == len(rows) else f"{_list(_names(doubted))}:"
            text = (
                f"{who} intervals {when} may be too narrow or too wide{few} for the 95 % to hold."
            )
            found.append(Advice("warning", "untrusted", text, _names(doubted)))
    return found


def _truncated(results: Results) -> list[Advice]:
    share = measured((results.get("rollouts") or {}).get("truncated"))
    if share is None or share.value <= TRUNCATED:
        return []
    text = f"{_share(share)} of the probe's rollouts were cut at the completion cap."
    return [Advice("warning", "truncated", text)]


def advise(results: Results) -> list[dict[str, Any]]:
    """All rules, most useful first, as plain dicts for `results.json`."""
    found = [
        *best_rows(results),
        rl_or_distillation(results),
        *enumeration(results),
        *biases(results),
        *discounts(results),
        *start_or_late(results),
        *training(results),
        *warnings(results),
    ]
    return [dataclasses.asdict(item) | {"rows": list(item.rows)} for item in found]

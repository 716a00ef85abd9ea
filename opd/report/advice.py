"""From the numbers of a run to plain words: pure rules over the `results.json` dict.

A rule never says more than the intervals do. Rows are ranked within one goal only, by their pairs
on the same rollouts; where a pair's interval covers 1 the rule says "no difference" and how large
a one it leaves room for, where an interval is missing it says so. Every rule returns `Advice`,
whose verdict is what tests look at.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opd.measure.jackknife import LEVEL, t_quantile
from opd.report import alike
from opd.report.choices import PER_ROLLOUT, PER_SECOND, Choice, Pairs, choose, pairs
from opd.report.goals import Entry, Goal, Results, by_goal, goal, probe
from opd.report.measured import Measured, at_most, measured, overlap, prose, times, within

UNSOLVED = 0.02  # an accuracy whose whole interval lies below this is no reward signal
SOLVED = 0.98  # above this there is little left to win
ALIGNED = 0.9  # cosines above this point the same way for our purposes
TRUNCATED = 0.01  # share of rollouts cut at the cap that deserves a warning
NAMED = 3  # rows of one kind that a sentence names; of more it says how many

ONE_SEED = "The arms were trained with one seed, which settles nothing between arms."


@dataclasses.dataclass(frozen=True)
class Advice:
    """One sentence or two, what it is about, the verdict behind it, and the rows it names."""

    topic: str
    verdict: str
    text: str
    rows: tuple[str, ...] = ()
    goal: str | None = None
    why: str | None = None


def _names(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(entry["name"] for entry in entries)


def _list(words: Sequence[str]) -> str:
    if len(words) <= 1:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------- which row, for which goal


def best_rows(results: Results, where: str = "start") -> list[Advice]:
    """For each goal, the best SNR per second among the rows that are unbiased for it."""
    return [
        _best(key, rows, pairs(results, where, key))
        for key, rows in by_goal(probe(results, where)).items()
    ]


def _best(key: Goal, rows: Sequence[Entry], compared: Pairs) -> Advice:
    unbiased = [row for row in rows if not row.get("biased")]
    aside = _left_out([row for row in rows if row.get("biased")])

    def say(verdict: str, choice: str, why: str, chosen: Sequence[str] = ()) -> Advice:
        why = f"{why}{aside}".strip()
        text = f"{key.label}: {choice}. {why}".strip()
        return Advice("goal", verdict, text, tuple(chosen), key.label, why)

    if not unbiased:
        return say("only biased", "no choice", "Every row that aims at it is biased.")
    if len(unbiased) == 1:
        return _lone(unbiased[0], say)
    choice = choose(rows, compared)
    if choice.best is None:
        verdict = "not trusted" if choice.untrusted else "undefined"
        return say(verdict, "no choice", f"{_apart_from(choice)} No two rows are left.".strip())
    best = next(row for row in unbiased if row["name"] == choice.best)
    figure = measured(best.get("snr_per_second"))
    signal = "" if _above_zero(figure) else NO_SIGNAL
    size = "" if signal else f", {prose(figure)} SNR per second"
    why = " ".join(filter(None, (_ranking(choice, compared), signal, _apart_from(choice))))
    verdict = "no difference" if choice.equals else "clear"
    return say(verdict, f"use {choice.best}{size}", why, choice.rows)


NO_SIGNAL = (
    "No SNR is told from zero at this number of rollouts: the ratio is of variances, as the rows "
    "have one signal."
)


def _lone(row: Entry, say) -> Advice:
    figure = measured(row.get("snr_per_second"))
    if figure is None:
        return say(
            "undefined", "no choice", f"The SNR of {row['name']}, the only row, is undefined."
        )
    if not _above_zero(figure):
        why = (
            f"The SNR of {row['name']}, the only unbiased row, can't be told from zero: "
            f"{prose(figure)} per second. More rollouts are needed."
        )
        return say("undefined", "no choice", why)
    choice = f"use {row['name']}, {prose(figure)} SNR per second"
    return say("only", choice, "It is the only unbiased row for this goal.", [row["name"]])


def _above_zero(figure: Measured | None) -> bool:
    return figure is not None and figure.value > 0 and (figure.low is None or figure.low > 0)


def _ranking(choice: Choice, compared: Pairs) -> str:
    """What the pairs say of the other rows, the nearest first."""
    sentences = []
    if choice.equals:
        rooms = [f"{name}{_room(ratio)}" for name, ratio in choice.equals]
        sentences.append(f"No difference from {_list(rooms)}.")
    ahead = [row for row in choice.behind if row.ahead == choice.best]
    if ahead:
        shown = [f"{row.name} by {times(row.ratio)}" for row in ahead[:NAMED]]
        more = [f"{len(ahead) - NAMED} more"] if len(ahead) > NAMED else []
        sentences.append(f"Ahead of {_list(shown + more)}.")
    for row in choice.behind:  # not told from the best itself
        if row.ahead != choice.best:
            sentences.append(f"{row.name} is behind {row.ahead}, by {times(row.ratio)}.")
    many = f", corrected for {compared.count} pairs" if compared.count > 1 else ""
    return " ".join([*sentences, f"Paired on the same rollouts{many}."])


def _room(ratio: Measured | None) -> str:
    """How large a difference an interval that covers 1 leaves room for."""
    stated = ratio is not None and ratio.low is not None
    return f" (within {within(ratio)})" if stated else " (without an interval)"


def _apart_from(choice: Choice) -> str:
    """The rows that the pairs say nothing of, and why."""
    sentences = []
    if choice.untrusted:
        who = _list(_shortened(choice.untrusted))
        sentences.append(f"Not compared, as there are too few prompt groups: {who}.")
    if choice.undefined:
        who = _list(_shortened(choice.undefined))
        reason = "no ratio to another row is defined"
        sentences.append(f"Not compared, as {reason}: {who}.")
    return " ".join(sentences)


def _shortened(names: Sequence[str]) -> list[str]:
    names = list(names)
    return names if len(names) <= NAMED + 1 else [*names[:NAMED], f"{len(names) - NAMED} more"]


def _left_out(biased: Sequence[Entry]) -> str:
    if not biased:
        return ""
    return f" Not counted, as biased: {_list(_shortened(_names(biased)))}."


# ---------------------------------------------------------------- all else equal


def _twin(
    entry: Entry, entries: Iterable[Entry], axis: str, to: object, *, unbiased: bool = True
) -> Entry | None:
    """The row that differs from this one in one axis alone, where it has the value `to`."""
    for other in entries:
        if unbiased and other.get("biased"):
            continue
        moved = alike.step(entry.get("axes"), other.get("axes"), axis)
        if moved is not None and moved[1] == to:
            return other
    return None


def _expectations(entry: Entry) -> set[str]:
    terms = (entry.get("axes") or {}).get("terms") or ()
    return {term["expectation"] for term in terms}


def enumeration(results: Results, where: str = "start") -> list[Advice]:
    """What summing over the vocabulary buys over one sampled token, all other axes equal."""
    rows = probe(results, where)
    advice = []
    for row in rows:
        if "enumerated" not in _expectations(row) or row.get("biased"):
            continue
        twin = _twin(row, rows, "expectation", "sampled")
        if twin is not None:
            compared = pairs(results, where, goal(row))
            start = f"Enumerating ({row['name']}) instead of sampling ({twin['name']})"
            item = _exchange("enumeration", row["name"], twin["name"], start, compared)
            advice.append(dataclasses.replace(item, text=f"{item.text} {_parts(twin)}"))
    return advice


def top_k(results: Results, where: str = "start") -> list[Advice]:
    """What a top-k sum makes of the whole one, all other axes equal: SNR, or a bias."""
    rows = probe(results, where)
    advice, cut = [], []
    for row in rows:
        twin = _twin(row, rows, "expectation", "enumerated")
        if twin is None or "topk" not in _expectations(row):
            continue
        if row.get("biased"):
            cut.append(row["name"])
            continue
        k = next(t["k"] for t in row["axes"]["terms"] if t["expectation"] == "topk")
        start = (
            f"The top {k} and a sampled tail ({row['name']}) instead of all tokens ({twin['name']})"
        )
        compared = pairs(results, where, goal(row))
        advice.append(_exchange("topk", row["name"], twin["name"], start, compared))
    if cut:
        text = f"A cut tail is a bias, whose size stands under Bias: {_list(cut)}."
        advice.append(Advice("topk", "biased", text, tuple(cut)))
    return advice


def _exchange(topic: str, row: str, twin: str, start: str, compared: Pairs) -> Advice:
    """By what factor one row for another changes the SNR, per rollout and per second."""
    names = (row, twin)
    if not compared.settles(*names):
        text = f"{start}: too few prompt groups to say what it does to the SNR."
        return Advice(topic, "not trusted", text, names)
    ratio = compared.ratio(PER_ROLLOUT, *names)
    if ratio is None:
        text = f"{start}: the ratio of their SNRs is undefined."
        return Advice(topic, "undefined", text, names)
    shown = times(ratio).replace(" times", "")
    text = f"{start} multiplies the SNR per rollout by {shown}"
    verdict = "gain" if ratio.value > 1 else "loss"
    if ratio.covers(1.0):
        verdict = "no difference"
        text += f", no difference{_room(ratio)}"
    second = compared.ratio(PER_SECOND, *names)
    if second is not None:
        text += f"; per second by {times(second).replace(' times', '')}"
        text += f", no difference{_room(second)}" if second.covers(1.0) else ""
    return Advice(topic, verdict, f"{text}.{_at_your_batch(row, twin, compared)}", names)


def _at_your_batch(row: str, twin: str, compared: Pairs) -> str:
    """What a ratio of SNRs comes to at the config's batch: the larger it is, the less."""
    needed = compared.rollouts(row, twin).get(compared.batch or 0)
    if needed is None:
        return ""
    return (
        f" At {compared.batch} rollouts an update that predicts {times(needed)} the rollouts for "
        "as much learning."
    )


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
    advice = [_detected(row) for row in detected]
    if hidden:
        listed = _list([f"{e['name']}, {prose(e['relative_error'])}," for e in hidden]).rstrip(",")
        text = (
            f"Biased by construction, but not detected at this number of rollouts: {listed} "
            "(relative error covers 0)."
        )
        advice.append(Advice("bias", "not detected", text, _names(hidden)))
    if unknown:
        text = f"The bias of {_list(_names(unknown))} was not measured here."
        advice.append(Advice("bias", "not measured", text, _names(unknown)))
    return advice


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
    advice, unmeasured = [], []
    for row in rows:
        twin = _twin(row, rows, "gamma", 0.0)
        if twin is None or row.get("biased") or _rewards(row) != _rewards(twin):
            continue
        item = _discount(row, twin)
        (unmeasured if item.verdict == "not measured" else advice).append(item)
    if unmeasured:
        text = "; ".join(item.text for item in unmeasured) + ". Their cosines were not measured."
        names = tuple(name for item in unmeasured for name in item.rows)
        advice.append(Advice("gamma", "not measured", text, names))
    return advice


def _rewards(entry: Entry) -> list:
    """The rewards among a row's parts: whose discount is another question."""
    return [part for part in goal(entry).parts if part.signal == "reward"]


def _discount(row: Entry, twin: Entry) -> Advice:
    names = (row["name"], twin["name"])
    figures = (row.get("twins") or {}).get(twin["name"]) or {}
    cosine, total = measured(figures.get("cosine")), measured(figures.get("total_ratio"))
    cost = f"{names[0]} has an undefined variance over {names[1]}'s"
    if total is not None:
        cost = f"{names[0]} has {times(total)} the variance of {names[1]}"
    if cosine is None:
        return Advice("gamma", "not measured", cost, names)
    cost = f"{cost} and a cosine of {prose(cosine)} with it"
    if cosine.known and cosine.low > ALIGNED:
        text = f"{cost}: the same direction, dearer. γ = 0 is the better buy here."
        if total is None or not total.known or total.low <= 1:
            text = f"{cost}: the same direction."
        return Advice("gamma", "aligned", text, names)
    if cosine.known and cosine.high < ALIGNED:
        text = f"{cost}: another direction. Choose γ for the objective, not for the SNR."
        return Advice("gamma", "differs", text, names)
    text = f"{cost}: too wide to say whether γ turns the gradient. Take γ = 0 until it is known."
    return Advice("gamma", "not settled", text, names)


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
    """A grade at every token over one at the end: rows that differ in who grades alone."""
    rows = probe(results, "start")
    for row in rows:
        twin = _twin(row, rows, "signal", "reward")
        figures = ((row.get("twins") or {}).get(twin["name"]) or {}) if twin else {}
        factor = measured(figures.get("snr_ratio"))
        if twin is None or row.get("biased") or factor is None or factor.value <= 0:
            continue
        equal = f": no difference{_room(factor)}" if factor.covers(1.0) else ""
        return (
            f" All else equal, a teacher's grade at every token ({row['name']}) has "
            f"{times(factor)} the SNR per rollout of a reward at the end ({twin['name']}), each "
            f"for its own goal{equal}."
        )
    return ""


# ---------------------------------------------------------------- start against late


def start_or_late(results: Results) -> list[Advice]:
    """Whether the choice survives training: best rows and SNR at the start and late."""
    late = probe(results, "late")
    if not late:
        return [Advice("probes", "no late probe", "There is no late probe to compare with.")]
    before, after = by_goal(probe(results, "start")), by_goal(late)
    moved = [_moved(results, key, rows, after[key]) for key, rows in before.items() if key in after]
    return [item for item in moved if item is not None]


def _moved(
    results: Results, key: Goal, before: Sequence[Entry], after: Sequence[Entry]
) -> Advice | None:
    first = _best(key, before, pairs(results, "start", key))
    second = _best(key, after, pairs(results, "late", key))
    if not first.rows or not second.rows:
        return None
    row = first.rows[0]
    snr = [
        next((measured(e.get("snr")) for e in rows if e["name"] == row), None)
        for rows in (before, after)
    ]
    if set(first.rows) & set(second.rows):
        verdict = "same choice"
        both = [name for name in first.rows if name in second.rows]
        text = f"{key.label}: {_list(both)}, at the start and late."
    else:
        verdict = "changed"
        text = f"{key.label}: {_list(first.rows)} at the start, but late {_list(second.rows)}."
    if None not in snr and snr[0].value > 0:
        same = overlap(*snr)
        text += f" SNR per rollout of {row}: {prose(snr[0])}, late {prose(snr[1])}"
        text += "; not told apart." if same else "."
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
    return min((len(of_arm) for of_arm in counts.values()), default=0)


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Measured:
    """Mean and t interval over seeds, at 95 % unless said.

    No interval from a single one, nor from equal ones: accuracies on few prompts come in steps, and
    two that agree by chance have no spread to go by.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if len(set(values)) < 2:
        return Measured(mean)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (count - 1))
    half = t_quantile(count - 1, level) * deviation / math.sqrt(count)
    return Measured(mean, mean - half, mean + half)


def last(arm: Mapping[str, Any], key: str) -> Measured | None:
    """An arm's last known figure of one kind, null entries passed over."""
    known = [f for f in map(measured, arm.get(key) or []) if f is not None]
    return known[-1] if known else None


def training(results: Results) -> list[Advice]:
    """Where the arms ended, paired over their seeds; with one seed, that it settles nothing."""
    arms = results.get("training") or []
    if not arms:
        return []
    ends: dict[str, dict[str, dict[Any, float]]] = {}
    for arm in arms:
        for key in ("accuracy", "kl"):
            figure = last(arm, key)
            if figure is not None:
                of_arm = ends.setdefault(key, {}).setdefault(arm["name"], {})
                of_arm[arm.get("seed")] = figure.value
    if seeds(results) < 2:
        advice = [_one_seed(what, sign, arms, key) for key, what, sign, _ in ENDS if key in ends]
        rows = advice[0].rows if advice else ()
        return [*advice, Advice("training", "one seed", ONE_SEED, rows)] if advice else []
    return [_arms(what, sign, unit, ends[key]) for key, what, sign, unit in ENDS if key in ends]


ENDS = (("accuracy", "accuracy", 1, ""), ("kl", "sequence KL", -1, " nats"))


def _one_seed(what: str, sign: int, arms: Sequence[Mapping[str, Any]], key: str) -> Advice:
    figures = {arm["name"]: figure for arm in arms if (figure := last(arm, key)) is not None}
    return Advice("training", "one seed", _final(what, sign, figures, ""), tuple(figures))


def _final(what: str, sign: int, figures: Mapping[str, Measured], over: str) -> str:
    ranked = sorted(figures.items(), key=lambda pair: -sign * pair[1].value)
    listed = ", ".join(f"{name} {prose(figure)}" for name, figure in ranked)
    return f"Final {what}{over}: {listed}."


def _arms(what: str, sign: int, unit: str, ends: Mapping[str, Mapping[Any, float]]) -> Advice:
    """Arms by paired differences: arms of one seed have prompts and random keys in common."""
    figures = {name: over_seeds(list(by_seed.values())) for name, by_seed in ends.items()}
    count = min(len(by_seed) for by_seed in ends.values())
    text = _final(what, sign, figures, f" over {count} seeds")
    level = 1 - (1 - LEVEL) / max(len(list(itertools.combinations(ends, 2))), 1)
    best = max(figures, key=lambda name: sign * figures[name].value)
    tied, beaten = [], []
    for name in sorted(ends.keys() - {best}, key=lambda name: -sign * figures[name].value):
        common = [seed for seed in ends[best] if seed in ends[name]]
        gaps = [sign * (ends[best][seed] - ends[name][seed]) for seed in common]
        gap = over_seeds(gaps, level) if gaps else None
        if gap is not None and gap.known and gap.low > 0:
            beaten.append(f"{name} by {prose(gap)}{unit}")
        else:
            room = max(abs(gap.low), abs(gap.high)) if gap is not None and gap.known else None
            tied.append((name, _within(room, unit)))
    if len(ends) > 1:
        if tied:
            text += f" No difference from {best}: {_list([n + room for n, room in tied])}."
        if beaten:
            text += f" {best} is ahead of {_list(beaten)}."
        text += f" Paired over seeds{_corrected(len(ends))}."
    verdict = "no difference" if tied else "ahead"
    return Advice("training", verdict, text, (best, *(name for name, _ in tied)))


def _within(room: float | None, unit: str) -> str:
    return " (without an interval)" if room is None else f" (within {at_most(room)}{unit})"


def _corrected(rows: int) -> str:
    return f", corrected for {rows * (rows - 1) // 2} pairs" if rows > 2 else ""


# ---------------------------------------------------------------- warnings


def warnings(results: Results) -> list[Advice]:
    """What to keep in mind before believing the rest."""
    lines = results.get("warnings") or []
    advice = [Advice("warning", "from the run", str(line)) for line in lines]
    advice += _untrusted(results) + _tails(results) + _truncated(results) + broken_claims(results)
    if results.get("training") and seeds(results) < 2:
        advice.append(Advice("warning", "one seed", ONE_SEED))
    return advice


def _untrusted(results: Results) -> list[Advice]:
    advice = []
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
            advice.append(Advice("warning", "untrusted", text, _names(doubted)))
    return advice


def _tails(results: Results) -> list[Advice]:
    """Rows whose variance few of the groups make up; the absence of a sign promises nothing."""
    advice = []
    for name, when in (("start", "at the start"), ("late", "late")):
        rows = [e for e in probe(results, name) if e.get("heavy_tail")]
        if rows:
            shown = [f"{e['name']} ({e['effective_groups']:.0f})" for e in rows[:NAMED]]
            more = [f"{len(rows) - NAMED} more"] if len(rows) > NAMED else []
            text = (
                f"A sign of a heavy tail {when}, with how many prompt groups make up the row's "
                f"variance: {_list(shown + more)}. Rare groups that the sample lacks may add to it."
            )
            advice.append(Advice("warning", "heavy tail", text, _names(rows)))
    return advice


def _truncated(results: Results) -> list[Advice]:
    share = measured((results.get("rollouts") or {}).get("truncated"))
    if share is None or share.value <= TRUNCATED:
        return []
    text = f"{_share(share)} of the probe's rollouts were cut at the completion cap."
    return [Advice("warning", "truncated", text)]


def advise(results: Results) -> list[dict[str, Any]]:
    """All rules, most useful first, as plain dicts for `results.json`."""
    advice = [
        *best_rows(results),
        rl_or_distillation(results),
        *enumeration(results),
        *top_k(results),
        *biases(results),
        *discounts(results),
        *start_or_late(results),
        *training(results),
        *warnings(results),
    ]
    return [dataclasses.asdict(item) | {"rows": list(item.rows)} for item in advice]

"""The figures of the report, one function each: plain results in, a matplotlib Figure out.

Rows keep their colour in every figure; the colour says the family (who grades, and how the
expectation is taken), the label says the row. A dagger marks a row that is biased for its goal.
"""

from __future__ import annotations

import colorsys
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from opd.report.advice import best_rows, no_parts, seeds
from opd.report.choices import choose, over_best, pairs
from opd.report.goals import Entry, Goal, Results, by_goal, probe
from opd.report.measured import Measured, measured, prose

WIDTH = 10.0  # inches; the report's column at 96 dots per inch
ROW = 0.27  # inches of height for one row

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3a3f47",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7e9ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#5b616b",
    "ytick.color": "#3a3f47",
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "opd",
    "hatch.linewidth": 0.5,
}

# One hue for each family of rows; shades within it.
FAMILIES = {
    "enumerated": "#1f5fa8",
    "sampled": "#d9822b",
    "resampled": "#7d5ba6",
    "topk": "#2f8f6b",
    "soft": "#2a9db0",
    "reward": "#b8434e",
    "other": "#6b7280",
}
ACROSS, WITHIN, CROSS = "#5b7fa8", "#e0a458", "#a8505f"
START, LATE = "#1f5fa8", "#b0641a"
INK, FAINT = "#23272e", "#8a8f98"


def family(entry: Entry) -> str:
    """Which hue a row gets."""
    terms = (entry.get("axes") or {}).get("terms") or ()
    if any(term["signal"] == "reward" for term in terms):
        return "reward"
    if not terms or terms[0]["signal"] != "teacher":
        return "other"
    if terms[0]["divergence"] == "forward_kl":
        return "soft"
    return terms[0]["expectation"] if terms[0]["expectation"] in FAMILIES else "other"


def colours(results: Results) -> dict[str, tuple[float, float, float]]:
    """A colour for each row and each arm, by name; the same in every figure."""
    rows = {entry["name"]: family(entry) for entry in results.get("estimators") or []}
    arms = {arm["name"]: _relative(arm["name"], rows) for arm in results.get("training") or []}
    for name, relative in arms.items():
        rows.setdefault(name, rows.get(relative, "other"))
    members: dict[str, list[str]] = {}
    # The trained rows first: they get the strongest shades.
    for name in sorted(rows, key=lambda name: name not in arms and name not in arms.values()):
        if arms.get(name, name) == name:
            members.setdefault(rows[name], []).append(name)
    painted = {
        name: _shade(FAMILIES[kind], index, len(names))
        for kind, names in members.items()
        for index, name in enumerate(names)
    }
    return painted | {name: painted[relative] for name, relative in arms.items()}


def _relative(name: str, rows: Mapping[str, str]) -> str:
    """The probed row that an arm is: itself, or the first of its name with options, or itself."""
    if name in rows:
        return name
    return next((row for row in rows if row.split("@")[0] == name), name)


def _shade(colour: str, index: int, count: int) -> tuple[float, float, float]:
    hue, light, full = colorsys.rgb_to_hls(*to_rgb(colour))
    step = index / max(count - 1, 1) if count > 1 else 0.0
    return colorsys.hls_to_rgb(hue, light + step * (0.7 - light), full * (1 - 0.25 * step))


def label(entry: Entry) -> str:
    """The row's name, with a dagger where it is biased."""
    return f"{entry['name']} †" if entry.get("biased") else entry["name"]


# ---------------------------------------------------------------- rows under their goals


def _lay_out(
    entries: Sequence[Entry],
) -> tuple[list[tuple[float, Entry]], list[tuple[float, Goal]]]:
    """Heights of the rows and of the headings above each goal's rows, from the top down."""
    rows, headings, y = [], [], 0.0
    for key, members in by_goal(entries).items():
        headings.append((y, key))
        for entry in members:
            y -= 1.0
            rows.append((y, entry))
        y -= 1.25
    return rows, headings


def _canvas(entries: Sequence[Entry], panels: int, **options: Any) -> tuple[Figure, list[Axes]]:
    rows, headings = _lay_out(entries)
    height = ROW * (len(rows) + 1.25 * len(headings)) + 1.0
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False, **options)[0])
    axes[0].set_yticks([y for y, _ in rows], [label(entry) for _, entry in rows])
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
        ax.set_ylim(rows[-1][0] - 0.7, 0.6)
        for y, key in headings:
            ax.axhline(y - 0.35, color="#d5d8dd", linewidth=0.8)
            if ax is axes[0]:
                # Above the tick labels, where the eye enters the row.
                ax.annotate(
                    key.label,
                    (0, y),
                    xycoords=ax.get_yaxis_transform(),
                    xytext=(-4, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    weight="bold",
                    color=INK,
                    annotation_clip=False,
                )
    return figure, axes


def _interval(
    ax: Axes,
    y: float,
    figure: Measured | None,
    colour: Any,
    *,
    hollow: bool = False,
    why: str = "undefined",
    limits: tuple[float, float] | None = None,
    marker: str = "o",
) -> None:
    """A dot with its interval; cut at the axis with an arrow; a dash and a reason where null."""
    if figure is None:
        ax.annotate(
            f"– {why}",
            (0, y),
            xycoords=ax.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=FAINT,
            fontsize=8,
        )
        return
    left, right = limits if limits else (-math.inf, math.inf)
    if figure.low is not None and figure.high is not None:
        ends = min(max(figure.low, left), right), max(min(figure.high, right), left)
        ax.plot(ends, (y, y), color=colour, linewidth=2.0, solid_capstyle="butt", alpha=0.75)
        for end, edge, arrow in ((figure.low, left, "<"), (figure.high, right, ">")):
            if (end < edge) if arrow == "<" else (end > edge):
                ax.plot([edge], [y], arrow, color=colour, markersize=5, clip_on=False)
    if left <= figure.value <= right:
        face = "white" if hollow else colour
        ax.plot([figure.value], [y], marker, color=colour, markerfacecolor=face, markersize=5.5)


def _reason(entry: Entry, fallback: str = "undefined here") -> str:
    return textwrap.shorten(no_parts(entry) or fallback, 72, placeholder=" …")


# ---------------------------------------------------------------- signal to noise


def _drawable(end: float | None) -> bool:
    """Whether an end has a place on an axis."""
    return end is not None and math.isfinite(end)


def _log_limits(figures: Iterable[Measured | None]) -> tuple[float, float]:
    """Whole decades around the positive values and ends; an end near zero gets an arrow."""
    known = [f for f in figures if f is not None and f.value > 0]
    if not known:
        return 0.1, 10.0
    smallest = min(f.value for f in known)
    ends = [e for f in known for e in (f.low, f.high) if _drawable(e) and e > smallest / 30]
    marks = [f.value for f in known] + ends
    low, high = min(marks) / 1.3, max(marks) * 1.3
    if high / low < 10:  # at least one labelled decade
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
    return low, high


def _log_axis(ax: Axes, limits: tuple[float, float]) -> None:
    ax.set_xscale("log")
    ax.set_xlim(*limits)
    if 1e-4 <= limits[0] and limits[1] <= 1e5:  # else powers of ten
        ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def snr(results: Results, where: str) -> Figure:
    """SNR per rollout and per second, and the pairs that the choices rest on; log axes.

    Rows are sorted within their goal. The panel on the right has the SNR per second of each
    compared row over that of the goal's choice, on the same rollouts.
    """
    entries = probe(results, where)
    paint = colours(results)
    with matplotlib.rc_context(STYLE):
        over: dict[str, Measured] = {}
        for goal, members in by_goal(entries).items():
            compared = pairs(results, where, goal)
            over |= over_best(choose(members, compared), compared)
        chosen = {row for advice in best_rows(results, where) for row in advice.rows}
        widths = [1.0, 1.0, 0.8] if over else [1.0, 1.0]
        figure, axes = _canvas(entries, len(widths), width_ratios=widths)
        rows = _lay_out(entries)[0]
        for text, (_, entry) in zip(axes[0].get_yticklabels(), rows, strict=True):
            if entry["name"] in chosen:
                text.set(weight="bold", color=INK)
        titles = {"snr": "SNR per rollout", "snr_per_second": "SNR per second"}
        for ax, (key, title) in zip(axes, titles.items(), strict=False):
            limits = _log_limits(measured(e.get(key)) for e in entries)
            _log_axis(ax, limits)
            ax.set_title(title)
            for y, entry in rows:
                value = measured(entry.get(key))
                colour = paint[entry["name"]]
                if value is not None and value.value <= 0:
                    _null(ax, y, _estimate(value))
                    continue
                hollow = bool(entry.get("biased"))
                _interval(ax, y, value, colour, hollow=hollow, limits=limits)
        if over:
            _over_the_choice(axes[2], rows, over, chosen, paint)
    return figure


def _over_the_choice(
    ax: Axes,
    rows: Sequence[tuple[float, Entry]],
    over: Mapping[str, Measured],
    chosen: set[str],
    paint: Mapping[str, Any],
) -> None:
    limits = _log_limits(over.values())
    _log_axis(ax, limits)
    if limits[1] / limits[0] < 100:
        ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.set_title("Over the choice")
    ax.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    for y, entry in rows:
        name = entry["name"]
        if name in over:
            marker = "D" if name in chosen else "o"
            _interval(ax, y, over[name], paint[name], limits=limits, marker=marker)


def at_batch(results: Results, where: str) -> Figure | None:
    """How many times the choice's rollouts each row is predicted to need, against the batch size.

    A panel a goal. None where nothing is compared.
    """
    panels = []
    for goal, members in by_goal(probe(results, where)).items():
        compared = pairs(results, where, goal)
        best = choose(members, compared).best
        names = [entry["name"] for entry in members if not entry.get("biased")]
        curves = {name: compared.rollouts(name, best) for name in names if best not in (None, name)}
        if any(curves.values()):
            panels.append((goal, best, compared.batch, curves))
    if not panels:
        return None
    paint = colours(results)
    with matplotlib.rc_context(STYLE):
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(WIDTH, 3.1 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for ax in axes[len(panels) :]:
            ax.remove()
        for ax, (goal, best, batch, curves) in zip(axes, panels, strict=False):
            for name, curve in curves.items():
                _band(ax, list(curve), list(curve.values()), paint[name], label=name)
            ax.axhline(1.0, color=paint[best], linewidth=1.6, label=best)
            ax.axvline(batch, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0)))
            ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
            ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            ax.set_title(goal.label)
            ax.set_xlabel("rollouts of an update")
            ax.set_ylabel("rollouts, over the choice's")
            ax.legend(fontsize=8, loc="upper right")
    return figure


def _estimate(value: Measured) -> str:
    return f"estimate {prose(value)}".replace("-", "−")


def _null(ax: Axes, y: float, text: str) -> None:
    _interval(ax, y, None, FAINT, why=text)


# ---------------------------------------------------------------- decomposition


def decomposition(results: Results, where: str) -> Figure:
    """Parts of the variance as shares of each row's own total, and the totals, log axis."""
    entries = probe(results, where)
    paint = colours(results)
    with matplotlib.rc_context(STYLE):
        figure, (parts, totals) = _canvas(entries, 2, width_ratios=[1.7, 1.0])
        rows = _lay_out(entries)[0]
        reach = [_stack(parts, y, entry) for y, entry in rows]
        left = min(0.0, *(low for low, _ in reach))
        right = max(100.0, *(high for _, high in reach))
        parts.set_xlim(left - 3, right + 3)
        parts.axvline(0, color="#5b616b", linewidth=0.9)
        parts.set_title("Where the variance comes from, % of the row's total")
        legend = [
            Patch(color=ACROSS, label="across rollouts"),
            Patch(color=WITHIN, label="within (the choice of token)"),
            Patch(color=CROSS, label="cross (either sign)"),
            Line2D([], [], color=INK, marker="|", linestyle="", markersize=10, label="total"),
            Patch(facecolor="white", edgecolor="#b5bac2", hatch="////", label="no parts"),
        ]
        figure.legend(handles=legend, loc="outside lower center", ncols=5, fontsize=8.5)

        values = [measured((e.get("variance") or {}).get("total")) for _, e in rows]
        limits = _log_limits(values)
        _log_axis(totals, limits)
        totals.set_title("Variance of one rollout")
        for (y, entry), value in zip(rows, values, strict=True):
            if value is not None and value.value <= 0:
                _null(totals, y, _estimate(value))
            else:
                hollow = bool(entry.get("biased"))
                _interval(totals, y, value, paint[entry["name"]], hollow=hollow, limits=limits)
    return figure


def _stack(ax: Axes, y: float, entry: Entry) -> tuple[float, float]:
    """One row's bar; returns how far it reaches to the left and to the right, in percent."""
    variance = entry.get("variance") or {}
    total = measured(variance.get("total"))
    parts = {key: measured(variance.get(key)) for key in ("across", "within", "cross")}
    if total is None or total.value <= 0 or None in parts.values():
        why = _reason(entry, "no parts for this row")
        ax.barh(y, 100, 0.62, color="white", edgecolor="#c9cdd3", hatch="////", linewidth=0.6)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        ax.text(2, y, why, ha="left", va="center", fontsize=7.5, color="#5b616b", bbox=box)
        return 0.0, 100.0
    left = right = 0.0
    for key, colour in (("across", ACROSS), ("within", WITHIN), ("cross", CROSS)):
        share = 100 * parts[key].value / total.value
        ax.barh(y, share, 0.62, left=right if share > 0 else left, color=colour)
        if share > 0:
            right += share
        else:
            left += share
    # Where the signed parts end up: at 100 % if they add up to the total, as they should.
    ax.plot([left + right], [y], "|", color=INK, markersize=13, markeredgewidth=1.6)
    return left, right


# ---------------------------------------------------------------- bias


def bias(results: Results, where: str) -> Figure | None:
    """Relative error and cosine to the reference row; None where no row has a reference."""
    entries = [e for e in probe(results, where) if e.get("reference") not in (None, e["name"])]
    if not entries:
        return None
    paint = colours(results)
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(entries, 2)
        rows = _lay_out(entries)[0]
        titles = {"relative_error": ("Relative error (0: same expectation)", 0.0)}
        titles |= {"cosine": ("Cosine (1: same direction)", 1.0)}
        for ax, (key, (title, line)) in zip(axes, titles.items(), strict=True):
            values = [measured(entry.get(key)) for _, entry in rows]
            limits = _bias_axis(ax, values, line)
            ax.axvline(line, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            ax.set_title(title)
            for (y, entry), value in zip(rows, values, strict=True):
                hollow = bool(entry.get("biased"))
                why = "not bounded" if entry.get(key) else "undefined"
                _interval(ax, y, value, paint[entry["name"]], hollow=hollow, limits=limits, why=why)
        for y, entry in rows:
            axes[-1].annotate(
                f"vs {entry['reference']}",
                (1, y),
                xycoords=axes[-1].get_yaxis_transform(),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=FAINT,
                fontsize=8,
                annotation_clip=False,
            )
    return figure


def _bias_axis(ax: Axes, values: Sequence[Measured | None], line: float) -> tuple[float, float]:
    """Linear around the line; symmetric-log where one noisy row would flatten the others."""
    ends = [e for f in values if f for e in (f.value, f.low, f.high) if _drawable(e)]
    if line == 1.0:
        limits = max(min([*ends, 0.0]) - 0.05, -1.1), min(max([*ends, 1.0]) + 0.05, 1.3)
    else:
        limits = min([*ends, -0.1]) * 1.1, max([*ends, 0.1]) * 1.1
        if max(-limits[0], limits[1]) > 3:
            ax.set_xscale("symlog", linthresh=0.5, linscale=1.2)
            top = math.ceil(math.log10(max(-limits[0], limits[1])))
            decades = [10.0**n for n in range(0, top + 1)]
            ticks = [0.0, 0.5, *decades]
            ticks = sorted({sign * t for t in ticks for sign in (-1.0, 1.0)})
            ticks = [t for t in ticks if limits[0] <= t <= limits[1]]
            ax.set_xticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
            ax.minorticks_off()
    ax.set_xlim(*limits)
    return limits


# ---------------------------------------------------------------- along the completion


def by_position(results: Results) -> Figure | None:
    """KL and both entropies against the position in the completion, start and late."""
    probes = {k: v for k, v in (results.get("by_position") or {}).items() if v}
    if not probes:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        paint = {"start": START, "late": LATE}
        for name, curves in probes.items():
            where, colour = curves.get("position") or [], paint.get(name, FAINT)
            _band(left, where, curves.get("kl"), colour, label=name)
            _band(right, where, curves.get("entropy_student"), colour, label=f"student, {name}")
            _band(right, where, curves.get("entropy_teacher"), colour, "--", f"teacher, {name}")
        left.set_title("KL(student ‖ teacher), nats")
        right.set_title("Entropy, nats")
        for ax in (left, right):
            ax.set_xlabel("position in the completion")
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            _cut_bands(ax)
            ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
            ax.legend(fontsize=8.5)
    return figure


def _band(
    ax: Axes,
    x: Sequence[float],
    figures: Sequence[Any] | None,
    colour: Any,
    line: str = "-",
    label: str | None = None,
    marker: str | None = None,
) -> bool:
    """A line with its interval as a band; nulls leave a gap. False where nothing is known."""
    values = [measured(figure) for figure in figures or []]
    if not any(values):
        return False
    nan = math.nan
    middle = [nan if f is None else f.value for f in values]
    ax.plot(x, middle, line, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3)
    low = [f.low if f and _drawable(f.low) else nan for f in values]
    high = [f.high if f and _drawable(f.high) else nan for f in values]
    ax.fill_between(np.asarray(x, float), low, high, color=colour, alpha=0.14, linewidth=0)
    return True


def _cut_bands(ax: Axes) -> None:
    """Ends the axis at three times the highest line: two prompts bound a mean hardly at all."""
    lines = np.concatenate([line.get_ydata() for line in ax.get_lines()] or [[]]).astype(float)
    highest = np.max(lines[np.isfinite(lines)], initial=0.0)
    if 0 < 3 * highest < ax.get_ylim()[1]:
        ax.set_ylim(top=3 * highest)


# ---------------------------------------------------------------- learning curves

CURVES = {
    "accuracy": "Accuracy, sampled",
    "accuracy_greedy": "Accuracy, greedy",
    "kl": "Sequence KL, nats",
}


def learning(results: Results) -> Figure | None:
    """Accuracy and KL of every arm against rollouts (top) and seconds (bottom)."""
    arms = results.get("training") or []
    if not arms:
        return None
    paint = colours(results)
    many = seeds(results) > 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
        grid = figure.subplots(2, len(CURVES), sharey="col")
        lines: dict[str, Line2D] = {}
        for row, x_key in zip(grid, ("rollouts", "seconds"), strict=True):
            for ax, (key, title) in zip(row, CURVES.items(), strict=True):
                ax.set_xlabel("rollouts" if x_key == "rollouts" else "seconds of training")
                if x_key == "rollouts":
                    ax.set_title(title)
                drawn = [_arm(ax, arm, x_key, key, paint, many) for arm in arms]
                lines |= {arm["name"]: _handle(paint, arm) for arm in arms}
                _dress(ax, key, results, any(drawn))
        handles = list(lines.values())
        if _teacher(results) is not None:
            dotted = Line2D([], [], color=INK, linestyle=":", label="teacher, sampled")
            handles.append(dotted)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    return figure


def _handle(paint: Mapping[str, Any], arm: Mapping[str, Any]) -> Line2D:
    return Line2D([], [], color=paint[arm["name"]], linewidth=2, label=arm["name"])


def _arm(
    ax: Axes, arm: Mapping[str, Any], x_key: str, key: str, paint: Mapping[str, Any], many: bool
) -> bool:
    figures = arm.get(key) or []
    if many:  # bands of several seeds would hide each other
        figures = [f.value if (f := measured(figure)) else None for figure in figures]
    marker = "o" if len(figures) <= 25 and not many else None
    return _band(ax, arm.get(x_key) or [], figures, paint[arm["name"]], marker=marker)


def _teacher(results: Results) -> Measured | None:
    return measured(((results.get("models") or {}).get("teacher") or {}).get("accuracy"))


def _dress(ax: Axes, key: str, results: Results, drawn: bool) -> None:
    if not drawn:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=FAINT)
        ax.set_yticks([])
        return
    if key == "kl":
        _log_if_wide(ax)
        _cut_bands(ax)
        return
    ax.set_ylim(0, 1.02)
    teacher = _teacher(results)
    if key == "accuracy" and teacher is not None:
        ax.axhline(teacher.value, color=INK, linestyle=":", linewidth=1.1)


def _log_if_wide(ax: Axes) -> None:
    values = np.concatenate([line.get_ydata() for line in ax.get_lines()]).astype(float)
    values = values[np.isfinite(values)]
    if (values > 0).all() and values.max() > 8 * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    else:
        ax.set_ylim(bottom=min(0.0, float(values.min())))


# ---------------------------------------------------------------- all of them


def draw(results: Results) -> dict[str, Figure]:
    """Every figure that the results have numbers for, by file name."""
    drawn: dict[str, Figure | None] = {}
    drawings: Mapping[str, Callable[[Results, str], Figure | None]] = {
        "snr": snr,
        "at_batch": at_batch,
        "decomposition": decomposition,
        "bias": bias,
    }
    for where in ("start", "late"):
        if probe(results, where):
            drawn |= {
                f"{name}_{where}": draw_one(results, where) for name, draw_one in drawings.items()
            }
    drawn["by_position"] = by_position(results)
    drawn["learning"] = learning(results)
    return {name: figure for name, figure in drawn.items() if figure is not None}

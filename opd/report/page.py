"""The report: one self-contained page, its figures, and the same table for the terminal.

Everything is computed from the `results.json` dict; nothing here measures anything. The page needs
no network and no scripts: styles and figures are inlined.
"""

from __future__ import annotations

import base64
import io
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import matplotlib
import rich.box
import rich.table
import rich.text
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

from opd.disk import read_jsonl, replace_file
from opd.measure.intervals import MIN_COMPARED_GROUPS
from opd.report import advice as rules
from opd.report import figures as drawings
from opd.report.choices import choose, over_best, pairs
from opd.report.goals import Entry, Results, by_goal, probe
from opd.report.measured import BARE, DASH, NOT_BOUNDED, measured, prose, written

DPI = 150
SAMPLES = 8  # records of samples.jsonl that the page shows
SAMPLE_LETTERS = 400
ESS_LABELS = {"start": "start's rollouts, start's parameters"}

TOPICS = (
    ("rl or distillation", "RL or distillation"),
    ("enumeration", "Enumerate or sample"),
    ("topk", "Top-k"),
    ("bias", "Bias"),
    ("gamma", "Discount"),
    ("probes", "Start and late"),
    ("training", "Training"),
)

NOTES = (
    (
        "Variance of one rollout",
        "The trace of the covariance of the gradient, scaled to one rollout: group size times the "
        "trace of the covariance of a prompt group's mean gradient. An update over N rollouts has "
        "1/N of it. Every row uses one reduction: sum over tokens, mean over rollouts.",
    ),
    (
        "SNR per rollout",
        "|mean gradient|² / variance of one rollout, bias-corrected. With N rollouts an update has "
        "N times as much; 1/SNR rollouts make signal and noise equally long.",
    ),
    (
        "SNR per second",
        "SNR per rollout divided by the seconds of a rollout: what to compare rows by.",
    ),
    (
        "Over the choice",
        "A row's SNR per second over that of the row that is chosen for its goal. Rows that are "
        "unbiased for one goal have one mean gradient, so that this is the ratio of their "
        "variances, inverted, times that of their seconds. Both are paired: the same rollouts, the "
        "same repeats of the clock. So it is known far better than the two rows' own figures, and "
        "may order rows otherwise than these do where they are noisy.",
    ),
    (
        "ms per rollout",
        "Wall time of a whole update with this row alone (rollout, teacher, student forward and "
        "backward), over its rollouts; the median of interleaved repeats.",
    ),
    (
        "FLOPs, peak memory",
        "Floating-point operations of the matrix products of that update, over its rollouts; the "
        "compiled program's peak.",
    ),
    (
        "Across, within, cross",
        "total = tr Var(G) + Σ E tr Var(h_t | s_t) + 2 Σ E⟨D_t, g_t'⟩ for t < t', with h_t the "
        "sampled term, g_t its expectation given the state, D_t = h_t − g_t, G = Σ g_t. Rows whose "
        "weight holds the future or other rollouts have no such parts.",
    ),
    (
        "Relative error",
        "|E g − E g_ref| / |E g_ref| to the reference row, from products of disjoint rollouts. 0 "
        "means the same expectation. Its square is what is estimated, and an estimate of a square "
        "may fall below zero: it is shown as −√|·|. Its interval is a Fieller set: where the "
        "reference can't be told from zero it is open above, or not bounded.",
    ),
    (
        "Cosine",
        "⟨E g, E g_ref⟩ / (|E g| |E g_ref|), likewise, less its bias; an estimate may pass 1.",
    ),
    (
        "Over the proxy",
        "The variance of one rollout over the mean of Σ |dJ/dlogits|² over its tokens. The latter "
        "is often taken for the former: it needs no backward pass through the model, and takes "
        "tokens as uncorrelated. Where the ratio differs between rows, the proxy misjudges what "
        "one gains on another by as much.",
    ),
    (
        "Goal",
        "What a row is unbiased for: the myopic KL (γ = 0, each state for itself), a discounted "
        "one, the KL between whole sequences (γ = 1), another divergence with its argument, the "
        "reward, or a sum of these with its coefficients. Rows of different goals are different "
        "objectives, and their SNRs do not rank them.",
    ),
    (
        "Intervals",
        "95 %, by a jackknife over prompt groups, the unit of independence; over evaluation "
        "prompts for learning curves. Whether they are to be trusted (‡) is a matter of how many "
        "groups there are and of the row's kind, never of the sample.",
    ),
    (
        "Heavy tail",
        "Less than a tenth of the prompt groups make up a row's variance. That is a sign; without "
        "one the tail may still be there, in rare groups that the sample lacks.",
    ),
    (
        "No difference",
        "The interval of a paired ratio covers 1; “within 1.3 times” is the largest difference "
        "that it leaves room for. The ratios of all pairs of a goal hold together: their intervals "
        "are corrected for the number of pairs, 95 % for all at once. With fewer than "
        f"{MIN_COMPARED_GROUPS} prompt "
        "groups no rows are compared. Arms of a training are paired over their seeds, "
        "corrected likewise.",
    ),
    (
        "Digest",
        "A hash of the probe's tokens: two runs with one digest saw the same rollouts.",
    ),
)


# ---------------------------------------------------------------- numbers in HTML


def _typeset(text: str) -> markupsafe.Markup:
    """1.2e-5 as 1.2×10⁻⁵, hyphens as minus signs."""
    mantissa, _, power = text.partition("e")
    mantissa = mantissa.replace("-", "−")
    if not power:
        return markupsafe.Markup(mantissa)
    return markupsafe.Markup(f"{mantissa}×10<sup>{power.replace('-', '−')}</sup>")


def _cell(figure: Any, scale: float = 1.0) -> markupsafe.Markup:
    """A value over its interval; a dash where undefined."""
    figure = measured(figure)
    value, low, high = written(figure and figure.scaled(scale))
    html = _typeset(value)
    if value == DASH or DASH in (low, high):
        return html
    if {low, high} <= BARE:
        return html + markupsafe.Markup(f"<small>{NOT_BOUNDED}</small>")
    power = value.partition("e")[2]
    ends = ", ".join(_typeset(end.partition("e")[0]) for end in (low, high))
    suffix = _typeset(f"e{power}") if power else ""
    return html + markupsafe.Markup(f"<small>[{ends}]{suffix}</small>")


def _naming(names: Iterable[str]):
    """A filter that sets row names in code type; everything else is escaped."""
    longest_first = sorted({str(markupsafe.escape(name)) for name in names}, key=len, reverse=True)
    # A name ends where no further letter of a longer, unknown name follows.
    pattern = "|".join(re.escape(name) for name in longest_first)
    named = re.compile(rf"(?<![\w@=])(?:{pattern})(?![\w@=])") if longest_first else None

    def rows(text: Any) -> markupsafe.Markup:
        html = re.sub(r"(?<=[(\s])-(?=\d)", "−", str(markupsafe.escape(text)))
        html = re.sub(r"(\d)e(-?\d+)\b", lambda m: m[1] + str(_typeset("e" + m[2])), html)
        if named is not None:
            html = named.sub(lambda match: f"<code>{match[0]}</code>", html)
        return markupsafe.Markup(html)

    return rows


# ---------------------------------------------------------------- what the page says


def _advice(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """The advice by topic; computed here where the results do not hold it yet."""
    topics: dict[str, list[Mapping[str, Any]]] = {name: [] for name, _ in TOPICS}
    topics |= {"goal": [], "warning": []}
    for item in results.get("advice") or rules.advise(results):
        topics.setdefault(item["topic"], []).append(item)
    return topics


def _answers(results: Results, advice: Mapping[str, list]) -> list[dict[str, Any]]:
    """One line for each goal: what to use, its SNR per second, and why."""
    goals = {key.label: key for key in by_goal(probe(results, "start"))}
    rows = {entry["name"]: entry for entry in probe(results, "start")}
    answers = []
    for item in advice["goal"]:
        names = item["rows"]
        figure = f"{prose(rows[names[0]]['snr_per_second'])} SNR per second" if names else ""
        answers.append(
            {
                "label": item["goal"],
                "meaning": goals[item["goal"]].meaning,
                "use": names[0] if names else "no choice",
                "others": f"or {' or '.join(names[1:])}" if names[1:] else "",
                "figure": figure,
                "why": item["why"],
            }
        )
    return answers


def _headlines(advice: Mapping[str, list]) -> list[tuple[str, str]]:
    """The first word on each topic; the rest stands in its own section."""
    lines = []
    for topic, title in TOPICS:
        items = advice[topic]
        if not items or items[0]["verdict"] == "no late probe":
            continue
        if topic == "bias":
            lines.append((title, _biased(items)))
        elif topic == "training":
            lines.append((title, " ".join(dict.fromkeys(item["text"] for item in items))))
        elif topic == "gamma":
            order = ("differs", "aligned", "not settled", "not measured")
            lines.append((title, min(items, key=lambda i: order.index(i["verdict"]))["text"]))
        else:
            lines.append((title, items[0]["text"]))
    return lines


def _biased(items: Sequence[Mapping[str, Any]]) -> str:
    words = {
        "detected": "Biased, and it shows at this number of rollouts",
        "not detected": "Biased by construction, but too little to show here",
        "not measured": "Biased by construction, not measured",
    }
    listed = {
        verdict: [row for item in items if item["verdict"] == verdict for row in item["rows"]]
        for verdict in words
    }
    return " ".join(f"{words[v]}: {', '.join(rows)}." for v, rows in listed.items() if rows)


CELLS = (
    "snr",
    "snr_per_second",
    "total_per_logit_square",
    "relative_error",
    "cosine",
    "seconds",
    "flops",
    "bytes",
)
CELLS += ("biased", "trusted", "trusted_from", "heavy_tail", "effective_groups", "reference")


def _whole(row: Entry) -> dict[str, Any]:
    return dict.fromkeys(("total", "across", "within", "cross")) | dict(row.get("variance") or {})


def _groups(results: Results, where: str) -> list[dict[str, Any]]:
    """The rows of each goal, which are chosen, and their SNR per second over the choice's."""
    chosen = {item.goal: item.rows for item in rules.best_rows(results, where)}
    groups = []
    for goal, entries in by_goal(probe(results, where)).items():
        compared = pairs(results, where, goal)
        over = over_best(choose(entries, compared), compared)
        rows = [
            dict.fromkeys(CELLS)
            | dict(row)
            | {"variance": _whole(row), "over": over.get(row["name"])}
            for row in entries
        ]
        groups.append({"label": goal.label, "rows": rows, "chosen": chosen.get(goal.label, ())})
    return groups


def _remarks(results: Results) -> list[tuple[str, str]]:
    """Each note of the table once, with the rows that it is about."""
    notes: dict[str, dict[str, None]] = {}
    for entry in results.get("estimators") or []:
        if entry.get("note"):
            notes.setdefault(str(entry["note"]), {})[entry["name"]] = None
    return [(", ".join(names), note) for note, names in notes.items()]


def _trust(results: Results) -> str:
    """From how many prompt groups on intervals may be trusted; empty where no row says so."""
    needed: dict[str, int] = {}
    for entry in results.get("estimators") or []:
        if entry.get("trusted_from"):
            needed[entry["name"]] = max(needed.get(entry["name"], 0), entry["trusted_from"])
    if not needed:
        return ""
    least, row = min(needed.values()), max(needed, key=needed.get)
    text = f"Intervals may be trusted from {least} prompt groups on"
    if needed[row] > least:
        text += "; those of rows whose weights add up or multiply over tokens "
        text += f"from {needed[row]} on"
    groups = (results.get("rollouts") or {}).get("groups")
    return f"{text}. There are {groups}." if groups else f"{text}."


def _ess(results: Results) -> dict[str, Any] | None:
    """ESS / N: a row for each pair of rollouts and parameters, a column for each log-ratio."""
    weighed = results.get("ess") or {}
    kinds = list(dict.fromkeys(kind for ratios in weighed.values() for kind in ratios))
    if not kinds:
        return None
    return {
        "kinds": [kind.replace("_", " ") for kind in kinds],
        "rows": [
            (ESS_LABELS.get(where, where), [ratios.get(kind) for kind in kinds])
            for where, ratios in weighed.items()
        ],
    }


def _unit(values: Iterable[Any], units: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """The largest unit in which the largest value is at least 1."""
    largest = max((figure.value for v in values if (figure := measured(v))), default=0.0)
    size, unit = next(((s, u) for s, u in units if largest >= s), units[-1])
    return {"scale": 1 / size, "unit": unit}


FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP"))
BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


def _arms(results: Results) -> list[dict[str, Any]]:
    """Where each arm ended."""
    ended = []
    for arm in results.get("training") or []:
        ends = {
            key: rules.last(arm, key) for key in ("accuracy", "accuracy_greedy", "kl", "length")
        }
        ended.append(
            ends
            | {
                "name": arm["name"],
                "seed": arm.get("seed"),
                "learning_rate": arm.get("learning_rate"),
                "rollouts": (arm.get("rollouts") or [DASH])[-1],
                "seconds": rules.last(arm, "seconds"),
            }
        )
    return ended


def _learning_caption(results: Results) -> str:
    count = rules.seeds(results)
    start = "Every arm from one start with one optimizer, on the same prompts and keys. "
    if count < 2:
        start += (
            "Bands are 95 % intervals over evaluation prompts. "
            "One seed: this settles nothing between arms."
        )
    else:
        start += f"One line for each of {count} seeds; the figures above are over seeds."
    return f"{start}{_rates(results)}"


def _rates(results: Results) -> str:
    """How the learning rate was set, and the grid if there was one; empty where nothing says so."""
    how = results.get("learning_rate")
    if not how:
        return ""
    grid = ((results.get("config") or {}).get("compare") or {}).get("learning_rates") or ()
    listed = f" ({', '.join(f'{rate:g}' for rate in grid)})" if len(grid) > 1 else ""
    return f" Learning rate: {how}{listed}."


def _facts(results: Results) -> str:
    rollouts = results.get("rollouts") or {}
    environment = results.get("environment") or {}
    facts = []
    if rollouts.get("count"):
        facts.append(f"{rollouts['count']:,} rollouts".replace(",", " "))
    if rollouts.get("groups") and rollouts.get("group_size"):
        facts.append(f"{rollouts['groups']} prompt groups of {rollouts['group_size']}")
    if (length := measured(rollouts.get("mean_length"))) is not None:
        facts.append(f"mean length {written(length.value)[0]} tokens")
    names = dict.fromkeys(entry["name"] for entry in results.get("estimators") or [])
    facts.append(f"{len(names)} estimators")
    if results.get("training"):
        arms = dict.fromkeys(arm["name"] for arm in results["training"])
        seeds = rules.seeds(results)
        facts.append(f"{len(arms)} trained arms, {seeds} seed{'s' * (seeds != 1)}")
    if environment.get("device"):
        facts.append(str(environment["device"]))
    return " · ".join(facts)


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as dotted keys and readable values."""
    if isinstance(tree, Mapping) and tree:
        return [
            pair
            for key, value in tree.items()
            for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(tree, float):
        return [(prefix, f"{tree:.6g}")]
    if isinstance(tree, (list, tuple)):
        return [(prefix, ", ".join(str(item) for item in tree))]
    return [(prefix, DASH if tree is None else str(tree))]


def _setting(results: Results) -> list[tuple[str, str]]:
    """Rollouts and models, figures with their intervals."""

    def show(tree: Mapping[str, Any]) -> dict[str, Any]:
        figures = {"value", "low", "high"}
        return {
            key: prose(value)
            if isinstance(value, Mapping) and set(value) == figures
            else show(value)
            if isinstance(value, Mapping)
            else value
            for key, value in tree.items()
        }

    both = {key: show(results.get(key) or {}) for key in ("rollouts", "models")}
    return _flat({key: value for key, value in both.items() if value})


def _samples(results: Results, workdir: pathlib.Path) -> dict[str, list] | None:
    """The last records of each arm in samples.jsonl, in the columns of the first; None without any.

    Of an arm that tried several learning rates, those of the one that was chosen.
    """
    path = workdir / "samples.jsonl"
    chosen = {
        (arm["name"], arm.get("seed")): arm.get("learning_rate")
        for arm in results.get("training") or []
    }
    by_arm: dict[str, list] = {}
    for record in read_jsonl(path) if path.exists() else []:
        rate = chosen.get((record.get("arm"), record.get("seed")))
        if rate is None or record.get("learning_rate", rate) == rate:
            by_arm.setdefault(str(record.get("arm")), []).append(record)
    if not by_arm:
        return None
    each = max(1, SAMPLES // len(by_arm))
    shown = [record for records in by_arm.values() for record in records[-each:]][:SAMPLES]
    keys = list(shown[0])
    return {"columns": keys, "records": [[_brief(r.get(key)) for key in keys] for r in shown]}


def _brief(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= SAMPLE_LETTERS else text[:SAMPLE_LETTERS] + " …"


def _contents(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    sections = (
        ("summary", "Which estimator", True),
        ("estimators", "All estimators", page["groups"]["start"]),
        ("variance", "Variance", page["groups"]["start"]),
        ("bias", "Bias", "bias_start" in page["figures"] or page["advice"]["bias"]),
        ("position", "Along the completion", "by_position" in page["figures"]),
        ("training", "Learning curves", page["arms"]),
        ("samples", "Samples", page["samples"]),
        ("reading", "How to read it", True),
        ("setting", "Configuration", True),
    )
    return [(anchor, title) for anchor, title, present in sections if present]


# ---------------------------------------------------------------- the page


def page(results: Results, figures: Mapping[str, str], workdir: pathlib.Path) -> str:
    """The report as HTML; `figures` maps names to data URIs."""
    entries = list(results.get("estimators") or [])
    advice = _advice(results)
    names = [entry["name"] for entry in entries]
    names += [arm["name"] for arm in results.get("training") or []]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"figure": _cell, "rows": _naming(names)}
    context: dict[str, Any] = {
        "facts": _facts(results),
        "figures": figures,
        "advice": advice,
        "answers": _answers(results, advice),
        "headlines": _headlines(advice),
        "groups": {where: _groups(results, where) for where in ("start", "late")},
        "remarks": _remarks(results),
        "flops": _unit((entry.get("flops") for entry in entries), FLOPS),
        "bytes": _unit((entry.get("bytes") for entry in entries), BYTES),
        "trust": _trust(results),
        "ess": _ess(results),
        "arms": _arms(results),
        "learning_caption": _learning_caption(results),
        "samples": _samples(results, workdir),
        "notes": NOTES,
        "setting": _setting(results),
        "config": _flat(results.get("config") or {}),
        "environment": _flat(results.get("environment") or {}),
    }
    context["contents"] = _contents(context)
    return environment.get_template("page.html.j2").render(context)


def write(results: Results, workdir: str | os.PathLike) -> pathlib.Path:
    """Writes figures/*.png and report.html; returns the report's path."""
    workdir = pathlib.Path(workdir)
    (workdir / "figures").mkdir(parents=True, exist_ok=True)
    inlined = {}
    for name, figure in drawings.draw(results).items():
        png, svg = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(drawings.STYLE):
            # Canvases by name: no display, no global pyplot state, whatever the user's backend.
            FigureCanvasAgg(figure)
            figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
            figure.set_layout_engine("none")  # laid out once; doing it again is half the time
            FigureCanvasSVG(figure)
            figure.savefig(svg, format="svg", metadata={"Date": None})
        replace_file(workdir / "figures" / f"{name}.png", png.getvalue())
        encoded = base64.b64encode(svg.getvalue()).decode()
        inlined[name] = f"data:image/svg+xml;base64,{encoded}"
    path = workdir / "report.html"
    replace_file(path, page(results, inlined, workdir).encode())
    return path


# ---------------------------------------------------------------- the terminal


def table(results: Results) -> rich.table.Table:
    """The estimators, under their goals, in 100 columns: `rich.print(table(results))`."""
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("estimator", overflow="fold")
    for title in ("SNR/rollout", "SNR/second", "over choice", "rel. error"):
        shown.add_column(title, justify="right", no_wrap=True)
    for where in ("start", "late"):
        for group in _groups(results, where):
            shown.add_section()
            shown.add_row(rich.text.Text(f"{group['label']} ({where})", style="bold"))
            for row in group["rows"]:
                shown.add_row(*_terminal_row(row, row["name"] in group["chosen"]))
    shown.caption = (
        "95 % intervals below each figure. † biased for its goal; – undefined; bold: the choice "
        "for the goal, and what is no different. Over choice: SNR per second over the choice's, "
        "paired on the same rollouts, corrected for the number of pairs."
    )
    return shown


def _terminal_row(row: Entry, chosen: bool) -> list[rich.text.Text]:
    name = rich.text.Text(drawings.label(row), style="bold" if chosen else "")
    figures = [row.get(key) for key in ("snr", "snr_per_second", "over", "relative_error")]
    return [name, *map(_stacked, figures)]


def _stacked(figure: Any) -> rich.text.Text:
    value, low, high = written(figure)
    text = rich.text.Text(value)
    if value != DASH and DASH not in (low, high):
        text.append(f"\n{NOT_BOUNDED if {low, high} <= BARE else f'{low}, {high}'}", style="dim")
    return text

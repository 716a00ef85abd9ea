import html.parser
import itertools
import re

import made_up
import numpy as np
import pytest
import rich.console
from matplotlib.backends.backend_agg import FigureCanvasAgg

from opd.disk import JsonlWriter
from opd.report import figures
from opd.report import page as report


class Page(html.parser.HTMLParser):
    """What a browser would see: text, ids, links, and everything that is loaded."""

    def __init__(self, text: str):
        super().__init__()
        self.words, self.ids, self.links, self.loads, self.tags = [], set(), [], [], []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self._open.append(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" else []
        self.loads += [v for k, v in attributes if k in ("src", "href") and tag != "a"]

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def samples(workdir, arms=("opd", "grpo"), seeds=(0,), rates=(3e-4,), updates=(0, 10)):
    """A samples.jsonl as the arms of a comparison write it, three completions an evaluation."""
    with JsonlWriter(workdir / "samples.jsonl") as writer:
        for seed, arm, rate, update in itertools.product(seeds, arms, rates, updates):
            for number in range(3):
                where = {"arm": arm, "seed": seed, "update": update, "learning_rate": rate}
                shown = {"prompt": "<script>1</script>", "completion": f"{arm} {update} {number}"}
                writer.write(where | shown | {"answer": "12", "reward": 1.0})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of made-up results, with samples that try to break the page."""
    workdir = tmp_path_factory.mktemp("made_up")
    samples(workdir, updates=range(5))
    path = report.write(made_up.results(), workdir)
    return workdir, path.read_text()


@pytest.fixture(scope="module")
def rough(tmp_path_factory):
    """A report of results in which whatever can be missing or out of scale is."""
    workdir = tmp_path_factory.mktemp("rough")
    return Page(report.write(made_up.rough(), workdir).read_text())


def test_the_page_is_self_contained(written):
    page = Page(written[1])
    assert page.loads and all(load.startswith("data:image/") for load in page.loads)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in written[1] and "@import" not in written[1]
    assert not re.search(r"https?://", written[1])


def test_every_link_of_the_contents_has_its_section(written):
    page = Page(written[1])
    assert len(page.links) == 9
    assert all(link.removeprefix("#") in page.ids for link in page.links)


def test_every_row_and_figure_is_there(written):
    workdir, text = written
    page = Page(text)
    for row in made_up.rows():
        assert row[0] in page.text
    names = {path.stem for path in (workdir / "figures").glob("*.png")}
    assert names == {
        *(
            f"{kind}_{probe}"
            for kind in ("snr", "at_batch", "decomposition", "bias")
            for probe in made_up.PROBES
        ),
        "by_position",
        "learning",
    }
    assert len(page.loads) == len(names)
    for path in (workdir / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_the_answer_comes_first(written):
    text = Page(written[1]).text
    answer = text.index("125 (120 to 131) SNR per second")
    assert answer < text.index("RL or distillation") < text.index("One set of rollouts")
    assert "settles nothing between arms" in text


def test_samples_are_few_and_escaped(written):
    assert "<script>1" not in written[1]
    assert Page(written[1]).text.count("<script>1</script>") == report.SAMPLES


def shown_samples(results, workdir):
    """The samples of a page as records, in order."""
    found = report._samples(results, workdir)
    return [dict(zip(found["columns"], record, strict=True)) for record in found["records"]]


def test_every_arm_shows_its_last_samples(tmp_path):
    results = made_up.results()
    arms = [arm["name"] for arm in results["training"]]
    samples(tmp_path, arms)
    found = [(r["arm"], r["update"], r["completion"]) for r in shown_samples(results, tmp_path)]
    assert found == [(arm, "10", f"{arm} 10 {n}") for arm in arms for n in (1, 2)]
    page = Page(report.page(results, {}, tmp_path)).text
    assert all(f"{arm} 10 2" in page for arm in arms) and "learning rate" in page


def test_samples_are_of_the_learning_rate_that_was_chosen(tmp_path):
    results = made_up.results(seeds=2)
    chosen = {("opd", 0): 1e-3, ("opd", 1): 3e-4, ("grpo", 0): 1e-4, ("grpo", 1): 1e-3}
    results["training"] = [
        arm | {"learning_rate": chosen[arm["name"], arm["seed"]]}
        for arm in results["training"]
        if arm["name"] in ("opd", "grpo")
    ]
    samples(tmp_path, seeds=(0, 1), rates=(1e-4, 3e-4, 1e-3))
    found = {(r["arm"], r["seed"], r["learning_rate"]) for r in shown_samples(results, tmp_path)}
    assert found == {("opd", "1", "0.0003"), ("grpo", "1", "0.001")}
    results["training"] = [arm for arm in results["training"] if arm["seed"] == 0]
    samples(tmp_path / "one", rates=(1e-4, 3e-4, 1e-3))
    found = {(r["arm"], r["learning_rate"]) for r in shown_samples(results, tmp_path / "one")}
    assert found == {("opd", "0.001"), ("grpo", "0.0001")}


def test_stale_rollouts_show_their_effective_sample_size(written, rough):
    _, text = written
    section = text[text.index("Effective sample size") :].split("</table>")[0]
    cells = [re.findall("<t[dh]>(.*?)</t[dh]>", line) for line in section.splitlines()]
    head, start, late = [line for line in cells if len(line) == 5]
    assert head[1:] == ["token", "prefix", "prefix inclusive", "trajectory"]
    assert start == ["start&#39;s rollouts, start&#39;s parameters", *["1.00"] * 4]
    assert late[0] == "start&#39;s rollouts, late parameters"
    assert late[1:] == ["0.873", "0.412", "0.354", "0.0621"]
    assert "parameters3.10×10−40.4120.354–" in rough.text


@pytest.mark.parametrize(
    "said, rates, words",
    [
        ("one for all arms", [], "Learning rate: one for all arms."),
        ("one for all arms", [1e-3], "Learning rate: one for all arms."),
        (
            "the best of the grid for each arm, chosen on the validation split",
            [1e-4, 3e-3],
            "Learning rate: the best of the grid for each arm, chosen on the validation split "
            "(0.0001, 0.003).",
        ),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_report_says_how_the_learning_rate_was_set(tmp_path, said, rates, words, seeds):
    results = made_up.results(seeds=seeds)
    results["learning_rate"] = said
    results["config"]["compare"]["learning_rates"] = rates
    assert report._learning_caption(results).endswith(words)
    page = Page(report.page(results, {"learning": "data:,"}, tmp_path)).text
    assert f"Learning rate: {said}" in page
    del results["learning_rate"]
    assert "Learning rate" not in report._learning_caption(results)


def test_the_report_says_from_how_many_groups_on_intervals_are_trusted(written, rough):
    few = "Intervals may be trusted from 128 prompt groups on"
    assert f"{few}. There are 256." in Page(written[1]).text
    more = "; those of rows whose weights add up or multiply over tokens from 512 on"
    assert f"{few}{more}. There are 256." in rough.text
    assert "opd@gamma=1 ‡vs opdtrusted from 512 groups on" in rough.text
    assert len(re.findall(r"trusted from \d+ groups on", rough.text)) == 1
    assert report._trust({}) == ""


def test_the_report_shows_the_sign_of_a_heavy_tail_and_open_intervals(written, rough):
    assert rough.text.count("a sign of a heavy tail: 11 groups make it up") == 1
    assert "a sign of a heavy tail: " not in Page(written[1]).text
    assert "3.0[0.20, ∞]" in rough.text  # a relative error that nothing bounds above
    whole = {"value": 2.0, "low": None, "high": None}
    assert str(report._cell(whole)) == "2.00<small>not bounded</small>"
    assert str(report._stacked(whole)) == "2.00\nnot bounded"
    assert str(report._stacked({"value": 3.0, "low": 0.2, "high": None})) == "3.0\n0.20, ∞"


def test_a_band_without_an_end_leaves_the_axis_to_the_lines():
    results = made_up.results()
    curves = results["by_position"]["start"]
    top = max(figure["value"] for figure in curves["kl"])
    curves["kl"][-1] = {"value": top, "low": 0.0, "high": 1e9}
    curves["kl"][-2] = {"value": top, "low": 0.0, "high": None}
    left = figures.by_position(results).axes[0]
    assert top < left.get_ylim()[1] < 4 * top


def test_stored_advice_is_shown_as_stored(tmp_path):
    results = made_up.results()
    results["advice"] = [{"topic": "warning", "verdict": "x", "text": "kept as it is", "rows": []}]
    page = Page(report.page(results, {}, tmp_path))
    assert "kept as it is" in page.text and "Distil:" not in page.text


def test_nulls_and_negatives_are_shown_honestly(rough):
    assert "−0.0004 [−0.0024, 0.0016]" in rough.text.replace("0004[", "0004 [")
    assert "no choice" in rough.text and "be told from zero" in rough.text
    assert "–" in rough.text and made_up.NO_PARTS in rough.text
    assert "the student solves <none> of the prompts & more" in rough.text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", rough.text)


def test_an_empty_run_has_a_page(tmp_path):
    text = report.write({"schema": 1}, tmp_path).read_text()
    assert "No verifier graded the student" in text and "All estimators" not in text


def test_the_same_results_give_the_same_page(tmp_path):
    results = made_up.results()
    results["estimators"] = results["training"] = []
    first, second = (report.write(results, tmp_path / name).read_bytes() for name in "ab")
    assert first == second and b"data:image/svg" in first


def test_powers_of_ten_and_minus_signs_are_typeset():
    assert str(report._cell(made_up.around(-2e-5, 1e-5))).startswith("−2.0×10<sup>−5</sup><small>")
    assert str(report._cell(None)) == "–"
    assert str(report._cell(0.002, 1000)) == "2.00"


def test_row_names_are_set_as_code_and_nothing_else():
    rows = report._naming(["opd", "opd_topk@k=8", "a<b"])
    assert str(rows("opd beats opd_topk@k=8, not opd_topk@k=80 or <i>")) == (
        "<code>opd</code> beats <code>opd_topk@k=8</code>, not opd_topk@k=80 or &lt;i&gt;"
    )
    assert str(rows("a<b: 2.3e-4 (-1.0 to 2)")) == (
        "<code>a&lt;b</code>: 2.3×10<sup>−4</sup> (−1.0 to 2)"
    )


@pytest.mark.parametrize("make", [made_up.results, made_up.rough])
def test_the_terminal_table_fits_100_columns(make):
    results = make()
    console = rich.console.Console(width=100, record=True, file=open("/dev/null", "w"))
    console.print(report.table(results))
    console.file.close()
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    for entry in results["estimators"]:
        assert entry["name"][:30] in text  # longer names are folded
    assert make is made_up.rough or "0.409, 0.443" in text


def test_a_narrow_terminal_keeps_the_names():
    console = rich.console.Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(report.table(made_up.results()))
    console.file.close()
    text = console.export_text()
    assert all(name in text for name in ("opd_resampled", "soft_label", "reinforce"))


def test_a_row_keeps_its_colour_and_an_arm_takes_its_row_s():
    paint = figures.colours(made_up.results())
    assert len(set(paint.values())) == 16  # opd_topk, the arm, is opd_topk@k=8, the row
    assert paint["opd_topk"] == paint["opd_topk@k=8"]
    alone = made_up.results()
    alone["estimators"] = []
    assert set(figures.colours(alone)) == {"opd", "opd_sampled", "opd_topk", "grpo"}


def test_a_negative_cross_term_stands_left_of_zero():
    figure = figures.decomposition(made_up.results(), "start")
    parts = figure.axes[0]
    names = [tick.get_text() for tick in parts.get_yticklabels()]
    y = parts.get_yticks()[names.index("opd_sampled")]
    bars = [b for b in parts.patches if abs(b.get_y() + b.get_height() / 2 - y) < 0.01]
    entry = next(e for e in made_up.results()["estimators"] if e["name"] == "opd_sampled")
    variance = {key: figure["value"] for key, figure in entry["variance"].items()}
    spans = {tuple(np.round(sorted((b.get_x(), b.get_x() + b.get_width())), 6)) for b in bars}
    across, within, cross = (
        100 * variance[key] / variance["total"] for key in ("across", "within", "cross")
    )
    assert cross < 0
    expected = {(0.0, across), (across, across + within), (cross, 0.0)}
    assert spans == {tuple(np.round(span, 6)) for span in expected}
    tick = [line for line in parts.lines if line.get_marker() == "|" and line.get_ydata()[0] == y]
    assert tick[0].get_xdata()[0] == pytest.approx(100)


def test_parts_that_are_null_say_why():
    parts = figures.decomposition(made_up.results(), "start").axes[0]
    assert made_up.NO_PARTS in [text.get_text() for text in parts.texts]
    assert sum(bool(bar.get_hatch()) for bar in parts.patches) == 9


@pytest.mark.parametrize("draw", [figures.snr, figures.decomposition, figures.bias])
def test_labels_of_twenty_rows_do_not_overlap(draw):
    figure = draw(made_up.rough(), "start")
    FigureCanvasAgg(figure).draw()
    labels = [t for t in figure.axes[0].get_yticklabels() if t.get_text()]
    labels += [t for t in figure.axes[0].texts if t.get_weight() == "bold"]
    boxes = sorted((t.get_window_extent() for t in labels), key=lambda box: box.y0)
    assert len(boxes) > 15
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))
    assert min(box.x0 for box in boxes) >= 0


def test_an_interval_off_the_log_axis_is_cut_with_an_arrow():
    results = made_up.results()
    results["estimators"] = results["estimators"][:2]
    results["estimators"][1]["snr"] = made_up.around(0.05, 0.08)
    left = figures.snr(results, "start").axes[0]
    low, high = left.get_xlim()
    arrows = [line for line in left.lines if line.get_marker() == "<"]
    assert len(arrows) == 1 and arrows[0].get_xdata()[0] == pytest.approx(low)
    drawn = np.concatenate([line.get_xdata() for line in left.lines if line.get_linewidth() == 2])
    assert len(drawn) == 4 and (drawn >= low).all() and (drawn <= high).all()


def test_the_pairs_that_choices_rest_on_are_drawn_over_the_choice():
    results = made_up.results()
    figure = figures.snr(results, "start")
    right = figure.axes[2]
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    at = dict(zip(names, figure.axes[0].get_yticks(), strict=True))
    drawn = {
        line.get_ydata()[0]: (line.get_xdata()[0], line.get_marker())
        for line in right.lines
        if line.get_marker() in ("o", "D")
    }
    assert drawn[at["opd"]] == drawn[at["soft_label"]] == (1.0, "D")
    value, marker = drawn[at["opd_topk@k=8"]]
    assert marker == "o" and value == pytest.approx(0.808, abs=5e-4)
    for name in ("opd_topk@k=8,tail=drop †", "reinforce", "grpo †"):  # biased, alone
        assert at[name] not in drawn
    results["choices"] = []
    assert len(figures.snr(results, "start").axes) == 2


def test_rollouts_over_the_choice_are_drawn_against_the_batch():
    results = made_up.results()
    figure = figures.at_batch(results, "start")
    myopic = figure.axes[0]
    lines = {line.get_label(): line for line in myopic.lines}
    assert list(lines["opd_sampled"].get_xdata()) == [1, 64, 4096]
    by_name = {e["name"]: e["snr"]["value"] for e in results["estimators"] if e["probe"] == "start"}
    expected = [(b + 1 / by_name["opd_sampled"]) / (b + 1 / by_name["opd"]) for b in (1, 64, 4096)]
    np.testing.assert_allclose(lines["opd_sampled"].get_ydata(), expected, rtol=1e-6)
    assert set(lines["opd"].get_ydata()) == {1.0}  # the choice itself
    results["choices"] = []
    assert figures.at_batch(results, "start") is None


def test_the_table_has_every_compared_row_over_the_choice():
    results = made_up.results()
    rows = {row["name"]: row["over"] for row in report._groups(results, "start")[0]["rows"]}
    assert rows["opd"].value == 1 and not rows["opd"].known
    pair = next(p for p in results["choices"][0]["pairs"] if p["rows"] == ["opd", "opd_sampled"])
    ends = pair["snr_per_second_ratio"]
    assert rows["opd_sampled"].high == pytest.approx(1 / ends["low"])
    assert rows["opd_sampled"].low == pytest.approx(1 / ends["high"])
    assert rows["opd_topk@k=8,tail=drop"] is None


def test_equals_are_named_beside_the_choice(tmp_path):
    results = made_up.results()
    choice = next(c for c in results["choices"] if c["count"] == 1 and c["probe"] == "start")
    choice["pairs"][0]["snr_per_second_ratio"] = made_up.spread(1.05, 0.2)
    first, second = choice["pairs"][0]["rows"]
    page = Page(report.page(results, {}, tmp_path)).text
    assert f"or {second}" in page and f"No difference from {second} (within 1.26 times)" in page
    assert first in page and "like it" not in page


def test_learning_curves_against_rollouts_and_seconds():
    results = made_up.results()
    figure = figures.learning(results)
    arm = results["training"][0]
    for column, key in enumerate(("accuracy", "accuracy_greedy", "kl")):
        for line, x in ((0, "rollouts"), (3, "seconds")):
            curve = figure.axes[line + column].lines[0]
            assert list(curve.get_xdata()) == arm[x]
            assert list(curve.get_ydata()) == [found["value"] for found in arm[key]]
            assert len(figure.axes[line + column].collections) == 4  # a band for each arm
    assert "One seed" in report._learning_caption(results)
    assert "3 seeds" in report._learning_caption(made_up.results(seeds=3))

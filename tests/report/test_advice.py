import copy
import json

import made_up
import pytest

from opd.disk import dumps
from opd.report import advice
from opd.report.measured import Measured


@pytest.fixture
def results() -> dict:
    return made_up.results()


def row(results: dict, name: str, probe: str = "start") -> dict:
    return next(e for e in results["estimators"] if (e["name"], e["probe"]) == (name, probe))


def for_goal(results: dict, label: str) -> advice.Advice:
    return next(item for item in advice.best_rows(results) if item.goal == label)


def test_rows_are_compared_within_their_goal():
    goals = advice.by_goal(advice.probe(made_up.results(), "start"))
    assert [goal.label for goal in goals] == [
        "Myopic reverse KL",
        "Myopic forward KL",
        "Discounted reverse KL, γ = 0.9",
        "Sequence reverse KL",
        "Reward",
    ]
    for rows in goals.values():
        figures = [e["snr_per_second"]["value"] for e in rows]
        assert figures == sorted(figures, reverse=True)


def test_other_states_are_another_goal(results):
    row(results, "opd")["states"] = "behavior"
    labels = [goal.label for goal in advice.by_goal(advice.probe(results, "start"))]
    assert "Myopic reverse KL, behavior's states" in labels and "Myopic reverse KL" in labels


def test_the_best_unbiased_row_is_chosen_even_where_a_biased_one_is_better(results):
    row(results, "opd_topk@k=8,tail=drop")["snr_per_second"] = made_up.around(900.0, 1.0)
    item = for_goal(results, "Myopic reverse KL")
    assert (item.verdict, item.rows) == ("clear", ("opd",))
    assert "use opd, 125 (120 to 131)" in item.text
    assert "Clearly behind: opd_topk@k=8, 101 (97 to 106), and 3 more." in item.text
    assert "Not counted, as biased: opd_topk@k=8,tail=drop" in item.text


def test_overlapping_intervals_are_no_difference(results):
    item = for_goal(results, "Sequence reverse KL")
    assert (item.verdict, set(item.rows)) == (
        "no difference",
        {"opd@gamma=1", "opd_sampled@gamma=1"},
    )
    row(results, "opd@gamma=1")["snr_per_second"] = made_up.around(9.0, 0.1)
    assert for_goal(results, "Sequence reverse KL").verdict == "clear"


def test_without_an_interval_nothing_is_clear(results):
    row(results, "opd_sampled@gamma=1")["snr_per_second"] = 0.001
    item = for_goal(results, "Sequence reverse KL")
    assert item.verdict == "no difference" and "missing" in item.text


@pytest.mark.parametrize(
    "snr, biased, verdict",
    [
        (made_up.around(0.5, 0.1), False, "only"),
        (made_up.around(0.5, 0.6), False, "undefined"),
        (made_up.around(-0.5, 0.6), False, "undefined"),
        (None, False, "undefined"),
        (made_up.around(0.5, 0.1), True, "only biased"),
    ],
)
def test_a_lone_row(results, snr, biased, verdict):
    row(results, "reinforce").update(snr_per_second=snr, biased=biased)
    item = for_goal(results, "Reward")
    assert item.verdict == verdict
    assert item.rows == (("reinforce",) if verdict == "only" else ())


def test_what_enumeration_buys(results):
    first = advice.enumeration(results)[0]
    assert (first.verdict, first.rows) == ("gain", ("opd", "opd_sampled"))
    assert "by 6.23 (5.93 to 6.55), paired on the same rollouts" in first.text
    assert "(within) is 90.4 %" in first.text and "removes less" in first.text

    row(results, "opd_sampled")["snr_ratio"] = None
    unpaired = advice.enumeration(results)[0]
    assert "multiplies the SNR per rollout by 6.23 (5.52 to 7.06). Per" in unpaired.text
    del row(results, "opd_sampled")["snr_ratio"]
    assert advice.enumeration(results)[0] == unpaired
    row(results, "opd")["snr"] = made_up.around(0.07, 0.02)
    assert advice.enumeration(results)[0].verdict == "no difference"
    row(results, "opd")["snr"] = made_up.around(0.01, 0.002)
    assert advice.enumeration(results)[0].verdict == "loss"
    row(results, "opd")["snr"] = None
    assert advice.enumeration(results)[0].verdict == "undefined"


@pytest.mark.parametrize(
    "ratio, verdict, words",
    [
        ((0.8, 0.7, 0.9), "gain", "by 1.25 (1.11 to 1.43), paired on the same rollouts."),
        ((1.25, 1.1, 1.6), "loss", "by 0.80 (0.62 to 0.91), paired on the same rollouts."),
        ((0.8, 0.5, 1.1), "no difference", "is 1.25 (0.91 to 2.00) on the same rollouts."),
        ((0.4, -0.1, 0.8), "gain", "by 2.50 (at least 1.25), paired on the same rollouts."),
        ((0.8, None, None), "no difference", "is 1.25 on the same rollouts."),
    ],
)
@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_enumeration_is_judged_by_the_pairs_of_the_same_rollouts(
    results, ratio, verdict, words, spread
):
    """Whatever the two rows' own intervals say: apart with the one spread, overlapping else."""
    row(results, "opd")["snr"] = made_up.around(0.5, spread)
    row(results, "opd_sampled")["snr"] = made_up.around(0.5 * ratio[0], spread)
    row(results, "opd_sampled")["snr_ratio"] = dict(zip(("value", "low", "high"), ratio))
    first = advice.enumeration(results)[0]
    assert first.verdict == verdict and words in first.text


def test_a_factor_per_second_has_the_pairs_and_both_clocks(results):
    sampled, full = row(results, "opd_sampled"), row(results, "opd")
    for entry in (sampled, full):
        entry["snr_per_second"] = made_up.around(entry["snr"]["value"] * 100, 100.0)
    sampled["snr_ratio"] = {"value": 0.25, "low": 0.2, "high": 0.39}
    full["seconds"], sampled["seconds"] = made_up.around(0.02, 0.0), made_up.around(0.01, 0.002)
    text = advice.enumeration(results)[0].text
    # 1 / (0.25 x 0.02 / 0.01), from 1 / (0.39 x 0.02 / 0.008) to 1 / (0.2 x 0.02 / 0.012)
    assert "Per second the factor is 2.00 (1.03 to 3.00). The" in text
    sampled["snr_ratio"]["high"] = 0.41
    text = advice.enumeration(results)[0].text
    assert "(no difference: the interval covers 1). The" in text
    sampled["seconds"] = None  # no clocks: the intervals of the figures themselves
    assert "(no difference: the intervals overlap)" in advice.enumeration(results)[0].text


def test_a_ratio_to_another_row_is_not_taken_for_the_pair_s(results):
    """opd_sampled@gamma=1 is compared with opd here; the pair is opd@gamma=1."""
    sampled = row(results, "opd_sampled@gamma=1")
    assert sampled["reference"] == "opd" and sampled["snr_ratio"]["value"] < 0.05
    item = next(i for i in advice.enumeration(results) if "opd@gamma=1" in i.rows)
    assert item.verdict == "no difference" and "same rollouts" not in item.text


@pytest.mark.parametrize(
    "cross, sign, words",
    [
        (made_up.around(5.0, 1.0), "positive", "removes more than within alone"),
        (made_up.around(-5.0, 1.0), "negative", "removes less than within promises"),
        (made_up.around(-90.0, 1.0), "negative", "sampling is the quieter one"),
        (made_up.around(-5.0, 6.0), "not told from zero", "not told from zero"),
        (None, "undefined", "are undefined: made-up reason"),
    ],
)
def test_the_cross_term_limits_rao_blackwell(results, cross, sign, words):
    sampled = row(results, "opd_sampled")
    sampled["variance"]["cross"], sampled["note"] = cross, "made-up reason"
    assert advice.cross_sign(sampled) == sign
    assert words in advice.enumeration(results)[0].text


def test_the_reason_for_null_parts_is_found_in_the_note():
    note = "biased: a; no parts: its weight holds the future (gamma > 0); one draw per group of 4"
    assert advice.no_parts({"note": note}) == "its weight holds the future (gamma > 0)"
    assert advice.no_parts({"note": "biased: a"}) == "biased: a"
    assert advice.no_parts({}) is None


def test_a_twin_differs_in_one_axis_only(results):
    rows = advice.probe(results, "start")
    pairs = {item.rows for item in advice.enumeration(results)}
    assert pairs == {
        ("opd", "opd_sampled"),  # and not opd_baseline
        ("opd@gamma=0.9", "opd_sampled@gamma=0.9"),
        ("opd@gamma=1", "opd_sampled@gamma=1"),
        ("soft_label", "soft_label@expectation=sampled"),
    }
    row(results, "opd_sampled")["axes"]["gamma"] = None  # as good as 0
    assert ("opd", "opd_sampled") in {item.rows for item in advice.enumeration(results)}
    assert rows


def test_bias_is_detected_hidden_or_unknown(results):
    names = ("opd_topk@k=8,tail=drop", "opd_topk@k=8,tail=bucket", "grpo")
    figures = (made_up.around(0.2, 0.1), made_up.around(0.02, 0.1), None)
    for name, figure in zip(names, figures, strict=True):
        row(results, name)["relative_error"] = figure
    found = {name: item for item in advice.biases(results) for name in item.rows}
    assert [found[name].verdict for name in names] == ["detected", "not detected", "not measured"]
    assert "relative error of 0.20 (0.10 to 0.30)" in found[names[0]].text
    assert "opd_sampled" not in found


def test_a_row_that_claims_too_much_is_named(results):
    for entry in results["estimators"]:
        if not entry["biased"] and entry["relative_error"]:
            entry["relative_error"] = made_up.around(0.0, 0.1)
    assert advice.broken_claims(results) == []
    row(results, "opd@gamma=1")["relative_error"] = made_up.around(1.0, 0.1)
    assert advice.broken_claims(results) == []  # its reference has another target
    row(results, "opd_sampled", "late")["relative_error"] = made_up.around(1.0, 0.1)
    (item,) = advice.broken_claims(results)
    assert item.verdict == "claim in doubt" and "opd_sampled at the late, 1.00" in item.text


@pytest.mark.parametrize(
    "cosine, verdict",
    [
        (made_up.around(0.96, 0.02), "aligned"),
        (made_up.around(0.5, 0.1), "differs"),
        (made_up.around(0.8, 0.3), "not settled"),
        (0.5, "not settled"),
        (None, "not measured"),
    ],
)
@pytest.mark.parametrize("kept_in", ["cosine", "cosines"])
def test_what_crediting_the_future_costs(results, cosine, verdict, kept_in):
    for name in ("opd@gamma=1", "opd_sampled@gamma=1", "opd_sampled@gamma=0.9", "opd@gamma=0.9"):
        row(results, name)["reference"] = None
    future = row(results, "opd@gamma=1")
    future["reference"] = "opd" if kept_in == "cosine" else "opd@gamma=1"
    future["cosine"] = cosine if kept_in == "cosine" else None
    future["cosines"] = {"opd": cosine} if kept_in == "cosines" else None
    item = next(i for i in advice.discounts(results) if "opd@gamma=1" in i.rows)
    assert item.verdict == verdict
    assert "opd@gamma=1 has 33.8 times (28.9 to 39.0) the variance of opd" in item.text


@pytest.mark.parametrize(
    "teacher, student, verdict, words",
    [
        ((0.96, 0.02), (0.35, 0.04), "distil", "only a reward can take it further"),
        ((0.99, 0.005), (0.005, 0.004), "distil", "no signal yet"),
        ((0.50, 0.03), (0.60, 0.03), "rl", "behind its student"),
        ((0.50, 0.05), (0.52, 0.05), "level", "both fail and succeed"),
        ((0.99, 0.005), (0.99, 0.005), "level", "nearly every rollout succeeds"),
        ((0.004, 0.004), (0.001, 0.001), "neither", "Neither solves it"),
        ((0.0, 0.06), (0.0, 0.06), "neither", "takes more prompts to say"),
        ((0.005, 0.06), (0.01, 0.06), "neither", "takes more prompts to say"),
        ((0.05, 0.06), (0.01, 0.06), "level", "signal is not settled"),
        (None, (0.5, 0.1), "no teacher", "The reward has signal"),
        ((0.5, 0.1), None, "no reward", "No verifier"),
    ],
)
def test_rl_or_distillation(results, teacher, student, verdict, words):
    results["models"] = {
        name: {"accuracy": found and made_up.around(*found)}
        for name, found in (("teacher", teacher), ("student", student))
    }
    item = advice.rl_or_distillation(results)
    assert item.verdict == verdict and words in item.text


def test_plain_accuracies_are_compared_as_anyone_would(results):
    results["models"] = {"teacher": {"accuracy": 0.9}, "student": {"accuracy": 0.4}}
    assert advice.rl_or_distillation(results).verdict == "distil"
    results["models"]["student"]["accuracy"] = 0.88
    assert advice.rl_or_distillation(results).verdict == "level"


def test_start_against_late(results):
    first = advice.start_or_late(results)[0]
    assert first.verdict == "same choice" and "about 5 times the rollouts" in first.text
    row(results, "opd_sampled", "late")["snr_per_second"] = made_up.around(999.0, 1.0)
    changed = advice.start_or_late(results)[0]
    assert changed.verdict == "changed" and "but late opd_sampled" in changed.text
    results["estimators"] = advice.probe(results, "start")
    assert [item.verdict for item in advice.start_or_late(results)] == ["no late probe"]


def test_one_seed_settles_nothing_between_arms(results):
    found = advice.training(results)
    assert {item.verdict for item in found} == {"one seed"}
    assert advice.ONE_SEED in [item.text for item in advice.warnings(results)]


def test_several_seeds_may_settle_something():
    results = made_up.results(seeds=3)
    verdicts = {item.text.split(" over ")[0]: item for item in advice.training(results)}
    assert verdicts["Final accuracy"].verdict == "no difference"
    assert set(verdicts["Final accuracy"].rows) >= {"opd", "opd_topk"}
    for arm in results["training"]:
        if arm["name"] != "opd":
            arm["kl"] = [figure["value"] + 5 for figure in arm["kl"]]
    item = advice.training(results)[1]
    assert (item.verdict, item.rows) == ("ahead", ("opd",))
    assert advice.ONE_SEED not in [item.text for item in advice.warnings(results)]


def test_intervals_over_seeds_are_student_s():
    found = advice.over_seeds([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t(2) s / sqrt n
    assert advice.over_seeds([1.0]) == Measured(1.0)


def test_warnings_come_from_the_numbers(results):
    assert {item.verdict for item in advice.warnings(made_up.results(seeds=2))} <= {
        "claim in doubt"
    }
    results["rollouts"] |= {"truncated": 0.2, "groups": 16}
    results["warnings"] = ["something happened"]
    row(results, "opd")["trusted"] = False
    found = {item.verdict: item for item in advice.warnings(results)}
    assert found["from the run"].text == "something happened"
    assert "20.0 %" in found["truncated"].text
    assert found["untrusted"].rows == ("opd",) and "16 prompt groups" in found["untrusted"].text
    for entry in results["estimators"]:
        entry["trusted"] = False
    found = {item.verdict: item for item in advice.warnings(results)}
    assert found["untrusted"].text.startswith("All rows'")


@pytest.mark.parametrize("make", [made_up.results, made_up.rough])
def test_advice_is_plain_json_and_leaves_the_results_alone(make):
    results = make()
    before = copy.deepcopy(results)
    items = advice.advise(results)
    assert dumps(results) == dumps(before)
    assert json.loads(dumps(items)) == items
    assert {item["topic"] for item in items} >= {"goal", "rl or distillation", "enumeration"}
    assert all("nan" not in item["text"] and "None" not in item["text"] for item in items)


def test_nothing_measured_nothing_claimed():
    items = advice.advise({})
    assert [(item["topic"], item["verdict"]) for item in items] == [
        ("rl or distillation", "no reward"),
        ("probes", "no late probe"),
    ]

import copy
import json

import made_up
import pytest

from opd.disk import dumps
from opd.report import advice, goals
from opd.report.choices import PER_ROLLOUT, PER_SECOND
from opd.report.measured import Measured


@pytest.fixture
def results() -> dict:
    return made_up.results()


def row(results: dict, name: str, probe: str = "start") -> dict:
    return next(e for e in results["estimators"] if (e["name"], e["probe"]) == (name, probe))


def for_goal(results: dict, label: str) -> advice.Advice:
    return next(item for item in advice.best_rows(results) if item.goal == label)


def compared(results: dict, *rows: str, probe: str = "start") -> dict:
    """The pair of two rows, whatever goal it stands under."""
    found = (
        pair
        for choice in results["choices"]
        for pair in choice["pairs"]
        if choice["probe"] == probe and set(pair["rows"]) == set(rows)
    )
    return next(found)


def say(results: dict, row: str, other: str, key: str, *ends: float | None, probe: str = "start"):
    """Let row over other be {value, low, high}, in whichever order the pair stands."""
    pair = compared(results, row, other, probe=probe)
    if pair["rows"] == [row, other]:
        pair[key] = dict(zip(("value", "low", "high"), ends, strict=True))
    else:
        value, low, high = (None if end is None else 1 / end for end in ends)
        pair[key] = {"value": value, "low": high, "high": low}


def test_rows_are_compared_within_their_goal():
    by_goal = goals.by_goal(goals.probe(made_up.results(), "start"))
    assert [goal.label for goal in by_goal] == [
        "Myopic reverse KL",
        "Forward KL",
        "Discounted reverse KL, γ = 0.9",
        "Sequence reverse KL",
        "Reward",
    ]
    for rows in by_goal.values():
        figures = [e["snr_per_second"]["value"] for e in rows]
        assert figures == sorted(figures, reverse=True)


def test_other_states_are_another_goal(results):
    row(results, "opd")["goal"] = made_up.described("teacher_behavior")["goal"]
    labels = [goal.label for goal in goals.by_goal(goals.probe(results, "start"))]
    assert "Myopic reverse KL (states: teacher)" in labels and "Myopic reverse KL" in labels


@pytest.mark.parametrize(
    "names",
    [
        ("skew@argument=0.1", "skew@argument=0.9"),
        ("rl_with_teacher", "rl_with_reference"),
        ("rl_with_teacher@teacher.coef=0.1", "rl_with_teacher@teacher.coef=0.2"),
    ],
)
def test_advice_never_ranks_two_goals_against_each_other(names):
    random = made_up.np.random.default_rng(0)
    template = made_up.entry(("opd", 0.4, False), "start", random)
    entries = [
        template | made_up.described(name) | {"name": name, "snr": made_up.around(snr, 0.01)}
        for name, snr in zip(names, (0.4, 0.1), strict=True)
    ]
    results = {"estimators": entries, "choices": made_up.choices(entries)}
    items = advice.best_rows(results)
    assert [item.verdict for item in items] == ["only", "only"]
    assert {item.rows for item in items} == {(name,) for name in names}
    for item in items:
        (other,) = set(names) - set(item.rows)
        assert other not in item.text


def test_the_best_unbiased_row_is_chosen_even_where_a_biased_one_is_better(results):
    row(results, "opd_topk@k=8,tail=drop")["snr_per_second"] = made_up.around(900.0, 1.0)
    item = for_goal(results, "Myopic reverse KL")
    assert (item.verdict, item.rows) == ("clear", ("opd",))
    assert "use opd, 125 (120 to 131) SNR per second" in item.text
    assert "Ahead of opd_topk@k=8 by 1.24 times (1.15 to 1.34), opd_resampled@k=4" in item.text
    assert "and 1 more. Paired on the same rollouts, corrected for 10 pairs." in item.text
    assert "Not counted, as biased: opd_topk@k=8,tail=drop" in item.text


def test_the_pairs_decide_and_not_the_rows_own_intervals(results):
    pair = "opd@gamma=1", "opd_sampled@gamma=1"
    for name in pair:  # their own intervals overlap
        row(results, name)["snr_per_second"] = made_up.around(3.0, 1.0)
    assert for_goal(results, "Sequence reverse KL").verdict == "clear"
    say(results, *pair, PER_SECOND, 1.1, 0.8, 1.25)
    for name, value in zip(pair, (9.0, 0.9), strict=True):  # far apart
        row(results, name)["snr_per_second"] = made_up.around(value, 0.1)
    item = for_goal(results, "Sequence reverse KL")
    assert (item.verdict, item.rows) == ("no difference", pair)
    assert "No difference from opd_sampled@gamma=1 (within 1.25 times)." in item.text
    say(results, *pair, PER_SECOND, 0.5, 0.4, 0.6)
    item = for_goal(results, "Sequence reverse KL")
    assert item.rows == ("opd_sampled@gamma=1",)
    assert "Ahead of opd@gamma=1 by 2.00 times (1.67 to 2.50)." in item.text
    assert "corrected" not in item.text  # one pair


def test_what_no_difference_leaves_room_for(results):
    say(results, "opd@gamma=1", "opd_sampled@gamma=1", PER_SECOND, 1.01, 0.5, 1.2)
    assert "(within 2 times)" in for_goal(results, "Sequence reverse KL").text
    say(results, "opd@gamma=1", "opd_sampled@gamma=1", PER_SECOND, 1.2, None, None)
    item = for_goal(results, "Sequence reverse KL")
    assert item.verdict == "no difference" and "(within any size)" in item.text
    say(results, "opd@gamma=1", "opd_sampled@gamma=1", PER_SECOND, 1.2, 0.9, None)
    item = for_goal(results, "Sequence reverse KL")  # open above
    assert item.verdict == "no difference" and "(within any size)" in item.text
    say(results, "opd@gamma=1", "opd_sampled@gamma=1", PER_SECOND, 2.0, 1.5, None)
    item = for_goal(results, "Sequence reverse KL")
    assert item.verdict == "clear" and "by 2.0 times (at least 1.5)" in item.text


def test_a_row_that_is_behind_an_equal_of_the_best_is_no_choice(results):
    say(results, "opd", "opd_topk@k=8", PER_SECOND, 1.24, 0.9, 1.7)
    say(results, "opd", "opd_baseline", PER_SECOND, 4.6, 0.9, 24.0)
    item = for_goal(results, "Myopic reverse KL")
    assert item.rows == ("opd", "opd_topk@k=8")
    assert "opd_baseline is behind opd_topk@k=8, by " in item.text


def test_rows_of_few_groups_are_not_compared(results):
    choice = next(c for c in results["choices"] if len(c["pairs"]) == 10)
    choice["untrusted"] = ["opd"]
    item = for_goal(results, "Myopic reverse KL")
    assert item.rows == ("opd_topk@k=8",)
    assert "Not compared, as there are too few prompt groups: opd." in item.text
    choice["untrusted"] = list({name for pair in choice["pairs"] for name in pair["rows"]})
    item = for_goal(results, "Myopic reverse KL")
    assert (item.verdict, item.rows) == ("not trusted", ())
    choice["untrusted"].remove("opd")  # alone, opd is not compared, and its ratios are defined
    item = for_goal(results, "Myopic reverse KL")
    assert (item.verdict, item.rows) == ("not trusted", ())
    assert "No two rows are left." in item.text and "is defined" not in item.text
    first = advice.enumeration(results)[0]
    assert first.verdict == "not trusted" and "too few prompt groups" in first.text


def test_a_row_without_variance_has_no_ratio(results):
    pair = compared(results, "opd@gamma=1", "opd_sampled@gamma=1")
    pair[PER_ROLLOUT] = pair[PER_SECOND] = None
    item = for_goal(results, "Sequence reverse KL")
    assert (item.verdict, item.rows) == ("undefined", ())
    assert "no ratio to another row is defined" in item.text
    second = next(i for i in advice.enumeration(results) if "opd@gamma=1" in i.rows)
    assert second.verdict == "undefined"
    for other in ("opd", "opd_sampled", "opd_resampled@k=4", "opd_topk@k=8"):
        compared(results, "opd_baseline", other)[PER_SECOND] = None
    item = for_goal(results, "Myopic reverse KL")
    assert item.rows == ("opd",) and "is defined: opd_baseline." in item.text


def test_rows_are_ranked_by_variance_where_no_snr_is_told_from_zero(results):
    for name in ("opd@gamma=1", "opd_sampled@gamma=1"):
        row(results, name)["snr_per_second"] = made_up.around(0.5, 0.6)
    item = for_goal(results, "Sequence reverse KL")
    assert (item.verdict, item.rows) == ("clear", ("opd@gamma=1",))
    assert "use opd@gamma=1. Ahead of opd_sampled@gamma=1" in item.text
    assert "the ratio is of variances" in item.text


def test_two_rows_without_pairs_are_no_choice(results):
    results["choices"] = []
    item = for_goal(results, "Sequence reverse KL")
    assert (item.verdict, item.rows) == ("undefined", ())


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
    assert "by 6.23 (5.99 to 6.47); per second by 6.23 (5.76 to 6.72)." in first.text
    assert "(within) is 90.4 %" in first.text and "removes less" in first.text


@pytest.mark.parametrize(
    "ratio, verdict, words",
    [
        ((1.25, 1.11, 1.43), "gain", "by 1.25 (1.11 to 1.43); per second"),
        ((0.8, 0.62, 0.9), "loss", "by 0.80 (0.62 to 0.90); per second"),
        ((1.25, 0.91, 2.0), "no difference", "2.00), no difference (within 2 times); per second"),
        ((1.25, None, None), "no difference", "by 1.25 (not bounded), no difference (within any"),
    ],
)
@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_enumeration_is_judged_by_the_pairs_of_the_same_rollouts(
    results, ratio, verdict, words, spread
):
    """Whatever the two rows' own intervals say: apart with the one spread, overlapping else."""
    row(results, "opd")["snr"] = made_up.around(0.5, spread)
    row(results, "opd_sampled")["snr"] = made_up.around(0.5 / ratio[0], spread)
    say(results, "opd", "opd_sampled", PER_ROLLOUT, *ratio)
    first = advice.enumeration(results)[0]
    assert first.verdict == verdict and words in first.text


def test_a_factor_per_second_is_the_pair_s(results):
    say(results, "opd", "opd_sampled", PER_SECOND, 1.2, 0.9, 1.5)
    text = advice.enumeration(results)[0].text
    assert "per second by 1.20 (0.90 to 1.50), no difference (within 1.5 times). At" in text


def test_what_the_batch_makes_of_a_ratio_of_snrs(results):
    """From either side of the pair; nothing where an old run predicted nothing."""
    text = advice.enumeration(results)[0].text
    snr = [row(results, name)["snr"]["value"] for name in ("opd", "opd_sampled")]
    needed = (64 + 1 / snr[0]) / (64 + 1 / snr[1])
    assert f"At 64 rollouts an update that predicts {needed:.2f}"[:-1] in text
    pair = compared(results, "opd", "opd_sampled")
    pair["rows"].reverse()
    pair["rollouts_ratio"] = [made_up.spread(x, 0.1) for x in (2.0, 1.4, 1.1)]
    for figure in (PER_ROLLOUT, PER_SECOND):
        pair[figure] = made_up.spread(0.5, 0.1)
    text = advice.enumeration(results)[0].text
    assert "At 64 rollouts an update that predicts 1.40 times" in text
    del pair["rollouts_ratio"]
    assert "predicts" not in advice.enumeration(results)[0].text


def test_what_top_k_makes_of_the_whole_sum(results):
    exact, cut = advice.top_k(results)
    assert exact.rows == ("opd_topk@k=8", "opd") and exact.verdict == "no difference"
    assert "multiplies the SNR per rollout by 0.97 (0.93 to 1.01)" in exact.text
    assert "per second by 0.808 (0.748 to 0.872)." in exact.text
    assert cut.verdict == "biased"
    assert set(cut.rows) == {f"opd_topk@k=8,tail={t}" for t in ("drop", "renormalise", "bucket")}
    row(results, "opd_topk@k=8")["axes"] = made_up.described("opd_topk@importance=prefix")["axes"]
    assert advice.top_k(results) == [cut]  # not all else is equal


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


def test_enumeration_pairs_rows_that_differ_in_nothing_else(results):
    wanted = {
        ("opd", "opd_sampled"),  # and not opd_baseline
        ("opd@gamma=0.9", "opd_sampled@gamma=0.9"),
        ("opd@gamma=1", "opd_sampled@gamma=1"),
        ("soft_label", "soft_label@expectation=sampled"),
    }
    assert {item.rows for item in advice.enumeration(results)} == wanted
    for change in ("importance=prefix", "reduction=constant", "coef=2", "behavior=buffer"):
        row(results, "opd_sampled")["axes"] = made_up.described(f"opd_sampled@{change}")["axes"]
        found = {item.rows for item in advice.enumeration(results)}
        assert found == wanted - {("opd", "opd_sampled")}, change


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
    assert advice.broken_claims(results) == []  # its reference has another goal
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
def test_what_crediting_the_future_costs(results, cosine, verdict):
    row(results, "opd@gamma=1")["twins"]["opd"]["cosine"] = cosine
    item = next(i for i in advice.discounts(results) if "opd@gamma=1" in i.rows)
    assert item.verdict == verdict
    assert "opd@gamma=1 has 33.8 times (32.2 to 35.5) the variance of opd" in item.text


def test_the_future_is_weighed_all_else_equal(results):
    pairs = {item.rows for item in advice.discounts(results)}
    assert ("opd@gamma=1", "opd") in pairs and ("opd@gamma=1", "opd_sampled") not in pairs
    row(results, "opd")["axes"] = made_up.described("opd@importance=prefix")["axes"]
    pairs = {item.rows for item in advice.discounts(results)}
    assert not any("opd" in rows for rows in pairs)


def test_a_reward_s_discount_is_another_question(results):
    """`Take γ = 0 until it is known` would be no advice where the reward comes at the end."""
    for name, other in (("reinforce", "reinforce@gamma=0.9"), ("grpo", "reinforce@gamma=0")):
        row(results, name).update(made_up.described(other), biased=False)
    assert not any("reinforce" in item.rows for item in advice.discounts(results))


def test_a_dearer_gamma_is_said_to_be_dearer_only_where_it_is(results):
    twin = row(results, "opd@gamma=1")["twins"]["opd"]
    twin |= {"cosine": made_up.around(0.96, 0.02), "total_ratio": made_up.around(1.0, 0.2)}
    item = next(i for i in advice.discounts(results) if "opd@gamma=1" in i.rows)
    assert item.verdict == "aligned" and "dearer" not in item.text


def test_dense_over_sparse_pairs_rows_that_differ_in_who_grades(results):
    words = "(opd_sampled@gamma=1) has 8.32 times (7.92 to 8.73) the SNR per rollout"
    assert words in advice.rl_or_distillation(results).text
    row(results, "opd_sampled@gamma=1")["twins"]["reinforce"]["snr_ratio"] = None
    assert "at every token" not in advice.rl_or_distillation(results).text
    results = made_up.results()
    row(results, "reinforce")["axes"] = made_up.described("rloo")["axes"]
    assert "at every token" not in advice.rl_or_distillation(results).text


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
    for other in ("opd", "opd_topk@k=8", "opd_resampled@k=4", "opd_baseline"):
        say(results, "opd_sampled", other, PER_SECOND, 9.0, 8.0, 10.0, probe="late")
    changed = advice.start_or_late(results)[0]
    assert changed.verdict == "changed" and "but late opd_sampled" in changed.text
    results["estimators"] = goals.probe(results, "start")
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
    assert "Paired over seeds, corrected for 6 pairs." in item.text
    assert advice.ONE_SEED not in [item.text for item in advice.warnings(results)]


def ends(results: dict, kl: dict[str, tuple[float, ...]]) -> advice.Advice:
    """What is said of arms that end at these KLs, a number a seed."""
    results["training"] = [
        {"name": name, "seed": seed, "kl": [value]}
        for name, values in kl.items()
        for seed, value in enumerate(values)
    ]
    (item,) = advice.training(results)
    return item


def test_arms_are_paired_over_their_seeds(results):
    """Seeds differ more than arms do: the arms' own intervals overlap, differences are clear."""
    item = ends(results, {"opd": (1.0, 5.0, 9.0), "grpo": (1.5, 5.4, 9.6)})
    assert (item.verdict, item.rows) == ("ahead", ("opd",))
    # The differences 0.5, 0.4, 0.6: mean 0.5, t(2) 4.302653 x 0.1 / sqrt 3.
    assert "opd is ahead of grpo by 0.50 (0.25 to 0.75) nats. Paired over seeds." in item.text
    item = ends(results, {"opd": (1.0, 5.0, 9.0), "grpo": (9.1, 5.4, 1.6)})
    assert (item.verdict, item.rows) == ("no difference", ("opd", "grpo"))
    # 8.1, 0.4, -7.4: mean 0.3667, deviation 7.7501.
    assert "No difference from opd: grpo (within 20 nats)." in item.text


def test_arms_are_corrected_for_the_number_of_their_pairs(results):
    two = {"opd": (1.0, 5.0, 9.0), "grpo": (1.5, 5.4, 9.6)}
    item = ends(results, two | {"a": (9.0, 9.0, 9.0), "b": (8.0, 9.0, 9.0), "c": (9.0, 9.0, 9.5)})
    # Ten pairs: t(2) at 99.5 % is 14.089, so that 0.5 covers 0.
    assert "grpo (within 1.4 nats)" in item.text and "corrected for 10 pairs" in item.text


def test_arms_of_different_seeds_are_compared_on_those_in_common(results):
    item = ends(results, {"opd": (1.0, 5.0, 9.0, 0.0), "grpo": (1.5, 5.4, 9.6)})
    assert "by 0.50 (0.25 to 0.75) nats" in item.text


def test_intervals_over_seeds_are_student_s():
    found = advice.over_seeds([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t(2) s / sqrt n
    assert advice.over_seeds([1.0]) == Measured(1.0)


def test_seeds_that_agree_by_chance_settle_nothing(results):
    assert advice.over_seeds([0.25, 0.25]) == Measured(0.25)
    item = ends(results, {"opd": (1.0, 2.0), "grpo": (1.5, 2.5)})
    assert (item.verdict, item.rows) == ("no difference", ("opd", "grpo"))
    assert "No difference from opd: grpo (without an interval)." in item.text


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
    assert "heavy tail" not in found
    for entry in results["estimators"]:
        entry |= {"heavy_tail": entry["name"] == "opd@gamma=1", "effective_groups": 5.2}
    found = [item for item in advice.warnings(results) if item.verdict == "heavy tail"]
    assert [item.rows for item in found] == 2 * [("opd@gamma=1",)]  # at the start and late
    assert "opd@gamma=1 (5)." in found[0].text and "lacks may add to it" in found[0].text


@pytest.mark.parametrize(
    "ends, verdict",
    [((0.2, None), "detected"), ((0.0, None), "not detected"), ((None, None), None)],
)
def test_a_bias_whose_interval_is_open(results, ends, verdict):
    """A reference in noise bounds a relative error below, if at all."""
    biased = [entry for entry in results["estimators"] if entry["biased"]]
    for entry in biased:
        entry["relative_error"] = {"value": 0.5, "low": ends[0], "high": ends[1]}
    found = advice.biases(results)
    assert {item.verdict for item in found} == {verdict or "not measured"}
    if verdict:
        assert f"0.50 (at least {ends[0]}" in found[0].text


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

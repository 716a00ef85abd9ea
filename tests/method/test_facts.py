"""What follows from a method's terms, row by row and for rows with other axes."""

import dataclasses
import json
from pathlib import Path

import pytest

from opd.method import facts, table
from opd.method.axes import Origin, Term
from opd.method.facts import Goal, Part
from opd.method.table import Method


def kl(divergence="reverse_kl", argument=None, coef=1.0, gamma=0.0, to="teacher"):
    return Part("divergence", divergence, argument, coef, gamma, to)


FACTS = ("parts", "biased", "needs", "partner", "reference")
MYOPIC, SOFT, JSD = (kl(),), (kl("forward_kl"),), (kl("jsd", 0.5),)
DATA = (kl("forward_kl", to="dataset"),)
REWARD = (Part("reward", gamma=1.0),)
FULL, OWN = ("teacher_full",), ("teacher_logp",)
# Examples: the goal's parts, biased, needs, partner, reference.
EXAMPLES = {
    "opd": (MYOPIC, False, FULL, "opd", "opd"),
    "opd_sampled": (MYOPIC, False, OWN, "opd", "opd"),
    "opd_baseline": (MYOPIC, False, FULL + OWN, "opd", "opd"),
    "opd_resampled@k=4": (MYOPIC, False, FULL, "opd", "opd"),
    "opd_topk@k=8": (MYOPIC, False, FULL, "opd", "opd"),
    "opd_topk@k=8,tail=drop": (MYOPIC, True, FULL, "opd_topk@k=8,tail=drop", "opd"),
    "opd_topk@k=8,tail=renormalise": (MYOPIC, True, FULL, "opd_topk@k=8,tail=renormalise", "opd"),
    "opd_topk@k=8,tail=bucket": (MYOPIC, True, FULL, "opd_topk@k=8,tail=bucket", "opd"),
    "opd@gamma=0.5": (
        (kl(gamma=0.5),), False, FULL + OWN, None, "opd@gamma=0.5",
    ),
    "opd_sampled@gamma=0.5": (
        (kl(gamma=0.5),), False, OWN, None, "opd@gamma=0.5",
    ),
    "opd_sampled@gamma=1": (
        (kl(gamma=1.0),), False, OWN, None, "opd@gamma=1",
    ),
    "soft_label": (SOFT, False, FULL, "soft_label", "soft_label"),
    "soft_label@expectation=sampled": (
        SOFT, False, ("teacher_samples",), "soft_label", "soft_label",
    ),
    "reinforce": (REWARD, False, ("reward",), None, "reinforce"),
    "rloo": (REWARD, False, ("reward",), None, "reinforce"),
    "grpo": (REWARD, True, ("reward",), None, "reinforce"),
    "dr_grpo": (REWARD, True, ("reward",), None, "reinforce"),
    "dapo": (REWARD, True, ("reward",), None, "reinforce"),
    "reinforce@redraws=2": (REWARD, True, ("reward",), None, "reinforce"),
    "reinforce@redraws=0": (REWARD, False, ("reward",), None, "reinforce@redraws=0"),
    "opd@redraws=2": (MYOPIC, True, FULL + ("reward",), "opd@redraws=2", "opd"),
    "gspo": (REWARD, True, ("reward",), None, "reinforce"),
    "ppo": (REWARD, True, ("reward", "value"), None, "reinforce"),
    "ppo@lam=1,reduction=sum": (REWARD, False, ("reward", "value"), None, "reinforce"),
    "ppo@gamma=0,reduction=sum": (
        (Part("reward"),), False, ("reward", "value"), None, "reinforce@gamma=0",
    ),
    "vtrace": (REWARD, False, ("reward", "value"), None, "reinforce"),
    "vtrace@lam=0.9": (REWARD, True, ("reward", "value"), None, "reinforce"),
    "vtrace@c_bar=0.5": (REWARD, True, ("reward", "value"), None, "reinforce"),
    "rloo@importance=trajectory": (
        REWARD, False, ("reward",), None, "reinforce@importance=trajectory",
    ),
    "offline_rl": (
        REWARD, True, ("reward", "dataset"), None, "offline_rl@importance=trajectory",
    ),
    "offline_rl@importance=trajectory": (
        REWARD, False, ("reward", "dataset", "dataset_logp"), None,
        "offline_rl@importance=trajectory",
    ),
    "sft": (DATA, False, ("dataset",), None, "sft"),
    "sft@behavior=teacher": (SOFT, False, ("teacher_rollouts",), None, "sft@behavior=teacher"),
    "dagger": (SOFT, False, ("teacher_full", "buffer"), "dagger", "dagger"),
    "gkd": (
        JSD, False, ("teacher_full", "dataset"), "gkd", "gkd",
    ),
    "gkd@share=1": (JSD, False, FULL, "gkd@share=1", "gkd@share=1"),
    "gkd@other=teacher": (
        JSD, False, ("teacher_full", "teacher_rollouts"),
        "gkd@other=teacher", "gkd@other=teacher",
    ),
    "skew": ((kl("skew", 0.1),), False, FULL, "skew", "skew"),
    "minillm": ((kl(gamma=1.0),), False, FULL + OWN, None, "minillm"),
    "minillm@returns=mean": (
        (kl(gamma=1.0),), True, FULL + OWN, None, "opd@gamma=1",
    ),
    "teacher_behavior": (
        MYOPIC, False, ("teacher_full", "teacher_rollouts"), "teacher_behavior",
        "teacher_behavior",
    ),
    "teacher_behavior@expectation=sampled": (
        MYOPIC, True, ("teacher_logp", "teacher_rollouts"), "teacher_behavior", "teacher_behavior",
    ),
    "teacher_behavior@importance=prefix": (
        MYOPIC, False, ("teacher_full", "teacher_rollouts"), "teacher_behavior@importance=prefix",
        "teacher_behavior@importance=prefix",
    ),
    "rl_with_teacher": (
        REWARD + (kl(coef=0.1),), False, ("reward", "teacher_full"), None, "rl_with_teacher",
    ),
    "rl_with_teacher@reward.baseline=group,teacher.coef=2": (
        REWARD + (kl(coef=2.0),), True, ("reward", "teacher_full"), None,
        "rl_with_teacher@teacher.coef=2",
    ),
    "rl_with_reference": (
        REWARD + (kl("forward_kl", coef=0.04, to="reference"),), False, ("reward", "reference"),
        None, "rl_with_reference",
    ),
    "grpo@reference.coef=0.1,reference.penalty=k1,reference.gamma=1": (
        REWARD + (kl(coef=0.1, gamma=1.0, to="reference"),), True, ("reward", "reference"), None,
        "rl_with_reference@reference.penalty=k1,reference.gamma=1,reference.coef=0.1",
    ),
    "opd@entropy.coef=0.01": (MYOPIC, True, FULL, "opd@entropy.coef=0.01", "opd"),
    "opd_sampled@entropy.coef=0.01": (MYOPIC, True, OWN, "opd@entropy.coef=0.01", "opd"),
    "opd_sampled@coef=2": (MYOPIC, True, OWN, "opd@coef=2", "opd"),
    "opd_sampled@importance=token": (MYOPIC, False, OWN, "opd", "opd"),
    "opd_sampled@importance=prefix_inclusive": (
        MYOPIC, False, OWN, "opd@importance=prefix", "opd@importance=prefix",
    ),
    "opd_sampled@importance=trajectory": (MYOPIC, False, OWN, None, "opd@importance=prefix"),
    "opd_sampled@importance=token,ratio_rule=clip": (MYOPIC, False, OWN, None, "opd"),
    "opd_resampled@importance=prefix,ratio_rule=truncate,high=3": (
        MYOPIC, False, FULL, "opd@importance=prefix,ratio_rule=truncate,high=3", "opd",
    ),
    "k1_loss": (MYOPIC, True, (), None, "opd"),
    "kl_advantage": (MYOPIC, True, FULL, None, "opd"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_row_says_of_itself(name):
    method = table.parse(name)
    partner = facts.partner(method)
    found = (
        facts.parts(method),
        facts.bias(method) is not None,
        tuple(sorted(facts.needs(method))),
        partner and partner.name,
        facts.reference(method).name,
    )
    parts, biased, needs, *others = EXAMPLES[name]
    wanted = (parts, biased, tuple(sorted(needs)), *others)
    assert dict(zip(FACTS, found)) == dict(zip(FACTS, wanted))


def test_a_sum_lists_its_parts():
    """The reward first; a term of no weight is no part, and equal parts are one."""

    def parts(name):
        return facts.parts(table.parse(name))

    assert parts("rl_with_teacher@teacher.coef=2") == (*REWARD, kl(coef=2.0))
    assert parts("rl_with_teacher@teacher.coef=0,reward.coef=3") == REWARD
    assert parts("opd@reference.coef=0.1,reference.penalty=k1") == (
        kl(coef=0.1, to="reference"), kl(),
    )  # fmt: skip
    assert parts("dapo@entropy.coef=0.1,coef=1") == REWARD
    twice = (Term("reward", gamma=1.0), Term("reward", gamma=1.0, coef=0.04))
    method = Method("made up", "reinforce", Origin(), twice)
    assert facts.parts(method) == REWARD and "coef=1.04" in facts.bias(method)
    assert parts("opd_sampled@signal=entropy") == (Part("entropy"),)


GOALS = {
    "opd": Goal(MYOPIC, "current"),
    "opd@importance=prefix": Goal(MYOPIC, "current"),
    "opd@behavior=dataset": Goal(MYOPIC, "behavior", "dataset"),
    "opd@behavior=dataset,importance=prefix": Goal(MYOPIC, "current"),
    "opd@behavior=dataset,importance=prefix,ratio_rule=truncate": Goal(MYOPIC, "current"),
    "opd@behavior=dataset,gamma=0.5": Goal((kl(gamma=0.5),), "current"),
    "offline_rl": Goal(REWARD, "current"),
    "sft": Goal(DATA, "behavior", "dataset"),
    "sft@behavior=teacher": Goal(SOFT, "behavior", "teacher"),
    "soft_label@behavior=teacher": Goal(SOFT, "behavior", "teacher"),
    "gkd": Goal(JSD, "behavior", "0.5 student, 0.5 dataset"),
    "gkd@level=sequence": Goal(JSD, "behavior", "0.5 student, 0.5 dataset"),
    "gkd@level=token,other=teacher": Goal(JSD, "behavior", "0.5 student, 0.5 teacher by the token"),
    "gkd@share=1": Goal(JSD, "current"),
    "gkd@share=0": Goal(JSD, "behavior", "dataset"),
    "k1_loss": Goal(MYOPIC, "current"),
    "kl_advantage@gamma=1": Goal((kl(gamma=1.0),), "current"),
}


@pytest.mark.parametrize("name", GOALS)
def test_a_goal_is_what_and_on_whose_states(name):
    assert facts.goal(table.parse(name)) == GOALS[name]


def test_a_goal_in_words():
    def words(name):
        return facts.describe(facts.goal(table.parse(name)))

    assert words("rl_with_teacher@gamma=1,reward.baseline=none") == (
        "reward + 0.1 x reverse_kl to the teacher at gamma=1"
    )
    assert words("reinforce@gamma=0.5") == "reward at gamma=0.5"
    assert (
        words("gkd")
        == "jsd(0.5) to the teacher, on the behavior's states (0.5 student, 0.5 dataset)"
    )


def test_both_kls_in_equal_parts_are_jeffreys():
    """As terms or by its name, and with more of one of them it is neither."""

    def said(name, **changes):
        return facts.describe(facts.goal(table.parse(name, **changes)))

    jeffreys = said("opd@divergence=jeffreys")
    assert said("akl@weigh=none") == jeffreys == "jeffreys to the teacher"
    assert facts.reference(table.parse("akl")).name == "opd@divergence=jeffreys"
    sum_of_two = table.parse("akl@weigh=none")
    more = dataclasses.replace(sum_of_two.terms[0], coef=2.0)
    method = dataclasses.replace(sum_of_two, terms=(more, sum_of_two.terms[1]))
    assert facts.describe(facts.goal(method)) == (
        "2 x forward_kl to the teacher + reverse_kl to the teacher"
    )


@pytest.mark.parametrize(
    "name, needs",
    [
        ("reinforce@weigh=entropy_teacher", {"teacher_full", "reward"}),
        ("reinforce@weigh=agreement", {"teacher_logp", "reward"}),
        ("reinforce@weigh=entropy_student", {"reward"}),
        ("opd_sampled@gate=wrong", {"teacher_logp", "reward"}),
    ],
)
def test_what_a_weight_is_made_of_is_needed(name, needs):
    assert set(facts.needs(table.parse(name))) == needs


def test_axes_are_json_with_every_axis_of_every_term():
    found = json.loads(json.dumps(facts.axes(table.parse("dapo@entropy.coef=0.1"))))
    assert found["origin"]["redraws"] == 3 and len(found["terms"]) == 2
    assert {*found["origin"], *found["terms"][1]} == set(table.AXES)
    assert [term["coef"] for term in found["terms"]] == [1.0, 0.1]


STALE = {
    "opd": "behavior",
    "opd@importance=token": "behavior",
    "opd@importance=prefix": "current",
    "opd@importance=prefix_inclusive": "current",
    "opd@importance=trajectory": "current",
    "opd@importance=prefix,ratio_rule=truncate": None,
    "opd@importance=token,ratio_rule=truncate": "behavior",  # its state has no ratio to bend
    "opd@gamma=1": None,
    "opd@gamma=1,importance=prefix": None,
    "opd@gamma=1,importance=trajectory": "current",
    "opd_topk": "behavior",
    "opd_topk@tail=drop": None,
    "soft_label@expectation=sampled,importance=prefix": "current",
    "opd_sampled": None,
    "opd_sampled@importance=token": "behavior",
    "opd_sampled@importance=prefix": None,
    "opd_sampled@importance=prefix_inclusive": "current",
    "opd_sampled@importance=trajectory": "current",
    "opd_sampled@importance=sequence": None,
    "opd_sampled@gamma=1,importance=prefix_inclusive": None,
    "opd_sampled@gamma=1,importance=trajectory": "current",
    "opd_sampled@importance=token,correction=token": None,
    "opd_sampled@importance=token,correction=token,correction_rule=none": "behavior",
    "opd_sampled@importance=token,correction=prefix,correction_rule=none": None,
    "opd_sampled@correction=token,correction_rule=none": None,
    "reinforce": None,
    "reinforce@importance=trajectory": "current",
    "grpo@importance=trajectory": None,
    "ppo@lam=1,reduction=sum,importance=trajectory,ratio_rule=none": "current",
    "vtrace": None,
    "offline_rl": None,
    "offline_rl@importance=trajectory": "current",
    "sft": "behavior",
    "rl_with_teacher@reward.importance=trajectory": None,
    # Beside a correction the behavior is not the proximal policy: each term needs its own.
    "opd@importance=prefix,entropy.coef=0,entropy.correction=token": None,
    "rl_with_teacher@reward.importance=trajectory,teacher.importance=prefix": "current",
}


@pytest.mark.parametrize("name", STALE)
def test_what_an_older_policys_rollouts_are_good_for(name):
    assert facts.stale(table.parse(name)) == STALE[name]


@pytest.mark.parametrize("rule", ["clip", "clip_ungated", "truncate", "mask"])
def test_a_bounded_ratio_of_stale_rollouts_is_biased(rule):
    name = f"opd_sampled@importance=token,ratio_rule={rule}"
    assert facts.bias(table.parse(name)) is None and facts.stale(table.parse(name)) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("opd_topk@tail=bucket", "tail=bucket"),
        ("grpo", "group mean"),
        ("grpo", "group_std"),
        ("reinforce@baseline=batch", "batch mean"),
        ("opd@reduction=token_mean", "token_mean"),
        ("opd@coef=2", "coef=2"),
        ("opd_sampled@behavior=dataset", "dataset"),
        ("reinforce@behavior=dataset", "dataset"),
        ("opd@behavior=dataset,gamma=1", "dataset"),
        ("opd@entropy.coef=0.1", "entropy"),
        ("opd@cut=mask", "cut=mask"),
        ("opd_sampled@gamma=1,returns=mean", "returns=mean"),
        ("ppo@reduction=sum", "lam=0.95"),
        ("opd_sampled@behavior=teacher", "teacher's tokens were not drawn"),
        ("gkd@expectation=sampled", "mixture's tokens were not drawn"),
        ("offline_rl@importance=token", "no ratio of kind token"),
        ("offline_rl@importance=trajectory,ratio_rule=truncate", "bounded"),
        ("sft@behavior=buffer", "score of an own token"),
        (
            "opd_sampled@importance=token,correction=prefix,correction_rule=none,behavior=dataset",
            "no ratio of kind prefix",
        ),
        ("reinforce@redraws=2", "redraws=2"),
    ],
)
def test_a_bias_is_named(name, reason):
    """Whatever moves the expectation off the claim: a row may not be called unbiased."""
    assert reason in (facts.bias(table.parse(name)) or "")


def test_a_term_without_a_ratio_isnt_told_which_one_fails():
    """Nothing is said of ratios where none was asked for."""
    said = facts.bias(table.parse("opd_sampled@behavior=teacher"))
    assert said == "the teacher's tokens were not drawn from the student"


@pytest.mark.parametrize(
    ("name", "law", "reason"),
    [
        ("opd_sampled", "tempered", "the student's tokens were drawn at another temperature"),
        ("opd_sampled", "truncated", "the student's tokens were drawn with the vocabulary cut"),
        ("reinforce@importance=token", "tempered", "no ratio of kind token corrects that"),
        ("opd_sampled@importance=token,ratio_rule=clip", "tempered", "their ratio is bounded"),
        ("reinforce@importance=trajectory", "truncated", "no ratio brings back what was cut"),
        ("opd@importance=prefix", "truncated", "no ratio brings back what was cut"),
        ("offline_rl@importance=trajectory", "truncated", "no ratio brings back what was cut"),
        ("sft@behavior=teacher", "tempered", "the teacher's tokens were drawn at another temp"),
        (
            "rl_with_teacher@reward.importance=trajectory",
            "tempered",
            "its terms are on different policies' states",
        ),
    ],
)
def test_a_bias_of_the_law_that_drew_the_tokens_is_named(name, law, reason):
    assert reason in (facts.bias(table.parse(name), law) or "")
    assert reason not in (facts.bias(table.parse(name)) or "")


@pytest.mark.parametrize(
    ("name", "tempered", "truncated"),
    [
        ("opd", "behavior", "behavior"),
        ("opd@importance=prefix", "current", None),
        ("opd_resampled@importance=token", "behavior", "behavior"),
        ("reinforce@importance=trajectory", "current", None),
        ("gkd", "behavior", "behavior"),
        ("gkd@other=teacher,level=token", "behavior", "behavior"),
        ("gkd@expectation=sampled,importance=token", "behavior", None),
        ("dagger", "behavior", "behavior"),
        ("dagger@importance=prefix", "current", None),
        ("teacher_behavior@importance=prefix", "current", None),
        ("offline_rl@importance=trajectory", "current", None),
        ("sft", "behavior", "behavior"),
    ],
)
def test_whose_states_a_law_leaves_a_row(name, tempered, truncated):
    method = table.parse(name)
    for law, wanted in (("tempered", tempered), ("truncated", truncated)):
        assert (facts.bias(method, law) is None) == (wanted is not None)
        assert wanted is None or facts.states(method, law) == wanted


WEIGHS = {
    "opd": "trajectory",
    "opd@importance=token": "trajectory",  # its states have no ratio
    "opd@importance=trajectory": "prefix",
    "opd@gamma=1,importance=trajectory": "trajectory",
    "opd@gamma=1,importance=prefix_inclusive": "prefix_inclusive",
    "opd_sampled@importance=token": "token",
    "soft_label@expectation=sampled,importance=prefix_inclusive": "prefix",
    "reinforce": "trajectory",
    "dapo": "token",
    "gspo": "sequence",
    "rl_with_teacher@teacher.importance=prefix": "prefix",
    "rl_with_teacher@reward.importance=token,teacher.importance=prefix": "token",
}


@pytest.mark.parametrize("name", WEIGHS)
def test_which_weights_a_method_uses(name):
    assert facts.weighs(table.parse(name)) == WEIGHS[name]


@pytest.mark.parametrize("name", ["opd@behavior=dataset", "soft_label@behavior=dataset"])
def test_enumerated_rows_claim_the_datas_states_and_are_right(name):
    assert facts.bias(table.parse(name)) is None
    assert facts.states(table.parse(name)) == "behavior"
    assert facts.states(table.parse("opd")) == "current"
    assert facts.states(table.parse(f"{name},importance=prefix")) == "current"


@pytest.mark.parametrize(
    ("name", "coupled", "words"),
    [
        ("opd_sampled", None, None),
        ("rloo", "group", "terminal reward"),
        ("opd_sampled@normaliser=whiten", "batch", "other rollouts"),
        ("opd@reduction=token_mean", "batch", "other rollouts"),
        ("opd_sampled@gamma=0.5", None, "the future"),
        ("sft", None, "no enumerated partner"),
        ("opd@cut=mask", None, "length"),
        ("opd_sampled@importance=trajectory", None, "whole rollout's ratio"),
        ("opd_sampled@correction=sequence", None, "whole rollout's ratio"),
        ("opd@importance=trajectory", None, None),
        ("opd_sampled@importance=token,ratio_rule=mask", None, "bounded ratio"),
        ("opd@importance=prefix,ratio_rule=mask", None, None),
        ("opd_sampled@reference.coef=0.1", None, "no enumerated partner"),
        # Of several terms one is enough, whichever it is.
        ("rl_with_teacher", "group", "terminal reward"),
        ("rl_with_reference", "group", "terminal reward"),
        (
            "opd_sampled@reference.coef=0.1,reference.penalty=k1,reference.gamma=0.5",
            None, "the future",
        ),
        (
            "opd_sampled@reference.coef=0.1,reference.penalty=k1,reference.gamma=1,"
            "reference.baseline=group",
            "group", "the future",
        ),
        (
            "opd_sampled@normaliser=whiten,reference.coef=0.1,reference.penalty=k1,"
            "reference.gamma=1,reference.baseline=group",
            "batch", "the future",
        ),
        ("opd_sampled@reference.coef=0.1,reference.reduction=constant", None, "length"),
        ("opd_sampled@reference.coef=0.1,reference.cut=mask", None, "length"),
        ("opd_sampled@reference.coef=0.1,reference.importance=trajectory", None, "whole rollout's"),
        (
            "opd_sampled@reference.coef=0.1,reference.importance=token,reference.ratio_rule=mask",
            None, "bounded ratio",
        ),
        ("opd@reference.coef=0.1", None, "no enumerated partner"),
        ("opd@entropy.coef=0.1", None, None),
        ("opd_sampled@entropy.coef=0.1", None, None),
        ("opd_resampled@entropy.coef=0.1", None, None),
    ],
)  # fmt: skip
def test_why_a_row_has_no_partner(name, coupled, words):
    method = table.parse(name)
    assert facts.coupled(method) == coupled
    found = facts.partnerless(method)
    assert found is None if words is None else words in found


POINTWISE = {
    "opd": True,
    "opd_sampled": True,
    "opd_baseline": True,
    "grpo": True,  # its advantage is known before any forward pass
    "kl_advantage": True,
    "opd@gamma=0.5": False,
    "opd_sampled@gamma=1": False,
    "kl_advantage@gamma=1": False,
    "opd_sampled@gamma=1,baseline=group": False,
    "opd_sampled@normaliser=whiten": False,
    "dapo": True,  # a token's ratio and gate are its own
    "opd_sampled@importance=token,ratio_rule=clip": True,
    "opd_sampled@importance=prefix": False,
    "opd@importance=token": True,
    "opd@importance=prefix": False,
    "opd@importance=trajectory": False,
    "gspo": False,
    "reinforce@importance=trajectory": False,
    "reinforce@correction=trajectory": True,  # known before any forward pass
    "ppo": True,
    "vtrace": False,
    "rl_with_reference": True,
    "rl_with_reference@penalty=k1,reference.gamma=1": False,
    "minillm": False,
}


@pytest.mark.parametrize("name", POINTWISE)
def test_one_pass_will_do_for_pointwise_rows(name):
    assert facts.pointwise(table.parse(name)) == POINTWISE[name]


@pytest.mark.parametrize("name", ["opd", "opd_sampled", "soft_label@expectation=sampled", "sft"])
def test_a_row_whose_needs_are_absent_is_refused_by_name(name):
    method = table.parse(name)
    facts.require(method, set(facts.NEEDS))
    (need,) = facts.needs(method)
    with pytest.raises(ValueError) as error:
        facts.require(method, set(facts.NEEDS) - {need})
    assert str(error.value) == f"{name} needs {facts.NEEDS[need]}, and this run has none"


@pytest.mark.parametrize("name", ["reinforce", "rloo", "grpo"])
def test_reward_rows_need_no_teacher(name):
    facts.require(table.parse(name), {"reward"})


@pytest.mark.parametrize("name", ["k1_loss", "kl_advantage"])
def test_refused_rows_parse_and_are_not_trained_with(name):
    method = table.parse(name)
    with pytest.raises(ValueError) as error:
        facts.trainable(method)
    message = str(error.value)
    assert name in message and "use signal=teacher" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "opd_sampled@signal=one",
        "sft@behavior=student",
        "sft@behavior=buffer",
        "opd_sampled@signal=teacher_kl",
    ],
)
def test_refused_by_meaning_whatever_the_row_is_called(name):
    with pytest.raises(ValueError, match="zero"):
        facts.trainable(table.parse(name))


def test_other_rows_are_trained_with():
    found = [name for name in table.ROWS if facts.refused(table.parse(name)) is not None]
    assert found == ["k1_loss", "kl_advantage"]
    facts.trainable(table.parse("sft@behavior=mixture"))


def test_facts_name_no_row():
    """What they say follows from terms: a row of another name, or none, has the same facts."""
    source = Path(facts.__file__).read_text()
    words = {choice for axis in table.AXES.values() for choice in axis.choices}
    rows = table.ROWS.keys() - words  # vtrace is a kind of returns too
    assert not [row for row in rows if f'"{row}"' in source or f"{row}@" in source]


def test_a_top_k_must_fit_the_vocabulary():
    facts.fits(table.parse("opd_topk@k=8"), 8)
    facts.fits(table.parse("opd_resampled@k=8"), 4)  # draws, not members
    with pytest.raises(ValueError, match="^opd_topk@k=8: k=8; the vocabulary has 7 tokens$"):
        facts.fits(table.parse("opd_topk@k=8"), 7)


def test_every_row_is_described():
    assert all(row.label and row.paper for row in table.ROWS.values())


def test_what_a_teacher_that_is_the_student_leaves_of_a_gradient():
    """Dividing by a spread that is rounding alone leaves no zero."""
    nothing = ("opd", "opd_sampled", "opd_sampled@gamma=1", "opd_topk@tail=drop", "soft_label")
    something = ("opd_sampled@normaliser=whiten", "opd_topk@tail=truncate", "grpo")
    assert all(facts.vanishes(table.parse(name)) for name in nothing)
    assert not any(facts.vanishes(table.parse(name)) for name in something)

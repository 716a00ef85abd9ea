"""Names to methods and back, and what is derived from a row."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.method import facts, local, table
from opd.method.axes import AXES, Origin, Term
from opd.method.table import Method

NAMES = (
    *table.ROWS,
    "opd@gamma=0.5",
    "opd@gamma=0.1234567891",
    "opd@gamma=1",
    "opd@divergence=jsd,argument=0.3",
    "opd@divergence=jeffreys",
    "opd_sampled@gamma=0.25",
    "opd_sampled@divergence=skew,argument=0.1",
    "opd_resampled@k=1",
    "opd_topk@k=3,tail=drop",
    "opd_topk@tail=bucket,k=3,topk_from=teacher",
    "opd_topk@topk_from=union,tail=renormalise",
    "soft_label@expectation=sampled",
    "soft_label@expectation=topk,k=4",
    "reinforce@gamma=0.9",
    "grpo@normaliser=none,reduction=sequence_mean",
    "grpo@importance=token,ratio_rule=clip,high=1.28",
    "grpo@entropy.coef=0.01,reference.coef=0.04",
    "opd@importance=prefix",
    "opd_sampled@importance=token,correction=token,correction_rule=mask",
    "minillm@behavior=mixture,level=token,other=teacher,returns=mean",
    "rl_with_teacher@teacher.coef=2,reward.baseline=group",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_name_parses_to_the_method(name):
    method = table.parse(name)
    assert table.parse(method.name) == method
    assert table.parse(f"  {name} ") == method
    assert hash(table.parse(name)) == hash(method)
    assert method.row == name.partition("@")[0]
    assert table.ROWS[method.row].label in method.label


def test_overrides_are_applied():
    (term,) = table.parse("opd_topk@k=3, tail = drop ,gamma=0.5").terms
    assert (term.k, term.tail, term.topk_from, term.gamma) == (3, "drop", "student", 0.5)
    assert table.parse("opd_topk@k=3, tail = drop").name == "opd_topk@k=3,tail=drop"
    assert table.parse("opd_topk@k=3,tail=drop").label == "top-k and a tail (k=3, tail=drop)"


def test_axes_that_an_expectation_needs_are_filled_in():
    (term,) = table.parse("opd@expectation=topk").terms
    assert (term.k, term.tail, term.topk_from) == (8, "sample", "student")
    (term,) = table.parse("opd@expectation=resampled").terms
    assert (term.k, term.tail, term.topk_from) == (4, None, None)
    (term,) = table.parse("opd_topk@expectation=enumerated").terms
    assert (term.k, term.tail, term.topk_from) == (None, None, None)


def test_a_ratios_rule_and_bounds_are_filled_in():
    def ratio(name, axes=("importance", "ratio_rule", "low", "high")):
        return tuple(getattr(table.parse(name).terms[0], axis) for axis in axes)

    assert ratio("grpo") == ("none", None, None, None)
    assert ratio("grpo@importance=token") == ("token", "none", None, None)
    assert ratio("grpo@importance=token,ratio_rule=clip") == ("token", "clip", 0.8, 1.2)
    assert ratio("grpo@importance=token,ratio_rule=clip,high=3") == ("token", "clip", 0.8, 3)
    assert ratio("dapo@low=0.7") == ("token", "clip", 0.7, 1.28)
    assert ratio("dapo@ratio_rule=truncate") == ("token", "truncate", None, 2.0)
    assert ratio("dapo@importance=none") == ("none", None, None, None)
    correction = ("correction", "correction_rule", "correction_low", "correction_high")
    assert ratio("dapo@correction=token", correction) == ("token", "truncate", None, 2.0)


def test_a_signals_own_change_goes_to_its_terms_alone():
    reward, teacher = table.parse("rl_with_teacher@teacher.coef=2,teacher.gamma=0.5").terms
    assert (reward.coef, reward.gamma) == (1, 1) and (teacher.coef, teacher.gamma) == (2, 0.5)
    reward, teacher = table.parse("rl_with_teacher@coef=3,reward.coef=2").terms
    assert (reward.coef, teacher.coef) == (2, 3)
    assert table.parse("rl_with_reference@penalty=k1").terms[1].penalty == "k1"
    assert table.parse("rl_with_reference@penalty=k1").terms[0].penalty is None


def test_any_row_may_be_given_a_bonus_and_a_reference():
    """They take the rollouts and the reduction of the row, and nothing else of it."""
    reward, bonus, penalty = table.parse("dapo@entropy.coef=0.01,reference.coef=0.04").terms
    assert table.parse("dapo").terms == (reward,)
    assert (bonus.signal, bonus.coef, bonus.reduction, bonus.cut, bonus.importance) == (
        "entropy", 0.01, "token_mean", "mask", "none",
    )  # fmt: skip
    assert (penalty.signal, penalty.penalty, penalty.coef) == ("reference", "k3", 0.04)
    reward, bonus = table.parse("reinforce@gamma=0.5,cut=mask,coef=3,entropy.coef=0.1").terms
    assert (reward.gamma, bonus.gamma, bonus.cut, bonus.coef) == (0.5, 0, "mask", 0.1)
    reward, teacher = table.parse("rl_with_teacher@divergence=skew,argument=0.1").terms
    assert (reward.divergence, teacher.divergence, teacher.argument) == (None, "skew", 0.1)
    assert len(table.parse("rl_with_reference@reference.coef=1").terms) == 2


def test_two_gammas_are_two_names():
    """Names are keys of reports: methods that differ must not share one."""
    near, far = (table.parse(f"opd@gamma={gamma}") for gamma in ("0.12345671", "0.12345672"))
    assert near != far and near.name != far.name


def test_redraws_are_gone_with_a_behavior_that_has_nothing_to_draw_again():
    for name, redraws in {
        "opd": 0,
        "rl_with_teacher@redraws=2": 2,
        "dapo@redraws=2,entropy.coef=0.1": 2,
        "dapo@entropy.coef=0.1": 3,
        "dapo@behavior=dataset": None,
        "gkd": None,
        "gkd@other=teacher,redraws=1": 1,
        "gkd@level=sequence,redraws=1": 1,
    }.items():
        assert table.parse(name).origin.redraws == redraws


def test_axes_are_given_in_the_name_or_beside_it():
    """Text in the name, numbers beside it: the same method by the same name."""
    for text, name, beside in (
        ("opd_topk@k=8,tail=drop", "opd_topk", {"k": 8, "tail": "drop"}),
        ("opd@gamma=0.5,coef=2", "opd@gamma=0.5", {"coef": 2}),
        ("rl_with_teacher@teacher.coef=2", "rl_with_teacher", {"teacher.coef": 2.0}),
        ("gkd@share=0.25,redraws=1,level=token,other=teacher", "gkd@share=0.25",
         {"redraws": np.int64(1), "level": "token", "other": "teacher"}),
    ):  # fmt: skip
        assert table.parse(name, **beside) == table.parse(text)
        assert table.parse(name, **beside).name == text


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"k": "8"}, "k='8'; it is a whole number"),
        ({"k": 8.0}, "k=8.0; it is a whole number"),
        ({"k": True}, "k=True; it is a whole number"),
        ({"gamma": "0.5"}, "gamma='0.5'; it is a number in [0, 1]"),
        ({"gamma": None}, "gamma=None; it is a number"),
        ({"tail": 1}, "tail=1; it is one of drop"),
        ({"gama": 1}, "gama is no axis; they are behavior"),
        ({"teacher.redraws": 1}, "teacher.redraws is no axis"),
        ({"coef": 2}, "coef is given twice"),
    ],
)
def test_a_bad_axis_beside_the_name_is_refused_in_one_line(beside, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        table.parse("opd_topk@coef=1", **beside)
    assert len(str(error.value).splitlines()) == 1 and "opd_topk@coef=1" in str(error.value)


# Each bad name, and what its message must say besides the name: what is allowed.
BAD = {
    "opdd": ["opd_sampled", "grpo", "sft"],
    "": ["opd_sampled"],
    "opd@": ["axis=value", "gamma", "divergence"],
    "opd@gama=1": ["gama", "gamma"],
    "opd@gamma": ["axis=value"],
    "opd@gamma=0.5,gamma=1": ["twice"],
    "opd@gamma=x": ["x", "a number"],
    "opd@gamma=1.5": ["[0, 1]"],
    "opd@gamma=-0.1": ["[0, 1]"],
    "opd@gamma=nan": ["[0, 1]"],
    "opd_resampled@k=2.5": ["a whole number"],
    "opd_resampled@k=0": ["at least 1"],
    "opd@k=3": ["k means nothing there"],
    "grpo@gamma=0": ["need gamma=1"],
    "rloo@gamma=0.9": ["need gamma=1"],
    "opd_sampled@baseline=group": ["need gamma=1"],
    "opd_sampled@normaliser=group_std": ["need gamma=1"],
    "opd_baseline@normaliser=whiten": ["not baseline=expected_kl"],
    "opd_topk@expectation=enumerated,tail=drop": ["tail means nothing there"],
    "opd@argument=0.3": ["argument means nothing there"],
    "opd@coef=inf": ["finite"],
    "opd@coef=0": ["nothing is pushed"],
    "rl_with_reference@signal=reward": ["two terms of one signal"],
    "kl_advantage@signal=entropy,entropy.coef=0.1": ["two terms of one signal"],
    "opd@divergence=kl": list(local.DIVERGENCES),
    "opd@expectation=mean": ["sampled", "enumerated", "topk", "resampled"],
    "opd_topk@tail=cut": list(local.TAILS),
    "opd_topk@topk_from=both": list(local.TOPK_FROM),
    "opd@importance=state": ["none", "token", "prefix", "trajectory", "sequence"],
    "opd@importance=sequence": ["sampled token"],
    "opd@correction=sequence": ["sampled token"],
    "opd@importance=prefix,ratio_rule=clip": ["sampled token"],
    "opd@gamma=1,importance=trajectory,ratio_rule=clip": ["sampled token"],
    "grpo@ratio_rule=clip": ["ratio_rule means nothing there"],
    "grpo@importance=token,low=0.5": ["low means nothing there"],
    "dapo@ratio_rule=clamp": ["clip_ungated", "truncate", "mask"],
    "dapo@correction=token,correction_rule=clip": ["clip_ungated", "truncate", "mask"],
    "dapo@ratio_rule=truncate,low=0.5": ["low means nothing there"],
    "dapo@low=1.1": ["[0, 1]"],
    "dapo@low=nan": ["[0, 1]"],
    "dapo@high=0.9": ["at least 1"],
    "dapo@high=inf": ["at least 1"],
    "sft@importance=token": ["the data is the law"],
    "sft@correction=token": ["the data is the law"],
    "grpo@lam=0.9": ["lam means nothing there"],
    "ppo@lam=1.5": ["[0, 1]"],
    "vtrace@c_bar=0": ["more than 0"],
    "vtrace@importance=prefix": ["importance=token", "ratio_rule=truncate"],
    "vtrace@ratio_rule=clip": ["importance=token", "ratio_rule=truncate"],
    "reinforce@returns=gae": ["baseline=value"],
    "reinforce@baseline=value": ["returns=gae"],
    "opd_sampled@returns=mean": ["gamma > 0"],
    "ppo@reference.baseline=value,reference.returns=gae,reference.penalty=k1": ["one critic"],
    "gkd@share=1.5": ["[0, 1]"],
    "gkd@level=token": ["other=teacher"],
    "gkd@level=word": ["batch", "sequence", "token"],
    "kl_advantage@divergence=jeffreys": ["divergence=reverse_kl"],
    "opd@share=0.5": ["share means nothing there"],
    "dapo@redraws=-1": ["at least 0"],
    "dapo@redraws=0.5": ["a whole number"],
    "sft@redraws=1": ["redraws means nothing there"],
    "dapo@behavior=teacher,redraws=1": ["redraws means nothing there"],
    "dagger@redraws=1": ["redraws means nothing there"],
    "gkd@redraws=1": ["redraws means nothing there"],
    "rl_with_teacher@reward.redraws=1": ["axis=value"],
    "opd_sampled@penalty=k3": ["penalty means nothing there"],
    "opd_sampled@divergence=k3": list(local.DIVERGENCES),
    "rl_with_reference@reference.gamma=1": ["penalty=k1"],
    "rl_with_reference@reference.baseline=group": ["needs a return"],
    "sft@baseline=group": ["needs a return"],
    "rl_with_teacher@student.coef=1": ["'student'", "reward", "teacher"],
    "rl_with_teacher@teacher.behavior=teacher": ["axis=value"],
    "opd@reward.coef=1": ["reward.coef means nothing there"],
    "opd_sampled@baseline=mean": ["leave_one_out", "group", "expected_kl"],
    "grpo@normaliser=std": ["group_std", "whiten"],
    "grpo@reduction=mean": ["token_mean", "sequence_mean", "constant"],
    "opd@behavior=expert": ["student", "teacher", "mixture", "dataset", "buffer"],
    "opd@signal=kl": ["teacher", "reward"],
    "opd@divergence=jsd": ["needs argument", "(0, 1)"],
    "opd@divergence=skew,argument=1": ["a number in (0, 1)"],
    "opd@divergence=jsd,argument=0.5,gamma=0.5": ["divergence=reverse_kl"],
    "soft_label@gamma=1": ["divergence=reverse_kl"],
    "reinforce@divergence=jsd": ["signal=teacher"],
    "reinforce@expectation=enumerated": ["teacher signal"],
    "reinforce@signal=teacher": ["divergence"],
    "reinforce@baseline=expected_kl": ["teacher signal"],
    "opd_baseline@gamma=0.5": ["gamma=0"],
    "sft@gamma=0.5": ["reward", "teacher signal"],
    "opd@baseline=group": ["sampled token"],
    "opd_resampled@normaliser=whiten": ["sampled token"],
    "opd@gamma=0.5,baseline=leave_one_out": ["sampled token"],
    "opd@gamma=0.5,normaliser=whiten": ["sampled token"],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_in_one_line(name):
    with pytest.raises(ValueError) as error:
        table.parse(name)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert name in message
    for allowed in BAD[name]:
        assert allowed in message


@pytest.mark.parametrize(
    "axis, words",
    [
        ("k", "expectation=resampled or topk"),  # as many others as it goes with
        ("tail", "expectation=topk"),
        ("ratio_rule", "importance other than none"),
        ("redraws", "behavior=student or mixture, unless level=batch and other=dataset"),
        ("gamma", ""),
    ],
)
def test_an_axis_says_what_brings_it_in_by_the_shorter_list(axis, words):
    assert AXES[axis].where == words


@pytest.mark.parametrize(
    "axis, words",
    [
        ("gamma", "0"),
        ("argument", "must be told"),  # whatever brings it in
        ("correction_high", "5 for clip_ungated, 2 for truncate, 5 for mask"),
    ],
)
def test_an_axis_says_what_it_is_untold(axis, words):
    assert AXES[axis].usual == words


def choices(axis):
    """Values to try on an axis, as text: all its choices, or numbers good and bad."""
    numbers = {
        "gamma": ["0", "0.5", "1", "2", "nan"],
        "argument": ["0.3", "1"],
        "k": ["1", "3", "0"],
        "coef": ["-1", "0.01", "inf"],
        "share": ["0", "0.5", "1", "2"],
        "redraws": ["0", "2", "-1"],
        "lam": ["0.9", "1", "nan"],
        "c_bar": ["0.5", "1", "0"],
        "low": ["0", "0.9", "2"],
        "high": ["1.5", "0.9", "inf"],
    }
    return numbers.get(axis.removeprefix("correction_")) or [*AXES[axis].choices, "nonsense"]


def used(part):
    """The axes of an origin or a term that have a value."""
    return [AXES[axis] for axis, value in vars(part).items() if value is not None]


addressed = st.sampled_from(list(AXES)).flatmap(
    lambda axis: st.sampled_from(("", "", "reward.", "teacher.", "entropy.", "reference.")).map(
        lambda signal: signal + axis
    )
)
axes = addressed.flatmap(
    lambda key: st.tuples(st.just(key), st.sampled_from(choices(key.rpartition(".")[2])))
)


@given(st.sampled_from(list(table.ROWS)), st.lists(axes, max_size=4, unique_by=lambda a: a[0]))
def test_any_combination_parses_or_is_refused(row, changes):
    """A method whose name comes back to it and whose derived facts hang together, or one line."""
    name = row + "@" * bool(changes) + ",".join(f"{axis}={value}" for axis, value in changes)
    try:
        method = table.parse(name)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and row in str(error)
        return
    assert table.parse(method.name) == method
    assert all(axis.used(method.origin) for axis in used(method.origin))
    assert all(axis.used(term) for term in method.terms for axis in used(term))
    assert set(facts.needs(method)) <= set(facts.NEEDS)
    partner = facts.partner(method)
    assert (partner is None) == (facts.partnerless(method) is not None)
    if partner is not None:
        assert facts.partner(partner) == partner
        assert sum(rule.draws for rule in partner.rules) == 0
    reference = facts.reference(method)
    assert facts.reference(reference).terms == reference.terms
    if facts.bias(method) is None:
        assert facts.parts(reference) == facts.parts(method)
    assert facts.stale(method) in ("current", "behavior", None)
    assert facts.stale(method) is None or facts.bias(method) is None
    assert facts.states(method) in ("current", "behavior")
    assert isinstance(facts.pointwise(method), bool)


def test_rules_follow_the_terms():
    """Own tokens have no rule; a soft label's token is drawn from p; a future adds own tokens."""
    (sampled,) = table.parse("opd_sampled").terms
    assert sampled.rule is None and sampled.onehot
    (soft,) = table.parse("soft_label@expectation=sampled").terms
    assert soft.rule == local.Rule("forward_kl", None, "resampled", 1) and not soft.onehot
    (future,) = table.parse("opd@gamma=0.5").terms
    assert future.rule == local.Rule("reverse_kl") and future.onehot
    two = Method("two", "opd_sampled", Origin(), (sampled, Term(signal="entropy", coef=0.01)))
    assert two.rules == (local.Rule("entropy"),)


def test_methods_are_static():
    """Frozen and hashable: they select programs."""
    methods = [table.parse(name) for name in NAMES]
    for left, right in itertools.combinations(methods, 2):
        assert left != right
    with pytest.raises(dataclasses.FrozenInstanceError):
        methods[0].name = "x"

"""Names to methods and back, and what is derived from a row."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.method import local, table
from opd.method.table import Method, Target, Term

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
    assert table.parse("sft@entropy.coef=0.1").terms[1].behavior == "dataset"
    reward, bonus = table.parse("grpo@gamma=0.5,cut=mask,coef=3,entropy.coef=0.1").terms
    assert (reward.gamma, bonus.gamma, bonus.cut, bonus.coef) == (0.5, 0, "mask", 0.1)
    reward, teacher = table.parse("rl_with_teacher@divergence=skew,argument=0.1").terms
    assert (reward.divergence, teacher.divergence, teacher.argument) == (None, "skew", 0.1)
    assert len(table.parse("rl_with_reference@reference.coef=1").terms) == 2


def test_two_gammas_are_two_names():
    """Names are keys of reports: methods that differ must not share one."""
    near, far = (table.parse(f"opd@gamma={gamma}") for gamma in ("0.12345671", "0.12345672"))
    assert near != far and near.name != far.name


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
    "opd_topk@expectation=enumerated,tail=drop": ["tail means nothing there"],
    "opd@argument=0.3": ["argument means nothing there"],
    "opd@coef=inf": ["finite"],
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
    "reinforce@signal=teacher_kl": ["divergence=reverse_kl"],
    "opd@share=0.5": ["share means nothing there"],
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
    "opd@divergence=jsd": ["argument=beta", "(0, 1)"],
    "opd@divergence=skew,argument=1": ["argument=alpha", "(0, 1)"],
    "opd@divergence=jsd,argument=0.5,gamma=0.5": ["divergence=reverse_kl"],
    "soft_label@gamma=1": ["divergence=reverse_kl"],
    "reinforce@divergence=jsd": ["teacher signal"],
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


def choices(axis):
    """Values to try on an axis, as text: all its choices, or numbers good and bad."""
    numbers = {
        "gamma": ["0", "0.5", "1", "2", "nan"],
        "argument": ["0.3", "1"],
        "k": ["1", "3", "0"],
        "coef": ["-1", "0.01", "inf"],
        "share": ["0", "0.5", "1", "2"],
        "lam": ["0.9", "1", "nan"],
        "c_bar": ["0.5", "1", "0"],
        "low": ["0", "0.9", "2"],
        "high": ["1.5", "0.9", "inf"],
    }
    axis = axis.removeprefix("correction_") if axis not in table.CHOICES else axis
    return numbers.get(axis) or [*table.CHOICES[axis], "nonsense"]


addressed = st.sampled_from(table.AXES).flatmap(
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
    assert set(table.needs(method)) <= set(table.NEEDS)
    partner = table.partner(method)
    assert (partner is None) == (table.partnerless(method) is not None)
    if partner is not None:
        assert table.partner(partner) == partner
        assert sum(rule.draws for rule in partner.rules) == 0
    reference = table.reference(method)
    assert table.reference(reference).terms == reference.terms
    if table.bias(method) is None:
        assert table.parts(reference) == table.parts(method)
    assert table.stale(method) in ("current", "behavior", None)
    assert table.stale(method) is None or table.bias(method) is None
    assert table.states(method) in ("current", "behavior")
    assert isinstance(table.pointwise(method), bool)


FACTS = ("claims", "biased", "needs", "partner", "reference")
MYOPIC = Target("myopic", "reverse_kl", 0.0)
SOFT = Target("myopic", "forward_kl", 0.0)
REWARD = Target("reward", None, 1.0)
SUM = Target("sum", None, 1.0)
FULL, OWN = ("teacher_full",), ("teacher_logp",)
# The rows: claim, biased, needs, partner, reference.
ROWS = {
    "opd": (MYOPIC, False, FULL, "opd", "opd"),
    "opd_sampled": (MYOPIC, False, OWN, "opd", "opd"),
    "opd_baseline": (MYOPIC, False, FULL + OWN, "opd", "opd"),
    "opd_resampled@k=4": (MYOPIC, False, FULL, "opd", "opd"),
    "opd_topk@k=8": (MYOPIC, False, FULL, "opd", "opd"),
    "opd_topk@k=8,tail=drop": (MYOPIC, True, FULL, "opd_topk@k=8,tail=drop", "opd"),
    "opd_topk@k=8,tail=renormalise": (MYOPIC, True, FULL, "opd_topk@k=8,tail=renormalise", "opd"),
    "opd_topk@k=8,tail=bucket": (MYOPIC, True, FULL, "opd_topk@k=8,tail=bucket", "opd"),
    "opd@gamma=0.5": (
        Target("discounted", "reverse_kl", 0.5), False, FULL + OWN, None, "opd@gamma=0.5",
    ),
    "opd_sampled@gamma=0.5": (
        Target("discounted", "reverse_kl", 0.5), False, OWN, None, "opd@gamma=0.5",
    ),
    "opd_sampled@gamma=1": (
        Target("sequence", "reverse_kl", 1.0), False, OWN, None, "opd@gamma=1",
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
    "gspo": (REWARD, True, ("reward",), None, "reinforce"),
    "ppo": (REWARD, True, ("reward", "value"), None, "reinforce"),
    "ppo@lam=1,reduction=sum": (REWARD, False, ("reward", "value"), None, "reinforce"),
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
    "sft": (SOFT, False, ("dataset",), None, "sft"),
    "sft@behavior=teacher": (SOFT, False, ("teacher_rollouts",), None, "sft@behavior=teacher"),
    "dagger": (SOFT, False, ("teacher_full", "buffer"), "dagger", "dagger"),
    "gkd": (
        Target("myopic", "jsd", 0.0), False, ("teacher_full", "dataset"), "gkd", "gkd",
    ),
    "gkd@share=1": (Target("myopic", "jsd", 0.0), False, FULL, "gkd@share=1", "gkd@share=1"),
    "gkd@other=teacher": (
        Target("myopic", "jsd", 0.0), False, ("teacher_full", "teacher_rollouts"),
        "gkd@other=teacher", "gkd@other=teacher",
    ),
    "skew": (Target("myopic", "skew", 0.0), False, FULL, "skew", "skew"),
    "minillm": (Target("sequence", "reverse_kl", 1.0), False, FULL + OWN, None, "minillm"),
    "minillm@returns=mean": (
        Target("sequence", "reverse_kl", 1.0), True, FULL + OWN, None, "opd@gamma=1",
    ),
    "teacher_behavior": (
        MYOPIC, False, ("teacher_full", "teacher_rollouts"), "teacher_behavior",
        "teacher_behavior",
    ),
    "teacher_behavior@expectation=sampled": (
        MYOPIC, True, ("teacher_logp", "teacher_rollouts"), "opd@behavior=teacher",
        "opd@behavior=teacher",
    ),
    "teacher_behavior@importance=prefix": (
        MYOPIC, False, ("teacher_full", "teacher_rollouts"), "teacher_behavior@importance=prefix",
        "teacher_behavior@importance=prefix",
    ),
    "rl_with_teacher": (SUM, False, ("reward", "teacher_full"), None, "rl_with_teacher"),
    "rl_with_teacher@reward.baseline=group,teacher.coef=2": (
        SUM, True, ("reward", "teacher_full"), None, "rl_with_teacher@teacher.coef=2",
    ),
    "rl_with_reference": (SUM, False, ("reward", "reference"), None, "rl_with_reference"),
    "grpo@reference.coef=0.1,reference.penalty=k1,reference.gamma=1": (
        SUM, True, ("reward", "reference"), None,
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


@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_says_of_itself(name):
    method = table.parse(name)
    partner = table.partner(method)
    found = (
        table.claims(method),
        table.bias(method) is not None,
        tuple(sorted(table.needs(method))),
        partner and partner.name,
        table.reference(method).name,
    )
    claim, biased, needs, *others = ROWS[name]
    wanted = (claim, biased, tuple(sorted(needs)), *others)
    assert dict(zip(FACTS, found)) == dict(zip(FACTS, wanted))


def test_a_sum_lists_its_parts():
    reward, teacher = table.parts(table.parse("rl_with_teacher@teacher.coef=2"))
    assert reward == table.Part(1.0, REWARD)
    assert teacher == table.Part(2.0, MYOPIC, to="teacher")
    _, k3 = table.parts(table.parse("rl_with_reference"))
    assert k3 == table.Part(0.04, SOFT, to="reference")
    _, k1 = table.parts(table.parse("rl_with_reference@penalty=k1,reference.gamma=1"))
    (skewed,) = table.parts(table.parse("skew"))
    assert skewed == table.Part(1.0, Target("myopic", "skew", 0.0), 0.1, "teacher")
    assert k1 == table.Part(0.04, Target("sequence", "reverse_kl", 1.0), to="reference")
    assert table.parts(table.parse("dapo@entropy.coef=0.1,coef=1")) == (table.Part(1.0, REWARD),)


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
    "rl_with_teacher@reward.importance=trajectory,teacher.importance=prefix": "current",
}


@pytest.mark.parametrize("name", STALE)
def test_what_an_older_policys_rollouts_are_good_for(name):
    assert table.stale(table.parse(name)) == STALE[name]


@pytest.mark.parametrize("rule", ["clip", "clip_ungated", "truncate", "mask"])
def test_a_bounded_ratio_of_stale_rollouts_is_biased(rule):
    name = f"opd_sampled@importance=token,ratio_rule={rule}"
    assert table.bias(table.parse(name)) is None and table.stale(table.parse(name)) is None


def test_every_row_is_described():
    assert {name.partition("@")[0] for name in ROWS} == set(table.ROWS)
    assert all(row.label and row.paper for row in table.ROWS.values())


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
        ("opd_sampled@signal=entropy", "entropy"),
        ("opd@entropy.coef=0.1", "entropy"),
        ("opd@cut=mask", "cut=mask"),
        ("opd_sampled@gamma=1,returns=mean", "returns=mean"),
        ("ppo@reduction=sum", "lam=0.95"),
        ("opd_sampled@behavior=teacher", "teacher's tokens were not drawn"),
        ("gkd@expectation=sampled", "mixture's tokens were not drawn"),
        ("offline_rl@importance=token", "no ratio of kind token"),
        ("offline_rl@importance=trajectory,ratio_rule=truncate", "bounded"),
        ("sft@behavior=buffer", "score of an own token"),
    ],
)
def test_a_bias_is_named(name, reason):
    """Whatever moves the expectation off the claim: a row may not be called unbiased."""
    assert reason in (table.bias(table.parse(name)) or "")


@pytest.mark.parametrize("name", ["opd@behavior=dataset", "soft_label@behavior=dataset"])
def test_enumerated_rows_claim_the_datas_states_and_are_right(name):
    assert table.bias(table.parse(name)) is None
    assert table.states(table.parse(name)) == "behavior"
    assert table.states(table.parse("opd")) == "current"
    assert table.states(table.parse(f"{name},importance=prefix")) == "current"


@pytest.mark.parametrize(
    ("name", "coupled", "words"),
    [
        ("opd_sampled", None, None),
        ("rloo", "group", "terminal reward"),
        ("opd_sampled@baseline=group", "group", "other rollouts"),
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
    ],
)
def test_why_a_row_has_no_partner(name, coupled, words):
    method = table.parse(name)
    assert table.coupled(method) == coupled
    found = table.partnerless(method)
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
    "opd_sampled@baseline=group": False,
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
    assert table.pointwise(table.parse(name)) == POINTWISE[name]


@pytest.mark.parametrize("name", ["opd", "opd_sampled", "soft_label@expectation=sampled", "sft"])
def test_a_row_whose_needs_are_absent_is_refused_by_name(name):
    method = table.parse(name)
    table.require(method, set(table.NEEDS))
    (need,) = table.needs(method)
    with pytest.raises(ValueError) as error:
        table.require(method, set(table.NEEDS) - {need})
    assert str(error.value) == f"{name} needs {table.NEEDS[need]}, and this run has none"


@pytest.mark.parametrize("name", ["reinforce", "rloo", "grpo"])
def test_reward_rows_need_no_teacher(name):
    table.require(table.parse(name), {"reward"})


@pytest.mark.parametrize("name", ["k1_loss", "kl_advantage"])
def test_refused_rows_parse_and_are_not_trained_with(name):
    method = table.parse(name)
    with pytest.raises(ValueError) as error:
        table.trainable(method)
    message = str(error.value)
    assert name in message and "use opd" in message and len(message.splitlines()) == 1


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
        table.trainable(table.parse(name))


def test_other_rows_are_trained_with():
    for name in set(table.ROWS) - {"k1_loss", "kl_advantage"}:
        table.trainable(table.parse(name))


def test_a_top_k_must_fit_the_vocabulary():
    table.fits(table.parse("opd_topk@k=8"), 8)
    table.fits(table.parse("opd_resampled@k=8"), 4)  # draws, not members
    with pytest.raises(ValueError, match="^opd_topk@k=8: k=8; the vocabulary has 7 tokens$"):
        table.fits(table.parse("opd_topk@k=8"), 7)


def test_rules_follow_the_terms():
    """Own tokens have no rule; a soft label's token is drawn from p; a future adds own tokens."""
    (sampled,) = table.parse("opd_sampled").terms
    assert sampled.rule is None and sampled.onehot
    (soft,) = table.parse("soft_label@expectation=sampled").terms
    assert soft.rule == local.Rule("forward_kl", None, "resampled", 1) and not soft.onehot
    (future,) = table.parse("opd@gamma=0.5").terms
    assert future.rule == local.Rule("reverse_kl") and future.onehot
    two = Method("two", "opd_sampled", (sampled, Term(signal="entropy", coef=0.01)))
    assert two.rules == (local.Rule("entropy"),)


def test_methods_are_static():
    """Frozen and hashable: they select programs."""
    methods = [table.parse(name) for name in NAMES]
    for left, right in itertools.combinations(methods, 2):
        assert left != right
    with pytest.raises(dataclasses.FrozenInstanceError):
        methods[0].name = "x"

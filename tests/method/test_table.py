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
    "opd@importance=token": ["none"],
    "opd_sampled@baseline=mean": ["leave_one_out", "group", "expected_kl"],
    "grpo@normaliser=std": ["group_std", "whiten"],
    "grpo@reduction=mean": ["token_mean", "sequence_mean", "constant"],
    "opd@behavior=teacher": ["student", "dataset"],
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
    }
    return numbers.get(axis) or [*table.CHOICES[axis], "nonsense"]


axes = st.sampled_from(table.AXES).flatmap(
    lambda axis: st.tuples(st.just(axis), st.sampled_from(choices(axis)))
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
        assert table.claims(reference) == table.claims(method)


FACTS = ("claims", "biased", "needs", "partner", "reference")
MYOPIC = Target("myopic", "reverse_kl", 0.0)
SOFT = Target("myopic", "forward_kl", 0.0)
REWARD = Target("reward", None, 1.0)
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
    "sft": (SOFT, False, ("dataset",), None, "sft"),
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
    "name", ["opd_sampled@signal=one", "sft@behavior=student", "opd_sampled@signal=teacher_kl"]
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

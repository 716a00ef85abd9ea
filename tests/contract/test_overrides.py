"""Facts hold whatever the axes: random rows with random overrides, each held to the oracle.

Every fact is asked without an exception. Then, on a tree enumerated whole, a method that says it is
unbiased is, one that says it is biased differs, and the same goes for its partner, its reference,
other laws of drawing and older policies' rollouts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd.measure import exact
from opd.method import facts, importance, local, table
from opd.method.axes import AXES
from opd.method.coefficients import coefficients, weights

RTOL, APART = 1e-9, 1e-6
NUMBERS = {
    "share": (0.0, 0.3, 1.0),
    "redraws": (0, 2),
    "argument": (0.3, 0.7),
    "k": (1, 2),
    "gamma": (0.0, 0.6, 1.0),
    "lam": (0.5, 1.0),
    "c_bar": (0.5, 2.0),
    "low": (0.5, 0.9),
    "high": (1.1, 2.0),
    "dual": (1.5,),
    "band": (0.1,),
    "tau": (0.02, 0.5),
    "tau_negative": (2.0,),
    "part": (0.3,),
    "threshold": (1.0,),
    "boost": (0.5,),
    "most": (0.3,),
    "passing": (0.5,),
    "own": (0.0, 0.5),
    "coef": (-1.0, 0.0, 0.3, 2.0),
}
SIGNALS = ("", "", "", "reward.", "teacher.", "reference.", "entropy.")
# Values that bias nobody; most random methods are biased for many reasons. Axes that aren't here
# have nothing else to say, but for the coefficients of added terms.
QUIET = {
    **{axis: AXES[axis].choices for axis in ("behavior", "level", "other", "signal", "divergence")},
    **{axis: AXES[axis].choices for axis in ("penalty", "expectation", "topk_from")},
    **{axis: NUMBERS[axis] for axis in ("share", "argument", "k", "gamma")},
    "returns": ("sum", "whole", "gae", "vtrace"),
    "lam": (1.0,),
    "c_bar": (1.0, 2.0),
    "baseline": ("none", "leave_one_out", "expected_kl", "optimal_kl", "value"),
    "tail": ("sample", "own"),
    "importance": AXES["importance"].choices,
    "ratio_rule": ("none", "none", "truncate"),
    "correction": AXES["correction"].choices,
    "correction_rule": ("none", "none", "mask"),
}


def values(axis):
    return AXES[axis].choices or NUMBERS[axis.removeprefix("correction_")]


def changes(quiet):
    """A key and a value of it; signals and ratios as often as all else together."""
    of_terms = [axis for axis in table.TERM if not quiet or axis in QUIET]
    often = ("signal", "importance", "importance", "correction", "expectation")
    all_axes = [axis for axis in AXES if not quiet or axis in QUIET]

    def key(signal):
        axes = of_terms if signal else all_axes
        return st.sampled_from([signal + axis for axis in (*axes, *often * 3)])

    def value(key):
        axis = key.rpartition(".")[2]
        return st.tuples(st.just(key), st.sampled_from(QUIET[axis] if quiet else values(axis)))

    signals = SIGNALS[:-1] if quiet else SIGNALS  # a bonus is a bias
    return st.sampled_from(signals).flatmap(key).flatmap(value)


@st.composite
def methods(draw, quiet=False):
    """A row and those of some changes that mean something one after the other."""
    rows = [row for row in table.ROWS if not quiet or facts.bias(table.parse(row)) is None]
    row, given = draw(st.sampled_from(rows)), {}
    for key, value in draw(st.lists(changes(quiet), min_size=8, max_size=16)):
        more = {key: value}
        if quiet and key.endswith("correction"):  # its usual rule is a bound
            more |= {key + "_rule": "none", key.replace("correction", "importance"): value}
        try:
            table.parse(row, **given, **more)
        except (ValueError, TypeError):  # means nothing, or is given already
            continue
        given |= more
    return table.parse(row, **given)


def fits(method):
    """The method with sets that leave out two of the tree's four tokens or more."""
    most = {"student": 2, "teacher": 2, "union": 1, None: 4}
    terms = (dataclasses.replace(t, k=t.k and min(t.k, most[t.topk_from])) for t in method.terms)
    return dataclasses.replace(method, terms=tuple(terms))


@settings(max_examples=4 * settings().max_examples)
@given(methods() | methods(quiet=True))
def test_every_fact_has_an_answer(method):
    assert table.parse(method.name) == method
    assert set(facts.needs(method)) <= set(facts.NEEDS)
    assert facts.weighs(method) in importance.LOG_RATIOS
    assert facts.coupled(method) in (None, "group", "batch")
    assert facts.describe(facts.goal(method)) and facts.axes(method)["terms"]
    for law in facts.LAWS:
        assert facts.states(method, law) in ("current", "behavior")
        left = facts.stale(method, law)
        assert left in ("current", "behavior", None)
        assert left is None or facts.bias(method, law) is None
    assert isinstance(facts.pointwise(method), bool)
    for refuse in (facts.trainable, lambda method: facts.fits(method, 4)):
        try:
            refuse(method)
        except ValueError as error:
            assert method.name in str(error)
    partner, reference = facts.partner(method), facts.reference(method)
    assert (partner is None) == (facts.partnerless(method) is not None)
    if partner is not None:
        assert facts.partner(partner) == partner == table.parse(partner.name)
        assert sum(rule.draws for rule in partner.rules) == 0
    assert facts.goal(reference) == facts.goal(method)
    assert reference == method or facts.bias(reference) is None
    assert table.parse(reference.name) == reference
    assert facts.reference(reference).terms == reference.terms


@given(methods() | methods(quiet=True))
def test_bias_and_states_are_the_oracles(method):
    """Under the policy's own law and under others; redraws are of other prompts than the tree's."""
    method = fits(method)
    if method.origin.redraws:
        origin = dataclasses.replace(method.origin, redraws=0)
        method = dataclasses.replace(method, origin=origin)
    with jax.enable_x64(True):
        for law in facts.LAWS:
            found, behind = oracle.on_its_own(method, law), oracle.drawers(method, law)
            goal = facts.goal(method)
            goal = dataclasses.replace(goal, states=facts.states(method, law))
            if facts.bias(method, law) is None:
                assert oracle.distance(found, oracle.wanted(goal, behind, law)) < RTOL, law
                continue
            for wanted in asked(goal, behind, law):
                assert oracle.distance(found, wanted) > APART, law


def asked(goal, behind, law="policy"):
    """What a goal asks for on the current policy's states, and on the behavior's if it may."""
    yield oracle.wanted(dataclasses.replace(goal, states="current"), behind, law)
    if all(part.gamma == 0 for part in goal.parts):
        yield oracle.wanted(dataclasses.replace(goal, states="behavior"), behind, law)


@settings(max_examples=4 * settings().max_examples)
@given(methods(quiet=True))
def test_staleness_is_the_oracles(method):
    """An older policy's rollouts, from which a proximal one is another step away."""
    method = fits(dataclasses.replace(method, origin=table.parse("opd").origin))
    if facts.bias(method) is not None:
        assert facts.stale(method) is None
        return
    behind = [(1.0, oracle.policy(oracle.KEPT))]
    with jax.enable_x64(True):
        found = oracle.expected(method, behind, oracle.policy(oracle.PROXIMAL))
    goal, left = facts.goal(method), facts.stale(method)
    targets = dict(zip(("current", "behavior"), asked(goal, behind)))
    for states, wanted in targets.items():
        apart = oracle.distance(found, wanted)
        assert apart < RTOL if states == left else apart > APART, (states, apart)
    assert left is None or left in targets


@settings(max_examples=4 * settings().max_examples)
@given(methods(quiet=True))
def test_a_partner_is_the_expectation_given_the_state(method):
    """On fresh rollouts, and on an older policy's where the method is good for something."""
    method = fits(method)
    partner = facts.partner(method)
    if partner is None:
        return
    stale = facts.stale(dataclasses.replace(method, origin=table.parse("opd").origin))
    behind = [oracle.HERE] + [oracle.policy(oracle.KEPT)] * (stale is not None)
    with jax.enable_x64(True):
        for drawer in behind:
            proximal = oracle.HERE if drawer is oracle.HERE else oracle.policy(oracle.PROXIMAL)
            h, g = (oracle.of_each(row, drawer, proximal) for row in (method, partner))
            given_state = exact.partner(drawer, h)
            np.testing.assert_allclose(
                exact.at_states(oracle.TREE, given_state), g, rtol=0, atol=1e-9 * np.abs(g).max()
            )


@given(methods())
def test_coefficients_hold_what_facts_say_that_they_hold(method):
    """A slice of time where they are pointwise; a rollout or a group by itself where uncoupled."""
    with jax.enable_x64(True):
        drawn = oracle.rollout(oracle.policy(oracle.KEPT), oracle.policy(oracle.PROXIMAL))
        drawn, known = oracle.take((drawn, oracle.stats(method)), np.arange(6, 10))
        drawn = dataclasses.replace(drawn, group=jnp.asarray([0, 0, 1, 1]))
        parts = weights(method, drawn)
        whole = coefficients(method, parts, known, drawn.group)
        if facts.pointwise(method):
            sliced = jax.tree.map(lambda leaf: leaf[:, 1:], (parts, known))
            some = coefficients(method, *sliced, drawn.group)
            close(some, jax.tree.map(lambda leaf: leaf[:, 1:], whole))
        if facts.coupled(method) != "batch":
            few = 2 if facts.coupled(method) == "group" else 1
            own, its = oracle.take((drawn, known), np.arange(few))
            alone = coefficients(method, weights(method, own), its, own.group)
            close(
                jax.tree.map(lambda leaf: leaf * few / 4, alone), oracle.take(whole, np.arange(few))
            )


def close(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@settings(max_examples=2 * settings().max_examples)
@given(methods(quiet=True), st.sampled_from(list(local.TAILS)))
def test_a_gradient_vanishes_where_it_is_said_to(method, tail):
    """Of every rollout, whatever is drawn, where the teacher is the student."""
    method = fits(method)
    terms = (dataclasses.replace(term, tail=term.tail and tail) for term in method.terms)
    method = dataclasses.replace(method, terms=tuple(terms))
    if any(term.normaliser != "none" for term in method.terms):
        return  # nothing over a spread of nothing: zero but for rounding
    with jax.enable_x64(True):
        drawn, known = (
            oracle.rollout(oracle.HERE, oracle.HERE),
            oracle.stats(method, oracle.STUDENT),
        )
        drawn = dataclasses.replace(drawn, group=drawn.group // 2)
        coefs = coefficients(method, weights(method, drawn), known, drawn.group)
        pushed = [np.abs(np.asarray(coefs.onehot)).max()]
        logp = jnp.asarray(oracle.HERE.logp)
        for rule, coef in zip(method.rules, coefs.local, strict=True):
            uniforms = jnp.linspace(0.05, 0.95, logp.shape[0] * 4).reshape(-1, 4)
            weight = local.candidate_weights(rule, logp, logp, uniforms)
            centred = weight - jnp.sum(weight, -1, keepdims=True) * jnp.exp(logp)
            pushed.append(float(jnp.abs(centred).max()) * np.abs(np.asarray(coef)).max())
    assert (max(pushed) < 1e-12) == facts.vanishes(method)


@pytest.mark.parametrize(
    "name",
    [
        "ppo@gamma=0.99,reference.coef=0.04",
        "reinforce@gamma=0.9,reference.coef=0.2",
        "rl_with_teacher@reward.baseline=none,reward.gamma=0.9",
    ],
)
def test_a_discounted_reward_beside_another_part_has_a_reference(name):
    """A leave-one-out baseline needs gamma = 1: the reference goes without."""
    method = table.parse(name)
    found = facts.reference(method)
    assert facts.goal(found) == facts.goal(method) and facts.bias(found) is None
    assert found.terms[0].baseline == "none"

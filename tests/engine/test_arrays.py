"""The functions of plain arrays: every row against its published loss, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import opd
from opd import draws
from opd.engine import arrays
from opd.measure import exact, losses
from opd.measure.losses import LOSSES, B, G, T, V
from opd.method import importance, local, table
from opd.types import Rollout

D, TAU = 3, 0.7
CASE = losses.draw(0)
# Of each row its own name where that has a loss; a top-k of 8 has none on 7 tokens.
NAMES = {row: next((n for n in LOSSES if n.partition("@")[0] == row), None) for row in table.ROWS}
GIVEN = {
    "reward": losses.REWARD,
    "group": np.arange(B) // G,
    "ended": losses.ENDED,
    "version": np.where(losses.OWN, 0, -1),
    "logp_behavior": CASE.behavior,
    "logp_reference": CASE.reference,
    "value": CASE.value,
}


def rollout(**changes):
    """The case's batch, whose behavior is the proximal policy."""
    return Rollout.of(CASE.tokens, CASE.mask, **(GIVEN | changes))


def corrects(name):
    return any(term.correction != "none" for term in table.parse(name).terms)


def every_row(student, teacher, uniforms, **how):
    """dJ/dlogits, or cotangents, of all rows by name; to be traced."""
    one, two = rollout(), rollout(logp_proximal=CASE.proximal)
    return {
        row: opd.gradient(
            name, two if corrects(name) else one, student, teacher, uniforms=uniforms, **how
        )
        for row, name in NAMES.items()
        if name is not None
    }


@pytest.fixture(scope="module")
def of_logits():
    """Every row's gradient from logits, in chunks of two tokens."""
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(every_row, chunk=2))
        return jax.device_get(run(CASE.logits, CASE.teacher, CASE.uniforms))


@pytest.mark.parametrize("row", table.ROWS)
def test_a_rows_gradient_is_minus_that_of_its_published_loss(row, of_logits, x64):
    if NAMES[row] is None:
        assert row in losses.UNPUBLISHED
        return
    (slope,) = losses.gradients(CASE, [NAMES[row]])
    np.testing.assert_allclose(of_logits[row], -slope, rtol=1e-9, atol=1e-12)
    assert np.all(of_logits[row][~CASE.mask] == 0) and np.any(of_logits[row] != 0)


def matrices(seed, width):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, T, width)), rng.normal(size=(V, width))


@pytest.fixture(scope="module")
def both_forms():
    """Every row from hidden states and matrices, and from the logits that they make."""
    heads = matrices(1, D), matrices(2, D + 1)

    def run(student, teacher):
        products = (jnp.einsum("btd,vd->btv", *side) for side in (student, teacher))
        capped = opd.Head(*student, cap=2.0), opd.Head(*teacher)
        how = {"uniforms": CASE.uniforms, "temperature": TAU}
        return (
            every_row(opd.Head(*student), opd.Head(*teacher), **how, chunk=3),
            every_row(*products, **how),
            every_row(*capped, **how)["opd"],
        )

    with jax.enable_x64(True):
        return heads, jax.device_get(jax.jit(run)(*heads))


@pytest.mark.parametrize("row", [row for row, name in NAMES.items() if name])
def test_hidden_states_give_the_cotangents_that_logits_give(row, both_forms):
    """logits = hidden matrix^T: d hidden = d logits matrix, d matrix = d logits^T hidden."""
    ((hidden, matrix), _), (of_heads, of_products, _) = both_forms
    d_logits = of_products[row]
    assert isinstance(of_heads[row], opd.Head)
    wanted = d_logits @ matrix, np.einsum("btv,btd->vd", d_logits, hidden)
    found = of_heads[row].hidden, of_heads[row].unembedding
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_temperature_and_a_cap_are_autodiffs(both_forms, x64):
    """-grad of KL(softmax(z / tau) || teacher's), with and without logits 2 tanh(z / 2)."""
    ((hidden, matrix), (other, others)), (_, of_products, capped) = both_forms
    teacher = jax.nn.log_softmax(other @ others.T / TAU)

    def loss(logits):
        logp = jax.nn.log_softmax(logits / TAU)
        each = jnp.sum(jnp.exp(logp) * (logp - teacher), -1)
        return jnp.sum(jnp.where(CASE.mask, each, 0)) / B

    slope = jax.grad(loss)(jnp.asarray(hidden @ matrix.T))
    np.testing.assert_allclose(of_products["opd"], -slope, rtol=1e-9, atol=1e-12)
    slope = jax.grad(lambda x: loss(2 * jnp.tanh(x @ matrix.T / 2)))(jnp.asarray(hidden))
    np.testing.assert_allclose(capped.hidden, -slope, rtol=1e-9, atol=1e-12)


def test_logits_of_minus_infinity_are_tokens_that_do_not_exist():
    """Forbidden on both sides: the others' gradient is that of a vocabulary without them."""
    tokens = np.arange(8).reshape(2, 4) % 5
    small = np.random.default_rng(0).normal(size=(2, 2, 4, 5)).astype(np.float32)
    large = np.concatenate([small, np.full((2, 2, 4, 2), -np.inf, np.float32)], -1)
    for name in ("opd", "opd_sampled", "soft_label", "opd_topk@k=3"):
        found, wanted = (
            np.asarray(opd.gradient(name, Rollout.of(tokens), *sides, seed=3))
            for sides in (large, small)
        )
        np.testing.assert_allclose(found[..., :5], wanted, atol=1e-6, err_msg=name)
        assert np.all(found[..., 5:] == 0), name


def test_bfloat16_logits_have_bfloat16_gradients():
    logits = jnp.asarray(CASE.logits, jnp.bfloat16)
    assert opd.gradient("reinforce", rollout(), logits).dtype == jnp.bfloat16


# ---------------------------------------------------------------------------------- fresh draws


def test_a_seed_is_uniforms_by_counter():
    """Of (seed, row, position): the same in half a batch, other ones with another seed."""
    sides = CASE.logits, CASE.teacher
    gradient = functools.partial(opd.gradient, "opd_resampled@k=2")
    found = np.asarray(gradient(rollout(), *sides, seed=3))
    uniforms = draws.uniforms(draws.key(3, 0, "candidate"), jnp.arange(B), T, 2)
    np.testing.assert_array_equal(found, gradient(rollout(), *sides, uniforms=uniforms))
    half = jax.tree.map(lambda leaf: leaf[:2], rollout())
    part = gradient(half, *(side[:2] for side in sides), seed=3)
    np.testing.assert_allclose(np.asarray(part) * 2 / B, found[:2], atol=1e-6)
    assert np.abs(found - np.asarray(gradient(rollout(), *sides, seed=4))).max() > 1e-3


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "neither is"), ({"seed": 0, "uniforms": np.zeros((B, T, 2))}, "both are")],
)
def test_a_row_that_draws_asks_what_by(given, said):
    with pytest.raises(ValueError, match=said):
        opd.gradient("opd_resampled@k=2", rollout(), CASE.logits, CASE.teacher, **given)


# --------------------------------------------------------------------------- what a row asks for

# Arrays of their own, of this precision: one that was traced keeps it in tests of another.
SUPPLY = {
    "reward": np.float32(losses.REWARD),
    "logp_reference": np.float32(CASE.reference),
    "value": np.float32(CASE.value),
    "logp_behavior": np.float32(CASE.behavior),
    "logp_proximal": np.float32(CASE.proximal),
    "group": np.arange(B) // G,
    "version": np.where(losses.OWN, 0, -1),
    "logits_teacher": np.float32(CASE.teacher),
}
LOGITS = np.float32(CASE.logits)
CORRECTED = "grpo@correction=token"


def calling(name, given):
    """The gradient of a rollout that has nothing but tokens and what is given, by the logits."""
    given = dict(given)
    teacher = given.pop("logits_teacher", None)
    batch = Rollout.of(CASE.tokens, CASE.mask, **given)
    return lambda logits: opd.gradient(name, batch, logits, teacher, seed=0)


class Reached(Exception):
    """Everything was checked."""


def asked(name):
    """What a row asks for, one refusal after the other; no program is reached before."""

    def reached(*_):
        raise Reached

    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays.programs, "cotangents", reached)
        while True:
            try:
                calling(name, given)(LOGITS)
            except Reached:
                return given
            except ValueError as error:
                said = str(error)
                (lacking,) = [f for f in SUPPLY if f" {f}" in said and f not in given]
                assert len(said.splitlines()) == 1 and said.startswith(name)
                given[lacking] = SUPPLY[lacking]


def test_what_is_lacking_is_said_by_name():
    """Of each row; given that and nothing more, no gradient has a number that isn't one."""
    gated = [f"opd@gate={gate},passing=1.5" for gate in ("right", "mixed")]
    names = [name for name in NAMES.values() if name] + [CORRECTED, *gated]
    supplied = {name: asked(name) for name in names}
    calls = {name: calling(name, given) for name, given in supplied.items()}
    run = jax.jit(lambda x: {name: call(x) for name, call in calls.items()})
    for name, found in run(LOGITS).items():
        assert np.all(np.isfinite(found)), name
    wanted = {
        "opd": {"logits_teacher"},
        "reinforce": {"reward"},
        "rloo": {"reward", "group"},
        "sft": set(),
        "offline_rl": {"reward"},
        "ppo": {"reward", "value", "logp_behavior"},
        "rl_with_reference": {"reward", "group", "logp_reference"},
        "opo": {"reward", "group"},
        "opd@gate=right,passing=1.5": {"reward", "logits_teacher"},
        "opd@gate=mixed,passing=1.5": {"reward", "group", "logits_teacher"},
        "distillm2": {"version", "logits_teacher"},
        CORRECTED: {"reward", "group", "logp_proximal", "logp_behavior"},
    }
    assert {name: set(supplied[name]) for name in wanted} == wanted


def test_some_unknown_log_probabilities_are_too_many():
    mixed = np.where(np.arange(B)[:, None] == 0, np.nan, CASE.behavior)
    with pytest.raises(ValueError, match=r"logp_behavior.* 5 graded tokens"):
        opd.gradient("dr_grpo", rollout(logp_behavior=mixed), CASE.logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "opd_best"}, "unknown method 'opd_best'"),
        ({"student": CASE.logits[0]}, r"logits_student has shape \(5, 7\)"),
        ({"student": CASE.logits[:, 1:]}, r"logits_student has shape \(4, 4, 7\).* \[4, 5\]"),
        ({"student": CASE.tokens[..., None]}, "logits_student is of int"),
        ({"student": opd.Head(CASE.logits, np.zeros((9, 6)))}, r"\(9, 6\): \[V, 7\]"),
        ({"teacher": CASE.teacher[..., :6]}, "logits_teacher has 6 tokens: the student's 7"),
        ({"student": CASE.logits[..., :4], "teacher": CASE.teacher[..., :4]}, "tokens from 0 to"),
        ({"method": "opd_topk@k=8", "seed": 0}, "k=8; the vocabulary has 7"),
        ({"method": "opd_resampled", "uniforms": np.zeros((B, T, 3))}, r"\[4, 5, 4\] is allowed"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_a_mistake_is_one_line(changes, said):
    asked = {"method": "opd", "student": CASE.logits, "teacher": CASE.teacher} | changes
    positional = (asked.pop(name) for name in ("student", "teacher"))
    with pytest.raises(ValueError, match=said) as error:
        opd.gradient(asked.pop("method"), rollout(), *positional, **asked)
    assert len(str(error.value).splitlines()) == 1


def test_tokens_off_the_mask_may_be_any():
    """-1 or a tokenizer's padding, which is no id of the logits."""
    tokens = np.where(CASE.mask, CASE.tokens, -1)
    found, wanted = (
        opd.gradient("opd_sampled", Rollout.of(each, CASE.mask), CASE.logits, CASE.teacher)
        for each in (tokens, CASE.tokens)
    )
    np.testing.assert_array_equal(found, wanted)


# ------------------------------------------------------------ statistics, divergences, sample sizes


def test_statistics_are_their_definitions(x64):
    stats = opd.statistics(rollout(), CASE.logits, CASE.teacher, temperature=TAU, chunk=2)
    logp, other = (exact.log_softmax(side / TAU) for side in (CASE.logits, CASE.teacher))
    wanted = {
        "logp_student": losses.at(logp, CASE.tokens),
        "logp_teacher": losses.at(other, CASE.tokens),
        "entropy_student": -np.sum(np.exp(logp) * logp, -1),
        "entropy_teacher": -np.sum(np.exp(other) * other, -1),
        "kl": np.sum(np.exp(logp) * (logp - other), -1),
    }
    for field, value in wanted.items():
        np.testing.assert_allclose(getattr(stats, field), value, atol=1e-12, err_msg=field)
    assert opd.statistics(rollout(), CASE.logits).kl is None


@pytest.mark.parametrize("name", local.DIVERGENCES)
def test_a_divergence_is_the_oracles(name, x64):
    argument = 0.3 if local.DIVERGENCES[name].argument else None
    loss = (name, argument) if argument else (name,)
    logits, teacher = CASE.logits[0], exact.log_softmax(CASE.teacher[0])
    logp = exact.log_softmax(logits)
    found = opd.divergence(name, logp, teacher, argument)
    np.testing.assert_allclose(found.value, exact.divergence(loss, logits, teacher), rtol=1e-12)
    weights = found.weight, exact.weight(loss, logits, teacher)  # up to a state's constant
    centred = (w - np.sum(np.exp(logp) * w, -1, keepdims=True) for w in weights)
    np.testing.assert_allclose(*centred, rtol=1e-9, atol=1e-12)
    step = found.push - np.sum(found.push, -1, keepdims=True) * np.exp(logp)
    slope = exact.divergence_gradient(loss, logits, teacher)
    np.testing.assert_allclose(step, -slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("kl", CASE.logits, CASE.logits), "no divergence 'kl': reverse_kl"),
        (("reverse_kl", np.zeros((2, 1)), np.zeros((2, 1)), 0.5), "no argument, and 0.5"),
        (("jsd", np.zeros((2, 1)), np.zeros((2, 1))), r"argument=None: a beta in \(0, 1\)"),
        (("skew", np.zeros((2, 1)), np.zeros((2, 1)), 1.0), r"argument=1.0: a alpha in \(0, 1\)"),
        (("reverse_kl", np.zeros((2, 1)), np.zeros((3, 1))), r"shapes \(2, 1\) and \(3, 1\)"),
        (("reverse_kl", np.zeros((2, 1)), np.zeros((2, 3))[:, :1] + 1), "logp_teacher.* 2.7"),
    ],
)
def test_a_divergence_refuses_in_one_line(arguments, said):
    with pytest.raises(ValueError, match=said) as error:
        opd.divergence(*arguments)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", importance.LOG_RATIOS)
def test_an_effective_sample_size_is_its_definition(kind, x64):
    """Rows of unknown log-probabilities left out; one weight a rollout where that is the kind."""
    known = np.arange(B) != 1
    behavior = np.where(known[:, None], CASE.behavior, np.nan)
    found = opd.ess(rollout(logp_behavior=behavior), CASE.logp, kind)
    weights = []
    for b in np.flatnonzero(known):
        gap = (CASE.logp - CASE.behavior)[b, CASE.mask[b]]
        for t in range(len(gap)):
            weights.append({
                "token": gap[t],
                "prefix": gap[:t].sum(),
                "prefix_inclusive": gap[: t + 1].sum(),
                "trajectory": gap.sum(),
                "sequence": gap.mean(),
            }[kind])  # fmt: skip
            if kind in ("trajectory", "sequence"):
                break
    weight = np.exp(weights)
    np.testing.assert_allclose(found, weight.sum() ** 2 / (len(weight) * (weight**2).sum()))


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({}, (CASE.logp, "whole"), "no kind 'whole': token"),
        ({}, (CASE.logp[:, 0],), r"logp_student has shape \(4,\): \(4, 5\)"),
        ({"logp_behavior": None}, (CASE.logp,), "logp_behavior is unknown"),
    ],
)
def test_an_effective_sample_size_refuses_in_one_line(changes, arguments, said):
    with pytest.raises(ValueError, match=said) as error:
        opd.ess(rollout(**changes), *arguments)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_exported_is_here():
    assert opd.gradient is arrays.gradient

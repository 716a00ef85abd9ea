"""The steps on one device: parts of a batch add up; a teacher who is the student is silent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scene

from opd.engine import estimator, metrics, programs, steps, vocab
from opd.method import facts, table


@pytest.fixture(scope="module")
def here():
    return scene.ready(scene.mesh("one"))


def some(rows, tree):
    """Some rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def test_parts_of_a_batch_add_up_to_the_whole(here):
    """Coefficients of the global batch make a gradient a sum over rows, grpo and token_mean too."""

    @jax.jit
    def part(rollout, head, uniforms, coefs):
        return steps.pull_back(
            scene.STUDENT, here.params, rollout, head, scene.METHODS, uniforms, scene.HOW, coefs
        )[0]

    whole = programs.gradients(*here.gradients)
    total = None
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 16)):  # half a group each
        rollout, uniforms, coefs, hidden = some(
            rows, (here.rollout, here.uniforms, here.coefs, here.head.hidden)
        )
        head = dataclasses.replace(here.head, hidden=hidden)
        found = part(rollout, head, uniforms, coefs)
        total = found if total is None else jax.tree.map(np.add, total, found)
    for a, b in zip(jax.tree.leaves(total), jax.tree.leaves(whole), strict=True):
        scale = np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True)
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-5)


def test_half_a_batch_with_its_own_coefficients_is_another_gradient(here):
    """What `coefs` are for: a half's own group statistics and token mean aren't the batch's."""
    rows = slice(0, 4)
    rollout, stats = some(rows, (here.rollout, here.stats))
    own = programs.coefficients_of(scene.METHODS, rollout, stats)
    differ = {
        method.name
        for method, mine, whole in zip(scene.METHODS, own, here.coefs, strict=True)
        if not np.allclose(mine.onehot * 4 / scene.ROWS, whole.onehot[rows], rtol=1e-3, atol=1e-6)
    }
    assert differ == {"grpo", "opd_sampled@reduction=token_mean"}


NAMES = (
    "opd",
    "opd_sampled",
    "opd_baseline",
    "opd_resampled@k=2",
    "opd_topk@k=4",
    "opd_topk@k=4,tail=drop",
    "opd_topk@k=4,tail=bucket",
    "opd@gamma=1",
    "opd_sampled@gamma=1",
    "soft_label",
    "soft_label@expectation=sampled",
)


def test_a_teacher_who_is_the_student_says_nothing(here):
    """Zero KL, and a zero gradient on every rollout for the rows that say so, and for no others."""
    methods = tuple(map(table.parse, NAMES))
    head = programs.head(here.mesh, scene.STUDENT, here.params, here.rollout)
    stats = programs.score(here.mesh, scene.STUDENT, here.params, here.rollout, head, scene.HOW)
    np.testing.assert_allclose(stats.kl, 0, atol=1e-5)
    uniforms = estimator.fresh_uniforms(scene.SEED, scene.STEP, here.rollout, methods)
    found = programs.gradients(
        here.mesh, scene.STUDENT, here.params, here.rollout, head, methods, uniforms, scene.HOW
    )
    norms = np.sqrt(np.diag(np.asarray(programs.gram(found))))
    vanishing = np.array([facts.vanishes(method) for method in methods])
    assert vanishing.any() and not vanishing.all()
    assert np.all(norms[vanishing] < 1e-4), dict(zip(NAMES, norms))
    assert np.all(norms[~vanishing] > 1e-2), dict(zip(NAMES, norms))


def test_metrics_of_a_rollout_are_of_its_graded_tokens(here):
    found = {
        name: np.asarray(metric.value())
        for name, metric in metrics.metrics_of(metrics.Batch(here.rollout, here.stats)).items()
    }
    mask = np.asarray(here.rollout.mask)
    kl = np.where(mask, here.stats.kl, 0)
    wanted = {
        "tokens": mask.sum(),
        "length": mask.sum(1).mean(),
        "length_max": mask.sum(1).max(),
        "truncated": 1 - np.mean(here.rollout.ended),
        "kl": kl.sum(1).mean(),
        "entropy_student": np.asarray(here.stats.entropy_student)[mask].mean(),
        "entropy_teacher": np.asarray(here.stats.entropy_teacher)[mask].mean(),
        "reward": np.mean(here.rollout.reward),
        "reward_range": np.ptp(here.rollout.reward),
    }
    assert found.pop("log_ratio_max") < 1e-4  # sampled and scored by the same policy
    assert abs(found.pop("drift")) < 1e-3
    np.testing.assert_allclose(found.pop("weight_max"), 1, rtol=1e-3)
    for kind in ("token", "trajectory", "rule"):
        np.testing.assert_allclose(found.pop(f"ess_{kind}"), 1, rtol=1e-5)
    graded = mask.any(0)
    by_position = found.pop("kl_by_position")[graded]
    np.testing.assert_allclose(by_position, kl.sum(0)[graded] / mask.sum(0)[graded], rtol=1e-5)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_stale_rollouts_lower_the_effective_sample_size(here):
    """(sum w)^2 / (N sum w^2) over graded tokens, and over one weight a rollout."""
    mask = np.asarray(here.rollout.mask)
    drift = np.where(mask, np.random.default_rng(0).normal(0, 0.3, mask.shape), 0)
    stale = dataclasses.replace(here.rollout, logp_behavior=here.rollout.logp_behavior - drift)
    found = metrics.metrics_of(metrics.Batch(stale, here.stats, "prefix"))
    before = np.where(mask, np.cumsum(drift, 1) - drift, 0)
    weights = {"token": np.exp(drift)[mask], "trajectory": np.exp(drift.sum(1))}
    weights["rule"] = np.exp(before)[mask]
    for kind, weight in weights.items():
        wanted = weight.sum() ** 2 / (len(weight) * (weight**2).sum())
        np.testing.assert_allclose(found[f"ess_{kind}"].value(), wanted, rtol=1e-3)
    np.testing.assert_allclose(found["weight_max"].value(), weights["rule"].max(), rtol=1e-3)
    np.testing.assert_allclose(found["log_ratio_max"].value(), np.abs(drift).max(), rtol=1e-3)
    np.testing.assert_allclose(found["drift"].value(), -drift.sum(1).mean(), rtol=1e-2, atol=1e-4)


def test_rows_of_unknown_log_probabilities_are_left_out(here):
    """Solutions beside own rollouts: the ratios' figures are the own rollouts'; of none, none."""
    half = np.arange(len(here.rollout.mask)) % 2 == 0
    unknown = np.where(half[:, None], np.nan, here.rollout.logp_behavior)
    mixed = dataclasses.replace(here.rollout, logp_behavior=unknown)
    found = metrics.metrics_of(metrics.Batch(mixed, here.stats))
    np.testing.assert_allclose(found["ess_trajectory"].value(), 1, rtol=1e-5)
    nobody = dataclasses.replace(here.rollout, logp_behavior=unknown * np.nan)
    found = metrics.metrics_of(metrics.Batch(nobody, here.stats))
    for name in ("ess_token", "ess_trajectory", "ess_rule", "drift", "weight_max"):
        assert np.isnan(found[name].value()), name


def test_drift_is_the_kl_from_the_policy_that_drew(here):
    """Enumerated where its hidden states are kept, sampled where not; both by hand."""
    moved = jax.tree.map(lambda leaf: leaf * 1.1, here.params)
    behavior = programs.head(here.mesh, scene.STUDENT, here.params, here.rollout)
    given = here.mesh, scene.STUDENT, moved, here.rollout
    found = {
        name: programs.drift(*given, head, "trajectory", scene.HOW)
        for name, head in (("enumerated", behavior), ("sampled", None))
    }
    now = programs.head(here.mesh, scene.STUDENT, moved, here.rollout)
    logp = [
        np.asarray(vocab.log_softmax(vocab.logits(side), scene.HOW.temperature), np.float64)
        for side in (behavior, now)
    ]
    mask, tokens = np.asarray(here.rollout.mask), np.asarray(here.rollout.tokens)
    kl = np.where(mask, (np.exp(logp[0]) * (logp[0] - logp[1])).sum(-1), 0).sum(1).mean()
    own = [np.take_along_axis(side, tokens[..., None], -1)[..., 0] for side in logp]
    ratio = np.where(mask, own[1] - own[0], 0).sum(1)
    np.testing.assert_allclose(found["enumerated"]["drift"], kl, rtol=1e-3)
    np.testing.assert_allclose(found["sampled"]["drift"], -ratio.mean(), rtol=1e-3)
    wanted = np.exp(ratio).sum() ** 2 / (len(ratio) * np.exp(2 * ratio).sum())
    for name in found:
        np.testing.assert_allclose(found[name]["ess_rule"], wanted, rtol=1e-3)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(here, parts):
    """Whatever a weight holds: the future, the group, the batch's tokens, fresh draws."""
    given = here.params, here.rollout, here.head
    asked = (scene.STUDENT, *given, scene.METHODS, here.uniforms, scene.HOW)
    whole, stats = jax.jit(steps.pull_back, static_argnums=(0, 4, 6))(*asked)
    added, found = jax.jit(steps.accumulate, static_argnums=(0, 4, 6, 7))(*asked, parts)
    for a, b in zip(jax.tree.leaves((added, found)), jax.tree.leaves((whole, stats)), strict=True):
        scale = np.abs(b).max() + 1e-6
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-5)


def test_a_column_is_kept_relative_to_its_own_reference():
    """The first as it is; the second less the first; both others less the second."""
    columns = jnp.asarray([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0], [5.0, 7.0]])
    found = steps._relative(columns, (-1, 0, 1, 1))
    np.testing.assert_array_equal(found, [[1, 2], [9, 18], [90, 180], [-5, -13]])

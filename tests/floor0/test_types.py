"""Digests of rollouts, and metrics that merge by their type."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.types import Max, Mean, Rollout, Sum, merge_metrics

MASK = np.array([[1, 1, 0], [1, 1, 1]], bool)


def rollout(**changes):
    plain = Rollout(
        prompt=jnp.asarray([[0, 4], [5, 6]], jnp.int32),
        prompt_mask=jnp.asarray([[False, True], [True, True]]),
        tokens=jnp.asarray([[1, 2, 0], [3, 4, 5]], jnp.int32),
        mask=jnp.asarray(MASK),
        logp_behavior=jnp.asarray([[-1.0, -2.0, 0.0], [-0.5, -0.1, -3.0]], jnp.float32),
        ended=jnp.asarray([True, False]),
        group=jnp.asarray([0, 0]),
        row=jnp.asarray([0, 1]),
    )
    return dataclasses.replace(plain, **{k: jnp.asarray(v) for k, v in changes.items()})


@pytest.mark.parametrize("junk", [9, -1])
def test_digests_see_nothing_off_the_masks(junk):
    other = rollout(
        prompt=np.array([[junk, 4], [5, 6]], np.int32),
        tokens=np.array([[1, 2, junk], [3, 4, 5]], np.int32),
        logp_behavior=np.where(MASK, rollout().logp_behavior, np.float32(np.nan)),
    )
    assert other.digests() == rollout().digests()


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": np.array([[1, 7, 0], [3, 4, 5]], np.int32)},
        {"tokens": np.array([[1, 2, 0], [3, 5, 4]], np.int32)},
        {"prompt": np.array([[0, 9], [5, 6]], np.int32)},
        {"mask": np.array([[1, 0, 0], [1, 1, 1]], bool)},
    ],
    ids=["token", "order", "prompt", "mask"],
)
def test_both_digests_see_the_tokens(changes):
    for changed, plain in zip(rollout(**changes).digests(), rollout().digests(), strict=True):
        assert changed != plain


def test_the_second_digest_alone_sees_log_probabilities():
    logp = np.asarray(rollout().logp_behavior).copy()
    logp[1, 2] = np.nextafter(logp[1, 2], np.float32(0))
    tokens, both = rollout(logp_behavior=logp).digests()
    assert tokens == rollout().digests()[0]
    assert both != rollout().digests()[1]


def test_digests_are_hashes_and_differ():
    tokens, both = rollout().digests()
    assert len(tokens) == len(both) == 64 and tokens != both


def test_sequence_is_prompt_and_completion():
    np.testing.assert_array_equal(rollout().sequence, [[0, 4, 1, 2, 0], [5, 6, 3, 4, 5]])
    np.testing.assert_array_equal(
        rollout().sequence_mask, np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    )


def test_a_rollout_is_a_pytree_without_what_it_lacks():
    leaves = jax.tree.leaves(rollout())
    optional = {field.name for field in dataclasses.fields(Rollout) if field.default is None}
    assert optional == {"reward", "version", "logp_proximal", "logp_reference", "value"}
    assert len(leaves) == len(dataclasses.fields(Rollout)) - len(optional)
    assert jax.tree.map(lambda leaf: leaf[1:], rollout()).tokens.shape == (1, 3)


def test_a_mean_is_weighted_by_its_count():
    merged = Mean(jnp.asarray(2.0), jnp.asarray(4)).merge(Mean(jnp.asarray(3.0), jnp.asarray(1)))
    assert merged.value() == 1.0  # 5 / 5, where the mean of means would be 1.75


def test_a_sum_adds_and_a_maximum_does_not():
    assert Sum(jnp.asarray(2)).merge(Sum(jnp.asarray(3))).value() == 5
    assert Max(jnp.asarray(2)).merge(Max(jnp.asarray(-3))).value() == 2
    assert Max(jnp.asarray(-2)).merge(Max(jnp.asarray(3))).value() == 3


def test_metrics_merge_by_type_and_names_mean_nothing():
    def part(mean, largest, total):
        return {
            "max_of_nothing": Mean(jnp.asarray(mean), jnp.asarray(1)),
            "average": Max(jnp.asarray(largest)),
            "mean_max": Sum(jnp.asarray(total)),
        }

    merged = merge_metrics(part(1.0, 5, 10), part(3.0, 2, 1))
    assert {name: float(m.value()) for name, m in merged.items()} == {
        "max_of_nothing": 2.0,
        "average": 5.0,
        "mean_max": 11.0,
    }


def test_metrics_of_different_names_do_not_merge():
    with pytest.raises(AssertionError):
        merge_metrics({"a": Sum(jnp.ones(()))}, {"b": Sum(jnp.ones(()))})

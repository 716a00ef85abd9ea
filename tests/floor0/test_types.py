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
    asked = {"reward", "version", "logp_proximal", "logp_reference", "value"}
    assert optional == asked | {"told", "told_mask", "logp_teacher", "taught"}
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


# ------------------------------------------------------------------------ rollouts of plain arrays


def test_a_rollout_of_plain_arrays_has_them_and_usual_values_for_the_rest():
    """Lists and NumPy, ints for bools; what stands off the mask is not looked at."""
    logp = np.where(MASK, -1.5, np.nan)
    made = Rollout.of(
        [[1, 2, 0], [3, 4, 5]], MASK.astype(int), reward=[1, 0], ended=[1, 0], logp_behavior=logp,
        value=np.ones((2, 3)),
    )  # fmt: skip
    assert made.mask.dtype == made.ended.dtype == jnp.bool_ and made.tokens.dtype == jnp.int32
    np.testing.assert_array_equal(made.mask, MASK)
    np.testing.assert_array_equal(made.logp_behavior, np.where(MASK, -1.5, 0))
    assert made.reward.tolist() == [1, 0] and made.ended.tolist() == [True, False]
    assert made.sequence.shape == (2, 4) and made.row.tolist() == [0, 1]
    assert made.logp_reference is None and made.value.shape == (2, 3)
    bare = Rollout.of([[1, 2, 0], [3, 4, 5]])
    assert np.all(bare.mask) and np.all(bare.ended) and np.all(np.isnan(bare.logp_behavior))
    assert bare.reward is None and bare.group.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "wanted"), [([7, 7, 9, 9], [0, 0, 1, 1]), ([5, -1, 5, 8], [1, 0, 1, 2])]
)
def test_groups_are_numbered_from_0(given, wanted):
    """What group statistics add up by: any label, rows of a group side by side or not."""
    tokens = np.zeros((4, 2), int)
    assert Rollout.of(tokens, group=given).group.tolist() == wanted
    traced = jax.jit(lambda group: Rollout.of(tokens, group=group).group)(np.array(given))
    assert traced.tolist() == wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": [1, 2, 3]}, r"tokens are int32\[3\]: whole numbers \[B, T\]"),
        ({"tokens": [[1.0, 2.0]]}, r"tokens are float32\[1, 2\]"),
        ({"mask": [[True, True]]}, r"mask has shape \(1, 2\): \(2, 3\) is allowed"),
        ({"reward": [[1], [0]]}, r"reward has shape \(2, 1\): \(2,\) is allowed"),
        ({"group": [0]}, r"group has shape \(1,\): \(2,\)"),
        ({"ended": [True]}, r"ended has shape \(1,\): \(2,\)"),
        ({"logp_behavior": [0.0, 0.0]}, r"logp_behavior has shape \(2,\): \(2, 3\)"),
        ({"value": np.zeros((2, 3, 1))}, r"value has shape \(2, 3, 1\)"),
    ],
)
def test_another_shape_is_refused_in_one_line(changes, said):
    asked = {"tokens": [[1, 2, 0], [3, 4, 5]]} | changes
    with pytest.raises(ValueError, match=said) as error:
        Rollout.of(asked.pop("tokens"), **asked)
    assert len(str(error.value).splitlines()) == 1

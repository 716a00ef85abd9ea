"""Frequencies against their papers, pair by pair, and transformers; the rotation's own laws."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from opd.model import rotary
from opd.model.rotary import RopeScaling

DIM, BASE = 16, 1000.0
LLAMA3 = RopeScaling("llama3", 8.0, original=64, low=1.0, high=4.0)
YARN = RopeScaling("yarn", 4.0, original=64, slow=1.0, fast=8.0)
WHOLE = RopeScaling("yarn", 4.0, 64, slow=0.7, fast=5.0, attention=1.3, truncate=False)


def llama3(wavelength: float) -> float:
    """The stretched wavelength, by its three cases (Llama 3.1's release)."""
    s = LLAMA3
    if wavelength < s.original / s.high:
        return wavelength
    if wavelength > s.original / s.low:
        return wavelength * s.factor
    smooth = (s.original / wavelength - s.low) / (s.high - s.low)
    return 1 / ((1 - smooth) / (s.factor * wavelength) + smooth / wavelength)


def yarn(pair: int, s: RopeScaling) -> float:
    """The angle per token of a pair (Peng et al. 2023, section 3.2), its ramp over pairs."""

    def where(turns):  # the pair, not a whole one, that turns so often within the context
        return DIM / 2 * math.log(s.original / (2 * math.pi * turns), BASE)

    first, last = where(s.fast), where(s.slow)
    if s.truncate:
        first, last = math.floor(first), math.ceil(last)
    angle = BASE ** (-2 * pair / DIM)
    stretched = min(1.0, max(0.0, (pair - max(first, 0)) / (last - max(first, 0))))
    return angle / s.factor * stretched + angle * (1 - stretched)


def test_frequencies_fall_geometrically():
    found, factor = rotary.frequencies(DIM, BASE, None)
    np.testing.assert_allclose(found, [BASE ** (-2 * i / DIM) for i in range(DIM // 2)], rtol=1e-14)
    assert factor == 1 and found[0] == 1


def test_linear_stretches_all_alike():
    found, factor = rotary.frequencies(DIM, BASE, RopeScaling("linear", 2.5))
    np.testing.assert_allclose(2.5 * found, rotary.frequencies(DIM, BASE, None)[0], rtol=1e-14)
    assert factor == 1


def test_llama3_stretches_by_wavelength():
    plain, _ = rotary.frequencies(DIM, BASE, None)
    found, factor = rotary.frequencies(DIM, BASE, LLAMA3)
    wanted = [2 * math.pi / llama3(2 * math.pi / each) for each in plain]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert factor == 1
    kept, whole = found == plain, np.isclose(found, plain / LLAMA3.factor)
    assert kept.any() and whole.any() and (~kept & ~whole).any()  # or a case is not put to the test


@pytest.mark.parametrize("scaling", [YARN, WHOLE], ids=["truncated", "whole"])
def test_yarn_stretches_by_a_ramp_and_warms_the_scores(scaling):
    found, factor = rotary.frequencies(DIM, BASE, scaling)
    np.testing.assert_allclose(found, [yarn(i, scaling) for i in range(DIM // 2)], rtol=1e-12)
    wanted = 0.1 * math.log(4.0) + 1 if scaling.attention is None else scaling.attention
    assert factor == pytest.approx(wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("scaling", [RopeScaling("linear", 2.5), LLAMA3, YARN, WHOLE], ids=str)
def test_frequencies_are_those_of_transformers(scaling):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    numbers = {
        "original_max_position_embeddings": scaling.original,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "beta_slow": scaling.slow,
        "beta_fast": scaling.fast,
        "attention_factor": scaling.attention,
        "truncate": scaling.truncate if scaling.kind == "yarn" else None,
    }
    given = {"rope_type": scaling.kind, "rope_theta": BASE, "factor": scaling.factor}
    given |= {name: value for name, value in numbers.items() if value is not None}
    config = transformers.LlamaConfig(
        hidden_size=2 * DIM, num_attention_heads=2, rope_parameters=given
    )
    wanted, factor = ROPE_INIT_FUNCTIONS[scaling.kind](config, "cpu")
    found, ours = rotary.frequencies(DIM, BASE, scaling)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)
    assert ours == pytest.approx(factor)


def test_scores_depend_on_distance_alone(x64):
    """<R_m q, R_n k> = <q, R_{n-m} k>, and a rotation keeps lengths (Su et al. 2021, eq. 16)."""
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, DIM))
    frequency = jnp.asarray(rotary.frequencies(DIM, BASE, YARN)[0])

    def turned(x, position):
        cos, sin = rotary.angles(jnp.asarray([[position]]), frequency)
        return np.asarray(rotary.rotate(jnp.asarray(x), cos, sin))

    scores = [np.sum(turned(query, m) * turned(key, m + 5)) for m in (0, 3, 40)]
    np.testing.assert_allclose(scores, np.sum(query * turned(key, 5)), rtol=1e-12)
    assert abs(scores[0] - np.sum(query * key)) > 1e-3
    np.testing.assert_allclose(np.sum(turned(query, 9) ** 2), np.sum(query**2), rtol=1e-12)


def test_halves_are_turned_not_neighbours():
    x = jnp.zeros((1, 1, 1, 4)).at[0, 0, 0, 1].set(1.0)
    cos, sin = rotary.angles(jnp.ones((1, 1), jnp.int32), jnp.asarray([0.3, 0.7]))
    found = rotary.rotate(x, cos, sin)[0, 0, 0]
    np.testing.assert_allclose(found, [0, math.cos(0.7), 0, math.sin(0.7)], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("dynamic", 2.0), "rope type 'dynamic': linear, llama3, yarn are allowed"),
        (("linear", 0.5), "rope factor is 0.5: a number of at least 1"),
        (("linear", math.inf), "rope factor is inf"),
    ],
)
def test_other_scalings_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        RopeScaling(*given)

"""Families of published checkpoints: their logits, their configs, and what no decoder here has.

Golden logits are transformers' own (`goldens.py`); with transformers installed they are measured
afresh, with everything else that a case is put to.
"""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from experiments.parity import cases, page
from opd.engine import sharding
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.families import FAMILIES
from opd.model.families.family import Tensor
from opd.run.players import hub_export, models
from tests.model import goldens

# Their modules warn of their own libraries.
THEIRS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def differs(found, wanted) -> float:
    """The largest difference, over the root mean square of what is wanted."""
    return np.max(np.abs(np.asarray(found) - wanted)) / np.sqrt(np.mean(np.square(wanted)))


def loaded(name, folder):
    goldens.write(goldens.CASES[name], folder)
    return models.load_model(folder, mesh=sharding.make_mesh(jax.devices()[:1]))


def logits(policy):
    return models.logits(policy, cases.tokens(1))[0, -goldens.POSITIONS :]


@pytest.mark.parametrize("name", goldens.CASES)
def test_logits_are_the_golden_ones(name, tmp_path):
    assert differs(logits(loaded(name, tmp_path / "model")), goldens.logits(name)) < 1e-4


def test_goldens_are_of_these_cases():
    """A case that was changed needs new ones: python -m tests.model.goldens."""
    known = {name: one["json"] for name, one in goldens.described().items()}
    assert known == {
        name: json.loads(json.dumps(dict(c.json))) for name, c in goldens.CASES.items()
    }
    assert {case.architecture for case in goldens.CASES.values()} == set(FAMILIES)


@pytest.mark.slow
@THEIRS
def test_goldens_are_what_transformers_says_today():
    pytest.importorskip("transformers")
    found = goldens.measured()
    assert json.loads(str(found.pop("described"))) == goldens.described()
    for name, wanted in found.items():
        assert differs(goldens.logits(name), wanted) < 1e-5, name


# Each family once, and what sets positions, windows and heads apart. The other cases are deep: they
# differ from one of these in their logits, which test_logits_are_the_golden_ones looks at.
IN_CI = (
    "Llama, tied, llama3",
    "Mistral, untied, window",
    "Qwen2, tied, window from layer 1, old config",
    "Qwen3, tied, yarn",
    "Qwen3, window by layer",
    "Gemma 2, tied, window",
    "Gemma 3, untied, linear, caps, old config",
    "SmolLM3, untied, window where nothing turns, old config",
    "OLMo 3, untied, window in three of four layers, yarn in the other",
    "Ministral 3, untied, yarn, queries that grow",
    "Qwen3-MoE, untied, weights that add up to 1",
)


def test_each_family_is_put_to_every_property():
    found = {goldens.CASES[name].architecture for name in IN_CI}
    # A family that comes before or after one that is there, and has less that is its own.
    less = ("GemmaForCausalLM", "GraniteForCausalLM", "Olmo2ForCausalLM", "MinistralForCausalLM")
    assert found.isdisjoint(less) and found | set(less) == set(FAMILIES)


@THEIRS
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.deep)
        for name in goldens.CASES
    ],
)
def test_every_property_holds_against_transformers(name, tmp_path):
    pytest.importorskip("transformers")
    from experiments.parity import measure

    given = measure.scene(goldens.CASES[name], tmp_path)
    for key, one in measure.PROPERTIES.items():
        assert page.holds(one.measure(given), one.limit), key


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Llama, tied, llama3", {"rope_scaling": None}),
        ("Llama, yarn", {"rope_scaling": None}),
        ("Mistral, untied, window", {"window": 7}),
        ("Mistral, untied, window", {"window": 9}),
        ("Qwen2, tied, window from layer 1, old config", {"sliding": (True, False)}),
        ("Gemma 2, tied, window", {"attention_cap": None}),
        ("Gemma 2, tied, window", {"query_scale": None}),
        ("Gemma 2, tied, window", {"activation": "silu"}),
        ("Gemma 3, tied, two bases", {"sliding_rope_base": None}),
        ("Gemma 3, tied, two bases", {"embed_scale": 1.0}),
        ("Gemma, tied", {"norm_offset": 0.0}),
        ("Granite, untied, four scales", {"residual_scale": 1.0}),
        ("Granite, untied, four scales", {"logit_divisor": 1.0}),
        ("Granite, untied, four scales", {"query_scale": None}),
        ("SmolLM3, tied, a layer without rotation", {"turned": ()}),
        ("OLMo 2, untied", {"qk_norm": False, "qk_norm_whole": False}),
        ("Ministral, untied, window by layer", {"sliding": (True, True)}),
        ("Ministral 3, untied, yarn, queries that grow", {"query_growth": 0.0}),
        ("Qwen3-MoE, untied, weights that add up to 1", {"expert_normed": False}),
        ("Qwen3-MoE, untied, weights that add up to 1", {"experts_per_token": 1}),
    ],
    ids=str,
)
def test_every_choice_shows_in_the_logits(name, change, tmp_path):
    """Parity says nothing of a choice that these models don't feel."""
    policy = loaded(name, tmp_path / "model")
    other = dataclasses.replace(policy, config=dataclasses.replace(policy.config, **change))
    assert differs(logits(other), goldens.logits(name)) > 1e-2


@pytest.mark.parametrize("name", goldens.CASES)
def test_a_config_that_is_written_is_read_as_it_was(name):
    case = goldens.CASES[name]
    family = FAMILIES[case.architecture]
    config = DecoderConfig(**family.read(case.json))
    written = json.loads(json.dumps(family.config_json(config)))
    assert DecoderConfig(**family.read(written)) == config
    assert written["architectures"] == [case.architecture]
    # and by those who know only the older names of the rotation
    assert written.pop("rope_parameters")
    assert DecoderConfig(**family.read(written)) == config


@THEIRS
@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_a_config_leaves_out_is_what_transformers_takes(architecture):
    transformers = pytest.importorskip("transformers")
    _, usual = next(one for one in cases.FAMILIES.values() if one[0] == architecture)
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    given = {key: cases.SMALL[key] for key in (*keys, "intermediate_size")}
    given |= {"num_key_value_heads": 2, "max_position_embeddings": 512}
    given |= {"model_type": usual["model_type"], "num_hidden_layers": 8}
    whole = transformers.AutoConfig.for_model(**given).to_dict()
    family = FAMILIES[architecture]
    assert DecoderConfig(**family.read(given)) == DecoderConfig(**family.read(whole))


def test_a_decoder_that_a_family_cannot_have_is_refused():
    tiny = DecoderConfig(vocab=8, width=4, layers=1, heads=2)
    assert hub_export.family_of(tiny).architecture == "LlamaForCausalLM"
    assert (
        hub_export.family_of(dataclasses.replace(tiny, qk_norm=True))
        is FAMILIES["Qwen3ForCausalLM"]
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM can't have logit_cap = 3.0: allowed is"):
        FAMILIES["LlamaForCausalLM"].config_json(dataclasses.replace(tiny, logit_cap=3.0))
    with pytest.raises(ValueError, match="no family can have this decoder"):
        hub_export.family_of(dataclasses.replace(tiny, qk_norm=True, qkv_bias=True))


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("Llama", {"vocab_size": None}, "has no vocab_size"),
        ("Llama", {"attention_bias": True}, "attention_bias = True: allowed is false"),
        ("Llama", {"hidden_act": "relu"}, "hidden_act = 'relu': silu, gelu_pytorch_tanh"),
        ("Gemma 2", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
        ("Llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ("Llama", {"rope_scaling": {"rope_type": "longrope"}}, "default, linear, llama3, yarn are"),
        ("Llama", {"rope_scaling": {"type": "linear"}}, "'linear' without factor"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
            "'llama3' without low_freq_factor",
        ),
        ("Llama", {"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope factor is 0.5"),
        ("Qwen2", {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0}}, "mscale"),
        ("Qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5: allowed is 1"),
        ("Gemma 2", {"layer_types": ["full_attention"]}, "for each of 2 layers"),
        ("Gemma 2", {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ("Gemma 3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "Gemma 3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "stretches the rope of sliding layers",
        ),
    ],
    ids=str,
)
def test_what_no_decoder_has_is_refused(family, change, said):
    architecture, usual = cases.FAMILIES[family]
    given = {**cases.SMALL, **usual, **change}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(ValueError, match=said) as error:
        FAMILIES[architecture].fields(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (Tensor("w", inputs=1), (4, 6, 2)),  # queries: D, H, K
        (Tensor("w", inputs=2), (6, 2, 4)),  # what comes out of attention: H, K, D
        (Tensor("b", flat=True), (6, 2)),
        (Tensor("e"), (6, 4)),
        (Tensor("n"), (6,)),
    ],
    ids=str,
)
def test_a_part_of_ours_is_a_part_of_theirs(tensor, shape):
    """Whatever axes are cut, as long as those that a checkpoint lays flat are cut at the front."""
    ours = np.arange(np.prod(shape)).reshape(shape)
    theirs = tensor.theirs(ours)
    assert theirs.shape == tensor.shape(shape)
    assert np.shares_memory(theirs, ours)
    inner = {len(shape) - 1} if tensor.inputs == 1 and len(shape) == 3 else set()
    inner |= {1} if tensor.inputs == 2 or tensor.flat else set()
    halves = [
        [slice(None)] if axis in inner else [slice(0, size // 2), slice(size // 2, size)]
        for axis, size in enumerate(shape)
    ]
    for index in itertools.product(*halves):
        part = tensor.theirs(np.ascontiguousarray(ours[index]))
        np.testing.assert_array_equal(part, theirs[tensor.where(index, shape)])


def test_every_parameter_has_a_place():
    for name, case in goldens.CASES.items():
        family = FAMILIES[case.architecture]
        config = DecoderConfig(**family.read(case.json))
        shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
        named = {}
        for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            place = family.tensors[tuple(key.key for key in keys)]
            shape = list(place.shape(leaf.shape[place.stacked :]))
            named |= dict.fromkeys((name for _, name in place.names(leaf.shape)), shape)
        assert named == goldens.described()[name]["shapes"], name

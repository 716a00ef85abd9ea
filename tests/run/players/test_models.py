"""Models by folder: what a program of one's own loads, asks and saves."""

import dataclasses
import json
import string

import jax
import numpy as np
import pytest

import opd
from experiments.parity import cases
from opd.data import hub_tokenizer
from opd.data.tokenizers import ByteTokenizer, CharTokenizer
from opd.engine import sharding
from opd.model.decoder import Decoder, DecoderConfig
from opd.run.players import models
from tests.model import goldens

CASE = goldens.CASES["Qwen3, tied, yarn"]
LETTERS = CharTokenizer(string.ascii_letters + string.digits)  # 64 of the 96 rows
TINY = DecoderConfig(vocab=64, width=8, layers=1, heads=2, max_length=32)


def one_device():
    return sharding.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with a tokenizer of fewer ids than rows."""
    path = tmp_path_factory.mktemp("models") / "model"
    goldens.write(CASE, path)
    hub_tokenizer.write(LETTERS, path)
    return path


@pytest.fixture(scope="module")
def policy(folder):
    return opd.load_model(folder, mesh=one_device())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same without a tokenizer: nothing is padding."""
    path = tmp_path_factory.mktemp("plain") / "model"
    goldens.write(CASE, path)
    return opd.load_model(path, mesh=one_device())


def assert_same(found, wanted):
    assert found.config == wanted.config
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)


def test_the_interface_is_the_packages():
    assert opd.load_model is models.load_model and opd.logits is models.logits
    assert opd.save_model is models.save_model and opd.Policy is models.Policy
    assert {"load_model", "logits", "save_model", "Policy"} <= set(dir(opd))
    with pytest.raises(AttributeError, match="no attribute 'load_models'"):
        _ = opd.load_models


def test_a_tokenizer_says_which_ids_there_are(policy, plain):
    assert plain.tokenizer is None and plain.config.tokens is None
    assert policy.tokenizer.table() == (*LETTERS.table()[:2], *string.ascii_letters, *string.digits)
    assert policy.config == dataclasses.replace(plain.config, tokens=LETTERS.vocab)
    tokens = cases.tokens(2, 9)
    found, wanted = (np.asarray(opd.logits(each, tokens)) for each in (policy, plain))
    assert found.dtype == np.float32 and found.shape == (2, 9, 96)
    np.testing.assert_allclose(found[..., :64], wanted[..., :64], atol=1e-6)
    assert np.all(found[..., 64:] == np.float32(-1e30))


def test_logits_do_not_see_what_the_mask_hides(plain):
    tokens = cases.tokens(2, 9)
    mask = np.arange(9)[None] >= np.array([3, 0])[:, None]
    found = np.asarray(opd.logits(plain, np.where(mask, tokens, 0), mask))
    np.testing.assert_allclose(found[0, 3:], opd.logits(plain, tokens[:1, 3:])[0], atol=1e-5)
    np.testing.assert_allclose(found[1], opd.logits(plain, tokens[1:])[0], atol=1e-5)


def test_a_dtype_is_of_parameters_and_computation(folder):
    found = opd.load_model(folder, "bfloat16", one_device())
    assert found.config.dtype == found.config.param_dtype == "bfloat16"
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found.params)} == {"bfloat16"}
    assert opd.logits(found, cases.tokens(1, 5)).dtype == np.float32
    with pytest.raises(ValueError, match="dtype is 'float8': bfloat16, float32, float64 are"):
        opd.load_model(folder, "float8", one_device())


@pytest.mark.parametrize("where", ["eight devices", "no mesh"])
def test_greedy_completions_are_the_arg_max_of_the_logits(where, policy, folder):
    """Side by side, of different lengths; padded ids are never among them."""
    if where == "eight devices":
        policy = opd.load_model(folder, mesh=sharding.make_mesh(data=2, fsdp=2, tensor=2))
    if where == "no mesh":
        policy = dataclasses.replace(policy, params=jax.tree.map(np.asarray, policy.params))
    prompts, length, width = ["on", "policy7"], 6, 16
    found = models.complete(policy, prompts, length, temperature=0.0)
    ids = [LETTERS.encode(prompt) for prompt in prompts]
    for _ in range(length):
        tokens = np.array([np.pad(row, (width - len(row), 0)) for row in ids])
        mask = np.array([np.arange(width) >= width - len(row) for row in ids])
        for row, best in zip(ids, np.argmax(opd.logits(policy, tokens, mask)[:, -1], -1)):
            row.append(int(best))
    for prompt, row, completion in zip(prompts, ids, found, strict=True):
        new = row[len(prompt) :]
        assert LETTERS.eos_id not in new  # or the loop above goes on where a completion doesn't
        assert completion == LETTERS.decode(new)


def test_completions_are_a_function_of_the_seed(policy):
    draws = [models.complete(policy, ["ab"], 12, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_what_cannot_be_completed_is_refused(policy, plain):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        models.complete(plain, ["ab"], 4)
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        models.complete(policy, ["ab", ""], 4)
    with pytest.raises(ValueError, match="prompt of 2 tokens and a completion of 255: the model"):
        models.complete(policy, ["ab"], 255)


def test_a_saved_model_is_the_model(policy, folder, tmp_path):
    """Tokenizer, ends and what else the folder says included."""
    opd.save_model(policy, tmp_path / "saved")
    found = opd.load_model(tmp_path / "saved", mesh=one_device())
    assert_same(found, policy)
    assert found.tokenizer.fingerprint() == policy.tokenizer.fingerprint()
    described = [json.loads((p / "config.json").read_text()) for p in (folder, tmp_path / "saved")]
    added = {"torch_dtype": "float32", "dtype": "float32"}
    assert described[1] == described[0] | added
    with pytest.raises(ValueError, match="is there already"):
        opd.save_model(policy, tmp_path / "saved")


@pytest.mark.parametrize("tokenizer", [CharTokenizer("ab+"), None], ids=["characters", "none"])
def test_a_model_made_here_becomes_a_folder(tokenizer, tmp_path):
    config = TINY if tokenizer is None else dataclasses.replace(TINY, tokens=tokenizer.vocab)
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    opd.save_model(models.Policy(config, params, tokenizer), tmp_path / "saved")
    found = opd.load_model(tmp_path / "saved", mesh=one_device())
    assert_same(found, models.Policy(config, params))
    described = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert described["architectures"] == ["LlamaForCausalLM"]
    if tokenizer is not None:
        assert (found.tokenizer.eos_ids, found.tokenizer.pad_id) == ((1,), 0)
        assert (described["eos_token_id"], described["pad_token_id"]) == (1, 0)
        assert found.tokenizer.encode("a+b") == tokenizer.encode("a+b")


def test_ids_without_a_row_are_never_read_or_written(tmp_path, capsys):
    goldens.write(CASE, tmp_path / "model")
    hub_tokenizer.write(ByteTokenizer(), tmp_path / "model")  # 258 ids for 96 rows
    policy = opd.load_model(tmp_path / "model", mesh=one_device())
    assert "tokenizer has 258 ids, the model 96 rows (vocab_size): ids 96 to 257 are never" in (
        capsys.readouterr().err
    )
    assert policy.config.tokens == policy.tokenizer.vocab == 96
    (text,) = models.complete(policy, ["+1"], 8, seed=1)
    assert text == "" or max(text.encode()) < 96
    with pytest.raises(ValueError, match="has 'a', id 99: the model has rows for 0 to 95"):
        models.complete(policy, ["a"], 4)
    opd.save_model(policy, tmp_path / "saved")
    again = opd.load_model(tmp_path / "saved", mesh=one_device())
    assert_same(again, policy)
    assert again.tokenizer.fingerprint() == policy.tokenizer.fingerprint()

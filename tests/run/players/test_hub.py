"""Checkpoints in files: what is read where, what is written, and what is refused on one line."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from jax.sharding import PartitionSpec

from experiments.parity import memory, page
from opd import disk
from opd.data import hub_tokenizer
from opd.data.tokenizers import CharTokenizer
from opd.engine import sharding
from opd.run.players import hub, hub_export
from tests.model import goldens

ROOT = Path(__file__).parents[3]
QWEN2 = goldens.CASES["Qwen2, untied"]
GEMMA3 = goldens.CASES["Gemma 3, tied, two bases"]
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def one_device():
    return sharding.make_mesh(jax.devices()[:1])


def read(folder, dtype=None, mesh=None):
    return hub.load(hub.look(folder, dtype), mesh or one_device())


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda x: x.dtype, wanted)


def save(folder, path, config, params, **options):
    hub_export.save(path, config, params, folder.json, lambda beside: None, **options)


def stored(folder):
    """Every tensor's dtype and bytes."""
    found = {}
    for file in folder.glob("*.safetensors"):
        for name, tensor in safetensors.deserialize(file.read_bytes()):
            found[name] = tensor["dtype"], bytes(tensor["data"])
    return found


def test_every_number_is_where_the_papers_have_it(tmp_path):
    """Index by index: torch's Linear is y = W x + b, heads are laid side by side."""
    theirs = goldens.write(QWEN2, tmp_path / "model")
    ours = jax.tree.map(np.asarray, read(tmp_path / "model"))
    layers, (heads, kv_heads, size) = ours["layers"], (4, 2, 8)
    assert layers["q"].shape == (2, 32, heads, size) and layers["o"].shape == (2, heads, size, 32)
    rng = np.random.default_rng(0)
    for layer, d, h, k, m in rng.integers(0, (2, 32, heads, size, 48), (200, 5)):
        at = f"model.layers.{layer}."
        row, kv_row = h * size + k, h % kv_heads * size + k
        assert layers["q"][layer, d, h, k] == theirs[at + "self_attn.q_proj.weight"][row, d]
        assert layers["o"][layer, h, k, d] == theirs[at + "self_attn.o_proj.weight"][d, row]
        assert layers["q_bias"][layer, h, k] == theirs[at + "self_attn.q_proj.bias"][row]
        found = layers["v"][layer, d, h % kv_heads, k]
        assert found == theirs[at + "self_attn.v_proj.weight"][kv_row, d]
        assert layers["gate"][layer, d, m] == theirs[at + "mlp.gate_proj.weight"][m, d]
        assert layers["down"][layer, m, d] == theirs[at + "mlp.down_proj.weight"][d, m]
    np.testing.assert_array_equal(ours["embedding"], theirs["model.embed_tokens.weight"])
    np.testing.assert_array_equal(ours["unembedding"], theirs["lm_head.weight"])
    np.testing.assert_array_equal(ours["final_norm"]["scale"], theirs["model.norm.weight"])


@pytest.mark.parametrize("case", [QWEN2, GEMMA3], ids=lambda case: case.family)
def test_eight_devices_read_what_one_reads(case, tmp_path):
    """Each its own part, laid by the rules."""
    goldens.write(case, tmp_path / "model", shards=2)
    mesh = sharding.make_mesh(jax.devices()[:8], data=2, fsdp=2, tensor=2)
    found, wanted = read(tmp_path / "model", mesh=mesh), read(tmp_path / "model")
    assert_same(found, wanted)
    rules = sharding.param_shardings(hub.Decoder(hub.look(tmp_path / "model").config), mesh)
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == rules
    assert found["layers"]["q"].sharding.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert found["layers"]["q"].addressable_shards[0].data.size == found["layers"]["q"].size // 4
    other = hub.load(hub.look(tmp_path / "model"), mesh, (("embed", ("data", "fsdp")),))
    assert_same(other, wanted)
    assert other["layers"]["q"].sharding.spec[1] == ("data", "fsdp")


@pytest.mark.parametrize("case", [QWEN2, GEMMA3], ids=lambda case: case.family)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_has_the_same_bytes(case, dtype, tmp_path):
    goldens.write(case, tmp_path / "model", dtype, shards=2)
    folder = hub.look(tmp_path / "model")
    params = hub.load(folder, one_device())
    assert folder.config.dtype == folder.config.param_dtype == dtype
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
    save(folder, tmp_path / "whole", folder.config, params)
    save(folder, tmp_path / "parts", folder.config, params, shard_bytes=20_000)
    assert stored(tmp_path / "whole") == stored(tmp_path / "parts") == stored(tmp_path / "model")
    for name in ("whole", "parts"):
        assert_same(read(tmp_path / name), params)
        assert hub.look(tmp_path / name).config == folder.config
    assert [file.name for file in (tmp_path / "whole").glob("*.safe*")] == [WHOLE]


def test_shards_are_small_enough_and_indexed(tmp_path):
    goldens.write(QWEN2, tmp_path / "model")
    folder = hub.look(tmp_path / "model")
    save(
        folder,
        tmp_path / "parts",
        folder.config,
        hub.load(folder, one_device()),
        shard_bytes=20_000,
    )
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    tensors = {file.name: safetensors.numpy.load_file(file) for file in files}
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for one in tensors.values():
        assert sum(value.nbytes for value in one.values()) <= 20_000 or len(one) == 1
    index = json.loads((tmp_path / "parts" / INDEX).read_text())
    assert index["weight_map"] == {name: file for file, one in tensors.items() for name in one}
    total = sum(value.nbytes for one in tensors.values() for value in one.values())
    assert index["metadata"]["total_size"] == total


def test_a_dtype_is_the_checkpoints_unless_one_is_asked_for(tmp_path):
    narrow = goldens.write(QWEN2, tmp_path / "narrow", "bfloat16")
    half = goldens.write(QWEN2, tmp_path / "half", "float16")
    wide = goldens.write(QWEN2, tmp_path / "wide")
    name = "model.embed_tokens.weight"
    for folder, dtype, wanted in (
        ("narrow", None, narrow[name]),
        ("narrow", "float32", narrow[name].astype(np.float32)),
        ("half", None, half[name].astype(np.float32)),  # no decoder computes in float16
        ("wide", "bfloat16", wide[name].astype(ml_dtypes.bfloat16)),
    ):
        found = read(tmp_path / folder, dtype)
        np.testing.assert_array_equal(found["embedding"], wanted)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {wanted.dtype}


def test_jax_keeps_the_memory_that_was_read_into():
    """Or every parameter is in memory twice for a while; see also the slow test."""
    memory = hub._empty((37, 129), np.float32)
    memory[:] = 1
    found = jax.make_array_from_callback(
        memory.shape, jax.sharding.SingleDeviceSharding(jax.devices()[0]), lambda index: memory
    )
    assert found.unsafe_buffer_pointer() == memory.ctypes.data


@pytest.mark.slow
@pytest.mark.skipif(not memory.STATUS.exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_takes_little_more_memory_than_the_checkpoint(dtype, tmp_path):
    found = memory.measure(tmp_path / "model", dtype, 400 * memory.MEBIBYTE, repeats=1)
    assert page.fits(found), found
    assert found["shards"] > 2 and found["ratio"] > 0.9  # or it measured something else


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    goldens.write(QWEN2, tmp_path / "model")
    folder = hub.look(tmp_path / "model")
    before = stored(tmp_path / "model")
    with pytest.raises(ValueError, match="is there already"):
        save(folder, tmp_path / "model", folder.config, hub.load(folder, one_device()))
    assert stored(tmp_path / "model") == before

    def fails(beside):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        params = hub.load(folder, one_device())
        hub_export.save(tmp_path / "new", folder.config, params, folder.json, fails)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ------------------------------------------------------------------------------------- bad input


def changed(folder, **fields):
    described = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(described))


def replaced(folder, name, value):
    """A tensor of a folder of one file, replaced, or dropped."""
    tensors = safetensors.numpy.load_file(folder / WHOLE) | {name: value}
    kept = {name: value for name, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(kept, folder / WHOLE)


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


Q = "model.layers.1.self_attn.q_proj.weight"
BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json; has model.safe"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "expected an object"),
    "architecture": (
        lambda f: changed(f, architectures=["GPT2LMHeadModel"]),
        "architecture GPT2LMHeadModel: LlamaForCausalLM, MistralForCausalLM, .*"
        "Mistral3ForConditionalGeneration are allowed",
    ),
    "rope type": (
        lambda f: changed(f, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        "rope type 'longrope': default, linear, llama3, yarn are allowed",
    ),
    "quantised": (
        lambda f: changed(f, quantization_config={"quant_method": "gptq"}),
        "quantization_config: plain weights without it are allowed",
    ),
    "no weights": (lambda f: (f / WHOLE).unlink(), f"has neither {WHOLE} nor {INDEX}"),
    "cut in the header": (lambda f: cut(f / WHOLE, 100), "cut off, or no safetensors"),
    "cut in the tensors": (lambda f: cut(f / WHOLE, -40), "cut off, or no safetensors"),
    "pickled": (
        lambda f: (f / WHOLE).write_bytes(b"\x80\x04" * 99),
        "pickled, which is never opened",
    ),
    "tensor": (lambda f: replaced(f, Q, None), f"has no tensor {Q}"),
    "shape": (
        lambda f: replaced(f, Q, np.zeros((32, 31), np.float32)),
        rf"{Q} is \(32, 31\), config.json makes it \(32, 32\)",
    ),
    "vocabulary": (
        lambda f: changed(f, vocab_size=97),
        r"embed_tokens.weight is \(96, 32\), config.json makes it \(97, 32\)",
    ),
    "integers": (lambda f: replaced(f, Q, np.zeros((32, 32), np.int32)), f"{Q} has dtype I32"),
    "size": (
        lambda f: changed(f, num_attention_heads=3),
        "num_key_value_heads = 2: a number that divides num_attention_heads = 3 is allowed",
    ),
    "size in words": (
        lambda f: changed(f, vocab_size="many"),
        "vocab_size = 'many': a whole number from 1 to",
    ),
    "rope in words": (
        lambda f: changed(f, rope_parameters="llama3"),
        "rope_parameters = 'llama3': an object, or null is allowed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(name, tmp_path):
    goldens.write(QWEN2, tmp_path / "model")
    hub.look(tmp_path / "model")
    change, said = BROKEN[name]
    change(tmp_path / "model")
    with pytest.raises(ValueError, match=said) as error:
        hub.look(tmp_path / "model")
    assert "\n" not in str(error.value) and str(tmp_path / "model") in str(error.value)


BROKEN_SHARDS = {
    "missing": (lambda f: (f / SHARDS[1]).unlink(), f"shard {SHARDS[1]} is missing"),
    "cut off": (lambda f: cut(f / SHARDS[1], -40), f"{SHARDS[1]}: cut off"),
    "index": (lambda f: (f / INDEX).write_text('{"a": 1}'), "has no weight_map"),
    "wrong index": (
        lambda f: disk.dump_json({"weight_map": dict.fromkeys(stored(f), SHARDS[0])}, f / INDEX),
        f"{SHARDS[0]}: has no tensor .*, where the index has it",
    ),
}


@pytest.mark.parametrize("name", BROKEN_SHARDS)
def test_a_broken_shard_is_refused(name, tmp_path):
    goldens.write(QWEN2, tmp_path / "model", shards=2)
    hub.look(tmp_path / "model")
    change, said = BROKEN_SHARDS[name]
    change(tmp_path / "model")
    with pytest.raises(ValueError, match=said) as error:
        hub.look(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_a_file_that_shrinks_before_it_is_read_is_noticed(tmp_path):
    goldens.write(QWEN2, tmp_path / "model")
    folder = hub.look(tmp_path / "model")
    cut(tmp_path / "model" / WHOLE, -40)
    with pytest.raises(ValueError, match="cut off while it was read"):
        hub.load(folder, one_device())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: None, "has no tokenizer.json: nothing can be read or written"),
        (
            lambda f: (
                hub_tokenizer.write(CharTokenizer("ab"), f),
                cut(f / WHOLE, -40),
            ),
            f"{WHOLE}: cut off",
        ),
    ],
    ids=["tokenizer", "weights"],
)
def test_the_command_says_it_on_one_line_with_code_2(change, said, tmp_path):
    goldens.write(QWEN2, tmp_path / "model")
    change(tmp_path / "model")
    command = [sys.executable, "-m", "experiments.generate"]
    command += [f"--path={tmp_path / 'model'}", "--prompt=ab"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line

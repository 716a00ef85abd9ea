"""Checkpoints as users have them: other names, other files beside, damage; read right, or refused.

What transformers reads is the measure, where it reads anything: see the last part.
"""

import json
import os
import pickle
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from opd.engine import sharding
from opd.run.players import hub, hub_weights
from tests.model import goldens
from tests.run.players import folders

WHOLE, INDEX = hub_weights.WHOLE, hub_weights.INDEX
SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path):
    """A Qwen3 of two layers and 409 rows, of which the last six have no token."""
    folders.write_model(tmp_path / "model")
    return tmp_path / "model"


def read(folder, tokens=None, dtype=None):
    looked = hub.look(folder, dtype, tokens)
    return hub.load(looked, sharding.make_mesh(jax.devices()[:1]))


def tensors(folder):
    return safetensors.numpy.load_file(folder / WHOLE)


def rewritten(folder, change):
    """The folder with its tensors changed: a function of them, or what is to be added."""
    held = tensors(folder)
    held = held | change if isinstance(change, dict) else change(held)
    safetensors.numpy.save_file(held, folder / WHOLE, metadata={"format": "pt"})


def config(folder, **fields):
    described = json.loads((folder / "config.json").read_text()) | fields
    folders.dump({k: v for k, v in described.items() if v is not ...}, folder / "config.json")


def sharded(folder):
    """The folder's tensors in two shards with an index."""
    held = tensors(folder)
    (folder / WHOLE).unlink()
    placed = {name: SHARDS[at % 2] for at, name in enumerate(held)}
    for shard in SHARDS:
        part = {name: held[name] for name, file in placed.items() if file == shard}
        safetensors.numpy.save_file(part, folder / shard)
    folders.dump({"metadata": {}, "weight_map": placed}, folder / INDEX)


def tied(held):
    return {name: value for name, value in held.items() if name != HEAD}


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def refusal(folder, tokens=None):
    """Why a folder is refused: one line that names it."""
    with pytest.raises(ValueError) as error:
        hub.look(folder, tokens=tokens)
    said = str(error.value)
    assert "\n" not in said and str(folder) in said and len(said) < 600
    return said


# --- other names -------------------------------------------------------------------------------

RENAMED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "a compiled layer": lambda name: name.replace("layers.1.", "layers.1._orig_mod."),
    "data parallel": lambda name: f"module.{name}",
    "fully sharded": lambda name: name.replace(
        ".self_attn.", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn."
    ),
    "PEFT's base": lambda name: f"base_model.model.{name}",
    "multimodal, new": lambda name: name.replace("model.", "model.language_model.", 1),
    "multimodal, old": lambda name: f"language_model.{name}",
    "with a value head": lambda name: f"pretrained_model.{name}",
    "no prefix": lambda name: name.removeprefix("model."),
    "all of it": lambda name: f"module._orig_mod.base_model.model.{name}",
}


@pytest.mark.parametrize("kind", RENAMED)
def test_names_with_a_prefix_are_read(kind, folder, capsys):
    wanted = read(folder)
    assert capsys.readouterr().err == ""
    rewritten(folder, lambda held: {RENAMED[kind](name): x for name, x in held.items()})
    assert_same(read(folder), wanted)
    (said,) = capsys.readouterr().err.splitlines()
    assert str(folder) in said and " is read as " in said and "others likewise" in said


def test_buffers_may_lie_beside_and_are_not_read(folder, capsys):
    wanted = read(folder)
    inverse = np.ones(4, np.float32)
    layer, whole = "model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"
    near, ids = "model.rotary_emb.sliding_attention_inv_freq", "model.position_ids"
    rewritten(folder, {layer: inverse, whole: inverse, near: inverse, ids: np.arange(9)})
    assert_same(read(folder), wanted)
    assert capsys.readouterr().err == ""


STRANGERS = {
    "model.layers.0.self_attn.q_proj.bias": "transformers wrote together",
    "lm_head.bias": "transformers wrote together",
    "model.layers.2.mlp.up_proj.weight": "transformers wrote together",
    "model.layers.0.self_attn.rotary_emb.inv_freq.other": "transformers wrote together",
    "model.layers.0.self_attn.q_proj.lora_A.default.weight": "merge it",
    "model.layers.0.self_attn.q_proj.weight_scale": "quantised weights: plain ones",
    "model.layers.0.self_attn.k_scale": "quantised weights: plain ones",
    "model.vision_tower.patch.weight": "a multimodal model: save the language model alone",
    "v_head.summary.weight": "a head that isn't of the decoder: remove it",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_tensor_without_a_place_is_refused_by_name(name, folder):
    rewritten(folder, {name: np.zeros((2, 2), np.float32)})
    said = refusal(folder)
    assert f"Qwen3ForCausalLM as config.json has it has no place for {name}" in said
    assert STRANGERS[name] in said


def test_one_of_many_strangers_is_named_and_all_are_counted(folder):
    rewritten(folder, {f"{Q}.{i}": np.zeros(1, np.float32) for i in range(12)})
    assert f"no place for {Q}.0 (and 11 more)" in refusal(folder)


def test_two_decoders_are_ambiguous(folder):
    rewritten(folder, lambda held: held | {f"draft.{name}": x for name, x in held.items()})
    assert "has decoders under 'draft.model.' and 'model.': allowed is one" in refusal(folder)


def test_two_names_of_one_tensor_are_ambiguous(folder):
    rewritten(folder, {f"_orig_mod.{NORM}": np.zeros(16, np.float32)})
    assert f"_orig_mod.{NORM} and {NORM} are both {NORM}: allowed is one" in refusal(folder)


def test_a_folder_of_something_else_says_what_it_has(folder):
    rewritten(folder, lambda held: {"encoder.weight": held[NORM]})
    assert "it has encoder.weight" in refusal(folder)


def test_a_missing_tensor_and_a_strange_one_are_said_together(folder):
    rewritten(folder, lambda held: {n.replace("q_proj", "qkv"): x for n, x in held.items()})
    said = refusal(folder)
    assert "has no tensor model.layers.0.self_attn.q_proj.weight (and 1 more)" in said
    assert "no place for model.layers.0.self_attn.qkv.weight (and 1 more)" in said


# --- tied embeddings ---------------------------------------------------------------------------


def test_a_head_beside_a_tied_embedding_must_be_equal(folder):
    config(folder, tie_word_embeddings=True)
    assert f"{HEAD} differs from the embedding" in refusal(folder)
    assert "set tie_word_embeddings to false" in refusal(folder)
    rewritten(folder, lambda held: held | {HEAD: held[EMBEDDING]})
    both = read(folder)
    assert "unembedding" not in both
    rewritten(folder, lambda held: held | {HEAD: held[EMBEDDING].astype(np.float64)})
    assert_same(read(folder), both)
    changed = tensors(folder)[EMBEDDING].copy()
    changed[402, 15] += 1e-3
    rewritten(folder, lambda held: held | {HEAD: changed})
    assert "differs from the embedding" in refusal(folder, tokens=folders.IDS)
    assert_same(read(folder, tokens=402), both)  # a difference where no token is


@pytest.mark.parametrize("kept", [EMBEDDING, HEAD])
def test_either_side_of_a_tied_embedding_will_do(kept, folder):
    config(folder, tie_word_embeddings=True)
    rewritten(folder, lambda held: tied(held) | {EMBEDDING: held[EMBEDDING]})
    wanted = read(folder)
    rewritten(folder, lambda held: {kept if n == EMBEDDING else n: x for n, x in held.items()})
    assert_same(read(folder), wanted)


def test_an_untied_head_that_is_missing_has_its_hint(folder):
    rewritten(folder, tied)
    assert f"has no tensor {HEAD}; where the embedding is the head too, tie_word" in refusal(folder)


# --- numbers -----------------------------------------------------------------------------------

BAD = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_finite_is_named(bad, dtype, folder):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rewritten(folder, lambda held: {name: x.astype(kind) for name, x in held.items()})
    hub.look(folder)
    matrix = tensors(folder)[Q]
    matrix[13, 5] = BAD[bad]
    rewritten(folder, {Q: matrix})
    said = refusal(folder)
    assert f"{WHOLE}: {Q} has NaN or infinity" in said and "in row 13: finite numbers" in said


def test_every_tensor_is_looked_through(folder):
    for name, value in tensors(folder).items():
        bad = value.copy()
        bad.reshape(-1)[-1] = np.nan
        rewritten(folder, {name: bad})
        assert f"{name} has NaN or infinity" in refusal(folder)
        rewritten(folder, {name: value})
    hub.look(folder)


def test_a_number_that_a_dtype_rounds_to_infinity_is_refused(folder):
    """The largest of bfloat16, and what lies half a step above it."""
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    for value, fits in ((largest, True), (largest + 2.0**118, True), (largest + 2.0**119, False)):
        assert np.isfinite(np.float32(value).astype(ml_dtypes.bfloat16)) == fits
        rewritten(folder, {NORM: np.full(16, -value, np.float32)})
        hub.look(folder)
        if fits:
            hub.look(folder, "bfloat16")
        else:
            with pytest.raises(ValueError, match=f"{NORM} has NaN or infinity, as bfloat16"):
                hub.look(folder, "bfloat16")
    rewritten(folder, lambda held: {n: x.astype(np.float64) for n, x in held.items()})
    rewritten(folder, {NORM: np.full(16, 1e39)})
    hub.look(folder, "float64")
    with pytest.raises(ValueError, match=f"{NORM} has NaN or infinity, as float32"):
        hub.look(folder, "float32")


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_rows_that_no_token_has_may_be_anything(kind, folder, capsys):
    """They are read as 0, on whatever mesh; finite ones stay as they are."""
    folders.write_model(folder, vocab=410)  # even: rows are spread over two devices
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.float32
    rewritten(folder, lambda held: {name: x.astype(dtype) for name, x in held.items()})
    wanted = jax.tree.map(np.array, read(folder))
    held = {name: tensors(folder)[name] for name in (EMBEDDING, HEAD)}
    held[EMBEDDING][403:406] = np.nan
    held[HEAD][408, 3] = -np.inf
    rewritten(folder, held)
    assert f"{HEAD} has NaN or infinity, as {kind}, in row 408" in refusal(folder)
    capsys.readouterr()
    mesh = sharding.make_mesh(jax.devices()[:4], fsdp=2, tensor=2)
    found = jax.tree.map(np.asarray, hub.load(hub.look(folder, tokens=403), mesh))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].split(" that")[0] for line in said] == [
        f"{HEAD} has NaN or infinity in rows",
        f"{EMBEDDING} has NaN or infinity in rows",
    ]
    wanted["embedding"][403:406] = 0
    wanted["unembedding"][408, 3] = 0
    assert_same(found, wanted)


def test_tensors_of_several_dtypes_are_read_as_most_numbers_are(folder, capsys):
    narrow = ml_dtypes.bfloat16
    others = {name: x.astype(narrow) for name, x in tensors(folder).items() if name != EMBEDDING}
    rewritten(folder, others)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(read(folder))} == {"bfloat16"}
    assert "has tensors in BF16 and F32: all are read as bfloat16" in capsys.readouterr().err


# --- files -------------------------------------------------------------------------------------


def test_a_whole_file_goes_before_an_index(folder, capsys):
    wanted = read(folder)
    held = tensors(folder)
    sharded(folder)
    shifted = {name: value + 1 for name, value in held.items()}
    safetensors.numpy.save_file(shifted, folder / WHOLE)
    assert_same(read(folder), jax.tree.map(lambda x: np.asarray(x) + 1, wanted))
    assert f"has {WHOLE} and an index: the former is read" in capsys.readouterr().err
    for shard in SHARDS:
        (folder / shard).unlink()
    hub.look(folder)


def test_links_into_a_cache_are_followed(folder, tmp_path):
    wanted = read(folder)
    (tmp_path / "blobs").mkdir()
    sharded(folder)
    for at, file in enumerate(sorted(folder.iterdir())):
        file.rename(tmp_path / "blobs" / str(at))
        file.symlink_to(f"../blobs/{at}")
    assert_same(read(folder), wanted)


def header(file, change):
    """A safetensors file with its header's JSON changed."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    text = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def entry(name, **fields):
    return lambda found: found | {name: found[name] | fields}


def placed(folder, change):
    index = json.loads((folder / INDEX).read_text())
    folders.dump(index | {"weight_map": change(index["weight_map"])}, folder / INDEX)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FILES = {
    "empty": (lambda f: (f / WHOLE).write_bytes(b""), "is empty: download it again"),
    "a pointer": (lambda f: (f / WHOLE).write_bytes(LFS), "Git LFS pointer, not the file itself"),
    "a page": (lambda f: (f / WHOLE).write_bytes(b"<!doctype html>" * 9), "a web page"),
    "a zip": (lambda f: (f / WHOLE).write_bytes(b"PK\x03\x04" * 99), "pickled, which is never"),
    "a folder": (
        lambda f: ((f / WHOLE).unlink(), (f / WHOLE).mkdir()),
        f"{WHOLE} is a folder: a file is allowed",
    ),
    "a broken link": (
        lambda f: ((f / WHOLE).unlink(), (f / WHOLE).symlink_to("../../blobs/1")),
        f"{WHOLE} is a link to nothing: download it again",
    ),
    "header's length": (
        lambda f: (f / WHOLE).write_bytes(b"\xff" * 8 + (f / WHOLE).read_bytes()[8:]),
        "cut off, or no safetensors",
    ),
    "header no JSON": (
        lambda f: (f / WHOLE).write_bytes(struct.pack("<Q", 8) + b"{notjson"),
        "cut off, or no safetensors",
    ),
    "overlap": (
        lambda f: header(f / WHOLE, entry(NORM, data_offsets=[0, 64])),
        "cut off, or no safetensors",
    ),
    "dtype": (
        lambda f: rewritten(f, {Q: np.zeros((32, 16), ml_dtypes.float8_e4m3fn)}),
        f"{Q} has dtype F8_E4M3: BF16, F32, F64, F16 are allowed",
    ),
    "dtype of a byte": (
        lambda f: rewritten(f, {NORM: np.zeros(16, np.int8)}),
        f"{NORM} has dtype I8: BF16, F32, F64, F16 are allowed",
    ),
    "shape": (
        lambda f: rewritten(f, {NORM: np.zeros((16, 1), np.float32)}),
        rf"{NORM} is \(16, 1\), config.json makes it \(16,\)",
    ),
    "no tensors": (lambda f: rewritten(f, lambda held: {}), "it has none"),
    "pickles": (
        lambda f: (f / WHOLE).rename(f / "pytorch_model-00001-of-00002.bin"),
        "pytorch_model-00001-of-00002.bin: pickled weights, which are never opened",
    ),
    "gguf": (lambda f: (f / WHOLE).rename(f / "q4.gguf"), "q4.gguf: weights as llama.cpp has"),
    "no index": (
        lambda f: (sharded(f), (f / INDEX).unlink()),
        f"{SHARDS[0]}: shards without {INDEX}: copy it too",
    ),
    "makers' names": (
        lambda f: (f / WHOLE).rename(f / "consolidated.safetensors"),
        "consolidated.safetensors: weights under their makers' own names",
    ),
    "quantised": (
        lambda f: (f / WHOLE).rename(f / "gptq_model-4bit.safetensors"),
        "safetensors under other names",
    ),
    "an adapter beside": (
        lambda f: folders.dump({}, f / "adapter_config.json"),
        "an adapter of PEFT: merge it into its base",
    ),
}
INDICES = {
    "outside": (
        lambda f: placed(f, lambda m: m | {NORM: f"../model/{SHARDS[0]}"}),
        "names ../model/model-00001-of-00002.safetensors: files of its own folder are allowed",
    ),
    "absolute": (
        lambda f: placed(f, lambda m: m | {NORM: str(f / SHARDS[0])}),
        "files of its own folder are allowed",
    ),
    "nothing": (lambda f: placed(f, lambda m: m | {NORM: ""}), "files of its own folder are"),
    "a number": (lambda f: placed(f, lambda m: m | {NORM: 1}), "in 1; an object of files by"),
    "empty": (lambda f: placed(f, lambda m: {}), "has no weight_map"),
    "one too many": (
        lambda f: placed(f, lambda m: m | {"model.ghost": SHARDS[0]}),
        f"{SHARDS[0]}: has no tensor model.ghost, where the index has it",
    ),
    "twice": (
        lambda f: (f / INDEX).write_text('{"weight_map": {"a": "b", "a": "c"}}'),
        "not JSON .has a twice, allowed is once",
    ),
    "in two files": (
        lambda f: safetensors.numpy.save_file(
            safetensors.numpy.load_file(f / SHARDS[0]) | safetensors.numpy.load_file(f / SHARDS[1]),
            f / SHARDS[1],
        ),
        f"{SHARDS[0]} and {SHARDS[1]} have .*: allowed is one of them",
    ),
    "a pointer": (lambda f: (f / SHARDS[1]).write_bytes(LFS), "Git LFS pointer"),
    "index a pointer": (lambda f: (f / INDEX).write_bytes(LFS), "Git LFS pointer"),
    "left out": (
        lambda f: safetensors.numpy.save_file(
            safetensors.numpy.load_file(f / SHARDS[0]) | {"ghost": np.zeros(1)}, f / SHARDS[0]
        ),
        "no place for ghost",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read_are_refused(name, folder):
    change, said = FILES[name]
    change(folder)
    assert pytest.raises(ValueError, hub.look, folder).match(said)
    refusal(folder)


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_contradicts_its_folder_is_refused(name, folder):
    sharded(folder)
    hub.look(folder)
    change, said = INDICES[name]
    change(folder)
    assert pytest.raises(ValueError, hub.look, folder).match(said)
    refusal(folder)


def test_nothing_pickled_is_opened(folder):
    class Bomb:
        def __reduce__(self):
            return os.abort, ()

    for name in (WHOLE, "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read_is_refused(folder):
    (folder / WHOLE).chmod(0)
    assert "cannot be read (Permission denied)" in refusal(folder)


def test_a_file_that_fails_is_refused(folder, monkeypatch):
    """Whoever runs this: the system's refusal is put in its place."""

    def refuse(file, mode="r", **options):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(hub_weights, "open", refuse, raising=False)
    assert f"{WHOLE}: cannot be read (Permission denied)" in refusal(folder)


# --- folders that are something else -----------------------------------------------------------

ELSE = {
    "adapter_config.json": "an adapter of PEFT: merge it into its base (merge_and_unload, then",
    "snapshots": "the cache of a repository: give the folder below its snapshots",
    "checkpoint-500": "a training with its checkpoints: give one of these folders",
    "model.gguf": "weights as llama.cpp has them",
    "consolidated.00.pth": "pickled weights, which are never opened",
    "nothing.txt": "a folder with config.json and safetensors is allowed",
}


@pytest.mark.parametrize("name", ELSE)
def test_a_folder_of_something_else_has_its_hint(name, tmp_path):
    (tmp_path / name).mkdir()
    said = refusal(tmp_path)
    assert "has no config.json; " in said and ELSE[name] in said


def test_a_place_that_is_no_folder_has_its_hint(folder):
    assert "is a file: the folder with config.json is allowed" in refusal(folder / WHOLE)
    with pytest.raises(ValueError, match="hf download Qwen/Qwen3-0.6B --local-dir FOLDER"):
        hub.look(hub.Path("Qwen/Qwen3-0.6B"))


# --- config.json -------------------------------------------------------------------------------

KEYS = {
    "vocab_size": ["409", 409.0, None, True, 0, -1, 2**40, [409], ...],
    "hidden_size": ["16", 16.5, None, ...],
    "num_hidden_layers": ["2", 2.0, 0, None, 2**24, 10**12, ...],
    "num_attention_heads": ["4", 0, ...],
    "intermediate_size": ["24", {}, ...],
    "num_key_value_heads": ["2", 2.0, 0, 3],
    "head_dim": ["8", 8.0, 0, 7],
    "max_position_embeddings": ["128", 1.5, None, 2**31],
    "rms_norm_eps": ["1e-6", 0, None, 10**30, float("inf"), float("nan")],
    "tie_word_embeddings": ["false", 0, None],
    "attention_bias": ["no", True],
    "hidden_act": [1, "relu"],
    "rope_theta": ["1e4", 0, -1, True, 10**400],
    "rope_scaling": ["linear", [], {"rope_type": "linear", "factor": "2"}, {"type": 1}],
    "rope_parameters": [{"rope_theta": "1e4"}, {"rope_type": "yarn", "factor": 2, "truncate": 1}],
    "use_sliding_window": ["yes"],
    "layer_types": ["full_attention", [1]],
    "architectures": ["Qwen3ForCausalLM", [1], {"a": 1}],
    "model_type": ["llama"],
    "transformers_weights": ["other.safetensors"],
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_kind_is_refused_by_name(key, folder):
    before = (folder / "config.json").read_text()
    for value in KEYS[key]:
        config(folder, **{key: value})
        said = refusal(folder)
        assert key in said and (" allowed" in said or " needed" in said), value
        (folder / "config.json").write_text(before)


def test_a_sliding_window_in_words_is_refused(folder):
    config(folder, use_sliding_window=True, sliding_window="4096")
    assert "sliding_window = '4096': a whole number from 1 to 2147483647, or null" in refusal(
        folder
    )


@pytest.mark.parametrize("names", [None, [], ...])
def test_without_architectures_the_model_type_says_it(names, folder):
    wanted = read(folder)
    config(folder, architectures=names)
    assert_same(read(folder), wanted)
    config(folder, model_type="gpt2")
    assert "architecture none: LlamaForCausalLM, " in refusal(folder)


def test_a_multimodal_config_has_its_hint(folder):
    config(folder, architectures=["PaliGemmaForConditionalGeneration"], text_config={})
    assert "are allowed; of a multimodal model its language model alone" in refusal(folder)


# Published: names of the text model's tensors, and of others beside them.
LAID = {
    "old": (lambda name: f"language_model.{name}", "vision_tower.{}.weight"),
    "new": (
        lambda name: name.replace("model.", "model.language_model.", 1),
        "model.multi_modal_projector.{}.weight",
    ),
}
INNER = {
    "Gemma3ForConditionalGeneration": "Gemma 3, tied, two bases",
    "Mistral3ForConditionalGeneration": "Ministral 3, untied, yarn, queries that grow",
}


@pytest.mark.parametrize("laid", LAID)
@pytest.mark.parametrize("architecture", INNER)
def test_the_text_model_of_a_multimodal_one_is_read_and_kept_alone(
    architecture, laid, tmp_path, capsys
):
    case = goldens.CASES[INNER[architecture]]
    goldens.write(case, tmp_path / "text")
    wanted, folder = read(tmp_path / "text"), tmp_path / "whole"
    shutil.copytree(tmp_path / "text", folder)
    own, other = LAID[laid]
    parts = {other.format(number): np.ones((2, 3), np.float32) for number in range(3)}
    rewritten(folder, lambda held: {own(name): x for name, x in held.items()} | parts)
    inner = dict(case.json)
    outer = {key: inner.pop(key) for key in ("tie_word_embeddings", "eos_token_id")}
    del inner["architectures"]
    folders.dump(
        {"architectures": [architecture], "model_type": "whole", "text_config": inner, **outer},
        folder / "config.json",
    )
    capsys.readouterr()
    assert_same(read(folder), wanted)
    assert (
        "the text model is read alone; 3 tensors of other parts are left" in capsys.readouterr().err
    )
    assert hub.look(folder).config == hub.look(tmp_path / "text").config
    player = tmp_path / "player"
    folders.write_tokenizer(folder)
    hub.keep(folder, player)
    kept = json.loads((player / hub.KEPT / "config.json").read_text())
    assert kept == json.loads((tmp_path / "text" / "config.json").read_text())


@pytest.mark.parametrize(
    ("text", "said"),
    [(..., "has no text_config"), ({"model_type": "llama"}, "text_config.model_type = 'llama'")],
)
def test_a_multimodal_config_without_a_known_text_model_is_refused(text, said, folder):
    config(folder, architectures=["Mistral3ForConditionalGeneration"], text_config=text)
    assert said in refusal(folder)


# --- transformers reads the same ---------------------------------------------------------------


def both_files(folder):
    held = tensors(folder)
    sharded(folder)
    safetensors.numpy.save_file(
        {name: value + 1 for name, value in held.items()}, folder / WHOLE, metadata={"format": "pt"}
    )


def of_the_head(folder):
    config(folder, tie_word_embeddings=True)
    rewritten(folder, lambda held: {n: x for n, x in held.items() if n != EMBEDDING})


@pytest.mark.parametrize(
    "change",
    [
        both_files,
        of_the_head,
        lambda folder: rewritten(
            folder, lambda held: {RENAMED["no prefix"](name): x for name, x in held.items()}
        ),
        lambda folder: config(folder, architectures=...),
    ],
    ids=["both files", "of the head", "no prefix", "no architectures"],
)
def test_transformers_reads_the_same(change, folder):
    transformers = pytest.importorskip("transformers")
    change(folder)
    ours = jax.tree.map(np.asarray, read(folder))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    np.testing.assert_array_equal(ours["embedding"], theirs[EMBEDDING].numpy())
    head = ours["embedding" if "unembedding" not in ours else "unembedding"]
    np.testing.assert_array_equal(head, theirs[HEAD].numpy())
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.down_proj.weight"
        np.testing.assert_array_equal(ours["layers"]["down"][layer], theirs[at].numpy().T)

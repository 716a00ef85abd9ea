"""Teacher and student from Hugging Face folders: trained, gone on with, exported; or refused."""

import contextlib
import dataclasses
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import opd
from opd import disk
from opd.data import pipeline
from opd.data.hub_tokenizer import FILES
from opd.engine import optimizer
from opd.engine.steps import State
from opd.run import drawing
from opd.run.comparing import compare
from opd.run.players import folder, hub, models, players
from opd.run.settings import config as configs
from opd.run.settings.config import (
    Config,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PlayerConfig,
    TeacherConfig,
)
from opd.run.store import checkpoint
from opd.run.store.checkpoint import Checkpoints
from opd.run.training import checks, train
from tests.run.players import folders

ROOT = Path(__file__).parents[3]


def asked(teacher, student, prompts, **changes) -> Config:
    """The debug config with both players by path; the tokenizer is the student's."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    values["data"] |= {"tokenizer": None, "prompts": str(prompts), "max_completion": 6}
    values["teacher"]["path"], values["student"]["path"] = str(teacher), str(student)
    values["checkpoint"]["every"] = 1
    return configs.build(values | changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A teacher and a student of two families, whose tokenizer is the same and padded apart."""
    folder = tmp_path_factory.mktemp("folders")
    qwen2 = {"architecture": "Qwen2ForCausalLM", "vocab": 417, "width": 24}
    return {
        "teacher": folders.write(folder / "teacher", **qwen2),
        "student": folders.write(folder / "student", vocab=409, seed=1),
        "swapped": folders.write(folder / "swapped", swapped=True, **qwen2),
        "prompts": folders.write_prompts(folder / "prompts.jsonl"),
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training's workdir and done.json, every token that was drawn, and what was said."""

    config: Config
    workdir: Path
    done: dict
    tokens: np.ndarray
    said: str


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Trained:
    """Four updates, never interrupted."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = asked(files["teacher"], files["student"], files["prompts"], updates=4)
    drawn, verify, said = [], pipeline.verify, io.StringIO()

    def recorded(task, tokens, mask, *texts):
        drawn.append(np.asarray(tokens)[np.asarray(mask)])
        return verify(task, tokens, mask, *texts)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(pipeline, "verify", recorded)
        done = train.train(config, workdir)
    return Trained(config, workdir, done, np.concatenate(drawn), said.getvalue())


@pytest.mark.slow
def test_two_families_train_and_never_draw_an_id_that_no_token_has(trained, files):
    assert trained.done["step"] == 4
    assert np.isfinite(trained.done["eval"]["kl"]["value"]) and trained.tokens.size > 300
    assert trained.tokens.max() < folders.IDS
    before = opd.load_model(files["student"])
    assert checkpoint.digest(before.params) != trained.done["params_sha256"]


@pytest.mark.slow
def test_the_first_prompt_is_shown(trained):
    task = pipeline.load(trained.config.tokenized)
    first = task.split("train")[0].prompt
    whole = f"<|turn|>user\n{first}<|end|><|turn|>assistant\n"
    assert f"first prompt: {whole!r}\n" in trained.said


@pytest.mark.slow
def test_a_training_goes_on_bit_by_bit(trained, tmp_path):
    half = dataclasses.replace(trained.config, updates=2)
    assert train.train(half, tmp_path / "run")["step"] == 2
    done = train.train(trained.config, tmp_path / "run")
    assert done["resumed_from"] == [2]
    assert done["params_sha256"] == trained.done["params_sha256"]
    assert done["eval"] == trained.done["eval"]


@pytest.mark.slow
def test_an_export_is_what_was_trained_with_the_folder_s_own_files(trained, files, tmp_path):
    made = tmp_path / "made"
    models.save_model(models.from_run(str(trained.workdir)), made)
    found = opd.load_model(made)
    assert checkpoint.digest(found.params) == trained.done["params_sha256"]
    for name in FILES:
        theirs = files["student"] / name
        assert (made / name).is_file() == theirs.is_file(), name
        assert not theirs.is_file() or (made / name).read_bytes() == theirs.read_bytes()
    said, was = (json.loads((f / "config.json").read_text()) for f in (made, files["student"]))
    assert said == was | {"torch_dtype": "float32", "dtype": "float32"}
    assert found.config.tokens == folders.IDS
    earlier = models.from_run(f"{trained.workdir}@2")
    assert checkpoint.digest(earlier.params) != trained.done["params_sha256"]


@pytest.mark.slow
def test_a_training_goes_on_from_another_of_a_folder(trained, files, tmp_path):
    """The second run's student is the first's, and is exported with the first's files."""
    config = asked(files["teacher"], files["student"], files["prompts"])
    config = dataclasses.replace(config, student=PlayerConfig(from_=str(trained.workdir)))
    ready = checks.ready(config, ())
    _, params = players.make(ready.student, ready.world, tmp_path)
    assert checkpoint.digest(params) == trained.done["params_sha256"]
    kept = tmp_path / "models" / "student" / hub.KEPT
    assert (kept / "config.json").is_file() and (kept / "tokenizer.json").is_file()


# --- a student from scratch ------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer", ["byte", *(pytest.param(n, marks=pytest.mark.slow) for n in ("char", "bpe"))]
)
def test_a_student_from_scratch_is_exported_too(tokenizer, monkeypatch, tmp_path):
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    values["data"] |= {"tokenizer": tokenizer, "bpe_size": 260}
    model = ModelConfig(width=16, layers=2, heads=2, qk_norm=True)
    config = dataclasses.replace(
        configs.build(values),
        student=PlayerConfig(model=model),
        teacher=TeacherConfig(model=model),
        mesh=MeshConfig(data=4, fsdp=2),
    )
    made = {}

    def fit(name, model, config, world):
        made[name] = model.init(jax.random.key(3))
        return jax.device_put(
            made[name], jax.tree.map(lambda x: x.sharding, folder.abstract(model, world.mesh))
        )

    monkeypatch.setattr(players.fit, "fit", fit)
    ready = checks.ready(config, ())
    world = drawing.prepared(ready.world, tmp_path / "run")
    _, params = players.make(ready.student, world, tmp_path / "run")
    step = optimizer.Optimizer(OptimizerConfig(), 1e-3)
    with Checkpoints(tmp_path / "run" / "checkpoints", 1) as steps:
        steps.save(1, State(params, step.init(params), jnp.int32(1)), {"update": 1})
    disk.dump_json({"config": configs.to_dict(config)}, tmp_path / "run" / "config.json")
    models.save_model(models.from_run(str(tmp_path / "run")), tmp_path / "made")
    found, ours = opd.load_model(tmp_path / "made"), world.task.tokenizer
    assert checkpoint.digest(found.params) == checkpoint.digest(params)
    assert found.tokenizer.encode("12+7=") == ours.encode("12+7=")
    assert (found.tokenizer.eos_ids, found.tokenizer.pad_id) == ((ours.eos_id,), ours.pad_id)
    hf = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path / "made")
    assert hf("12+7=")["input_ids"] == ours.encode("12+7=")


# --- what is refused -------------------------------------------------------------------------


def refused(config) -> str:
    with pytest.raises(ValueError) as error:
        train.check(config, Path("/nonexistent/run"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_different_tokenizers_are_refused_with_their_first_entries(files):
    """Sizes are equal: a peer compared those alone."""
    said = refused(asked(files["swapped"], files["student"], files["prompts"]))
    assert said.startswith(f"{files['swapped']}, and the data's: tokenizers differ: ")
    table, other = (folders.tokenizer(swapped) for swapped in (False, True))
    for i in (300, 301):
        assert f"id {i} is {other.id_to_token(i)!r} and {table.id_to_token(i)!r}" in said
    byte = asked(files["teacher"], files["student"], files["prompts"])
    byte = dataclasses.replace(byte, data=dataclasses.replace(byte.data, tokenizer="byte"))
    assert "tokenizers differ: id 0 is " in refused(byte)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json: its ids can't be told"),
        (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json: not a tokenizer.json"),
        (lambda f: folders.write_model(f, vocab=400), "rows for 400 of the tokenizer's 403 ids; "),
        (lambda f: folders.write_model(f, length=16), "the model reads 16 tokens"),
        (lambda f: shutil.rmtree(f), "no such folder; a folder with config.json"),
    ],
)
def test_a_folder_that_cannot_play_is_refused(files, tmp_path, change, message):
    folder = folders.write(tmp_path / "broken", vocab=409)
    change(folder)
    config = asked(folder, files["student"], files["prompts"])
    said = refused(config)
    assert message in said and str(folder) in said


def test_ids_without_a_row_are_in_nobody_s_reach(files, tmp_path):
    """A student of 402 rows, a teacher of 417, 403 ids: the last is a pad, and an end too."""
    student = folders.write(tmp_path / "student", vocab=402, seed=1)
    folders.dump({"eos_token_id": [400, 402]}, student / "generation_config.json")
    config = asked(files["teacher"], student, files["prompts"])
    whole = pipeline.load(config.tokenized).tokenizer
    assert whole.eos_ids == (400, 402) and whole.vocab == folders.IDS
    ready = checks.ready(config, ())
    tokenizer, sampling = ready.world.task.tokenizer, ready.world.sampling
    assert ready.student.model.tokens == ready.teacher.model.tokens == tokenizer.vocab == 402
    assert sampling.eos_ids == tokenizer.eos_ids == (400,) and tokenizer.eos_id == 400
    assert sampling.pad_id == tokenizer.pad_id < 400
    assert tokenizer.fingerprint() == whole.fingerprint() and tokenizer.table() == whole.table()
    said = "\n".join(ready.student.hub.notes)
    assert "403 ids, the model 402 rows (vocab_size): id 402 is never read or written" in said
    assert "no completion ends in [402]: ids from 402 on have no row" in said


def test_a_prompt_that_needs_an_id_without_a_row_is_refused(files, tmp_path):
    """The template's own turns have id 401, and no row."""
    student = folders.write(tmp_path / "student", vocab=401, seed=1)
    said = refused(asked(files["teacher"], student, files["prompts"]))
    assert str(student) in said and "rows for 401 of the tokenizer's 403 ids; " in said
    assert "prompts.jsonl:" in said and ": has '<|turn|>', id 401" in said
    assert "has '<|turn|>', id 401: the model has rows for 0 to 400" in said


def test_an_adapter_s_folder_is_refused_before_the_data_are_read(files, tmp_path):
    folders.write_tokenizer(tmp_path / "adapter")
    folders.dump({}, tmp_path / "adapter" / "adapter_config.json")
    for pair in (
        (tmp_path / "adapter", files["student"]),
        (files["teacher"], tmp_path / "adapter"),
    ):
        said = refused(asked(*pair, tmp_path / "no prompts"))
        assert str(tmp_path / "adapter") in said and "merge it into its base" in said


def test_a_dtype_is_for_a_folder_alone(files, tmp_path):
    config = asked(files["teacher"], files["student"], files["prompts"])
    wide = dataclasses.replace(config.student, dtype="bfloat16")
    ready = checks.ready(dataclasses.replace(config, student=wide), ())
    dtypes = (player.model.config.param_dtype for player in (ready.student, ready.teacher))
    assert tuple(dtypes) == ("bfloat16", "float32")


def test_other_weights_in_the_same_folder_are_other_inputs(files, tmp_path):
    shutil.copytree(files["student"], tmp_path / "copy")
    config = asked(files["teacher"], tmp_path / "copy", files["prompts"])
    before = checks.ready(config, ()).inputs
    original = asked(files["teacher"], files["student"], files["prompts"])
    assert checks.ready(original, ()).inputs == before
    folders.write_model(tmp_path / "copy", vocab=409, seed=2)
    after = checks.ready(config, ()).inputs
    assert after["student"] != before["student"] and after["teacher"] == before["teacher"]


def command(module, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=590,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "compare"])
def test_different_tokenizers_leave_with_code_2_and_nothing_written(module, files, tmp_path):
    done = command(
        module,
        "--config=configs/debug.py",
        f"--workdir={tmp_path}/w/run",
        f"--config.teacher.path={files['swapped']}",
        f"--config.student.path={files['student']}",
        f"--config.data.prompts={files['prompts']}",
        f"--config.data.tokenizer={files['student']}",
        "--config.data.max_completion=6",
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "tokenizers differ: id 300 is " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_comparison_of_two_folders_runs_to_its_report(files, tmp_path, capsys):
    config = asked(files["teacher"], files["student"], files["prompts"], updates=1)
    probe = dataclasses.replace(config.probe, rows=("opd",), groups=4, batch=4)
    arms = dataclasses.replace(config.compare, arms=("opd",))
    config = dataclasses.replace(config, probe=probe, compare=arms)
    results = compare.compare(config, tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()
    assert "first prompt: '<|turn|>user" in capsys.readouterr().err
    assert results["inputs"] == checks.ready(config, ()).inputs
    assert "opd" in {entry["name"] for entry in results["estimators"]}
    assert all(np.isfinite(entry["flops"]) for entry in results["estimators"])
    assert compare.compare(config, tmp_path / "run") == compare.finished(tmp_path / "run")

"""A folder stored in bfloat16: trained in float32, resumed, exported as it was stored."""

import contextlib
import dataclasses
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import opd
from opd import disk, trees
from opd.engine import optimizer, programs, sharding
from opd.engine.optimizer import OptimizerConfig
from opd.model.decoder import Decoder
from opd.model.lora import Lora
from opd.run.players import folder, models, players, trained
from opd.run.settings import config as configs
from opd.run.settings.config import LoraConfig, PlayerConfig, TeacherConfig
from opd.run.store import checkpoint
from opd.run.store.checkpoint import Checkpoints
from opd.run.training import checks, train
from tests.run.players import folders

ROOT = Path(__file__).parents[3]


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Teacher and student in bfloat16, and prompts."""
    where = tmp_path_factory.mktemp("folders")
    return {
        "teacher": folders.narrowed(folders.write(where / "teacher")),
        "student": folders.narrowed(folders.write(where / "student", seed=1)),
        "prompts": folders.write_prompts(where / "prompts.jsonl"),
    }


def asked(files, **changes):
    """The debug config with both by path, at the rate of the config for folders."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    values["data"] |= {"tokenizer": None, "prompts": str(files["prompts"]), "max_completion": 6}
    values["optimizer"] |= {"learning_rate": 1e-5, "warmup": 10, "microbatches": 2}
    values["teacher"]["path"], values["student"]["path"] = map(
        str, (files["teacher"], files["student"])
    )
    return dataclasses.replace(configs.build(values), **changes)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A workdir of three updates, and what was said."""
    workdir, said = tmp_path_factory.mktemp("trained") / "run", io.StringIO()
    with contextlib.redirect_stderr(said):
        train.train(asked(files), workdir)
    return workdir, said.getvalue()


def masters(workdir, mesh):
    """The parameters of the last checkpoint, and of the start."""
    source = trained.find(str(workdir))
    student = Decoder(folder.described(workdir / "models" / "student"))
    return source.params(student, mesh, trained=True)


@pytest.mark.slow
def test_three_updates_at_1e_5_move_nearly_every_weight(run, files):
    """In bfloat16 15 % of them moved, and no norm's scale."""
    workdir, _ = run
    before, after = opd.load_model(files["student"]).params, masters(workdir, sharding.make_mesh())
    assert dtypes(before) == {"bfloat16"} and dtypes(after) == {"float32"}
    moved = jax.tree.map(lambda a, b: np.mean(np.asarray(a) != np.asarray(b)), before, after)
    assert min(jax.tree.leaves(moved["layers"])) > 0.99 and moved["final_norm"]["scale"] == 1
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and max(line["unchanged"] for line in lines) < 0.01


@pytest.mark.slow
def test_memory_is_said_before_it_starts(run):
    lines = [line for line in run[1].splitlines() if line.startswith("memory")]
    assert len(lines) == 1 and "student" in lines[0] and "teacher" in lines[0]


@pytest.mark.slow
def test_an_export_is_the_masters_rounded_or_whole(run, files, tmp_path):
    workdir, _ = run
    trained_to = masters(workdir, sharding.make_mesh())
    for dtype, wanted in ((None, "bfloat16"), ("float32", "float32")):
        made = tmp_path / wanted
        models.save_model(models.from_run(str(workdir), dtype=dtype), made)
        found = opd.load_model(made)
        assert found.config.dtype == found.config.param_dtype == wanted
        assert json.loads((made / "config.json").read_text())["dtype"] == wanted
        rounded = trees.cast(trained_to, wanted)
        jax.tree.map(np.testing.assert_array_equal, found.params, rounded)


def test_parameters_wider_than_their_config_are_rounded_to_it(files, tmp_path):
    policy = opd.load_model(files["student"])
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) * (1 + 2**-12), policy.params)
    opd.save_model(dataclasses.replace(policy, params=wide), tmp_path / "made")
    stored = safetensors.numpy.load_file(tmp_path / "made" / "model.safetensors")
    assert dtypes(stored) == {"bfloat16"}
    found = opd.load_model(tmp_path / "made")
    assert found.config == policy.config
    jax.tree.map(np.testing.assert_array_equal, found.params, trees.cast(wide, jnp.bfloat16))


@pytest.mark.slow
def test_a_student_goes_on_from_the_masters_and_a_teacher_takes_their_rounding(
    run, files, tmp_path
):
    config = asked(files)
    data = dataclasses.replace(config.data, tokenizer=str(files["student"]))
    config = dataclasses.replace(
        config,
        data=data,
        student=PlayerConfig(from_=str(run[0])),
        teacher=TeacherConfig(from_=str(run[0])),
    )
    ready = checks.ready(config, ())
    trained_to = masters(run[0], ready.world.mesh)
    student, teacher = (
        players.make(plan, ready.world, tmp_path).params for plan in (ready.student, ready.teacher)
    )
    jax.tree.map(np.testing.assert_array_equal, student, trained_to)
    jax.tree.map(np.testing.assert_array_equal, teacher, trees.cast(trained_to, jnp.bfloat16))


def saved(files, workdir, student, optimizer_of):
    """A workdir with a checkpoint whose optimizer is that of some tree."""
    config = asked(files, student=student)
    ready = checks.ready(config, ())
    player = players.make(ready.student, ready.world, workdir)
    step = optimizer.Optimizer(OptimizerConfig(), 1e-3)
    state = programs.start(ready.world.mesh, player.model, step, player.params)
    narrow = jax.tree.map(
        lambda leaf: leaf.astype(optimizer_of) if leaf.dtype == jnp.float32 else leaf,
        state.optimizer,
    )
    with Checkpoints(workdir / "checkpoints", 1) as steps:
        steps.save(1, dataclasses.replace(state, optimizer=narrow), {"update": 1})
    return player


def test_a_run_that_was_trained_in_bfloat16_is_not_gone_on_with(files, tmp_path):
    student = PlayerConfig(path=str(files["student"]))
    saved(files, tmp_path / "old", student, "bfloat16")
    with pytest.raises(ValueError) as error:
        checkpoint.refuse_narrow(tmp_path / "old")
    assert "was trained in bfloat16" in str(error.value) and "\n" not in str(error.value)
    begun = {"config": configs.to_dict(asked(files)), "inputs": {}}
    disk.dump_json(begun, tmp_path / "old" / "config.json")
    with pytest.raises(ValueError, match="was trained in bfloat16"):
        train.check(asked(files), tmp_path / "old")
    checkpoint.refuse_narrow(tmp_path / "nothing")


def test_a_frozen_base_in_bfloat16_is(files, tmp_path):
    student = PlayerConfig(path=str(files["student"]), lora=LoraConfig(rank=2))
    player = saved(files, tmp_path / "run", student, "float32")
    checkpoint.refuse_narrow(tmp_path / "run")
    found = models.from_run(str(tmp_path / "run"), player.params["embedding"].sharding.mesh)
    jax.tree.map(np.testing.assert_array_equal, found.params, player.params)
    assert dtypes(found.params) == {"bfloat16", "float32"}


# ------------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def adapted(files):
    """The student with an adapter that moves its matrices by less than bfloat16 resolves."""
    plain = opd.load_model(files["student"])
    config = dataclasses.replace(plain.config, lora=Lora(2, 4.0))
    params = Decoder(config).adapted(plain.params, jax.random.key(0))
    part = jax.tree.map(
        lambda leaf: leaf + 1e-3 * jax.random.normal(jax.random.key(1), leaf.shape),
        Decoder(config).trained(params),
    )
    return dataclasses.replace(
        plain, config=config, params=Decoder(config).with_trained(params, part)
    )


def logits(policy, tokens):
    """Computed in float32."""
    wide = dataclasses.replace(policy.config, dtype="float32")
    return np.asarray(opd.logits(dataclasses.replace(policy, config=wide), tokens))


def test_what_a_merge_loses_is_measured(adapted, files):
    off, moved = models.merge_error(adapted)
    tokens = np.random.default_rng(0).integers(folders.IDS, size=models.MERGE_TOKENS)
    merged, base = (logits(each, tokens) for each in (adapted.merged, adapted.base))
    wanted = logits(adapted, tokens)
    np.testing.assert_allclose(off, np.abs(merged - wanted).max(), rtol=1e-5)
    np.testing.assert_allclose(moved, np.abs(base - wanted).max(), rtol=1e-5)
    assert off > 0.1 * moved
    whole = dataclasses.replace(adapted.config, param_dtype="float32")
    whole = dataclasses.replace(adapted, config=whole, params=trees.cast(adapted.params, "float32"))
    assert models.merge_error(whole)[0] < 1e-3 * moved


def test_a_merge_says_what_it_loses_and_what_does_not(adapted, tmp_path, capsys):
    models.save_model(adapted, tmp_path / "merged")
    said = capsys.readouterr().err.splitlines()
    off, moved = models.merge_error(adapted)
    assert len(said) == 1 and f"up to {off:.2g} from" in said[0] and f"{moved:.2g}" in said[0]
    assert "--adapter" in said[0] and "--dtype=float32" in said[0]
    models.save_adapter(adapted, tmp_path / "adapter")
    assert capsys.readouterr().err == ""
    found = opd.load_model(tmp_path / "merged")
    assert dtypes(found.params) == {"bfloat16"}
    jax.tree.map(np.testing.assert_array_equal, found.params, adapted.merged.params)


@pytest.mark.slow
def test_a_dtype_beside_an_adapter_is_refused(files, tmp_path):
    student = PlayerConfig(path=str(files["student"]), lora=LoraConfig(rank=2))
    saved(files, tmp_path / "run", student, "float32")
    given = f"--workdir={tmp_path}/run --path={tmp_path}/new --adapter --dtype=float32"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.export", *given.split()],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2 and not (tmp_path / "new").exists()
    assert done.stderr.startswith("error: --dtype: means nothing with --adapter")

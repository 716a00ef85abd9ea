"""Workdirs that are older than some keys: gone on with, shown again, their players found."""

import dataclasses
import json
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from opd import disk
from opd.data import pipeline
from opd.engine.optimizer import OptimizerConfig
from opd.fields import to_dict
from opd.run.comparing import compare
from opd.run.players import fit, folder, players
from opd.run.settings import config as configs
from opd.run.settings.config import FitConfig
from opd.run.training import checks, train

ROOT = Path(__file__).parents[3]


def debug(**changes):
    """The debug config, with some of its keys."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    return dataclasses.replace(configs.build(values), **changes)


def without(content: dict, *paths: str) -> dict:
    """A JSON object that lacks some keys, and one that never had them."""
    content = json.loads(json.dumps(content))
    for path in paths:
        part = content
        *parents, key = path.split(".")
        for name in parents:
            part = part[name]
        del part[key]
    return content


# Keys that a version before them would not have written: of a part, of a part's part, a whole part.
ADDED = ("config.chunk", "config.reuse.hidden", "config.student.fit.check_every", "config.buffer")


def begun(config, workdir: Path, *lacks: str, file="config.json", **more) -> Path:
    """What a run of this config leaves, as a version without some keys would have written it."""
    workdir.mkdir(exist_ok=True)
    content = {"config": to_dict(config), "inputs": checks.ready(config, ()).inputs} | more
    disk.dump_json(without(disk.strict(content), *lacks), workdir / file)
    return workdir


# --- trainings -------------------------------------------------------------------------------


def test_a_training_of_before_a_key_is_gone_on_with(tmp_path):
    workdir = begun(debug(), tmp_path, *ADDED)
    assert train.check(debug(), workdir).inputs == checks.ready(debug(), ()).inputs
    assert train.begun(workdir, prompts=4).evaluate.prompts == 4
    assert train.begun(workdir) == debug()


def test_a_key_that_was_added_and_isn_t_at_its_default_is_another_config(tmp_path):
    workdir = begun(debug(), tmp_path, *ADDED)
    with pytest.raises(ValueError, match="of another config: config.chunk was None, now 64"):
        train.check(debug(chunk=64), workdir)


@pytest.mark.parametrize("lacks", ["config.optimizer.spike", "config.optimizer"])
def test_a_training_of_before_norms_were_limited_by_those_before_them(lacks, tmp_path):
    """It had no such limit, and a clip of 1 that it may have left to its default."""
    then = dataclasses.replace(debug().optimizer, clip=1.0, spike=0.0)
    if lacks == "config.optimizer":
        then = OptimizerConfig(clip=1.0, spike=0.0)
    workdir = begun(debug(optimizer=then), tmp_path, lacks)
    assert train.begun(workdir).optimizer == then
    assert train.check(debug(optimizer=then), workdir).config.optimizer == then
    wanted = "config.optimizer.clip was 1.0, now None; config.optimizer.spike was 0.0, now 5.0"
    with pytest.raises(ValueError, match=wanted):
        train.check(debug(optimizer=OptimizerConfig(warmup=then.warmup)), workdir)


@pytest.mark.parametrize("of", ["training", "comparison"])
def test_a_key_that_is_no_more_is_named(of, tmp_path):
    file = {"training": "config.json", "comparison": "results.json"}[of]
    workdir = begun(debug(), tmp_path, file=file, schema=compare.SCHEMA)
    content = json.loads((workdir / file).read_text())
    content["config"]["optimizer"]["momentum"] = 0.9
    content["config"]["speed"] = "high"
    disk.dump_json(content, workdir / file)
    check = {"training": train.check, "comparison": compare.check}[of]
    wanted = "begun with keys that are no more: config.optimizer.momentum = 0.9; config.speed = 'hi"
    with pytest.raises(ValueError, match=re.escape(wanted)) as error:
        check(debug(), workdir)
    assert "\n" not in str(error.value)
    assert json.loads((workdir / file).read_text()) == content


def test_a_value_that_is_refused_today_is_said(tmp_path):
    workdir = begun(debug(), tmp_path)
    content = json.loads((workdir / "config.json").read_text())
    content["config"]["updates"] = 0
    disk.dump_json(content, workdir / "config.json")
    with pytest.raises(ValueError, match="what is refused today: config.updates = 0: allowed is 1"):
        train.check(debug(), workdir)


@pytest.mark.slow
def test_a_training_that_was_made_before_a_key_trains_on(tmp_path):
    config = debug(updates=2)
    assert train.train(config, tmp_path)["step"] == 2
    content = json.loads((tmp_path / "config.json").read_text())
    disk.dump_json(without(content, *ADDED), tmp_path / "config.json")
    done = train.train(debug(updates=3), tmp_path)
    assert (done["step"], done["resumed_from"]) == (3, [2])
    assert json.loads((tmp_path / "config.json").read_text())["config"]["chunk"] is None


# --- comparisons -----------------------------------------------------------------------------


def test_a_comparison_of_before_a_key_is_shown(tmp_path):
    workdir = begun(debug(), tmp_path, *ADDED, file="results.json", schema=compare.SCHEMA)
    results = json.loads((workdir / "results.json").read_text())
    assert compare.compare(debug(), workdir) == results
    with pytest.raises(ValueError, match="of another config: config.chunk was None, now 64"):
        compare.compare(debug(chunk=64), workdir)


def test_results_of_another_schema_are_neither_shown_nor_written_over(tmp_path):
    workdir = begun(debug(), tmp_path, file="results.json", schema=compare.SCHEMA - 1)
    before = (workdir / "results.json").read_bytes()
    wanted = f"has results of schema {compare.SCHEMA - 1}, allowed is {compare.SCHEMA}, which"
    for ask in (compare.check, compare.compare):
        with pytest.raises(ValueError, match=wanted) as error:
            ask(debug(), workdir)
        assert "\n" not in str(error.value)
    assert (workdir / "results.json").read_bytes() == before


# --- players ---------------------------------------------------------------------------------


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """Names of the players that were fitted: all parameters of the n-th are n."""
    made = []

    def fitted(name, model, config, world):
        made.append(name)
        return jax.tree.map(
            lambda leaf: jax.device_put(np.full(leaf.shape, len(made), leaf.dtype), leaf.sharding),
            folder.abstract(model, world.mesh),
        )

    monkeypatch.setattr(fit, "fit", fitted)
    return made


def student(config, workdir: Path, models: str | None = None):
    ready = checks.ready(config, ())
    return players.make(ready.student, ready.world, workdir, models)


# What an identity of before would lack: fields of each part, one within a part of a part.
FIELDS = (
    "fit.check_every",
    "decoder.norm_offset",
    "decoder.query_scale",
    "data.chat.system",
    "data.verifier",
    "sampling.top_p",
    "how.chunk",
)


def older(player: Path, *lacks: str) -> None:
    """A player's folder as a version that lacked some fields would have left it."""
    file = player / "player.json"
    content = json.loads(file.read_text())
    disk.dump_json(without(content, *(f"identity.{one}" for one in lacks)), file)


@pytest.mark.parametrize("lacks", FIELDS)
def test_a_fit_of_before_a_field_is_the_same(lacks):
    ready = checks.ready(debug(), ())
    identity = fit.identity(ready.student.model, debug().student.fit, ready.world)
    assert fit.same(without(identity, lacks), identity)
    assert not fit.same(without(identity, lacks) | {"seed": 1}, identity)
    assert not fit.same({}, identity)


def test_a_player_of_before_a_field_is_found(fits, tmp_path):
    student(debug(), tmp_path)
    older(tmp_path / "models" / "student", *FIELDS)
    _, params = student(debug(), tmp_path)
    assert fits == ["student"] and {float(leaf.max()) for leaf in jax.tree.leaves(params)} == {1.0}


def test_a_field_that_was_added_and_isn_t_at_its_default_is_another_fit(fits, tmp_path):
    checked = dataclasses.replace(debug().student, fit=FitConfig(steps=10, check_every=7))
    student(debug(student=checked), tmp_path)
    older(tmp_path / "models" / "student", "fit.check_every")
    student(debug(student=checked), tmp_path)
    assert len(fits) == 2


def test_a_shared_player_is_found_under_the_name_that_it_had(fits, tmp_path):
    """The name is a digest of all fields of the day."""
    models = tmp_path / "models"
    student(debug(), tmp_path / "a", str(models))
    (made,) = models.glob("student-*")
    before = made.rename(models / "student-0123456789ab")
    older(before, *FIELDS)
    student(debug(seed=1), tmp_path / "b", str(models))  # another, beside it
    student(debug(), tmp_path / "c", str(models))
    assert fits == ["student", "student"]
    described = json.loads((tmp_path / "c" / "models" / "student" / "player.json").read_text())
    assert described["identity"] == {"path": str(before)}
    assert len(list(models.glob("student-*"))) == 2


# --- data ------------------------------------------------------------------------------------


def test_data_of_before_a_key_keep_their_name(tmp_path):
    """A name is a digest of all keys of the day; results and players are known by it."""
    config = debug()
    task = pipeline.load(config.data, tmp_path)
    named = task.where.rename(task.where.with_name("arithmetic-0123456789ab"))
    origin = json.loads((named / "config.json").read_text())
    disk.dump_json(without(origin, "reverse"), named / "config.json")
    found = pipeline.keep(pipeline.load(config.data), tmp_path)
    assert (found.where, found.identity) == (named, named.name)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [named.name]
    inputs = checks.ready(config, (), workdir=tmp_path).inputs
    assert inputs["data"] == named.name
    other = pipeline.keep(pipeline.load(dataclasses.replace(config.data, reverse=True)), tmp_path)
    assert other.where != named and other.where.is_dir()

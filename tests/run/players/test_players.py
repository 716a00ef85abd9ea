"""Players that come from elsewhere, what their fit depends on, and what results depend on."""

import concurrent.futures
import dataclasses
import json
import re
import runpy
import shutil
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.engine import optimizer
from opd.engine.steps import State
from opd.run.players import fit, folder, players, trained
from opd.run.settings import config as configs
from opd.run.settings.config import (
    FitConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PlayerConfig,
    TeacherConfig,
)
from opd.run.store import checkpoint
from opd.run.store.checkpoint import Checkpoints
from opd.run.training import checks

ROOT = Path(__file__).parents[3]
SMALL = PlayerConfig(model=ModelConfig(width=16, layers=1, heads=2), fit=FitConfig(steps=1))


def debug(**changes) -> configs.Config:
    """The debug config, with some of its keys."""
    found = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]()
    config = configs.build(found.to_dict())
    return dataclasses.replace(config, mesh=MeshConfig(data=4, fsdp=2), **changes)


def ready(config: configs.Config):
    """The world alone."""
    return checks.ready(config, config.arms).world


def make(name, config, world, workdir, models=None):
    """A player, looked at and made: its model and parameters."""
    return players.make(players.look(name, config, world.task), world, workdir, models)


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """Which players were fitted: all parameters of the first are 1, of the second 2."""
    made = []

    def fitted(name, model, config, world):
        made.append(name)
        return filled(model, world, len(made))

    monkeypatch.setattr(fit, "fit", fitted)
    monkeypatch.setattr(checks.backend, "check", lambda: None)
    return made


def filled(model, world, value):
    """A model's parameters on the mesh, all of one value."""
    return jax.tree.map(
        lambda leaf: jax.device_put(np.full(leaf.shape, value, leaf.dtype), leaf.sharding),
        folder.abstract(model, world.mesh),
    )


def equal(left, right) -> bool:
    """Whether two trees have the same arrays."""
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right))
    )


# --- what a fit depends on -------------------------------------------------------------------


def test_a_player_is_used_again_until_something_that_its_fit_depends_on_changes(fits, tmp_path):
    config = debug(student=SMALL)
    _, first = make("student", SMALL, ready(config), tmp_path)
    _, again = make("student", SMALL, ready(config), tmp_path)
    assert len(fits) == 1 and equal(first, again)
    changes = (
        {"temperature": 0.5},
        {"chunk": 64},
        {"seed": 1},
        {"data": dataclasses.replace(config.data, seed=1)},
    )
    for number, change in enumerate(changes, 2):
        moved = dataclasses.replace(config, **change)
        make("student", SMALL, ready(moved), tmp_path)
        assert len(fits) == number, change


def test_how_a_player_is_computed_is_no_part_of_what_it_is(fits, tmp_path):
    world = ready(debug(student=SMALL))
    make("student", SMALL, world, tmp_path)
    other = dataclasses.replace(SMALL, attention="blockwise", remat="full")
    model = players.look("student", other, world.task).model
    assert (model.attention, model.remat) == ("blockwise", "full")
    make("student", other, world, tmp_path)
    assert len(fits) == 1


# --- shared between runs ---------------------------------------------------------------------


def test_runs_share_a_player_and_keep_others_beside_it(fits, tmp_path):
    shared, config = tmp_path / "models", debug(student=SMALL)
    _, first = make("student", SMALL, ready(config), tmp_path / "a", str(shared))
    _, again = make("student", SMALL, ready(config), tmp_path / "b", str(shared))
    assert len(fits) == 1 and equal(first, again)
    moved = ready(dataclasses.replace(config, seed=1))
    _, second = make("student", SMALL, moved, tmp_path / "c", str(shared))
    assert len(fits) == 2 and not equal(first, second)
    _, kept = make("student", SMALL, ready(config), tmp_path / "d", str(shared))
    assert len(fits) == 2 and equal(first, kept)
    folders = {str(path) for path in shared.glob("student-*")}
    assert len(folders) == 2
    described = {
        name: json.loads((tmp_path / name / "models" / "student" / "player.json").read_text())
        for name in "abcd"
    }
    places = [described[name]["identity"]["path"] for name in "abcd"]
    assert set(places) == folders and places.count(places[0]) == 3
    assert described["a"]["decoder"]["width"] == 16 and described["a"]["files"] == {}


def test_of_two_that_want_the_same_player_the_second_waits(fits, monkeypatch, capsys, tmp_path):
    world, inside, go_on = ready(debug()), threading.Event(), threading.Event()

    def slowly(name, model, config, world):
        fits.append(name)
        inside.set()
        assert go_on.wait(60)
        return filled(model, world, len(fits))

    monkeypatch.setattr(fit, "fit", slowly)

    def one(name):
        return make("student", SMALL, world, tmp_path / name, str(tmp_path / "models"))[1]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(one, "a")
        assert inside.wait(60)
        second = pool.submit(one, "b")
        while "waiting for another process" not in (said := capsys.readouterr().err):
            assert not said and not second.done()
            time.sleep(0.01)
        go_on.set()
        assert equal(first.result(60), second.result(60))
    assert fits == ["student"]


# --- what results depend on ------------------------------------------------------------------


def jsonl(path: Path, answers: int) -> str:
    """A file of twenty sums, whose first answers are right."""
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n if n < answers else n)} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def inputs(config: configs.Config) -> dict:
    """What a run stores: JSON and back."""
    return json.loads(json.dumps(checks.ready(config, ()).inputs))


def test_other_prompts_in_the_same_file_are_other_inputs(fits, tmp_path):
    data = debug().data
    path = jsonl(tmp_path / "prompts.jsonl", 20)
    data = dataclasses.replace(
        data, task="jsonl", prompts=path, tokenizer="byte", validation=2, test=4
    )
    config = debug(data=data)
    before = inputs(config)
    assert inputs(config) == before and before["teacher"] is None
    checks.same_inputs(inputs(config), before, tmp_path)
    jsonl(tmp_path / "prompts.jsonl", 19)
    with pytest.raises(ValueError) as error:
        checks.same_inputs(inputs(config), before, tmp_path)
    said = re.escape(f"--workdir={tmp_path} has results of another data: jsonl-")
    assert re.fullmatch(said + "[0-9a-f]{12}, now jsonl-[0-9a-f]{12}; give .*", str(error.value))
    with pytest.raises(ValueError, match="of another data: unknown, now jsonl-"):
        checks.same_inputs(inputs(config), {}, tmp_path)


def test_a_teacher_fitted_again_in_the_same_folder_is_another_input(fits, tmp_path):
    world = ready(debug())
    make("teacher", SMALL, world, tmp_path / "a")
    folder = tmp_path / "a" / "models" / "teacher"
    config = debug(teacher=TeacherConfig(path=str(folder)))
    before = inputs(config)
    assert inputs(config) == before and before["student"] is None
    moved = shutil.copytree(folder, tmp_path / "moved")
    there = dataclasses.replace(config, teacher=TeacherConfig(path=str(moved)))
    assert inputs(there) == before, "content, not place"
    refitted = dataclasses.replace(SMALL, fit=FitConfig(steps=2))
    make("teacher", refitted, world, tmp_path / "a")
    assert len(fits) == 2
    with pytest.raises(
        ValueError, match="has results of another teacher: sha256 [0-9a-f]{12}, now"
    ):
        checks.same_inputs(inputs(config), before, tmp_path)


# --- from another training -------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> tuple[Path, dict]:
    """What `experiments.train` leaves behind: a student, states at 2 and 4, a best at 3."""
    workdir = tmp_path_factory.mktemp("left") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "fit", lambda name, model, config, world: filled(model, world, 1))
        patch.setattr(checks.backend, "check", lambda: None)
        world = ready(debug())
        model, _ = make("student", SMALL, world, workdir)
    step = optimizer.Optimizer(OptimizerConfig(ema=0.5), 1e-3)
    kept = {number: filled(model, world, number) for number in (2, 3, 4)}
    with Checkpoints(workdir / "checkpoints", 3) as steps, Checkpoints(workdir / "best", 1) as best:
        best.save(3, kept[3], {"update": 3})
        for number in (2, 4):
            state = State(kept[number], step.init(kept[number]), jnp.int32(number))
            steps.save(number, state, {"update": number})
    return workdir, kept


@pytest.fixture
def training(left, fits, tmp_path) -> tuple[Path, dict]:
    """The same, for one test to change."""
    workdir, kept = left
    return shutil.copytree(workdir, tmp_path / "trained"), kept


@pytest.mark.parametrize(("suffix", "number"), [("", 4), ("@4", 4), ("@2", 2), ("@best", 3)])
def test_parameters_come_from_a_step_of_another_training(training, suffix, number, tmp_path):
    workdir, kept = training
    config = debug(student=PlayerConfig(from_=f"{workdir}{suffix}"))
    found = checks.ready(config, config.arms)
    world, student = found.world, found.student.model
    assert student.config.width == 16
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    model, params = make("student", config.student, world, tmp_path / "next")
    assert model == student and equal(params, kept[number])
    wanted = folder.abstract(model, world.mesh)
    jax.tree.map(lambda a, b: None if a.sharding == b.sharding else 1 / 0, params, wanted)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    assert inputs(config)["student"]["step"] == number


def test_a_training_that_went_on_from_another_is_gone_on_from(training, tmp_path):
    workdir, kept = training
    config = debug(student=PlayerConfig(from_=str(workdir)))
    world = ready(config)
    second = tmp_path / "second"
    _, params = make("student", config.student, world, second)
    with Checkpoints(second / "best", 1) as best:
        best.save(7, params, {})
    chained = debug(student=PlayerConfig(from_=f"{second}@best"))
    _, found = make("student", chained.student, ready(chained), tmp_path / "third")
    assert equal(found, kept[4])
    with pytest.raises(ValueError, match="describes a player and has no parameters of it"):
        ready(debug(student=PlayerConfig(path=str(second / "models" / "student"))))


def damage(workdir: Path) -> None:
    """Cuts a file of the last checkpoint."""
    files = (p for p in (workdir / "checkpoints" / "4").rglob("*") if p.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("x", None, "x': no such workdir; allowed is WORKDIR, WORKDIR@STEP or WORKDIR@best"),
        ("@last", None, "@last': no such workdir"),
        ("@3", None, "checkpoints: no checkpoint 3; there are: 2, 4"),
        ("@best", lambda w: shutil.rmtree(w / "best"), "best: no finished checkpoint there"),
        ("", lambda w: shutil.rmtree(w / "models"), "models/student: no player there"),
        (
            "",
            lambda w: (w / "checkpoints/4").rename(w / "checkpoints/4.orbax-checkpoint-tmp"),
            None,
        ),
        ("", damage, "checkpoint 4 of .*checkpoints is damaged"),
    ],
)
def test_what_cannot_be_gone_on_from_is_said_on_one_line(training, suffix, change, message):
    workdir, kept = training
    if change is not None:
        change(workdir)
    config = debug(student=PlayerConfig(from_=f"{workdir}{suffix}"))
    if message is None:  # a step that is being written is none
        assert trained.find(config.student.from_).step == 2
        return
    with pytest.raises(ValueError, match=message) as error:
        ready(config)
    assert "\n" not in str(error.value)


def test_another_tokenizer_is_refused(training):
    data = dataclasses.replace(debug().data, alphabet="9876543210=+*")
    config = debug(data=data, student=PlayerConfig(from_=str(training[0])))
    with pytest.raises(ValueError, match="another tokenizer than the data's: id 2 is"):
        ready(config)


def test_a_workdir_may_have_an_at_sign_in_its_name(training, tmp_path):
    renamed = tmp_path / "lr@3"
    training[0].rename(renamed)
    assert trained.find(str(renamed)) == (renamed, renamed / "checkpoints", 4)
    assert trained.find(f"{renamed}@2") == (renamed, renamed / "checkpoints", 2)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ["d"]}, r"player.json: files is \['d'\], should be a dict"),
        ({"tokens": 3}, "player.json: tokens is 3, should be a list"),
        ({"decoder": 3}, "player.json: decoder is 3, should be a dict"),
        ({"decoder": {"vocab": 15}}, "player.json, decoder: .*missing"),
        ({"decoder": {"vocab": 15, "breadth": 1}}, "player.json, decoder: .*breadth"),
        ({"decoder": {"vocab": 15, "width": 16, "layers": "1", "heads": 2}}, "decoder: layers is"),
    ],
    ids=str,
)
def test_a_description_of_other_types_is_no_player(fits, tmp_path, change, message):
    world = ready(debug())
    make("teacher", SMALL, world, tmp_path)
    file = tmp_path / "models" / "teacher" / "player.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=f"no player there .*{message}") as error:
        ready(debug(teacher=TeacherConfig(path=str(file.parent))))
    assert "\n" not in str(error.value)


def test_float64_is_refused_where_jax_has_none(fits):
    wide = TeacherConfig(model=dataclasses.replace(SMALL.model, dtype="float64"), fit=SMALL.fit)
    with pytest.raises(
        ValueError, match="config.teacher.model.dtype = 'float64': allowed with JAX"
    ):
        ready(debug(teacher=wide))
    with jax.enable_x64(True):
        ready(debug(teacher=wide))


def test_attention_by_a_kernel_that_isnt_for_a_player_is_refused(fits):
    message = "config.student.attention = 'splash': allowed on tpu, and this is cpu"
    with pytest.raises(ValueError, match=message):
        ready(debug(student=dataclasses.replace(SMALL, attention="splash")))
    message = "config.teacher.attention = 'cudnn': bfloat16 is allowed, not float32"
    with pytest.raises(ValueError, match=message):
        ready(debug(teacher=TeacherConfig(**vars(SMALL) | {"attention": "cudnn"})))


def test_a_split_of_one_prompt_is_refused(fits):
    data = dataclasses.replace(debug().data, test=1)
    message = "config.evaluate.split = 'test': has 1 prompt, allowed are 2 or more"
    with pytest.raises(ValueError, match=message):
        ready(debug(data=data))
    ready(debug(data=dataclasses.replace(data, test=2)))


def test_a_digest_of_a_folder_is_one_of_names_and_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = checkpoint.contents(tmp_path / "a")
    (tmp_path / "a" / "x").write_text("2")
    assert checkpoint.contents(tmp_path / "a") != before
    (tmp_path / "a" / "x").write_text("1")
    assert checkpoint.contents(tmp_path / "a") == before
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert checkpoint.contents(tmp_path / "a") != before

"""A reward model's learner: pairs given and made, what it learns, and what grades with it."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from opd.data import pipeline, preferences
from opd.data.functions import RewardError
from opd.data.preferences import Pair
from opd.engine import programs
from opd.run.drawing import Player
from opd.run.players import fit
from opd.run.probe import evaluate
from opd.run.rollouts import rewards
from opd.run.settings import config as configs
from opd.run.settings.config import DatasetConfig, MeshConfig, OptimizerConfig, RewardConfig
from opd.run.store.checkpoint import Checkpoints
from opd.run.training import checks, preference

ROOT = Path(__file__).parents[3]
UPDATES = 8


def debug(**changes) -> configs.Config:
    """The debug config, with some of its keys, of a reward model."""
    found = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]()
    config = configs.build(found.to_dict())
    mesh = MeshConfig(data=4, fsdp=2)
    return dataclasses.replace(config, **{"trains": "reward", "mesh": mesh} | changes)


@pytest.fixture(scope="module")
def scene():
    """The world, and a student that knows nothing."""
    ready = checks.ready(debug(), ())
    world, model = ready.world, ready.student.model
    return world, Player(model, programs.init(world.mesh, model, 0))


def separable(path: Path, count=12) -> str:
    """Pairs in which the completion with a 1 is right, whatever the prompt."""
    rows = (
        {"prompt": f"{n % 10}+{n // 10}=", "chosen": f"{n % 2}1", "rejected": f"{n % 3}2"}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_it_learns_what_can_be_told_apart_and_grades_from_its_workdir(scene, tmp_path):
    world, student = scene
    config = debug(
        prompts=8,
        optimizer=OptimizerConfig(learning_rate=3e-2, warmup=1, microbatches=2),
        reward=RewardConfig(pairs=separable(tmp_path / "pairs.jsonl")),
    )
    preference.check(config, world.task)
    learner = preference.prepare(config, tmp_path / "run", world, student)
    state = learner.start()
    before, shown = learner.judge(state, 1)
    assert float(before["accuracy"].value) == 0.5 and float(before["margin"].value) == 0
    np.testing.assert_allclose(before["loss"].value, np.log(2), rtol=1e-6)
    assert shown[0]["reward"] == shown[0]["reward_rejected"] == 0
    for number in range(UPDATES):
        state, memory, metrics = learner.advance(state, {}, number)
    assert memory == {} and metrics["accuracy"] == 1 and metrics["loss"] < 0.5
    after, shown = learner.judge(state, 2)
    assert float(after["accuracy"].value) == 1
    assert learner.merit(after) > learner.merit(before) == -float(before["loss"].value)
    assert set(after) == {"loss", "accuracy", "margin"} and after["loss"].low < after["loss"].high

    with Checkpoints(tmp_path / "run" / "best", 1) as best:
        best.save(UPDATES, learner.params(state), {})
    graded = debug(trains="policy", reward=RewardConfig(from_=f"{tmp_path}/run@best"))
    checks.ready(graded, ())
    examples = [
        pipeline.Example(shown[0]["prompt"], shown[0][key]) for key in ("completion", "rejected")
    ]
    batch = pipeline.encode_prompts(world.task, examples)
    rollout = fit.demonstration(batch | pipeline.encode_solutions(world.task, examples))
    found = rewards.grader(rewards.look(graded.reward, world.task), world)(rollout, batch, 1).reward
    wanted = [shown[0]["reward"], shown[0]["reward_rejected"]]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_run_makes_its_pairs_once(scene, tmp_path, monkeypatch):
    world, student = scene
    config = debug(dataset=DatasetConfig(groups=10))
    learner = preference.prepare(config, tmp_path, world, student)
    kept = (tmp_path / "pairs.jsonl").read_bytes()
    pairs = preferences.read(tmp_path / "pairs.jsonl", world.task)
    assert 3 <= len(pairs) <= 10 and len({pair.prompt for pair in pairs}) == len(pairs)
    answers = {e.prompt: e.answer for e in world.task.split("train")}
    for pair in pairs:
        assert pair.chosen.strip() == answers[pair.prompt]
    assert (
        json.loads((tmp_path / "models/reward/player.json").read_text())["decoder"]["width"] == 16
    )
    monkeypatch.setattr(evaluate, "draw", None)
    again = preference.prepare(config, tmp_path, world, student)
    assert again.held_out == learner.held_out and (tmp_path / "pairs.jsonl").read_bytes() == kept
    (tmp_path / "pairs.jsonl").unlink()
    monkeypatch.undo()
    preference.prepare(config, tmp_path, world, student)
    assert (tmp_path / "pairs.jsonl").read_bytes() == kept


def test_a_pair_is_a_right_and_a_wrong_completion_of_one_prompt(scene):
    task = scene[0].task
    example = pipeline.Example("3+4=", "7", "7")

    def paired(*completions, eos=True):
        given = [pipeline.Example("0", text) for text in completions]
        batch = pipeline.encode_solutions(task, given)
        earned = np.asarray([float(text == "7") for text in completions])
        return preference._pair(task, example, batch["tokens"], batch["mask"], earned)

    assert paired("8", "7", "9", "7") == Pair("3+4=", "7", "8")
    assert paired("8", "9") == Pair("3+4=", "7", "8"), "the solution stands in"
    assert paired("7", "7") is None
    assert paired("", "7") == Pair("3+4=", "7", "")
    batch = pipeline.encode_solutions(task, [pipeline.Example("0", text) for text in ("81", "9")])
    batch["tokens"][0, 0] = task.tokenizer.pad_id  # no text says it
    found = preference._pair(task, example, batch["tokens"], batch["mask"], np.zeros(2))
    assert found == Pair("3+4=", "7", "9")
    nothing = dataclasses.replace(example, solution=None)
    assert preference._pair(task, nothing, batch["tokens"], batch["mask"], np.zeros(2)) is None


def test_too_few_pairs_are_said(scene, tmp_path, monkeypatch):
    world, student = scene
    monkeypatch.setattr(preference, "made", lambda *_: iter([Pair("1+1=", "2", "3")]))
    with pytest.raises(RewardError, match="1 pairs could be made of 64 prompts"):
        preference.prepare(debug(), tmp_path, world, student)
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": RewardConfig(pairs="absent.jsonl")}, "absent.jsonl: cannot be read"),
        (
            {"optimizer": OptimizerConfig(microbatches=8)},
            "config.optimizer.microbatches = 8: allowed is a divisor of the 4 pairs of an update",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(scene, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        preference.check(debug(**changes), scene[0].task)
    assert "\n" not in str(error.value)


def test_pairs_need_a_file_or_a_verifier(scene, tmp_path):
    ungraded = dataclasses.replace(scene[0].task, verifier=None)
    with pytest.raises(ValueError, match="no pairs can be made of them: give config.reward.pairs"):
        preference.check(debug(), ungraded)
    file = separable(tmp_path / "pairs.jsonl", 2)
    with pytest.raises(ValueError, match="pairs.jsonl: pairs of 2 distinct prompts: allowed are 3"):
        preference.check(debug(reward=RewardConfig(pairs=file)), ungraded)
    config = debug(reward=RewardConfig(pairs=separable(tmp_path / "pairs.jsonl")))
    preference.check(config, ungraded)
    before = rewards.look(config.reward, ungraded).inputs
    separable(tmp_path / "pairs.jsonl", 11)
    assert rewards.look(config.reward, ungraded).inputs != before, "other pairs are another input"

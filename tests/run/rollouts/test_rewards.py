"""Graders: a user's function and what it may not do, a reward model from a workdir."""

import dataclasses
import importlib
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train as launcher
from opd.data import pipeline, verifiers
from opd.data.functions import RewardError
from opd.engine import optimizer
from opd.engine.steps import State
from opd.model.scalar import Scalar
from opd.run import drawing
from opd.run.players import fit, folder, players
from opd.run.probe import evaluate
from opd.run.rollouts import rewards
from opd.run.settings import command, launch
from opd.run.settings import config as configs
from opd.run.settings.config import MeshConfig, OptimizerConfig, PlayerConfig, RewardConfig
from opd.run.store.checkpoint import Checkpoints
from opd.run.training import checks, train

ROOT = Path(__file__).parents[3]
G = 2
SOURCE = """
def length(prompt, completion, answer):
    calls.append((prompt, completion, answer))
    return len(completion)

def two(completion, answer):
    return 1

calls = []
number = 3
"""


def debug(**changes) -> configs.Config:
    """The debug config, with some of its keys."""
    found = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]()
    config = configs.build(found.to_dict())
    return dataclasses.replace(config, mesh=MeshConfig(data=4, fsdp=2), **changes)


@pytest.fixture(scope="module")
def world() -> drawing.World:
    return checks.ready(debug(), ()).world


def graders(config, world):
    """Who grades, looked at and ready to."""
    return rewards.grader(rewards.look(config, world.task), world)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the current folder, and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    def write(text, name="own_rewards"):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    sys.modules.pop("own_rewards", None)


def demonstrated(world, examples):
    """Prompts, and their solutions as G completions each; the last one is cut before its EOS."""
    batch = pipeline.encode_prompts(world.task, examples)
    rows = [example for example in examples for _ in range(G)]
    both = pipeline.encode_prompts(world.task, rows) | pipeline.encode_solutions(world.task, rows)
    both["mask"][-1] &= both["tokens"][-1] != world.task.tokenizer.eos_id
    both["ended"][-1] = False
    return batch, fit.demonstration(both)


# --- a user's function -----------------------------------------------------------------------


def test_a_function_sees_texts_and_grades_cut_completions_too(module, world):
    name = module(SOURCE)
    first, *others = world.task.split("train")[:4]
    examples = (dataclasses.replace(first, answer=None), *others)
    batch, rollout = demonstrated(world, examples)
    grade = graders(RewardConfig(function=f"{name}:length"), world)
    graded = grade(rollout, batch, G)
    wanted = [(e.prompt, e.solution, e.answer) for e in examples for _ in range(G)]
    assert sys.modules[name].calls == wanted
    assert graded.reward.dtype == jnp.float32
    assert graded.reward.sharding == rollout.ended.sharding
    np.testing.assert_array_equal(graded.reward, [len(text) for _, text, _ in wanted])
    # The verifier gives nothing for a completion that was cut.
    verified = graders(RewardConfig(), world)(rollout, batch, G)
    np.testing.assert_array_equal(verified.reward[G:], [1] * (2 * G + 1) + [0])


@pytest.mark.parametrize(
    ("body", "did"),
    [
        ("raise ValueError('a\\nb')", "raised ValueError: a b"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("return float('nan')", "returned nan; allowed is a finite number"),
        ("return -1e39", "returned -1e+39; allowed is a finite number"),
        ("return '1'", "returned '1'; allowed is a finite number"),
        ("return [1, [2]]", "returned [1, [2]]; allowed is a finite number"),
        ("return None", "returned None; allowed is a finite number"),
    ],
)
def test_what_a_function_may_not_do_is_said_with_the_prompt(module, world, body, did):
    name = module(f"def f(prompt, completion, answer):\n    if prompt == bad: {body}\n    return 1")
    batch, rollout = demonstrated(world, world.task.split("train")[:3])
    grade = graders(RewardConfig(function=f"{name}:f"), world)
    bad = sys.modules[name].bad = batch["texts"][1]
    with pytest.raises(RewardError) as error:
        grade(rollout, batch, G)
    said = world.task.split("train")[1].solution
    wanted = f"config.reward.function = 'own_rewards:f', prompt {bad!r}, completion {said!r}: {did}"
    assert str(error.value) == wanted


@pytest.mark.parametrize(
    ("body", "did"),
    [
        ("return None", "returned None; allowed is a finite number"),
        ("return float('nan')", "returned nan; allowed is a finite number"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_verifier_may_not_do_is_said_with_the_prompt(module, world, body, did):
    """None for some prompts alone, which the try before a run need not meet."""
    name = module(f"def f(completion, answer):\n    if answer == bad: {body}\n    return 1")
    sys.modules.pop(name, None)
    verifier = verifiers.named(f"{name}:f")
    sys.modules[name].bad = None
    data = dataclasses.replace(world.task.config, verifier=f"{name}:f")
    task = dataclasses.replace(world.task, config=data, verifier=verifier)
    batch, rollout = demonstrated(world, world.task.split("train")[:3])
    grade = rewards.verifier(dataclasses.replace(world, task=task))
    np.testing.assert_array_equal(grade(rollout, batch, G).reward, [1] * (3 * G - 1) + [0])
    sys.modules[name].bad = bad = batch["answers"][1]
    with pytest.raises(RewardError) as error:
        grade(rollout, batch, G)
    assert str(error.value) == (
        f"data.verifier = 'own_rewards:f', prompt {batch['texts'][1]!r}, completion {bad!r}, "
        f"answer {bad!r}: {did}"
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("own_rewards", "allowed is MODULE:NAME"),
        (":f", "allowed is MODULE:NAME"),
        ("nowhere_at_all:f", "nowhere_at_all cannot be imported (ModuleNotFoundError: No module"),
        ("own_rewards:f", "own_rewards has no f"),
        ("own_rewards:number", "it is a int, allowed is a function"),
        ("own_rewards:two", "it is called as f(prompt, completion, answer), and that fails (too"),
        ("broken:f", "broken cannot be imported (SyntaxError:"),
    ],
)
def test_a_function_that_cannot_be_had_is_refused_first(module, said, message):
    module(SOURCE)
    module("def f(:", "broken")
    with pytest.raises(ValueError) as error:
        checks.ready(debug(reward=RewardConfig(function=said)), ())
    assert str(error.value).startswith(f"config.reward.function = {said!r}: {message}")
    assert "\n" not in str(error.value)


def test_another_text_of_the_function_is_another_input(module, world, tmp_path):
    config = debug(reward=RewardConfig(function=f"{module(SOURCE)}:length"))
    before = json.loads(json.dumps(checks.ready(config, ()).inputs))
    checks.same_inputs(checks.ready(config, ()).inputs, before, tmp_path)
    assert checks.ready(debug(), ()).inputs["reward"] is None
    module(SOURCE + "# more")
    with pytest.raises(ValueError, match="has results of another reward: sha256 [0-9a-f]{12}, now"):
        checks.same_inputs(checks.ready(config, ()).inputs, before, tmp_path)


def test_a_function_taken_from_another_module_is_known_by_both(module, world):
    module(SOURCE, "own_source")
    config = RewardConfig(function=f"{module('from own_source import length')}:length")
    found = {rewards.look(config, world.task).inputs["sha256"]}
    module("from own_source import length # again")
    found.add(rewards.look(config, world.task).inputs["sha256"])
    module(SOURCE + "# more", "own_source"), module("from own_source import length # again")
    found.add(rewards.look(config, world.task).inputs["sha256"])
    assert len(found) == 3
    sys.modules.pop("own_source")


VERIFIER = "def f(completion, answer):\n    return float(completion == answer)\n"


def test_another_text_of_the_verifier_is_another_input(module, world, tmp_path):
    name = f"{module(VERIFIER)}:f"
    config = debug(data=dataclasses.replace(debug().data, verifier=name))
    before = json.loads(json.dumps(checks.ready(config, ()).inputs))
    checks.same_inputs(checks.ready(config, ()).inputs, before, tmp_path)
    assert checks.ready(debug(), ()).inputs["verifier"] is None
    module(VERIFIER + "# more")
    now = checks.ready(config, ()).inputs
    with pytest.raises(ValueError, match="has results of another verifier: sha256 [0-9a-f]{12}, n"):
        checks.same_inputs(now, before, tmp_path)
    # What a version before this one has not kept is not held against a workdir.
    checks.same_inputs(now, {key: before[key] for key in before if key != "verifier"}, tmp_path)


def test_a_player_that_a_verifier_stopped_is_known_by_it(module, world):
    name = f"{module(VERIFIER)}:f"
    task = dataclasses.replace(
        world.task, config=dataclasses.replace(world.task.config, verifier=name)
    )
    stopped = dataclasses.replace(debug().student.fit, stop_at=0.5)
    model = players.look("student", debug().student, world.task).model

    def identity(config=stopped, task=task):
        return fit.identity(model, config, dataclasses.replace(world, task=task))

    before, unstopped = identity(), identity(dataclasses.replace(stopped, stop_at=None))
    assert fit.same(json.loads(json.dumps(before)), before)
    assert "verifier" not in unstopped and "verifier" not in identity(task=world.task)
    module(VERIFIER + "# more")
    assert not fit.same(before, identity())
    assert fit.same(unstopped, identity(dataclasses.replace(stopped, stop_at=None)))


def test_the_launcher_leaves_with_two(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise RewardError("prompt '1+1=': raised")

    monkeypatch.setattr(train, "train", fail)
    monkeypatch.setattr(launch, "keep_compiled", lambda: None)
    with pytest.raises(SystemExit) as left:
        command.run(lambda: lambda: launcher.job(debug(), tmp_path, None))
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: prompt '1+1=': raised\n"


def test_an_evaluation_has_the_training_s_own_reward_beside_the_accuracy(world, monkeypatch):
    examples = world.task.split("test")[:4]
    _, rollout = demonstrated(world, examples[:2])
    rollout = drawing.reward(world.task, rollout, [e.answer for e in examples[:2]], G)
    monkeypatch.setattr(evaluate, "draw", lambda *_, **__: rollout)
    seen = []

    def grade(rollout, batch, group_size):
        seen.append((batch["texts"], group_size))
        return drawing.rewarded(rollout, np.asarray([1.0, 2.0, 3.0, 6.0]))

    found, shown = evaluate.evaluate(world, examples, None, 4, grade=grade)
    assert seen == [([example.prompt for example in examples], 1)]
    assert found["reward"].value == 3 and found["reward"].low < 3
    assert found["accuracy"].value == 0.75, "the verifier's: one completion was cut"
    assert [sample["reward"] for sample in shown] == [1, 2, 3, 6]
    plain, shown = evaluate.evaluate(world, examples, None, 4)
    assert "reward" not in plain and plain["accuracy"].value == 0.75
    assert [sample["reward"] for sample in shown] == [1, 1, 1, 0]


# --- a reward model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(world, tmp_path_factory) -> tuple[Path, Scalar, dict]:
    """What a training of a reward model leaves behind: steps 2 and 4, and a best at 3."""
    workdir = tmp_path_factory.mktemp("left") / "trained"
    model = Scalar(players.look("student", debug().student, world.task).model)
    folder.describe(workdir / "models" / "reward", model.body, {}, world.task)
    rng, shapes = np.random.default_rng(0), folder.abstract(model, world.mesh)
    kept = {
        number: jax.tree.map(
            lambda leaf: jax.device_put(
                rng.normal(0, 0.4, leaf.shape).astype(np.float32), leaf.sharding
            ),
            shapes,
        )
        for number in (2, 3, 4)
    }
    step = optimizer.Optimizer(OptimizerConfig(), 1e-3)
    with Checkpoints(workdir / "checkpoints", 3) as steps, Checkpoints(workdir / "best", 1) as best:
        best.save(3, kept[3], {"update": 3})
        for number in (2, 4):
            state = State(kept[number], step.init(kept[number]), jnp.int32(number))
            steps.save(number, state, {"update": number})
    return workdir, model, kept


@pytest.fixture
def trained(left, tmp_path) -> tuple[Path, Scalar, dict]:
    """The same, for one test to change."""
    workdir, model, kept = left
    return shutil.copytree(workdir, tmp_path / "trained"), model, kept


@pytest.mark.parametrize(("suffix", "number"), [("", 4), ("@best", 3)])
def test_a_reward_model_gives_the_value_at_the_last_graded_token(trained, world, suffix, number):
    workdir, model, kept = trained
    config = debug(reward=RewardConfig(from_=f"{workdir}{suffix}"))
    checks.ready(config, ())
    batch, rollout = demonstrated(world, world.task.split("train")[:4])
    graded = graders(config.reward, world)(rollout, batch, G)
    assert graded.reward.dtype == jnp.float32 and graded.reward.shape == (8,)
    for row in range(8):
        # One sequence at a time, without padding on either side.
        kept_tokens = [
            np.asarray(tokens[row])[np.asarray(mask[row])]
            for tokens, mask in (
                (rollout.prompt, rollout.prompt_mask),
                (rollout.tokens, rollout.mask),
            )
        ]
        alone = jnp.asarray(np.concatenate(kept_tokens))[None]
        values = model.values(jax.device_get(kept[number]), alone, jnp.ones(alone.shape, bool))
        np.testing.assert_allclose(graded.reward[row], values[0, -1], rtol=1e-4, atol=1e-5)
    assert len(set(map(float, graded.reward))) == 5, "four solutions, one of them cut"
    before = rewards.look(config.reward, world.task).inputs
    assert before["step"] == number and rewards.look(config.reward, world.task).inputs == before
    other = RewardConfig(from_=f"{workdir}@2")
    assert rewards.look(other, world.task).inputs["sha256"] != before["sha256"]


def test_what_is_no_reward_model_of_this_task_is_refused(trained, tmp_path):
    workdir, model, _ = trained
    said = str(workdir)

    def refused(message, **changes):
        config = debug(**{"reward": RewardConfig(from_=said)} | changes)
        with pytest.raises(ValueError, match=message) as error:
            checks.ready(config, ())
        assert "\n" not in str(error.value)

    data = dataclasses.replace(debug().data, alphabet="9876543210=+*")
    refused("another tokenizer than the data's: id 2 is", data=data)
    data = dataclasses.replace(debug().data, max_completion=9)
    refused("the model reads 10 tokens, prompt and completion have up to 15", data=data)
    refused(
        re.escape(f"from = {said!r}: a reward model was trained there, allowed is a policy"),
        reward=RewardConfig(),
        student=PlayerConfig(from_=said),
    )
    shutil.rmtree(workdir / "models")
    refused(re.escape(f"from = {said!r}: a policy was trained there, allowed is a reward model"))
    shutil.rmtree(workdir)
    refused("no such workdir")

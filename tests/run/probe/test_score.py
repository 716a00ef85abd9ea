"""A Hugging Face folder scored by path: what counts, how it is asked for, what is refused."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy

import opd
from opd.data.chat import ChatConfig
from opd.run.players import models
from opd.run.probe import score
from opd.run.probe.score import Asked
from tests.run.players import folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that likes to end."""
    found = folders.write(tmp_path_factory.mktemp("score") / "model")
    weights = safetensors.numpy.load_file(found / "model.safetensors")
    weights["lm_head.weight"][400] *= 1.5
    safetensors.numpy.save_file(weights, found / "model.safetensors")
    return found


def lines(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


PROMPTS = [f"what is {n} + {n * n}?" for n in range(13)]


@pytest.mark.slow
def test_all_lines_count_and_an_answer_that_is_given_is_right(folder, tmp_path):
    policy = opd.load_model(folder)
    short, long = (models.complete(policy, PROMPTS, n, temperature=0.0) for n in (6, 30))
    # What is the same with more room has ended; the last three are made wrong.
    ended = [a == b for a, b in zip(short, long, strict=True)]
    right = [
        end and i < 10 and bool(text.strip()) for i, (end, text) in enumerate(zip(ended, short))
    ]
    assert 2 < sum(right) < 10
    answers = [text if i < 10 and text.strip() else "wrong" for i, text in enumerate(short)]
    rows = [{"prompt": p, "answer": a} for p, a in zip(PROMPTS, answers)]
    task = lines(tmp_path / "prompts.jsonl", rows)
    asked = Asked(folder, task, length=6, batch=5)
    found = score.score(score.check(asked))
    assert found["prompts"] == 13
    assert found["accuracy_greedy"]["value"] == pytest.approx(sum(right) / 13)
    for name in ("accuracy", "length", "truncated"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert 1 <= found["length"]["value"] <= 6
    # Nearly the arg max, and the same again.
    cold = score.score(score.check(dataclasses.replace(asked, temperature=1e-4)))
    assert cold["accuracy"] == cold["accuracy_greedy"] == found["accuracy_greedy"]
    assert score.score(score.check(asked)) == found
    some = score.score(score.check(dataclasses.replace(asked, prompts=4)))
    assert some["prompts"] == 4
    none = score.check(dataclasses.replace(asked, verifier="regex:(nothing)"))
    assert score.score(none)["accuracy_greedy"]["value"] == 0.0


def test_a_task_is_what_the_pipeline_has(folder, tmp_path):
    rows = [{"prompt": p, "answer": "1"} for p in PROMPTS]
    path = lines(tmp_path / "p.jsonl", rows)
    chat = ChatConfig(system="Be brief.")
    plan = score.check(Asked(folder, path, prompts=7, length=9, chat=chat, dtype="bfloat16"))
    assert [e.prompt for e in plan.examples] == PROMPTS[:7]
    assert plan.world.sampling.length == 9 and plan.folder.config.param_dtype == "bfloat16"
    assert "Be brief." in plan.world.task.tokenizer.rendered("x")
    for split in (None, "validation"):
        plan = score.check(Asked(folder, "arithmetic", split=split, length=4))
        assert plan.examples == plan.world.task.split(split or "test") and plan.examples
    source = tmp_path / "gsm8k"
    source.mkdir()
    for name, count in (("train", 510), ("test", 6)):  # 500 are held out of train
        rows = [{"question": f"{name} {n}?", "answer": f"so\n#### {n}"} for n in range(count)]
        lines(source / f"{name}.jsonl", rows)
    plan = score.check(Asked(folder, f"gsm8k:{source}", length=4))
    assert [e.prompt.strip() for e in plan.examples] == [f"test {n}?" for n in range(6)]
    config, split = score.data(Asked(folder, "tfds:sums", split="test"))
    assert (config.prompts, split, config.test) == ("tfds:sums:test", "train", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sorting"}, "--task=sorting: allowed are FILE.jsonl, tfds:NAME, gsm8k:DIR"),
        ({"split": "test"}, "has none, all its lines are scored"),
        ({"task": "arithmetic", "split": "dev"}, "--split=dev: allowed are train, validation"),
        ({"task": "tfds:a:test", "split": "test"}, "allowed is tfds:NAME"),
        ({"path": Path("/nonexistent")}, "--path: /nonexistent: no such folder"),
        ({"temperature": 0.0}, "--temperature=0.0: allowed is more than 0"),
        ({"prompts": 1}, "has 1 prompt to score, an interval needs 2 or more"),
        ({"length": 500}, "the model reads 128 tokens"),
        ({"verifier": "exactly"}, "data.verifier = 'exactly': allowed are exact"),
        ({"task": "unanswered.jsonl"}, "not every prompt has an answer, nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(folder, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "p.jsonl", [{"prompt": p, "answer": "1"} for p in PROMPTS])
    lines(tmp_path / "unanswered.jsonl", [{"prompt": p} for p in PROMPTS])
    with pytest.raises(ValueError) as error:
        score.check(dataclasses.replace(Asked(folder, "p.jsonl", length=8), **change))
    assert message in str(error.value) and "\n" not in str(error.value)


# Command lines in forks of one process that has imported the command.
FORKS = """
import json, os, sys
from experiments import evaluate
from opd.run.probe import score
from opd.run.settings import command, launch
from opd.run.training import train

for number, arguments in enumerate(json.load(sys.stdin)):
    if not os.fork():
        os.dup2(os.open(f"{sys.argv[1]}/{number}", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["evaluate", *arguments]
        command.run(evaluate.prepare)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
MISTAKES = {
    "both": (["--path=a", "--workdir=b"], "--workdir and --path are both given: allowed is one"),
    "no task": (["--path=a"], "--task is missing"),
    "neither": ([], "--workdir is missing"),
    "a path's": (["--workdir=b", "--length=3"], "--length: means nothing with --workdir"),
    "a workdir's": (["--path=a", "--task=x", "--step=3"], "--step: means nothing with --path"),
    "nowhere": (["--path=a", "--task=arithmetic"], "--path: a: no such folder"),
    "arguments": (["--path=a", "--task=x", "--arguments=["], "data.chat.arguments = '['"),
}


def test_a_path_or_a_workdir_is_asked_for(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path)],
        input=json.dumps([given for given, _ in MISTAKES.values()]),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.split() == ["2"] * len(MISTAKES), done.stderr
    for number, (name, (_, message)) in enumerate(MISTAKES.items()):
        said = (tmp_path / str(number)).read_text()
        assert said.startswith("error: ") and message in said, (name, said)
        assert len(said.strip().splitlines()) == 1

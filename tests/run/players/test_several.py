"""Several teachers: a column of the data says which one grades a prompt."""

import dataclasses
import json
import runpy
from pathlib import Path

import folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import disk
from opd.data import pipeline
from opd.data.pipeline import DataConfig
from opd.engine import programs, vocab
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.several import Several
from opd.run import drawing
from opd.run.comparing import compare
from opd.run.settings import config as configs
from opd.run.training import train

ROOT = Path(__file__).parents[3]
NAMES = ("sums", "amen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two teachers, one of them longer by padded rows, a student, and prompts of both kinds."""
    made = tmp_path_factory.mktemp("several")
    folders.write(made / "sums", seed=1)
    folders.write(made / "amen", seed=2, vocab=432)
    folders.write(made / "student")
    write(made / "prompts.jsonl")
    return made


def write(path, **changes):
    rows = [
        {"prompt": f"what is {n} + {n}?", "answer": f"amen {n}", "teacher": NAMES[n % 2]}
        for n in range(24)
    ]
    rows[5] |= changes
    rows[5] = {key: value for key, value in rows[5].items() if value != "gone"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(folder, prompts="prompts.jsonl", **changes):
    """The debug config with both teachers; changes as method__name="grpo"."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    values["data"] |= {"task": "jsonl", "prompts": str(folder / prompts), "tokenizer": None}
    values["data"] |= {"max_completion": 6, "train": None, "validation": None, "test": None}
    values["student"]["path"] = str(folder / "student")
    values["teachers"]["players"] = tuple(f"{name}={folder / name}" for name in NAMES)
    return configs.build(folders.changed(values, **changes))


@pytest.fixture(scope="module")
def learner(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = asked(folder)
    return train.prepare(config, workdir, train.check(config, workdir))


def test_a_row_s_logits_are_its_own_teacher_s(learner):
    """Of all ids that there are; padded rows of one matrix are none of the other's."""
    state = learner.start()
    mixed = next(n for n in range(99) if learner.source.prompts[n]["taught"].any(0).all())
    rollout = learner.source.draw(state.params, mixed, 0, {}).rollout
    both, params = learner.taught_by(state)
    logits = vocab.logits(drawing.head(learner.world, (both, params), rollout))
    taught = np.asarray(rollout.taught)
    whose = np.argmax(taught, 1)
    assert set(whose) == {0, 1} and both.vocab == 432 and both.tokens == folders.IDS
    assert taught.sum() == len(whose) and np.all(whose.reshape(-1, 4) == whose[::4, None])
    for at, name in enumerate(both.names):
        own = programs.head(learner.world.mesh, both.models[at], params[name], rollout)
        rows = whose == at
        mask = np.asarray(rollout.mask)[rows]
        one, other = (
            np.asarray(x)[rows][mask][:, : both.tokens] for x in (logits, vocab.logits(own))
        )
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.all(np.asarray(logits)[rows][..., both.tokens :] < -1e29)
    wrong = programs.head(learner.world.mesh, both.models[0], params[both.names[0]], rollout)
    gap = np.abs(
        np.asarray(vocab.logits(wrong)) - np.asarray(logits)[..., : wrong.unembedding.shape[0]]
    )
    assert gap[whose == 1][..., : both.tokens].max() > 1e-2


def test_prompts_go_to_the_teacher_that_their_line_names(learner):
    task = learner.world.task
    examples = task.split("train")
    batch = pipeline.encode_prompts(task, examples)
    for example, row in zip(examples, batch["taught"], strict=True):
        number = int(example.prompt.split()[2])
        assert row.tolist() == [number % 2 == 0, number % 2 == 1]
    assert pipeline.remarks(task) == ()


def test_figures_of_an_update_are_of_each_teacher(learner):
    _, memory, figures = learner.advance(learner.start(), {}, 0)
    taught = np.asarray(memory["flight"]["rollout"]["taught"])
    mask = np.asarray(memory["flight"]["rollout"]["mask"])
    counts = {name: mask[taught[:, at]].sum() for at, name in enumerate(NAMES)}
    assert {name: figures[f"tokens_{name}"] for name in NAMES} == counts
    total = sum(figures[f"kl_{name}"] * count for name, count in counts.items() if count)
    np.testing.assert_allclose(total / len(mask), figures["kl"], rtol=1e-5)
    assert not any(name.endswith("by_teacher") for name in figures)
    one = learner._by_teacher({"tokens_by_teacher": [3, 0], "kl_by_teacher": [0.5, np.nan]})
    assert one == {"tokens_sums": 3.0, "tokens_amen": 0.0, "kl_sums": 0.5}


@pytest.mark.slow
def test_a_run_with_several_goes_on_bit_identically(folder, tmp_path, capfd):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"checkpoint__every": 50, "reuse__updates": 2, "method__name": "opd_topk"}
    done = train.train(asked(folder, updates=4, **changes), whole)
    assert "\nopd_topk: " in "\n" + capfd.readouterr().err
    assert "to the teacher that the data name (sums, amen)" in done["claim"]
    train.train(asked(folder, updates=3, **changes), parts)
    again = train.train(asked(folder, updates=4, **changes), parts)
    assert again["params_sha256"] == done["params_sha256"] and again["resumed_from"] == [3]
    last = disk.read_jsonl(parts / "metrics.jsonl")[-1]
    assert {"tokens_sums", "tokens_amen"} <= last.keys()
    assert {path.name for path in (whole / "models").iterdir()} == {
        "student", "teacher-sums", "teacher-amen",
    }  # fmt: skip


REFUSED = {
    "another name": ({"teacher": "maths"}, {}, ":6: 'teacher' is 'maths', allowed are sums, amen"),
    "a number": ({"teacher": 1}, {}, ":6: 'teacher' is 1, allowed are sums, amen"),
    "no name": ({"teacher": "gone"}, {}, ":6: needs 'teacher' (config.teachers.column): which"),
    "null": ({"teacher": None}, {}, ":6: needs 'teacher' (config.teachers.column): which"),
    "another column": ({}, {"teachers__column": "by"}, "needs 'by' (config.teachers.column)"),
    "a path besides": ({}, {"teacher__path": "x"}, "config.teacher.path = 'x' and config.teachers"),
    "a source besides": ({}, {"teacher__source": "ema"}, "teacher.source = 'ema' and conf"),
    "no place": ({}, {"teachers__players": ("sums",)}, "'sums': allowed is NAME=PATH or"),
    "twice": ({}, {"teachers__players": ("a=b", "a=c")}, "teachers.players: 'a' is given twice"),
    "no folder": ({}, {"teachers__players": ("sums=x", "amen=x")}, "teachers.players, sums: "),
    "nobody asks": ({}, {"method__name": "grpo"}, "config.teachers.players = ('sums="),
    "they draw": ({}, {"method__name": "teacher_behavior"}, "and there are several (config"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_go_together_is_refused_in_a_line(why, folder, tmp_path):
    row, changes, message = REFUSED[why]
    write(tmp_path / "prompts.jsonl", **row)
    config = {"data__prompts": str(tmp_path / "prompts.jsonl")} | changes
    with pytest.raises(ValueError) as error:
        train.check(asked(folder, **config), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_another_tokenizer_is_refused_by_the_teacher_s_name(folder, tmp_path):
    folders.write(tmp_path / "other", seed=3, swapped=True)
    players = (f"sums={folder / 'sums'}", f"amen={tmp_path / 'other'}")
    with pytest.raises(ValueError, match=r"config.teachers.players, amen: .*other, and the data's"):
        train.check(asked(folder, teachers__players=players), tmp_path / "run")


def test_a_comparison_has_one_teacher(folder, tmp_path):
    with pytest.raises(ValueError, match="config.teachers.players: allowed in a training only"):
        compare.check(asked(folder), tmp_path / "run")


def test_a_task_without_columns_has_no_several(tmp_path):
    task = pipeline.load(DataConfig(tokenizer="char", train=20, validation=4, test=4, length=4))
    with pytest.raises(ValueError, match=r"prompt '.*': needs 'teacher'"):
        pipeline.taught(task, "teacher", NAMES)


def test_models_that_cap_their_logits_otherwise_are_refused():
    config = DecoderConfig(vocab=8, width=8, layers=1, heads=2, max_length=8)
    capped = dataclasses.replace(config, logit_cap=30.0)
    with pytest.raises(ValueError, match="b: caps its logits at 30.0, and a at None"):
        Several(("a", "b"), (Decoder(config), Decoder(capped)))


def test_several_are_one_model_of_their_widths_together():
    configs = [
        DecoderConfig(vocab=v, width=w, layers=1, heads=2, max_length=8, tokens=7)
        for v, w in ((8, 8), (9, 16))
    ]
    both = Several(("a", "b"), tuple(map(Decoder, configs)))
    params = both.init(jax.random.key(0))
    assert (both.vocab, both.width, both.tokens) == (9, 24, 7)
    assert both.unembedding(params).shape == (9, 24)
    assert both.matmul_flops(4, 4) == sum(m.matmul_flops(4, 4) for m in both.models)
    tokens, of = jnp.ones((2, 4), int), jnp.asarray([[True, False], [False, True]])
    hidden = both.chosen(params, tokens, jnp.ones((2, 4), bool), of)
    assert not hidden[0, :, 8:].any() and not hidden[1, :, :8].any()
    assert hidden[0, :, :8].any() and hidden[1, :, 8:].any()

"""Teachers that are told more, and teachers that are the student itself, at some time."""

import dataclasses
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import disk
from opd.data import pipeline
from opd.engine import costs, programs, steps, vocab
from opd.method import table
from opd.run import drawing
from opd.run.comparing import compare
from opd.run.drawing import Player
from opd.run.players import fit
from opd.run.rollouts import behavior, flight
from opd.run.settings import config as configs
from opd.run.training import footprint, log, train
from tests.run.players import folders

ROOT = Path(__file__).parents[3]
HINT = "{{ answer }}={{ prompt }}"
SOURCES = {
    "start": {},
    "live": {},
    "ema": {"teacher__decay": 0.75},
    "lagged": {"teacher__every": 2},
}


def debug(**changes):
    """The debug config with some keys changed, its teacher told the answer."""
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    return configs.build(folders.changed(values, **{"teacher__prompt": HINT} | changes))


def of(source, **changes):
    return debug(teacher__source=source, **SOURCES.get(source, {}), **changes)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return str(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def learner(models, tmp_path_factory):
    """A source -> its learner, ready to begin."""

    def make(source, **changes):
        config, workdir = of(source, models=models, **changes), tmp_path_factory.mktemp(source)
        return train.prepare(config, workdir / "run", train.check(config, workdir / "run"))

    return make


@pytest.fixture(scope="module")
def drawn(learner):
    """A student's learner with one batch of its rollouts."""
    found = learner("live")
    state = found.start()
    rollout = found.source.draw(state.params, 0, 0, {}).rollout
    return found, state, rollout


# --- what is graded ------------------------------------------------------------------------------


def alone(model, params, prompt, mask, tokens):
    """Logits [T, V] of one sequence without any padding, its prompt's real ids alone."""
    ids = np.concatenate([np.asarray(prompt)[np.asarray(mask)], np.asarray(tokens)])[None]
    hidden = model.hidden(params, jnp.asarray(ids[:, :-1]), jnp.ones(ids[:, :-1].shape, bool))
    head = steps.head_of(model, params, hidden[:, int(np.sum(mask)) - 1 :])
    return vocab.logits(head)[0]


def test_the_teacher_reads_its_own_prompt_and_the_very_same_completion(drawn):
    learner, state, rollout = drawn
    twice = rollout.as_told.as_told
    assert all(
        a is b for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(rollout), strict=True)
    )
    assert rollout.as_told.tokens is rollout.tokens and rollout.as_told.mask is rollout.mask
    assert rollout.told.shape[1] > rollout.prompt.shape[1]
    teacher = learner.taught_by(state)
    graded = vocab.logits(drawing.head(learner.world, teacher, rollout))
    plain = vocab.logits(programs.head(learner.world.mesh, *teacher, rollout))

    def text(ids, mask):
        return learner.world.task.tokenizer.decode(np.asarray(ids)[np.asarray(mask)].tolist())

    for row in (0, 5, 15):
        asked = text(rollout.prompt[row], rollout.prompt_mask[row])
        a, b = asked.rstrip("=").split("+")
        assert text(rollout.told[row], rollout.told_mask[row]) == f"{int(a) + int(b)}={asked}"
        where = np.asarray(rollout.mask[row])
        one = alone(*teacher, rollout.told[row], rollout.told_mask[row], rollout.tokens[row])
        np.testing.assert_allclose(graded[row][where], one[where], atol=1e-4)
        assert np.max(np.abs(graded[row] - plain[row])[where]) > 1e-2


def test_the_gradient_holds_a_live_teacher_fixed(drawn):
    """-d/dtheta of KL(pi || sg pi(. | told)) at fixed states; not of both sides."""
    learner, state, rollout = drawn
    model, scoring = learner.student, learner.world.scoring
    head = drawing.head(learner.world, learner.taught_by(state), rollout)
    method = table.parse("opd")
    found = programs.gradients(
        learner.world.mesh, model, state.params, rollout, head, (method,), None, scoring
    )

    def objective(params, fixed):
        both = (
            jax.nn.log_softmax(vocab.logits(steps.head(model, theirs, which)))
            for theirs, which in (
                (params, rollout),
                (jax.lax.stop_gradient(params) if fixed else params, rollout.as_told),
            )
        )
        ours, theirs = both
        kl = jnp.sum(jnp.exp(ours) * (ours - theirs), -1)
        return -jnp.sum(jnp.where(rollout.mask, kl, 0)) / len(rollout.mask)

    held, free = (jax.grad(objective)(state.params, fixed) for fixed in (True, False))
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (found, held, free)]
    np.testing.assert_allclose(flat[0], flat[1], atol=2e-5 * np.abs(flat[1]).max())
    assert np.linalg.norm(flat[0] - flat[2]) > 0.05 * np.linalg.norm(flat[0])


def test_a_teacher_that_draws_reads_its_own_prompt(drawn):
    """And what it drew is the completion of the student's prompt."""
    learner, state, _ = drawn
    source = dataclasses.replace(learner.source, method=table.parse("teacher_behavior"))
    batch = source.prompts[3]
    found = behavior.BEHAVIORS["teacher"](source, state.params, 3, 0, {}).rollout
    swapped = {k: v for k, v in batch.items() if k not in ("told", "told_mask")}
    swapped |= {"prompt": batch["told"], "prompt_mask": batch["told_mask"]}
    plain = behavior._completed(source, source.teacher, swapped, 3)
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_array_equal(found.logp_behavior, plain.logp_behavior)
    np.testing.assert_array_equal(found.told, plain.prompt)
    np.testing.assert_array_equal(found.prompt, np.repeat(batch["prompt"], 4, axis=0))
    other = behavior._completed(source, source.teacher, batch, 3)
    assert not np.array_equal(found.tokens, other.tokens)


def test_given_solutions_have_the_teacher_s_prompt_too(drawn):
    learner, state, _ = drawn
    method = table.parse("gkd@share=0")
    source = dataclasses.replace(learner.source, method=method)
    found = source.draw(state.params, 0, 0, {}).rollout
    assert found.told.shape == (16, learner.world.task.told.width)


# --- who it is -----------------------------------------------------------------------------------


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("source", SOURCES)
def test_who_the_teacher_is_at_every_update(source, learner):
    found = learner(source)
    state, memory = found.start(), {}
    students, teachers, kls = [flat(state.params)], [flat(found.taught_by(state).params)], []
    for number in range(4):
        state, memory, figures = found.advance(state, memory, number)
        students.append(flat(state.params))
        teachers.append(flat(found.taught_by(state).params))
        kls.append(float(figures["kl"]))
    wanted = {
        "start": [students[0]] * 5,
        "live": students,
        "lagged": [students[n] for n in (0, 0, 2, 2, 4)],
        "ema": [students[0]],
    }[source]
    if source == "ema":
        for student in students[1:]:
            wanted.append(0.75 * wanted[-1] + 0.25 * student)
    for one, other in zip(teachers, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0 if source != "ema" else 1e-6)
    assert len({student.tobytes() for student in students}) == 5
    assert kls[0] > 1e-3, "told more, it is another policy from the start"


@pytest.mark.parametrize("source", ["live", "ema"])
def test_a_batch_that_is_used_again_is_graded_by_the_teacher_of_its_first_use(source, learner):
    found = learner(source, reuse__updates=3)
    state, memory, _ = found.advance(found.start(), {}, 0)
    before = jax.tree.map(np.asarray, memory["flight"]["teacher"])
    assert before.keys() == {"hidden", "unembedding"}
    state, memory, _ = found.advance(state, memory, 1)
    after = jax.tree.map(np.asarray, memory["flight"]["teacher"])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    back = flight.unpacked(memory["flight"], found.student, found.world)
    assert isinstance(back.teacher, vocab.Head) and back.teacher.tokens == found.student.tokens
    np.testing.assert_array_equal(back.rollout.told, memory["flight"]["rollout"]["told"])


def same(one, other):
    for name in log.FILES:
        found = (
            [line | dict.fromkeys(log.TIMES) for line in disk.read_jsonl(workdir / name)]
            for workdir in (one, other)
        )
        assert next(found) == next(found), name
    ends = [json.loads((workdir / "done.json").read_text()) for workdir in (one, other)]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"]


RESUMED = {
    "ema": {"reuse__updates": 2, "method__name": "opd_sampled"},
    "lagged": {"teacher__every": 3},
    "live": {"reuse__updates": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("source", RESUMED)
def test_a_run_that_goes_on_is_bit_identical_to_one_that_was_not_interrupted(
    source, models, tmp_path, capfd
):
    """The checkpoint at 3 is in the middle of a batch's uses, and of a lag."""
    changes = SOURCES[source] | RESUMED[source] | {"models": models, "checkpoint__every": 50}
    changes |= {"evaluate__every": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = train.train(debug(teacher__source=source, updates=5, **changes), whole)
    said = capfd.readouterr().err
    assert "first prompt, the student's: '" in said and "first prompt, the teacher's: '" in said
    assert f"\n{done['claim']}\n" in f"\n{said}"
    assert "told another prompt (teacher.prompt); each gradient holds" in done["claim"]
    assert train.train(debug(teacher__source=source, updates=3, **changes), parts)["step"] == 3
    again = train.train(debug(teacher__source=source, updates=5, **changes), parts)
    assert again["resumed_from"] == [3]
    same(whole, parts)
    config = train.begun(parts)
    plan = train.check(config, parts)
    assert train.score(config, parts, plan, 5)["kl"] == again["eval"]["kl"]
    best = train.score(config, parts, plan, "best")
    assert ("kl" in best) == (source == "live")


@pytest.mark.slow
def test_a_comparison_with_a_teacher_that_is_told_the_answer(models, tmp_path, capfd):
    config = of("start", models=models, probe__branches=2, compare__arms=("opd",), updates=2)
    results = compare.compare(config, tmp_path / "run")
    assert "first prompt, the teacher's: '" in capfd.readouterr().err
    assert results["teacher"] == "student as it began, told another prompt (teacher.prompt)"
    curve = results["training"][0]
    assert curve["kl"][0]["value"] > 1e-3 and "teacher" in results["models"]
    assert all(row["variance"]["total"] for row in results["estimators"])


def test_a_teacher_that_is_fitted_here_is_fitted_to_its_own_prompts(monkeypatch, tmp_path):
    """And is another player than one that was fitted to the students'."""
    read = []

    def noted(mesh, model, optimizer, state, rollout, *rest):
        task = ready.world.task
        ids, mask = np.asarray(rollout.prompt[0]), np.asarray(rollout.prompt_mask[0])
        read.append((task.tokenizer.decode(ids[mask].tolist()), rollout.told))
        raise InterruptedError

    monkeypatch.setattr(programs, "update", noted)
    config = debug()
    ready = train.check(config, tmp_path / "run").ready
    for plan in (ready.teacher, ready.student):
        with pytest.raises(InterruptedError):
            fit.fit(plan.name, plan.model, plan.config.fit, ready.world)
    assert [text.count("=") for text, _ in read] == [2, 1] and not any(told for _, told in read)
    asked = ready.teacher.model, config.teacher.fit, ready.world
    told = {"prompt": HINT, "room": ready.world.task.told.width}
    assert fit.identity(*asked, "teacher")["told"] == told
    assert "told" not in fit.identity(*asked)


# --- what is said, and refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__source": "old"}, "teacher.source = 'old': allowed are given, start, live"),
        (
            {"teacher__source": "ema", "teacher__path": "x"},
            "config.teacher.path = 'x': allowed with config.teacher.source = 'given' only",
        ),
        (
            {"teacher__source": "start", "teacher__from": "x"},
            "config.teacher.from = 'x': allowed with config.teacher.source = 'given' only",
        ),
        (
            {"teacher__source": "live", "teacher__prompt": None},
            "config.teacher.source = 'live': needs config.teacher.prompt",
        ),
        ({"teacher__decay": 1.0}, "config.teacher.decay = 1.0: allowed is 0 to below 1"),
        ({"teacher__every": 0}, "config.teacher.every = 0: allowed is 1 or more"),
        (
            {"teacher__prompt": None, "teacher__max_prompt": 9},
            "config.teacher.max_prompt = 9: needs config.teacher.prompt",
        ),
        ({"method__name": "grpo"}, "config.teacher.prompt = '{{ answer }}={{ prompt }}': nobody"),
        (
            {"method__name": "grpo", "teacher__prompt": None, "teacher__source": "ema"},
            "config.teacher.source = 'ema': nobody reads it, grpo has no teacher",
        ),
        ({"trains": "reward"}, "nobody reads it, a reward model has no teacher"),
        ({"teacher__prompt": "{{ hint }}"}, "config.teacher.prompt needs 'hint', has answer, mess"),
        ({"teacher__max_prompt": 5}, "config.teacher.max_prompt = 5: the teacher's prompt of "),
        (
            {"teacher__source": "ema", "method__name": "teacher_behavior"},
            "config.teacher.source = 'ema': teacher_behavior draws from the teacher",
        ),
        (
            {"method__name": "gkd@other=teacher,level=token,share=0.5"},
            "level=token mixes two policies after one prompt",
        ),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_refused_in_a_line(changes, message, tmp_path):
    with pytest.raises(ValueError) as error:
        train.check(debug(**changes), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_comparison_refuses_a_teacher_that_moves(tmp_path):
    with pytest.raises(
        ValueError, match="config.teacher.source = 'ema': allowed in a training only"
    ):
        compare.check(of("ema"), tmp_path / "run")


def test_a_claim_names_the_teacher_that_is_no_other_policy(tmp_path):
    def claim(config):
        return train.check(config, tmp_path / "run").claim

    assert claim(debug(teacher__prompt=None)) is None
    assert claim(debug()) == "opd: reverse_kl to the teacher, told another prompt (teacher.prompt)"
    said = claim(of("ema", method__name="rl_with_teacher"))
    assert "reward + 0.1 x reverse_kl to the average of the student (decay 0.75)" in said
    assert said.endswith("no one objective falls from update to update")
    assert claim(debug(method__name="grpo", evaluate__teacher=True)) == "grpo: reward"


def test_players_that_need_it_read_longer_sequences(tmp_path):
    def lengths(config):
        ready = train.check(config, tmp_path / "run").ready
        task = ready.world.task
        read = (player.model.config.max_length for player in (ready.teacher, ready.student))
        sizes = task.max_prompt, task.told and task.told.width
        return *(length - task.max_completion for length in read), *sizes

    teacher, student, short, told = lengths(debug())
    assert (teacher, student) == (told, short) and told > short
    teacher, student, short, told = lengths(of("live"))
    assert teacher == student == told


def test_no_second_model_is_held_but_what_must_be(tmp_path):
    def held(source):
        config = of(source)
        ready = train.check(config, tmp_path / "run").ready
        said = footprint.said(config, ready, table.parse("opd"), True)
        return "teacher" in said, ready

    assert [held(source)[0] for source in ("given", "start", "live", "ema")] == [
        True, False, False, True,
    ]  # fmt: skip
    ready = held("ema")[1]
    parts = footprint.parts(ready.world.mesh, ready.student.model, followed=True)
    assert parts["teacher"] == parts["gradients"]


def test_flops_of_the_teacher_are_of_its_own_prompt(drawn):
    learner, _, rollout = drawn
    lengths = rollout.prompt.shape[1], rollout.mask.shape[1]
    both = [
        costs.flops(learner.student, learner.student, learner.method, *lengths, told=told)
        for told in (None, rollout.told.shape[1])
    ]
    sequence = rollout.told.shape[1] + lengths[1] - 1
    assert both[1]["teacher"] == learner.student.matmul_flops(sequence, sequence)
    assert both[1]["teacher"] > both[0]["teacher"] and both[1]["update"] == both[0]["update"]


def test_the_teacher_s_own_accuracy_is_of_its_own_prompt(drawn, monkeypatch):
    learner, state, _ = drawn
    read = []
    rollout = programs.rollout

    def noted(mesh, model, params, prompt, *rest, **named):
        read.append(prompt.shape[1])
        return rollout(mesh, model, params, prompt, *rest, **named)

    monkeypatch.setattr(programs, "rollout", noted)
    world = learner.world
    batch = pipeline.encode_prompts(world.task, world.task.split("test")[:2])
    player = Player(learner.student, state.params)
    for told in (True, False):
        drawing.complete(world, player, batch, jax.random.key(0), 4, world.sampling, told=told)
    assert read == [world.task.told.width, world.task.max_prompt]

"""Whose rollouts an update is taken on. PEERS.md's bugs 4 and 13: each has its test here."""

import dataclasses
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.data import pipeline
from opd.engine import programs, sharding
from opd.method import facts, table
from opd.run import drawing
from opd.run.drawing import Player
from opd.run.rollouts import behavior, grouped
from opd.run.rollouts.behavior import BEHAVIORS, Source
from opd.run.settings import config as configs
from opd.run.settings.config import BufferConfig, DatasetConfig
from opd.run.training import checks
from opd.types import Rollout

ROOT = Path(__file__).parents[3]
PROMPTS = GROUP = 4
ROWS = PROMPTS * GROUP


def debug(**changes):
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    return dataclasses.replace(configs.build(values), **changes)


@pytest.fixture(scope="module")
def players():
    """A world, one model, and parameters of a student and a teacher that differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks.backend, "check", lambda: None)
        ready = checks.ready(debug(), (table.parse("opd"),))
    world, model = ready.world, ready.student.model
    return world, model, *(programs.init(world.mesh, model, seed) for seed in (1, 2))


@pytest.fixture
def source(players):
    """(method, other keys or fields) -> a source; graded by the number of its tokens."""
    world, model, student, teacher = players

    def make(method="opd", **changes) -> Source:
        fields = {field.name for field in dataclasses.fields(Source)}
        config = debug(**{key: value for key, value in changes.items() if key not in fields})
        base = Source(
            world=world,
            student=model,
            teacher=Player(model, teacher),
            method=table.parse(method),
            groups=config.prompts,
            buffer=config.buffer,
            dataset=config.dataset,
            reward=config.reward,
            seed=0,
            grade=lengths,
            sampling=world.sampling,
            start=student,
            workdir=None,
        )
        own = {key: value for key, value in changes.items() if key in fields}
        return dataclasses.replace(base, **own)

    return make


def lengths(rollout, batch, group_size):
    assert len(batch["answers"]) * group_size == len(rollout.row)
    return dataclasses.replace(rollout, reward=jnp.sum(rollout.mask, 1).astype(jnp.float32))


class Graded:
    """Rewards [U, G] of one call after the other, whatever the completions are."""

    def __init__(self, *rewards):
        self.rewards = [np.asarray(reward, np.float32) for reward in rewards]

    def __call__(self, rollout, batch, group_size):
        return dataclasses.replace(rollout, reward=jnp.asarray(self.rewards.pop(0).reshape(-1)))


def fields(rollout):
    """All that a row has but for its place."""
    names = {field.name for field in dataclasses.fields(Rollout)} - {"group", "row"}
    return {
        name: np.asarray(getattr(rollout, name))
        for name in names
        if getattr(rollout, name) is not None
    }


def same(left, right, rows=slice(None), others=None):
    others = rows if others is None else others
    left, right = fields(left), fields(right)
    assert left.keys() == right.keys()
    return all(np.array_equal(left[name][rows], right[name][others]) for name in left)


def refuse(*arguments, **named):
    raise RuntimeError("out of memory")


# --- student and teacher -------------------------------------------------------------------------


def test_a_students_draw(source, players):
    """Numbered, versioned, graded, on the mesh; a function of the number and the parameters."""
    world, _, student, teacher = players
    ours = source()
    drawn = ours.draw(student, 3, 7, {})
    assert (drawn.batches, drawn.generated, drawn.memory) == (1, ROWS, {})
    rollout = drawn.rollout
    assert rollout.row.tolist() == list(range(ROWS))
    assert rollout.group.tolist() == [row // GROUP for row in range(ROWS)]
    assert rollout.version.tolist() == [7] * ROWS and rollout.version.dtype == np.int32
    np.testing.assert_array_equal(rollout.reward, np.asarray(rollout.mask).sum(1))
    prompts = pipeline.prompts(world.task, "train", 0, PROMPTS)[3]["prompt"]
    np.testing.assert_array_equal(rollout.prompt[::GROUP], prompts)
    for leaf in jax.tree.leaves(rollout):
        assert leaf.sharding == sharding.batch_sharding(world.mesh, leaf.shape)
    assert same(rollout, ours.draw(student, 3, 7, {}).rollout)
    assert not same(rollout, ours.draw(teacher, 3, 7, {}).rollout)


def test_two_draws_differ_where_the_parameters_do_not(source, players):
    """Bug 4: noise that depends on nothing but the parameters. The same prompts every time."""
    _, _, student, _ = players
    ours = source()
    ours.__dict__["prompts"] = [ours.prompts[0]] * 2
    first, second = (ours.draw(student, number, 0, {}).rollout for number in (0, 1))
    np.testing.assert_array_equal(first.prompt, second.prompt)
    assert not np.array_equal(first.tokens, second.tokens)


def test_a_teachers_draw_is_the_teachers(source, players):
    _, _, student, teacher = players
    found = source("teacher_behavior").draw(student, 1, 7, {}).rollout
    assert same(found, source().draw(teacher, 1, -1, {}).rollout)


@pytest.mark.parametrize("method", ["opd", "teacher_behavior", "dagger", "gkd@share=1", "grpo"])
def test_whoever_draws_draws_as_the_training_does(method, source, players, monkeypatch):
    used = []
    monkeypatch.setattr(drawing, "complete", lambda *a, **k: used.extend(a[5:]) or refuse())
    asked = dataclasses.replace(players[0].sampling, temperature=0.7, top_k=3)
    with pytest.raises(RuntimeError):
        source(method, sampling=asked).draw(players[2], 0, 0, {})
    with pytest.raises(RuntimeError):
        source("offline_rl", sampling=asked).draw(players[2], 0, 0, {})
    assert used == [asked, asked]


class Broken:
    """A student that can't go on."""

    def __init__(self, model):
        self.model, self.vocab, self.width = model, model.vocab, model.width

    def __getattr__(self, name):
        return getattr(self.model, name)

    extend = prefill = apart = refuse


@pytest.mark.parametrize(
    "method",
    ["opd", "dapo", "dagger", "gkd@share=1", "gkd@level=sequence", "offline_rl"],
)
def test_a_student_that_fails_fails_the_draw(method, source, players):
    """Bug 13: a generation error that is skipped, and the update taken on the dataset's batch."""
    _, model, student, _ = players
    with pytest.raises(RuntimeError, match="out of memory"):
        source(method, student=Broken(model)).draw(student, 0, 0, {})


# --- mixtures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "of_teacher"), [(0.0, {True}), (1.0, {False})])
@pytest.mark.parametrize("level", ["batch", "sequence"])
def test_a_mixture_of_one(level, share, of_teacher, source, players):
    _, _, student, _ = players
    ours = source(f"gkd@other=teacher,level={level},share={share:g}")
    drawn = [ours.draw(student, number, 5, {}) for number in range(3)]
    assert {row == -1 for one in drawn for row in one.rollout.version.tolist()} == of_teacher
    assert all(one.figures["student_share"] == share for one in drawn)


@pytest.mark.parametrize("level", ["batch", "sequence"])
def test_a_mixtures_rows_are_one_players_or_the_others(level, source, players):
    _, _, student, _ = players
    ours = source(f"gkd@other=teacher,level={level}")
    own, others = source(), source("teacher_behavior")
    shares = []
    for number in range(12):
        drawn = ours.draw(student, number, 5, {})
        mine = np.asarray(drawn.rollout.version) == 5
        assert same(drawn.rollout, own.draw(student, number, 5, {}).rollout, mine)
        assert same(drawn.rollout, others.draw(student, number, 5, {}).rollout, ~mine)
        assert drawn.figures["student_share"] == mine.mean()
        assert (drawn.batches, drawn.generated) == (1, ROWS)
        assert same(drawn.rollout, ours.draw(student, number, 5, {}).rollout)
        shares.append(mine.mean())
    if level == "batch":
        assert set(shares) == {0.0, 1.0}
    else:  # 192 coins
        assert 0.3 < np.mean(shares) < 0.7 and len(set(shares)) > 3
        assert not set(shares) <= {0.0, 0.25, 0.5, 0.75, 1.0}  # coins are rows', not groups'


@pytest.mark.parametrize("level", ["batch", "sequence"])
def test_a_datasets_part_is_the_solutions_of_the_same_prompts(level, source, players):
    world, _, student, _ = players
    ours = source(f"gkd@level={level},share=0.3")
    tokenizer, given = world.task.tokenizer, 0
    for number in range(4):
        rollout = ours.draw(student, number, 5, {}).rollout
        prompts = pipeline.prompts(world.task, "train", 0, PROMPTS)[number]["index"]
        for row in np.flatnonzero(np.asarray(rollout.version) == -1):
            example = world.task.split("train")[prompts[row // GROUP]]
            graded = np.asarray(rollout.mask[row])
            said = np.asarray(rollout.tokens[row])[graded]
            read = np.asarray(rollout.prompt[row])[np.asarray(rollout.prompt_mask[row])]
            assert tokenizer.decode(read.tolist()) == example.prompt
            assert tokenizer.decode(said[:-1].tolist()) == example.solution
            assert said[-1] == tokenizer.eos_id and rollout.ended[row]
            assert np.all(np.isnan(rollout.logp_behavior[row]))  # nobody knows them
            assert rollout.reward[row] == graded.sum()
            given += 1
    assert 0 < given < 4 * ROWS


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_mixture_token_by_token(share, source, players):
    """At the ends it is one player's by the same noise; between them no row is the student's."""
    _, _, student, teacher = players
    ours = source(f"gkd@other=teacher,level=token,share={share:g}")
    drawn = ours.draw(student, 1, 5, {})
    assert set(drawn.rollout.version.tolist()) == {-1}
    assert (drawn.batches, drawn.generated, set(drawn.figures)) == (1, ROWS, {"degenerate"})
    ends = {1.0: student, 0.0: teacher}
    for end, params in ends.items():
        tokens = source().draw(params, 1, -1, {}).rollout.tokens
        assert np.array_equal(tokens, drawn.rollout.tokens) == (share == end)


# --- redraws -------------------------------------------------------------------------------------

LEVEL, MIXED = [1, 1, 1, 1], [0, 1, 0, 0]
# Which of a batch's groups differ within: batch after batch.
REWARDS = (
    (LEVEL, MIXED, [0, 0, 0, 0], MIXED),
    (LEVEL, LEVEL, LEVEL, MIXED),
    (MIXED, LEVEL, MIXED, MIXED),
    (MIXED, MIXED, MIXED, MIXED),
)


@pytest.mark.parametrize(
    ("redraws", "batches", "wanted"),
    [
        (0, 1, ((0, 0), (0, 1), (0, 2), (0, 3))),
        (1, 2, ((1, 3), (0, 1), (0, 2), (0, 3))),
        (2, 3, ((1, 3), (0, 1), (2, 0), (0, 3))),
        (3, 3, ((1, 3), (0, 1), (2, 0), (0, 3))),
    ],
)
def test_groups_of_equal_reward_are_drawn_again(redraws, batches, wanted, source, players):
    """`wanted` is the batch and the place in it that each group should come from."""
    _, _, student, _ = players
    drawn = source(f"dapo@redraws={redraws}", grade=Graded(*REWARDS)).draw(student, 6, 2, {})
    assert (drawn.batches, drawn.generated) == (batches, batches * ROWS)
    plain = source("grpo", grade=Graded(*REWARDS))
    origin = [plain.draw(student, 6 + number, 2, {}).rollout for number in range(len(REWARDS))]
    for group, (batch, place) in enumerate(wanted):
        here, there = (np.arange(GROUP) + GROUP * number for number in (group, place))
        assert same(drawn.rollout, origin[batch], here, there)
    assert drawn.rollout.row.tolist() == list(range(ROWS))
    assert drawn.rollout.group.tolist() == [row // GROUP for row in range(ROWS)]
    replaced = sum(batch > 0 for batch, _ in wanted)
    assert drawn.figures["degenerate"] == (2 - replaced) / PROMPTS
    assert drawn.figures.get("redrawn", 0) == replaced


# --- datasets ------------------------------------------------------------------------------------


def test_solutions_are_a_group_each(source, players):
    world, _, student, _ = players
    drawn = source("sft").draw(student, 2, 5, {})
    batch = pipeline.demonstrations(world.task, "train", 0, ROWS)[2]
    for name in ("prompt", "tokens", "mask", "ended"):
        np.testing.assert_array_equal(getattr(drawn.rollout, name), batch[name])
    assert drawn.rollout.group.tolist() == drawn.rollout.row.tolist() == list(range(ROWS))
    assert set(drawn.rollout.version.tolist()) == {-1}
    np.testing.assert_array_equal(drawn.rollout.reward, batch["mask"].sum(1))
    assert (drawn.batches, drawn.generated, drawn.figures) == (1, ROWS, {})


@pytest.mark.parametrize(("whose", "version"), [("student", 0), ("teacher", -1)])
def test_a_logged_dataset_is_whole_groups_of_one_policy(whose, version, source, players):
    """Of six groups, three batches of four are two epochs; whatever the student has become."""
    _, _, student, teacher = players
    ours = source("offline_rl", dataset=DatasetConfig(source=whose, groups=6))
    logged = ours.logged
    assert logged["tokens"].shape[:2] == (6, GROUP)
    seen = []
    for number in range(3):
        drawn = ours.draw(teacher, number, 5, {})
        assert set(drawn.rollout.version.tolist()) == {version}
        assert (drawn.batches, drawn.generated) == (1, ROWS)
        found = fields(drawn.rollout)
        for group in range(PROMPTS):
            rows = slice(group * GROUP, (group + 1) * GROUP)
            (place,) = (
                i
                for i in range(6)
                if all(np.array_equal(logged[name][i], found[name][rows]) for name in logged)
            )
            seen.append(place)
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]
    model, params = (ours.student, student) if whose == "student" else ours.teacher
    flat = grouped.joined({name: array[:4] for name, array in logged.items()})
    stats = programs.score(ours.world.mesh, model, params, flat, None, ours.world.scoring)
    scored = np.where(flat.mask, np.asarray(stats.logp_student), 0)
    np.testing.assert_allclose(flat.logp_behavior, scored, rtol=1e-4, atol=1e-4)


def test_a_logged_datasets_noise_is_its_own(source, players):
    """Neither another batch's, on the same prompts, nor that of the training's own draws."""
    ours = source("offline_rl", dataset=DatasetConfig(groups=8))
    ours.__dict__["prompts"] = [source().prompts[0]] * 2
    tokens = ours.logged["tokens"].reshape(2, ROWS, -1)
    own = source().draw(players[2], 0, 0, {}).rollout.tokens
    assert not np.array_equal(tokens[0], tokens[1])
    assert not np.array_equal(tokens[0], own)


def test_a_logged_dataset_is_drawn_once(source, players, tmp_path, monkeypatch):
    _, _, student, teacher = players
    keys = {"workdir": tmp_path, "dataset": DatasetConfig(groups=5)}
    made = source("offline_rl", **keys).draw(student, 0, 0, {}).rollout
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "complete", refuse)
        again = source("offline_rl", **keys).draw(student, 0, 3, {}).rollout
        assert same(made, again)
        for changed in ({"start": teacher}, {"seed": 1}, {"dataset": DatasetConfig(groups=6)}):
            with pytest.raises(RuntimeError):  # it would have to be drawn
                source("offline_rl", **(keys | changed)).draw(student, 0, 0, {})
    (path,) = (tmp_path / "dataset").glob("*.npz")
    said = json.loads(path.with_suffix(".json").read_text())
    assert said["identity"]["groups"] == 5
    path.write_bytes(path.read_bytes()[:-100])
    assert same(made, source("offline_rl", **keys).draw(student, 0, 0, {}).rollout)
    assert json.loads(path.with_suffix(".json").read_text())["sha256"] == said["sha256"]


# --- the buffer ----------------------------------------------------------------------------------


def test_a_buffer_keeps_what_was_drawn(source, players):
    """Rows as they were drawn, by whichever version; groups are distinct, and never too many."""
    _, _, student, _ = players
    ours = source("dagger", buffer=BufferConfig(size=10))
    memory, born = {}, source()
    for number in range(5):
        drawn = ours.draw(student, number, 10 * number, memory)
        again = ours.draw(student, number, 10 * number, memory)
        assert same(drawn.rollout, again.rollout)
        memory = drawn.memory
        assert all(np.array_equal(memory[name], again.memory[name]) for name in memory)
        assert len(memory["born"]) == min(4 * (number + 1), 10) == drawn.figures["buffered"]
        assert (drawn.batches, drawn.generated) == (1, ROWS)
        rows = drawn.rollout
        assert rows.row.tolist() == list(range(ROWS))
        assert rows.group.tolist() == [row // GROUP for row in range(ROWS)]
        ages = number - np.asarray(rows.version) / 10
        assert drawn.figures["age"] == pytest.approx(ages.mean())
        places = set()
        for group in range(PROMPTS):
            here = np.arange(GROUP) + GROUP * group
            (version,) = set(np.asarray(rows.version)[here].tolist())
            origin = born.draw(student, version // 10, version, {}).rollout
            (place,) = (
                place
                for place in range(PROMPTS)
                if same(rows, origin, here, np.arange(GROUP) + GROUP * place)
            )
            places.add((version, place))
        assert len(places) == PROMPTS
    assert len(set(memory["born"].tolist())) > 2


def fake(source, params, number, version, memory):
    """A fresh draw of two groups of two rows, whose one token is their number."""
    rows = np.arange(4, dtype=np.int32)[:, None]
    ones = np.ones((4, 1), bool)
    rollout = Rollout(
        rows, ones, rows // 2, ones, np.zeros((4, 1), np.float32), ones[:, 0], rows[:, 0] // 2,
        rows[:, 0],
    )  # fmt: skip
    return behavior.Drawn(rollout, {}, 1, 4, {})


def buffered(monkeypatch, size, age):
    monkeypatch.setattr(behavior, "student", fake)
    world = SimpleNamespace(group_size=2)
    return SimpleNamespace(world=world, groups=2, buffer=BufferConfig(size=size, age=age), seed=0)


def test_old_groups_leave_a_buffer(monkeypatch):
    ours, memory = buffered(monkeypatch, 100, 2), {}
    for number in range(6):
        memory = behavior.buffer(ours, None, number, 0, memory).memory
        assert sorted(set(memory["born"].tolist())) == list(range(max(0, number - 2), number + 1))


def test_a_buffers_draws_and_evictions_are_uniform(monkeypatch):
    """Of six groups in a buffer of four, each stays and each is drawn as often as the others."""
    ours = buffered(monkeypatch, 4, 0)
    old = grouped.split(fake(None, None, 0, 0, {}).rollout, 2) | {"born": np.zeros(2, np.int32)}
    memory = {name: np.concatenate([array, array]) for name, array in old.items()}
    memory["tokens"] = np.arange(2, 6, dtype=np.int32)[:, None, None] + np.zeros((4, 2, 1), int)
    trials = 900
    stays, drawn = np.zeros(6), np.zeros(6)
    for number in range(1, trials + 1):
        found = behavior.buffer(ours, None, number, 0, memory)
        stays[found.memory["tokens"][:, 0, 0]] += 1
        drawn[np.asarray(found.rollout.tokens)[::2, 0]] += 1
    for counts, share in ((stays, 4 / 6), (drawn, 2 / 6)):
        spread = np.sqrt(trials * share * (1 - share))
        assert np.all(np.abs(counts - trials * share) < 4 * spread), counts


# --- what a method asks for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "source", "wanted", "logp"),
    [
        ("sft", None, "solutions", False),
        ("sft", "teacher", "teacher", True),
        ("opd@behavior=dataset", None, "solutions", False),
        ("opd@behavior=dataset,importance=prefix", None, "student", True),
        ("opd@behavior=dataset,correction=prefix", None, "student", True),
        ("offline_rl", None, "student", True),
        ("offline_rl", "solutions", "solutions", False),
    ],
)
def test_what_a_dataset_is_made_of(method, source, wanted, logp):
    config = DatasetConfig(source=source)
    method = table.parse(method)
    assert behavior.dataset_source(method, config) == wanted
    assert ("dataset_logp" in behavior.needs_met(method, config)) == logp
    assert behavior.draws_teacher(method, config) == (wanted == "teacher")


@pytest.mark.parametrize(
    ("method", "source"),
    [("offline_rl@importance=token", "solutions"), ("gkd@importance=prefix", None)],
)
def test_nobody_knows_the_log_probabilities_of_solutions(method, source):
    method = table.parse(method)
    met = behavior.needs_met(method, DatasetConfig(source=source))
    with pytest.raises(ValueError, match="log-probabilities that the dataset's policy gave") as one:
        facts.require(method, met | {"reward", "teacher_full"})
    assert len(str(one.value).splitlines()) == 1


def test_what_cannot_be_drawn_is_said_at_once(players):
    task = players[0].task
    unsolved = dataclasses.replace(task.split("train")[0], solution=None)
    bare = dataclasses.replace(task, splits={"train": (unsolved,)})

    def check(name, task, size=1024):
        method, buffer = table.parse(name), BufferConfig(size=size)
        behavior.check(method, DatasetConfig(), buffer, PROMPTS, task)

    for name in ("sft", "gkd"):
        check(name, task)
        with pytest.raises(ValueError, match="takes solutions"):
            check(name, bare)
    for name in ("opd", "offline_rl", "gkd@share=1", "gkd@other=teacher", "dagger"):
        check(name, bare)
    check("opd", task, size=3)
    with pytest.raises(ValueError, match=r"config.buffer.size = 3: allowed is .* 4 or more"):
        check("dagger", task, size=3)


def test_every_behavior_of_the_table_is_here():
    assert set(BEHAVIORS) == set(table.AXES["behavior"].choices)

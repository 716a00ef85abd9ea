"""A run that learns nothing says so: once each time it begins, before and after a restart alike."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.engine.optimizer import OptimizerConfig
from opd.method import table
from opd.run.training import signs
from opd.run.training.note import Note
from opd.run.training.signs import QUIET, SIGNS, Circumstances

# An update of a healthy run of a reward and a teacher, each with its own loss.
HEALTHY = {
    "tokens": np.float32(640), "length": np.float32(10), "length_max": np.float32(16),
    "truncated": np.float32(0.1), "reward": np.float32(0.4), "reward_range": np.float32(1),
    "entropy_student": np.float32(0.5), "kl": np.float32(3), "kl_by_position": np.ones(16),
    "ess_rule": np.float32(0.9), "ess_of": "token", "clip_fraction": np.float32(0.1),
    "loss_reward": np.float32(0.2), "loss_teacher": np.float32(3), "gradient_norm": np.float32(80),
    "degenerate": 0.3, "uses": 1, "refresh": None, "skipped": 0, "unchanged": np.float32(0.01),
}  # fmt: skip
ONLY_SFT = {"loss_one": 0.7, "gradient_norm": 1.0, "ess_rule": math.nan, "ess_of": "trajectory"}
ONLY_SFT |= {"tokens": 640.0, "length": 10.0}
PAIRS = {"loss": 0.4, "accuracy": 0.9, "margin": 1.0, "gradient_norm": 1.0, "tokens": 64}
RUN = Circumstances(clip=1.0, still_after=1000, groups=16, cap=16, grouped=True, weighed=True)
# What makes each sign show, and what is nearest to it and doesn't.
SHOWS = {
    "equal_rewards": ({"reward_range": 0.0, "degenerate": 1.0}, {"reward_range": 1e-7}),
    "equal_groups": ({"degenerate": 1.0}, {"degenerate": 15 / 16}),
    "all_redrawn": ({"redrawn": 16.0}, {"redrawn": 15.0}),
    "all_cut": ({"truncated": 1.0}, {"truncated": 63 / 64}),
    "all_empty": ({"length_max": 1.0, "truncated": 0.0}, {"length_max": 1.0, "truncated": 0.5}),
    "skipped": ({"gradient_norm": math.nan}, {"gradient_norm": 999.0}),
    "same_policy": ({"kl": 9e-5}, {"kl": 2e-4}),
    "learned": (ONLY_SFT | {"loss_one": 1e-5}, ONLY_SFT),
    "told_apart": (PAIRS | {"loss": 1e-5}, PAIRS),
    "no_entropy": ({"entropy_student": 5e-4}, {"entropy_student": 2e-3}),
    "no_gradient": ({"gradient_norm": 0.0}, {"gradient_norm": 1e-6}),
    "clipped": ({"gradient_norm": 1001.0}, {"gradient_norm": 151.0}),
    "unchanged": ({"unchanged": 0.85}, {"unchanged": 0.3}),
    "still": ({"update": 1001}, {"update": 1000}),
    "ess_floor": ({"ess_rule": 1 / 640}, {"ess_rule": 3 / 640}),
    "all_bounded": ({"clip_fraction": 1.0}, {"clip_fraction": 0.9}),
    "used_up": ({"uses": 32}, {"uses": 16}),
}


def line(changes):
    """A line of a healthy run with changes; a whole one where it brings its own loss."""
    return changes if {"loss", "loss_one"} & changes.keys() else HEALTHY | changes


def begin(lines, memory=None, run=RUN, first=1):
    """Names, and what is said, of each of some lines one after the other."""
    memory, found = memory or {}, []
    for number, each in enumerate(lines, start=first):
        memory, names, said = signs.look(memory, each, run, each.get("update", number))
        found.append((names, said))
    return found, memory


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_said_once_when_it_begins(name):
    """After as many updates in a row as the table has, and in every line from there on."""
    assert set(SHOWS) == set(SIGNS), "a sign of the table has no line of its own here"
    shown, updates = line(SHOWS[name][0]), SIGNS[name].updates
    found, _ = begin([shown] * (updates + 3))
    for number, (names, said) in enumerate(found, start=1):
        assert (name in names) == (number >= updates)
        assert len(said) == (number == updates)
    (text,) = found[updates - 1][1]
    assert "\n" not in text and "{" not in text and len(text) < 400


@pytest.mark.parametrize("name", SIGNS)
def test_what_is_nearly_a_sign_says_nothing(name):
    found, memory = begin([line(SHOWS[name][1])] * 10)
    assert all(names == [] and said == [] for names, said in found)
    assert memory == {}


def test_a_break_starts_the_count_anew_and_a_short_one_says_nothing_twice():
    dead, well = line(SHOWS["all_cut"][0]), HEALTHY
    assert not any(said for _, said in begin([dead, dead, well] * 5)[0])
    found, _ = begin([*[dead] * 3, well, *[dead] * 3, *[well] * QUIET, *[dead] * 3])
    assert [number for number, (_, said) in enumerate(found) if said] == [2, 7 + QUIET + 2]
    assert [names for names, _ in found[2:7]] == [["all_cut"], [], [], [], ["all_cut"]]


def test_what_follows_from_another_sign_is_listed_and_not_said():
    """Until its cause is gone: then it is said for itself."""
    dead = HEALTHY | {"reward_range": 0.0, "degenerate": 1.0, "gradient_norm": 0.0}
    later = dead | {"reward_range": 1.0, "degenerate": 0.5}
    found, _ = begin([dead] * 4 + [later])
    assert found[2][0] == ["equal_rewards", "equal_groups", "no_gradient"]
    assert len(found[2][1]) == 1 and "earns 0.4" in found[2][1][0]
    assert found[4][0] == ["no_gradient"] and "gradient is zero" in found[4][1][0]


def test_one_batch_used_again_counts_once():
    """Its rewards say nothing new: three batches it takes, and not three updates."""
    first = HEALTHY | {"reward_range": 0.0, "truncated": 1.0, "degenerate": 1.0}
    again = {k: v for k, v in first.items() if k != "degenerate"} | {"uses": 2}
    found, _ = begin([first, again, again, first, again, first, again])
    names = ["equal_rewards", "equal_groups", "all_cut"]
    assert [each for each, _ in found] == [[]] * 5 + [names] * 2


@pytest.mark.parametrize(
    ("row", "name"),
    [("opd", "equal_rewards"), ("reinforce", "equal_groups"), ("opd", "ess_floor"),
     ("sft", "same_policy"), ("opd", "no_entropy")],
)  # fmt: skip
def test_what_a_row_does_not_use_is_no_sign(row, name):
    """A teacher's row doesn't learn from rewards, one without ratios has no weights."""
    method = table.parse(row)
    run = Circumstances.of(OptimizerConfig(), method, 16, 16)
    losses = {f"loss_{term.signal}": 1.0 for term in method.terms}
    rest = {key: value for key, value in HEALTHY.items() if not key.startswith("loss_")}
    found, _ = begin([rest | SHOWS[name][0] | losses] * 4, run=run)
    assert all(name not in names for names, _ in found)


def test_circumstances_are_the_config_s_and_the_row_s():
    optimizer = OptimizerConfig(clip=0.5, warmup=5, decay=20, floor=0.0)
    run = Circumstances.of(optimizer, table.parse("dapo"), 8, 32)
    assert run == Circumstances(0.5, 25, 8, 32, grouped=True, weighed=True)
    unlimited = dataclasses.replace(optimizer, clip=None)
    assert Circumstances.of(unlimited, table.parse("dapo"), 8, 32).clip == math.inf
    kept = dataclasses.replace(optimizer, floor=0.1)
    assert Circumstances.of(kept, None, 8, 32) == Circumstances(0.5, math.inf, 8, 32)
    # As the optimizer has it: the last rate that isn't zero is update 25's.
    assert not begin([HEALTHY | {"update": 25}], run=run)[0][0][0]
    assert begin([HEALTHY | {"update": 26}], run=run)[0][0][0] == ["still"]


def test_completions_of_one_token_are_all_cut_and_none_the_worse():
    assert not begin([line({"truncated": 1.0})] * 5, run=dataclasses.replace(RUN, cap=1))[1]


def test_a_sequence_weight_counts_rollouts():
    few = HEALTHY | {"ess_of": "trajectory", "ess_rule": 1 / 64}
    assert begin([few] * 3)[0][-1][0] == ["ess_floor"]
    assert begin([few | {"ess_rule": 3 / 64}] * 3)[0][-1][0] == []
    assert begin([few | {"ess_of": "token", "ess_rule": 1 / 64}] * 3)[0][-1][0] == []
    assert begin([few | {"tokens": 40.0, "ess_rule": 1 / 4}] * 3)[0][-1][0] == []  # of four


KINDS = (HEALTHY, *(line(shown) for shown, _ in SHOWS.values()))


@given(st.lists(st.sampled_from(KINDS), min_size=2, max_size=60), st.data())
def test_a_restart_changes_nothing(lines, data):
    """Through the JSON of a checkpoint's note, at any update: the same lines, none said twice."""
    cut = data.draw(st.integers(1, len(lines) - 1))

    def go_on(note, some):
        found = []
        for each in some:
            note, names, warnings = note.updated(1.0).looked(each, RUN)
            found.append((names, warnings))
        return note, found

    whole, wanted = go_on(Note(), lines)
    half, first = go_on(Note(), lines[:cut])
    saved = json.loads(json.dumps(dataclasses.asdict(half)))
    half, second = go_on(Note.resumed(saved), lines[cut:])
    assert first + second == wanted
    assert half.warnings == whole.warnings and half.signs == whole.signs


def test_a_note_of_before_there_were_signs_is_gone_on_from():
    saved = dataclasses.asdict(Note())
    del saved["signs"], saved["warnings"]
    assert Note.resumed(saved).warnings == () and Note.resumed(saved).signs == {}

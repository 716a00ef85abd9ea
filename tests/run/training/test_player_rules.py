"""Where a player's arrays lie, as a config says it: checked before a training, free to change."""

import dataclasses

import pytest

from configs import debug
from opd.fields import to_dict
from opd.run.settings import config as configs
from opd.run.training import checks, train


def config(**keys):
    made = debug.get_config()
    made.update_from_flattened_dict({"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2} | keys)
    return configs.build(made.to_dict())


@pytest.mark.parametrize("player", ["student", "teacher"])
def test_a_rule_that_does_not_divide_is_refused_before_anything_is_made(player, tmp_path):
    said = config(**{f"{player}.sharding.heads": ("data", "tensor")})
    with pytest.raises(
        ValueError, match=rf"config\.{player}\.sharding\.heads = .* 2 is no multiple of 4"
    ):
        train.check(said, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_player_has_its_own(tmp_path):
    ready = train.check(config(**{"teacher.sharding.embed": ()}), tmp_path / "run").ready
    assert ready.teacher.model.rules == (("embed", ()),) and ready.student.model.rules == ()


def test_a_run_goes_on_under_other_rules(tmp_path):
    begun, now = config(), config(**{"student.sharding.mlp": (), "teacher.sharding.mlp": ()})
    checks.same(now, to_dict(begun), tmp_path, train.FREE)
    with pytest.raises(ValueError, match="config.student.path was None"):
        moved = dataclasses.replace(now, student=dataclasses.replace(now.student, path="x"))
        checks.same(moved, to_dict(begun), tmp_path, train.FREE)

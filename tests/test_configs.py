"""The files of configs/: each is complete, builds, and speaks of methods that there are."""

import re
import runpy
from pathlib import Path

import ml_collections
import pytest

from opd.method import facts, table
from opd.run.settings import config as configs
from opd.run.settings.config import Config

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("[!_]*.py"))  # _NAME.py: what several of them share
# Data that each user has elsewhere: a config of them lacks this one key.
ELSEWHERE = ("needs data.path", "needs data.prompts")


def of(path):
    """A file's config, as the command line has it."""
    return runpy.run_path(str(path))["get_config"]()


def leaves(nested, prefix=""):
    """Dotted keys of nested dictionaries."""
    return {
        leaf
        for key, value in nested.items()
        for leaf in (
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
        )
    }


def parts(nested):
    """Every dictionary below one, by identity."""
    for value in nested.values():
        if isinstance(value, ml_collections.ConfigDict):
            yield id(value)
            yield from parts(value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_file_has_all_keys_and_is_accepted(path):
    """A key that a file leaves out can't be overridden on the command line."""
    found = of(path).to_dict()
    assert leaves(found) == leaves(configs.to_dict(Config()))
    try:
        facts.trainable(configs.build(found).method.parsed)
    except ValueError as error:
        assert any(needs in str(error) for needs in ELSEWHERE), error


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_two_parts_of_a_config_are_one(path):
    """Else --config.teacher.model.width=8 would be the student's too."""
    found = list(parts(of(path)))
    assert len(found) == len(set(found)) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_file_can_be_had_twice(path):
    """What one caller overrides is not what the next one gets."""
    module = runpy.run_path(str(path))
    first = module["get_config"]()
    first.teacher.model.width, first.data.seed = 8, 7
    second = module["get_config"]()
    assert (second.teacher.model.width, second.data.seed) != (8, 7)


NAMES = r"[a-z_]+@(?!best)\w[\w.=,]*\w|(?<=method\.name=)[a-z]\w*"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_methods_that_a_config_file_speaks_of_are_methods(path):
    """WORKDIR@best is a checkpoint, and ROW stands for whichever."""
    for name in re.findall(NAMES, path.read_text()):
        table.parse(name)

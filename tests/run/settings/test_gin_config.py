"""Gin: the same frozen config as ml_collections, and mistakes on one line."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from opd.run.settings import config as configs
from opd.run.settings import gin_config
from opd.run.settings.config import Config

ROOT = Path(__file__).parents[3]


def built(files=(), bindings=(), kept=frozenset()) -> Config:
    """The config of gin alone."""
    values = gin_config.get_config().to_dict()
    gin_config.bind(values, gin_config.read(files, bindings), kept)
    return configs.build(values)


def test_both_front_ends_end_in_the_same_frozen_config():
    values = runpy.run_path(str(ROOT / "configs" / "debug.py"))["get_config"]().to_dict()
    assert built([str(ROOT / "configs" / "gin" / "debug.gin")]) == configs.build(values)
    assert configs.build(values) != Config()


def test_what_comes_later_counts_and_what_is_kept_stays(tmp_path):
    inner, outer = tmp_path / "inner.gin", tmp_path / "outer.gin"
    inner.write_text("rate = 1e-2  # a comment\noptimizer.learning_rate = %rate\nconfig.seed = 1\n")
    outer.write_text(f"include '{inner}'\n\noptimizer:\n  warmup = 7\n  ema = 0.5\n")
    found = built([str(outer)], ["rate = 1e-3\nconfig.optimizer.ema = 0.9", "config.prompts = 2"])
    assert (found.optimizer.learning_rate, found.optimizer.warmup) == (1e-3, 7)
    assert (found.optimizer.ema, found.seed, found.prompts) == (0.9, 1, 2)
    assert (
        built([str(outer)], (), {"optimizer.ema", "seed"}).optimizer.ema == Config().optimizer.ema
    )


def test_keys_that_are_words_of_python_s_lists_and_macros_in_lists():
    bindings = [
        "student.from = 'runs/a@3'",
        "compare.arms = [%first, 'grpo']",
        "first = 'opd'",
        "method.name = 'gkd'\nmethod.share = 1.0",
        "student.fit.stop_at = None",
    ]
    found = built((), bindings)
    assert found.student.from_ == "runs/a@3" and found.compare.arms == ("opd", "grpo")
    assert found.method.parsed.name == "gkd@share=1" and found.student.fit.stop_at is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config.sed = 1", "config.sed: no such key; allowed are seed, seeds"),
        ("optimizer.rate = 1", "config.optimizer.rate: no such key; allowed are learning_rate"),
        ("config.seed.x = 1", "config.seed has no keys"),
        ("updates = 5", "updates is a macro, and no %updates uses it; a key of the top is written"),
        ("config.optimizer = 3", "config.optimizer is a part, not a key; its keys are learning_"),
        ("config.updates = 'many'", "config.updates = 'many': allowed is int"),
        ("config.updates = 0", "config.updates = 0: allowed is 1 or more"),
        ("method.name = opd", "Failed to parse token 'opd'; allowed is a literal"),
        ("config.seed =", "Unable to parse value; allowed is a literal"),
        ("config.seed = [1", "EOF in multi-line statement"),
        ("config.seed", "Couldn't parse statement"),
        ("config.seed = {[1]: 2}", "unhashable"),
        ("config.seed = %x", "no macro %x; there are: none"),
        ("x = %x\nconfig.seed = %x", "the macro %x stands for itself"),
        ("a/config.seed = 3", "a/config.seed: a scope; allowed is a key without"),
        ("config.seed = @opd()", "@opd would call code; allowed is a literal"),
        ("import this", "import this would run code; allowed is include"),
        ("from a import b", "from a import b would run code; allowed is include"),
        ("include 'nope.gin'", "include 'nope.gin': cannot be read (No such file or directory)"),
    ],
)
def test_a_mistake_is_said_on_one_line(text, message, tmp_path):
    file = tmp_path / "a.gin"
    file.write_text("\n" + text)
    for given in (([str(file)], ()), ((), [text])):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            built(*given)
        assert "\n" not in str(error.value)


def test_a_mistake_in_a_file_has_its_line(tmp_path):
    file = tmp_path / "a.gin"
    file.write_text("# one\n\nconfig.sed = 1\n")
    with pytest.raises(ValueError, match="a.gin:3: config.sed: no such key"):
        built([str(file)])
    file.write_text(f"include '{file}'\n")
    with pytest.raises(ValueError, match="a.gin:1: include '.*a.gin': it includes itself"):
        built([str(file)])
    with pytest.raises(ValueError, match="--gin_file=nope.gin: cannot be read"):
        built(["nope.gin"])


def test_gin_comes_without_tensorflow():
    program = "import sys, gin, gin.config_parser; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

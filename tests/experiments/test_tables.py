"""The README's tables are those of the code."""

import pytest

from experiments import tables
from opd.method import table


def test_the_readme_has_the_tables():
    """Written by python -m experiments.tables."""
    assert tables.written() == tables.README.read_text(), "run python -m experiments.tables"


def test_every_row_and_axis_is_a_line():
    for text, names in ((tables.rows(), table.ROWS), (tables.axes(), table.AXES)):
        lines = [line for line in text.splitlines() if line.startswith("| `")]
        assert [line.split("`")[1] for line in lines] == list(names)
        assert len({line.count("|") for line in lines}) == 1


def test_every_config_that_trains_is_a_line():
    """Those alone: debug and gsm8k are of comparisons."""
    text = tables.configs()
    assert "| `configs/rl.py` | `grpo` | Reinforcement learning" in text
    assert "| `configs/reward_model.py` | a reward model |" in text
    assert "debug" not in text and "gsm8k" not in text


def test_a_readme_without_a_block_is_refused():
    with pytest.raises(ValueError, match="no block <!-- axes: begin -->"):
        tables.replaced("<!-- rows: begin --> <!-- rows: end -->", {"rows": "", "axes": ""})

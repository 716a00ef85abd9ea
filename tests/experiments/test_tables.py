"""The README's tables of rows and axes are those of the code."""

import pytest

from experiments import tables
from opd.method import table


def test_the_readme_has_the_tables():
    """Written by python -m experiments.tables."""
    readme = tables.README.read_text()
    assert tables.replaced(readme) == readme, "run python -m experiments.tables"


def test_every_row_and_axis_is_a_line():
    for text, names in ((tables.rows(), table.ROWS), (tables.axes(), table.AXES)):
        lines = [line for line in text.splitlines() if line.startswith("| `")]
        assert [line.split("`")[1] for line in lines] == list(names)
        assert len({line.count("|") for line in lines}) == 1


def test_a_readme_without_a_block_is_refused():
    with pytest.raises(ValueError, match="no block <!-- axes: begin -->"):
        tables.replaced("<!-- rows: begin --> <!-- rows: end -->")

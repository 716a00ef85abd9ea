"""The parity tables: they render what was measured, all of it green, and say so if it isn't."""

import copy
import json
from pathlib import Path

import pytest

from experiments.parity import cases, page

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "parity"
RESULTS = json.loads((FOLDER / "results.json").read_text())


def test_the_readme_has_the_table_of_the_committed_results():
    """Written by python -m experiments.parity.run."""
    readme = (ROOT / "README.md").read_text()
    assert page.replaced(readme, RESULTS) == readme
    assert page.page(RESULTS) == (FOLDER / "README.md").read_text()


def test_every_row_is_green():
    assert page.green(RESULTS)
    assert "fails" not in page.page(RESULTS)


def test_the_results_are_of_all_cases_and_properties():
    assert [case["name"] for case in RESULTS["cases"]] == [case.name for case in cases.CASES]
    assert set(page.families(RESULTS)) == set(cases.FAMILIES)
    for case in RESULTS["cases"]:
        assert set(case["found"]) == set(RESULTS["properties"])
        assert case["scale"] > 1 and case["distinct"] > 4  # logits and continuations that vary
    assert set(RESULTS["memory"]) == {"bfloat16", "float32"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("logits", 2e-4, "**2e-4: fails**"),
        ("logits", None, "**nothing: fails**"),
        ("greedy", 63, "**63 of 64: fails**"),
        ("round_trip", False, "**differs: fails**"),
    ],
)
def test_what_does_not_hold_is_seen(name, value, said):
    results = copy.deepcopy(RESULTS)
    results["cases"][1]["found"][name] = value
    assert not page.green(results)
    assert said in page.block(results) and page.page(results).count("fails") == 1


def test_loading_that_takes_too_much_is_seen():
    results = copy.deepcopy(RESULTS)
    results["memory"]["float32"]["ratio"] = 1.3
    assert not page.green(results) and "**1.30: fails**" in page.page(results)


def test_a_readme_without_the_block_is_refused():
    with pytest.raises(ValueError, match="has no block <!-- parity: begin -->"):
        page.replaced("# opd\n", RESULTS)

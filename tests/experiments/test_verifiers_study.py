"""Pairs of answers and completions: what our verifiers make of them, and what the study says."""

import importlib.util
import json

import pytest

from experiments.verifiers import graders, run

PAIRS = run.pairs()
RESULTS = json.loads((run.FOLDER / "results.json").read_text(encoding="utf-8"))
# As the study's README lists them: nobody evaluates powers, and "42!" may be said with emphasis.
ERRS = {r"\boxed{2^{-1}}", r"\boxed{2^{10}}", r"\boxed{4^5}", r"\boxed{42!}"}


def test_there_are_enough_pairs_of_both_sorts():
    assert len(PAIRS) >= 300 and len({pair[1:3] for pair in PAIRS}) == len(PAIRS)
    assert 100 < sum(pair.right for pair in PAIRS) < len(PAIRS) - 100
    assert sum(row["pairs"] for row in RESULTS["kinds"].values()) == len(PAIRS)


@pytest.mark.parametrize("kind", dict.fromkeys(pair.kind for pair in PAIRS))
def test_a_final_answer_is_graded_as_it_is(kind):
    verdicts = {
        pair: run.graded(pair, run.GRADERS["`final_answer`"]) for pair in PAIRS if pair.kind == kind
    }
    wrong = {pair for pair, verdict in verdicts.items() if verdict not in (None, pair.right)}
    assert {pair.completion for pair in wrong} <= ERRS, wrong
    numbers = RESULTS["kinds"][kind]["`final_answer`"]
    assert numbers == (sum(v == p.right for p, v in verdicts.items()) or None)


@pytest.mark.parametrize("name", [name for name in run.GRADERS if name != "`final_answer`"])
def test_the_committed_verdicts_are_those_of_the_graders(name):
    if "math" in name and importlib.util.find_spec("math_verify") is None:
        pytest.skip("needs the extra math")
    apart = {
        (pair["answer"], pair["completion"]): pair["verdicts"][name]
        for pair in RESULTS["differences"]
    }
    for pair in PAIRS:
        said = run.graded(pair, run.GRADERS[name])
        assert said == apart.get((pair.answer, pair.completion), pair.right), pair


def test_the_page_is_that_of_the_results():
    page = (run.FOLDER / "README.md").read_text(encoding="utf-8")
    assert page.endswith(run.BEGIN + run.tables(RESULTS) + run.END)
    right = sum(pair.right for pair in PAIRS)
    assert f"{len(PAIRS)} pairs" in page and f"{right} are right" in page


@pytest.mark.parametrize(
    ("grader", "completion", "answer", "right"),
    [
        (graders.harness_strict, "#### 1,000.", "1000", True),
        (graders.harness_strict, "#### 1\n#### 2", "1", True),
        (graders.harness_strict, "####1", "1", False),
        (graders.harness_flexible, "1, then $2.", "2", True),
        (graders.harness_flexible, "2 or 3", "2", False),
        (graders.hendrycks, r"\boxed{\tfrac12}", r"\frac{1}{2}", True),
        (graders.hendrycks, r"\boxed{k = 3\text{ cm}}", "3", True),
        (graders.hendrycks, r"\boxed{1/2}", "0.5", True),
        (graders.hendrycks, r"\boxed{2}", "2.0", False),
        (graders.hendrycks, "2", "2", False),
    ],
)
def test_public_graders_do_what_they_document(grader, completion, answer, right):
    assert grader(completion, answer) == right

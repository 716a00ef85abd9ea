"""Mutants: each is another program, and what is spared is what can't matter."""

import ast
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import mutants  # noqa: E402
import mutate  # noqa: E402

SOURCE = '''"""Words - of a docstring."""
LIMIT: int = 2 - 1


def f(x, low=0.5, flag=True):
    """x + 1."""
    assert x > 3
    if x < low and not flag:
        raise ValueError(f"{x + 1} is not {low}")
    total = sum(y * 2 for y in x if y != 0)
    return -total if flag else total[1:], x in ("a", "b")
'''


@pytest.fixture
def module(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE)
    return tmp_path


def test_every_kind_of_change_is_made_once(module):
    made = {(one.before, one.after) for one in mutants.mutants(module, "m.py")}
    assert made >= {
        ("2 - 1", "2 + 1"), ("x < low", "x <= low"), ("not flag", "flag"), ("0.5", "1.0"),
        ("x < low and (not flag)", "x < low or not flag"), ("True", "False"), ("sum", "mean"),
        ("y * 2", "y / 2"), ("y != 0", "y == 0"), ("-total", "total"), ("1", "2"),
        ("x in ('a', 'b')", "x not in ('a', 'b')"), ("x in ('a', 'b')", "x in ('a?', 'b')"),
    }  # fmt: skip


def test_words_annotations_errors_and_assertions_are_spared(module):
    lines = SOURCE.splitlines()
    told = [
        i for i, line in enumerate(lines, 1) if '"""' in line or "assert" in line or "raise" in line
    ]
    assert {one.line for one in mutants.mutants(module, "m.py")}.isdisjoint(told)


def test_every_mutant_is_another_program(module):
    plain = ast.dump(ast.parse(SOURCE))
    made = mutants.mutants(module, "m.py")
    sources = [mutants.source(module, one) for one in made]
    assert len(made) > 15
    assert all(ast.dump(ast.parse(source)) != plain for source in sources)


def test_a_mutant_is_named_by_where_it_is():
    path = "opd/masked.py"
    made = mutants.mutants(ROOT, path)
    assert made and all(one.path == path and one.statement for one in made)
    assert all(one.function for one in made if not one.statement.isupper())


def test_what_is_listed_as_equivalent_is_a_mutant_of_today():
    """With a reason; a list of what is no more hides what is new."""
    listed = json.loads(mutate.EQUIVALENT.read_text())
    there = {one.key for path in mutate.files(mutate.CORE) for one in mutants.mutants(ROOT, path)}
    assert all(tuple(one["key"]) in there and one["reason"] for one in listed)


def test_every_module_of_the_core_has_tests_of_its_own():
    assert all(mutate.own_tests(path) for path in mutate.files(mutate.CORE))
    for path in mutate.files(mutate.CORE):
        assert all((ROOT / test).is_file() for test in mutate.own_tests(path))


def test_a_score_counts_survivors():
    one = {
        "path": "a.py",
        "line": 3,
        "function": "f",
        "statement": "s",
        "before": "1",
        "after": "2",
    }
    records = [one | {"killed_by": by} for by in ("own", "own", "wider", None)]
    text = mutate.summary(records)
    assert "| all | 4 | 50.0 % | 75.0 % |" in text and "a.py:3 f: s: 1  ->  2" in text

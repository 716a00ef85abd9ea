"""Verifiers on text: what counts as an answer and what doesn't."""

import importlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.data import pipeline, verifiers
from opd.data.builder import Example
from opd.data.functions import RewardError
from opd.data.pipeline import DataConfig
from opd.data.verifiers import VERIFIERS, exact_match, final_answer, named


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("answer", ["7", "-12", "1,200"])
def test_every_verifier_rewards_the_answer_itself_and_nothing_empty(name, answer):
    if name == "math":
        pytest.importorskip("math_verify")
    assert VERIFIERS[name](answer, answer) == 1.0
    assert VERIFIERS[name]("", answer) == 0.0
    wrong = "17" if name == "math" else answer + "1"
    assert VERIFIERS[name](wrong, answer) == 0.0


def test_exact_match_is_exact_up_to_surrounding_space():
    assert exact_match(" 19\n", "19") == 1.0
    for wrong in ("019", "19.0", "91", "1 9", "19 19", "=19"):
        assert exact_match(wrong, "19") == 0.0, wrong


@pytest.mark.parametrize(
    "completion",
    [
        "#### 1200",
        "so 3 * 400 = 1,200\n#### 1,200",
        "#### $1,200.00.",
        "####1200\nthank you",
        "#### 5\nno, wait\n#### 1200",
        "the total is $1,200.",
        "1,1200 or 1,200",
        "it costs 1200 %",
    ],
)
def test_final_answer_accepts(completion):
    assert final_answer(completion, "1,200") == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "#### 1,201",
        "1200\n####",
        "1200\n#### none",
        "#### 1200 or 5",
        "#### 1200 + 0",
        "#### -1200",
        "1200 and then 5",
        "12,00",
        "1,2000",
        "no number",
    ],
)
def test_final_answer_refuses(completion):
    assert final_answer(completion, "1,200") == 0.0


def test_a_minus_is_a_sign_only_where_it_can_be_one():
    assert final_answer("the change is -4", "-4") == 1.0
    assert final_answer("the change is -$4", "-4") == 1.0
    assert final_answer("9-4", "4") == 1.0
    assert final_answer("9-4", "-4") == 0.0


def test_commas_group_thousands_or_separate_numbers():
    assert final_answer("1,2005", "2005") == 1.0
    assert final_answer("1, 2, 3", "3") == 1.0
    assert final_answer("12,005", "12005") == 1.0


def test_an_answer_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="'twelve' is not a number"):
        final_answer("#### 12", "twelve")


@given(st.integers(-(10**20), 10**20), st.text())
def test_numbers_are_compared_as_numbers_beyond_float_precision(number, text):
    worked = f"{text}\n#### {number:,}"
    assert final_answer(worked, str(number)) == 1.0
    assert final_answer(worked, str(number + 1)) == 0.0


@pytest.mark.parametrize("name", VERIFIERS)
@given(completion=st.text(), answer=st.integers(0, 99))
def test_any_completion_gets_a_zero_or_a_one(name, completion, answer):
    if name == "math":
        pytest.importorskip("math_verify")
    assert VERIFIERS[name](completion, str(answer)) in (0.0, 1.0)


# --- by name ---------------------------------------------------------------------------------


def test_a_pattern_s_last_find_is_the_answer():
    boxed = named(r"regex:\\boxed\{([^}]*)\}")
    assert boxed(r"\boxed{3}, no, \boxed{ 4 }.", "4") == 1.0
    assert boxed(r"\boxed{4}, no, \boxed{3}.", "4") == 0.0
    assert boxed("4", "4") == 0.0
    bare = named(r"regex:[0-9]+")
    assert bare("3 and 4", "4") == 1.0 and bare("3 and 4", "3") == 0.0
    either = named(r"regex:(?:A=(\d+)|none)")  # a group that took no part found nothing
    assert either("A=1, none", "1") == 0.0 and either("none, A=1", "1") == 1.0


def test_of_a_pattern_s_groups_the_one_that_took_part_counts():
    two = named(r"regex:answer is (\d+)|\\boxed\{(\d+)\}")
    assert two("the answer is 4", "4") == 1.0 and two(r"\boxed{4}", "4") == 1.0
    assert two(r"the answer is 3, no: \boxed{4}", "4") == 1.0
    assert two(r"\boxed{4}, no: the answer is 3", "4") == 0.0


def test_a_pattern_s_empty_finds_are_none():
    anything = named("regex:(.*)")
    assert anything("42", "42") == 1.0 and anything("", "42") == 0.0
    assert anything("7\n42\n", "42") == 1.0


def test_a_pattern_that_never_ends_is_said(monkeypatch):
    monkeypatch.setattr("opd.data.worker.SECONDS", 0.5)
    endless = named("regex:(a+)+b")
    with pytest.raises(RewardError) as error:
        verifiers.grade("regex:(a+)+b", endless, "p", "a" * 60, "a")
    assert "prompt 'p', completion 'aaa" in str(error.value)
    assert "raised TimeoutError: no answer within 0.5 seconds" in str(error.value)
    assert endless("aab", "aa") == 1.0, "another process answers"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes the module own_verifier, and forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        sys.modules.pop("own_verifier", None)
        (tmp_path / "own_verifier.py").write_text(text)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("own_verifier", None)


def test_a_user_s_own_is_imported(module):
    module(
        "def longer(completion, answer):\n    return float(len(completion) > len(answer))\n"
        "def three(prompt, completion, answer):\n    return 1\nNUMBER = 3\n"
    )
    assert named("own_verifier:longer")("abc", "ab") == 1.0
    for said, message in (
        ("own_verifier:shorter", "own_verifier has no shorter"),
        ("own_verifier:NUMBER", "it is a int, allowed is a function"),
        (
            "own_verifier:three",
            r"it is called as f\(completion, answer\), and that fails \(missing a",
        ),
        ("no_such_module:f", "no_such_module cannot be imported"),
    ):
        with pytest.raises(ValueError, match=f"data.verifier = '{said}': {message}"):
            named(said)


def test_a_user_s_own_is_known_by_its_file(module):
    module("def f(completion, answer):\n    return 1\n")
    before = verifiers.digest("own_verifier:f")
    assert verifiers.digest("own_verifier:f") == before
    module("def f(completion, answer):\n    return 0\n")
    assert verifiers.digest("own_verifier:f") != before
    assert {verifiers.digest(name) for name in (None, *VERIFIERS, "regex:a:b")} == {None}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("exactly", "allowed are exact, final_answer, math, regex:PATTERN or MODULE:NAME"),
        ("regex:(", "'regex:(': not a pattern ("),
        (":f", "allowed is MODULE:NAME"),
        ("f:", "allowed is MODULE:NAME"),
    ],
)
def test_an_unknown_one_is_refused_in_one_line(said, message):
    with pytest.raises(ValueError) as error:
        named(said)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_mathematics_is_compared_as_such():
    pytest.importorskip("math_verify")
    equal = named("math")
    for completion, answer in (
        (r"so it is $\boxed{\frac{1}{2}}$", "0.5"),
        (r"$x^2 + 2x + 1$", "(x+1)^2"),
        ("the answer is 1,200.", "1200"),
    ):
        assert equal(completion, answer) == 1.0, completion
        assert equal(completion, "17") == 0.0, completion


@pytest.mark.parametrize(
    "completion",
    [
        r"\boxed{41}. No, a row is missing: \boxed{42}",
        r"<think>36? \boxed{36}</think> \boxed{42}",
        r"\fbox{42}",
        r"\boxed 42",
        r"\boxed{42\text{ cm}}",
        r"\boxed{\$42}",
        r"\boxed{€42}",
        r"\boxed{x=42}",
        r"\boxed{42} since 6*7",
        r"\boxed{$42$}",
        r"\boxed{42} as in \boxed{}",
        "#### 42 (since 6*7)",
        "#### 42!",
    ],
)
def test_mathematics_takes_the_last_box_or_marker_however_it_is_dressed(completion):
    pytest.importorskip("math_verify")
    for answer in ("42", "$42$", r"\boxed{42}", "42.0"):
        assert named("math")(completion, answer) == 1.0, answer
    assert named("math")(completion, "41") == named("math")(completion, "6") == 0.0


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{42}, no: \boxed{43}", "42"),
        (r"<think>\boxed{42}</think>", "42"),
        (r"\boxed{}", "42"),
        (r"\boxed{42!}", "42"),
        (r"\boxed{1.2}", "1,2"),
        (r"\boxed{(1,2)}", "1.2"),
    ],
)
def test_mathematics_refuses(completion, answer):
    pytest.importorskip("math_verify")
    assert named("math")(completion, answer) == 0.0


def test_mathematics_that_never_ends_is_no_answer(monkeypatch):
    pytest.importorskip("math_verify")
    assert named("math")("$7$", "7") == 1.0
    monkeypatch.setattr("opd.data.worker.SECONDS", 0.5)
    assert named("math")("$9^{9^{9^9}}$", "7") == 0.0
    monkeypatch.undo()
    assert named("math")("$7$", "7") == 1.0, "another process answers"


def test_mathematics_without_its_extra_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValueError, match=r"needs the extra: pip install opd\[math\]"):
        named("math")


# --- before anything is graded ---------------------------------------------------------------


def line(answer, where=None):
    return Example("1+1=", answer=answer, where=where)


def test_answers_that_cannot_be_graded_by_are_named_with_their_lines():
    answers = {12: "7", 3: "seven", 1: "1/2", 10: "1/0", 9: "", 2: "-3", 11: "1 or 2"}
    lines = [line(answer, f"p.jsonl:{number}") for number, answer in answers.items()]
    with pytest.raises(ValueError) as error:
        verifiers.check("final_answer", final_answer, lines)
    assert str(error.value) == (
        "p.jsonl:3, p.jsonl:9, p.jsonl:10 and 1 more: 'answer' 'seven' is not a number: "
        "data.verifier = 'final_answer' can't grade by it; allowed are answers that earn 1 as "
        "their own completion, or another data.verifier"
    )
    verifiers.check("final_answer", final_answer, [line("7"), line("1/2"), line("-3")])
    with pytest.raises(ValueError, match=r"^prompt '1\+1=': 'answer' 'x' is not a number"):
        verifiers.check("final_answer", final_answer, [line("7"), line("x")])


def test_an_answer_that_nothing_earns_is_refused():
    with pytest.raises(ValueError, match="^a:1: 'answer' '  ' lets an empty completion earn 1"):
        verifiers.check("exact", exact_match, [line("x", "a:2"), line("  ", "a:1")])


def test_mathematics_is_graded_by_nothing_that_it_cannot_read():
    pytest.importorskip("math_verify")
    good = ["7", r"\frac{1}{2}", "x^2+1", "(1,2)", r"\text{Monday}", "42 km", "1 000", "B"]
    verifiers.check("math", VERIFIERS["math"], [line(answer) for answer in good])
    with pytest.raises(ValueError, match="'answer' '  ' as its own completion earns 0"):
        verifiers.check("math", VERIFIERS["math"], [line("7"), line("  ")])


@pytest.mark.parametrize(
    ("body", "did"),
    [
        ("return None", "returned None; allowed is a finite number"),
        ("return float('nan')", "returned nan; allowed is a finite number"),
        ("return completion", "returned 'ab'; allowed is a finite number"),
        ("raise KeyError(answer)", "raised KeyError: 'ab'"),
        ("raise SystemExit(0)", "raised SystemExit: 0"),
    ],
)
def test_a_user_s_own_is_tried_once(module, body, did):
    module(f"def f(completion, answer):\n    {body}\n")
    with pytest.raises(ValueError) as error:
        verifiers.check("own_verifier:f", named("own_verifier:f"), [line("ab"), line("c")])
    assert str(error.value) == (
        f"data.verifier = 'own_verifier:f', prompt '1+1=', completion 'ab', answer 'ab': {did}"
    )
    module("calls = []\ndef f(completion, answer):\n    calls.append(answer)\n    return 0\n")
    verifiers.check("own_verifier:f", named("own_verifier:f"), [line("ab"), line("c")])
    assert sys.modules["own_verifier"].calls == ["ab"]


def test_what_a_verifier_may_not_do_is_said_with_prompt_and_completion():
    def graded(value, **prompt):
        return verifiers.grade("m:f", lambda completion, answer: value, "p" * 99, "c" * 99, "a")

    assert graded(True) == 1.0 and graded(0.25) == 0.25
    with pytest.raises(RewardError) as error:
        graded(None)
    assert str(error.value) == (
        f"data.verifier = 'm:f', prompt '{'p' * 59}, completion '{'c' * 59}, answer 'a': returned "
        "None; allowed is a finite number"
    )


def test_a_file_s_answers_are_looked_at_before_a_run(tmp_path, module):
    """As a training, a comparison and a score load them."""
    answers = ["7", "1/2", "-3", "$1,000", "1.50", "1/2 of it"] * 5
    path = tmp_path / "p.jsonl"

    def load(verifier, *last):
        rows = [{"prompt": f"{n}?", "answer": a} for n, a in enumerate(answers)]
        rows += [{"prompt": f"last {n}?"} | row for n, row in enumerate(last)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = DataConfig(prompts=str(path), max_completion=8, verifier=verifier)
        return pipeline.load(config)

    assert load("final_answer", {"answer": 7}).verifier is final_answer
    with pytest.raises(ValueError, match=rf"^{path}:31, {path}:33: 'answer' 'x' is not a number"):
        load("final_answer", {"answer": "x"}, {"answer": "1"}, {"answer": "y"})
    with pytest.raises(ValueError, match=rf"^{path}:32: there is no 'answer': data.verifier = 'ex"):
        load("exact", {"answer": "x"}, {})
    assert load(None, {}).verifier is None
    module("def f(completion, answer):\n    return None\n")
    with pytest.raises(ValueError, match="own_verifier:f.*returned None; allowed is a finite"):
        load("own_verifier:f")

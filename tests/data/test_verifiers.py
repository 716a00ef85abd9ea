"""Verifiers on text: what counts as an answer and what doesn't."""

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.data import math_process
from opd.data.verifiers import VERIFIERS, exact_match, final_answer, named, parse_number


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
    assert parse_number(f"{number:,}") == number
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


def test_a_user_s_own_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_verifier.py").write_text(
        "def longer(completion, answer):\n    return float(len(completion) > len(answer))\n"
        "NUMBER = 3\n"
    )
    assert named("own_verifier:longer")("abc", "ab") == 1.0
    for said, message in (
        ("own_verifier:shorter", "own_verifier has no shorter"),
        ("own_verifier:NUMBER", "it is a int, allowed is a function"),
        ("no_such_module:f", "no_such_module cannot be imported"),
    ):
        with pytest.raises(ValueError, match=f"data.verifier = '{said}': {message}"):
            named(said)


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


def test_mathematics_that_never_ends_is_no_answer():
    pytest.importorskip("math_verify")
    process = math_process.Process()
    assert process.equal("$7$", "7")
    began = time.monotonic()
    assert not process.equal("$9^{9^{9^9}}$", "7", seconds=0.5)
    assert time.monotonic() - began < 20
    assert process.equal("$7$", "7"), "another process answers"
    process.close()


def test_mathematics_without_its_extra_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValueError, match=r"needs the extra: pip install opd\[math\]"):
        named("math")

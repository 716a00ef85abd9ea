"""Verifiers on text: what counts as an answer and what doesn't."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.data.verifiers import VERIFIERS, exact_match, final_answer, parse_number


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("answer", ["7", "-12", "1,200"])
def test_every_verifier_rewards_the_answer_itself_and_nothing_empty(name, answer):
    assert VERIFIERS[name](answer, answer) == 1.0
    assert VERIFIERS[name]("", answer) == 0.0
    assert VERIFIERS[name](answer + "1", answer) == 0.0


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


@given(st.text(), st.integers(0, 99))
def test_any_completion_gets_a_zero_or_a_one(completion, answer):
    for verifier in VERIFIERS.values():
        assert verifier(completion, str(answer)) in (0.0, 1.0)

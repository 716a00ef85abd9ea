"""Numbers as people write them. What is one and what isn't is in experiments/verifiers/pairs.jsonl,
which tests/experiments/test_verifiers_study.py goes through; here is what holds for any."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.data import numbers
from opd.data.numbers import Number

WHOLE = st.integers(-(10**12), 10**12)
DRESSED = st.sampled_from(
    ["{}", "**{}**", "\\boxed{{{}}}", "${}$", "x = {}", "({})", "{} apples", "{} (6 * 7)", "{}."]
    + ["Answer: {}", "{}, since 6 * 7 = 42", "`{}`", "{} %", "\\text{{{} cm}}", "{} / 1", "{}.0"]
)
GROUPED = st.sampled_from(["{:d}", "{:,d}", "{:_d}"])


@given(WHOLE, DRESSED, GROUPED, st.text())
def test_a_whole_number_is_read_however_it_is_dressed(number, dressed, grouped, before):
    text = dressed.format(grouped.format(number))
    said = numbers.final(f"{before}\n#### {text}")
    assert said is not None and said.same(numbers.parse(str(number))), text
    assert not said.same(numbers.parse(str(number + 1)))
    assert number == 0 or not said.same(numbers.parse(str(-number)))


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_a_decimal_is_exact(value):
    assert numbers.parse(f"{value:f}").value == Fraction(value)
    assert numbers.parse(f"{value:,f}").value == Fraction(value)
    assert numbers.parse(f"{value:E}").value == Fraction(value)


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_exact(top, bottom):
    wanted = Fraction(top, bottom)
    sign = "-" if top < 0 else ""
    for text in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", f"{top} / {bottom} of it"):
        assert numbers.parse(text).value == wanted, text
    whole, rest = divmod(abs(top), bottom)
    if rest:
        assert numbers.parse(f"{sign}{whole} {rest}/{bottom}").value == wanted


@given(WHOLE, WHOLE, st.sampled_from([" or ", " and ", ", ", " ", "; ", " to ", " = ", " + ", ":"]))
def test_two_numbers_are_none(one, other, between):
    text = f"{one}.5{between}{other}.25"
    assert numbers.declared(text) is None, text


def test_a_scale_is_a_unit_or_is_reckoned_with():
    percent, whole, part = (numbers.parse(text) for text in ("42%", "42", "0.42"))
    assert percent == Number(Fraction(42), Fraction(1, 100))
    assert percent.same(whole) and percent.same(part) and not whole.same(part)
    assert whole.same(percent) and part.same(percent) and percent.same(percent)
    assert not percent.same(numbers.parse("0.42%"))
    million = numbers.parse("1.5 million")
    assert million.same(numbers.parse("1500000")) and million.same(numbers.parse("1500 thousand"))
    assert million.same(numbers.parse("1.5")) and not million.same(numbers.parse("1.5 thousand"))


@pytest.mark.parametrize(
    "text",
    ["", " ", "seven", "None", "nan", "inf", "1/0", "0/0", "x", "42 or 43", "42 (6*7)"]
    + ["42, since 6*7", "3:4", "1-2", "2^3", r"\sqrt{2}", "pi", "(1,2)", "[0,1)", "12:30"]
    + [r"\{1,2\}", "> 3", "±3", "12 apples and 3 pears", "9" * 2000, "3 of 4"],
)  # fmt: skip
def test_an_answer_that_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a number") as error:
        numbers.parse(text)
    assert len(str(error.value)) < 90


@pytest.mark.parametrize(
    ("text", "value"),
    [("42", 42), ("-3", -3), ("1.50", 1.5), ("1/2", 0.5), ("$1,000", 1000), ("42 km", 42)]
    + [("x = 3", 3), ("1e5", 100000), (r"\frac{1}{4}", 0.25), ("½", 0.5), ("−3", -3), ("(7)", 7)]
    + [("  7 ", 7), ("12,5", 12.5), ("(1,000)", 1000)],
)  # fmt: skip
def test_an_answer_that_is_one_is_taken(text, value):
    assert numbers.parse(text).value == Fraction(value)


@pytest.mark.parametrize(
    "piece",
    ["(", "1 ", "9", "1,", "{", r"\text{", "-", "1.000,", "1/", "*", "<a", "_", "$", " ", "=", "#"]
    + [
        "</think>",
        r"\boxed{",
        "minus ",
        "a^",
        r"\frac{1}{",
        "1e1",
        " 000",
        " since",
        ". a",
        "1 or ",
    ]
    + ["1.000.", "(1", ",1", "'1", "US$", "\\", "0,", ": ", "x10^", "½", "…"],
)
@pytest.mark.parametrize("before", ["", "#### 1"])
def test_no_text_takes_long(piece, before):
    """Quadratic in its length, some take 2 seconds and more."""
    began = time.process_time()
    numbers.final(before + piece * 8_000)
    assert time.process_time() - began < 1

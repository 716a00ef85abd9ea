import math

import pytest

from opd.report.measured import (
    Measured,
    at_most,
    inverse,
    measured,
    overlap,
    prose,
    times,
    within,
    written,
)


def test_reads_what_results_hold():
    assert measured({"value": 1, "low": 0.5, "high": None}) == Measured(1.0, 0.5, math.inf)
    assert measured({"value": 1, "low": None, "high": None}) == Measured(1.0, -math.inf, math.inf)
    assert measured({"value": 1}) == Measured(1.0)  # no interval was formed
    assert measured(0.25) == Measured(0.25)
    assert measured(None) is measured(math.nan) is measured({"value": None}) is None


@pytest.mark.parametrize(
    "figure, shown",
    [
        ((0.8123, 0.7101, 0.9178), "0.81 (0.71 to 0.92)"),
        ((0.42, 0.41, 0.43), "0.420 (0.410 to 0.430)"),  # three digits of the value at most
        ((1234.0, 1080.0, 1380.0), "1230 (1080 to 1380)"),
        ((0.3, -4.8, 5.6), "0.3 (-4.8 to 5.6)"),
        ((0.05, 0.0021, 1.5), "0.050 (0.0021 to 1.5)"),  # skewed: the low end is no zero
        ((1.23e-5, 0.8e-5, 1.7e-5), "1.23e-5 (0.80e-5 to 1.70e-5)"),
        ((-0.0004, -0.01, 0.01), "0.000 (-0.010 to 0.010)"),  # no -0.000
        ((0.5, None, None), "0.500"),
        ((0.5, 0.31, math.inf), "0.50 (at least 0.31)"),
        ((0.5, -math.inf, 0.77), "0.50 (at most 0.77)"),
        ((0.5, -math.inf, math.inf), "0.500 (not bounded)"),
        ((1.23e-6, 0.8e-6, math.inf), "1.2e-6 (at least 0.80e-6)"),
    ],
)
def test_digits_follow_the_interval(figure, shown):
    assert prose(Measured(*figure)) == shown


def test_null_is_a_dash_and_never_a_number():
    assert written(None) == ("–", "–", "–") and prose(None) == prose(math.nan) == "–"


def test_intervals_that_touch_overlap():
    a, b, c = Measured(1, 0, 2), Measured(3, 2, 4), Measured(5, 4.5, 6)
    assert overlap(a, b) and overlap(b, a) and not overlap(a, c) and not overlap(c, a)
    assert overlap(a, Measured(100.0))  # without an interval nothing is settled


def test_an_inverse_has_its_ends_exchanged():
    assert inverse(Measured(4.0, 2.0, 8.0)) == Measured(0.25, 0.125, 0.5)
    assert inverse(Measured(4.0)) == Measured(0.25)
    assert inverse(Measured(4.0, 2.0, math.inf)) == Measured(0.25, 0.0, 0.5)
    assert inverse(Measured(4.0, -math.inf, 8.0)) == Measured(0.25, 0.125, math.inf)
    assert inverse(Measured(4.0, -math.inf, math.inf)) == Measured(0.25, -math.inf, math.inf)
    for nothing in (None, Measured(0.0), Measured(-1.0, -2.0, -0.5), Measured(1.0, 0.0, 2.0)):
        assert inverse(nothing) is None


@pytest.mark.parametrize(
    "ends, room",
    [
        ((0.9, 1.2), "1.2 times"),
        ((0.5, 1.2), "2 times"),  # either way
        ((0.99, 1.2345), "1.24 times"),  # never less than the interval leaves
        ((0.04, 1.2), "25 times"),
        ((0.0, 1.2), "any size"),
        ((None, None), "any size"),
        ((0.9, math.inf), "any size"),
        ((-math.inf, math.inf), "any size"),
    ],
)
def test_the_room_that_an_interval_leaves(ends, room):
    assert within(Measured(1.0, *ends)) == room


@pytest.mark.parametrize(
    "number, shown", [(0.1049, "0.11"), (0.1, "0.1"), (19.1, "20"), (3.0, "3"), (0.00102, "0.0011")]
)
def test_a_bound_is_rounded_up(number, shown):
    assert at_most(number) == shown


def test_a_factor_in_words():
    assert times(Measured(3.21, 1.91, 5.4)) == "3.2 times (1.9 to 5.4)"
    assert times(Measured(3.21)) == "3.21 times"
    assert times(Measured(3.21, 1.91, math.inf)) == "3.2 times (at least 1.9)"


def test_an_open_interval_excludes_what_is_beyond_its_end():
    figure = Measured(1.0, 0.5, math.inf)
    assert figure.known and figure.covers(1e9) and not figure.covers(0.4)
    whole = Measured(1.0, -math.inf, math.inf)
    assert not whole.known and whole.covers(-1e9) and overlap(whole, Measured(5, 4, 6))
    assert not overlap(figure, Measured(0.1, 0.0, 0.2)) and overlap(figure, Measured(9, 8, 10))

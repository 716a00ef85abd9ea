import math

import pytest

from opd.report.measured import Measured, compact, measured, overlap, prose, ratio, times, written


def test_reads_what_results_hold():
    assert measured({"value": 1, "low": 0.5, "high": None}) == Measured(1.0, 0.5, None)
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
    ],
)
def test_digits_follow_the_interval(figure, shown):
    assert prose(Measured(*figure)) == shown


def test_null_is_a_dash_and_never_a_number():
    assert written(None) == ("–", "–", "–") and prose(None) == compact(math.nan) == "–"


def test_intervals_that_touch_overlap():
    a, b, c = Measured(1, 0, 2), Measured(3, 2, 4), Measured(5, 4.5, 6)
    assert overlap(a, b) and overlap(b, a) and not overlap(a, c) and not overlap(c, a)
    assert overlap(a, Measured(100.0))  # without an interval nothing is settled


@pytest.mark.parametrize("a", [(2, 1, 3), (2, -1, 3), (-2, -3, -1)])
@pytest.mark.parametrize("b", [(2, 1, 4), (2, -1, 4)])
def test_a_ratio_holds_every_quotient_of_its_ends(a, b):
    found = ratio(Measured(*a), Measured(*b))
    assert found.value == a[0] / b[0]
    quotients = [x / y for x in a for y in b if y > 0]
    assert found.low is None or found.low <= min(quotients)
    assert found.high is None or found.high >= max(quotients)
    if b[1] > 0:
        assert (found.low, found.high) == (min(quotients), max(quotients))


def test_a_ratio_to_nothing_is_undefined():
    assert ratio(Measured(1, 0, 2), Measured(-1, -2, 0)) is None
    assert times(None) == "an undefined factor"
    assert times(ratio(Measured(4, 2, 6), Measured(2, -1, 4))) == "2.00 times (at least 0.500)"

"""Searches find what is there, and nothing where nothing is."""

import numpy as np

from experiments.claims.search import search, simplify


def ball(point):
    """Above 0 within half a unit of (2, -1, 0)."""
    return 0.5 - np.linalg.norm(point - np.array([2.0, -1.0, 0.0]))


def test_a_search_climbs_into_what_is_above_0():
    found = search(ball, 3, starts=10, steps=200, seed=0)
    assert found.value > 0 and ball(found.point) == found.value
    assert found.successes == found.starts * found.share > 5
    assert found.evaluations < 10 * 200


def test_a_search_finds_nothing_where_nothing_is():
    found = search(lambda point: -1 - point @ point, 2, starts=5, steps=50, seed=0)
    assert found.value <= -1 and found.successes == 0 and found.evaluations == 5 * 50


def test_a_start_where_there_is_no_number_can_be_left():
    found = search(lambda point: np.nan if abs(point[0]) > 0.2 else 1.0, 1, 5, 50, seed=0)
    assert found.successes >= 4 and found.value == 1


def test_simplify_rounds_as_far_as_it_may():
    np.testing.assert_array_equal(simplify(ball, np.array([2.04, -1.13, 0.07])), [2, -1, 0])
    narrow = lambda point: 0.06 - abs(point[0] - 1.31)  # noqa: E731
    np.testing.assert_array_equal(simplify(narrow, np.array([1.2913])), [1.3])
    kept = np.array([1.31234])
    np.testing.assert_array_equal(simplify(lambda p: 1e-6 - abs(p[0] - kept[0]), kept), kept)

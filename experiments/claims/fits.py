"""Slopes on log axes: orders and exponents, with intervals."""

from __future__ import annotations

import numpy as np

from opd.measure.intervals import Interval, t_interval

Array = np.ndarray


def slopes(x: Array, y: Array) -> Array:
    """Least-squares slopes of log y against log x: x [n], y [trees, n] -> [trees]."""
    x, y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    x = x - x.mean()
    return (y - y.mean(-1, keepdims=True)) @ x / (x @ x)


def exponent(x: Array, y: Array) -> Interval:
    """The exponent k of y ~ x^k: mean of `slopes` over trees, and its t interval (95 %)."""
    return t_interval(slopes(x, y))


def rate(x: Array, y: Array) -> Interval:
    """The rate k of y ~ exp(k x): as `exponent`, on log y against x itself."""
    return exponent(np.exp(np.asarray(x, float)), y)

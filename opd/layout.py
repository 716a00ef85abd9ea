"""How the arrays inside a program lie on a mesh, said by the names of their axes.

A model names its axes and knows no mesh; whoever compiles it says, around the call, what the names
mean (`by`), and a model what it means by them otherwise (`ruled`). Nothing said, nothing done: on
one device a program is what it would be without.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax

from opd.types import Array, Rules

Names = Sequence[str | None]


class Layout(Protocol):
    """What names of axes mean on a mesh."""

    def constrain(self, x: Array, names: Names) -> Array:
        """x, laid by the names of its axes; None: not split."""

    def gathered(self, x: Array, names: Names) -> Array:
        """x, laid likewise, but whole for every row of a batch."""

    def pieces(self, name: str) -> int:
        """Over how many devices an axis of that name is split, where they divide it."""

    def summed(self, x: Array, names: Names) -> Array:
        """The sum of x [n, ...] over its first axis, of which each of n devices has one."""

    def ruled(self, rules: Rules) -> Layout:
        """The same, but for these names."""

    def apart(
        self,
        function: Callable[..., Array],
        arrays: Sequence[Array],
        names: Sequence[Names],
        summed: str | None = None,
    ) -> Array:
        """function(*arrays) of each device's own parts, laid as the first of them is."""

    @property
    def devices(self) -> int:
        """How many the mesh has."""

    @property
    def platform(self) -> str:
        """What the mesh's devices are: cpu, gpu, tpu."""


_LAYOUT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


@contextlib.contextmanager
def by(layout: Layout) -> Iterator[None]:
    """What names mean for all that is traced within."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


@contextlib.contextmanager
def ruled(rules: Rules) -> Iterator[None]:
    """What some names mean otherwise for all that is traced within, where a mesh is there."""
    layout = _LAYOUT.get()
    if layout is None:
        yield
        return
    with by(layout.ruled(rules)):
        yield


def constrain(x: Array, *names: str | None) -> Array:
    """x, laid by the names of its axes, one for each; as it is where nobody said what they mean."""
    layout = _LAYOUT.get()
    return x if layout is None else layout.constrain(x, names)


def gathered(x: Array, *names: str | None) -> Array:
    """A parameter as it meets rows: not split by what splits them, so that these stay apart."""
    layout = _LAYOUT.get()
    return x if layout is None else layout.gathered(x, names)


def pieces(name: str) -> int:
    """Over how many devices an axis of that name is split, where they divide it."""
    layout = _LAYOUT.get()
    return 1 if layout is None else layout.pieces(name)


def summed(x: Array, *names: str | None) -> Array:
    """The sum of x [n, ...] over its first axis, laid by the names of those that are left.

    Where the first axis is laid by rows, each device sends what belongs to others and keeps no sum
    but its own; in the dtype of x.
    """
    layout = _LAYOUT.get()
    return x.sum(0) if layout is None else layout.summed(x, names)


def apart(
    function: Callable[..., Array],
    arrays: Sequence[Array],
    names: Sequence[Names],
    summed: str | None = None,
) -> Array:
    """function(*arrays), each device with the parts of them that it has by their axes' names.

    For what XLA can't split by itself. What comes out is shaped and laid as the first array; of
    an axis that is `summed` over each device has its share of the sum.
    """
    layout = _LAYOUT.get()
    return function(*arrays) if layout is None else layout.apart(function, arrays, names, summed)


def devices() -> int:
    """How many devices share a program."""
    layout = _LAYOUT.get()
    return 1 if layout is None else layout.devices


def platform() -> str:
    """What a program is compiled for: the mesh's devices, or this process's own."""
    layout = _LAYOUT.get()
    return jax.default_backend() if layout is None else layout.platform

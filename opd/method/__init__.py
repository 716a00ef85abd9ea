"""What to push: candidate weights, time-axis functions, and the table of methods.

The room is a function too: `opd.method("opd_topk", k=8)` is the method that a name stands for.
"""

import sys
import types


class _Room(types.ModuleType):
    """A module that parses names, since a package and a function can't share theirs otherwise."""

    def __call__(self, name: str, **axes: object):
        """The method that a name stands for: `ROW` or `ROW@axis=value,...`, and further axes.

        Rows and axes are what `python -m experiments.compare` prints with `--list_methods` and
        `--list_axes`. `axes` has changes as numbers and words; in a row of several terms
        `**{"SIGNAL.axis": value}` changes the terms of one signal.

        Raises:
            ValueError: an unknown row, axis or value, or a combination that means nothing.

        >>> import opd
        >>> opd.method("opd_topk@k=16", tail="drop").terms[0].k
        16
        """
        from opd.method import table  # the table imports this room

        return table.parse(name, **axes)


sys.modules[__name__].__class__ = _Room

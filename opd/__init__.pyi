"""The names of `__init__.py`, for type checkers, which don't run its `__getattr__`."""

from opd.engine.arrays import divergence as divergence
from opd.engine.arrays import ess as ess
from opd.engine.arrays import gradient as gradient
from opd.engine.arrays import statistics as statistics
from opd.engine.vocab import Head as Head
from opd.measure.decompose import decompose as decompose
from opd.method.table import Method
from opd.run.players.models import Policy as Policy
from opd.run.players.models import load_model as load_model
from opd.run.players.models import logits as logits
from opd.run.players.models import save_model as save_model
from opd.types import Rollout as Rollout

class _Room:
    def __call__(self, name: str, **axes: object) -> Method: ...

method: _Room

__all__ = [
    "Head",
    "Policy",
    "Rollout",
    "decompose",
    "divergence",
    "ess",
    "gradient",
    "load_model",
    "logits",
    "method",
    "save_model",
    "statistics",
]

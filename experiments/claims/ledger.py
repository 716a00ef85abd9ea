"""Every claim of the source, in its order, and how they are run."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence

import jax
import matplotlib

from experiments.claims import algebra, discount, importance, instrument, learning, variance
from experiments.claims.claim import OPEN, Claim, Effort, Judgement, Outcome
from opd.run.sweeping import study

PARTS = {
    "A": algebra,
    "B": variance,
    "C": discount,
    "D": importance,
    "E": learning,
    "F": instrument,
}
CLAIMS: dict[str, Claim] = {claim.id: claim for part in PARTS.values() for claim in part.CLAIMS}
WORKERS = 2


def run(id: str, effort: Effort) -> Outcome:
    """Measures one claim and judges it; what must be trained isn't settled. Under 64 bits."""
    claim, began = CLAIMS[id], time.perf_counter()
    if claim.measure is None:
        return Outcome(claim, None, Judgement(OPEN), 0.0)
    found = claim.measure(effort)
    return Outcome(claim, found, claim.judge(found.numbers), time.perf_counter() - began)


def run_all(ids: Sequence[str], effort: Effort) -> Iterable[Outcome]:
    """Every claim's outcome as it comes, from processes side by side, one thread each."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read by the workers, before they load NumPy
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, spawn, _set_up) as pool:
        waiting = [pool.submit(run, id, effort) for id in ids]
        for done in concurrent.futures.as_completed(waiting):
            yield done.result()


def _set_up() -> None:
    jax.config.update("jax_enable_x64", True)
    matplotlib.rcParams.update(study.STYLE)

"""One measurement: two processes in turn, their statistics, and the machine's limits."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench import busy, cases, ours, protocol, roofline
from experiments.bench.cases import CASES, PEERS, THREADS, Case, Sizes
from experiments.bench.side import ROOT, Side, Step
from experiments.parity import memory as folders
from opd.engine.vocab import Pass
from opd.method import table
from opd.run.settings import pages

WARM = 2  # steps before those that count: the first compiles
OURS = "experiments.bench.ours"
Json = dict[str, Any]


class Busy(RuntimeError):
    """Others used the machine meanwhile: nothing that was measured means anything."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one call of the command measures; checked."""

    name: str
    sizes: Sizes
    rounds: int
    chunk: int | None = None
    parts: bool = False
    peer: str | None = None
    python: str | None = None  # the peer's
    peer_chunk: int | None = None
    peer_large_pages: bool = False  # which no peer asks for by itself

    @property
    def case(self) -> Case:
        return CASES[self.name]


def check(plan: Plan) -> None:
    """Refuses what can't be measured, before anything starts.

    Raises:
        ValueError: one line.
    """
    if plan.rounds < 1:
        raise ValueError(f"--rounds={plan.rounds}: at least 1 is allowed")
    longest = plan.sizes.completion
    if plan.chunk is not None and not 1 <= plan.chunk <= longest:
        raise ValueError(f"--chunk={plan.chunk}: 1 to {longest}, the completion, are allowed")
    if plan.parts and plan.case.step == "load":
        raise ValueError(f"--parts: case {plan.name} has none")
    check_peer(plan)
    try:
        for layers in (plan.sizes.layers, plan.sizes.teacher_layers):
            ours.decoder(plan.sizes, layers)
    except ValueError as error:
        raise ValueError(f"--sizes: {error}") from None


def check_peer(plan: Plan) -> None:
    """Refuses a peer that is unknown, has no such case, isn't there or is of another version."""
    if plan.peer is None:
        asked = {
            "peer_python": plan.python is not None,
            "peer_chunk": plan.peer_chunk is not None,
            "peer_large_pages": plan.peer_large_pages,
        }
        for flag, given in asked.items():
            if given:
                raise ValueError(f"--{flag}: means nothing without --peer")
        return
    if plan.peer not in PEERS:
        raise ValueError(f"--peer={plan.peer}: {', '.join(PEERS)} are allowed")
    peer = PEERS[plan.peer]
    if plan.peer not in plan.case.peers:
        allowed = ", ".join(plan.case.peers) or "none"
        raise ValueError(
            f"--peer={plan.peer}: not for case {plan.name}, since {peer.lacks}; allowed: {allowed}"
        )
    if plan.peer_chunk is not None and not peer.chunked:
        raise ValueError(f"--peer_chunk: {plan.peer} has no chunks")
    tokens = plan.sizes.batch * plan.sizes.completion
    if plan.peer_chunk is not None and not 1 <= plan.peer_chunk <= tokens:
        raise ValueError(f"--peer_chunk={plan.peer_chunk}: 1 to {tokens} are allowed")
    if plan.python is None:
        raise ValueError(f"--peer_python is missing: the Python that has {plan.peer}")
    found = installed(plan.python, tuple(peer.versions))
    for package, known in peer.versions.items():
        if found.get(package, "none").partition("+")[0] != known:
            raise ValueError(
                f"--peer_python={plan.python}: has {package} {found.get(package, 'not at all')}; "
                f"{known} is allowed"
            )


def installed(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Versions in another environment.

    Raises:
        ValueError: there is no Python.
    """
    command = [python, "-m", "experiments.bench.protocol", *packages]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise ValueError(
            f"--peer_python={python}: no Python; the interpreter of the peer's environment is "
            "allowed"
        ) from None


def summary(values: Sequence[float]) -> dict[str, float]:
    """Least, median and most."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


@contextlib.contextmanager
def sides(plan: Plan) -> Iterator[tuple[Side, Side | None]]:
    """Our process, and the other's where there is one; folders are there as long as they are."""
    more: Json = {}
    with contextlib.ExitStack() as stack:
        if plan.case.step == "load":
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folders.write(work / "model", "bfloat16", plan.sizes.megabytes * 10**6)
            more["folder"] = str(work / "model")

        def begun(
            python: str, module: str, step: str, sizes: Sizes, environment: Mapping[str, str]
        ) -> Side:
            asked = cases.work(sizes, step, plan.chunk, plan.peer_chunk, **more)
            return stack.enter_context(Side([python, "-m", module], asked, environment))

        mine = begun(sys.executable, OURS, plan.case.step, plan.sizes, os.environ)
        other = None
        if plan.peer is not None:
            module = PEERS[plan.peer].module
            environment = os.environ if plan.peer_large_pages else pages.without(os.environ)
            other = begun(str(plan.python), module, plan.case.step, plan.sizes, environment)
        elif plan.case.reference is not None:
            other = begun(sys.executable, OURS, *beside(plan), os.environ)
        yield mine, other


def beside(plan: Plan) -> tuple[str, Sizes]:
    """What of ours stands beside a case, at the sizes of the plan."""
    assert plan.case.reference is not None
    step, sizes = plan.case.reference
    return step, sizes if plan.case.beside_sizes is not None else plan.sizes


def in_turn(pair: Sequence[Side], rounds: int) -> tuple[list[list[Step]], list[Step], float]:
    """Steps by side, each side's first one, and the cores that others used meanwhile."""
    first = [side.step() for side in pair]
    for _ in range(WARM - 1):
        for side in pair:
            side.step()
    for side in pair:
        side.ask("settle")
    pids = [os.getpid(), *(side.pid for side in pair)]
    before = busy.usage(pids)
    taken: list[list[Step]] = [[] for _ in pair]
    for _ in range(rounds):
        for steps, side in zip(taken, pair, strict=True):
            steps.append(side.step())
    return taken, first, busy.others(before, busy.usage(pids))


def run(plan: Plan) -> Json:
    """The measurement as results have it.

    Raises:
        Busy: other processes used more than busy.LIMIT cores.
        Died: a side failed.
    """
    peaks = peaks_of(plan.sizes)
    with sides(plan) as (mine, other):
        pair = [mine] if other is None else [mine, other]
        versions = [side.ready() for side in pair]
        taken, first, others = in_turn(pair, plan.rounds)
        if others > busy.LIMIT:
            raise Busy(
                f"other processes used {others:.2f} cores meanwhile, {busy.LIMIT:g} are allowed: "
                "no ratio is written; measure again on an idle machine"
            )
        parts = mine.ask("parts", plan.rounds) if plan.parts else None
    return described(plan) | {
        **compared(taken),
        "first": [{"ms": step.ms, "memory": step.memory} for step in first],
        "peak_of": "a step" if all(step.of_step for step in first) else "all steps so far",
        "versions": versions,
        "other_cores": others,
        "roofline": limits(plan, [step.ms for step in taken[0]], peaks),
        "parts": parts,
    }


def compared(taken: Sequence[Sequence[Step]]) -> Json:
    """Milliseconds and memory of both sides; ratios are of steps side by side."""

    def of(values: Sequence[Sequence[float]]) -> Json:
        mine, *other = values
        if not other:
            return {"ours": summary(mine), "peer": None, "ratio": None}
        ratios = [one / two for one, two in zip(mine, other[0], strict=True)]
        return {"ours": summary(mine), "peer": summary(other[0]), "ratio": summary(ratios)}

    times = of([[step.ms for step in steps] for steps in taken])
    # A side that touches less than a page more than before has a peak of nothing.
    least = 1 / 256
    return times | {"memory": of([[max(s.memory, least) for s in steps] for steps in taken])}


def described(plan: Plan) -> Json:
    """What was measured, where and when."""
    name = plan.peer or plan.case.beside_name or None
    name = f"{name}, chunks of {plan.peer_chunk}" if plan.peer_chunk else name
    name = f"{name}, in large pages" if plan.peer_large_pages else name
    command = f"python -m experiments.bench {plan.name}"
    command += f" --peer={plan.peer} --peer_python=PATH" if plan.peer else ""
    command += f" --peer_chunk={plan.peer_chunk}" if plan.peer_chunk else ""
    command += " --peer_large_pages" if plan.peer_large_pages else ""
    command += f" --chunk={plan.chunk}" if plan.chunk else ""
    return {
        "case": plan.name,
        "says": plan.case.says,
        "command": command + (" --parts" if plan.parts else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "against": name,
        "rounds": plan.rounds,
        "chunk": plan.chunk,
        "usual_sizes": plan.sizes == plan.case.sizes,
        "sizes": dataclasses.asdict(plan.sizes),
        "sizes_against": (
            None if plan.peer or name is None else dataclasses.asdict(beside(plan)[1])
        ),
        "goal": dataclasses.asdict(plan.case.goal),
        "precision": "float32",
        "large_pages": pages.asked(os.environ),
        "hardware": hardware(),
    }


def hardware() -> Json:
    """The machine's processor, cores and memory, and the threads that each side had."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "memory_mib": pages // protocol.MEBIBYTE,
        "system": platform.system(),
    }


def peaks_of(sizes: Sizes) -> Json:
    """`roofline.peaks` in a process of its own, whose memory is nobody's."""
    shape = sizes.width, sizes.vocab, sizes.batch * sizes.completion
    command = [sys.executable, "-m", "experiments.bench.roofline", *map(str, (*shape, THREADS))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def limits(plan: Plan, taken: Sequence[float], peaks: Mapping[str, Any]) -> Json:
    """The roofline of our median step; a probe's own goal is in it."""
    models = tuple(
        ours.decoder(plan.sizes, layers)
        for layers in (plan.sizes.layers, plan.sizes.teacher_layers)
    )
    method, how = table.parse(cases.METHOD), Pass(chunk=plan.chunk)
    count = len(cases.ESTIMATORS)
    counts = roofline.counted(plan.case.step, plan.sizes, models, method, count, how)
    found: Json = {**counts, **peaks}
    if counts["flops"]:
        found |= roofline.reached(counts, statistics.median(taken), peaks)
    if plan.case.step == "probe":
        found["bound"] = roofline.bound(*roofline.halves(plan.sizes, models, method, how), count)
    return found

"""Time and memory of a case, in turn with a peer in its own environment, or with a part of itself.

python -m experiments.bench CASE [--peer=trl|liger --peer_python=PATH] [--parts] [--rounds=N]
    [--chunk=N] [--peer_chunk=N] [--peer_large_pages] [--json=FILE]

Cases: a (generate), b (a whole distillation step), p (teacher and update on given tokens),
c (151,936 ids), c2 (262,144 ids), probe (six estimators), reuse (a second update), long
(completions of 2,048), load (a folder of 1 GB).

Leaves with code 3, and writes nothing, where other processes were busy meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from experiments.bench import measure, page
from experiments.bench.cases import CASES, Sizes
from experiments.bench.measure import Busy, Plan
from experiments.bench.side import Died
from opd import disk
from opd.run.settings import command, launch

_PEER = flags.DEFINE_string("peer", None, "who stands beside us: trl, liger")
_PYTHON = flags.DEFINE_string("peer_python", None, "the Python of the peer's environment")
_PEER_CHUNK = flags.DEFINE_integer("peer_chunk", None, "tokens of liger's chunk; its own default")
_PEER_PAGES = flags.DEFINE_bool("peer_large_pages", False, "large pages for the peer as well")
_PARTS = flags.DEFINE_bool("parts", False, "say where our time goes")
_ROUNDS = flags.DEFINE_integer("rounds", None, "steps of each side; the case's own number")
_CHUNK = flags.DEFINE_integer("chunk", None, "tokens of a vocabulary pass; the product's own")
_JSON = flags.DEFINE_string("json", None, "a file for the result")
_SIZES = flags.DEFINE_string("sizes", None, "other sizes, for a try: vocab=64,width=32")


def prepare(argv: list[str] | None = None) -> Callable[[], None]:
    """Parses and checks; hands back what is to be measured.

    Raises:
        ValueError: a user's mistake; nothing has been started.
    """
    program, *given = sys.argv if argv is None else argv
    name = given.pop(0) if given and not given[0].startswith("-") else None
    command.helped([program, *given], __doc__ or "")
    launch.parse([program, *given], together=False)
    if name not in CASES:
        said = "is missing" if name is None else f"{name!r} is unknown"
        raise ValueError(f"the case {said}: {', '.join(CASES)} are allowed")
    file = None if _JSON.value is None else Path(_JSON.value)
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"--json={file}: no such folder {file.parent}")
    case = CASES[name]
    rounds = case.rounds if _ROUNDS.value is None else _ROUNDS.value
    sizes = changed(case.sizes, _SIZES.value or "")
    peer = _PEER.value, _PYTHON.value, _PEER_CHUNK.value, _PEER_PAGES.value
    plan = Plan(name, sizes, rounds, _CHUNK.value, _PARTS.value, *peer)
    measure.check(plan)
    return functools.partial(job, plan, file)


def changed(sizes: Sizes, asked: str) -> Sizes:
    """Sizes with some of them given: `vocab=64,width=32`.

    Raises:
        ValueError: none of that name, or no whole number of at least 1.
    """
    names = [field.name for field in dataclasses.fields(Sizes)]
    found = {}
    for part in filter(None, asked.split(",")):
        name, _, value = part.partition("=")
        if name not in names:
            raise ValueError(f"--sizes: {name!r} is unknown: {', '.join(names)} are allowed")
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(f"--sizes: {name} is {value!r}: a whole number above 0 is allowed")
        found[name] = int(value)
    return dataclasses.replace(sizes, **found)


def job(plan: Plan, file: Path | None) -> None:
    """The measurement, printed, and written where a file was named."""
    try:
        result = measure.run(plan)
    except Busy as error:
        print(f"warning: {error}", file=sys.stderr)
        sys.exit(3)
    except Died as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(page.said(result))
    if file is not None:
        disk.dump_json(result, file)
        print(file)


if __name__ == "__main__":
    command.main(prepare)

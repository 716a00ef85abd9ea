"""Runs the claim ledger: a verdict for every claim, with the number that it hangs on.

python -m experiments.claims [--ids=A1,B3,...] [--quick] [--check] [--list] [--workdir=DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opd.run.settings import command

# The ledger takes seconds to import, which --help and a mistake needn't wait for.
if TYPE_CHECKING:
    import rich.table

    from experiments.claims.claim import Outcome

EXPECTED = Path(__file__).with_name("expected.json")


def chosen(ids: str | None) -> list[str]:
    """The ids that are asked for, in the ledger's order; all of them by default.

    Raises:
        ValueError: one that isn't there.
    """
    from experiments.claims.ledger import CLAIMS

    if ids is None:
        return list(CLAIMS)
    asked = [id.strip() for id in ids.split(",")]
    unknown = [id for id in asked if id not in CLAIMS]
    if unknown:
        first, last = list(CLAIMS)[0], list(CLAIMS)[-1]
        raise ValueError(
            f"--ids={ids}: no claim {', '.join(unknown)}; --list has all, {first} to {last}"
        )
    return [id for id in CLAIMS if id in asked]


def differences(outcomes: Sequence[Outcome], expected: dict[str, dict[str, str]]) -> list[str]:
    """Where verdicts differ from what is expected, a line each; what must be trained has none."""
    from experiments.claims import page

    found = []
    for one in outcomes:
        said, wanted = page.verdicts(one) if one.finding else {}, expected.get(one.id, {})
        for which in dict.fromkeys((*said, *wanted)):
            if said.get(which) != wanted.get(which):
                now, then = said.get(which, "not there"), wanted.get(which, "none")
                found.append(f"{one.id}: {which} is {now!r}, expected {then!r}")
    return found


def table(outcomes: Sequence[Outcome]) -> rich.table.Table:
    """What the terminal shows."""
    import rich.box
    import rich.table

    from experiments.claims import page

    shown = rich.table.Table(
        "id", "claim", "verdict", "repaired", "number", "s", box=rich.box.SIMPLE
    )
    for one in outcomes:
        number = "" if one.number is None else f"{page.written(one.number)} {one.number.name}"
        repaired = page.verdicts(one).get("repaired", "")
        shown.add_row(
            one.id, one.claim.title, one.judgement.verdict, repaired, number, f"{one.seconds:.1f}"
        )
    return shown


def prepare(argv: Sequence[str] | None = None):
    """What the command line asks for, as a job.

    Raises:
        ValueError: an id or a folder that is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.claims", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.error = _refuse
    parser.add_argument("--ids", help="claims, such as A1,B3; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer trees, starts and draws")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 where a verdict is not expected.json's"
    )
    parser.add_argument("--list", action="store_true", help="ids and titles")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/claims"), help="what is written, goes here"
    )
    options = parser.parse_args(argv)
    from experiments.claims.ledger import CLAIMS
    from opd.run.settings import launch

    ids = chosen(options.ids)
    if options.list:
        return lambda: print("\n".join(f"{id:4}{CLAIMS[id].title}" for id in ids))
    launch.make_folder("workdir", options.workdir)
    return lambda: job(ids, options)


def _refuse(message: str):
    raise ValueError(message)


def job(ids: Sequence[str], options: argparse.Namespace) -> None:
    """Runs the claims, shows and writes what came out; --check leaves with 1 on a difference."""
    import rich.console

    from experiments.claims import page
    from experiments.claims.claim import FULL, QUICK
    from experiments.claims.ledger import run_all

    began = time.perf_counter()
    found = {}
    for outcome in run_all(ids, QUICK if options.quick else FULL):
        found[outcome.id] = outcome
        print(f"{len(found)} of {len(ids)}: {outcome.id}", file=sys.stderr)
    outcomes = [found[id] for id in ids]
    seconds = time.perf_counter() - began
    console = rich.console.Console(width=max(150, rich.console.Console().width))
    console.print(table(outcomes))
    print(page.counts(outcomes) + f"; {seconds:.0f} s")
    page.write(outcomes, options.workdir, options.quick, seconds)
    if options.check:
        wrong = differences(outcomes, json.loads(EXPECTED.read_text()))
        print("\n".join(wrong) if wrong else "all verdicts are as expected")
        if wrong:
            sys.exit(1)


if __name__ == "__main__":
    command.main(prepare)

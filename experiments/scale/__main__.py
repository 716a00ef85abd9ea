"""The tables of README.md beside this file, written from results/.

python -m experiments.scale
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import tables
from experiments.scale.chips import GIB

HERE = Path(__file__).parent
README = HERE / "README.md"


def table() -> str:
    """One line for each program of each result, in the order of their files' names."""
    lines = [
        "| result | chips | program | HBM a chip, GiB | arguments | temporaries | sent a chip, GiB "
        "| logits of positions at once | predicted, s | MFU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(HERE.glob("results/*.json")):
        report = json.loads(file.read_text())
        lines += [_row(file, report, *each) for each in report["programs"].items()]
    return "\n".join(lines)


def weak() -> str:
    """How far from as fast a program stays when chips and rollouts grow alike, and why.

    `results/DATE_weak_CHIPS.json` are of the config that DATE_8b_0.6b_v5e.json is of, on 16 chips.
    """
    lines = [
        "| chips | program | sent a chip, GiB | predicted, s | efficiency at worst |",
        "|---|---|---|---|---|",
    ]
    for alone in sorted(HERE.glob("results/*_8b_0.6b_v5e.json")):
        files = alone.parent.glob(alone.name.replace("8b_0.6b_v5e", "weak_*"))
        reports = [json.loads(file.read_text()) for file in (alone, *files)]
        reports.sort(key=lambda report: report["chips"])
        first = reports[0]["programs"]
        lines += [
            _weak(report["chips"], name, report["programs"][name], first[name])
            for name in first
            for report in reports
            if name in report["programs"] and name in reports[1]["programs"]
        ]
    return "\n".join(lines)


def _weak(chips: int, name: str, each: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    sent = sum(kind["bytes"] for kind in each["collectives"].values()) / GIB
    now, before = (one["predicted"]["seconds"] for one in (each, first))
    seconds = f"{now['at_best']:.3g} to {now['at_worst']:.3g}"
    efficiency = before["at_worst"] / now["at_worst"]
    return f"| {chips} | {name} | {sent:.1f} | {seconds} | {efficiency:.2f} |"


def _row(file: Path, report: Mapping[str, Any], name: str, each: Mapping[str, Any]) -> str:
    def gib(key: str) -> str:
        return f"{each[key] / GIB:.2f}" if each.get(key) is not None else "-"

    used = f"{gib('hbm_used')} of {gib('hbm_limit')}" + ("" if each["fits"] else ", **too much**")
    cells = [file.stem, report["topology"], name, used, gib("arguments"), gib("temporaries")]
    if "collectives" in each:
        sent = sum(kind["bytes"] for kind in each["collectives"].values())
        seconds, mfu = (each["predicted"][key] for key in ("seconds", "mfu"))
        cells += [
            f"{sent / GIB:.1f}",
            f"{each['logits_of_positions']} of {each['positions']}",
            f"{seconds['at_best']:.3g} to {seconds['at_worst']:.3g}",
            f"{mfu['at_worst']:.2f} to {mfu['at_best']:.2f}",
        ]
    else:
        cells += ["-"] * 4
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    made = {"results": table(), "weak": weak()}
    README.write_text(tables.replaced(README.read_text(), made))

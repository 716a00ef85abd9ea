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
    README.write_text(tables.replaced(README.read_text(), {"results": table()}))

"""The README's tables of rows, axes and configs, written from what they list.

python -m experiments.tables
"""

from __future__ import annotations

import runpy
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from opd.method import facts, table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def rows() -> str:
    """Every row: what it is, what it is unbiased for or aims at, and what a run must have."""
    lines = ["| row | what it is | goal | needs |", "|---|---|---|---|"]
    for name, row in table.ROWS.items():
        method = table.parse(name)
        goal = facts.describe(facts.goal(method)) + " †" * (facts.bias(method) is not None)
        needed = ", ".join(facts.needs(method)) or "nothing"
        mark = " ‡" * (facts.refused(method) is not None)
        lines.append(f"| `{name}`{mark} | {row.label} | {goal} | {needed} |")
    about = (
        "† biased for that goal, and ‡ refused as a training method: `--list_methods` says why, "
        "and who published it. `python -m experiments.tables` writes these tables."
    )
    return "\n".join([*lines, "", textwrap.fill(about, 110)])


def axes() -> str:
    """Every axis: what it says, its values, and what brings it in."""
    lines = ["| axis | what it says | values | with | usual |", "|---|---|---|---|---|"]
    for axis in table.AXES.values():
        values = ", ".join(axis.choices) or axis.allowed
        lines.append(f"| `{axis.name}` | {axis.says} | {values} | {axis.where} | {axis.usual} |")
    return "\n".join(lines)


def configs() -> str:
    """Every file of configs/ that a training starts from: the row it has, and its first line."""
    lines = ["| config | row | what it is |", "|---|---|---|"]
    for path in sorted((ROOT / "configs").glob("[!_]*.py")):
        module = runpy.run_path(str(path))
        if "python -m experiments.train" in module["__doc__"]:
            config = module["get_config"]()
            row = (
                f"`{config.method.name}`"
                if config.trains == "policy"
                else f"a {config.trains} model"
            )
            says = module["__doc__"].splitlines()[0].removesuffix(".")
            lines.append(f"| `configs/{path.name}` | {row} | {says} |")
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[], str]] = {"rows": rows, "axes": axes, "configs": configs}


def replaced(readme: str, blocks: Mapping[str, str]) -> str:
    """A README with blocks written anew.

    Raises:
        ValueError: it lacks one.
    """
    for name, written in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, opened, rest = readme.partition(begin)
        _, ended, after = rest.partition(end)
        if not (opened and ended):
            raise ValueError(f"README.md has no block {begin} ... {end}")
        readme = "\n".join([before + begin, written, end + after])
    return readme


def written() -> str:
    """The README with its tables as they are to be."""
    blocks = {name: table() for name, table in BLOCKS.items()}
    return replaced(README.read_text(encoding="utf-8"), blocks)


def main() -> None:
    """Writes them."""
    README.write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()

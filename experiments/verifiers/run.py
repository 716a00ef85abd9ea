"""Do verifiers grade what people and models write as they should? On pairs that we wrote.

Every pair of pairs.jsonl, an answer and a completion that is right or isn't, is graded by the
verifiers of opd, by math-verify and by what two public graders document. Writes results.json and
the tables of the README beside it. Needs the extra `math`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from experiments.verifiers import graders
from opd.data import verifiers

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
Grader = Callable[[str, str], Any]
GRADERS: Mapping[str, Grader] = {
    "`final_answer`": verifiers.final_answer,
    "`math`": verifiers.math,
    "math-verify": graders.math_verify,
    "harness, strict": graders.harness_strict,
    "harness, flexible": graders.harness_flexible,
    "MATH": graders.hendrycks,
}

LISTED = ("`final_answer`", "`math`", "math-verify")  # whose errors the README has


class Pair(NamedTuple):
    """What a completion says, what is right, and whether it says that."""

    kind: str
    answer: str
    completion: str
    right: bool


def pairs(file: Path = FOLDER / "pairs.jsonl") -> list[Pair]:
    """The pairs of a file, in its order."""
    return [Pair(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def graded(pair: Pair, grader: Grader) -> bool | None:
    """Whether a grader takes a pair for right; None where it refuses the answer."""
    try:
        return bool(grader(pair.completion, pair.answer))
    except ValueError:
        return None


def shares(rows: Sequence[tuple[Pair, Mapping[str, bool | None]]]) -> dict[str, dict[str, Any]]:
    """By kind: how many pairs, and how many of them each grader grades as they are."""
    kinds = dict.fromkeys(pair.kind for pair, _ in rows)
    return {
        kind: {"pairs": sum(pair.kind == kind for pair, _ in rows)}
        | {
            name: None
            if all(verdict[name] is None for pair, verdict in rows if pair.kind == kind)
            else sum(verdict[name] == pair.right for pair, verdict in rows if pair.kind == kind)
            for name in rows[0][1]
        }
        for kind in kinds
    }


def cell(text: str) -> str:
    """A text as Markdown shows it in a line."""
    shown = text.replace("\n", "⏎")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`" if shown.strip() else "(blank)"


def tables(results: Mapping[str, Any]) -> str:
    """The README's tables: pairs graded right by kind, and where a grader errs."""
    lines = [f"| kind | pairs | {' | '.join(GRADERS)} |", "|---" * (len(GRADERS) + 2) + "|"]
    for kind, row in results["kinds"].items():
        counts = ("-" if row[name] is None else str(row[name]) for name in GRADERS)
        lines.append(f"| {kind} | {row['pairs']} | {' | '.join(counts)} |")
    for name in LISTED:
        errs = [p for p in results["differences"] if p["verdicts"][name] == (not p["right"])]
        lines += ["", f"**{name} errs on {len(errs)} pairs**", "", *listed(errs, name)]
    return "\n".join(lines) + "\n"


def listed(apart: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Pairs by kind, answer and what a grader gives for them, a line each."""
    groups: dict[tuple[str, str, Any], list[str]] = {}
    for pair in apart:
        key = pair["kind"], pair["answer"], pair["verdicts"][name]
        groups.setdefault(key, []).append(cell(pair["completion"]))
    return [
        f"- {kind}, {cell(answer)}, {name} gives {int(verdict)}: {', '.join(texts)}"
        for (kind, answer, verdict), texts in groups.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Grades all pairs and writes `--out`, and the tables of the README beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / "results.json")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    rows = [
        (pair, {name: graded(pair, grader) for name, grader in GRADERS.items()}) for pair in pairs()
    ]
    results = {
        "command": "python -m experiments.verifiers.run",
        "seconds": round(time.perf_counter() - start),
        "environment": {
            "python": platform.python_version(),
            "math-verify": metadata.version("math-verify"),
            "sympy": metadata.version("sympy"),
        },
        "kinds": shares(rows),
        "differences": [
            pair._asdict() | {"verdicts": verdicts}
            for pair, verdicts in rows
            if set(verdicts.values()) != {pair.right}
        ],
    }
    options.out.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", "utf-8")
    readme = options.out.with_name("README.md")
    if readme.exists():
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        block = BEGIN + tables(results) + END
        readme.write_text(before + block + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()

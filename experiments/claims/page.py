"""What a run of the ledger leaves: claims.json, a page in Markdown and HTML, and its figures.

Everything is computed from outcomes; nothing here measures or judges anything.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markdown_it import MarkdownIt

from experiments.claims.claim import OPEN, VERDICTS, Number, Outcome
from opd import disk
from opd.run.sweeping import study

NO_NUMBER = {"name": "not measured", "value": None, "low": None, "high": None}
FOLDER = Path(__file__).parent


def record(outcome: Outcome) -> dict[str, Any]:
    """The entry of claims.json."""
    claim, found = outcome.claim, outcome.finding
    said, repaired = verdicts(outcome), None
    if claim.repaired is not None:
        repaired = {"statement": claim.repaired, "verdict": said["repaired"]}
    return {
        "id": claim.id,
        "title": claim.title,
        "stated": claim.stated,
        "verdict": said["verdict"],
        "caveat": outcome.judgement.caveat if found else f"needs training: {claim.needs}",
        "repaired": repaired,
        "number": dataclasses.asdict(outcome.number) if found else NO_NUMBER,
        "scope": "exact" if found else "training",
        "seeds": list(found.seeds) if found else [],
        "seconds": round(outcome.seconds, 2),
    }


def verdicts(outcome: Outcome) -> dict[str, str]:
    """The entry of expected.json: the verdict, and that of the repaired form where there is one."""
    found = {"verdict": outcome.judgement.verdict}
    if outcome.claim.repaired is not None:
        found["repaired"] = outcome.judgement.repaired or OPEN
    return found


def counts(outcomes: Sequence[Outcome]) -> str:
    """How many claims have each verdict."""
    found = collections.Counter(one.judgement.verdict for one in outcomes)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])


def written(number: Number) -> str:
    """A number and its interval, three digits each; alone where the interval is no wider."""
    value, low, high = (_digits(x) for x in (number.value, number.low, number.high))
    return value if low == high == value else f"{value} ({low} to {high})"


def _digits(x: float) -> str:
    if x != 0 and (abs(x) < 1e-3 or abs(x) >= 1e5):
        return f"{x:.1e}"
    return np.format_float_positional(float(f"{x:.3g}"), trim="-")


def write(outcomes: Sequence[Outcome], folder: Path, quick: bool, seconds: float) -> None:
    """claims.json, expected.json, README.md with figures/, and all of it as claims.html."""
    disk.dump_json([record(one) for one in outcomes], folder / "claims.json")
    expected = {one.id: verdicts(one) for one in outcomes if one.finding}
    disk.dump_json(expected, folder / "expected.json")
    figures = {}
    for one in outcomes:
        if one.finding and one.finding.figure is not None:
            figures[f"figures/{one.id}.png"] = drawn(one)
    for name, content in figures.items():
        disk.replace_file(folder / name, content)
    text = markdown(outcomes, quick, seconds)
    disk.replace_file(folder / "README.md", text.encode())
    disk.replace_file(folder / "claims.html", html(text, figures).encode())


def drawn(outcome: Outcome) -> bytes:
    """A claim's figure as PNG."""
    image = io.BytesIO()
    outcome.finding.figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    return image.getvalue()


def markdown(outcomes: Sequence[Outcome], quick: bool, seconds: float) -> str:
    """The page: a table of all claims, then a section for each that was measured."""
    template = _templates().get_template("page.md.j2")
    return template.render(
        outcomes=outcomes,
        records=[record(one) for one in outcomes],
        counts=counts(outcomes),
        quick=quick,
        minutes=seconds / 60,
        environment=study.environment(),
    )


def html(text: str, figures: Mapping[str, bytes]) -> str:
    """The same page in one file that needs no network."""
    body = MarkdownIt("commonmark").enable("table").render(text)
    for name, content in figures.items():
        inline = "data:image/png;base64," + base64.b64encode(content).decode()
        body = body.replace(f'src="{name}"', f'src="{inline}"')
    return _templates().get_template("page.html.j2").render(body=body)


def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["written"] = written
    found.filters["sentence"] = lambda text: text[:1].upper() + text[1:].rstrip(".") + "."
    found.filters["cell"] = lambda text: text.replace("|", "\\|")
    return found

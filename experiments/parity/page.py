"""Tables of results.json: the README beside it, and the block of the project's README."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.parity import memory

Json = Mapping[str, Any]
BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"


Value = float | int | bool | None


def holds(value: Value, limit: float | int | bool) -> bool:
    """Whether a measured value is as it must be: at most a float, just so otherwise.

    None is a number that wasn't finite.
    """
    if isinstance(limit, float):
        return value is not None and value <= limit
    return value == limit


def fits(one: Json) -> bool:
    """Whether loading took no more memory than it may."""
    return one["ratio"] <= memory.LIMIT


def green(results: Json) -> bool:
    """Whether everything holds."""
    limits = {name: one["limit"] for name, one in results["properties"].items()}
    cells = [
        holds(case["found"][name], limits[name]) for case in results["cases"] for name in limits
    ]
    return all(cells) and all(map(fits, results["memory"].values()))


def worst(values: Sequence[Value], limit: float | int | bool) -> Value:
    """The value of several that is least as it must be."""
    if None in values:
        return None
    return max(values) if isinstance(limit, float) else min(values)


def cell(value: Value, limit: float | int | bool) -> str:
    """A measured value; bold where it isn't as it must be."""
    if value is None:
        said = "nothing"
    elif isinstance(limit, bool):
        said = "same" if value else "differs"
    elif isinstance(limit, int):
        said = f"{value} of {limit}"
    else:
        said = f"{value:.0e}".replace("e-0", "e-") if value else "0"
    return said if holds(value, limit) else f"**{said}: fails**"


def table(results: Json, rows: Mapping[str, Sequence[Json]], first: str) -> list[str]:
    """A row for each entry, with the worst of its cases in every property."""
    properties = results["properties"]
    titles = [one["title"] for one in properties.values()]
    lines = [f"| {' | '.join([first, *titles])} |", "|---" * (1 + len(titles)) + "|"]
    for name, cases in rows.items():
        cells = [name]
        for key, one in properties.items():
            found = [case["found"][key] for case in cases]
            cells.append(cell(worst(found, one["limit"]), one["limit"]))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def families(results: Json) -> dict[str, list[Json]]:
    """The cases of each family."""
    found: dict[str, list[Json]] = {}
    for case in results["cases"]:
        found.setdefault(case["family"], []).append(case)
    return found


def loading(results: Json) -> list[str]:
    """A row for each checkpoint that was loaded."""
    lines = [
        "| checkpoint | shards | MB | peak / bytes | seconds | of CPU | `cat` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results["memory"].items():
        ratio = f"{one['ratio']:.2f}"
        cells = [name, one["shards"], f"{one['bytes'] / 1e6:.0f}"]
        cells += [ratio if fits(one) else f"**{ratio}: fails**"]
        cells += [f"{one[key]:.2f}" for key in ("seconds", "cpu_seconds", "read_seconds")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def block(results: Json) -> str:
    """The families' table, for the project's README."""
    lines = table(results, families(results), "family")
    ratio = max(one["ratio"] for one in results["memory"].values())
    about = (
        f"{len(results['cases'])} random-initialised models against transformers "
        f"{results['environment']['transformers']}, the worst of each family. Differences of "
        "logits are relative to their root mean square, 1e-4 is allowed. Loading takes at most "
        f"{ratio:.2f} times the checkpoint's bytes of host memory, {memory.LIMIT:g} is allowed. "
        "`python -m experiments.parity.run` writes this; "
        "[its page](experiments/parity/README.md) has every case."
    )
    return "\n".join([BEGIN, *lines, "", _wrapped(about), END])


def replaced(readme: str, results: Json) -> str:
    """The project's README with its block written anew.

    Raises:
        ValueError: it has no such block.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no block {BEGIN} ... {END}")
    return before + block(results) + after


def page(results: Json) -> str:
    """The README beside results.json."""
    environment, cases = results["environment"], results["cases"]
    scales = [case["scale"] for case in cases]
    models = (
        "Random-initialised small models of every family: transformers writes a folder, and both "
        "sides read it, in float32 on the CPU. The weights are NumPy's, large enough that logits "
        f"and attention are far from flat: logits have a root mean square of {min(scales):.1f} to "
        f"{max(scales):.1f}, and a greedy continuation {min(case['distinct'] for case in cases)} "
        "different tokens or more."
    )
    versions = ", ".join(f"{name} {value}" for name, value in environment.items())
    time = f"{results['seconds']} s of wall time on CPU cores that were busy with other work."
    asked = ["| property | what is compared | allowed |", "|---|---|---|"]
    for one in results["properties"].values():
        limit = "the same" if one["limit"] is True else f"{one['limit']:g}"
        asked.append(f"| {one['title']} | {one['about']} | {limit} |")
    relative = (
        "A difference of logits is the largest one, divided by the root mean square of what is "
        "wanted."
    )
    load = (
        "Random checkpoints of several shards, each loaded in a process of its own on one device. "
        "The peak is the most resident memory above what the process had after its imports; "
        f"allowed is {memory.LIMIT:g} times the files' bytes. Seconds are the least of three, for "
        "files dropped from the system's cache, a look at config and shapes included; those of "
        "`cat` are of `cat FILES > /dev/null`. On a machine busy with other work the seconds of "
        "CPU, of all threads, say more."
    )
    parts = (
        ["# Do imported models compute what transformers computes?"],
        [_wrapped(models)],
        [f"    {results['command']}"],
        [_wrapped(f"{time} {versions}.")],
        asked,
        [relative],
        table(results, {case["name"]: [case] for case in cases}, "case"),
        ["## Loading"],
        [_wrapped(load)],
        loading(results),
    )
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120)

"""The README beside the results, made from them: the last one of each case and each other side.

python -m experiments.bench.page
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.cases import CASES

HERE = Path(__file__).parent
RESULTS = HERE / "results"
Json = Mapping[str, Any]


def read(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The latest result of each case and other side, in the cases' order.

    Files are named DATE-CASE-OTHER.json, so that the last name is the latest. Tries at other
    sizes are left out.
    """
    latest: dict[tuple[str, str | None], dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["usual_sizes"]:
            latest[result["case"], result["against"]] = result
    order = list(CASES)
    return sorted(latest.values(), key=lambda one: order.index(one["case"]))


def allowed(result: Json) -> dict[str, float | None]:
    """A case's goals: of the ratio of time, a probe's own bound where it has one, and memory."""
    goal = dict(result["goal"])
    bound = result["roofline"].get("bound")
    return goal | ({"time": bound} if bound is not None else {})


def verdict(ratio: Json | None, most: float | None) -> str:
    """A ratio's median against what is allowed."""
    if most is None:
        return "-"
    if ratio is None:
        return f"<= {most:.2f}: not measured"
    held = ratio["median"] <= most
    return f"<= {most:.2f}: reached" if held else f"<= {most:.2f}: **not reached**"


def span(found: Json | None, digits: int) -> str:
    """Median, and least and most."""
    if found is None:
        return "-"
    median, low, high = (f"{found[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({low}-{high})"


def row(result: Json) -> list[str]:
    """A line of the table."""
    goal, memory = allowed(result), result["memory"]
    share = result["roofline"].get("share")
    return [
        result["case"],
        result["says"],
        result["against"] or "-",
        span(result["ours"], 0),
        span(result["peer"], 0),
        span(result["ratio"], 2),
        verdict(result["ratio"], goal["time"]),
        " / ".join(
            "-" if memory[name] is None else f"{memory[name]['median']:,.0f}"
            for name in ("ours", "peer")
        ),
        verdict(memory["ratio"], goal["memory"]),
        "-" if share is None else f"{share:.0%}",
        result["date"],
    ]


TITLES = (
    "case", "what", "against", "ours, ms", "theirs, ms", "ratio", "goal", "MiB", "goal",
    "of the limit", "date",
)  # fmt: skip


def table(results: Sequence[Json]) -> list[str]:
    """A line for each result, and one for each case that has none."""
    lines = [f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|"]
    there = {result["case"] for result in results}
    for name, case in CASES.items():
        lines += [f"| {' | '.join(row(one))} |" for one in results if one["case"] == name]
        if name not in there:
            empty = ["not measured", *["-"] * (len(TITLES) - 3)]
            lines.append(f"| {' | '.join([name, case.says, *empty])} |")
    return lines


def parts(result: Json) -> list[str]:
    """Where the time of a step goes, in ms."""
    found = result["parts"]
    lines = [f"| {result['case']}, part | ms |", "|---|---|"]
    return lines + [f"| {name} | {ms:,.1f} |" for name, ms in found.items()]


def limit(result: Json) -> str:
    """The machine's peaks, as one result has them."""
    found = result["roofline"]
    shape = " x ".join(map(str, found["vocabulary_shape"]))
    said = (
        f"{result['case']}: {found['matmul_2048']:.0f} GFLOP/s at 2048^3, "
        f"{found['matmul_vocabulary']:.0f} at {shape}, {found['bandwidth']:.1f} GB/s"
    )
    if "share" not in found:
        return said
    return (
        f"{said}; {found['flops'] / 1e9:.1f} GFLOP and {found['bytes'] / 1e9:.2f} GB at least, "
        f"{found['limit_ms']:.0f} ms at both peaks; {found['share_of_matmul']:.0%} of the matmul "
        f"peak, {found['share_of_bandwidth']:.0%} of the bandwidth"
    )


def attention(result: Json) -> str | None:
    """What long completions cost more than short ones of as many tokens."""
    if result["case"] != "long" or result["sizes_against"] is None:
        return None
    share = 1 - 1 / result["ratio"]["median"]
    return (
        f"Attention over completions of 2,048: about {share:.0%} of the step, by what as many "
        "tokens in completions of 128 take."
    )


def versions(result: Json) -> str:
    """What ran on both sides."""
    pairs = {}
    for side in result["versions"]:
        pairs |= side
    return ", ".join(f"{name} {version}" for name, version in pairs.items())


def said(result: Json) -> str:
    """A result in a few lines, for the terminal."""
    lines = [f"{name}: {value}" for name, value in zip(TITLES, row(result), strict=True)]
    lines += [f"limit: {limit(result)}", f"others used {result['other_cores']:.2f} cores"]
    if result["parts"] is not None:
        lines += [f"part: {name}: {ms:,.1f} ms" for name, ms in result["parts"].items()]
    return "\n".join([*lines, *filter(None, [attention(result)])])


def page(results: Sequence[Json]) -> str:
    """The README."""
    about = (
        "Each case runs in two processes that take turns, ours and the other's, in one call of the "
        "command: the same shapes, float32, the same threads and the same work, from random "
        "weights, with no id that ends a completion. The other is a peer's library in its own "
        "environment, or a part of ours. Times are medians with least and most; ratios are of "
        "steps side by side; absolute times mean nothing between machines. MiB are the peak of "
        "resident memory in a step over the level before the first one, models and batch there, "
        "moments and gradients not yet; what a compiler has used and left is given back before."
    )
    limits_ = (
        "The limit is what a step would take at the measured peak of a float32 matmul of 2048^3 "
        "and the measured bandwidth, at once: FLOPs of its matmuls, counted, and bytes of "
        "parameters, gradients, moments and the cache, counted, each moved as often as the step's "
        "definition says; activations and logits are left out."
    )
    peers = (
        "Peers: `trl` is transformers' generation and TRL's GKD loss of full logits (reverse KL); "
        "`liger` is Liger's fused head and divergence without Triton, in one chunk as by default "
        "(faster) or in smaller ones (less memory): a goal holds against each. Both with "
        "transformers' Qwen3, PyTorch's AdamW and a clipped gradient. Ours is in large pages, as "
        "every command asks for them (`opd/run/settings/pages.py`); a peer is as it comes, and in "
        "large pages where the table says so. Tunix has no on-policy distillation."
    )
    command = "    python -m experiments.bench CASE [--peer=trl|liger --peer_python=PATH] [--parts]"
    blocks = [
        ["# How fast, how large, and how far from the limit?"],
        [textwrap.fill(about, 120)],
        [command, "    python -m experiments.bench.page"],
        table(results),
        [textwrap.fill(peers, 120)],
    ]
    if results:
        last = max(results, key=lambda one: one["date"])
        blocks += [
            ["## The machine and its limit"],
            [textwrap.fill(f"{machine(last)}. {versions_of(results)}.", 120)],
            [textwrap.fill(limits_, 120)],
            [f"- {limit(one)}" for one in results if one["roofline"]["flops"]],
        ]
        blocks += [[line] for line in filter(None, map(attention, results))]
    detailed = [one for one in results if one["parts"] is not None]
    if detailed:
        parts_ = (
            "Each part is a program of its own, timed by itself; `rest` is the step less their sum."
        )
        blocks += [["## Where the time goes"], [parts_], *map(parts, detailed)]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def machine(result: Json) -> str:
    """Processor, cores, memory and threads."""
    found = result["hardware"]
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['memory_mib'] / 1024:.0f} GiB, "
        f"{found['threads']} threads a side"
    )


def versions_of(results: Sequence[Json]) -> str:
    """Everything that ran on any side."""
    return ", ".join(dict.fromkeys(", ".join(map(versions, results)).split(", ")))


def main() -> None:
    """Writes the README."""
    (HERE / "README.md").write_text(page(read()), encoding="utf-8")


if __name__ == "__main__":
    main()

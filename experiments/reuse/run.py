"""Updates on each batch of rollouts at equal rollouts: from which number on is the end worse?

python -m experiments.reuse.run --workdir=DIR [--jobs=2] [--read]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from opd.run.sweeping import study
from opd.run.sweeping.study import FIGURES, Study, Trained

BASE = 1
# What decides for a row.
DECIDES = {"opd": "kl", "grpo": "accuracy", "ppo": "accuracy"}
STALENESS = ("ess_trajectory", "ess_token", "drift")
PANELS = {
    "kl": "held-out sequence KL, nats",
    "accuracy": "held-out accuracy, sampled",
    "ess_trajectory": "ESS / N by trajectory weights",
    "drift": "KL(behavior || current), nats",
}


def summary(trained: Sequence[Trained]) -> dict[str, Any]:
    """Each row and number of updates, and the first number whose end is worse than that of one."""
    found = study.arms(trained, lambda point: (_row(point), point["reuse.updates"]))
    rows = dict.fromkeys(row for row, _ in found)
    decided = {}
    for row in rows:
        figure = DECIDES[row]
        by = {m: study.last(arm, figure) for (name, m), arm in found.items() if name == row}
        decided[row] = {
            "figure": figure,
            "first_worse": study.first_worse(by, FIGURES[figure]),
            "tried": sorted(by),
        }
    return {
        "start": study.start(found["opd", BASE]),
        "decided": decided,
        "arms": [
            {
                "name": row,
                "reuse": m,
                **study.facts(arm),
                "last": study.figures(arm, None if m == BASE else found[row, BASE]),
                "at_last_use": {key: study.at_last_use(arm, key) for key in STALENESS},
            }
            for (row, m), arm in found.items()
        ],
    }


def _row(point: Mapping[str, Any]) -> str:
    return point["method.name"].partition("@")[0]


def draw(results: Mapping[str, Any]) -> Figure:
    """Means over seeds against updates a batch, with their intervals."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    for ax, (key, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for number, row in enumerate(results["decided"]):
            arms = [arm for arm in results["arms"] if arm["name"] == row]
            if key in STALENESS:
                shown = [arm["at_last_use"][key] for arm in arms]
            elif all(key in arm["last"] for arm in arms):  # a row without a teacher has no KL
                shown = [arm["last"][key]["over_seeds"] for arm in arms]
            else:
                continue
            # The rows side by side, or their intervals would hide each other.
            x = [arm["reuse"] * 1.04 ** (number - 1) for arm in arms]
            study.dots(ax, x, shown, color=f"C{number}", label=row)
        ax.set_xscale("log", base=2)
        ticks = sorted({arm["reuse"] for arm in results["arms"]})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set(xlabel="updates a batch of rollouts", ylabel=title)
        ax.legend(frameon=False)
    return figure


STUDY = Study(Path(__file__).parent, Path("configs/sweeps/reuse.py"), summary, draw)

if __name__ == "__main__":
    STUDY.main()

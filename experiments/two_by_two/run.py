"""The four corners from one start: held-out KL and accuracy against rollouts.

python -m experiments.two_by_two.run --workdir=DIR [--jobs=2] [--read]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from opd.run.sweeping import study
from opd.run.sweeping.study import Study, Trained

BASE = "opd"
CORNERS = {
    "opd": "on-policy, dense",
    "grpo": "on-policy, sparse",
    "soft_label@behavior=teacher": "off-policy, dense",
    "offline_rl": "off-policy, sparse",
}
PANELS = {"kl": "held-out sequence KL, nats", "accuracy": "held-out accuracy, sampled"}


def summary(trained: Sequence[Trained]) -> dict[str, Any]:
    """Each corner's curves, and its last figures over seeds and less those of `opd`."""
    found = study.arms(trained, lambda point: point["method.name"])
    base = found[BASE]
    return {
        "start": study.start(base),
        "arms": [
            {
                "name": name,
                "corner": CORNERS[name],
                **study.facts(arm),
                "last": study.figures(arm, None if name == BASE else base),
                "curves": {key: study.curve(arm, key) for key in PANELS if study.last(arm, key)},
            }
            for name, arm in found.items()
        ],
    }


def draw(results: Mapping[str, Any]) -> Figure:
    """Means over seeds against rollouts, with bands of their intervals."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for ax, (key, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for number, arm in enumerate(results["arms"]):
            if key in arm["curves"]:
                study.band(ax, arm["curves"][key], color=f"C{number}", label=arm["corner"])
        ax.set(xlabel="rollouts", ylabel=title)
        if key == "accuracy":
            study.level(ax, results["teacher"]["accuracy"], "teacher")
        ax.legend(frameon=False, fontsize=7.5)
    return figure


STUDY = Study(Path(__file__).parent, Path("configs/sweeps/two_by_two.py"), summary, draw)

if __name__ == "__main__":
    STUDY.main()

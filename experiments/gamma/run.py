"""The discount of distillation's future: held-out KL, accuracy and length against gamma.

python -m experiments.gamma.run --workdir=DIR [--jobs=2] [--read]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from opd.run.sweeping import study
from opd.run.sweeping.study import Study, Trained

BASE = 0.0
PANELS = {
    "kl": "held-out sequence KL, nats",
    "accuracy": "held-out accuracy, sampled",
    "length": "length, tokens",
}


def summary(trained: Sequence[Trained]) -> dict[str, Any]:
    """Each row and discount: last figures over seeds, and less those of the row at gamma = 0."""
    found = study.arms(trained, lambda point: (point["method.name"], point["method.gamma"]))
    return {
        "start": study.start(next(iter(found.values()))),
        "arms": [
            {
                "name": name,
                "gamma": gamma,
                **study.facts(arm),
                "last": study.figures(arm, None if gamma == BASE else found[name, BASE]),
            }
            for (name, gamma), arm in found.items()
        ],
    }


def draw(results: Mapping[str, Any]) -> Figure:
    """Means over seeds against gamma, with their intervals."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax, (key, title) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for number, name in enumerate(dict.fromkeys(arm["name"] for arm in results["arms"])):
            arms = [arm for arm in results["arms"] if arm["name"] == name]
            # The two rows side by side, or their intervals would hide each other.
            x = [arm["gamma"] + 0.012 * (2 * number - 1) for arm in arms]
            over_seeds = [arm["last"][key]["over_seeds"] for arm in arms]
            study.dots(ax, x, over_seeds, color=f"C{number}", label=name)
        ax.set(xlabel="gamma", ylabel=title)
    ax.legend(frameon=False)
    return figure


STUDY = Study(Path(__file__).parent, Path("configs/sweeps/gamma.py"), summary, draw)

if __name__ == "__main__":
    STUDY.main()

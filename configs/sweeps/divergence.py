"""Which divergence, on whose sequences: GKD's two axes.

python -m experiments.sweep --sweep=configs/sweeps/divergence.py --workdir=runs/divergence
"""

from opd.run.sweeping.sweep import crossed, product

CONFIG = "configs/gkd.py"


def get_sweep():
    """45 points: three shares of own sequences, five divergences, three seeds."""
    return crossed(
        product({"method.share": (0.0, 0.5, 1.0)}),
        [
            *product({"method.divergence": ("forward_kl", "reverse_kl")}),
            *product({"method.divergence": ("jsd",), "method.argument": (0.1, 0.5, 0.9)}),
        ],
        product({"seed": (0, 1, 2)}),
    )

"""How much of the vocabulary is enough: k, and what is done about the rest.

python -m experiments.sweep --sweep=configs/sweeps/topk.py --workdir=runs/topk
"""

from opd.run.sweeping.sweep import product

CONFIG = "configs/distill.py"


def get_sweep():
    """36 points: three sizes, four tails, three seeds."""
    return product(
        {
            "method.k": (1, 4, 8),
            "method.tail": ("drop", "renormalise", "bucket", "sample"),
            "method.name": ("opd_topk",),
            "seed": (0, 1, 2),
        }
    )

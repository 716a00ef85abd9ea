"""How much of the future a token should answer for: gamma, for the enumerated and the sampled row.

python -m experiments.sweep --sweep=configs/sweeps/gamma.py --workdir=runs/gamma
"""

from opd.run.sweep import product

CONFIG = "configs/distill.py"


def get_sweep():
    """24 points: four discounts, two rows, three seeds."""
    return product(
        {
            "method.gamma": (0.0, 0.5, 0.9, 1.0),
            "method.name": ("opd", "opd_sampled"),
            "seed": (0, 1, 2),
        }
    )

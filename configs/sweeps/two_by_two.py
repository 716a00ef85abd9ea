"""The four corners of configs/two_by_two.py from one start a seed, at equal rollouts.

python -m experiments.sweep --sweep=configs/sweeps/two_by_two.py --workdir=runs/two_by_two
"""

from opd.run.sweep import product

CONFIG = "configs/two_by_two.py"
CORNERS = ("opd", "grpo", "soft_label@behavior=teacher", "offline_rl")


def get_sweep():
    """12 points: four corners, three seeds."""
    return product({"method.name": CORNERS, "seed": (0, 1, 2)})

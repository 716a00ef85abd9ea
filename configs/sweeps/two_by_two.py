"""The four corners of configs/two_by_two.py from one start a seed, at equal rollouts.

python -m experiments.sweep --sweep=configs/sweeps/two_by_two.py --workdir=runs/two_by_two
"""

from opd.run.sweep import crossed, product, zipped

CONFIG = "configs/two_by_two.py"
CORNERS = ("opd", "grpo", "soft_label@behavior=teacher", "offline_rl")
RATES = (2e-3, 5e-4, 2e-3, 5e-4)  # what a teacher steers well at is too fast for a sparse reward


def get_sweep():
    """12 points: four corners, three seeds."""
    return crossed(
        zipped({"method.name": CORNERS, "optimizer.learning_rate": RATES}),
        product({"seed": (0, 1, 2)}),
    )

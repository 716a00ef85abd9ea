"""The four corners from one start, at equal rollouts and updates.

python -m experiments.sweep --sweep=configs/sweeps/two_by_two.py --workdir=runs/two_by_two --jobs=2
"""

from opd.run.sweep import crossed, product, zipped

CONFIG = "configs/two_by_two.py"
# Each with the rate of experiments/rates.
CORNERS = {
    "opd": 1e-3,
    "grpo": 3e-4,
    "soft_label@behavior=teacher": 1e-3,
    "offline_rl@baseline=group,normaliser=group_std": 3e-4,
}
SEEDS = (0, 1, 2, 3, 4)


def get_sweep():
    """Four corners and five seeds."""
    corners = zipped({"method.name": tuple(CORNERS), "optimizer.learning_rate": CORNERS.values()})
    return crossed(corners, product({"seed": SEEDS}))

"""The four corners from one start, at equal rollouts and updates.

python -m experiments.sweep --sweep=configs/sweeps/two_by_two.py --workdir=runs/two_by_two --jobs=2
"""

from opd.run.sweeping.sweep import crossed, product, zipped

CONFIG = "configs/two_by_two.py"
# Dense and sparse rows each with the best rate of experiments/rates.
CORNERS = {
    "opd": 4e-3,
    "grpo": 1e-3,
    "soft_label@behavior=teacher": 4e-3,
    "offline_rl": 1e-3,
}
SEEDS = (0, 1, 2, 3, 4)


def get_sweep():
    """20 points: four corners, five seeds."""
    rates = tuple(CORNERS.values())
    corners = zipped({"method.name": tuple(CORNERS), "optimizer.learning_rate": rates})
    return crossed(corners, product({"seed": SEEDS}))

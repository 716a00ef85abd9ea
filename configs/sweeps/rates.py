"""The learning rate of each method: a grid on validation prompts, of a seed that no study has.

python -m experiments.sweep --sweep=configs/sweeps/rates.py --workdir=runs/rates --jobs=2
"""

from opd.run.sweep import product

CONFIG = "configs/two_by_two.py"
SPARSE = ("grpo", "ppo", "offline_rl@baseline=group,normaliser=group_std")
DENSE = (
    "opd",
    "opd_sampled",
    "soft_label@behavior=teacher",
    "opd@gamma=1",
    "opd_sampled@gamma=1",
)
SEED = {"seed": (10,), "evaluate.split": ("validation",), "evaluate.every": (160,)}


def get_sweep():
    """Four rates of eight methods."""
    sparse = {"method.name": SPARSE, "optimizer.learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3)}
    dense = {"method.name": DENSE, "optimizer.learning_rate": (5e-4, 1e-3, 2e-3, 4e-3)}
    return product(sparse | SEED) + product(dense | SEED)

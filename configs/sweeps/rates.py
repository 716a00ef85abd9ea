"""The learning rate of each method: a grid on validation prompts, of a seed no study has.

python -m experiments.sweep --sweep=configs/sweeps/rates.py --workdir=runs/rates --jobs=2
"""

from opd.run.sweep import product

CONFIG = "configs/two_by_two.py"
DENSE = ("opd", "opd_sampled", "soft_label@behavior=teacher")
DISCOUNTED = tuple(
    f"{row}@gamma={gamma:g}" for row in ("opd", "opd_sampled") for gamma in (0.5, 0.9, 1.0)
)
SPARSE = ("grpo", "ppo", "offline_rl@baseline=group,normaliser=group_std")
SEED = {"seed": (10,), "evaluate.split": ("validation",)}


def get_sweep():
    """Three rates of twelve methods."""
    dense = {"method.name": DENSE + DISCOUNTED, "optimizer.learning_rate": (5e-4, 1e-3, 2e-3)}
    sparse = {"method.name": SPARSE, "optimizer.learning_rate": (1e-4, 3e-4, 1e-3)}
    return product(dense | SEED) + product(sparse | SEED)

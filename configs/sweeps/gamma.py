"""How much of the future to credit: the discount of the enumerated and of the sampled row.

python -m experiments.sweep --sweep=configs/sweeps/gamma.py --workdir=runs/gamma --jobs=2
"""

from opd.run.sweeping.sweep import crossed, product, zipped

CONFIG = "configs/two_by_two.py"
# One rate for all discounts of a row: the best of experiments/rates at gamma = 0 and 1 together.
ROWS = {"opd": 2e-3, "opd_sampled": 1e-3}
GAMMAS = (0.0, 0.5, 0.9, 1.0)
SEEDS = (0, 1, 2, 3)


def get_sweep():
    """32 points: two rows, four discounts, four seeds."""
    rows = zipped({"method.name": tuple(ROWS), "optimizer.learning_rate": tuple(ROWS.values())})
    rest = {"method.gamma": GAMMAS, "seed": SEEDS, "evaluate.every": (160,)}
    return crossed(rows, product(rest))

"""How much of the future to credit: the discount of the enumerated and of the sampled row.

python -m experiments.sweep --sweep=configs/sweeps/gamma.py --workdir=runs/gamma --jobs=2
"""

from opd.run.sweep import crossed, product, zipped

CONFIG = "configs/two_by_two.py"
# Each with the rate of experiments/rates.
ROWS = {"opd": 1e-3, "opd_sampled": 1e-3}
GAMMAS = (0.0, 0.5, 0.9, 1.0)
SEEDS = (0, 1, 2, 3, 4)


def get_sweep():
    """Two rows, four discounts, five seeds."""
    rows = zipped({"method.name": tuple(ROWS), "optimizer.learning_rate": ROWS.values()})
    return crossed(rows, product({"method.gamma": GAMMAS, "seed": SEEDS}))

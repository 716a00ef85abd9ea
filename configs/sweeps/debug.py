"""Two discounts and two seeds of the debug config, for tests and for looking around.

python -m experiments.sweep --sweep=configs/sweeps/debug.py --workdir=runs/sweep
"""

from opd.run.sweeping.sweep import product

CONFIG = "configs/debug.py"


def get_sweep():
    """Four points."""
    return product({"method.gamma": (0.0, 1.0), "seed": (0, 1)})

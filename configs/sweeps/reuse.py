"""How many updates a batch of rollouts is good for, at equal rollouts: opd, grpo and ppo.

python -m experiments.sweep --sweep=configs/sweeps/reuse.py --workdir=runs/reuse --jobs=2
"""

from opd.run.sweeping.sweep import crossed, product, zipped

CONFIG = "configs/two_by_two.py"
# Dense and sparse rows each with the best rate of experiments/rates, at one update a batch.
METHODS = {"opd": 4e-3, "grpo@importance=token,ratio_rule=clip": 1e-3, "ppo": 1e-3}
REUSES = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)
BATCHES = 64


def get_sweep():
    """45 points: three methods, five numbers of updates a batch, three seeds."""
    methods = zipped(
        {"method.name": tuple(METHODS), "optimizer.learning_rate": tuple(METHODS.values())}
    )
    updates = [BATCHES * reuse for reuse in REUSES]
    reuses = zipped(
        {
            "reuse.updates": REUSES,
            "updates": updates,
            "optimizer.decay": updates,
            "evaluate.every": updates,
            "checkpoint.every": updates,
        }
    )
    return crossed(methods, reuses, product({"seed": SEEDS, "evaluate.teacher": (False,)}))

"""How many updates a batch of rollouts is good for, at equal rollouts: distillation and RL.

python -m experiments.sweep --sweep=configs/sweeps/reuse.py --workdir=runs/reuse
"""

from opd.run.sweep import crossed, product, zipped

CONFIG = "configs/distill.py"
BATCHES = 50
REUSE = (1, 2, 4, 8, 16)


def get_sweep():
    """45 points: five numbers of updates on each of 50 batches, three rows, three seeds."""
    return crossed(
        zipped({"reuse.updates": REUSE, "updates": [BATCHES * updates for updates in REUSE]}),
        zipped(
            {
                "method.name": ("opd", "grpo@importance=token,ratio_rule=clip", "ppo"),
                "optimizer.learning_rate": (2e-3, 5e-4, 3e-4),
            }
        ),
        product({"seed": (0, 1, 2)}),
    )

"""The learning rate of each method: a grid on validation prompts, of a seed that no study has.

python -m experiments.sweep --sweep=configs/sweeps/rates.py --workdir=runs/rates --jobs=2
"""

CONFIG = "configs/two_by_two.py"
LOW = (2.5e-4, 5e-4, 1e-3, 2e-3)
HIGH = (5e-4, 1e-3, 2e-3, 4e-3)
RATES = {
    "grpo": LOW,
    "ppo": LOW,
    "offline_rl": LOW,
    "offline_rl@baseline=group,normaliser=group_std": LOW,
    "opd": (*HIGH, 8e-3),
    "soft_label@behavior=teacher": (*HIGH, 8e-3),
    "opd_sampled": HIGH,
    "opd@gamma=1": HIGH,
    "opd_sampled@gamma=1": HIGH,
}


def get_sweep():
    """Four or five rates of nine methods."""
    return [
        {
            "method.name": method,
            "optimizer.learning_rate": rate,
            "seed": 10,
            "evaluate.split": "validation",
            "evaluate.every": 160,
        }
        for method, rates in RATES.items()
        for rate in rates
    ]

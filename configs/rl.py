"""Reinforcement learning from the task's verifier: right or wrong, at the end of a completion.

    python -m experiments.train --config=configs/rl.py --workdir=runs/rl

Shao et al. 2024 (DeepSeekMath), section 4.1. The row is grpo; any other that a reward
grades, such as --config.method.name=rloo, takes the same data.

Shows how far accuracy rises without a teacher, at as many rollouts as in configs/distill.py: in
groups of 8, more of which have both right and wrong completions. A minute on two busy CPU cores
after three for the players. Seed 0 with --config.optimizer.clip=1 --config.optimizer.spike=0:
accuracy from 0.22 to 0.44, greedy from 0.49 to 0.65.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "grpo"
    config.prompts, config.group_size = 24, 8
    config.optimizer.learning_rate = 5e-4
    return config

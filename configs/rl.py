"""Reinforcement learning from the task's verifier: right or wrong, at the end of a completion.

    python -m experiments.train --config=configs/rl.py --workdir=runs/rl

Shao et al. 2024 (DeepSeekMath), section 4.1. The row is grpo. Others of the family, by
--config.method.name: reinforce, rloo, dr_grpo, dapo, gspo.

Shows how far accuracy rises without a teacher, at as many rollouts as in configs/distill.py: in
groups of 8, more of which have both right and wrong completions. Seed 0, a minute on two busy CPU
cores after three for the players: accuracy from 0.22 to 0.44, greedy from 0.49 to 0.65.
"""

from configs._addition import DATA, STUDENT, TEACHER
from opd.run.settings.config import (
    CheckpointConfig,
    Config,
    EvaluateConfig,
    MethodConfig,
    OptimizerConfig,
    config_dict,
)


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    return config_dict(
        Config(
            updates=200,
            prompts=24,
            group_size=8,
            data=DATA,
            teacher=TEACHER,
            student=STUDENT,
            method=MethodConfig(name="grpo"),
            optimizer=OptimizerConfig(learning_rate=5e-4),
            evaluate=EvaluateConfig(every=50, split="test", prompts=256, samples=4),
            checkpoint=CheckpointConfig(every=50, keep=3),
        )
    )

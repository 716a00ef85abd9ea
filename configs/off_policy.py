"""Learning from completions that others wrote: the data, the teacher, or the student's start.

    python -m experiments.train --config=configs/off_policy.py --workdir=runs/off_policy

Radford et al. 2018, eq. 1 (sft); Hinton et al. 2015, section 2 (soft labels); Levine et al. 2020,
section 3 (offline RL). The row is sft, on the data's solutions. Others of the family, by
--config.method.name:

    soft_label@behavior=dataset   the teacher's soft labels on the data's solutions
    soft_label@behavior=teacher   the same on the teacher's completions
    teacher_behavior              reverse KL there; @importance=prefix corrects for whose they are
    offline_rl                    reward on 512 groups that the start drew once

offline_rl is steadier with --config.optimizer.learning_rate=5e-4.

Shows what the student learns from states that are not its own.
"""

from configs._addition import DATA, STUDENT, TEACHER
from opd.run.settings.config import (
    CheckpointConfig,
    Config,
    DatasetConfig,
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
            prompts=48,
            group_size=4,
            data=DATA,
            teacher=TEACHER,
            student=STUDENT,
            method=MethodConfig(name="sft"),
            dataset=DatasetConfig(groups=512),
            optimizer=OptimizerConfig(learning_rate=2e-3),
            evaluate=EvaluateConfig(every=50, split="test", prompts=256, samples=4),
            checkpoint=CheckpointConfig(every=50, keep=3),
        )
    )

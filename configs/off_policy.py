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

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "sft"
    config.dataset.groups = 512
    return config

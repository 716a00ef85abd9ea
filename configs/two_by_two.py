"""Two by two: whose states, and how dense the signal; four corners from one start.

    python -m experiments.train --config=configs/two_by_two.py --workdir=runs/two_by_two

                 dense: the teacher           sparse: the verifier
    on-policy    opd                          grpo
    off-policy   soft_label@behavior=teacher  offline_rl

Agarwal et al. 2024 (GKD), section 3; Shao et al. 2024, section 4.1; Hinton et al. 2015, section 2;
Levine et al. 2020, section 3. All corners, three seeds each:

    python -m experiments.sweep --sweep=configs/sweeps/two_by_two.py --workdir=runs/two_by_two

Every corner is given 16,000 completions: the on-policy ones draw them as they go, soft_label draws
them from the teacher, and offline_rl learns from as many as the start drew, once each.
"""

from configs._addition import DATA, STUDENT, TEACHER
from opd.run.config import (
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
            updates=100,
            prompts=40,
            group_size=4,
            data=DATA,
            teacher=TEACHER,
            student=STUDENT,
            method=MethodConfig(name="opd"),
            dataset=DatasetConfig(source="student", groups=4000),
            optimizer=OptimizerConfig(learning_rate=2e-3),
            evaluate=EvaluateConfig(every=25, split="test", prompts=256, samples=4),
            checkpoint=CheckpointConfig(every=25, keep=3),
        )
    )

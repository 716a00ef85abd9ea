"""Two by two: whose states, and how dense the signal; four corners from one start.

    python -m experiments.train --config=configs/two_by_two.py --workdir=runs/two_by_two \\
        --config.method.name=ROW

                 dense: the teacher           sparse: the verifier
    on-policy    opd                          grpo
    off-policy   soft_label@behavior=teacher  offline_rl

Agarwal et al. 2024 (GKD), section 3; Shao et al. 2024, section 4.1; Hinton et al. 2015, section 2;
Levine et al. 2020, section 3. All corners, at 20,480 rollouts each: the on-policy ones draw them as
they go, soft_label draws them from the teacher, and offline_rl has as many of the start's own, once
each: configs/sweeps/two_by_two.py. The studies of gamma and reuse start from this config too.
"""

from opd.data.pipeline import DataConfig
from opd.run.settings.config import (
    CheckpointConfig,
    Config,
    DatasetConfig,
    EvaluateConfig,
    FitConfig,
    ModelConfig,
    OptimizerConfig,
    PlayerConfig,
    config_dict,
)

UPDATES, PROMPTS = 160, 32


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    model = ModelConfig(width=64, layers=2, heads=4)
    return config_dict(
        Config(
            updates=UPDATES,
            prompts=PROMPTS,
            group_size=4,
            data=DataConfig(
                task="arithmetic",
                operation="add",
                digits=2,
                reverse=True,
                tokenizer="char",
                train=4000,
                validation=384,
                test=640,
                length=64,
            ),
            teacher=PlayerConfig(
                model=model,
                fit=FitConfig(steps=1500, batch=128, learning_rate=5e-3, stop_at=0.95),
            ),
            student=PlayerConfig(
                model=model,
                fit=FitConfig(
                    steps=1500, batch=64, learning_rate=3e-3, stop_at=0.25, check_every=5
                ),
            ),
            # Logged rollouts: as many as the other corners draw.
            dataset=DatasetConfig(groups=UPDATES * PROMPTS),
            optimizer=OptimizerConfig(learning_rate=1e-3, decay=UPDATES),
            evaluate=EvaluateConfig(every=20, split="test", prompts=640, samples=2, teacher=True),
            checkpoint=CheckpointConfig(every=UPDATES, keep=1),
        )
    )

"""The four corners, on-policy or off, dense or sparse, from one start on two-digit addition.

    python -m experiments.train --config=configs/two_by_two.py --workdir=DIR \\
        --config.method.name=ROW

with a ROW of `opd` (on-policy, dense), `grpo` (on-policy, sparse), `soft_label@behavior=teacher`
(off-policy, dense) or `offline_rl` (off-policy, sparse, on rollouts that the start has drawn).
All corners at once: configs/sweeps/two_by_two.py. The studies of gamma and reuse start here too.
"""

from opd.data.pipeline import DataConfig
from opd.run.config import (
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
                    steps=1500, batch=64, learning_rate=3e-3, stop_at=0.3, check_every=10
                ),
            ),
            # Logged rollouts: as many as the other corners draw.
            dataset=DatasetConfig(groups=UPDATES * PROMPTS),
            optimizer=OptimizerConfig(learning_rate=1e-3, decay=UPDATES),
            evaluate=EvaluateConfig(every=20, split="test", prompts=640, samples=2, teacher=True),
            checkpoint=CheckpointConfig(every=UPDATES, keep=1),
        )
    )

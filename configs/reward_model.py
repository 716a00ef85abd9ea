"""Two-digit addition: a reward model, trained on pairs that the run makes by the verifier.

    python -m experiments.train --config=configs/reward_model.py --workdir=runs/reward_model
    python -m experiments.train --config=configs/quickstart.py --workdir=runs/rl \\
        --config.method.name=grpo --config.reward.from=runs/reward_model@best

The student's start completes the prompts; a pair has a right and a wrong completion of one prompt.
Your own pairs: --config.reward.pairs=FILE.jsonl, one object a line with `prompt`, `chosen` and
`rejected`.
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


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    return config_dict(
        Config(
            trains="reward",
            updates=1000,
            prompts=128,  # pairs an update
            group_size=8,  # completions drawn for a prompt
            data=DataConfig(
                task="arithmetic",
                operation="add",
                digits=2,
                reverse=True,
                tokenizer="char",
                train=4000,
                validation=256,
                test=256,
                length=64,
            ),
            student=PlayerConfig(
                model=ModelConfig(width=48, layers=2, heads=4),
                fit=FitConfig(
                    steps=1500, batch=64, learning_rate=3e-3, stop_at=0.25, check_every=10
                ),
            ),
            dataset=DatasetConfig(groups=8000),
            optimizer=OptimizerConfig(learning_rate=3e-3, warmup=50, weight_decay=0.1),
            evaluate=EvaluateConfig(every=100, split="test", prompts=256, samples=4),
            checkpoint=CheckpointConfig(every=100),
        )
    )

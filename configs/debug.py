"""One-digit addition: the whole loop of the main job in seconds, for tests and for looking around.

    python -m experiments.compare --config=configs/debug.py --workdir=runs/debug

Too little of everything for its numbers to mean anything.
"""

from opd.data.pipeline import DataConfig
from opd.run.settings.config import (
    CheckpointConfig,
    CompareConfig,
    Config,
    EvaluateConfig,
    FitConfig,
    ModelConfig,
    OptimizerConfig,
    PlayerConfig,
    ProbeConfig,
    config_dict,
)


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    return config_dict(
        Config(
            updates=3,
            prompts=4,
            group_size=4,
            data=DataConfig(
                task="arithmetic",
                operation="add",
                digits=1,
                tokenizer="char",
                train=32,
                validation=8,
                test=8,
                length=8,
            ),
            teacher=PlayerConfig(
                model=ModelConfig(width=24, layers=1, heads=2),
                fit=FitConfig(steps=20, batch=32, learning_rate=1e-2),
            ),
            student=PlayerConfig(
                model=ModelConfig(width=16, layers=1, heads=2),
                fit=FitConfig(steps=10, batch=32, learning_rate=1e-2),
            ),
            probe=ProbeConfig(
                rows=("opd", "opd_sampled", "opd@gamma=1", "grpo"),
                groups=8,
                batch=4,
                sketch=64,
            ),
            optimizer=OptimizerConfig(warmup=1),
            compare=CompareConfig(arms=("opd", "grpo")),
            checkpoint=CheckpointConfig(every=2, keep=3),
            evaluate=EvaluateConfig(every=2, split="test", prompts=8, samples=2),
        )
    )

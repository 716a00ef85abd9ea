"""One-digit addition: the whole loop of the main job in seconds, for tests and for looking around.

    python -m experiments.compare --config=configs/debug.py --workdir=runs/debug

Too little of everything for its numbers to mean anything.
"""

from opd.data.pipeline import DataConfig
from opd.run.config import (
    Config,
    EvaluateConfig,
    FitConfig,
    ModelConfig,
    PlayerConfig,
    ProbeConfig,
    TrainConfig,
    config_dict,
)


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    return config_dict(
        Config(
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
            train=TrainConfig(
                arms=("opd", "grpo"),
                updates=3,
                prompts=4,
                warmup=1,
                evaluate_every=2,
            ),
            evaluate=EvaluateConfig(split="test", prompts=8, samples=2),
        )
    )

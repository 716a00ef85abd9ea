"""Two-digit addition: a teacher, a weaker student, a probe of fourteen rows, four arms.

    python -m experiments.compare --config=configs/quickstart.py --workdir=runs/quickstart

About five minutes on two CPU cores.
"""

from opd.data.pipeline import DataConfig
from opd.run.settings.config import (
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
            updates=100,
            prompts=48,
            group_size=4,
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
            teacher=PlayerConfig(
                model=ModelConfig(width=64, layers=2, heads=4),
                fit=FitConfig(steps=1500, batch=128, learning_rate=5e-3, stop_at=0.95),
            ),
            student=PlayerConfig(
                model=ModelConfig(width=48, layers=2, heads=4),
                fit=FitConfig(
                    steps=1500, batch=64, learning_rate=3e-3, stop_at=0.25, check_every=10
                ),
            ),
            probe=ProbeConfig(
                rows=(
                    "opd",
                    "opd_sampled",
                    "opd_baseline",
                    "opd_resampled@k=4",
                    "opd_topk@k=4",
                    "opd_topk@k=4,tail=drop",
                    "opd_topk@k=4,tail=renormalise",
                    "opd@gamma=0.5",
                    "opd@gamma=1",
                    "opd_sampled@gamma=1",
                    "soft_label",
                    "soft_label@expectation=sampled",
                    "reinforce",
                    "grpo",
                ),
                groups=512,
                batch=64,
                repeats=6,
            ),
            optimizer=OptimizerConfig(learning_rate=5e-4),
            compare=CompareConfig(arms=("opd", "opd_sampled", "opd_topk@k=4", "grpo")),
            evaluate=EvaluateConfig(every=25, split="test", prompts=256, samples=4),
        )
    )

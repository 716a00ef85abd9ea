"""Your own prompts: a teacher and a weaker student fitted to their answers, a probe, four arms.

    python -m experiments.compare --config=configs/prompts.py \\
        --config.data.prompts=FILE.jsonl --workdir=DIR

FILE.jsonl has one object a line with `prompt` and `answer`. A tenth of the prompts is held out for
validation, another for the test; what is left must be as many as probe.groups. Sizes are for short
answers and two CPU cores.
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
    """A complete config but for data.prompts, which has no default."""
    # The file is asked for when the config is built, so that its absence is said by name.
    config = Config(
        updates=60,
        prompts=32,
        group_size=4,
        data=DataConfig(task="arithmetic"),
        teacher=PlayerConfig(
            model=ModelConfig(width=64, layers=2, heads=4),
            fit=FitConfig(steps=1500, batch=64, learning_rate=3e-3, stop_at=0.97),
        ),
        student=PlayerConfig(
            model=ModelConfig(width=48, layers=2, heads=4),
            fit=FitConfig(steps=1500, batch=64, learning_rate=3e-3, stop_at=0.25, check_every=10),
        ),
        probe=ProbeConfig(
            rows=(
                "opd",
                "opd_sampled",
                "opd_baseline",
                "opd_resampled@k=4",
                "opd_topk@k=16",
                "opd_topk@k=16,tail=drop",
                "opd@gamma=1",
                "soft_label",
                "soft_label@expectation=sampled",
                "grpo",
            ),
            groups=128,
            batch=32,
        ),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        compare=CompareConfig(arms=("opd", "opd_sampled", "opd_topk@k=16", "grpo")),
        evaluate=EvaluateConfig(every=20, split="test", prompts=256, samples=4),
    )
    values = config_dict(config)
    values.data.task = "jsonl"
    return values

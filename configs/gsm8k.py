"""GSM8K with a small BPE model: gradient estimators where no small model can solve the task.

    python -m experiments.compare --config=configs/gsm8k.py --config.data.path=DIR \\
        --workdir=runs/gsm8k

DIR holds the two original files, train.jsonl and test.jsonl. A model of this size doesn't solve
grade-school problems, so accuracy stays near 0: KL and SNR are what this run measures.
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
    """A complete config but for data.path, which has no default."""
    # The folder is asked for when the config is built, so that its absence is said by name.
    config = Config(
        updates=24,
        prompts=16,
        group_size=4,
        chunk=32,
        data=DataConfig(
            task="arithmetic",
            tokenizer="bpe",
            bpe_size=2048,
            max_prompt=128,
            max_completion=64,
            long_prompts="skip",
            validation=256,
        ),
        teacher=PlayerConfig(
            model=ModelConfig(width=128, layers=4, heads=4, kv_heads=2, tied=True),
            fit=FitConfig(steps=250, batch=16, learning_rate=2e-3),
        ),
        student=PlayerConfig(
            model=ModelConfig(width=128, layers=2, heads=4, kv_heads=2, tied=True),
            fit=FitConfig(steps=80, batch=24, learning_rate=2e-3),
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
            batch=16,
            repeats=5,
        ),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        compare=CompareConfig(arms=("opd", "opd_sampled", "opd_topk@k=16", "grpo")),
        evaluate=EvaluateConfig(every=8, split="test", prompts=64, samples=2),
    )
    values = config_dict(config)
    values.data.task = "gsm8k"
    return values

"""Your own models: one Hugging Face folder distilled into another, on your prompts.

    python -m experiments.train --config=configs/hub.py --workdir=DIR \\
        --config.teacher.path=FOLDER --config.student.path=FOLDER --config.data.prompts=FILE.jsonl

Tokenizer and chat template are the student's folder's. The rate is for all parameters; an adapter
(`student.lora.rank`) takes ten times as much. `compare` takes the same flags.
"""

from opd.data.pipeline import DataConfig
from opd.run.settings.config import (
    CheckpointConfig,
    CompareConfig,
    Config,
    EvaluateConfig,
    OptimizerConfig,
    ProbeConfig,
    config_dict,
)


def get_config():
    """A complete config but for the folders and the prompts, which have no default."""
    config = Config(
        updates=200,
        prompts=16,
        group_size=4,
        data=DataConfig(max_completion=256),
        probe=ProbeConfig(
            rows=("opd", "opd_sampled", "opd_baseline", "opd_topk@k=16", "soft_label"),
            groups=128,
            batch=8,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup=10, microbatches=4),
        compare=CompareConfig(arms=("opd", "opd_sampled")),
        evaluate=EvaluateConfig(every=20, prompts=64, samples=4),
        checkpoint=CheckpointConfig(every=50),
    )
    return config_dict(config)

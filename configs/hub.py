"""Your own models: one Hugging Face folder distilled into another, on your prompts.

    python -m experiments.train --config=configs/hub.py --workdir=DIR \\
        --config.teacher.path=FOLDER --config.student.path=FOLDER --config.data.prompts=FILE.jsonl

Tokenizer and chat template are the student's folder's. The rate is for all parameters; an adapter
(`student.lora.rank`) takes ten times as much. What is trained is float32, whatever the folders
store; `student.dtype` says what is computed in, and exported. `compare` takes the same flags.
"""

from opd.run.settings.config import Config, config_dict


def get_config():
    """A complete config but for the folders and the prompts, which have no default."""
    config = config_dict(Config())
    config.updates = 200
    config.prompts, config.group_size = 16, 4
    config.data.update(task="jsonl", max_completion=256)
    config.probe.rows = ("opd", "opd_sampled", "opd_baseline", "opd_topk@k=16", "soft_label")
    config.probe.update(groups=128, batch=8)
    config.compare.arms = ("opd", "opd_sampled")
    config.optimizer.update(learning_rate=1e-5, warmup=10, microbatches=4)
    config.evaluate.update(every=20, prompts=64, samples=4)
    config.checkpoint.every = 50
    return config

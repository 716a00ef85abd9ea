"""GSM8K with a small BPE model: gradient estimators where no small model can solve the task.

    python -m experiments.compare --config=configs/gsm8k.py --config.data.path=DIR \\
        --workdir=runs/gsm8k

DIR holds the two original files, train.jsonl and test.jsonl. A model of this size doesn't solve
grade-school problems, so accuracy stays near 0: KL and SNR are what this run measures.
"""

from opd.run.settings.config import Config, config_dict


def get_config():
    """A complete config but for data.path, which has no default."""
    config = config_dict(Config())
    config.updates = 24
    config.prompts, config.group_size = 16, 4
    config.chunk = 32
    config.data.update(task="gsm8k", tokenizer="bpe", bpe_size=2048, validation=256)
    config.data.update(max_prompt=128, max_completion=64, long_prompts="skip")
    config.teacher.model.update(width=128, layers=4, heads=4, kv_heads=2, tied=True)
    config.teacher.fit.update(steps=250, batch=16, learning_rate=2e-3)
    config.student.model.update(width=128, layers=2, heads=4, kv_heads=2, tied=True)
    config.student.fit.update(steps=80, batch=24, learning_rate=2e-3)
    config.probe.rows = (
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
    )
    config.probe.update(groups=128, batch=16, repeats=5)
    config.compare.arms = ("opd", "opd_sampled", "opd_topk@k=16", "grpo")
    # The clip is what the README's numbers were measured with.
    config.optimizer.update(learning_rate=5e-4, clip=1.0, spike=0.0)
    config.evaluate.update(every=8, split="test", prompts=64, samples=2)
    return config

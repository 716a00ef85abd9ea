"""Your own prompts: a teacher and a weaker student fitted to their answers, a probe, four arms.

    python -m experiments.compare --config=configs/prompts.py \\
        --config.data.prompts=FILE.jsonl --workdir=DIR

FILE.jsonl has one object a line with `prompt` and `answer`. A tenth of the prompts is held out for
validation, another for the test; what is left must be as many as probe.groups. Sizes are for short
answers and two CPU cores.
"""

from opd.run.settings.config import Config, config_dict


def get_config():
    """A complete config but for data.prompts, which has no default."""
    config = config_dict(Config())
    config.updates = 60
    config.prompts, config.group_size = 32, 4
    config.data.task = "jsonl"
    config.teacher.model.update(width=64, layers=2, heads=4)
    config.teacher.fit.update(steps=1500, batch=64, learning_rate=3e-3, stop_at=0.97)
    config.student.model.update(width=48, layers=2, heads=4)
    config.student.fit.update(steps=1500, batch=64, learning_rate=3e-3)
    config.student.fit.update(stop_at=0.25, check_every=10)
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
    config.probe.update(groups=128, batch=32)
    config.compare.arms = ("opd", "opd_sampled", "opd_topk@k=16", "grpo")
    config.optimizer.learning_rate = 5e-4
    config.evaluate.update(every=20, split="test", prompts=256, samples=4)
    return config

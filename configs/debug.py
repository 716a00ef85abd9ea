"""One-digit addition: the whole loop of the main job in seconds, for tests and for looking around.

    python -m experiments.compare --config=configs/debug.py --workdir=runs/debug

Too little of everything for its numbers to mean anything.
"""

from opd.run.settings.config import Config, config_dict


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = config_dict(Config())
    config.updates = 3
    config.prompts, config.group_size = 4, 4
    config.data.update(task="arithmetic", operation="add", digits=1, tokenizer="char")
    config.data.update(train=32, validation=8, test=8, length=8)
    config.teacher.model.update(width=24, layers=1, heads=2)
    config.teacher.fit.update(steps=20, batch=32, learning_rate=1e-2)
    config.student.model.update(width=16, layers=1, heads=2)
    config.student.fit.update(steps=10, batch=32, learning_rate=1e-2)
    config.probe.rows = ("opd", "opd_sampled", "opd@gamma=1", "grpo")
    config.probe.update(groups=8, batch=4, sketch=64)
    config.compare.arms = ("opd", "grpo")
    config.optimizer.warmup = 1
    config.evaluate.update(every=2, split="test", prompts=8, samples=2)
    config.checkpoint.update(every=2, keep=3)
    return config

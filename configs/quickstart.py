"""Two-digit addition: a teacher, a weaker student, a probe of fourteen rows, four arms.

    python -m experiments.compare --config=configs/quickstart.py --workdir=runs/quickstart

About five minutes on two CPU cores.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.updates = 100
    config.probe.rows = (
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
    )
    config.probe.update(groups=512, batch=64, repeats=6)
    config.compare.arms = ("opd", "opd_sampled", "opd_topk@k=4", "grpo")
    config.optimizer.learning_rate = 5e-4
    config.evaluate.every = 25
    return config

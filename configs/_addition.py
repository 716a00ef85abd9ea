"""Two-digit addition as configs share it: data, teacher, the student's start, and the usual rest.

The teacher is fitted until it adds right 95 % of the time, the student until 25 %: so a reward is
neither always there nor never. Both take a minute on two CPU cores. Widths, rates and sizes were
chosen by hand, not tuned.
"""

from opd.run.settings.config import Config, config_dict

DATA = {
    "task": "arithmetic",
    "operation": "add",
    "digits": 2,
    "reverse": True,
    "tokenizer": "char",
    "train": 4000,
    "validation": 256,
    "test": 256,
    "length": 64,
}
TEACHER = {
    "model": {"width": 64, "layers": 2, "heads": 4},
    "fit": {"steps": 1500, "batch": 128, "learning_rate": 5e-3, "stop_at": 0.95},
}
STUDENT = {
    "model": {"width": 48, "layers": 2, "heads": 4},
    "fit": {
        "steps": 1500,
        "batch": 64,
        "learning_rate": 3e-3,
        "stop_at": 0.25,
        "check_every": 10,
    },
}


def get_config():
    """A complete config of `opd`, which the others change."""
    config = config_dict(Config())
    config.updates = 200
    config.prompts, config.group_size = 48, 4
    config.data.update(DATA)
    config.teacher.update(TEACHER)
    config.student.update(STUDENT)
    config.optimizer.learning_rate = 2e-3
    config.evaluate.update(every=50, split="test", prompts=256, samples=4)
    config.checkpoint.update(every=50, keep=3)
    return config

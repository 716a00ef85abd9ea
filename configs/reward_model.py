"""Two-digit addition: a reward model, trained on pairs that the run makes by the verifier.

    python -m experiments.train --config=configs/reward_model.py --workdir=runs/reward_model
    python -m experiments.train --config=configs/quickstart.py --workdir=runs/rl \\
        --config.method.name=grpo --config.reward.from=runs/reward_model@best

The student's start completes the prompts; a pair has a right and a wrong completion of one prompt.
Your own pairs: --config.reward.pairs=FILE.jsonl, one object a line with `prompt`, `chosen` and
`rejected`.
"""

from configs._addition import DATA, STUDENT
from opd.run.settings.config import Config, config_dict


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = config_dict(Config())
    config.trains = "reward"
    config.updates = 1000
    config.prompts = 128  # pairs an update
    config.group_size = 8  # completions drawn for a prompt
    config.data.update(DATA)
    config.student.update(STUDENT)
    config.dataset.groups = 8000
    config.optimizer.update(learning_rate=3e-3, warmup=50, weight_decay=0.1)
    config.evaluate.update(every=100, split="test", prompts=256, samples=4)
    config.checkpoint.every = 100
    return config

"""Reward and distillation in one gradient: the verifier's word, and the teacher's beside it.

    python -m experiments.train --config=configs/mixed.py --workdir=runs/mixed

Schmitt et al. 2018 (kickstarting), section 3. The row is rl_with_teacher; its coefficient is
--config.method.name=rl_with_teacher@teacher.coef=0.3. The other sum is a reward with a penalty for
leaving the start (Shao et al. 2024, eq. 3 and 4), --config.method.name=rl_with_reference, whose
coefficient is @reference.coef.

Shows whether accuracy rises faster than in configs/rl.py and further than in configs/distill.py.
Seed 0 with --config.optimizer.clip=1 --config.optimizer.spike=0: KL from 11.9 to 2.8 nats, accuracy
from 0.22 to 0.50, greedy from 0.49 to 0.83.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "rl_with_teacher"
    config.optimizer.learning_rate = 1e-3
    return config

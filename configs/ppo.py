"""PPO: a learned value, generalised advantages, four clipped updates on a batch of rollouts.

    python -m experiments.train --config=configs/ppo.py --workdir=runs/ppo

Schulman et al. 2017 (PPO), eq. 7; Schulman et al. 2016 (GAE), eq. 16. The other row with a critic
is V-trace (Espeholt et al. 2018), by --config.method.name=vtrace.

Shows how far accuracy rises at as many rollouts as in configs/rl.py, or more where a batch is left
early: after four updates, or once the policy has moved 0.05 nats a sequence.
"""

from configs._addition import DATA, STUDENT, TEACHER
from opd.run.settings.config import (
    CheckpointConfig,
    Config,
    CriticConfig,
    EvaluateConfig,
    MethodConfig,
    OptimizerConfig,
    ReuseConfig,
    config_dict,
)


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    return config_dict(
        Config(
            updates=800,
            prompts=24,
            group_size=8,
            data=DATA,
            teacher=TEACHER,
            student=STUDENT,
            method=MethodConfig(name="ppo"),
            reuse=ReuseConfig(updates=4, kl=0.05),
            critic=CriticConfig(learning_rate=1e-3),
            optimizer=OptimizerConfig(learning_rate=3e-4),
            evaluate=EvaluateConfig(every=200, split="test", prompts=256, samples=4),
            checkpoint=CheckpointConfig(every=200, keep=3),
        )
    )

"""PPO: a learned value, generalised advantages, four clipped updates on a batch of rollouts.

    python -m experiments.train --config=configs/ppo.py --workdir=runs/ppo

Schulman et al. 2017 (PPO), eq. 7; Schulman et al. 2016 (GAE), eq. 16. The other row with a critic
is V-trace (Espeholt et al. 2018), by --config.method.name=vtrace.

Shows how far accuracy rises at as many rollouts as in configs/rl.py, or more where a batch is left
early: after four updates, or once the policy has moved 0.05 nats a sequence.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "ppo"
    config.prompts, config.group_size = 24, 8
    config.reuse.update(updates=4, kl=0.05)
    config.critic.learning_rate = 1e-3
    config.optimizer.learning_rate = 3e-4
    config.updates = 800  # four on a batch: the rollouts of 200
    config.evaluate.every = config.checkpoint.every = 200
    return config

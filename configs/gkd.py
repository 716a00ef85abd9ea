"""Generalised knowledge distillation: a divergence, on own and given sequences.

    python -m experiments.train --config=configs/gkd.py --workdir=runs/gkd

Agarwal et al. 2024 (GKD), algorithm 1 and eq. 1. --config.method.share is the paper's lambda,
the part of the batches that the student draws, usually 0.5; the data's solutions are the rest.
--config.method.argument is its beta of the Jensen-Shannon divergence, usually 0.5;
--config.method.divergence takes others.

Shows what lies between supervised (share = 0) and on-policy distillation (share = 1):
configs/sweeps/divergence.py goes through both axes. Seed 0 with --config.optimizer.clip=1
--config.optimizer.spike=0: KL from 11.9 to 2.4 nats, accuracy from 0.22 to 0.57, greedy from 0.49
to 0.79.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "gkd"
    return config

"""DAgger: soft labels on all states that the student has come to, kept in a buffer.

    python -m experiments.train --config=configs/dagger.py --workdir=runs/dagger

Ross, Gordon and Bagnell 2011 (DAgger), algorithm 3.1. The buffer has room for a tenth of
all groups; --config.buffer.age=N lets a group go after N batches, --config.buffer.size=9600 keeps
all.

Shows whether old states still serve where a teacher grades every token: compare with
--config.method.name=soft_label, on fresh states alone. Seed 0 with --config.optimizer.clip=1
--config.optimizer.spike=0: KL from 11.9 to 2.5 nats, accuracy from 0.22 to 0.55, greedy from 0.49
to 0.84.
"""

from configs import _addition


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.method.name = "dagger"
    config.buffer.update(size=1024, age=0)
    return config

"""Two by two: whose states, and how dense the signal; four corners from one start.

    python -m experiments.train --config=configs/two_by_two.py --workdir=runs/two_by_two \\
        --config.method.name=ROW

                 dense: the teacher           sparse: the verifier
    on-policy    opd                          grpo
    off-policy   soft_label@behavior=teacher  offline_rl

Agarwal et al. 2024 (GKD), section 3; Shao et al. 2024, section 4.1; Hinton et al. 2015, section 2;
Levine et al. 2020, section 3. All corners, at 20,480 rollouts each: the on-policy ones draw them as
they go, soft_label draws them from the teacher, and offline_rl has as many of the start's own, once
each: configs/sweeps/two_by_two.py. The studies of gamma and reuse start from this config too.
"""

from configs import _addition

UPDATES, PROMPTS = 160, 32


def get_config():
    """A complete config; every key can be overridden with --config.KEY=VALUE."""
    config = _addition.get_config()
    config.updates, config.prompts = UPDATES, PROMPTS
    config.data.update(validation=384, test=640)
    config.student.model.width = config.teacher.model.width
    config.student.fit.check_every = 5
    config.dataset.groups = UPDATES * PROMPTS  # logged rollouts: as many as the others draw
    # The clip is what the studies' numbers were measured with.
    config.optimizer.update(learning_rate=1e-3, decay=UPDATES, clip=1.0, spike=0.0)
    config.evaluate.update(every=20, prompts=640, samples=2, teacher=True)
    config.checkpoint.update(every=UPDATES, keep=1)
    return config

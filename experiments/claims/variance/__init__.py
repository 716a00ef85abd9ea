"""B: variance."""

from experiments.claims.claim import trained
from experiments.claims.variance import (
    b1,
    b2,
    b3,
    b4,
    b5,
    b7,
    b8,
    b9,
    b10,
    b11,
    b12,
    b14,
    b15,
    b16,
    b17,
)

CROSS_TERM = trained(
    "B6",
    "size of the cross term",
    "In transformers the cross term is small beside the variance within states.",
    "probes of several checkpoints and tasks, the cross term over within with its interval",
)
GENERATION = trained(
    "B13",
    "generation is the expensive part",
    "Drawing rollouts is the expensive part of an update, and sampled and enumerated estimators "
    "pay it alike.",
    "seconds of rollout, teacher and update on an accelerator against the completion's length",
)
CLAIMS = (
    b1.CLAIM,
    b2.CLAIM,
    b3.CLAIM,
    b4.CLAIM,
    b5.CLAIM,
    CROSS_TERM,
    b7.CLAIM,
    b8.CLAIM,
    b9.CLAIM,
    b10.CLAIM,
    b11.CLAIM,
    b12.CLAIM,
    GENERATION,
    b14.CLAIM,
    b15.CLAIM,
    b16.CLAIM,
    b17.CLAIM,
)

"""F: the instrument itself."""

from experiments.claims.claim import trained
from experiments.claims.instrument import f2, f3

CLAIMS = (
    trained(
        "F1",
        "the probe predicts training",
        "Estimators ranked by the probe at the start of training (SNR per rollout, SNR per second, "
        "bias) are ranked alike by the training that they then give.",
        "at least 12 cells of task, model size and start, each probed and then trained to a target "
        "KL with every arm; the rank correlation with its interval",
    ),
    f2.CLAIM,
    f3.CLAIM,
)

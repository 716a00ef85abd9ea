"""D: importance and reuse."""

from experiments.claims.claim import trained
from experiments.claims.importance import d1, d2, d3, d5, d6, d7, d8, d9

CLAIMS = (
    d1.CLAIM,
    d2.CLAIM,
    d3.CLAIM,
    trained(
        "D4",
        "distillation affords more reuse than RL",
        "More updates can be made on a batch of rollouts before the held-out figure turns by "
        "distillation than by RL.",
        "experiments/reuse again on more seeds and a second task, with rates tuned at each number "
        "of updates: its three seeds leave sixteen updates of distillation open",
    ),
    d5.CLAIM,
    d6.CLAIM,
    d7.CLAIM,
    d8.CLAIM,
    d9.CLAIM,
    trained(
        "D10",
        "distillation needs aggressive reuse less",
        "Reuse saves distillation a smaller factor of rollouts to a target than it saves RL.",
        "rollouts to a target, best reuse over none, for distillation and RL on paired seeds: "
        "experiments/reuse compares ends at equal rollouts only",
    ),
)

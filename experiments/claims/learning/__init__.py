"""E: learning."""

from experiments.claims.claim import trained
from experiments.claims.learning import e1, e5, e7, e10, e12

CLAIMS = (
    e1.CLAIM,
    trained(
        "E2",
        "exposure bias in a small language model",
        "On its own rollouts a student trained on its teacher's sequences drifts from the teacher "
        "as the position grows, and one trained by on-policy distillation does so less.",
        "the KL by position on own rollouts after SFT, soft labels, on-policy distillation and "
        "GRPO, on completions long enough for errors to compound",
    ),
    trained(
        "E3",
        "on-policy or off, dense or sparse",
        "Of the four corners, own or given rollouts with a grade at every token or one at the end, "
        "on-policy and dense learns the most from equal rollouts.",
        "completions of more than a few tokens: experiments/two_by_two has dense ahead of sparse, "
        "and leaves on-policy against off-policy open at 3.5 tokens; and equal teacher calls",
    ),
    trained(
        "E4",
        "one to two orders of magnitude fewer rollouts",
        "To reach a given quality on-policy distillation needs ten to a hundred times fewer "
        "rollouts than reinforcement learning.",
        "rollouts, FLOPs and seconds to a fixed KL and accuracy for terminal reward, sequence KL, "
        "sampled, baselined, top-k and enumerated rows, as factors with intervals over seeds",
    ),
    e5.CLAIM,
    trained(
        "E6",
        "reward hacking",
        "Reinforcement learning on a proxy reward ends up exploiting it, while distillation has no "
        "reward that could be exploited.",
        "RL on a gameable proxy and on a reward model fitted to biased labels, and distillation "
        "from a teacher with that bias, all graded by the verifier",
    ),
    e7.CLAIM,
    trained(
        "E8",
        "mixing rollouts, choosing divergences",
        "A modest share of the student's own rollouts already gives most of what on-policy "
        "training gains, whatever the divergence.",
        "final KL and accuracy over a grid of the student's share and the divergence, from one "
        "start, with intervals over seeds",
    ),
    trained(
        "E9",
        "distilling one's own reinforced self",
        "What a model has learnt by reinforcement can be distilled back into its start in far "
        "fewer steps than it took to learn.",
        "a model trained by RL, then its start distilled from it: steps and rollouts to match, "
        "over seeds",
    ),
    e10.CLAIM,
    trained(
        "E11",
        "only reinforcement discovers",
        "Reinforcement learning finds solutions that no model had before, distillation never does.",
        "the prompts that the teacher solves in none of 64 attempts: how many are solved after RL, "
        "after distillation, and after distillation then RL",
    ),
    e12.CLAIM,
)

"""The rows of the methods table: one entry a method, a tuple of terms over the same axes.

Adding a method is one entry in ROWS: everything else about it follows from its terms (`facts`), and
what can be said on an axis stands in `axes`. Numbers that a paper leaves to the run (coefficients,
thresholds) are overrides like any other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from opd.method.axes import Origin, Term


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: its terms, what it is, who published it, and whose rollouts it takes.

    An axis that another one brings in may be left out where its usual value is meant.
    """

    terms: tuple[Term, ...]
    label: str
    paper: str
    origin: Origin = Origin()


TEACHER = Term(divergence="reverse_kl")
REWARD = Term("reward", gamma=1.0)
CLIPPED: dict[str, object] = {
    "importance": "token",
    "ratio_rule": "clip",
    "low": 0.8,
    "high": 1.2,
}
GRPO = replace(REWARD, baseline="group", normaliser="group_std")

ROWS: dict[str, Row] = {
    "opd": Row(
        (replace(TEACHER, expectation="enumerated"),),
        "on-policy distillation, enumerated",
        "Agarwal et al. 2024 (GKD), section 3; Gu et al. 2024 (MiniLLM), section 2.2",
    ),
    "opd_sampled": Row(
        (TEACHER,),
        "on-policy distillation, sampled token",
        "Thinking Machines Lab 2025, On-Policy Distillation",
    ),
    "opd_baseline": Row(
        (replace(TEACHER, baseline="expected_kl"),),
        "sampled token, expected-KL baseline",
        "Greensmith, Bartlett and Baxter 2004, section 3 (a state baseline); vOPD (2605.07865)",
    ),
    "opd_resampled": Row(
        (replace(TEACHER, expectation="resampled", k=4),),
        "k fresh tokens from the student",
        "Metropolis and Ulam 1949; Asadi et al. 2017 (mean actor-critic), section 4",
    ),
    "opd_topk": Row(
        (replace(TEACHER, expectation="topk", k=8, tail="sample", topk_from="student"),),
        "top-k and a tail",
        "Kool, van Hoof and Welling 2020, section 3 (sum and sample)",
    ),
    "soft_label": Row(
        (replace(TEACHER, divergence="forward_kl", expectation="enumerated"),),
        "teacher's soft labels at the student's states",
        "Hinton, Vinyals and Dean 2015, section 2; Ross et al. 2011 (DAgger)",
    ),
    "reinforce": Row(
        (REWARD,),
        "REINFORCE, terminal reward",
        "Williams 1992, eq. 2",
    ),
    "rloo": Row(
        (replace(REWARD, baseline="leave_one_out"),),
        "REINFORCE, leave-one-out baseline",
        "Kool et al. 2019; Ahmadian et al. 2024, section 3",
    ),
    "grpo": Row(
        (GRPO,),
        "GRPO's group-normalised advantage",
        "Shao et al. 2024 (DeepSeekMath), section 4.1",
    ),
    "dr_grpo": Row(
        (replace(REWARD, baseline="group", reduction="constant", **CLIPPED),),
        "GRPO without its two normalisers, clipped",
        "Liu et al. 2025 (Dr. GRPO), section 3.2",
    ),
    "dapo": Row(
        (
            replace(
                GRPO,
                reduction="token_mean",
                cut="mask",
                **{**CLIPPED, "high": 1.28},
            ),
        ),
        "DAPO: unequal clips, dynamic sampling, token mean, overlong masking",
        "Yu et al. 2025 (DAPO), eq. 8 and sections 3.1 to 3.4",
        Origin(redraws=3),
    ),
    "gspo": Row(
        (
            replace(
                GRPO,
                reduction="sequence_mean",
                importance="sequence",
                ratio_rule="clip",
                low=1 - 3e-4,
                high=1 + 4e-4,
            ),
        ),
        "GSPO: one clipped ratio a sequence",
        "Zheng et al. 2025 (GSPO), eq. 5 and 7",
    ),
    "ppo": Row(
        (
            replace(
                REWARD,
                baseline="value",
                returns="gae",
                lam=0.95,
                reduction="token_mean",
                **CLIPPED,
            ),
        ),
        "PPO with a learned value and GAE",
        "Schulman et al. 2017 (PPO), eq. 7; Schulman et al. 2016 (GAE), eq. 16",
    ),
    "vtrace": Row(
        (
            replace(
                REWARD,
                baseline="value",
                returns="vtrace",
                lam=1.0,
                c_bar=1.0,
                importance="token",
                ratio_rule="truncate",
                high=1.0,
            ),
        ),
        "V-trace actor-critic",
        "Espeholt et al. 2018 (IMPALA), eq. 1 and section 4.2",
    ),
    "offline_rl": Row(
        (REWARD,),
        "policy gradient on fixed rollouts",
        "Levine et al. 2020, section 3; Precup, Sutton and Singh 2000 (its correction)",
        Origin("dataset"),
    ),
    "sft": Row(
        (Term("one"),),
        "supervised fine-tuning",
        "Radford et al. 2018, eq. 1; forward KL to the data",
        Origin("dataset"),
    ),
    "dagger": Row(
        (replace(TEACHER, divergence="forward_kl", expectation="enumerated"),),
        "soft labels on a growing buffer of the student's states",
        "Ross, Gordon and Bagnell 2011 (DAgger), algorithm 3.1",
        Origin("buffer"),
    ),
    "gkd": Row(
        (replace(TEACHER, divergence="jsd", argument=0.5, expectation="enumerated"),),
        "generalised JSD on own and given sequences",
        "Agarwal et al. 2024 (GKD), algorithm 1 and eq. 1",
        Origin("mixture"),
    ),
    "skew": Row(
        (replace(TEACHER, divergence="skew", argument=0.1, expectation="enumerated"),),
        "skew KL to the teacher",
        "Ko et al. 2024 (DistiLLM), section 3.1",
    ),
    "minillm": Row(
        (replace(TEACHER, expectation="enumerated", gamma=1.0),),
        "single step enumerated, sampled future",
        "Gu et al. 2024 (MiniLLM), section 2.2 (its length norm is returns=mean)",
    ),
    "teacher_behavior": Row(
        (replace(TEACHER, expectation="enumerated"),),
        "reverse KL on the teacher's states",
        "Precup, Sutton and Singh 2000, section 3 (importance=prefix corrects the states)",
        Origin("teacher"),
    ),
    "rl_with_teacher": Row(
        (
            replace(REWARD, baseline="leave_one_out"),
            replace(TEACHER, expectation="enumerated", coef=0.1),
        ),
        "reward and distillation in one gradient",
        "Schmitt et al. 2018 (kickstarting), section 3; reverse KL for its cross entropy",
    ),
    "rl_with_reference": Row(
        (
            replace(REWARD, baseline="leave_one_out"),
            Term("reference", penalty="k3", coef=0.04),
        ),
        "reward and a penalty for leaving a reference",
        "Shao et al. 2024 (DeepSeekMath), eq. 3 and 4; Schulman 2020 (k3)",
    ),
    "k1_loss": Row(
        (Term("one", coef=-1.0),),
        "autodiff of log pi/p at the sampled token: weight -1 at every token, the teacher drops "
        "out (a published mistake, as the distillation part of joint RL losses)",
        "Schulman 2020, Approximating KL divergence (k1)",
    ),
    "kl_advantage": Row(
        (replace(TEACHER, signal="teacher_kl"),),
        "a detached -KL as the advantage, zero in expectation (a published mistake, of top-k KLs)",
        "a state baseline (Sutton et al. 2000, theorem 1)",
    ),
    # Ratios of current and older policy, and what becomes of them.
    "cispo": Row(
        (
            replace(
                GRPO,
                importance="token",
                ratio_rule="clip_ungated",
                low=0.0,
                high=1.2,
                reduction="token_mean",
            ),
        ),
        "CISPO: ratios clipped from above, no token left out",
        "MiniMax 2025 (CISPO, arXiv 2506.13585), eq. 4 and 5",
    ),
    "tis": Row(
        (replace(GRPO, **CLIPPED, correction="token", correction_rule="truncate"),),
        "clipped GRPO, the sampler's mismatch weighed by a truncated ratio",
        "Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
    ),
    "icepop": Row(
        (
            replace(
                GRPO,
                **CLIPPED,
                correction="token",
                correction_rule="mask",
                reduction="sequence_mean",
            ),
        ),
        "clipped GRPO, tokens left out where the sampler's mismatch is large",
        "Ling team 2025 (IcePop, arXiv 2510.18855), section 3",
    ),
    "sapo": Row(
        (replace(GRPO, importance="token", ratio_rule="soft", reduction="sequence_mean"),),
        "SAPO: a soft gate in place of the clip",
        "Gao et al. 2025 (SAPO, arXiv 2511.20347), eq. 5 and 6",
    ),
    "dppo": Row(
        (replace(GRPO, importance="token", ratio_rule="band"),),
        "DPPO: a trust region of probabilities, not of ratios (binary total variation)",
        "Qi et al. 2026 (DPPO, arXiv 2602.04879), section 4",
    ),
    "gmpo": Row(
        (replace(GRPO, importance="token", ratio_rule="geometric", reduction="sequence_mean"),),
        "GMPO: the geometric mean of a sequence's clipped ratios",
        "Zhao et al. 2025 (GMPO, arXiv 2507.20673), eq. 4",
    ),
    "topr": Row(
        (replace(REWARD, importance="trajectory", ratio_rule="taper"),),
        "TOPR: successes as they are, failures by their ratio, at most 1",
        "Le Roux et al. 2025 (TOPR, arXiv 2503.14286), eq. 8",
    ),
    "aspo": Row(
        (replace(GRPO, importance="token", ratio_rule="flip", reduction="token_mean"),),
        "ASPO: the ratio upside down where the advantage is positive",
        "Wang et al. 2025 (ASPO, arXiv 2510.06062), section 4",
    ),
    "m2po": Row(
        (replace(GRPO, importance="token", ratio_rule="second_moment", reduction="token_mean"),),
        "M2PO: the batch's farthest ratios left out until the second moment is small",
        "Zheng et al. 2025 (M2PO, arXiv 2510.01161), section 4",
    ),
    # Baselines and normalisers.
    "opo": Row(
        (replace(REWARD, baseline="length_weighted"),),
        "OPO: the group's mean reward by length as the baseline",
        "Hao et al. 2025 (OPO, arXiv 2505.23585), section 3",
    ),
    "optimal_token": Row(
        (replace(REWARD, baseline="optimal_token"),),
        "optimal token baseline: rewards weighed by the squared scores up to each token",
        "Li et al. 2026 (optimal token baseline, arXiv 2602.07078), section 4",
    ),
    "maxrl": Row(
        (replace(REWARD, baseline="group", normaliser="group_return"),),
        "MaxRL: advantages over the group's mean reward; ascends log p of a success, to order G",
        "Tajwar et al. 2026 (MaxRL, arXiv 2602.02710), algorithm 1",
    ),
    "reinforce_pp": Row(
        (
            replace(REWARD, normaliser="whiten_sum", reduction="token_mean", **CLIPPED),
            Term(
                "reference",
                penalty="k1",
                gamma=1.0,
                coef=0.01,
                normaliser="whiten_sum",
                reduction="token_mean",
                **CLIPPED,
            ),
        ),
        "REINFORCE++: reward and k1 penalty in one return, whitened over the batch, clipped",
        "Hu et al. 2025 (REINFORCE++, arXiv 2501.03262), section 3",
    ),
    "dro": Row(
        (
            REWARD,
            Term("reference", penalty="k1", gamma=1.0, returns="whole", coef=0.1),
        ),
        "DRO: the square of reward less a whole rollout's log-ratio to a reference; no value",
        "Richemond et al. 2024 (DRO, arXiv 2405.19107), eq. 3",
        Origin("dataset"),
    ),
    # Several graders.
    "opd_optimal": Row(
        (replace(TEACHER, baseline="optimal_kl"),),
        "sampled token, the baseline of least variance in logit space",
        "Greensmith, Bartlett and Baxter 2004, theorem 8; the sibling of vOPD's (arXiv 2605.07865)",
    ),
    "kdrl": Row(
        (
            replace(GRPO, reduction="token_mean"),
            replace(TEACHER, coef=0.002, reduction="token_mean"),
        ),
        "GRPO's reward and the sampled k2 to a teacher",
        "Xu et al. 2025 (KDRL, arXiv 2506.02208), section 3",
    ),
    "mopd": Row(
        (replace(TEACHER, expectation="topk", k=8, tail="drop", topk_from="teacher"),),
        "the teacher's top-k, what lies off it dropped",
        "MOPD 2026 (arXiv 2606.30406), eq. 5; one of its teachers",
    ),
    "exopd": Row(
        (
            replace(TEACHER, coef=1.25),
            Term("reference", penalty="k1", coef=-0.25),
        ),
        "ExOPD: beyond the teacher, away from a reference, log p^1.25 ref^-0.25 / pi",
        "Yang et al. 2026 (G-OPD, arXiv 2602.12125), section 3.2",
    ),
    # Tokens that count more, or not at all.
    "akl": Row(
        (
            replace(TEACHER, divergence="forward_kl", expectation="enumerated", weigh="head"),
            replace(TEACHER, expectation="enumerated", weigh="tail"),
        ),
        "adaptive KL: forward where the gap is in the teacher's head, reverse where in its tail",
        "Wu et al. 2025 (AKL, arXiv 2404.02657), section 4.3",
    ),
    "prefix_opd": Row(
        (replace(TEACHER, weigh="prefix", part=0.3),),
        "sampled distillation of the first tokens alone",
        "Zhang et al. 2026 (arXiv 2602.15260), section 3",
    ),
    "iw_opd": Row(
        (replace(TEACHER, weigh="agreement", boost=0.5),),
        "IW-OPD: less, the farther teacher and student have come apart before a token",
        "Xie et al. 2026 (IW-OPD, arXiv 2606.22600), section 4",
    ),
    "entropy_opd": Row(
        (
            replace(TEACHER, expectation="enumerated"),
            replace(
                TEACHER,
                divergence="forward_kl",
                expectation="enumerated",
                weigh="entropy_teacher",
                threshold=0.8,
            ),
        ),
        "reverse KL, and forward KL where the teacher is unsure",
        "Jin et al. 2026 (entropy-aware OPD, arXiv 2603.07079), section 4",
    ),
    # A target that holds the student's own logits; terms on different rollouts.
    "taid": Row(
        (replace(TEACHER, divergence="forward_kl", expectation="enumerated", own=0.5),),
        "TAID: soft labels between student and teacher, the share fixed",
        "Shing et al. 2025 (TAID, arXiv 2501.16937), eq. 3",
    ),
    "distillm2": Row(
        (
            replace(
                TEACHER,
                divergence="skew",
                argument=0.1,
                expectation="enumerated",
                on="other",
                reduction="token_mean",
            ),
            replace(
                TEACHER,
                divergence="skew_reverse",
                argument=0.1,
                expectation="enumerated",
                on="student",
                reduction="token_mean",
            ),
        ),
        "DistiLLM-2: skew KL on the teacher's rollouts, reversed skew on the student's own",
        "Ko et al. 2025 (DistiLLM-2, arXiv 2503.07067), eq. 5",
        Origin("mixture", level="sequence", other="teacher"),
    ),
}

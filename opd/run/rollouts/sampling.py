"""How rollouts are drawn where that isn't the policy itself, and what law they then have."""

from __future__ import annotations

import dataclasses

from opd.engine.steps import Sampling
from opd.fields import setting


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a training's rollouts are drawn where that isn't the policy itself.

    Evaluation and comparisons draw from the policies. A row that loses its claim is said to be
    biased (`facts.bias`).
    """

    # Of the draws alone; None: config.temperature, the policies'.
    temperature: float | None = setting(None, above=0)
    top_k: int | None = setting(None, at_least=1)
    top_p: float | None = setting(None, above=0, at_most=1)


def drawn(config: SamplingConfig, policy: Sampling, vocab: int) -> Sampling:
    """How a training's rollouts are drawn; `policy` says how they are from a policy itself.

    What cuts nothing is left out: it is `policy` where nothing else is asked for.

    Raises:
        ValueError: a top-k that the vocabulary is too small for.
    """
    if config.top_k is not None and not 1 <= config.top_k <= vocab:
        raise ValueError(f"config.sampling.top_k = {config.top_k}: allowed is 1 to {vocab}")
    return dataclasses.replace(
        policy,
        temperature=policy.temperature if config.temperature is None else config.temperature,
        top_k=None if config.top_k == vocab else config.top_k,
        top_p=None if config.top_p == 1 else config.top_p,
    )


def law(policy: Sampling, drawn: Sampling) -> str:
    """Which of facts.LAWS the rollouts have: as `drawn` says, of policies as `policy` says."""
    if (drawn.top_k, drawn.top_p) != (policy.top_k, policy.top_p):
        return "truncated"
    return "policy" if drawn.temperature == policy.temperature else "tempered"

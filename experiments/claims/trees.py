"""Small trees as tables that can be read."""

from __future__ import annotations

import numpy as np

from opd.measure.exact import Problem


def table(problem: Problem) -> str:
    """Student's and teacher's probabilities at every state, in Markdown."""
    vocab = problem.logits.shape[1]
    tokens = " | ".join(map(str, range(vocab)))
    lines = [f"| state | pi: {tokens} | p: {tokens} |", "|---" * (2 * vocab + 1) + "|"]
    for index, prefix in enumerate(problem.tree.state_tokens):
        name = " ".join(str(token) for token in prefix if token >= 0) or "start"
        both = [*problem.probs[index], *np.exp(problem.logp_teacher[index])]
        lines.append(f"| {name} | " + " | ".join(f"{x:.3g}" for x in both) + " |")
    return "\n".join(lines)

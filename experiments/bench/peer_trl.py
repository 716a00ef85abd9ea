"""TRL's side: its GKD loss of full logits (reverse KL), and transformers' generation."""

from __future__ import annotations

import torch
from trl.experimental.gkd import GKDTrainer

from experiments.bench import peer_torch, protocol


class Trl(peer_torch.Training):
    """GKD with beta 1 on the tokens at hand."""

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """The trainer's loss on the logits of the completion."""
        known = torch.ones_like(tokens)
        with torch.no_grad():
            wanted = self.teacher(input_ids=tokens, attention_mask=known, use_cache=False).logits
        found = self.student(input_ids=tokens, attention_mask=known, use_cache=False).logits
        rows = slice(self.sizes.prompt - 1, -1)
        return GKDTrainer.generalized_jsd_loss(
            student_logits=found[:, rows],
            teacher_logits=wanted[:, rows],
            labels=tokens[:, self.sizes.prompt :],
            beta=1.0,
        )


if __name__ == "__main__":
    protocol.serve(Trl, peer_torch.PACKAGES)

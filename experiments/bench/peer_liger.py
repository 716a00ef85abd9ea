"""Liger's side: its fused head and divergence (reverse KL), without Triton, on the CPU."""

from __future__ import annotations

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

from experiments.bench import peer_torch, protocol


class Liger(peer_torch.Training):
    """The fused loss with beta 1 on hidden states of the completion."""

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Forward and gradients of both heads in one go, chunk by chunk."""
        chunk = {} if self.chunk is None else {"chunk_size": self.chunk}
        fused = LigerFusedLinearJSDLoss(
            beta=1.0, weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False, **chunk
        )
        known = torch.ones_like(tokens)
        asked = {"input_ids": tokens, "attention_mask": known, "use_cache": False}
        rows = slice(self.sizes.prompt - 1, -1)
        with torch.no_grad():
            wanted = self.teacher.model(**asked).last_hidden_state[:, rows]
        found = self.student.model(**asked).last_hidden_state[:, rows]
        return fused(
            student_input=found.flatten(0, 1),
            student_weight=self.student.get_output_embeddings().weight,
            teacher_input=wanted.flatten(0, 1),
            teacher_weight=self.teacher.get_output_embeddings().weight,
            true_labels=tokens[:, self.sizes.prompt :].flatten(),
        )


if __name__ == "__main__":
    protocol.serve(Liger, peer_torch.PACKAGES)

"""On-policy distillation and reinforcement learning of language models as one program."""

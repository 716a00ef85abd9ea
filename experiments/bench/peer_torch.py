"""What the peers in PyTorch share: transformers' models of random weights, and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from experiments.bench.cases import Sizes

PACKAGES = ("torch", "transformers", "trl", "liger-kernel", "accelerate")


def model(sizes: Sizes, layers: int, seed: int) -> Any:
    """Their Qwen3 of the sizes, tied, float32, with their usual attention."""
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=sizes.vocab,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.prompt + sizes.completion,
        tie_word_embeddings=True,
        rope_theta=1e6,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


class Training:
    """A student in training and its teacher, on prompts and given tokens of the sizes."""

    # A peer's own: KL(student || teacher) of tokens, mean over those of the completion.
    loss: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, work: dict[str, Any]):
        torch.set_num_threads(work["threads"])
        self.sizes = sizes = Sizes(**work["sizes"])
        self.student = model(sizes, sizes.layers, work["seed"]).train()
        self.teacher = model(sizes, sizes.teacher_layers, work["seed"] + 1).eval()
        self.teacher.requires_grad_(False)
        self.clip, self.chunk = work["clip"], work["peer_chunk"]
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=work["rate"], weight_decay=0.0
        )
        shape = sizes.batch, sizes.prompt + sizes.completion
        self.tokens = torch.randint(sizes.vocab, shape)
        self.kind = work["step"]

    def before(self) -> None:
        """Nothing."""

    def step(self) -> None:
        """The step that was asked for."""
        getattr(self, self.kind)()

    def generate(self) -> torch.Tensor:
        """Case a: prompts and completions, drawn at temperature 1 with a cache; no end."""
        prompts = self.tokens[:, : self.sizes.prompt]
        config = transformers.GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            max_new_tokens=self.sizes.completion,
            pad_token_id=0,
            eos_token_id=None,
        )
        self.student.eval()
        with torch.no_grad():
            drawn = self.student.generate(
                prompts, attention_mask=torch.ones_like(prompts), generation_config=config
            )
        self.student.train()
        if drawn.shape != self.tokens.shape:
            raise RuntimeError(f"drew {tuple(drawn.shape)}: {tuple(self.tokens.shape)} was asked")
        return drawn

    def whole(self) -> None:
        """Case b."""
        self.update(self.generate())

    def learn(self) -> None:
        """Cases p, c and the like."""
        self.update(self.tokens)

    def update(self, tokens: torch.Tensor) -> None:
        """Forward, backward, clip, AdamW; the loss is fetched, as a trainer logs it."""
        loss = self.loss(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(loss.detach()).item():
            raise RuntimeError(f"the loss is {loss.item()}")

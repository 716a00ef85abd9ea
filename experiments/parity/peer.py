"""Hugging Face's side: their models made of our weights, their logits, their generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

from experiments.parity import cases
from experiments.parity.cases import Case


def write(case: Case, folder: Path, dtype: str = "float32", shard_bytes: int = 2**30) -> Any:
    """Their folder of a case, config.json as the case has it; returns the model that wrote it."""
    folder.mkdir(parents=True)
    text = json.dumps({**case.json, "torch_dtype": dtype}, indent=1)
    (folder / "config.json").write_text(text, encoding="utf-8")
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    # By the names that tensors have in files: in memory some are put together.
    for file in folder.glob("*.safetensors"):
        stored = safetensors.torch.load_file(file)
        shapes = {name: tuple(value.shape) for name, value in stored.items()}
        drawn = cases.weights(shapes, case.architecture)
        whole = {name: torch.from_numpy(drawn[name]).to(x.dtype) for name, x in stored.items()}
        safetensors.torch.save_file(whole, file, metadata={"format": "pt"})
    # They write a new config in their newest form; the case's own may be an old one.
    (folder / "config.json").write_text(text, encoding="utf-8")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def load(folder: Path) -> Any:
    """Their model of a folder, float32; every tensor found a place, and none was left out."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    left = {name: value for name, value in info.items() if value}
    if left:
        raise RuntimeError(f"{folder}: transformers found {left}")
    return model.eval()


@torch.no_grad()
def logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Their logits [B, S, V] in float32."""
    return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


@torch.no_grad()
def greedy(model: Any, prompt: np.ndarray, length: int) -> np.ndarray:
    """Their arg max continuation of one prompt [P], without an end: [length]."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    model.generation_config.eos_token_id = None
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False
    )
    return found[0, len(prompt) :].numpy()

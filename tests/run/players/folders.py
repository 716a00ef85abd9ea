"""Small Hugging Face folders, made here: a byte-level BPE of 403 ids, and models with padded ids.

Nothing of torch or transformers: weights are NumPy's, the tokenizer the tokenizers library's.
"""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
import tokenizers as hf

IDS = 403  # of the tokenizer; the models' vocabularies are larger
TEXT = "what is the sum of one and two and three? it is six. 0 1 2 3 4 5 6 7 8 9 + ="
END, TURN, PAD = "<|end|>", "<|turn|>", "<|pad|>"
TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{%- endif %}"
)


def tokenizer(swapped: bool = False) -> hf.Tokenizer:
    """A byte-level BPE of 400 entries and three specials; `swapped` has two entries change ids."""
    words = [a + b for a in "abcdefghijkl" for b in "mnopqrstuvwx"]  # 144 pairs that merge
    entries = [*sorted(hf.pre_tokenizers.ByteLevel.alphabet()), *words]
    assert len(entries) == 400
    if swapped:
        entries[300], entries[301] = entries[301], entries[300]
    model = hf.models.BPE(
        vocab={entry: i for i, entry in enumerate(entries)}, merges=[(w[0], w[1]) for w in words]
    )
    made = hf.Tokenizer(model)
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = hf.decoders.ByteLevel()
    made.add_special_tokens([END, TURN, PAD])
    return made


def write_tokenizer(folder: Path, swapped: bool = False, template: str | None = TEMPLATE) -> None:
    """tokenizer.json and what stands beside it; two ids end a completion."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer(swapped)
    made.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": {"__type": "AddedToken", "content": PAD, "special": True},
        "clean_up_tokenization_spaces": False,
    }
    if template is not None:
        described["chat_template"] = template
    ends = {"eos_token_id": [made.token_to_id(END), made.token_to_id(TURN)]}
    dump(described, folder / "tokenizer_config.json")
    dump(ends, folder / "generation_config.json")


def dump(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content))


def write_model(
    folder: Path,
    architecture: str = "Qwen3ForCausalLM",
    vocab: int = 409,
    width: int = 16,
    seed: int = 0,
    scale: float = 0.3,
    length: int = 128,
) -> None:
    """config.json and model.safetensors of a random model of two layers, in float32."""
    heads, kv, head, mlp, layers = 4, 2, 8, 24, 2
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head,
        "intermediate_size": mlp,
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": 400,
    }
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": normal(vocab, width),
        "lm_head.weight": normal(vocab, width),
        "model.norm.weight": 1 + normal(width),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, rows in (("q", heads * head), ("k", kv * head), ("v", kv * head)):
            tensors[f"{at}self_attn.{name}_proj.weight"] = normal(rows, width)
            if architecture.startswith("Qwen2"):
                tensors[f"{at}self_attn.{name}_proj.bias"] = normal(rows)
        tensors[f"{at}self_attn.o_proj.weight"] = normal(width, heads * head)
        for name in ("gate", "up"):
            tensors[f"{at}mlp.{name}_proj.weight"] = normal(mlp, width)
        tensors[f"{at}mlp.down_proj.weight"] = normal(width, mlp)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = 1 + normal(width)
        if architecture.startswith("Qwen3"):
            for name in ("q_norm", "k_norm"):
                tensors[f"{at}self_attn.{name}.weight"] = 1 + normal(head)
    # Ids that no token has are the likeliest by far, were they not masked.
    tensors["lm_head.weight"][IDS:] *= 50
    dump(config, folder / "config.json")
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write(folder: Path, swapped: bool = False, **model) -> Path:
    """A whole folder: the model, and the tokenizer that all of them share."""
    write_model(folder, **model)
    write_tokenizer(folder, swapped)
    return folder


def narrowed(folder: Path) -> Path:
    """The folder with its tensors in bfloat16."""
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    narrow = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(narrow, file, metadata={"format": "pt"})
    return folder


def write_prompts(path: Path, count: int = 24) -> Path:
    """Sums as a prompt file, with answers."""
    rows = [{"prompt": f"what is {n} + {n}?", "answer": str(2 * n)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def changed(values: dict, **changes) -> dict:
    """A config's values with some keys changed, as method__name="grpo"; in place."""
    for path, value in changes.items():
        *parents, key = path.split("__")
        part = values
        for name in parents:
            part = part[name]
        part[key] = value
    return values

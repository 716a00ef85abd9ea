"""SmolLM3: Llama in which every fourth layer doesn't rotate (Hugging Face 2025; 2501.18795)."""

from __future__ import annotations

from typing import Any

from opd.model.decoder import DecoderConfig
from opd.model.families import llama
from opd.model.families.family import Family, Json, layer_types, rope, sizes, sliding, tensors


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default.

    Raises:
        ValueError: `no_rope_layers` doesn't say of each layer whether it rotates.
    """
    layers, every = hf["num_hidden_layers"], hf.get("no_rope_layer_interval", 4)
    given = hf.get("no_rope_layers")
    if given is None:
        given = [int((layer + 1) % every != 0) for layer in range(layers)]
    if len(given) != layers:
        raise ValueError(
            f"config.json has no_rope_layers of {len(given)} layers: one number for each of "
            f"{layers} is allowed"
        )
    turned = tuple(bool(each) for each in given)
    found = sizes(hf, tied=True) | rope(hf, 2_000_000.0) | _window(hf, turned)
    return found if all(turned) else found | {"turned": turned}


def _window(hf: Json, turned: tuple[bool, ...]) -> dict[str, Any]:
    """Layers that don't rotate slide, where `use_sliding_window` says so."""
    if not hf.get("use_sliding_window", False):
        return {}
    return sliding(hf, lambda layer: not turned[layer])


def write(config: DecoderConfig) -> dict[str, Any]:
    """The decoder's fields as config.json has them."""
    return llama.write(config) | {
        "no_rope_layers": [int(each) for each in config.turned or (True,) * config.layers],
        "use_sliding_window": any(config.sliding),
        "sliding_window": config.window,
        "layer_types": layer_types(config),
        "pad_token_id": None,  # theirs is a row that a smaller vocabulary hasn't
    }


FAMILY = Family("SmolLM3ForCausalLM", "smollm3", read, write, tensors())

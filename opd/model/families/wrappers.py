"""Published checkpoints whose decoder is a part of a multimodal model: one row each.

Their text model is read, trained and exported alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from opd.model.families.family import Json


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A multimodal architecture: what its text model may be, and what its config may leave out."""

    texts: Mapping[str, str]  # architecture of the text model, by its model_type
    kind: str  # the model_type where the text's config names none
    usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)


WRAPPERS: Mapping[str, Wrapper] = MappingProxyType(
    {
        "Gemma3ForConditionalGeneration": Wrapper(
            texts=MappingProxyType({"gemma3_text": "Gemma3ForCausalLM"}),
            kind="gemma3_text",
            usual=MappingProxyType(
                {
                    "vocab_size": 262_208,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 4,
                    "head_dim": 256,
                    "max_position_embeddings": 131_072,
                }
            ),
        ),
        "Mistral3ForConditionalGeneration": Wrapper(
            texts=MappingProxyType(
                {"mistral": "MistralForCausalLM", "ministral3": "Ministral3ForCausalLM"}
            ),
            kind="mistral",
        ),
    }
)
# Of a multimodal checkpoint: the names of tensors that are no part of its text model.
OTHERS = ("vision_tower.", "multi_modal_projector.")


def wraps(hf: Json) -> bool:
    """Whether a config.json is of a multimodal model whose text model can be had."""
    names = hf.get("architectures")
    return isinstance(names, list) and bool(names) and names[0] in WRAPPERS


def text_of(hf: Json) -> Json:
    """The config.json of the text model alone: as it is where there is nothing else.

    Raises:
        ValueError: no text_config, or a text model that isn't known.
    """
    if not wraps(hf):
        return hf
    name = hf["architectures"][0]
    wrapper, text = WRAPPERS[name], hf.get("text_config")
    if not isinstance(text, dict):
        raise ValueError(f"config.json of {name} has no text_config: an object is needed")
    kind = text.get("model_type", wrapper.kind)
    if kind not in wrapper.texts:
        allowed = ", ".join(wrapper.texts)
        raise ValueError(f"config.json has text_config.model_type = {kind!r}: {allowed} is allowed")
    # Some write these of the whole alone.
    outer = {key: value for key, value in hf.items() if key.endswith("_token_id")}
    outer |= {key: hf[key] for key in ("tie_word_embeddings",) if key in hf}
    alone = {"architectures": [wrapper.texts[kind]], "model_type": kind}
    return {**wrapper.usual, **outer, **text, **alone}

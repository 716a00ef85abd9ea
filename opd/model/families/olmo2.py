"""OLMo 2: norms after each sub-layer and none before, and of all queries at once.

OLMo team 2025, 2501.00656, section 3.1.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from opd.model.families import gemma2, llama
from opd.model.families.family import Family, Json, rope, sizes, tensors

NORMS = MappingProxyType(
    {
        "pre_norm": False,
        "post_norm": True,
        "qk_norm": True,
        "qk_norm_whole": True,
        "norm_rounds": False,
    }
)
# `post_attention_layernorm` is what it says here, and not the MLP's.
TENSORS = tensors(attention_norm=None, mlp_norm=None, post=gemma2.POST, qk_norm=True)


def read(hf: Json) -> dict[str, Any]:
    """config.json as the decoder's fields; a key that is left out has transformers' default."""
    return sizes({"rms_norm_eps": 1e-5} | dict(hf)) | rope(hf) | NORMS


FAMILY = Family("Olmo2ForCausalLM", "olmo2", read, llama.write, TENSORS)

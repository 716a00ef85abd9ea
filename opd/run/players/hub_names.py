"""From the names that tensors have in a folder's files to those of its family.

Tools put names in front of them, or in between. What comes before a decoder's layers is one prefix:
it is taken off where all of the decoder has it and nothing else could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from opd.model.families import wrappers
from opd.model.families.family import Family
from opd.run.players.hub_weights import Stored, shown

# Parts of a name that wrappers of torch put anywhere into it.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
# Names that all families have.
BODY, HEAD, EMBEDDING = "model.", "lm_head.weight", "model.embed_tokens.weight"
# Tensors that say again what config.json says: they may lie there, and are not read.
BUFFERS = re.compile(r"(^|\.)(rotary_emb\.(\w+_)?(inv_freq|cos_cached|sin_cached)|position_ids)$")
# What else a decoder has no place for, and what to do about it.
STRANGERS = (
    (r"lora_|\.base_layer\.", "an adapter that isn't merged: merge it (PEFT's merge_and_unload)"),
    (
        r"\.(qweight|qzeros|g_idx|scales|absmax|quant_map|weight_scale\w*|input_scale|weight_packed)$"
        r"|\.quant_state|\.(weight|[kv])_scale",
        "quantised weights: plain ones are allowed",
    ),
    (
        r"vision|visual|audio|multi_modal|image_",
        "a part of a multimodal model: save the language model alone",
    ),
    (
        r"(^|\.)(v_head|score|classifier|value_head)\.",
        "a head that isn't of the decoder: remove it",
    ),
)


class Named(NamedTuple):
    """Tensors by the family's names, and what is to be said of how they got them."""

    tensors: dict[str, Stored]
    notes: list[str]


def named(
    stored: Mapping[str, Stored], family: Family, wanted: Collection[str], path: Path
) -> Named:
    """The tensors that a decoder wants, by its family's names; and a head beside a tied embedding.

    Raises:
        ValueError: one that is missing, has no place in the decoder, or is there twice.
    """
    read: dict[str, str] = {}  # the family's name of a tensor: the file's
    strangers = []
    prefix = _prefix(stored, family, path)
    for name in stored:
        theirs = _meant(name, prefix)
        if theirs in read:
            both = f"{shown(read[theirs])} and {shown(name)}"
            raise ValueError(f"{path}: {both} are both {theirs}: allowed is one of them")
        if theirs in wanted or theirs == HEAD:
            read[theirs] = name
        elif not BUFFERS.search(name):
            strangers.append(name)
    if EMBEDDING not in read and HEAD in read and HEAD not in wanted:
        read[EMBEDDING] = read.pop(HEAD)
    missing = [name for name in wanted if name not in read]
    if missing or strangers:
        raise ValueError(f"{path}: {_complaint(missing, strangers, family)}")
    other = next((name for theirs, name in read.items() if name != theirs), None)
    notes = []
    if other is not None:
        theirs = next(theirs for theirs, name in read.items() if name == other)
        notes.append(f"{path}: {shown(other)} is read as {theirs}, others likewise")
    return Named({theirs: stored[name] for theirs, name in read.items()}, notes)


def text_alone(stored: Mapping[str, Stored], path: Path) -> tuple[dict[str, Stored], str]:
    """A multimodal checkpoint's tensors without those of other parts, and what is to be said."""
    kept = {
        name: each
        for name, each in stored.items()
        if not _bare(name).removeprefix(BODY).startswith(wrappers.OTHERS)
    }
    left = len(stored) - len(kept)
    return kept, f"{path}: the text model is read alone; {left} tensors of other parts are left"


def _bare(name: str) -> str:
    """A name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(stored: Collection[str], family: Family, path: Path) -> str:
    """What the names of a decoder's layers have in front of them.

    Raises:
        ValueError: no layers, or those of two decoders.
    """
    place = family.tensors["layers", "o"].name
    first = place.format(layer=0).removeprefix(BODY)
    names = [_bare(name) for name in stored]
    found = sorted({n.removesuffix(first) for n in names if f".{n}".endswith(f".{first}")})
    if not found:
        has = ", ".join(map(shown, sorted(stored)[:3])) or "none"
        raise ValueError(
            f"{path}: has no tensor {place.format(layer=0)}; those of {family.architecture} in "
            f"transformers are allowed, it has {has}"
        )
    if len(found) > 1:
        several = " and ".join(f"{shown(prefix)!r}" for prefix in found[:3])
        raise ValueError(
            f"{path}: has decoders under {several}: allowed is one, under {BODY!r} or any other"
        )
    return found[0]


def _meant(name: str, prefix: str) -> str:
    """The family's name of a tensor; what has none keeps its own."""
    bare = _bare(name)
    if f".{bare}".endswith(f".{HEAD}"):
        return HEAD
    return BODY + bare.removeprefix(prefix) if bare.startswith(prefix) else bare


def _complaint(missing: Sequence[str], strangers: Sequence[str], family: Family) -> str:
    """What is wrong with the tensors of a folder, and what is allowed."""
    said = []
    if missing:
        said.append(f"has no tensor {missing[0]}{_more(missing)}")
    if strangers:
        said.append(
            f"{family.architecture} as config.json has it has no place for {shown(strangers[0])}"
            f"{_more(strangers)}"
        )
    return f"{'; '.join(said)}; {_hint(missing, strangers)}"


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _hint(missing: Sequence[str], strangers: Sequence[str]) -> str:
    """What to do about tensors that are missing or too many."""
    for pattern, hint in STRANGERS:
        if any(re.search(pattern, name) for name in strangers):
            return hint
    if list(missing) == [HEAD]:
        return "where the embedding is the head too, tie_word_embeddings is true in config.json"
    return "a config.json and weights that transformers wrote together are allowed"

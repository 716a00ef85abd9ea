"""What a Hugging Face folder has beside its weights: tokenizer.json and the files that amend it.

Read as transformers reads them, which is what the folder's model was trained with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers as hf

FILE = "tokenizer.json"
_NAMED = "additional_chat_templates"  # the folder of templates beside the default one
# What a folder has beside config.json and weights, and an exported one takes along.
FILES = (
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    f"{_NAMED}/tool_use.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
# The templates that are read: `default`, and the one for conversations with tools.
DEFAULT, TOOL_USE = "default", "tool_use"


def copy(source: Path, folder: Path) -> None:
    """Copies what a folder has of FILES."""
    for name in FILES:
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has one that can be read here."""
    return (folder / FILE).is_file()


def read(folder: Path) -> hf.Tokenizer:
    """The folder's tokenizer.json, with the tokens that only other files name.

    Raises:
        ValueError: a file that is missing or broken.
    """
    path = folder / FILE
    try:
        made = hf.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: not a tokenizer.json ({error})") from None
    made.no_truncation()
    made.no_padding()
    config = described(folder)
    added = {token.content: token for token in made.get_added_tokens_decoder().values()}
    missing = [t for t in _declared(folder, config) if repr(t) != repr(added.get(t.content))]
    known = {*added, *(token.content for token in missing)}
    for token in (*specials(config).values(), *_further(config)):
        if token not in known:
            missing.append(hf.AddedToken(token, special=True))
            known.add(token)
    if missing:
        made.add_tokens(missing)
    return made


def described(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, amended by special_tokens_map.json where it lists no added tokens."""
    config = json_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= json_object(folder / "special_tokens_map.json")
    return config


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one.

    Raises:
        ValueError: it can't be read, or is something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def specials(config: Mapping[str, Any]) -> dict[str, str]:
    """Names like bos_token, and the token that each is."""
    named = dict(config)
    if isinstance(config.get("extra_special_tokens"), dict):
        named |= config["extra_special_tokens"]
    tokens = {name: _token(value) for name, value in named.items() if name.endswith("_token")}
    return {name: token for name, token in tokens.items() if token is not None}


def _token(value: Any) -> str | None:
    """A token, as the files write one: its text, or an object with that."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


def _further(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a name."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    tokens = map(_token, listed if isinstance(listed, list) else ())
    return [token for token in tokens if token is not None]


def _declared(folder: Path, config: Mapping[str, Any]) -> list[hf.AddedToken]:
    """The tokens of added_tokens_decoder, by id; in its place, those of added_tokens.json."""
    listed = config.get("added_tokens_decoder")
    try:
        if listed is not None:
            return [_added(listed[key]) for key in sorted(listed, key=int)]
        ids = json_object(folder / "added_tokens.json")
        special = {*specials(config).values(), *_further(config)}
        return [
            hf.AddedToken(token, special=token in special, normalized=token not in special)
            for token in sorted(ids, key=ids.__getitem__)
        ]
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{folder}: its added tokens cannot be read ({error!r:.80})") from None


def _added(entry: Mapping[str, Any]) -> hf.AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return hf.AddedToken(entry["content"], **{flag: entry[flag] for flag in flags if flag in entry})


def templates(folder: Path) -> dict[str, str]:
    """The sources of the chat templates, by name: files of their own, or entries of one.

    Raises:
        ValueError: a file that can't be read, entries that are no templates, or several of which
            none is the default.
    """
    sources: dict[str, str] = {}
    for name, path in (
        (DEFAULT, folder / "chat_template.jinja"),
        (TOOL_USE, folder / _NAMED / f"{TOOL_USE}.jinja"),
    ):
        if path.is_file():
            try:
                sources[name] = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ValueError(f"{path}: cannot be read ({error})") from None
    if not sources:
        entry = json_object(folder / "chat_template.json").get("chat_template")
        entry = json_object(folder / "tokenizer_config.json").get("chat_template", entry)
        if isinstance(entry, list):
            entry = {one.get("name"): one.get("template") for one in entry if isinstance(one, dict)}
        sources = {} if entry is None else entry if isinstance(entry, dict) else {DEFAULT: entry}
    wrong = [name for name, source in sources.items() if not isinstance(source, str)]
    if wrong or (sources and DEFAULT not in sources):
        raise ValueError(
            f"{folder}: has the chat templates {', '.join(map(str, sources))}: needed is a text "
            f"for {wrong[0] if wrong else DEFAULT!r}, or data.chat.template = False"
        )
    return sources


def ends(folder: Path, own: int | None) -> tuple[int, ...]:
    """Every id that ends a completion, the first for generation first.

    Raises:
        ValueError: there is none.
    """
    ids: dict[int, None] = {}
    for name in ("generation_config.json", "config.json"):
        described = json_object(folder / name)
        text = described.get("text_config")  # of a multimodal model
        within = text.get("eos_token_id") if isinstance(text, dict) else None
        entry = described.get("eos_token_id", within)
        for token in entry if isinstance(entry, list) else [entry]:
            if isinstance(token, int):
                ids.setdefault(token)
    if own is not None:
        ids.setdefault(own)
    if not ids:
        raise ValueError(f"{folder}: names no eos_token_id and no eos_token, nothing would end")
    return tuple(ids)

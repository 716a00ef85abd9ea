"""Configs as dataclasses: fields that say what is allowed, built from nested mappings and back.

A config is a frozen dataclass of values and of parts, which are such dataclasses too. Each part
lives beside the code that reads it, its bounds in its own fields. A key is a field's name; a field
whose key is a word of Python's ends in an underscore: `from_`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

_ALLOWED = "allowed"


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What a value may be, None aside; of a tuple, each of its items."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()

    def has(self, value: Any) -> bool:
        """Whether a value is one of these."""
        return (
            (not self.choices or value in self.choices)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.choices:
            return f"allowed are {', '.join(map(str, self.choices))}"
        if self.at_most is None and self.below is None:
            least = f"{self.at_least} or more" if self.above is None else f"more than {self.above}"
            return f"allowed is {least}"
        most = f"below {self.below}" if self.at_most is None else f"{self.at_most}"
        if self.above is None:
            return f"allowed is {self.at_least} to {most}"
        return f"allowed is above {self.above} and {'up to ' * (self.below is None)}{most}"


def shown(value: Any) -> str:
    """A value in an error: as Python writes it, cut where nobody would read on."""
    text, longest = repr(value), 200
    return text if len(text) <= longest else f"{text[:longest]}..."


def setting(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """A field of a config with its default and its bounds, which `check` holds it to."""
    allowed = Allowed(at_least, above, at_most, below, choices)
    return dataclasses.field(default=default, metadata={_ALLOWED: allowed})


def check(config: Any, path: str) -> None:
    """Holds every field of a config and its parts to its type and bounds; numbers are finite.

    A part whose fields must fit each other says so in a method `check(path)`, which is asked then.

    Raises:
        ValueError: one line, the key that is wrong, what was given and what is allowed.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, at = getattr(config, field.name), f"{path}.{key(field.name)}"
        if dataclasses.is_dataclass(hints[field.name]):
            check(value, at)
        else:
            cast(at, value, hints[field.name])
            _bounded(at, value, field.metadata.get(_ALLOWED, Allowed()))
    if hasattr(config, "check"):
        config.check(path)


def _bounded(path: str, value: Any, allowed: Allowed) -> None:
    items = value if isinstance(value, tuple) else (value,)
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise ValueError(f"{path} = {value}: allowed is a finite number")
    if not all(item is None or allowed.has(item) for item in items):
        raise ValueError(f"{path} = {shown(value)}: {allowed}")


def key(field: str) -> str:
    """A field's key: Python keeps some words for itself."""
    return field.rstrip("_")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries, every key there."""
    values = {key(field.name): getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
    }


def build(values: Mapping[str, Any], kind: type, path: str) -> Any:
    """A config of `kind` from nested mappings; a key that is absent keeps its default.

    Raises:
        ValueError: an unknown key (lists the known), a value of another type, or what the config
            itself refuses.
    """
    names = {key(field.name): field.name for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} = {shown(values)}: allowed is a mapping of {', '.join(names)}")
    built = {}
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"{path}.{name}: no such key; allowed are {', '.join(names)}")
        field = names[name]
        hint, at = hints[field], f"{path}.{name}"
        built[field] = build(value, hint, at) if _is_part(hint) else cast(at, value, hint)
    return kind(**built)


def _is_part(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def kind_of(path: str, kind: type) -> Any:
    """The type of the key of a config at a dotted path, `compare.arms`.

    Raises:
        ValueError: there is none of that name (lists the known).
    """
    known = "config"
    for name in path.split("."):
        hints = typing.get_type_hints(kind) if _is_part(kind) else {}
        hints = {key(field): hint for field, hint in hints.items()}
        if name not in hints:
            allowed = f"allowed are {', '.join(hints)}" if hints else f"{known} has no keys"
            raise ValueError(f"{known}.{name}: no such key; {allowed}")
        known, kind = f"{known}.{name}", hints[name]
    return kind


def is_tuple(kind: Any) -> bool:
    """Whether a key of this type has a list of values."""
    return typing.get_origin(kind) is tuple


def cast(path: str, value: Any, hint: Any) -> Any:
    """The value as its field's type has it: whole numbers as floats, lists as tuples.

    Raises:
        ValueError: it is of another type.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if is_tuple(option):
            (item, _) = typing.get_args(option)
            if isinstance(value, str):
                value = [part for part in value.split(";") if part]
            if isinstance(value, (list, tuple)):
                return tuple(cast(path, part, item) for part in value)
        elif option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ValueError(f"{path} = {shown(value)}: allowed is a float") from None
        elif isinstance(option, type) and type(value) is option:
            return value
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ValueError(f"{path} = {shown(value)}: allowed is {names.replace('NoneType', 'None')}")


def unknown(values: Mapping[str, Any], kind: type, path: str) -> dict[str, Any]:
    """The keys of nested mappings that a config of `kind` doesn't have, dotted, with their values.

    A workdir of an older version has them where a key was given up since.
    """
    hints = {key(name): hint for name, hint in typing.get_type_hints(kind).items()}
    gone: dict[str, Any] = {}
    for name, value in values.items():
        at = f"{path}.{name}"
        if name not in hints:
            gone[at] = value
        elif _is_part(hints[name]) and isinstance(value, Mapping):
            gone |= unknown(value, hints[name], at)
    return gone


def defaults(kind: type) -> dict[str, Any]:
    """The fields of a dataclass that have a default, and what `dataclasses.asdict` makes of it."""
    values = {field.name: field.default for field in dataclasses.fields(kind)}
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if value is not dataclasses.MISSING
    }


def completed(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """What `dataclasses.asdict` made of a `kind`; a field that it lacks has its default of today.

    So that what was written before a field was added can be compared with what is written since.
    """
    hints, whole = typing.get_type_hints(kind), {**defaults(kind), **values}
    for name, value in values.items():
        options = typing.get_args(hints.get(name)) or (hints.get(name),)
        (part,) = [option for option in options if _is_part(option)] or (None,)
        if part is not None and isinstance(value, Mapping):
            whole[name] = completed(value, part)
    return whole

"""One frozen config, composed of the parts that live beside the code that reads them.

ml_collections is a front end that ends here: `build` turns its dictionary into a `Config` and
validates it once, before anything compiles or is written.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from opd.data.pipeline import DataConfig
from opd.method import table
from opd.method.table import Method
from opd.model.decoder import DecoderConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder without its vocabulary and length, which the data give."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp: int | None = None
    rope_base: float = 10_000.0
    qk_norm: bool = True
    tied: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"

    def decoder(self, vocab: int, length: int) -> DecoderConfig:
        """The full config of the decoder.

        Raises:
            ValueError: a size that the decoder can't have.
        """
        return DecoderConfig(vocab=vocab, max_length=length, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Supervised training on demonstrations, which makes the teacher and warms the student up."""

    steps: int = 1000
    batch: int = 128
    learning_rate: float = 2e-3
    stop_at: float | None = None  # sampled accuracy on validation prompts at which to stop
    check_every: int = 50


@dataclasses.dataclass(frozen=True)
class PlayerConfig:
    """Teacher or student: its model and how it is made, or the folder that has it."""

    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    path: str | None = None  # a `models/NAME` folder of another run


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Which rows are measured side by side, and on how many rollouts."""

    rows: tuple[str, ...] = ("opd", "opd_sampled")
    groups: int = 128  # prompt groups, the units of independence
    batch: int = 64  # groups rolled out together
    sketch: int = 2048
    repeats: int = 5  # interleaved timings
    branches: int = 0  # fresh continuations at each state, for rows that hold the future


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The arms, and what they all share."""

    arms: tuple[str, ...] = ("opd", "opd_sampled", "opd_topk", "grpo")
    updates: int = 60
    prompts: int = 16  # prompt groups an update
    learning_rates: tuple[float, ...] = (1e-3,)  # one for all arms, or a grid for each
    warmup: int = 5
    clip: float = 1.0  # global gradient norm
    weight_decay: float = 0.0
    evaluate_every: int = 20


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Held-out evaluation."""

    split: str = "test"
    prompts: int = 256
    samples: int = 8  # completions written to samples.jsonl at each evaluation


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, whatever is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole comparison.

    Raises:
        ValueError: one line, the key that is wrong, what was given and what is allowed.
    """

    seed: int = 0
    seeds: int = 1  # training seeds: seed, seed + 1, ...
    group_size: int = 4  # rollouts of a prompt, in probe and training alike
    temperature: float = 1.0  # of the policies, sampled and scored
    chunk: int = 128  # tokens of a chunk of the vocabulary pass
    data: DataConfig = DataConfig()
    teacher: PlayerConfig = PlayerConfig()
    student: PlayerConfig = PlayerConfig()
    probe: ProbeConfig = ProbeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        for path, value in _leaves(self):
            least = _LEAST.get(path.removeprefix("teacher.").removeprefix("student."))
            if least is not None and value is not None and not value >= least:
                raise ValueError(f"config.{path} = {value}: allowed is {least} or more")
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ValueError(f"config.{path} = {value}: allowed is a finite number")
        if not self.temperature > 0:
            raise ValueError(f"config.temperature = {self.temperature}: allowed is more than 0")
        if not self.train.learning_rates or min(self.train.learning_rates) <= 0:
            given = self.train.learning_rates
            raise ValueError(f"config.train.learning_rates = {given}: allowed is more than 0")
        if self.probe.groups % self.probe.batch:
            raise ValueError(
                f"config.probe.groups = {self.probe.groups}: allowed is a multiple of "
                f"config.probe.batch = {self.probe.batch}"
            )
        if self.probe.branches == 1:
            raise ValueError("config.probe.branches = 1: allowed is 0, or 2 and more")
        _methods("probe.rows", self.probe.rows)
        arms = _methods("train.arms", self.train.arms)
        for number, method in enumerate(arms):
            if method in arms[:number]:
                raise ValueError(f"config.train.arms: {method.name} is given twice")
            try:
                table.trainable(method)
            except ValueError as error:
                raise ValueError(f"config.train.arms: {error}") from None

    @property
    def probe_methods(self) -> tuple[Method, ...]:
        """The rows to measure, with the partners and references that they are compared with."""
        found: dict[str, Method] = {}
        for method in map(table.parse, self.probe.rows):
            for needed in (table.reference(method), table.partner(method), method):
                if needed is not None:
                    found.setdefault(needed.name, needed)
        return tuple(found.values())

    @property
    def arms(self) -> tuple[Method, ...]:
        """The methods to train with."""
        return tuple(map(table.parse, self.train.arms))


def _methods(key: str, names: tuple[str, ...]) -> tuple[Method, ...]:
    """The methods that a key names, one at least."""
    if not names:
        raise ValueError(f"config.{key} = (): allowed is one method or more")
    try:
        return tuple(map(table.parse, names))
    except ValueError as error:
        raise ValueError(f"config.{key}: {error}") from None


_LEAST = {
    "seed": 0,
    "seeds": 1,
    "group_size": 2,
    "chunk": 1,
    "fit.steps": 0,
    "fit.batch": 1,
    "fit.check_every": 1,
    "probe.groups": 4,
    "probe.batch": 1,
    "probe.sketch": 1,
    "probe.repeats": 5,
    "probe.branches": 0,
    "train.updates": 1,
    "train.prompts": 1,
    "train.warmup": 0,
    "train.evaluate_every": 1,
    "evaluate.prompts": 2,
    "evaluate.samples": 0,
}


def _leaves(config: Any, prefix: str = ""):
    """Every (path, value) below a dataclass."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries, as results.json has it."""
    return dataclasses.asdict(config)


def config_dict(config: Any) -> ml_collections.ConfigDict:
    """The config as ml_collections has it: every key there, to be overridden by type."""
    hints, found = typing.get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = config_dict(value)
        elif value is None:
            (kind,) = (o for o in typing.get_args(hints[field.name]) if o is not type(None))
            found[field.name] = ml_collections.config_dict.placeholder(kind)
        else:
            found[field.name] = value
    return ml_collections.ConfigDict(found)


def build(values: Mapping[str, Any], kind: type = Config, prefix: str = "config") -> Any:
    """A config of `kind` from nested mappings; a key that is absent keeps its default.

    Raises:
        ValueError: an unknown key (lists the known), a value of another type, or what the config
            itself refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    given = {}
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"{prefix}.{key}: no such key; allowed are {', '.join(fields)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            given[key] = build(value, hint, f"{prefix}.{key}")
        else:
            given[key] = _cast(f"{prefix}.{key}", value, hint)
    return kind(**given)


def kind_of(path: str, kind: type = Config) -> Any:
    """The type of the key at a dotted path, `train.arms`.

    Raises:
        ValueError: there is none of that name (lists the known).
    """
    known = "config"
    for name in path.split("."):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if name not in hints:
            allowed = f"allowed are {', '.join(hints)}" if hints else f"{known} has no keys"
            raise ValueError(f"{known}.{name}: no such key; {allowed}")
        known, kind = f"{known}.{name}", hints[name]
    return kind


def is_tuple(kind: Any) -> bool:
    """Whether a key of this type has a list of values."""
    return typing.get_origin(kind) is tuple


def literal(text: str) -> str:
    """A list of values from the command line, A;B or ('A', 'B'), in the second form."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = [_number_or_text(part.strip()) for part in text.split(";") if part.strip()]
    return repr(tuple(value) if isinstance(value, (list, tuple)) else (value,))


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _cast(path: str, value: Any, hint: Any) -> Any:
    """The value as its field's type has it: whole numbers as floats, lists as tuples."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is tuple:
            (item, _) = typing.get_args(option)
            if isinstance(value, str):
                value = [part for part in value.split(";") if part]
            if isinstance(value, (list, tuple)):
                return tuple(_cast(path, part, item) for part in value)
        elif option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        elif isinstance(option, type) and type(value) is option:
            return value
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ValueError(f"{path} = {value!r}: allowed is {names.replace('NoneType', 'None')}")

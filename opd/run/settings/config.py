"""One frozen config, composed of the parts that live beside the code that reads them.

ml_collections is a front end that ends here: `build` turns its dictionary into a `Config` and
validates it once, before anything compiles or is written. A config file finds all parts here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from opd import fields
from opd.data.pipeline import DataConfig
from opd.data.served import ServedConfig
from opd.engine.optimizer import CriticConfig, OptimizerConfig
from opd.engine.sharding import MeshConfig, ShardingConfig
from opd.fields import setting, to_dict
from opd.method import facts, table
from opd.method.table import Method
from opd.run.players.fit import FitConfig
from opd.run.players.players import (
    LoraConfig,
    ModelConfig,
    PlayerConfig,
    TeacherConfig,
    TeachersConfig,
    tokenized,
)
from opd.run.probe.evaluate import EvaluateConfig
from opd.run.probe.probe import ProbeConfig, methods_of
from opd.run.rollouts.behavior import BufferConfig, DatasetConfig
from opd.run.rollouts.flight import ReuseConfig
from opd.run.rollouts.rewards import RewardConfig
from opd.run.rollouts.sampling import SamplingConfig
from opd.run.store.checkpoint import CheckpointConfig

__all__ = [
    "BufferConfig",
    "CheckpointConfig",
    "CompareConfig",
    "Config",
    "CriticConfig",
    "DataConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "FitConfig",
    "LoraConfig",
    "MeshConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PlayerConfig",
    "ProbeConfig",
    "ReuseConfig",
    "RewardConfig",
    "SamplingConfig",
    "ServedConfig",
    "ShardingConfig",
    "TeacherConfig",
    "TeachersConfig",
    "build",
    "config_dict",
    "kind_of",
    "to_dict",
]

# What a training may train.
TRAINS = ("policy", "reward")
LAST_SEED = 2**31 - 1  # of jax.random.key


class _Named:
    """What `MethodConfig` is besides the axes."""

    name: str

    @property
    def parsed(self) -> Method:
        """The method of that name, with the axes that are given beside it.

        Raises:
            ValueError: what `table.parse` refuses.
        """
        axes = ((axis, getattr(self, axis)) for axis in table.AXES)
        return table.parse(self.name, **{axis: value for axis, value in axes if value is not None})

    def check(self, path: str) -> None:
        """Refuses what is no method.

        Raises:
            ValueError: what `table.parse` refuses.
        """
        try:
            _ = self.parsed
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


if typing.TYPE_CHECKING:
    MethodConfig = _Named
else:
    # A row of the methods table, ROW or ROW@axis=value,..., and every axis as a key.
    MethodConfig = dataclasses.make_dataclass(
        "MethodConfig",
        [("name", str, "opd"), *((a.name, a.kind | None, None) for a in table.AXES.values())],
        bases=(_Named,),
        frozen=True,
    )


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """The arms of a comparison."""

    arms: tuple[str, ...] = ("opd", "opd_sampled", "opd_topk", "grpo")
    # A grid for each arm; (): the optimizer's rate for all.
    learning_rates: tuple[float, ...] = setting((), above=0)

    def check(self, path: str) -> None:
        """Refuses arms that are no methods, can't be trained, or come twice.

        Raises:
            ValueError: one line.
        """
        arms = methods_of(f"{path}.arms", self.arms)
        for number, method in enumerate(arms):
            if method in arms[:number]:
                raise ValueError(f"{path}.arms: {method.name} is given twice")
            try:
                facts.trainable(method)
            except ValueError as error:
                raise ValueError(f"{path}.arms: {error}") from None


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run: a comparison, or the training of one method.

    Defaults, its parts' included, are by hand: a small task on a laptop.

    Raises:
        ValueError: one line, the key that is wrong, what was given and what is allowed.
    """

    seed: int = setting(0, at_least=0)
    seeds: int = setting(1, at_least=1)  # a comparison's training seeds: seed, seed + 1, ...
    updates: int = setting(60, at_least=1)  # optimizer steps
    prompts: int = setting(16, at_least=1)  # prompt groups an update; a reward model's pairs
    # Rollouts of a prompt, in probe and training alike.
    group_size: int = setting(4, at_least=2)  # a group statistic of one rollout is none
    temperature: float = setting(1.0, above=0)  # of the policies, sampled and scored
    # Tokens of a chunk of the vocabulary pass; None: from the batch, the vocabulary and the device.
    chunk: int | None = setting(None, at_least=1)
    models: str | None = None  # folder to keep teacher and student in; None: the workdir's own
    trains: str = setting("policy", choices=TRAINS)
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    teachers: TeachersConfig = TeachersConfig()
    student: PlayerConfig = PlayerConfig()
    probe: ProbeConfig = ProbeConfig()
    method: MethodConfig = MethodConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compare: CompareConfig = CompareConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sampling: SamplingConfig = SamplingConfig()
    reuse: ReuseConfig = ReuseConfig()
    buffer: BufferConfig = BufferConfig()
    dataset: DatasetConfig = DatasetConfig()
    critic: CriticConfig = CriticConfig()
    reward: RewardConfig = RewardConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        fields.check(self, "config")

    def check(self, path: str) -> None:
        """Refuses parts that don't fit each other.

        Raises:
            ValueError: one line.
        """
        if self.seed + self.seeds - 1 > LAST_SEED:
            raise ValueError(
                f"{path}.seed = {self.seed}, {path}.seeds = {self.seeds}: allowed is up to "
                f"{LAST_SEED} for seed + seeds - 1"
            )
        for trains, names in (("policy", ("pairs",)), ("reward", ("function", "from_"))):
            for name in names:
                value = getattr(self.reward, name)
                if self.trains == trains and value is not None:
                    raise ValueError(
                        f"{path}.reward.{fields.key(name)} = {value!r}: means nothing where "
                        f"{path}.trains = {trains!r}"
                    )
        own = {"path": self.teacher.path, "from": self.teacher.from_}
        own["served.url"] = self.teacher.served.url
        own["source"] = self.teacher.source if self.teacher.is_student else None
        for key, value in own.items():
            if self.teachers.players and value is not None:
                raise ValueError(
                    f"{path}.teacher.{key} = {value!r} and {path}.teachers.players are both given: "
                    "allowed is one of them"
                )
        if self.teacher.served.url is not None and self.temperature != 1:
            raise ValueError(
                f"{path}.temperature = {self.temperature}: allowed is 1 with "
                f"{path}.teacher.served, whose log-probabilities are those of temperature 1"
            )
        rollouts = self.prompts * self.group_size
        if rollouts % self.optimizer.microbatches:
            raise ValueError(
                f"{path}.optimizer.microbatches = {self.optimizer.microbatches}: allowed is a "
                f"divisor of the {rollouts} rollouts of an update"
            )

    @property
    def tokenized(self) -> DataConfig:
        """The data in the student's folder's tokens, or the teacher's, unless it says which."""
        return tokenized(self.data, self.student, self.teacher)

    @property
    def arms(self) -> tuple[Method, ...]:
        """The methods of a comparison's arms."""
        return tuple(map(table.parse, self.compare.arms))

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid of each arm of a comparison."""
        return self.compare.learning_rates or (self.optimizer.learning_rate,)


def build(values: Mapping[str, Any]) -> Config:
    """The config of nested mappings; a key that is absent keeps its default.

    Raises:
        ValueError: an unknown key (lists the known), a value of another type, or what the config
            itself refuses.
    """
    return fields.build(values, Config, "config")


def kind_of(path: str) -> Any:
    """The type of the key at a dotted path, `compare.arms`.

    Raises:
        ValueError: there is none of that name (lists the known).
    """
    return fields.kind_of(path, Config)


def config_dict(config: Any) -> ml_collections.ConfigDict:
    """The config as ml_collections has it: every key there, to be overridden by type."""
    hints, values = typing.get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), fields.key(field.name)
        if dataclasses.is_dataclass(value):
            values[key] = config_dict(value)
        elif value is None:
            (kind,) = (o for o in typing.get_args(hints[field.name]) if o is not type(None))
            values[key] = ml_collections.config_dict.placeholder(kind)
        else:
            values[key] = value
    return ml_collections.ConfigDict(values)

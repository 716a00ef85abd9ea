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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from opd.data import hub_tokenizer
from opd.data.pipeline import DataConfig
from opd.engine.optimizer import OptimizerConfig
from opd.method import facts, table
from opd.method.table import Method
from opd.model.decoder import DecoderConfig
from opd.model.lora import INPUTS, Lora


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
class LoraConfig:
    """A low-rank adapter, which alone is trained."""

    rank: int = 0  # 0: none, all parameters are trained
    alpha: float | None = None  # of the factor alpha / rank; None: twice the rank
    targets: tuple[str, ...] = tuple(INPUTS)  # matrices of a layer

    def adapter(self) -> Lora | None:
        """The adapter, if there is one.

        Raises:
            ValueError: what `Lora` refuses.
        """
        if not self.rank:
            return None
        return Lora(self.rank, 2.0 * self.rank if self.alpha is None else self.alpha, self.targets)


@dataclasses.dataclass(frozen=True)
class PlayerConfig:
    """Teacher or student: its model and how it is made, or the folder that has it."""

    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    path: str | None = None  # a `models/NAME` folder of another run, or a Hugging Face one
    dtype: str | None = None  # of a Hugging Face folder's parameters; None: as they are stored
    lora: LoraConfig = LoraConfig()  # of a student that has a path
    from_: str | None = None  # key `from`: WORKDIR, WORKDIR@STEP, WORKDIR@best


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Which rows are measured side by side, and on how many rollouts."""

    rows: tuple[str, ...] = ("opd", "opd_sampled")
    groups: int = 128  # prompt groups, the units of independence
    batch: int = 64  # groups rolled out together
    sketch: int = 2048
    repeats: int = 5  # interleaved timings
    branches: int = 0  # fresh continuations at each state, for rows that hold the future
    every: int = 0  # updates between two probes of a training's own rollouts; 0: none


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
class SamplingConfig:
    """How a training's rollouts are drawn where that isn't the policy itself.

    Evaluation and comparisons draw from the policies. A row that loses its claim is said to be
    biased (`facts.bias`).
    """

    temperature: float | None = None  # of the draws alone; None: config.temperature, the policies'
    top_k: int | None = None
    top_p: float | None = None


@dataclasses.dataclass(frozen=True)
class ReuseConfig:
    """When a training draws new rollouts: at the first of these that is met."""

    updates: int = 1  # updates on one batch of rollouts at most
    ess: float = 0.0  # ESS / N below which it is given up, of the weights of the method's ratio
    kl: float | None = None  # KL(behavior || current), nats per sequence, that it may not pass
    hidden: bool = True  # keep the behavior's hidden states: that KL enumerated, not sampled


@dataclasses.dataclass(frozen=True)
class BufferConfig:
    """What a training with behavior=buffer keeps of its earlier rollouts."""

    size: int = 1024  # prompt groups; a random one leaves where there is no room
    age: int = 0  # batches of rollouts after which a group leaves; 0: never


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """What a training with behavior=dataset trains on."""

    source: str | None = None  # solutions, student, teacher; None: solutions, or for a row that
    # weighs rewards or ratios the student's rollouts: drawn once, at the start, and kept
    groups: int = 64  # prompt groups of such a set, and of pairs that a run makes for itself


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The learned baseline: the student's body with a scalar head, an optimizer of its own."""

    learning_rate: float = 1e-3
    warmup: int = 5


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Who grades a training's completions; the task's verifier where neither is given."""

    function: str | None = None  # MODULE:NAME, f(prompt, completion, answer) -> float
    from_: str | None = None  # key `from`: WORKDIR[@STEP|@best] of a training of a reward model
    pairs: str | None = None  # FILE.jsonl of prompt, chosen, rejected: what a reward model learns


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """The arms of a comparison."""

    arms: tuple[str, ...] = ("opd", "opd_sampled", "opd_topk", "grpo")
    learning_rates: tuple[float, ...] = ()  # a grid for each arm; (): the optimizer's for all


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Held-out evaluation."""

    split: str = "test"
    prompts: int = 256
    samples: int = 8  # completions written to samples.jsonl at each evaluation
    every: int = 20  # updates
    patience: int = 0  # evaluations without a better one after which training stops; 0: never
    teacher: bool = False  # measure the KL to the teacher for methods too that need none


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What a killed run goes on from."""

    every: int = 50  # updates
    keep: int = 3


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, whatever is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run: a comparison, or the training of one method.

    Raises:
        ValueError: one line, the key that is wrong, what was given and what is allowed.
    """

    seed: int = 0
    seeds: int = 1  # a comparison's training seeds: seed, seed + 1, ...
    updates: int = 60  # optimizer steps
    prompts: int = 16  # prompt groups an update; a reward model's pairs
    group_size: int = 4  # rollouts of a prompt, in probe and training alike
    temperature: float = 1.0  # of the policies, sampled and scored
    chunk: int = 128  # tokens of a chunk of the vocabulary pass
    models: str | None = None  # folder to keep teacher and student in; None: the workdir's own
    trains: str = "policy"  # or reward: a reward model
    data: DataConfig = DataConfig()
    teacher: PlayerConfig = PlayerConfig()
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
        for path, value in _leaves(self):
            least = _LEAST.get(path.removeprefix("teacher.").removeprefix("student."))
            if least is not None and value is not None and not value >= least:
                raise ValueError(f"config.{path} = {value}: allowed is {least} or more")
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ValueError(f"config.{path} = {value}: allowed is a finite number")
        if not self.temperature > 0:
            raise ValueError(f"config.temperature = {self.temperature}: allowed is more than 0")
        for key, given in (
            ("optimizer.learning_rate", self.optimizer.learning_rate),
            ("optimizer.clip", self.optimizer.clip),
            ("critic.learning_rate", self.critic.learning_rate),
            ("teacher.fit.learning_rate", self.teacher.fit.learning_rate),
            ("student.fit.learning_rate", self.student.fit.learning_rate),
            ("compare.learning_rates", self.compare.learning_rates),
        ):
            if any(rate <= 0 for rate in (given if isinstance(given, tuple) else (given,))):
                raise ValueError(f"config.{key} = {given}: allowed is more than 0")
        if self.seed + self.seeds - 1 > _LAST_SEED:
            last = f"{_LAST_SEED} for seed + seeds - 1"
            raise ValueError(
                f"config.seed = {self.seed}, config.seeds = {self.seeds}: allowed is up to {last}"
            )
        if not 0 <= self.optimizer.ema < 1:
            raise ValueError(
                f"config.optimizer.ema = {self.optimizer.ema}: allowed is 0 to below 1"
            )
        if self.trains not in TRAINS:
            raise ValueError(f"config.trains = {self.trains!r}: allowed are {', '.join(TRAINS)}")
        if self.dataset.source not in (None, *SOURCES):
            allowed = ", ".join(SOURCES)
            raise ValueError(
                f"config.dataset.source = {self.dataset.source!r}: allowed are {allowed}"
            )
        if not self.reuse.ess <= 1:
            raise ValueError(f"config.reuse.ess = {self.reuse.ess}: allowed is 0 to 1")
        if self.sampling.temperature is not None and not self.sampling.temperature > 0:
            raise ValueError(
                f"config.sampling.temperature = {self.sampling.temperature}: allowed is more than 0"
            )
        if self.sampling.top_p is not None and not 0 < self.sampling.top_p <= 1:
            raise ValueError(
                f"config.sampling.top_p = {self.sampling.top_p}: allowed is above 0 and up to 1"
            )
        if self.reward.function is not None and self.reward.from_ is not None:
            raise ValueError(
                "config.reward.function and config.reward.from are both given: allowed is one"
            )
        for trained, keys in (("policy", ("pairs",)), ("reward", ("function", "from_"))):
            for key in keys:
                value = getattr(self.reward, key)
                if self.trains == trained and value is not None:
                    raise ValueError(
                        f"config.reward.{_key(key)} = {value!r}: means nothing where config.trains "
                        f"= {trained!r}"
                    )
        rollouts = self.prompts * self.group_size
        if rollouts % self.optimizer.microbatches:
            raise ValueError(
                f"config.optimizer.microbatches = {self.optimizer.microbatches}: allowed is a "
                f"divisor of the {rollouts} rollouts of an update"
            )
        if self.probe.groups % self.probe.batch:
            raise ValueError(
                f"config.probe.groups = {self.probe.groups}: allowed is a multiple of "
                f"config.probe.batch = {self.probe.batch}"
            )
        if self.probe.branches == 1:
            raise ValueError("config.probe.branches = 1: allowed is 0, or 2 and more")
        _methods("probe.rows", self.probe.rows)
        arms = _methods("compare.arms", self.compare.arms)
        for number, method in enumerate(arms):
            if method in arms[:number]:
                raise ValueError(f"config.compare.arms: {method.name} is given twice")
            try:
                facts.trainable(method)
            except ValueError as error:
                raise ValueError(f"config.compare.arms: {error}") from None
        _refused("method", lambda: self.method.parsed)

    @property
    def tokenized(self) -> DataConfig:
        """The data in the student's folder's tokens, or the teacher's, unless it says which."""
        if self.data.tokenizer is None:
            for path in (self.student.path, self.teacher.path):
                if path is not None and hub_tokenizer.has_tokenizer(Path(path)):
                    return dataclasses.replace(self.data, tokenizer=path)
        return self.data

    @property
    def probe_methods(self) -> tuple[Method, ...]:
        """The rows to measure, with the partners and references that they are compared with."""
        found: dict[str, Method] = {}
        for method in map(table.parse, self.probe.rows):
            for needed in (facts.reference(method), facts.partner(method), method):
                if needed is not None:
                    found.setdefault(needed.name, needed)
        return tuple(found.values())

    @property
    def arms(self) -> tuple[Method, ...]:
        """The methods of a comparison's arms."""
        return tuple(map(table.parse, self.compare.arms))

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid of each arm of a comparison."""
        return self.compare.learning_rates or (self.optimizer.learning_rate,)


def _methods(key: str, names: tuple[str, ...]) -> tuple[Method, ...]:
    """The methods that a key names, one at least."""
    if not names:
        raise ValueError(f"config.{key} = (): allowed is one method or more")
    return _refused(key, lambda: tuple(map(table.parse, names)))


T = typing.TypeVar("T")


def _refused(key: str, made: Callable[[], T]) -> T:
    """What is made, or a refusal that says which key."""
    try:
        return made()
    except ValueError as error:
        raise ValueError(f"config.{key}: {error}") from None


TRAINS = ("policy", "reward")
SOURCES = ("solutions", "student", "teacher")  # of a dataset
_LAST_SEED = 2**31 - 1  # of jax.random.key
_LEAST = {
    "seed": 0,
    "seeds": 1,
    "group_size": 2,
    "chunk": 1,
    "lora.rank": 0,
    "fit.steps": 0,
    "fit.batch": 1,
    "fit.check_every": 1,
    "probe.groups": 4,
    "probe.batch": 1,
    "probe.sketch": 1,
    "probe.repeats": 5,
    "probe.branches": 0,
    "updates": 1,
    "prompts": 1,
    "optimizer.warmup": 0,
    "optimizer.decay": 1,
    "optimizer.floor": 0,
    "optimizer.weight_decay": 0,
    "optimizer.microbatches": 1,
    "optimizer.skips": 0,
    "evaluate.prompts": 2,
    "evaluate.samples": 0,
    "evaluate.every": 1,
    "evaluate.patience": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "probe.every": 0,
    "sampling.top_k": 1,
    "reuse.updates": 1,
    "reuse.ess": 0,
    "reuse.kl": 0,
    "buffer.size": 1,
    "buffer.age": 0,
    "dataset.groups": 1,
    "critic.warmup": 0,
}


def _leaves(config: Any, prefix: str = ""):
    """Every (path, value) below a dataclass."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _key(field: str) -> str:
    """A field's key: Python keeps some words for itself."""
    return field.rstrip("_")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries, as results.json has it."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found[_key(field.name)] = to_dict(value) if dataclasses.is_dataclass(value) else value
    return found


def config_dict(config: Any) -> ml_collections.ConfigDict:
    """The config as ml_collections has it: every key there, to be overridden by type."""
    hints, found = typing.get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = _key(field.name)
        if dataclasses.is_dataclass(value):
            found[key] = config_dict(value)
        elif value is None:
            (kind,) = (o for o in typing.get_args(hints[field.name]) if o is not type(None))
            found[key] = ml_collections.config_dict.placeholder(kind)
        else:
            found[key] = value
    return ml_collections.ConfigDict(found)


def build(values: Mapping[str, Any], kind: type = Config, prefix: str = "config") -> Any:
    """A config of `kind` from nested mappings; a key that is absent keeps its default.

    Raises:
        ValueError: an unknown key (lists the known), a value of another type, or what the config
            itself refuses.
    """
    fields = {_key(field.name): field.name for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    given = {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix} = {values!r}: allowed is a mapping of {', '.join(fields)}")
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"{prefix}.{key}: no such key; allowed are {', '.join(fields)}")
        name, hint = fields[key], hints[fields[key]]
        if dataclasses.is_dataclass(hint):
            given[name] = build(value, hint, f"{prefix}.{key}")
        else:
            given[name] = _cast(f"{prefix}.{key}", value, hint)
    return kind(**given)


def kind_of(path: str, kind: type = Config) -> Any:
    """The type of the key at a dotted path, `compare.arms`.

    Raises:
        ValueError: there is none of that name (lists the known).
    """
    known = "config"
    for name in path.split("."):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        hints = {_key(field): hint for field, hint in hints.items()}
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

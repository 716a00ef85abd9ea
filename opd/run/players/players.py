"""Teacher and student: looked at before anything is compiled, then made, found or loaded.

A fitted player is used again only if all that its fit depended on is the same. It lies in the
workdir, or in a folder that runs share (`config.models`), where players of other identities lie
beside it. One may also come from elsewhere: `path` names a folder, `from` another training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from opd import fields, processes
from opd.data import hub_tokenizer, pipeline, served, tokenizers
from opd.data.hub_tokenizer import HubTokenizer
from opd.data.pipeline import DataConfig, Task
from opd.data.served import ServedConfig
from opd.engine import programs
from opd.engine.sharding import ShardingConfig
from opd.fields import setting
from opd.model.attention import KINDS
from opd.model.decoder import REMATS, Decoder, DecoderConfig
from opd.model.lora import INPUTS, Lora
from opd.model.several import Several
from opd.run.drawing import Player, World
from opd.run.players import fit, folder, hub, trained
from opd.run.players.fit import FitConfig
from opd.run.players.trained import Trained
from opd.run.store import checkpoint
from opd.types import Params


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder without its vocabulary and length, which the data give.

    By default one that a laptop fits to two-digit sums in a minute.
    """

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
class LoraConfig:
    """A low-rank adapter, which alone is trained."""

    rank: int = setting(0, at_least=0)  # 0: none, all parameters are trained
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
    # What a Hugging Face folder is computed and exported in, None: as it is stored. What is trained
    # is float32 whatever this says.
    dtype: str | None = None
    lora: LoraConfig = LoraConfig()  # of a student that has a path
    from_: str | None = None  # key `from`: WORKDIR, WORKDIR@STEP, WORKDIR@best
    # How a sequence attends to itself: `plain` holds all its scores at once, `blockwise` a block of
    # them, as do kernels: `splash` on TPU, `cudnn` on GPU (bfloat16, no cap of scores; never run so
    # far). `auto` is splash on TPU from 128 tokens on, else blockwise where sequences are long.
    # Results differ by rounding.
    attention: str = setting("auto", choices=KINDS)
    # What a gradient computes again in place of keeping it, layer by layer: nothing; all but the
    # results of matmuls with weights (`dots`); everything (`full`). The same gradients, for less
    # memory and more time.
    remat: str = setting("none", choices=tuple(REMATS))
    # Rows of a batch whose hidden states are computed at once, at most, one part after the other;
    # of the whole mesh together. None: all. The same numbers for less memory where it scores.
    rows: int | None = setting(None, at_least=1)
    # How its parameters and activations lie on the mesh: the same numbers, in other places.
    sharding: ShardingConfig = ShardingConfig()
    # Whether a rollout gathers the matrices that `mesh.fsdp` splits once, and not at every token.
    gather: bool = True

    def computed(self, model: Decoder) -> Decoder:
        """The decoder, computed as is said here."""
        return dataclasses.replace(
            model,
            attention=self.attention,
            remat=self.remat,
            rows=self.rows,
            gather=self.gather,
            rules=self.sharding.rules,
        )


# Who a teacher is: a player of its own, or the student at some time.
SOURCES = ("given", "start", "live", "ema", "lagged")


@dataclasses.dataclass(frozen=True)
class TeacherConfig(PlayerConfig):
    """The teacher: who it is, and what it is told in the prompts' place.

    The student as it began (`start`) or is at the update (`live`), an average of it (`ema`), or a
    copy that is made anew every so many updates (`lagged`): none of them is a further model, and
    no gradient goes through any. Rollouts that serve for several updates are graded once, by the
    teacher of the first of these.
    """

    source: str = setting("given", choices=SOURCES)
    decay: float = setting(0.99, at_least=0, below=1)  # ema: of the average, an update
    every: int = setting(50, at_least=1)  # lagged: updates after which it is copied anew
    # A jinja2 template over the columns of the data: `prompt`, `messages`, `answer`, `solution` and
    # the line's own. None: the teacher reads what the student does. One that is fitted here is
    # fitted to its own prompts.
    prompt: str | None = None
    max_prompt: int | None = setting(None, at_least=1)  # P', tokens; None: the longest
    # A teacher behind a server, which says the log-probabilities of the rollouts' own tokens.
    served: ServedConfig = ServedConfig()

    @property
    def is_student(self) -> bool:
        """Whether the teacher is the student at some time."""
        return self.source != "given"

    @property
    def moves(self) -> bool:
        """Whether it is another one from update to update."""
        return self.source in ("live", "ema", "lagged")

    @property
    def kept(self) -> bool:
        """Whether it has parameters that a run keeps from update to update."""
        return self.source in ("ema", "lagged")

    @property
    def words(self) -> str:
        """Who it is and what it is told, as a claim names it."""
        who = {
            "given": "teacher",
            "start": "student as it began",
            "live": "student as it is at the update",
            "ema": f"average of the student (decay {self.decay:g})",
            "lagged": f"student of up to {self.every} updates ago",
        }[self.source]
        who = f"teacher served as {self.served.name}" if self.served.name else who
        return who if self.prompt is None else f"{who}, told another prompt (teacher.prompt)"

    def check(self, path: str) -> None:
        """Refuses a teacher that is the student and comes from elsewhere, or is it altogether.

        Raises:
            ValueError: one line.
        """
        for name in ("path", "from_"):
            value = getattr(self, name)
            if self.served.url is not None and (self.is_student or value is not None):
                raise ValueError(
                    f"{path}.served.url = {self.served.url!r}: allowed without {path}.path, "
                    f"{path}.from and {path}.source"
                )
            if self.is_student and value is not None:
                raise ValueError(
                    f"{path}.{fields.key(name)} = {value!r}: allowed with {path}.source = 'given' "
                    f"only; {self.source!r} is the student itself"
                )
        if self.prompt is None and self.max_prompt is not None:
            raise ValueError(f"{path}.max_prompt = {self.max_prompt}: needs {path}.prompt")
        if self.source == "live" and self.prompt is None:
            raise ValueError(
                f"{path}.source = 'live': needs {path}.prompt, or teacher and student are one and "
                "their KL is 0"
            )


@dataclasses.dataclass(frozen=True)
class TeachersConfig:
    """Several teachers, each of which grades the prompts that a column of the data says.

    What else a teacher's config says (`dtype`, `attention`, `prompt`, ...) is said of all.
    """

    players: tuple[str, ...] = ()  # NAME=PATH or NAME=from:WORKDIR[@STEP|@best]; (): one teacher
    column: str = "teacher"

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names, as the column has them."""
        return tuple(player.partition("=")[0] for player in self.players)

    def each(self, teacher: TeacherConfig) -> tuple[TeacherConfig, ...]:
        """Their configs, of what is said of all."""
        found = []
        for player in self.players:
            where = player.partition("=")[2]
            trained = where.startswith("from:")
            place = {"from_": where.removeprefix("from:")} if trained else {"path": where}
            found.append(dataclasses.replace(teacher, **place))
        return tuple(found)

    def check(self, path: str) -> None:
        """Refuses names that aren't any, and one that comes twice.

        Raises:
            ValueError: one line.
        """
        for player in self.players:
            name, _, where = player.partition("=")
            if not name or not where:
                raise ValueError(
                    f"{path}.players: {player!r}: allowed is NAME=PATH or NAME=from:WORKDIR"
                )
            if self.names.count(name) > 1:
                raise ValueError(f"{path}.players: {name!r} is given twice")


def tokenized(data: DataConfig, *players: PlayerConfig) -> DataConfig:
    """The data in the tokens of the first player whose folder has some, unless they say which."""
    if data.tokenizer is None:
        for player in players:
            if player.path is not None and hub_tokenizer.has_tokenizer(Path(player.path)):
                return dataclasses.replace(data, tokenizer=player.path)
    return data


# --- looked at -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PlayerPlan:
    """A player that was looked at: its model, and where its parameters come from."""

    name: str
    config: PlayerConfig
    model: Decoder
    hub: hub.Folder | None = None  # of a path to a Hugging Face folder
    trained: Trained | None = None  # of a `from`
    called: str | None = None  # of several: its own name

    @property
    def inputs(self) -> dict[str, Any] | None:
        """What identifies a player that comes from elsewhere; None where the config says it all.

        All of its weights are read for that.
        """
        if self.trained is not None:
            return self.trained.identity
        if self.config.path is not None:
            return {"sha256": checkpoint.contents(Path(self.config.path))}
        return None


@dataclasses.dataclass(frozen=True)
class TeacherPlan:
    """Several teachers that were looked at, as one."""

    config: TeacherConfig
    parts: tuple[PlayerPlan, ...]
    name: str = "teacher"

    @property
    def model(self) -> Several:
        """Them as one model."""
        names = tuple(str(part.called) for part in self.parts)
        return Several(names, tuple(part.model for part in self.parts))

    @property
    def inputs(self) -> dict[str, Any]:
        """What identifies each; all of their weights are read for that."""
        return {str(part.called): part.inputs for part in self.parts}


@dataclasses.dataclass(frozen=True)
class ServedPlan:
    """A teacher behind a server, which was asked what it is."""

    config: TeacherConfig
    server: served.Server

    @property
    def inputs(self) -> dict[str, Any]:
        """The model's name, which is all that is known of it."""
        return {"served": self.server.model}


Taught = PlayerPlan | TeacherPlan | ServedPlan


def parts(plan: Taught) -> tuple[PlayerPlan, ...]:
    """A player, or each of several teachers; none of one that is served."""
    if isinstance(plan, ServedPlan):
        return ()
    return plan.parts if isinstance(plan, TeacherPlan) else (plan,)


def model_of(plan: Taught) -> Decoder | Several | None:
    """The teacher's model, where it is here."""
    return None if isinstance(plan, ServedPlan) else plan.model


def refuse_no_folder(**players: PlayerConfig) -> None:
    """Refuses a path that is neither a player's folder nor a Hugging Face one.

    Raises:
        ValueError: names the key, says what it is instead, and what is allowed.
    """
    for name, player in players.items():
        if player.path is not None and not (Path(player.path) / "player.json").exists():
            try:
                hub.refuse_no_checkpoint(Path(player.path))
            except ValueError as error:
                raise ValueError(f"config.{name}.path: {error}") from None


def look(name: str, config: PlayerConfig, task: Task) -> PlayerPlan:
    """The teacher or the student before it is made; nothing is compiled or written.

    Raises:
        ValueError: two places to have it from, no demonstrations or no prompts to fit it to, sizes
            that the decoder can't have, attention that isn't for them, a folder or a training
            without a player, or one of another tokenizer or of shorter sequences.
    """
    _check(name, config, task)
    plan = _found(name, config, task)
    try:
        return dataclasses.replace(plan, model=config.computed(plan.model))
    except ValueError as error:
        raise ValueError(f"config.{name}.{error}") from None


def _found(name: str, config: PlayerConfig, task: Task) -> PlayerPlan:
    if config.from_ is not None:
        source = trained.find(config.from_)
        model = folder.decoder(source.workdir / "models" / "student", task)
        return PlayerPlan(name, config, model, trained=source)
    if config.path is None:
        length = task.max_prompt + task.max_completion
        decoder = config.model.decoder(task.tokenizer.vocab, length)
        return PlayerPlan(name, config, Decoder(decoder))
    path = Path(config.path)
    theirs = looked_at(path, config.dtype, task) if hub.is_folder(path) else None
    if theirs is None and config.dtype is not None:
        raise ValueError(f"dtype = {config.dtype!r}: allowed for a Hugging Face folder only")
    plain = folder.whole(path, task).config if theirs is None else theirs.config
    adapted = dataclasses.replace(plain, lora=config.lora.adapter())
    return PlayerPlan(name, config, Decoder(adapted), theirs)


def _check(name: str, config: PlayerConfig, task: Task) -> None:
    """Refuses what contradicts itself, and a player that can't be fitted to the data there are."""
    if config.path is not None and config.from_ is not None:
        raise ValueError(
            f"config.{name}.path and config.{name}.from are both given: allowed is one of them"
        )
    if config.lora.rank and (name != "student" or config.path is None):
        raise ValueError(
            f"config.{name}.lora.rank = {config.lora.rank}: allowed for a student that has a path"
        )
    try:
        config.lora.adapter()
    except ValueError as error:
        raise ValueError(f"config.{name}.lora: {error}") from None
    if config.path is not None or config.from_ is not None:
        return
    if any(example.solution is None for example in task.split("train")):
        raise ValueError(
            f"the data have prompts without an answer, and no {name} can be fitted to them: "
            f"give config.{name}.path or config.{name}.from"
        )
    if config.fit.stop_at is not None and "validation" not in task.splits:
        raise ValueError(
            f"config.{name}.fit.stop_at = {config.fit.stop_at}: needs a validation split, and "
            "there is none"
        )


def look_at_both(
    teacher: TeacherConfig, student: PlayerConfig, task: Task, several: TeachersConfig
) -> tuple[Taught, PlayerPlan]:
    """`look` at teacher and student, each of which reads what it is told.

    Raises:
        ValueError: what `look` refuses, of several teachers by name.
    """
    longer = task
    if task.told is not None and task.told.width > task.max_prompt:
        longer = dataclasses.replace(task, max_prompt=task.told.width)
    if teacher.served.url is not None:
        text = task.split("train")[0].prompt
        server = served.look(teacher.served, text, task.tokenizer.encode(text))
        return ServedPlan(teacher, server), look("student", student, task)
    if several.players:
        each = []
        for name, config in zip(several.names, several.each(teacher), strict=True):
            try:
                refuse_no_folder(teacher=config)
                each.append(dataclasses.replace(look("teacher", config, longer), called=name))
            except ValueError as error:
                raise ValueError(f"config.teachers.players, {name}: {error}") from None
        plan = TeacherPlan(teacher, tuple(each))
        _ = plan.model  # whether they go together
        return plan, look("student", student, task)
    if not teacher.is_student:
        return look("teacher", teacher, longer), look("student", student, task)
    found = look("student", student, longer)
    try:
        return PlayerPlan("teacher", teacher, teacher.computed(found.model)), found
    except ValueError as error:
        raise ValueError(f"config.teacher.{error}") from None


def looked_at(path: Path, dtype: str | None, task: Task) -> hub.Folder:
    """A Hugging Face folder whose ids are the task's.

    Raises:
        ValueError: what `hub.look` refuses, no tokenizer or another, or a model that doesn't read
            the task's sequences.
    """
    if not hub_tokenizer.has_tokenizer(path):
        raise ValueError(f"{path}: has no {hub_tokenizer.FILE}: its ids can't be told")
    table = own_tokenizer(path, task).table()
    theirs = hub.look(path, dtype, tokens=len(table))
    rows = theirs.config.vocab  # an id without a row is never read or written
    try:
        tokenizers.same_entries(table[:rows], task.tokenizer.table()[:rows])
    except ValueError as error:
        raise ValueError(f"{path}, and the data's: {error}") from None
    folder.refuse_short(path, theirs.config, task)
    return theirs


def together(teacher: Taught, student: PlayerPlan, task: Task) -> tuple[Taught, PlayerPlan, Task]:
    """All players and the task with the ids that each has: an id without a row is never drawn.

    Raises:
        ValueError: what `within` refuses.
    """
    players = (*parts(teacher), student)
    tokens = min(plan.model.tokens for plan in players)
    gone = [token for token in task.tokenizer.eos_ids if token >= tokens]
    plans = []
    for plan in players:
        model = plan.model
        if model.tokens != tokens:
            known = dataclasses.replace(model.config, tokens=tokens)
            model = dataclasses.replace(model, config=known)
        looked = plan.hub
        if looked is not None and gone:
            note = f"{looked.path}: no completion ends in {gone}: ids from {tokens} on have no row"
            looked = dataclasses.replace(looked, notes=(*looked.notes, note))
        plans.append(dataclasses.replace(plan, model=model, hub=looked))
    try:
        task = within(task, tokens)
    except ValueError as error:
        least = next(plan for plan in players if plan.model.tokens == tokens)
        raise ValueError(
            f"{least.config.path or least.name}: has rows for {tokens} of the tokenizer's "
            f"{task.tokenizer.vocab} ids; {error}"
        ) from None
    *taught, student = plans
    if isinstance(teacher, ServedPlan):
        return teacher, student, task
    if isinstance(teacher, TeacherPlan):
        return dataclasses.replace(teacher, parts=tuple(taught)), student, task
    return taught[0], student, task


def within(task: Task, tokens: int) -> Task:
    """The task for models that have rows for so many ids; as it is, where those are all.

    Raises:
        ValueError: a prompt or a solution with another id, or no end that has a row.
    """
    if tokens >= task.tokenizer.vocab:
        return task
    if not isinstance(task.tokenizer, HubTokenizer):
        raise ValueError(
            f"the data's tokenizer has {task.tokenizer.vocab} ids: {tokens} are allowed, for which "
            "the models have rows"
        )
    task = dataclasses.replace(task, tokenizer=task.tokenizer.within(tokens))
    pipeline.refuse_rowless(task, tokens)
    return task


def own_tokenizer(path: Path, task: Task) -> HubTokenizer:
    """A folder's tokenizer, with the data's chat where it takes that: read once, all the same.

    Raises:
        ValueError: what `hub_tokenizer.load` refuses.
    """
    ours = task.tokenizer
    if not isinstance(ours, HubTokenizer):
        return hub_tokenizer.load(path)
    if ours.folder == path:
        return ours
    try:
        return hub_tokenizer.load(path, ours.chat)
    except ValueError:  # it has no use for the chat, or is broken
        return hub_tokenizer.load(path)


# --- made ------------------------------------------------------------------------------------


def make(plan: PlayerPlan, world: World, workdir: Path, models: str | None = None) -> Player:
    """A player on the mesh: loaded, found ready, or fitted and saved.

    `models` is the folder that a fitted one is shared in: processes that want the same wait for
    the first of them. None: the workdir's own.
    """
    called = plan.name if plan.called is None else f"{plan.name}-{plan.called}"
    here = workdir / "models" / called
    if plan.trained is not None:
        step = {"from": plan.config.from_, "step": plan.trained.step}
        folder.describe(here, plan.model, step, world.task)
        beside = plan.trained.workdir / "models" / "student" / hub.KEPT
        if beside.is_dir():
            hub.keep(beside, here)
        as_trained = plan.name == "student"  # it goes on from there; a teacher takes what it needs
        return Player(plan.model, plan.trained.params(plan.model, world.mesh, as_trained))
    if plan.config.path is not None:
        folder.describe(here, plan.model, {"path": plan.config.path}, world.task)
        if plan.hub is not None:
            hub.keep(plan.hub.path, here)
        return Player(plan.model, _from_path(plan, world))
    identity = fit.identity(plan.model, plan.config.fit, world, plan.name)
    if models is None:
        return Player(plan.model, _fitted(plan, identity, world, here))
    named = Path(models) / _name(plan.name, identity)
    with _alone(named):
        shared = Path(processes.told(str(_shared(named, identity))))
        params = _fitted(plan, identity, world, shared)
    folder.describe(here, plan.model, {"path": str(shared)}, world.task)
    return Player(plan.model, params)


def make_teacher(
    plan: Taught,
    student: Player,
    world: World,
    workdir: Path,
    models: str | None = None,
) -> Player:
    """The teacher, `make`d; or the student as it begins, where it is the student at some time."""
    assert not isinstance(plan, ServedPlan), "nothing is made of a served teacher"
    if isinstance(plan, TeacherPlan):
        made = {str(part.called): make(part, world, workdir, models).params for part in plan.parts}
        return Player(plan.model, made)
    config = plan.config
    if isinstance(config, TeacherConfig) and config.is_student:
        return Player(plan.model, student.params)
    return make(plan, world, workdir, models)


def _name(name: str, identity: Any) -> str:
    """What a shared player is called."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:12]}"  # 48 bits: enough to tell a folder's players apart


def _shared(named: Path, identity: Any) -> Path:
    """Where a shared player lies: in the folder that is named for it, or in an older one.

    The name is a digest of all fields that there were on the day. One that was added since changes
    the name, and not the player: so the others of that name's beginning are looked through.
    """
    name = named.name.rpartition("-")[0]
    others = sorted(named.parent.glob(f"{name}-*"))
    return next((one for one in (named, *others) if _has(one, identity)), named)


def _from_path(plan: PlayerPlan, world: World) -> Params:
    """A folder's parameters, and a fresh adapter's beside them."""
    if plan.hub is not None:
        params = hub.load(plan.hub, world.mesh, plan.model.rules)
    else:
        config = dataclasses.replace(plan.model.config, lora=None)
        plain = dataclasses.replace(plan.model, config=config)
        params = folder.load(plain, Path(plan.config.path), world.mesh)
    if plan.model.config.lora is None:
        return params
    key = jax.random.key(fit.seed_of(f"{plan.name}'s adapter", world.seed))
    return programs.adapt(world.mesh, plan.model, params, key)


def _fitted(plan: PlayerPlan, identity: Any, world: World, where: Path) -> Params:
    """The parameters that a folder has of this identity; fitted and saved where it has none."""
    if processes.told(_has(where, identity)):
        with contextlib.suppress(ValueError):  # damaged where sizes don't show it: made anew
            return folder.load(plan.model, where, world.mesh)
    params = fit.fit(plan.name, plan.model, plan.config.fit, world)
    folder.save(where, plan.model, params, identity, world.task)
    return params


def _has(where: Path, identity: Any) -> bool:
    """Whether a folder has a player of this identity, whole."""
    try:
        description = folder.read(where)
        folder.refuse_damage(where, description["files"])
    except ValueError:  # not there, or cut off
        return False
    return fit.same(description["identity"], identity)


@contextlib.contextmanager
def _alone(where: Path) -> Iterator[None]:
    """Holds the lock beside a folder; waits, and says so, while another process has it.

    Of the processes of one run the first holds it for all, who wait with it.
    """
    where.parent.mkdir(parents=True, exist_ok=True)
    if not processes.first():
        processes.barrier()
        yield
        return
    with open(where.with_name(f".{where.name}.lock"), "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes {where}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        processes.barrier()
        yield

"""A config as its programs see it, with shapes in place of arrays: nothing is loaded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.scale.published import CONFIG_JSON
from opd import draws
from opd.engine import costs, programs, sharding
from opd.engine.optimizer import Optimizer
from opd.engine.steps import Sampling, State
from opd.engine.vocab import Head, Pass
from opd.method import facts
from opd.method.table import Method
from opd.model.decoder import Decoder, DecoderConfig
from opd.model.families import FAMILIES
from opd.run.players import folder, hub_weights
from opd.run.players.players import PlayerConfig
from opd.run.rollouts import sampling
from opd.run.settings.config import Config
from opd.run.training import footprint
from opd.types import Rollout

EOS, PAD = 1, 0  # any ids will do: they are constants of a program


@dataclasses.dataclass(frozen=True)
class Job:
    """A training's update, as far as its programs depend on it."""

    config: Config
    mesh: Mesh
    student: Decoder
    teacher: Decoder | None
    method: Method
    sampling: Sampling
    scoring: Pass
    prompt: int  # P
    length: int  # T

    @property
    def rows(self) -> int:
        """Rollouts of an update, B."""
        return self.config.prompts * self.config.group_size

    @property
    def optimizer(self) -> Optimizer:
        """What the student is trained by."""
        return Optimizer(self.config.optimizer, self.config.optimizer.learning_rate)

    @property
    def flops(self) -> Mapping[str, int]:
        """Matmul FLOPs of an update of all rows, by `costs.flops`; of the whole mesh together."""
        rows = self.rows // self.config.optimizer.microbatches
        how = dataclasses.replace(
            self.scoring, shards=sharding.row_shards(self.mesh), platform="tpu"
        )
        found = costs.flops(
            self.student, self.teacher, self.method, self.prompt, self.length, how, rows
        )
        return {name: self.rows * count for name, count in found.items()}

    @functools.cached_property
    def resident(self) -> Mapping[str, int]:
        """Bytes of a device that are held throughout a training, by what they are for."""
        held = footprint.parts(self.mesh, self.student, self.teacher)
        passing = footprint.GRADIENTS, footprint.MATRICES
        return {name: size for name, size in held.items() if name not in passing}


def of(config: Config, devices: Sequence[Any]) -> Job:
    """The job of a config on devices that needn't be there.

    Raises:
        ValueError: a mesh, rows or heads that don't divide; a player of unknown sizes; lengths that
            the config leaves open; a method that has more players than these programs.
    """
    mesh = sharding.make_mesh(devices, **dataclasses.asdict(config.mesh))
    prompt, length = config.data.max_prompt, config.data.max_completion
    for name, value in (("max_prompt", prompt), ("max_completion", length)):
        if value is None:
            raise ValueError(f"config.data.{name} = None: a number of tokens is allowed here")
    if config.trains != "policy":
        raise ValueError(f"config.trains = {config.trains!r}: allowed is 'policy' here")
    method = config.method.parsed
    if "value" in facts.needs(method):
        raise ValueError(f"config.method.name = {method.name!r}: a row without a critic is allowed")
    student = decoder("student", config.student)
    teacher = decoder("teacher", config.teacher) if costs.needs_teacher(method) else None
    rows = config.prompts * config.group_size
    parts, shards = config.optimizer.microbatches, sharding.row_shards(mesh)
    if rows // parts % shards:
        raise ValueError(
            f"config.prompts x group_size / optimizer.microbatches = {rows // parts} rows: a "
            f"multiple of the {shards} devices of mesh.data x mesh.fsdp is allowed"
        )
    tensor = mesh.shape["tensor"]
    for name, model in (("student", student), ("teacher", teacher)):
        if model is not None and model.config.heads % tensor:
            raise ValueError(
                f"config.mesh.tensor = {tensor}: a divisor of the {name}'s {model.config.heads} "
                "heads is allowed"
            )
        if model is not None:
            sharding.refuse_unsplit(f"config.{name}.sharding", model, mesh)
        if model is not None and prompt + length > model.config.max_length:
            raise ValueError(
                f"config.data: {prompt + length} tokens: the {name} reads {model.config.max_length}"
            )
    policy = Sampling(length, (EOS,), PAD, config.temperature)
    drawn = sampling.drawn(config.sampling, policy, student.tokens)
    scoring = Pass(config.temperature, config.chunk)
    return Job(config, mesh, student, teacher, method, drawn, scoring, prompt, length)


def nowhere(count: int) -> list[Any]:
    """So many devices that stand for those of a mesh: nothing can be compiled for them."""
    return [_Nowhere(number) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class _Nowhere:
    id: int
    platform: str = "nowhere"
    process_index: int = 0


def decoder(name: str, player: PlayerConfig) -> Decoder:
    """A player's decoder: of a folder's config.json, of published sizes, or of none.

    Raises:
        ValueError: a path that is neither a folder nor a published name.
    """
    hf = _config_json(name, player)
    family = FAMILIES.get(hf["architectures"][0])
    if family is None:
        allowed = ", ".join(FAMILIES)
        raise ValueError(f"config.{name}.path: {hf['architectures'][0]}: {allowed} are allowed")
    dtype = player.dtype or "bfloat16"
    fields = family.fields(hf) | {"dtype": dtype, "param_dtype": dtype}
    config = DecoderConfig(**fields, lora=player.lora.adapter())
    return player.computed(Decoder(config))


def _config_json(name: str, player: PlayerConfig) -> Mapping[str, Any]:
    file = Path(player.path or "") / hub_weights.CONFIG
    if player.path is not None and file.is_file():
        return hub_weights.read_json(file)
    found = CONFIG_JSON.get(Path(player.path or "").name)
    if found is None:
        raise ValueError(
            f"config.{name}.path = {player.path!r}: a Hugging Face folder, or one of "
            f"{', '.join(CONFIG_JSON)} is allowed"
        )
    return found


# ------------------------------------------------------------------------------ abstract arrays


def rows(job: Job) -> dict[str, Any]:
    """The arguments of `programs.rollout` that come by rows."""
    found = programs.batch_rows(
        np.zeros((job.config.prompts, job.prompt), np.int32),
        np.ones((job.config.prompts, job.prompt), bool),
        job.config.group_size,
    )
    return _by_rows(job, found)


def rollout(job: Job) -> Rollout:
    """A rollout of the job's rows; with what its method asks of one."""
    grid, needs = (job.rows, job.length), facts.needs(job.method)
    known = jax.ShapeDtypeStruct(grid, jnp.float32)
    corrects = any(term.correction != "none" for term in job.method.terms)
    found = Rollout(
        **{name: rows(job)[name] for name in ("prompt", "prompt_mask", "group", "row")},
        tokens=jax.ShapeDtypeStruct(grid, jnp.int32),
        mask=jax.ShapeDtypeStruct(grid, bool),
        logp_behavior=known,
        ended=jax.ShapeDtypeStruct(grid[:1], bool),
        reward=jax.ShapeDtypeStruct(grid[:1], jnp.float32) if "reward" in needs else None,
        logp_proximal=known if corrects else None,
        logp_reference=known if "reference" in needs else None,
    )
    return _by_rows(job, found)


def state(job: Job) -> State:
    """The student as training has it, and its optimizer's moments in the same shards."""
    params = folder.abstract(job.student, job.mesh, trained=True)
    part = job.student.trained(params)
    moments = optax.tree_map_params(
        job.optimizer,
        lambda leaf, like: _shape(leaf, like.sharding),
        jax.eval_shape(job.optimizer.init, part),
        part,
        transform_non_params=lambda leaf: _shape(leaf, sharding.replicated(job.mesh)),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(job.mesh))
    return State(params, moments, step)


def head(job: Job) -> Head | None:
    """The teacher's side of the vocabulary, as an update takes it."""
    if job.teacher is None:
        return None
    model = job.teacher
    grid = (job.rows, job.length, model.width)
    hidden = _by_rows(job, jax.ShapeDtypeStruct(grid, jnp.dtype(model.config.dtype)))
    return Head(hidden, unembedding(job), model.logit_cap, model.tokens)


def teacher_params(job: Job) -> Any:
    """The teacher's parameters, at rest."""
    return folder.abstract(job.teacher, job.mesh)


def unembedding(job: Job) -> Any:
    """The teacher's matrix of the vocabulary; None without one."""
    if job.teacher is None:
        return None
    return teacher_params(job)["embedding" if job.teacher.config.tied else "unembedding"]


def _shape(leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _by_rows(job: Job, tree: Any) -> Any:
    return jax.tree.map(_shape, tree, sharding.batch_shardings(tree, job.mesh))


def _scalar(job: Job, like: Any) -> jax.ShapeDtypeStruct:
    like = jax.eval_shape(lambda: like) if not hasattr(like, "shape") else like
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding.replicated(job.mesh))


# ------------------------------------------------------------------------------------- programs


def lower_rollout(job: Job) -> jax.stages.Lowered:
    """`programs.rollout` of an update."""
    key = _scalar(job, jax.eval_shape(lambda: draws.key(0, 0, "action")))
    params = state(job).params
    return programs.rollout.lower(
        job.mesh, job.student, params, **rows(job), key=key, sampling=job.sampling,
        group_size=job.config.group_size,
    )  # fmt: skip


def lower_teacher(job: Job) -> jax.stages.Lowered:
    """`programs.hidden` of the teacher."""
    return programs.hidden.lower(job.mesh, job.teacher, teacher_params(job), rollout(job))


def lower_update(job: Job) -> jax.stages.Lowered:
    """`programs.update`."""
    return programs.update.lower(
        job.mesh, job.student, job.optimizer, state(job), rollout(job), head(job), job.method,
        job.config.seed, job.scoring, job.config.optimizer.microbatches,
    )  # fmt: skip


LOWERED: Mapping[str, Callable[[Job], jax.stages.Lowered]] = {
    "rollout": lower_rollout,
    "teacher": lower_teacher,
    "update": lower_update,
}


def programs_of(job: Job) -> tuple[str, ...]:
    """Which programs an update runs."""
    return tuple(name for name in LOWERED if name != "teacher" or job.teacher is not None)

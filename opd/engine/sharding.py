"""One table from logical axes to mesh axes; every in- and out-sharding comes from it.

Mesh axes: `data` splits the batch, `fsdp` the batch and the parameters, `tensor` the parameters
and the heads. A laptop is the mesh of one device. A player may say otherwise of its own arrays
(ShardingConfig); rows of a batch are laid the same for all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from opd import processes
from opd.fields import setting
from opd.model.scalar import Scalar
from opd.types import Array, Model, Params, Rules

MESH_AXES = ("data", "fsdp", "tensor")


def _split(*axes: str) -> Any:
    """A field of a table: the axes of the mesh that an axis is split over, one after the other."""
    return setting(axes, choices=MESH_AXES)


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """Over which axes of the mesh a player's arrays are split, by the names of their axes.

    As far as these divide them; what is said otherwise than here must do so. An array is split over
    an axis of the mesh once: the first of its axes that asks has it.
    """

    # Tokens between layers, each for itself; rows are split over the other axes.
    sequence: tuple[str, ...] = setting(("tensor",), choices=("tensor",))
    # Parameters; activations share them.
    vocab: tuple[str, ...] = _split("tensor")
    embed: tuple[str, ...] = _split("fsdp")
    heads: tuple[str, ...] = _split("tensor")  # of queries; keys' lie beside those that read them
    head_dim: tuple[str, ...] = _split()
    mlp: tuple[str, ...] = _split("tensor")
    norm: tuple[str, ...] = _split()
    rank: tuple[str, ...] = _split()  # of an adapter

    def check(self, path: str) -> None:
        """Refuses an axis of the mesh that comes twice.

        Raises:
            ValueError: one line.
        """
        for name, axes in dataclasses.asdict(self).items():
            if len(set(axes)) < len(axes):
                raise ValueError(f"{path}.{name} = {axes}: each axis of the mesh is allowed once")

    @property
    def rules(self) -> Rules:
        """What is said otherwise than usual, as a model has it."""
        return tuple((name, axes) for name, axes in self.table.items() if axes != RULES[name])

    @property
    def table(self) -> dict[str, tuple[str, ...]]:
        """All names and what they mean; a device has the keys that its queries read."""
        return dataclasses.asdict(self) | {"kv_heads": self.heads}


RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "time": (),
    **ShardingConfig().table,
    "expert": (),  # every device has its share of each
    "layers": (),  # a scan takes one after the other
    "state": (),  # a tabular policy's rows
    # stacks of whole trees
    "estimator": (),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, whatever is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(
    devices: Sequence[jax.Device] | None = None, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> Mesh:
    """A mesh of all devices; one of the sizes may be -1, which is whatever is left.

    Raises:
        ValueError: the sizes don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    given = ", ".join(f"{name}={size}" for name, size in sizes.items())
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise ValueError(f"mesh {given}: sizes of at least 1 are allowed, and one -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        sizes[open_axes[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(f"mesh {given}: the sizes must multiply to {len(devices)} devices")
    shape = tuple(sizes[name] for name in MESH_AXES)
    return Mesh(np.asarray(devices).reshape(shape), MESH_AXES)


def spec(
    names: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: Rules = ()
) -> PartitionSpec:
    """How an array of this shape, whose axes have these logical names, lies on the mesh.

    An axis that a mesh axis doesn't divide is not split over it, and an array is split over a
    mesh axis once: the first logical axis that asks for it has it. `rules` are a model's own.

    Raises:
        ValueError: a name that isn't in the table, or not one name for each axis.
    """
    if len(names) != len(shape):
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {shape}")
    unknown = [name for name in names if name is not None and name not in RULES]
    if unknown:
        raise ValueError(f"no rule for axis {unknown[0]!r}: {', '.join(RULES)} are allowed")
    table = RULES | dict(rules)
    taken: set[str] = set()
    parts = []
    for name, size in zip(names, shape, strict=True):
        axes: tuple[str, ...] = ()
        for axis in table[name] if name is not None else ():
            pieces = math.prod(mesh.shape[a] for a in (*axes, axis))
            if axis not in taken and mesh.shape[axis] > 1 and size % pieces == 0:
                axes = (*axes, axis)
        taken.update(axes)
        parts.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*parts)


def gathered(rules: Rules) -> Rules:
    """A model's rules for parameters that meet rows: not split over what rows are split over."""
    table = RULES | dict(rules)
    return tuple(
        (name, tuple(axis for axis in axes if axis not in RULES["batch"]))
        for name, axes in table.items()
        if name != "batch"
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


@functools.cache
def param_shardings(model: Model | Scalar, mesh: Mesh) -> Any:
    """A tree like the parameters, of NamedSharding; nothing is computed or allocated.

    The same tree each time, since every program asks for it: it isn't to be changed.
    """
    return jax.tree.map(
        lambda leaf, names: NamedSharding(mesh, spec(names, leaf.shape, mesh, model.rules)),
        shapes(model, jnp.result_type(float)),
        model.axes(),
    )


def refuse_unsplit(path: str, model: Model | Scalar, mesh: Mesh) -> None:
    """Refuses a model's own rules that its parameters can't be laid by.

    Raises:
        ValueError: one line: the rule, the array, and what is allowed.
    """
    if not model.rules:
        return
    # Key heads that are too few lie where they can, as by the usual rules.
    own = {name: axes for name, axes in model.rules if name != "kv_heads"}
    leaves = jax.tree_util.tree_leaves_with_path(shapes(model, jnp.result_type(float)))
    axes = jax.tree.leaves(model.axes(), is_leaf=lambda each: isinstance(each, tuple))
    for (where, leaf), names in zip(leaves, axes, strict=True):
        laid = spec(names, leaf.shape, mesh, model.rules)
        for name, size, part in zip(names, leaf.shape, laid, strict=True):
            asked = tuple(axis for axis in own.get(name, ()) if mesh.shape[axis] > 1)
            if _axes(part) == asked or name not in own:
                continue
            array = f"{jax.tree_util.keystr(where, simple=True, separator='.')} {leaf.shape}"
            pieces = math.prod(mesh.shape[axis] for axis in asked)
            why = f"{size} is no multiple of {pieces} devices"
            if size % pieces == 0:
                why = f"another of its axes has one of them: {dict(zip(names, laid, strict=True))}"
            raise ValueError(f"{path}.{name} = {own[name]}: not allowed for {array}: {why}")


@functools.cache
def shapes(model: Model | Scalar, widest: np.dtype) -> Params:
    """Shapes and types of a model's parameters.

    They depend on whether JAX has 64 bits: `widest` is `jnp.result_type(float)`. The same tree each
    time; it isn't to be changed.
    """
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))  # nothing is compiled


def row_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are split, where they divide it."""
    return Layout(mesh).pieces("batch")


def batch_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """An array [B, ...] with its rows split over `data` and `fsdp`, as far as they divide B."""
    names = ("batch", *(None,) * (len(shape) - 1)) if shape else ()
    return NamedSharding(mesh, spec(names, shape, mesh))


def batch_shardings(tree: Any, mesh: Mesh) -> Any:
    """`batch_sharding` of every leaf: arrays or their abstract shapes."""
    return jax.tree.map(lambda leaf: batch_sharding(mesh, leaf.shape), tree)


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """A batch put on the mesh, every leaf by its leading axis.

    Every process hands in the whole batch, or what lies on the mesh of all of them already.
    """
    return jax.tree.map(put, tree, batch_shardings(tree, mesh))


def put(array: Any, where: NamedSharding) -> Array:
    """An array laid out; of several processes each lays its own devices' parts.

    Every process hands in an array of the whole shape; of its numbers its own parts are looked at.
    """
    if processes.count() == 1:
        return jax.device_put(array, where)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.jit(_same, out_shardings=where)(array)
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def _same(array: Array) -> Array:
    return array


def own_rows(*arrays: Array) -> tuple[np.ndarray, list[np.ndarray]]:
    """Which rows of arrays [B, ...] lie on this process's devices, [n], and the rows, on the host.

    All arrays are split over their rows, alike.
    """
    if processes.count() == 1:
        return np.arange(len(arrays[0])), [np.asarray(array) for array in arrays]
    found = []
    for array in arrays:
        parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        found.append([(start, np.asarray(parts[start])) for start in sorted(parts)])
    rows = np.concatenate([start + np.arange(len(part)) for start, part in found[0]])
    return rows, [np.concatenate([part for _, part in parts]) for parts in found]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the table says of the arrays inside a program, as `opd.layout` asks it."""

    mesh: Mesh
    rules: Rules = ()  # of whoever asks, where they aren't the usual ones

    def constrain(self, x: Array, names: Sequence[str | None]) -> Array:
        """`constrain`; on a mesh of one device there is nothing to say."""
        return x if self.mesh.size == 1 else constrain(x, names, self.mesh, self.rules)

    def gathered(self, x: Array, names: Sequence[str | None]) -> Array:
        """Likewise, but not split over what rows are split over."""
        return self.ruled(gathered(self.rules)).constrain(x, names)

    def ruled(self, rules: Rules) -> Layout:
        """The same mesh, by a model's own rules."""
        return dataclasses.replace(self, rules=rules)

    def pieces(self, name: str) -> int:
        """Over how many devices an axis of that name is split, where they divide it."""
        return math.prod(self.mesh.shape[axis] for axis in (RULES | dict(self.rules))[name])

    def summed(self, x: Array, names: Sequence[str | None]) -> Array:
        """The sum of x [n, ...] over its first axis, which is split as rows are, n ways.

        A collective by hand: XLA's own would sum it whole, on every device.
        """
        rows = tuple(axis for axis in RULES["batch"] if self.mesh.shape[axis] > 1)
        laid = [_axes(part) for part in spec(names, x.shape[1:], self.mesh, self.rules)]
        scattered = [(at, axis) for at, part in enumerate(laid) for axis in part if axis in rows]
        whole = [tuple(axis for axis in part if axis not in rows) or None for part in laid]

        def meet(part: Array) -> Array:
            part = part[0]
            for at, axis in scattered:
                part = jax.lax.psum_scatter(part, axis, scatter_dimension=at, tiled=True)
            left = tuple(axis for axis in rows if axis not in {axis for _, axis in scattered})
            return jax.lax.psum(part, left) if left else part

        made = [
            (*(before or ()), *(axis for axis in part if axis in rows))
            for before, part in zip(whole, laid, strict=True)
        ]
        total = jax.shard_map(
            meet,
            mesh=self.mesh,
            in_specs=PartitionSpec(rows, *whole),
            out_specs=PartitionSpec(*(part or None for part in made)),
        )(x)
        return total if made == laid else self.constrain(total, names)

    def apart(
        self,
        function: Callable[..., Array],
        arrays: Sequence[Array],
        names: Sequence[Sequence[str | None]],
        summed: str | None = None,
    ) -> Array:
        """function(*arrays) of each device's own parts, laid as the first of them is."""
        if self.mesh.size == 1:
            return function(*arrays)
        rules = gathered(self.rules)  # what rows are split over is taken
        laid = tuple(
            spec(each, x.shape, self.mesh, rules) for x, each in zip(arrays, names, strict=True)
        )
        shared = {
            axis
            for each, parts in zip(names, laid, strict=True)
            for name, part in zip(each, parts, strict=True)
            if name is not None and name == summed
            for axis in _axes(part)
        }

        def whole(*parts: Array) -> Array:
            made = function(*parts)
            return jax.lax.psum(made, tuple(sorted(shared))) if shared else made

        return jax.shard_map(
            whole,
            mesh=self.mesh,
            in_specs=laid,
            out_specs=laid[0],
            check_vma=False,  # a kernel doesn't say over which axes its results differ
        )(*arrays)

    @property
    def devices(self) -> int:
        """How many the mesh has."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """What the mesh's devices are: cpu, gpu, tpu."""
        return self.mesh.devices.flat[0].platform


def _axes(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a spec."""
    if part is None:
        return ()
    return (part,) if isinstance(part, str) else tuple(part)


def constrain(x: Array, names: Sequence[str | None], mesh: Mesh, rules: Rules = ()) -> Array:
    """Inside a jitted function: x, laid on the mesh by the logical names of its axes."""
    where = NamedSharding(mesh, spec(names, x.shape, mesh, rules))
    return jax.lax.with_sharding_constraint(x, where)

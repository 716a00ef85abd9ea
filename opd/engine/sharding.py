"""One table from logical axes to mesh axes; every in- and out-sharding comes from it.

Mesh axes: `data` splits the batch, `fsdp` the batch and the parameters, `tensor` the parameters
and the heads. A laptop is the mesh of one device.
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
from opd.model.scalar import Scalar
from opd.types import Array, Model, Params

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    # activations
    "batch": ("data", "fsdp"),
    "time": (),
    "sequence": ("tensor",),  # between layers, where every token is for itself
    # parameters; activations share them
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
    "expert": (),  # every device has its share of each
    "norm": (),
    "rank": (),  # of an adapter
    "layers": (),
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


def spec(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """How an array of this shape, whose axes have these logical names, lies on the mesh.

    An axis that a mesh axis doesn't divide is not split over it, and an array is split over a
    mesh axis once: the first logical axis that asks for it has it.

    Raises:
        ValueError: a name that isn't in the table, or not one name for each axis.
    """
    if len(names) != len(shape):
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {shape}")
    unknown = [name for name in names if name is not None and name not in RULES]
    if unknown:
        raise ValueError(f"no rule for axis {unknown[0]!r}: {', '.join(RULES)} are allowed")
    taken: set[str] = set()
    parts = []
    for name, size in zip(names, shape, strict=True):
        axes: tuple[str, ...] = ()
        for axis in RULES[name] if name is not None else ():
            pieces = math.prod(mesh.shape[a] for a in (*axes, axis))
            if axis not in taken and mesh.shape[axis] > 1 and size % pieces == 0:
                axes = (*axes, axis)
        taken.update(axes)
        parts.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*parts)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


@functools.cache
def param_shardings(model: Model | Scalar, mesh: Mesh) -> Any:
    """A tree like the parameters, of NamedSharding; nothing is computed or allocated.

    The same tree each time, since every program asks for it: it isn't to be changed.
    """
    return jax.tree.map(
        lambda leaf, names: NamedSharding(mesh, spec(names, leaf.shape, mesh)),
        shapes(model, jnp.result_type(float)),
        model.axes(),
    )


@functools.cache
def shapes(model: Model | Scalar, widest: np.dtype) -> Params:
    """Shapes and types of a model's parameters.

    They depend on whether JAX has 64 bits: `widest` is `jnp.result_type(float)`. The same tree each
    time; it isn't to be changed.
    """
    return jax.eval_shape(model.init, jax.random.key(0))


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

    def constrain(self, x: Array, names: Sequence[str | None]) -> Array:
        """`constrain`; on a mesh of one device there is nothing to say."""
        return x if self.mesh.size == 1 else constrain(x, names, self.mesh)

    def pieces(self, name: str) -> int:
        """Over how many devices an axis of that name is split, where they divide it."""
        return math.prod(self.mesh.shape[axis] for axis in RULES[name])

    def summed(self, x: Array, names: Sequence[str | None]) -> Array:
        """The sum of x [n, ...] over its first axis, which is split as rows are, n ways.

        A collective by hand: XLA's own would sum it whole, on every device.
        """
        rows = tuple(axis for axis in RULES["batch"] if self.mesh.shape[axis] > 1)
        laid = [_axes(part) for part in spec(names, x.shape[1:], self.mesh)]
        scattered = [(at, axis) for at, part in enumerate(laid) for axis in part if axis in rows]
        whole = [tuple(axis for axis in part if axis not in rows) or None for part in laid]

        def meet(part: Array) -> Array:
            part = part[0]
            for at, axis in scattered:
                part = jax.lax.psum_scatter(part, axis, scatter_dimension=at, tiled=True)
            left = tuple(axis for axis in rows if axis not in {axis for _, axis in scattered})
            return jax.lax.psum(part, left) if left else part

        return jax.shard_map(
            meet,
            mesh=self.mesh,
            in_specs=PartitionSpec(rows, *whole),
            out_specs=PartitionSpec(*(part or None for part in laid)),
        )(x)

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
        laid = tuple(spec(each, x.shape, self.mesh) for x, each in zip(arrays, names, strict=True))
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


def constrain(x: Array, names: Sequence[str | None], mesh: Mesh) -> Array:
    """Inside a jitted function: x, laid on the mesh by the logical names of its axes."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(names, x.shape, mesh)))

"""This process's compiler: whether its sums can be trusted, and what it has compiled before."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# Rollouts, tokens and width from which on a jaxlib with the fault shows it.
SIZE = (64, 100, 128)
# Linux lets a process have 65,530 memory maps, and every compiled program takes some: one that
# keeps all that it has compiled dies of a segmentation fault.
MAPS, MOST_MAPS = Path("/proc/self/maps"), 25_000
CPU = Path("/proc/cpuinfo")
LEAST_FREE = 64 * 2**20  # bytes of a disk that programs are kept on: those of one run, roughly
# JAX's settings of what is kept; a variable of that name in capitals gives each.
WHERE, WHETHER = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def make_room() -> None:
    """Drops what was compiled for earlier runs of this process, once that is much.

    A run in progress loses nothing but time: what it needs is compiled again, or read from the
    cache on disk.
    """
    if not MAPS.exists():
        return
    with MAPS.open("rb") as file:
        many = sum(1 for _ in file) > MOST_MAPS
    if many:
        jax.clear_caches()
        gc.collect()


def keep_compiled() -> str:
    """Keeps compiled programs on the disk, for the next start; what is to be said of it, one line.

    Where, and whether at all, JAX's own variables say: JAX_COMPILATION_CACHE_DIR and
    JAX_ENABLE_COMPILATION_CACHE. Without them it is `folder()`, if that can be written to. Small
    programs are kept too, since a run has many: JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS.
    """
    where = getattr(jax.config, WHERE)
    if not getattr(jax.config, WHETHER):
        return "compiled programs are not kept: JAX_ENABLE_COMPILATION_CACHE says so"
    if where == "":
        return "compiled programs are not kept: JAX_COMPILATION_CACHE_DIR is empty"
    if where is None:
        try:
            where = str(folder())
            refused = _refused(Path(where))
        except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home
            refused = getattr(error, "strerror", None) or str(error)
        if refused:
            return f"compiled programs are not kept: {where or 'no folder'} ({refused})"
        jax.config.update(WHERE, where)
    if LEAST_SECONDS.upper() not in os.environ:
        jax.config.update(LEAST_SECONDS, 0.0)
    return f"compiled programs are kept in {where}"


def folder() -> Path:
    """Where compiled programs are kept: opd/jax in XDG_CACHE_HOME, or in ~/.cache.

    Each kind of processor has a folder of its own: what was compiled for one can crash another.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = given if given.is_absolute() else Path.home() / ".cache"
    lines = CPU.read_text().splitlines() if CPU.exists() else [platform.processor()]
    can = sorted({line for line in lines if line.startswith(("flags", "Features"))}) or lines[:1]
    digest = hashlib.sha256("\n".join(can).encode()).hexdigest()[:8]
    return cache / "opd" / "jax" / f"{platform.machine()}-{digest}"


def _refused(where: Path) -> str | None:
    """Why nothing can be kept in a folder, if so.

    Raises:
        OSError: likewise.
    """
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=where):
        pass
    free = shutil.disk_usage(where).free
    return f"{free >> 20} MiB are free" if free < LEAST_FREE else None


def check() -> None:
    """Compares the compiled pull-back of a norm, for three cotangents at once, with NumPy's.

    With r = (mean x^2)^(-1/2), the pull-back of x r is c r - x r^3 mean(c x). Importing `opd`
    sets a flag that a faulty jaxlib needs (`opd/__init__.py`); it comes too late where JAX has
    computed before, and a flag set by hand comes before it.

    Raises:
        ValueError: the two differ.
    """

    def norm(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))

    generator = np.random.default_rng(0)
    x = generator.standard_normal(SIZE, np.float32)
    cotangents = generator.standard_normal((3, *SIZE), np.float32)

    @jax.jit
    def compiled(x: jax.Array, cotangents: jax.Array) -> jax.Array:
        _, pull = jax.vjp(norm, x)
        return jax.vmap(pull)(cotangents)[0]

    inverse = 1 / np.sqrt(np.mean(np.square(x), -1, keepdims=True))
    along = np.mean(cotangents * x, -1, keepdims=True)
    expected = cotangents * inverse - x * inverse**3 * along
    off = float(np.max(np.abs(np.asarray(compiled(x, cotangents)) - expected)))
    if not off < 1e-3:  # 1e-6 is rounding, and the fault is of order 1
        raise ValueError(
            f"this jaxlib compiles wrong sums on {jax.default_backend()} (a norm's gradient is off "
            f"by {off:.2g}): no number can be trusted\n"
            "import opd before JAX computes anything, with no xla_cpu_experimental_ynn_fusion_type "
            "in XLA_FLAGS (jax-ml/jax issue 39103)"
        )

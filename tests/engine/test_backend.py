"""The compiler's sums: what `import opd` sets, and what is said where they are wrong."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from opd.engine import backend

FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def test_this_process_adds_up():
    backend.check()


def test_a_wrong_sum_is_refused(monkeypatch):
    mean = jnp.mean
    monkeypatch.setattr(jnp, "mean", lambda *args, **kwargs: 1.01 * mean(*args, **kwargs))
    with pytest.raises(ValueError, match="wrong sums") as caught:
        backend.check()
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, f"{FLAG}="),
        ("--xla_dump_to=/nowhere", f"--xla_dump_to=/nowhere {FLAG}="),
        (f"{FLAG}=LIBRARY_FUSION_TYPE_REDUCE", f"{FLAG}=LIBRARY_FUSION_TYPE_REDUCE"),
    ],
)
def test_importing_opd_adds_to_the_flags_and_keeps_the_users(before, after):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    if before is not None:
        environment["XLA_FLAGS"] = before
    code = "import os, opd; print(os.environ['XLA_FLAGS'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == after


def test_what_was_compiled_is_dropped_once_it_is_much(monkeypatch):
    """Counted by what is compiled: the function's own programs are gone, or still there."""
    double = jax.jit(lambda x: 2 * x)
    double(1.0)
    monkeypatch.setattr(backend, "MOST_MAPS", 10**9)
    backend.make_room()
    assert double._cache_size() == 1
    monkeypatch.setattr(backend, "MOST_MAPS", 0)
    backend.make_room()
    assert double._cache_size() == 0
    assert double(2.0) == 4.0

"""Every test runs on eight fake CPU devices, with JAX's strict modes on.

JAX_PLATFORMS is set in the environment, so that subprocesses stay on the CPU too; the number of
devices is not, so that a command started by a test sees one device, as on a laptop.
"""

import itertools
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis
import jax
import pytest

from opd.engine import backend

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on every run. HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    # The first example of a test compiles; the fixtures here are the same for all examples.
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("default"), derandomize=False, max_examples=500
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def programs_are_let_go():
    """Compiled programs are dropped once there are many; the cache on disk has them."""
    yield
    if next(TESTS) % 10 == 0:
        backend.make_room()


METHOD_TESTS = Path(__file__).parent / "method"


@pytest.fixture
def x64():
    """64-bit JAX within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tracer_leaks():
    """Tracer leaks are errors within one test, which then compiles everything anew."""
    with jax.checking_leaks():
        yield


@pytest.fixture(autouse=True)
def tracer_leaks_in_method(request):
    """The time axis and the vocabulary axis are small pure functions: leaks are always checked."""
    if request.path.is_relative_to(METHOD_TESTS):
        request.getfixturevalue("tracer_leaks")

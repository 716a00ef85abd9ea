"""What a start takes: --help without the heavy rest, programs compiled before, no network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from opd.engine import backend

ROOT = Path(__file__).parent.parent
COMMANDS = ("claims", "compare", "evaluate", "export", "generate", "sweep", "train")
HEAVY = ("jax", "flax", "orbax", "grain", "tensorflow_datasets", "tensorboardX", "torch", "rich")

# --- imports ------------------------------------------------------------------------------------

HELPED = """
import runpy, sys
sys.argv = ["command", "--help"]
try:
    name = sys.stdin.read().replace("claims", "claims.__main__")
    runpy.run_module("experiments." + name, run_name="__main__", alter_sys=True)
except SystemExit as left:
    print("left with", left.code)
print(*sys.modules, file=sys.stderr)
"""


def tops(text):
    return {name.partition(".")[0] for name in text.split()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_nothing_heavy(command):
    done = subprocess.run(
        [sys.executable, "-c", HELPED], input=command, capture_output=True, text=True, cwd=ROOT
    )
    assert f"python -m experiments.{command}" in done.stdout and "left with 0" in done.stdout
    assert "--config" in done.stdout or command == "claims"  # a flag that all others have
    assert tops(done.stderr) & {*HEAVY} == set()


def test_a_training_imports_no_other_framework():
    code = "import opd.run.training.train, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "jax" in tops(done.stdout)
    assert tops(done.stdout) & {"torch", "tensorflow", "tensorboardX", "matplotlib"} == set()


# --- compiled programs --------------------------------------------------------------------------

KEYS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """JAX as if none of its variables were set, and a folder for caches."""
    before = {key: getattr(jax.config, key) for key in KEYS}
    for key, value in zip(KEYS, (None, True, 1.0), strict=True):
        monkeypatch.delenv(key.upper(), raising=False)
        jax.config.update(key, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for key, value in before.items():
        jax.config.update(key, value)


def test_programs_are_kept_in_a_folder_of_ours_unless_jax_was_told_another(fresh):
    assert backend.keep_compiled() == f"compiled programs are kept in {backend.folder()}"
    assert backend.folder().parent == fresh / "opd" / "jax" and not [*backend.folder().iterdir()]
    assert jax.config.jax_compilation_cache_dir == str(backend.folder())
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    assert backend.keep_compiled() == "compiled programs are kept in elsewhere"
    assert jax.config.jax_compilation_cache_dir == "elsewhere"


def test_a_least_time_that_jax_was_told_stays(fresh, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    backend.keep_compiled()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1


def test_a_processor_of_another_kind_has_another_folder(fresh, monkeypatch, tmp_path):
    """What it can do counts, not how fast it runs at the moment."""
    names = []
    for text in ("flags : avx\nMHz : 1", "flags : avx\nMHz : 2\nflags : avx", "flags : avx2", "x"):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(backend, "CPU", tmp_path / "cpuinfo")
        names.append(backend.folder().name)
    assert names[0] == names[1] and len({*names}) == 3


@pytest.mark.parametrize("given", ["", "relative/cache"])
def test_a_cache_that_xdg_does_not_allow_is_in_the_home_folder(fresh, monkeypatch, given):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", str(fresh / "home"))
    assert backend.folder().parent == fresh / "home" / ".cache" / "opd" / "jax"


def full(folder):
    return shutil._ntuple_diskusage(10**9, 10**9 - 2**20, 2**20)


def nobody():
    raise RuntimeError("Could not determine home directory.")


OFF = {
    "turned off": lambda patch: jax.config.update("jax_enable_compilation_cache", False),
    "emptied": lambda patch: jax.config.update("jax_compilation_cache_dir", ""),
    "full": lambda patch: patch.setattr(shutil, "disk_usage", full),
    "in a file": lambda patch: patch.setenv("XDG_CACHE_HOME", __file__),
    "nobody's": lambda patch: patch.setattr(backend, "folder", nobody),
}
REASONS = {
    "turned off": "JAX_ENABLE_COMPILATION_CACHE says so",
    "emptied": "JAX_COMPILATION_CACHE_DIR is empty",
    "full": "(1 MiB are free)",
    "in a file": "(Not a directory)",
    "nobody's": "no folder (Could not determine home directory.)",
}


@pytest.mark.parametrize("how", OFF)
def test_without_a_folder_nothing_is_kept_and_that_is_said(fresh, monkeypatch, how):
    OFF[how](monkeypatch)
    before = jax.config.jax_compilation_cache_dir
    said = backend.keep_compiled()
    assert said.startswith("compiled programs are not kept: ") and REASONS[how] in said
    assert "\n" not in said and jax.config.jax_compilation_cache_dir == before


# --- whole starts -------------------------------------------------------------------------------

# Whoever looks up a name or connects to anything but this machine is refused, and noted: callers
# may swallow the refusal.
OFFLINE = """
import os, sys

def refuse(event, arguments):
    address = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0}.get(event)
    if address is None:
        return
    to = arguments[address]
    host = to[0] if isinstance(to, tuple) else to
    if isinstance(to, (str, bytes)) and event != "socket.getaddrinfo":  # a socket of this machine
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["DIALLED"], "a") as file:
            print(event, host, file=file)
        raise OSError(f"no network here: {host}")

sys.addaudithook(refuse)
"""


def offline(folder, *arguments, **variables):
    """A command that is refused the network; what came of it, and whom it called."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(OFFLINE)
    (folder / "dialled").write_text("")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment |= {"DIALLED": str(folder / "dialled"), "PYTHONPATH": str(folder)} | variables
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done, (folder / "dialled").read_text().splitlines()


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('192.0.2.1', 80))",
        "socket.getaddrinfo('example.invalid', 80)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "urllib.request.urlopen('http://example.invalid')",
    ],
)
def test_a_call_is_noticed_even_where_its_refusal_is_swallowed(call, tmp_path):
    code = f"import socket, urllib.request\ntry: {call}\nexcept OSError: print('swallowed')"
    done, dialled = offline(tmp_path / "offline", "-c", code)
    assert done.stdout == "swallowed\n" and len(dialled) == 1, done.stderr


@pytest.mark.slow
def test_a_second_start_compiles_nothing_ends_the_same_and_neither_calls_anybody(tmp_path):
    """Two trainings alike, of which the second finds what the first compiled."""

    def started(name):
        flags = (f"--workdir={tmp_path / name}", "--config.updates=2")
        done, dialled = offline(
            tmp_path / "offline", "-m", "experiments.train", "--config=configs/debug.py", *flags,
            JAX_PLATFORMS="cpu", XDG_CACHE_HOME=str(tmp_path / "cache"),
        )  # fmt: skip
        assert done.returncode == 0 and dialled == [], done.stderr
        assert done.stderr.count(f"compiled programs are kept in {tmp_path / 'cache'}") == 1
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*-cache")}
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        numbers = [json.loads(line) for line in lines]
        for line in numbers:
            for key in ("seconds", "tokens_per_second", "flops_per_second"):
                line.pop(key)
        return json.loads(done.stdout)["params_sha256"], numbers, kept

    first, again = started("first"), started("again")
    assert len(first[2]) > 20 and first == again

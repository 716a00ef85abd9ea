"""The core stands on jax, flax, optax, chex and numpy alone.

Two checks: no file of the core names another distribution, anywhere in it; and every module of
the core is imported by an interpreter that sees only those five and what they require themselves.
"""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = {"jax", "flax", "optax", "chex", "numpy"}
NAMES = {"jax", "flax", "optax", "chex", "numpy", "opd", *sys.stdlib_module_names}
ROOMS = ("method", "model", "measure", "engine")
CORE = sorted(
    [path for path in (ROOT / "opd").glob("*.py")]
    + [path for room in ROOMS for path in (ROOT / "opd" / room).rglob("*.py")]
)
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in CORE
]

# Run in a fresh interpreter: argv is the hidden names, comma-separated, then the modules.
CHILD = """
import importlib, sys

hidden = set(sys.argv[1].split(","))

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)

sys.meta_path.insert(0, Hide())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def foreign(source: str) -> set[str]:
    """Top-level names that a source imports and the core may not."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names - NAMES


def closure(distributions: set[str]) -> set[str]:
    """The distributions and what they require in this environment, extras left out."""
    seen, todo = set(), [canonicalize_name(name) for name in distributions]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # required by name only, never imported
            continue
        for requirement in map(Requirement, lines):
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(requirement.name))
    return seen


def hidden_names() -> set[str]:
    """Importable names that belong to installed distributions outside the closure alone."""
    kept = closure(DISTRIBUTIONS) | {"opd"}
    return {
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if not any(canonicalize_name(owner) in kept for owner in owners)
    }


def import_with_hidden(hidden: set[str], modules: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", CHILD, ",".join(sorted(hidden)), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("path", CORE, ids=MODULES)
def test_core_names_no_other_distribution(path):
    assert foreign(path.read_text()) == set()


def test_core_imports_with_everything_else_uninstalled():
    done = import_with_hidden(hidden_names(), MODULES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["tensorflow_datasets", "grain", "ml_collections", "matplotlib"])
def test_what_is_hidden_cannot_be_imported(name):
    hidden = hidden_names()
    assert name in hidden
    assert not hidden & {"jax", "flax", "optax", "chex", "numpy", "opd"}
    done = import_with_hidden(hidden, [name])
    assert done.returncode == 1 and f"No module named '{name}' (hidden)" in done.stderr


def test_foreign_names_are_seen_wherever_they_stand():
    source = "import jax, grain.python\ndef f():\n    from rich.table import Table\nfrom . import x"
    assert foreign(source) == {"grain", "rich"}

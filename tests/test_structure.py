"""The floors and rooms of the package, and docstrings on its public names."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "types": 0,
    "disk": 0,
    "fields": 0,
    "processes": 0,
    "masked": 0,
    "trees": 0,
    "draws": 0,
    "layout": 0,
    "method": 1,
    "model": 1,
    "measure": 1,
    "data": 1,
    "engine": 2,
    "report": 2,
    "run": 3,
}
# Rooms of the run floor, bottom to top: a room imports from itself and from lower ones.
RUN = (
    "drawing",
    "store",
    "players",
    "rollouts",
    "probe",
    "settings",
    "training",
    "comparing",
    "sweeping",
)
ABOVE = {"experiments", "configs", "tests"}
# What judges the rest shares no code with it: these import nothing of ours, and of others' this.
ORACLES = {"opd.measure.exact": {"numpy"}, "opd.measure.losses": {"numpy", "jax"}}
SOURCES = sorted((ROOT / "opd").rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name of a file of the repository; a package's own name for __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, is_package: bool = False) -> list[str]:
    """Dotted names that a module imports, anywhere in it, relative imports resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def room(name: str) -> str:
    """opd.method.returns -> method; the package itself -> ''."""
    return (name.split(".") + [""])[1]


def misplaced(module: str, name: str) -> str | None:
    """What is wrong with an import within the run floor, if anything."""
    here, there = (f"{dotted}..".split(".")[2] for dotted in (module, name))
    for one, dotted in ((here, module), (there, name)):
        if one and one not in RUN:
            return f"{module}: {dotted} is in no room of the run floor; rooms: {', '.join(RUN)}"
    if not here or not there:
        return f"{module} imports {name}; the run floor itself is empty"
    if RUN.index(there) > RUN.index(here):
        return f"{module} imports {name}, a room above its own"
    return None


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module of `opd` imports though its floor or its room forbids it, one line each."""
    here = room(module)
    if here and here not in FLOORS:
        return [f"{module}: {here!r} is on no floor; floors: {sorted(FLOORS)}"]
    found = []
    for name in imported(source, module, is_package):
        top, there = name.split(".")[0], room(name)
        if top in ABOVE:
            found.append(f"{module} imports {name}, which stands above the package")
        elif top != "opd":
            continue
        elif module in ORACLES:
            found.append(f"{module} imports {name}; an oracle imports nothing of ours")
        elif there not in FLOORS:
            found.append(f"{module} imports {name}, which names no room")
        elif not here:
            found.append(f"{module} imports {name}; importing the package imports no room")
        elif not (there == here or FLOORS[there] < FLOORS[here] or FLOORS[there] == 0):
            found.append(f"{module} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})")
        elif here == there == "run" and (wrong := misplaced(module, name)):
            found.append(wrong)
    return found


def imports(sources: dict[str, str], packages: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """Which modules each of them imports, of those that are among them."""
    found: dict[str, set[str]] = {}
    for module, source in sources.items():
        found[module] = set()
        for name in imported(source, module, module in packages):
            while name and name not in sources:
                name = name.rpartition(".")[0]
            if name:
                found[module].add(name)
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in order; none where there is no circle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def undocumented(source: str) -> list[str]:
    """Public top-level functions and classes without a docstring; `module` if that has none.

    Of overloads the implementation has it.
    """
    tree = ast.parse(source)
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and "overload" not in map(ast.unparse, node.decorator_list)
    ]
    found = [] if ast.get_docstring(tree) else ["module"]
    return found + [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_keep_to_floors_and_rooms(path):
    found = violations(path.read_text(), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_no_files_import_each_other_in_a_circle():
    sources = {module_name(path): path.read_text() for path in SOURCES}
    packages = frozenset(module_name(path) for path in SOURCES if path.name == "__init__.py")
    assert circle(imports(sources, packages)) == []


def test_every_room_of_the_run_floor_is_there():
    there = {path.stem for path in (ROOT / "opd" / "run").iterdir() if path.stem[0] != "_"}
    assert there == set(RUN)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_public_names_have_docstrings(path):
    assert undocumented(path.read_text()) == []


@pytest.mark.parametrize("module", ORACLES)
def test_an_oracle_stands_alone(module):
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    outside = {name.split(".")[0] for name in imported(source, module)}
    assert outside <= ORACLES[module] | sys.stdlib_module_names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("opd.types", "from opd.method import table"),
        ("opd.method.returns", "import opd.model.decoder"),
        ("opd.method.returns", "from ..measure import exact"),
        ("opd.method.returns", "def f():\n    from opd import data"),
        ("opd.model.decoder", "from opd.engine.vocab import stats"),
        ("opd.measure.intervals", "from opd.report import page"),
        ("opd.measure.exact", "from opd.types import Rollout"),
        ("opd.measure.exact", "from . import intervals"),
        ("opd.measure.losses", "from opd.measure import exact"),
        ("opd.data.pipeline", "import numpy, opd.method.table as t"),
        ("opd.engine.steps", "import opd.run.training.train"),
        ("opd.run.training.train", "from experiments import compare"),
        ("opd.run.training.train", "import opd"),
        ("opd.run.drawing", "from opd.run.store import checkpoint"),
        ("opd.run.players.players", "from opd.run.rollouts.rewards import RewardConfig"),
        ("opd.run.probe.probe", "def f():\n    from ..settings import config"),
        ("opd.run.training.train", "from opd.run.comparing import compare"),
        ("opd.run.training.train", "from opd.run import comparing"),
        ("opd.run.training.train", "from opd import run"),
        ("opd.run.training.train", "from opd.run.cellar import wine"),
        ("opd.run.cellar.wine", "from opd.run import drawing"),
        ("opd", "from opd import types"),
        ("opd.utils", "import jax"),
    ],
)
def test_the_checker_reports_what_is_forbidden(module, source):
    (found,) = violations(source, module)
    assert module in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("opd.trees", "from opd.types import Array"),
        ("opd.method.table", "from opd.method import local\nfrom . import returns\nimport jax"),
        ("opd.method.table", "from .. import masked\nfrom ..types import Rollout"),
        ("opd.measure.exact", "import math\nimport numpy as np"),
        ("opd.engine.steps", "from opd import masked, method\nfrom opd.model.decoder import apply"),
        (
            "opd.run.training.train",
            "from opd.data import pipeline\nfrom opd.run.settings import config",
        ),
    ],
)
def test_the_checker_lets_the_rest_pass(module, source):
    assert violations(source, module) == []


def test_a_circle_is_found_wherever_it_closes():
    sources = {
        "opd.a": "from opd import b",
        "opd.b": "from opd.c import name",
        "opd.c": "def f():\n    import opd.a",
    }
    assert set(circle(imports(sources))) == set(sources)
    assert circle(imports(sources | {"opd.c": "import numpy\nfrom opd.d import name"})) == []


def test_relative_imports_are_resolved():
    assert imported("from . import a\nfrom ..b import c", "opd.method.table") == [
        "opd.method.a",
        "opd.b.c",
    ]
    assert imported("from .a import b", "opd.method", is_package=True) == ["opd.method.a.b"]


def test_the_checker_reports_missing_docstrings():
    source = "def f(): ...\nclass C: ...\ndef _g(): ...\ndef h():\n    'Yes.'\n"
    assert undocumented(source) == ["module", "f", "C"]
    assert undocumented("'Module.'") == []
    assert undocumented("'Module.'\n@overload\ndef f(): ...\ndef f():\n    'Yes.'\n") == []

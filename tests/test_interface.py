"""What `opd` offers by name: documented by examples that run, typed, and light to import."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import opd

ROOT = Path(__file__).parent.parent
FINDER = doctest.DocTestFinder(recurse=False)


def examples(thing, name, module):
    """The doctest of one docstring, its names those of the module that has it."""
    (found,) = FINDER.find(thing, name, module=module, globs=dict(vars(module)))
    return found


def documented(name):
    """What has the docstring of a name: of the room that is called, its call."""
    thing = getattr(opd, name)
    return type(thing).__call__ if inspect.ismodule(thing) else thing


def failures(test):
    """How many of its examples fail, and what was said of them."""
    said = []
    found = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(
        test, out=said.append
    )
    return found.failed, "".join(said)


def test_the_worked_example_of_the_package_holds():
    """Own logits, own estimator, its bias: as it stands at the top of `opd/__init__.py`."""
    test = examples(opd, "opd", opd)
    assert 15 <= len(test.examples) <= 25
    assert failures(test) == (0, "")


@pytest.mark.parametrize("name", opd.__all__)
def test_every_name_has_an_example_that_holds(name):
    thing = documented(name)
    test = examples(thing, name, sys.modules[opd._HOMES[name]])
    assert test.examples, f"{opd._HOMES[name]}.{name} needs a doctest"
    assert failures(test) == (0, "")


@pytest.mark.parametrize("name", opd.__all__)
def test_every_function_says_what_it_takes_gives_and_refuses(name):
    thing = documented(name)
    said = inspect.getdoc(thing)
    if inspect.isfunction(thing):
        assert "Raises:" in said or name == "logits"
        for argument in inspect.signature(thing).parameters.keys() - {"self"}:
            assert argument in said, f"{name} does not say what {argument} is"


def test_a_failing_example_is_seen():
    def wrong():
        """
        >>> 1 + 1
        3
        """

    number, said = failures(examples(wrong, "wrong", sys.modules[__name__]))
    assert number == 1 and "Expected:\n    3" in said


def test_type_checkers_see_the_same_names_in_the_same_places():
    tree = ast.parse((ROOT / "opd" / "__init__.pyi").read_text())
    places = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert places == {name: home for name, home in opd._HOMES.items() if name != "method"}
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(listed) == opd.__all__ == sorted(opd.__all__)


def test_only_the_room_that_is_called_has_the_name_of_a_room():
    """A room that is imported becomes an attribute, and takes the place of what has its name."""
    rooms = {path.stem for path in (ROOT / "opd").iterdir()}
    assert rooms & set(opd.__all__) == {"method"}
    assert opd.method is importlib.import_module("opd.method")
    assert opd.method("opd", gamma=0.5) == opd.method.table.parse("opd@gamma=0.5")
    with pytest.raises(ValueError, match="unknown method 'gpro'"):
        opd.method("gpro")


def test_importing_the_package_imports_no_room():
    code = (
        "import sys, opd; dir(opd)\n"
        "assert not [m for m in sys.modules if m.startswith('opd.') or m == 'jax']\n"
        "opd.Rollout\n"
        "assert 'opd.types' in sys.modules and 'opd.engine' not in sys.modules\n"
        "from opd import *\n"
        "assert gradient is opd.gradient\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'gradients'"):
        _ = opd.gradients

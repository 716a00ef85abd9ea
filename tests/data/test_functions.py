"""A user's own functions: found, known by their files, held to a finite number."""

import decimal
import fractions
import functools
import importlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from opd.data import functions

SOURCE = """
import asyncio, functools
def f(a, b): return 1
def one(a): return 1
def more(a, b, c, d=1): return 1
def any_(*arguments, c=1): return 1
def keyword(a, b, *, c): return 1
async def later(a, b): return 1
def many(a, b): yield 1
class Grader:
    def __init__(self, a, b): pass
    def __call__(self, a, b): return 1
made = Grader(1, 2)
partial = functools.partial(more, 1)
lambda_ = lambda a, b: 1
number = 3
builtin = max
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes the module own_functions of the current folder, and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        sys.modules.pop("own_functions", None)
        (tmp_path / "own_functions.py").write_text(text)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("own_functions", None)


@pytest.mark.parametrize("name", ["f", "any_", "made", "partial", "lambda_", "builtin"])
def test_what_can_be_called_with_its_arguments_is_taken(module, name):
    module(SOURCE)
    function = functions.imported("key", f"own_functions:{name}", "a, b")
    assert function is getattr(sys.modules["own_functions"], name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "own_functions has no nothing"),
        ("number", "it is a int, allowed is a function"),
        ("Grader", "it is a class, allowed is a function"),
        ("later", "it is async or a generator, allowed is a function with a result"),
        ("many", "it is async or a generator, allowed is a function with a result"),
        ("one", "it is called as f(a, b), and that fails (too many positional arguments)"),
        ("more", "it is called as f(a, b), and that fails (missing a required argument: 'c')"),
        ("keyword", "it is called as f(a, b), and that fails (missing a required"),
    ],
)
def test_what_cannot_be_called_is_refused_in_one_line(module, name, message):
    module(SOURCE)
    with pytest.raises(ValueError) as error:
        functions.imported("key", f"own_functions:{name}", "a, b")
    assert str(error.value).startswith(f"key = 'own_functions:{name}': {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("exit(0)", "SystemExit: 0")],
)
def test_a_module_that_cannot_be_imported_is_refused(module, text, reason):
    module(text)
    with pytest.raises(ValueError, match=rf"own_functions cannot be imported \({reason}"):
        functions.imported("key", "own_functions:f", "a")


@pytest.mark.parametrize("name", ["f", "made", "partial", "builtin"])
def test_another_text_is_another_digest(module, name):
    digests = set()
    for text in (SOURCE, SOURCE + "#"):
        module(text)
        digests.add(functions.digest("key", f"own_functions:{name}"))
    assert len(digests) == 2 and {len(digest) for digest in digests} == {64}


NUMBERS = [True, 2, -0.5, np.float64(2), np.bool_(1), np.int8(3), np.array(2.0), jnp.float32(3)]
NUMBERS += [jnp.bfloat16(3), fractions.Fraction(1, 2), decimal.Decimal("0.25")]
OTHERS = [None, "1", b"1", [1], (1,), {}, 1j, np.ones(1), np.array("1"), np.complex64(1), object()]
OTHERS += [float("nan"), float("inf"), -1e39, 10**400, np.float64("nan"), decimal.Decimal("nan")]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_any_kind_of_number_is_one(value):
    reward = functions.reward("grader", lambda: value)
    assert reward == float(value) and type(reward) is float


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:20])
def test_anything_else_is_refused(value):
    with pytest.raises(functions.RewardError, match="^grader, prompt 'p': returned .*; allowed is"):
        functions.reward("grader", lambda: value, prompt="p")


@pytest.mark.parametrize(
    "error", [KeyError("a\nb"), SystemExit(3), TimeoutError(), AssertionError()]
)
def test_what_is_raised_is_said_on_one_line(error):
    def fail(text):
        raise error

    with pytest.raises(functions.RewardError) as said:
        functions.reward("grader", functools.partial(fail, "a"), prompt="p")
    assert str(said.value).startswith(f"grader, prompt 'p': raised {type(error).__name__}")
    assert "\n" not in str(said.value)

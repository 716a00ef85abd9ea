"""A user's own functions, MODULE:NAME: found, known by their files, held to a finite number."""

from __future__ import annotations

import contextlib
import decimal
import hashlib
import importlib
import inspect
import numbers
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


class RewardError(RuntimeError):
    """What a run can't be graded by: found out only as it graded."""


# --- found ---------------------------------------------------------------------------------------


def imported(key: str, name: str, called: str) -> Callable:
    """The function of MODULE:NAME; modules of the current folder are found, as with -m.

    `called` names the arguments that it will get: "completion, answer".

    Raises:
        ValueError: no such module or name, nothing to call, or nothing to call with those.
    """
    _, function = _found(key, name)
    what = f"{key} = {name!r}"
    later = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(test(function) for test in later):
        raise ValueError(f"{what}: it is async or a generator, allowed is a function with a result")
    if inspect.isclass(function):
        raise ValueError(f"{what}: it is a class, allowed is a function")
    try:
        inspect.signature(function).bind(*called.split(", "))
    except ValueError:  # a builtin that doesn't say
        pass
    except TypeError as error:
        raise ValueError(f"{what}: it is called as f({called}), and that fails ({error})") from None
    return function


def _found(key: str, name: str) -> tuple[ModuleType, Callable]:
    """The module and the function of MODULE:NAME."""
    what = f"{key} = {name!r}"
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{what}: allowed is MODULE:NAME")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module raises what it likes
        raise ValueError(f"{what}: {module_name} cannot be imported ({_line(error)})") from None
    if not hasattr(module, attribute):
        raise ValueError(f"{what}: {module_name} has no {attribute}")
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"{what}: it is a {type(function).__name__}, allowed is a function")
    return module, function


def _line(error: BaseException) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# --- known ---------------------------------------------------------------------------------------


def digest(key: str, name: str) -> str:
    """SHA-256 over the files of MODULE:NAME: where it is taken from and where it is written.

    What these import is not looked at.

    Raises:
        ValueError: what `imported` refuses, or a file that can't be read.
    """
    module, function = _found(key, name)
    files = {getattr(module, "__file__", None)}
    for thing in (inspect.unwrap(function), type(function)):
        with contextlib.suppress(TypeError, OSError):  # no source of its own: a builtin
            files.add(inspect.getsourcefile(thing))
    files.discard(None)
    return hashlib.sha256("".join(sorted(map(sha256, files))).encode()).hexdigest()


def sha256(file: str) -> str:
    """The digest of a file's content.

    Raises:
        ValueError: it can't be read.
    """
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None


# --- called --------------------------------------------------------------------------------------


def reward(grader: str, function: Callable, *arguments: str | None, **shown: str) -> float:
    """What a function gives for its arguments: one finite number, as float32 holds it.

    `grader` says whose function it is, `shown` what of its arguments a message needs.

    Raises:
        RewardError: it raised, or returned something else.
    """
    try:
        value = function(*arguments)
    except (Exception, SystemExit) as error:  # a user's function raises what it likes
        raise RewardError(f"{_about(grader, shown)}: raised {_line(error)}") from error
    if not is_finite(value):
        returned = " ".join(repr(value).split())[:60]
        about = _about(grader, shown)
        raise RewardError(f"{about}: returned {returned}; allowed is a finite number")
    return float(value)


def _about(grader: str, shown: dict[str, str]) -> str:
    return ", ".join([grader, *(f"{name} {text!r:.60}" for name, text in shown.items())])


def is_finite(value: Any) -> bool:
    """Whether it is one number that float32 holds, of Python's, NumPy's or JAX's kinds."""
    if not isinstance(value, (numbers.Real, decimal.Decimal)):
        if not hasattr(value, "__array__") or np.asarray(value).ndim:
            return False
        if np.asarray(value).dtype.kind not in "biufV":  # V: bfloat16, to NumPy
            return False
    try:
        return abs(float(value)) <= float(np.finfo(np.float32).max)
    except (TypeError, ValueError, OverflowError):
        return False

"""Multi-digit addition and multiplication, generated locally from a seed."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from types import MappingProxyType

from opd.data.builder import Example, ExampleBuilder, Source, Splits
from opd.data.verifiers import exact_match

# name -> (symbol, function)
OPERATIONS: MappingProxyType[str, tuple[str, Callable[[int, int], int]]] = MappingProxyType(
    {"add": ("+", lambda a, b: a + b), "multiply": ("*", lambda a, b: a * b)}
)
ALPHABET = "0123456789=" + "".join(symbol for symbol, _ in OPERATIONS.values())

# Pairs are drawn from a range, whose length must fit in 63 bits.
MAX_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class ArithmeticConfig:
    """Difficulty and size.

    Operands lie in [0, 10^digits); those of the `length` split have exactly digits + 1 digits.
    `train` counts pairs and holds both orders of each, the other splits hold one.
    """

    operation: str = "add"
    digits: int = 2
    reverse: bool = False  # the answer's least-significant digit first
    train: int = 4000  # of 5,050 pairs of two digits; sizes are chosen by hand, not tuned
    validation: int = 256
    test: int = 256
    length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            allowed = ", ".join(OPERATIONS)
            raise ValueError(f"data.operation = {self.operation!r}: allowed are {allowed}")
        if not 1 <= self.digits <= MAX_DIGITS:
            raise ValueError(f"data.digits = {self.digits!r}: allowed are 1 to {MAX_DIGITS}")
        for lengthened in (False, True):
            wanted = self.length if lengthened else self.train + self.validation + self.test
            there = pairs(*self.operands(lengthened))
            if wanted > there:
                sizes = "length" if lengthened else "train + validation + test"
                raise ValueError(
                    f"data.{sizes} = {wanted}: data.digits = {self.digits} allows at most {there} "
                    "operand pairs"
                )

    def operands(self, lengthened: bool) -> tuple[int, int]:
        """The half-open range of operands: within the trained length, or one digit more."""
        bound = 10**self.digits
        return (bound, 10 * bound) if lengthened else (0, bound)


def pairs(low: int, high: int) -> int:
    """How many unordered pairs low <= b <= a < high there are."""
    return (high - low) * (high - low + 1) // 2


def pair(index: int, low: int) -> tuple[int, int]:
    """The index-th unordered pair (a, b), a >= b >= low: index = a (a + 1) / 2 + b for low = 0."""
    a = (math.isqrt(8 * index + 1) - 1) // 2
    return low + a, low + index - a * (a + 1) // 2


def example(config: ArithmeticConfig, a: int, b: int) -> Example:
    """`a+b=` and its answer, the digits in the configured order."""
    symbol, function = OPERATIONS[config.operation]
    answer = str(function(a, b))
    answer = answer[::-1] if config.reverse else answer
    return Example(f"{a}{symbol}{b}=", answer, answer)


def splits(config: ArithmeticConfig) -> Splits:
    """The splits, disjoint by unordered operand pair: 3+4 and 4+3 are on one side."""
    generator = random.Random(config.seed)

    def draw(lengthened: bool, count: int) -> list[tuple[int, int]]:
        low, high = config.operands(lengthened)
        drawn = generator.sample(range(pairs(low, high)), count)
        ordered = (pair(index, low) for index in drawn)
        return [(a, b) if generator.random() < 0.5 else (b, a) for a, b in ordered]

    drawn = draw(False, config.train + config.validation + config.test)
    first, second = config.train, config.train + config.validation
    train = drawn[:first] + [(b, a) for a, b in drawn[:first] if a != b]
    sides = {
        "train": train,
        "validation": drawn[first:second],
        "test": drawn[second:],
        "length": draw(True, config.length),
    }
    return {name: tuple(example(config, *p) for p in side) for name, side in sides.items() if side}


class Arithmetic(ExampleBuilder, skip_registration=True):
    """Prompts `12+7=`, answers `19`; splits train, validation, test and length."""

    task: ArithmeticConfig

    def examples(self) -> Splits:
        return splits(self.task)


SOURCE = Source(ArithmeticConfig, splits, exact_match, builder=Arithmetic, alphabet=ALPHABET)

"""A compiled program, read from its text: buffers, shapes, and collectives with their loops.

XLA's own cost analysis counts the body of a loop once. Here an instruction counts as often as the
loops around it turn. A loop whose number of turns depends on data (decoding stops once all rows
have ended; a block of attention skips what it can't see) turns as often as `turns` says, else once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# What makes no buffer of its own.
VIEWS = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "conditional"}
VIEWS |= {"call", "opt-barrier", "partition-id", "after-all", "async-done", "copy-done"}
VIEWS |= {f"{name}-done" for name in COLLECTIVES}

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CALLED = re.compile(r"\bcalls=%?([\w.\-]+)")
_APPLIED = re.compile(r"\bto_apply=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_INDEX = re.compile(r"index=(\d+)")
_OPERANDS = re.compile(r"%([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_SPLASH = re.compile(r"splash_m[hq]a_(fwd|dq|dkv)")
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_LAYOUTS = re.compile(r"operand_layout_constraints=\{(.*?\})\}")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's type, sizes and layout as the text has them."""

    dtype: str
    sizes: tuple[int, ...]
    layout: str = ""

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.sizes))}]"

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in a device's large memory: S(n) names another one."""
        return "S(" not in self.layout

    @property
    def bytes(self) -> int:
        """What it takes, tiles filled up: T(8,128) rounds the two minor sizes up."""
        order, _, tiles = self.layout.partition(":")
        sizes = list(self.sizes)
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if tile and sizes and order:
            axes = list(map(int, order.split(",")))
            for axis, size in zip(axes, reversed(list(map(int, tile[1].split(","))))):
                sizes[axis] = -(-sizes[axis] // size) * size
        return math.prod(sizes) * BITS.get(self.dtype, 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    rest: str  # operands and attributes

    @property
    def says(self) -> str:
        """The operation of ours that it was made for, as far as the compiler kept its name."""
        found = _NAME.search(self.rest)
        return found[1] if found else self.name


Module = dict[str, list[Instruction]]


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays that a type or a tuple of types has."""
    return tuple(
        Shape(dtype, tuple(int(size) for size in sizes.split(",") if size), layout or "")
        for dtype, sizes, layout in _ARRAY.findall(text)
        if dtype in BITS
    )


def parse(text: str) -> tuple[Module, str]:
    """The computations of a module's text by their names, and which of them is the entry."""
    module: Module = {}
    entry, current = "", None
    for line in _lines(text):
        if current is None or not line.startswith(" "):
            head = _HEAD.match(line)
            if head:
                current = module.setdefault(head[1], [])
                entry = head[1] if line.startswith("ENTRY") else entry
            elif line.startswith("}"):
                current = None
            continue
        found = _LINE.match(line)
        if found:
            current.append(_instruction(found[1], found[2]))
    return module, entry


def _lines(text: str) -> list[str]:
    """A line for each instruction: a kernel's description has line breaks in it."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith(('"', "}}")):
            found[-1] += line
        else:
            found.append(line)
    return found


def _instruction(name: str, text: str) -> Instruction:
    end = 0
    if text.startswith("("):  # a tuple's type has spaces
        depth = 0
        for letter in text:
            end += 1
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                break
    else:
        end = text.index(" ")
    opcode, _, rest = text[end:].strip().partition("(")
    return Instruction(name, shapes(text[:end]), opcode, rest)


Turns = Callable[[int], int]  # of a loop that depends on data, by how many there were before it


def walk(
    module: Module, entry: str, turns: Turns | None = None
) -> Iterator[tuple[Instruction, int]]:
    """Every instruction that runs by itself (not inside a fusion), and how often it does."""
    for one, times, _ in _walk(module, entry, turns):
        yield one, times


def _walk(
    module: Module, entry: str, turns: Turns | None
) -> Iterator[tuple[Instruction, int, str]]:
    """`walk`, and the name of the computation that each is of."""
    unknown = 0

    def of(name: str, times: int, depth: int) -> Iterator[tuple[Instruction, int, str]]:
        nonlocal unknown
        for one in module.get(name, ()):
            yield one, times, name
            if one.opcode == "while":
                count = _known(module, one)
                if count is None and depth == 0 and turns is not None:
                    count, unknown = turns(unknown), unknown + 1
                count = 1 if count is None else count
                yield from of(_BODY.search(one.rest)[1], times * count, depth + 1)
            elif one.opcode in ("call", "async-start"):
                called = _APPLIED.search(one.rest) or _CALLED.search(one.rest)
                if called:
                    yield from of(called[1], times, depth)
            elif one.opcode == "conditional":
                for several, single in _BRANCHES.findall(one.rest):
                    for branch in (several or single).split(","):
                        yield from of(branch.strip().lstrip("%"), times, depth + 1)

    yield from of(entry, 1, 0)


def _known(module: Module, loop: Instruction) -> int | None:
    """How often a loop turns, as far as its text says: counted from 0 to a constant, by steps."""
    said = _TURNS.search(loop.rest)
    if said:
        return int(said[1])
    condition = module.get(_CONDITION.search(loop.rest)[1], [])
    last = condition[-1] if condition else None
    if last is None or last.opcode != "compare" or "direction=LT" not in last.rest:
        return None
    counter, bound = _operands(last)
    until = _number(condition, bound)
    return None if until is None else -(-until // _step(module, loop, condition, counter))


def _operands(one: Instruction) -> list[str]:
    return _OPERANDS.findall(one.rest.partition(")")[0])


def _named(computation: list[Instruction], name: str) -> Instruction | None:
    return next((one for one in computation if one.name == name), None)


def _number(computation: list[Instruction], name: str) -> int | None:
    """The whole number that a name stands for, if it does."""
    one = _named(computation, name)
    if one is None or one.opcode != "constant":
        return None
    return int(one.rest.partition(")")[0])


def _step(module: Module, loop: Instruction, condition: list[Instruction], counter: str) -> int:
    """What a turn adds to the counter; 1 where the text doesn't say."""
    body = module[_BODY.search(loop.rest)[1]]
    read = _named(condition, counter)
    at = _INDEX.search(read.rest) if read is not None else None
    carried = _operands(body[-1])
    if at is None or body[-1].opcode != "tuple" or int(at[1]) >= len(carried):
        return 1
    step, one = 0, _named(body, carried[int(at[1])])
    while one is not None and one.opcode == "add":
        left, right = _operands(one)
        added = _number(body, right)
        if added is None:
            break
        step, one = step + added, _named(body, left)
    return max(step, 1)


def collectives(module: Module, entry: str, turns: Turns | None = None) -> dict[str, dict]:
    """By kind: how often a step runs one, and the bytes that a chip sends for them by a ring.

    Of n chips, an all-gather to s bytes sends s (n - 1) / n, a reduce-scatter of s bytes as much,
    an all-reduce twice that, an all-to-all of s bytes s (n - 1) / n, a permutation s. The TPU's
    compiler writes one that runs beside other work into several fusions, under one number, and a
    reduce-scatter as the fusion of an all-reduce and a slice.
    """
    found: dict[str, dict] = {}
    seen: set[tuple[str, str]] = set()
    for one, times, where in _walk(module, entry, turns):
        for inner in _within(module, one):
            kind, number = inner.opcode.removesuffix("-start"), _CHANNEL.search(inner.rest)
            # Beside a loop, a fusion of it is in there too.
            key = None if number is None else ("" if inner is not one else where, number[1])
            if kind not in COLLECTIVES or key in seen:
                continue
            seen |= set() if key is None else {key}
            size = _sent(kind, inner)
            if inner is not one and "calls=%all-reduce-scatter" in one.rest:
                kind, size = "reduce-scatter", size // 2
            line = found.setdefault(kind, {"count": 0, "bytes": 0})
            line["count"] += times
            line["bytes"] += times * size
    return found


def _within(module: Module, one: Instruction) -> Iterator[Instruction]:
    """An instruction, or those of the fusion that it is."""
    called = _CALLED.search(one.rest) if one.opcode == "fusion" else None
    if called is None:
        yield one
        return
    for inner in module.get(called[1], ()):
        yield from _within(module, inner)


def _sent(kind: str, one: Instruction) -> int:
    made = [shape.bytes for shape in one.shapes]
    if one.opcode.endswith("-start") and len(made) > 1 and kind != "all-reduce":
        made = made[len(made) // 2 :] if kind != "collective-permute" else made[:1]
    size, n = sum(made), _group(one.rest)
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter":
        return size * (n - 1)  # what comes out is an n-th of what goes in
    return int(size * (n - 1) / n) * (2 if kind == "all-reduce" else 1)


def _group(rest: str) -> int:
    """How many devices take part together."""
    iota = _IOTA.search(rest)
    if iota:
        return int(iota[2])
    named = _MESH.search(rest)
    if named:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in _AXIS.findall(named[2]))
    listed = _LISTED.search(rest)
    return max(1, len(listed[1].split(","))) if listed else 1


def kernels(module: Module, entry: str, turns: Turns | None = None) -> dict[str, dict]:
    """Splash attention by kernel: how often a step runs it, and its FLOPs, which XLA doesn't count.

    Of the blocks of scores up to the diagonal and within the window, 2 m n k for each product: two
    forward, three for the gradient of queries, four for that of keys and values. `flops` is of a
    step, `flops_once` of once through every loop; every branch of a conditional is counted.
    """
    found: dict[str, dict] = {}
    for one, times in walk(module, entry, turns):
        named = _SPLASH.search(one.says) if one.opcode == "custom-call" else None
        if named is None:
            continue
        flops = _PRODUCTS[named[1]] * 2 * _splash_sizes(named[1], one)
        line = found.setdefault(named[0], {"count": 0, "flops": 0, "flops_once": 0})
        line["count"] += times
        line["flops"] += times * flops
        line["flops_once"] += flops
    return found


def _splash_sizes(kind: str, one: Instruction) -> int:
    """m n k of a product of a kernel's, of all of its blocks."""
    grid, _, query, *_ = shapes(_LAYOUTS.search(one.rest)[1])
    rows, width = grid.sizes[1:] if kind != "dkv" else grid.sizes[:0:-1]
    blocks = sum(min(row + 1, width) for row in range(rows))
    *batch, heads, length, dim = query.sizes  # of one row XLA leaves its axis out
    return math.prod(batch) * heads * blocks * (length // rows) ** 2 * dim


def largest(module: Module, entry: str, count: int = 8) -> list[dict]:
    """The largest arrays in a device's memory that the program makes, each kind of them once."""
    found: dict[tuple[str, str], dict] = {}
    for one, _ in walk(module, entry):
        if one.opcode in VIEWS:
            continue
        for shape in one.shapes:
            if shape.in_hbm and shape.bytes:
                key = str(shape), short(one.says)
                found.setdefault(key, {"shape": key[0], "bytes": shape.bytes, "name": key[1]})
    return sorted(found.values(), key=lambda each: -each["bytes"])[:count]


def short(name: str) -> str:
    """The end of an operation's path, which says where in our code it is."""
    parts = [part for part in name.split("/") if part not in ("while", "body", "closed_call")]
    return "/".join(parts[-5:])


def every_shape(module: Module) -> Mapping[str, Shape]:
    """All arrays of a program, inside fusions too."""
    found: dict[str, Shape] = {}
    for computation in module.values():
        for one in computation:
            for shape in one.shapes:
                found.setdefault(str(shape), shape)
    return found


def positions(module: Module, vocab: Collection[int], widths: Collection[int]) -> int:
    """Of how many positions a program holds logits, or anything else by token id, at once.

    Args:
        module: the program.
        vocab: sizes that an axis of ids can have: V, and V over the mesh axes that split it.
        widths: sizes that the other axis of a matrix by token id has: it is no logits.
    """
    most = 0
    for shape in every_shape(module).values():
        for at, size in enumerate(shape.sizes):
            others = shape.sizes[:at] + shape.sizes[at + 1 :]
            if size in vocab and not set(others) & set(widths):
                most = max(most, math.prod(others))
    return most


def scores(module: Module, lengths: Collection[int]) -> list[str]:
    """Arrays with two axes as long as a sequence: what attention must never hold."""
    return sorted(
        name
        for name, shape in every_shape(module).items()
        if sum(size in lengths for size in shape.sizes) > 1
    )

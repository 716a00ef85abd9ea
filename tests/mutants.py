"""Small ways to break a module: sites in its syntax tree, each with a changed node.

What is not mutated can't be told from the code by what it computes: docstrings, annotations, type
aliases, the words of an error, our own `assert`s.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
JUNCTIONS = {ast.And: ast.Or, ast.Or: ast.And}
PAIRS = (
    ("min", "max"), ("any", "all"), ("minimum", "maximum"), ("sum", "mean"), ("argmin", "argmax"),
    ("floor", "ceil"), ("exp", "expm1"), ("log", "log1p"), ("sqrt", "square"),
    ("zeros", "ones"), ("zeros_like", "ones_like"), ("cumsum", "cumprod"),
)  # fmt: skip
NAMES = dict(PAIRS) | {second: first for first, second in PAIRS}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One changed node of a module: the `place`-th of a walk, and what stands there instead."""

    path: str
    line: int
    function: str  # the definition it lies in, dotted; empty at the top
    statement: str  # its first line
    before: str
    after: str
    place: int
    variant: int

    @property
    def key(self) -> tuple[str, ...]:
        """What names it whatever moves lines about."""
        return self.path, self.function, self.statement, self.before, self.after


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Every broken version of a node by itself."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                if type(op) in COMPARISONS:
                    broken = copy.deepcopy(node)
                    broken.ops[i] = COMPARISONS[type(op)]()
                    yield broken
            yield from _other_words(node)
        case ast.BinOp(op=op) if type(op) in OPERATORS and not _words(node):
            yield ast.BinOp(node.left, OPERATORS[type(op)](), node.right)
        case ast.BoolOp(op=op):
            yield ast.BoolOp(JUNCTIONS[type(op)](), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.If() | ast.While():
            broken = copy.copy(node)
            broken.test = ast.UnaryOp(ast.Not(), node.test)
            yield broken
        case ast.comprehension(ifs=[_, *_]):
            broken = copy.copy(node)
            broken.ifs = node.ifs[1:]
            yield broken
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 if value else 1.0)
        case ast.Attribute(attr=name) if name in NAMES:
            yield ast.Attribute(node.value, NAMES[name], node.ctx)
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name], node.ctx)


def _words(node: ast.AST) -> bool:
    """Whether a sum or product is one of texts, of which a message or a type is made."""
    texts = (ast.JoinedStr, ast.Constant)
    sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node]
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, texts) and isinstance(getattr(side, "value", None), str))
        or (isinstance(side, ast.BinOp) and _words(side))
        for side in sides
    )


def _other_words(node: ast.Compare) -> Iterator[ast.Compare]:
    """A comparison with a word that nothing is called by."""
    for i, side in enumerate(node.comparators):
        if isinstance(side, ast.Constant) and isinstance(side.value, str):
            broken = copy.deepcopy(node)
            broken.comparators[i] = ast.Constant(side.value + "?")
            yield broken
        elif isinstance(side, ast.Tuple | ast.Set | ast.List):
            for k, word in enumerate(side.elts):
                if isinstance(word, ast.Constant) and isinstance(word.value, str):
                    broken = copy.deepcopy(node)
                    broken.comparators[i].elts[k] = ast.Constant(word.value + "?")
                    yield broken


@dataclasses.dataclass(frozen=True)
class Place:
    """A node, where it hangs (`index` is -1 where the field holds one node), and what it is in."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int
    function: str
    statement: str


def places(tree: ast.AST, function: str = "", statement: str = "") -> Iterator[Place]:
    """All that can be mutated, always in the same order."""
    for field, value in ast.iter_fields(tree):
        if _spared(tree, field):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(-1, value)]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.Raise | ast.Assert):
                continue
            inside, line = function, statement
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                inside = f"{function}.{node.name}".strip(".")
            if isinstance(node, ast.stmt):
                line = _shown(node)
            yield Place(node, tree, field, index, inside, line)
            yield from places(node, inside, line)


def _spared(parent: ast.AST, field: str) -> bool:
    """Fields of a node that only readers and tools see."""
    if field in ("annotation", "returns", "decorator_list", "type_params", "ctx", "bases"):
        return True
    if isinstance(parent, ast.Expr) and isinstance(parent.value, ast.Constant):
        return True  # a docstring
    return isinstance(parent, ast.JoinedStr | ast.FormattedValue)


def mutants(root: Path, path: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    made = []
    for place, at in enumerate(list(places(tree))):
        for variant, broken in enumerate(changes(at.node)):
            line = getattr(at.node, "lineno", None) or at.node.target.lineno
            words = _shown(at.node), _shown(broken)
            made.append(Mutant(path, line, at.function, at.statement, *words, place, variant))
    return made


def _shown(node: ast.AST) -> str:
    """A node's text; of a statement with a body, its first line."""
    header = copy.copy(node)
    for field, empty in (("body", [ast.Pass()]), ("orelse", []), ("finalbody", []), ("cases", [])):
        if isinstance(getattr(node, field, None), list):
            setattr(header, field, empty)
    return ast.unparse(ast.fix_missing_locations(header)).strip().splitlines()[0]


def source(root: Path, mutant: Mutant) -> str:
    """The text of the module with the mutant in it."""
    tree = ast.parse((root / mutant.path).read_text(encoding="utf-8"))
    at = list(places(tree))[mutant.place]
    broken = list(changes(at.node))[mutant.variant]
    if at.index < 0:
        setattr(at.parent, at.field, broken)
    else:
        getattr(at.parent, at.field)[at.index] = broken
    return ast.unparse(ast.fix_missing_locations(tree))

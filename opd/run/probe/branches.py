"""The parts of rows whose weight holds the future or other rollouts, by fresh continuations.

At each state s_t of a rollout, the trunk, R continuations are drawn, the action at t included, and
rewarded and scored as rollouts are. The library's own coefficients say what the row would have
pushed at t there: b_t^r. Where a weight holds a group, the mates are drawn afresh too, from the
prompt. So E[b_t^r | trunk] = g_t = E[h_t | s_t], independently over r, and independently of h_t
given s_t. A row's own fresh candidates are summed over: they are a part of what h_t varies by.

Columns of a probe for each such row, e_t being one random sign for each row and position:

    b^r   = sum_t b_t^r         r = 1..R
    H_e   = sum_t e_t h_t
    B_e^r = sum_t e_t b_t^r

`Plan.basis` turns them into what `intervals.Branches` asks for: means of b over two halves of the
r's, and H_e less the mean of B_e over each half.

B rollouts, T completion length, G group size, n graded states in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from opd import draws, processes
from opd.engine import estimator, programs, sharding
from opd.measure import intervals
from opd.method import facts, weighing
from opd.method.axes import Term
from opd.method.table import Method
from opd.run import drawing
from opd.run.drawing import Player, World
from opd.types import Array, Coefficients, Rollout, TokenStats

# Continuations are drawn and scored in pieces of at most so many rows, and of at most so many
# numbers in one block of the vocabulary pass: 256 MiB in float32.
PIECE, BLOCK = 4096, 2**26

# From rows of trunks, the tokens to keep [M, T] (-1: draw), a key and the trunks' places in their
# batch [M] to whole rollouts, rewarded, and their statistics where a row needs them.
Continue = Callable[[Rollout, np.ndarray, Array, np.ndarray], tuple[Rollout, TokenStats | None]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The columns of a probe, some rows of which are branched. Without any it is the methods."""

    methods: tuple[Method, ...]
    branched: tuple[Method, ...]
    count: int  # R

    @property
    def columns(self) -> tuple[Method, ...]:
        """The methods, then 2 R + 1 columns for each branched row: b^1.., H_e, B_e^1.."""
        extra = []
        for method in self.branched:
            summed = tuple(_summed(term) for term in method.terms)
            for name, terms in (
                *((f"b^{r + 1}", summed) for r in range(self.count)),
                ("H_e", method.terms),
                *((f"B_e^{r + 1}", summed) for r in range(self.count)),
            ):
                extra.append(Method(f"{method.name} {name}", method.row, method.origin, terms))
        return (*self.methods, *extra)

    @property
    def basis(self) -> np.ndarray:
        """Rows in `columns`: the methods, then first, second, spread, spread_second of each."""
        first, rows, half = len(self.methods), len(self.branched), self.count // 2
        basis = np.zeros((first + 4 * rows, len(self.columns)))
        basis[:first, :first] = np.eye(first)
        if rows:
            in_first = np.arange(self.count) < half
            mean = np.stack([in_first / half, ~in_first / (self.count - half)])  # [2, R]
            means = np.hstack([mean, np.zeros((2, 1 + self.count))])
            spreads = np.hstack([np.zeros((2, self.count)), np.ones((2, 1)), -mean])
            basis[first:, first:] = np.kron(np.eye(rows), np.vstack([means, spreads]))
        return basis

    @property
    def parts(self) -> dict[str, intervals.Branches]:
        """Each branched row's columns in the basis."""
        starts = (len(self.methods) + 4 * number for number in range(len(self.branched)))
        return {
            method.name: intervals.Branches(at, at + 1, at + 2, at + 3)
            for method, at in zip(self.branched, starts, strict=True)
        }

    def remark(self, method: Method) -> str:
        """How a branched row's parts were estimated, in words."""
        mates = ", its group's other rollouts fresh too" if facts.coupled(method) else ""
        return f"parts estimated with {self.count} fresh continuations from each state{mates}"


def plan(methods: tuple[Method, ...], count: int) -> Plan:
    """Which of the rows are branched `count` times: all that can be, or none where count is 0."""
    if count == 0:
        return Plan(methods, (), 0)
    assert count >= 2, "two independent estimates of g_t need two continuations"
    return Plan(methods, tuple(filter(branchable, methods)), count)


def branchable(method: Method) -> bool:
    """Whether fresh continuations give E[h_t | s_t].

    Not where a weight holds the whole batch: that would have to be drawn afresh.
    """
    future = any(
        term.signal == "reward" or term.gamma > 0 or term.reduction != "sum"
        for term in method.terms
    )
    coupled = facts.coupled(method)
    return coupled == "group" or (future and coupled is None)


def _summed(term: Term) -> Term:
    """The term with nothing drawn at the state but the own token."""
    if term.rule is None or not term.rule.draws:
        return term
    return dataclasses.replace(term, expectation="enumerated", k=None, tail=None, topk_from=None)


def coefficients(
    plan: Plan,
    trunk: Rollout,
    coefs: tuple[Coefficients, ...],
    key: Array,
    group_size: int,
    extend: Continue,
    piece: int = PIECE,
) -> tuple[Coefficients, ...]:
    """The coefficients of a plan's extra columns on one batch, in their order.

    Args:
        plan: whose columns.
        trunk: [B, T], rows of a group side by side.
        coefs: the methods' coefficients on the batch.
        key: of the branches of this step. A continuation's noise is a function of the key, r,
            the trunk's row and t alone.
        group_size: G.
        extend: how a trunk is continued.
        piece: rows that are continued together.
    """
    trunk = processes.on_host(trunk)
    trunks = dict(zip((method.name for method in plan.methods), coefs, strict=True))
    pushed = [
        _pushed(plan.branched, trunk, jax.random.fold_in(key, 1 + r), group_size, extend, piece)
        for r in range(plan.count)
    ]
    uniform = draws.uniforms(jax.random.fold_in(key, 0), trunk.row, trunk.mask.shape[1])
    sign = jnp.where(uniform < 0.5, -1.0, 1.0)
    extra: list[Coefficients] = []
    for number, method in enumerate(plan.branched):
        copies = [branch[number] for branch in pushed]
        extra += [*copies, *(_times(sign, one) for one in (trunks[method.name], *copies))]
    return tuple(extra)


def _times(sign: Array, coefs: Coefficients) -> Coefficients:
    assert coefs.value is None, "a learned value has no branches"
    return dataclasses.replace(
        coefs, local=tuple(sign * part for part in coefs.local), onehot=sign * coefs.onehot
    )


def _pushed(
    methods: tuple[Method, ...],
    trunk: Rollout,
    key: Array,
    group_size: int,
    extend: Continue,
    piece: int,
) -> list[Coefficients]:
    """b_t of each method with one fresh continuation of each state: coefficients, [B, T]."""
    rows, times = np.nonzero(trunk.mask)
    piece = min(piece, trunk.mask.size)  # the same for all batches, whatever is graded in them
    drawn, stats = _continued(trunk, rows, times, key, extend, piece)
    members = _members(rows, times, group_size if any(map(facts.coupled, methods)) else 1)
    pushes = _weights(methods, drawn, stats, members, times, piece)

    def whole(values: np.ndarray) -> Array:
        grid = np.zeros(trunk.mask.shape, values.dtype)
        grid[rows, times] = values
        return jnp.asarray(grid)

    token = whole(drawn.tokens[np.arange(len(rows)), times])
    return [
        Coefficients(
            tuple(whole(part / len(trunk.mask)) for part in coefs.local),
            whole(coefs.onehot / len(trunk.mask)),
            token=token,
        )
        for coefs in pushes
    ]


def _continued(
    trunk: Rollout,
    rows: np.ndarray,
    times: np.ndarray,
    key: Array,
    extend: Continue,
    piece: int,
) -> tuple[Rollout, TokenStats | None]:
    """One fresh continuation of each state (row, time), on the host: leaves [n, ...]."""
    length = trunk.mask.shape[1]
    continued = []
    for index, count in _pieces(len(rows), piece):
        which, at = rows[index], times[index]
        part = _take(trunk, which)
        part = dataclasses.replace(
            part,
            row=part.row * length + at.astype(part.row.dtype),
            group=np.arange(len(index), dtype=part.group.dtype),
            reward=None,
        )
        prefix = np.where(np.arange(length) < at[:, None], part.tokens, -1)
        continued.append(_take(processes.on_host(extend(part, prefix, key, which)), slice(count)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *continued)


def _members(rows: np.ndarray, times: np.ndarray, group_size: int) -> np.ndarray:
    """Which continuations make up each one's group: itself, then its mates from the prompt on."""
    first = np.flatnonzero(times == 0)
    assert np.array_equal(rows[first], np.arange(len(first))), "every rollout has a first token"
    shift = (rows[:, None] + np.arange(1, group_size)) % group_size
    mates = first[rows[:, None] // group_size * group_size + shift]
    return np.concatenate([np.arange(len(rows))[:, None], mates], axis=1)  # [n, G]


def _weights(
    methods: tuple[Method, ...],
    drawn: Rollout,
    stats: TokenStats | None,
    members: np.ndarray,
    times: np.ndarray,
    piece: int,
) -> tuple[Coefficients, ...]:
    """Each method's coefficients of every continuation in its group, at its state: leaves [n].

    Of one rollout: a reduction divides by the rows that it is given, and that is taken back.
    """
    count, group_size = members.shape
    weights = []
    for index, size in _pieces(count, max(1, piece // group_size)):
        flat = members[index].ravel()
        group = np.arange(len(flat), dtype=drawn.group.dtype) // group_size
        rollout = dataclasses.replace(_take(drawn, flat), group=group)
        coefs = programs.coefficients_of(methods, rollout, _take(stats, flat))
        first = np.arange(len(index)) * group_size
        one = jax.tree.map(lambda leaf: np.asarray(leaf) * len(flat), coefs)  # noqa: B023
        weights.append(_take(one, (first[:size], times[index][:size])))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *weights)


def _pieces(count: int, size: int):
    """(indices, how many of them count) of pieces of one size: the last repeats its last row."""
    for start in range(0, count, size):
        index = np.arange(start, start + size)
        yield np.minimum(index, count - 1), min(size, count - start)


def _take(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def rows_together(chunk: int | None, vocab: int) -> int:
    """How many continuations are drawn and scored together, for a block of [rows, chunk, V].

    A chunk that follows from the shapes follows from the rows too, and bounds none.
    """
    return PIECE if chunk is None else max(1, min(PIECE, BLOCK // (chunk * vocab)))


def scored(methods: tuple[Method, ...]) -> bool:
    """Whether a weight of theirs asks for a continuation's statistics: to grade or for a ratio."""
    return any(
        term.importance != "none"
        or weighing.of_state(term.weigh)
        or bool(term.asks)
        or (term.onehot and term.signal in ("teacher", "teacher_kl"))
        for method in methods
        for term in method.terms
    )


def continuing(
    world: World,
    student: Player,
    teacher: Player,
    plan: Plan,
    answers: list[str],
) -> Continue:
    """The student's continuations, rewarded by the task and scored where a branched row asks."""
    graded, scoring = scored(plan.branched), estimator.asking(world.scoring, plan.branched)

    def extend(
        trunk: Rollout, prefix: np.ndarray, key: Array, which: np.ndarray
    ) -> tuple[Rollout, TokenStats | None]:
        rows = {name: getattr(trunk, name) for name in ("prompt", "prompt_mask", "group", "row")}
        rows = sharding.shard_batch(
            jax.tree.map(jnp.asarray, rows | {"prefix": prefix}), world.mesh
        )
        drawn = programs.rollout(world.mesh, *student, **rows, key=key, sampling=world.sampling)
        beside = {name: getattr(trunk, name) for name in ("told", "told_mask", "taught")}
        drawn = dataclasses.replace(drawn, **sharding.shard_batch(beside, world.mesh))
        theirs = [answers[place // world.group_size] for place in which]
        drawn = drawing.reward(world.task, drawn, theirs, 1)
        if not graded:
            return drawn, None
        head = drawing.head(world, teacher, drawn)
        return drawn, programs.score(world.mesh, *student, drawn, head, scoring)

    return extend

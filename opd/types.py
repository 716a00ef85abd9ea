"""What flows between the rooms: rollouts, token statistics, coefficients, models and metrics.

Shapes, in the field's letters: B rollouts, P prompt length, T completion length, V vocabulary,
D width, G group size. Log-probabilities are in nats and say whose they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array
Params = Any
# Names of axes that mean something else on a mesh than usual, and what: (name, axes of the mesh).
Rules = tuple[tuple[str, tuple[str, ...]], ...]


@typing.dataclass_transform(frozen_default=True)
def pytree(cls):
    """A frozen dataclass whose fields are all pytree children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class Rollout:
    """Sequences drawn from a behavior policy, rows of one prompt group side by side.

    The completion's token t is predicted by row P - 1 + t of the model's hidden states. The EOS
    action is graded, everything after it is not, and prompts never are. `Rollout.of` makes one of
    completions alone.

    >>> import numpy as np
    >>> import opd
    >>> rollout = opd.Rollout.of(np.zeros((4, 3), int), reward=np.arange(4.0), group=[7, 7, 9, 9])
    >>> rollout.mask.shape, rollout.group.tolist()
    ((4, 3), [0, 0, 1, 1])
    """

    prompt: Array  # [B, P] int32, left-padded
    prompt_mask: Array  # [B, P] bool
    tokens: Array  # [B, T] int32, the completion; whatever follows EOS is padding
    mask: Array  # [B, T] bool, true for graded actions, EOS included
    logp_behavior: Array  # [B, T] nats, of the distribution sampled; 0 off the mask; NaN: unknown
    ended: Array  # [B] bool, the completion ends in EOS (false: cut at T)
    group: Array  # [B] int32, which prompt group of this batch, 0 .. U-1, non-decreasing
    row: Array  # [B] int32, the row's own number in the step: what random keys are folded with
    reward: Array | None = None  # [B], terminal reward; None where nobody grades completions
    # [B] int32, updates that the policy that drew a row had had; -1: not the student. None: unsaid.
    version: Array | None = None
    # What only some methods ask for, [B, T] each; None where nobody keeps it.
    logp_proximal: Array | None = None  # of the trust region's policy; None: the behavior is it
    logp_reference: Array | None = None  # of the policy that a penalty holds the student to
    value: Array | None = None  # the critic's estimate at the state, when the token was drawn
    # The prompt as the teacher reads it, [B, P'] each, left-padded; None: as the student does.
    told: Array | None = None
    told_mask: Array | None = None
    logp_teacher: Array | None = None  # [B, T] nats, of a teacher who says nothing else (served)
    taught: Array | None = None  # [B, K] bool, which of several teachers grades; None: the one

    @classmethod
    def of(
        cls,
        tokens: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        reward: ArrayLike | None = None,
        group: ArrayLike | None = None,
        ended: ArrayLike | None = None,
        version: ArrayLike | None = None,
        logp_behavior: ArrayLike | None = None,
        logp_proximal: ArrayLike | None = None,
        logp_reference: ArrayLike | None = None,
        value: ArrayLike | None = None,
    ) -> Rollout:
        """A rollout of completions that were drawn elsewhere; its prompt is one token of padding.

        Args:
            tokens: [B, T] whole numbers.
            mask: [B, T], true for graded actions, EOS included; None: all.
            reward: [B], of whole completions.
            group: [B] whole numbers, equal for rollouts of one prompt; None: no two are.
            ended: [B], false where a completion was cut; None: none was.
            version: [B] whole numbers, -1 where the student didn't draw the row; None: unsaid.
            logp_behavior: [B, T] nats, of the policy that drew the tokens; None: unknown.
            logp_proximal: [B, T] nats, of the policy that a trust region is around.
            logp_reference: [B, T] nats, of the policy that a penalty holds the student to.
            value: [B, T], a critic's estimates at the states.

        Raises:
            ValueError: tokens that are no whole numbers, or another shape than is said here.
        """
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            given = f"{tokens.dtype}{list(tokens.shape)}"
            raise ValueError(f"tokens are {given}: whole numbers [B, T] are allowed")
        rows, grid = tokens.shape[:1], tokens.shape

        def array(name: str, given: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
            found = None if given is None else jnp.asarray(given)
            if found is not None and found.shape != shape:
                raise ValueError(f"{name} has shape {found.shape}: {shape} is allowed")
            return found

        mask = array("mask", jnp.ones(grid, bool) if mask is None else mask, grid).astype(bool)
        known = jnp.full(grid, jnp.nan) if logp_behavior is None else logp_behavior
        group = array("group", jnp.arange(*rows) if group is None else group, rows)
        ended = array("ended", jnp.ones(rows, bool) if ended is None else ended, rows)
        return cls(
            prompt=jnp.zeros((*rows, 1), jnp.int32),
            prompt_mask=jnp.ones((*rows, 1), bool),
            tokens=tokens.astype(jnp.int32),
            mask=mask,
            logp_behavior=jnp.where(mask, array("logp_behavior", known, grid), 0),
            ended=ended.astype(bool),
            group=jnp.unique(group, return_inverse=True, size=rows[0])[1].astype(jnp.int32),
            row=jnp.arange(rows[0], dtype=jnp.int32),
            reward=array("reward", reward, rows),
            version=array("version", version, rows),
            logp_proximal=array("logp_proximal", logp_proximal, grid),
            logp_reference=array("logp_reference", logp_reference, grid),
            value=array("value", value, grid),
        )

    @property
    def sequence(self) -> Array:
        """Prompt and completion, [B, P + T]."""
        return jnp.concatenate([self.prompt, self.tokens], axis=1)

    @property
    def sequence_mask(self) -> Array:
        return jnp.concatenate([self.prompt_mask, self.mask], axis=1)

    @property
    def as_told(self) -> Rollout:
        """The rollout as the teacher reads it: its own prompt, and the very same completion.

        Prompt and `told` change places, so that twice is the rollout itself.
        """
        if self.told is None:
            return self
        mine, told = (self.prompt, self.prompt_mask), (self.told, self.told_mask)
        return dataclasses.replace(
            self, prompt=told[0], prompt_mask=told[1], told=mine[0], told_mask=mine[1]
        )

    def digests(self) -> tuple[str, str]:
        """SHA-256 of the graded tokens, and of tokens and behavior log-probabilities."""
        mask = np.asarray(self.mask)
        tokens = hashlib.sha256()
        for part in (self.prompt * self.prompt_mask, self.tokens * self.mask, mask):
            tokens.update(np.ascontiguousarray(part).tobytes())
        both = tokens.copy()
        both.update(np.ascontiguousarray(np.where(mask, self.logp_behavior, 0)).tobytes())
        return tokens.hexdigest(), both.hexdigest()


@pytree
class TokenStats:
    """What one pass over the vocabulary leaves at every position, [B, T] each, in nats.

    The teacher's fields are None where no teacher was given.
    """

    logp_student: Array  # log pi(y_t | s_t)
    entropy_student: Array  # H(pi(. | s_t))
    logp_teacher: Array | None = None  # log p(y_t | s_t)
    entropy_teacher: Array | None = None
    kl: Array | None = None  # KL(pi || p) at s_t, enumerated
    value: Array | None = None  # the critic's estimate now; None: what the rollout has
    divergences: tuple[Array, ...] = ()  # those of one estimator's local rules, where asked for
    asked: dict[str, Array] = dataclasses.field(default_factory=dict)  # what only some rows ask for
    # |dJ/dlogits_t|^2 of each estimator, where asked for; in its objective's unit, squared
    squares: tuple[Array, ...] = ()


@pytree
class Coefficients:
    """One estimator on one batch: dJ/dlogits = sum_j local_j (a_j - |a_j| pi) + onehot (1_y - pi).

    `local` has one [B, T] array for each of the estimator's local rules, `onehot` is the [B, T]
    weight of the rollout's own tokens, and `value` the critic's cotangent where there is one.
    `token` [B, T] names other tokens y for `onehot` to push, such as a fresh continuation's.
    Detached, ascent direction; masks and the reduction are already in.
    """

    local: tuple[Array, ...]
    onehot: Array
    value: Array | None = None
    token: Array | None = None


@runtime_checkable
class Model(Protocol):
    """A policy as pure functions of its parameters; instances are static and hashable."""

    vocab: int  # V, rows of the unembedding
    tokens: int  # ids that exist; those above are padding
    width: int
    logit_cap: float | None  # logits x become cap tanh(x / cap)
    rules: Rules  # how its parameters lie on a mesh, where not as usual

    def init(self, key: Array) -> Params: ...

    def axes(self) -> Any:
        """The parameters' logical axis names: a tree like `params` whose leaves are tuples."""

    def trained(self, tree: Any) -> Any:
        """The part that training moves, of a tree laid out like the parameters."""

    def with_trained(self, tree: Any, part: Any) -> Any:
        """The tree with that part replaced."""

    def hidden(self, params: Params, tokens: Array, mask: Array) -> Array:
        """Hidden states [B, S, D] of tokens [B, S]; `mask` is false on padding."""

    def unembedding(self, params: Params) -> Array:
        """The matrix [V, D] that turns hidden states into logits, in the computation's dtype."""

    def prefill(self, params: Params, tokens: Array, mask: Array, length: int) -> Any:
        """A cache of tokens [B, s], s >= 0, for `extend`; there is room for `length` in all.

        Its leaves are [B, ...], or numbers.
        """

    def grown(self, cache: Any, length: int) -> Any:
        """The cache with room for `length` tokens in all."""

    def apart(self, params: Params) -> Any:
        """The parameters as `extend` takes them, made once before a loop around it."""

    def extend(self, params: Any, cache: Any, tokens: Array, mask: Array) -> tuple[Array, Any]:
        """Hidden states [B, s, D] of the next s tokens, and the cache that now holds them."""


@pytree
class Mean:
    """A metric averaged over what it counted; merging adds totals and counts."""

    total: Array
    count: Array

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Array:
        return self.total / self.count


@pytree
class Sum:
    """A metric that adds up."""

    total: Array

    def merge(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def value(self) -> Array:
        return self.total


@pytree
class Max:
    """A metric whose largest value counts."""

    largest: Array

    def merge(self, other: Max) -> Max:
        return Max(jnp.maximum(self.largest, other.largest))

    def value(self) -> Array:
        return self.largest


Metrics = dict[str, Mean | Sum | Max]


def merge_metrics(left: Metrics, right: Metrics) -> Metrics:
    """Two parts of one batch as one: reduced by each metric's type, never by its name."""
    assert left.keys() == right.keys(), (left.keys(), right.keys())
    return {name: left[name].merge(right[name]) for name in left}

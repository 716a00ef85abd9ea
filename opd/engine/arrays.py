"""The engine for plain arrays: one's own logits in, gradients in logit space out.

What `opd` exports of the engine. Arguments are checked before anything compiles; what only an
array's numbers can tell is checked where they are there, and not under a caller's own `jax.jit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from opd.engine import costs, estimator, metrics, programs, vocab
from opd.engine.vocab import Head, Pass
from opd.method import facts, importance, local, table
from opd.method.axes import Term
from opd.method.table import Method
from opd.types import Array, Rollout, TokenStats


@overload
def gradient(
    method: str | Method,
    rollout: Rollout,
    logits_student: Head,
    logits_teacher: ArrayLike | Head | None = None,
    *,
    uniforms: ArrayLike | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> Head: ...
@overload
def gradient(
    method: str | Method,
    rollout: Rollout,
    logits_student: ArrayLike,
    logits_teacher: ArrayLike | Head | None = None,
    *,
    uniforms: ArrayLike | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> Array: ...
def gradient(
    method,
    rollout,
    logits_student,
    logits_teacher=None,
    *,
    uniforms=None,
    seed=None,
    temperature=1.0,
    chunk=None,
):
    """dJ/dlogits [B, T, V] of any row of the table on a rollout, in closed form; ascent direction.

        dJ/dlogits_t = m_t sum_j w_jt (a_jt - (sum_v a_jt(v)) pi_t),  pi = softmax(logits / tau)

    with the row's terms j, candidate weights a(v) [V], detached weights w [B, T] and mask m. Under
    the row's own reduction, which is the mean over the B rollouts of a sum over tokens unless the
    row says otherwise: B times a rollout's slice is that rollout's own gradient. Zero off the mask.
    Whose rollouts they are is the caller's to see to. A critic's regression is not in it.

    Args:
        method: a row's name, as `opd.method` takes it, or what that returns.
        rollout: tokens, mask and what the row asks besides.
        logits_student: [B, T, V], at t those that token t is drawn from; or a `Head`, hidden states
            [B, T, D] and unembedding [V, D], so that no array [B, T, V] is made.
        logits_teacher: the same of the teacher, if the row asks one.
        uniforms: [B, T, k] in [0, 1) for rows that draw k candidates afresh.
        seed: draws those by counter, the same for a (row, position) whatever the batch.
        temperature: tau, of student and teacher.
        chunk: tokens in one block [B, chunk, V] of what is computed on the way; None: from the
            shapes.

    Returns:
        [B, T, V] in the logits' dtype; of a `Head`, a `Head` of cotangents [B, T, D] and [V, D].

    Raises:
        ValueError: an unknown method; what the row needs and neither rollout nor arguments have,
            by name; other shapes than are said here; a token or a top-k outside the vocabulary.

    >>> import jax.numpy as jnp
    >>> import opd
    >>> rollout = opd.Rollout.of(jnp.array([[1, 0], [2, 2]]), reward=jnp.array([1.0, 0.0]))
    >>> logits, teacher = jnp.zeros((2, 2, 3)), jnp.ones((2, 2, 3)).at[..., 0].set(2.0)
    >>> opd.gradient("opd", rollout, logits, teacher).shape
    (2, 2, 3)
    >>> found = opd.gradient("reinforce", rollout, logits)[0, 0]
    >>> [round(float(x), 3) for x in found]  # (1_y - pi) R / B
    [-0.167, 0.333, -0.167]
    """
    method = table.parse(method) if isinstance(method, str) else method
    student, teacher = _sides(rollout, logits_student, logits_teacher)
    _check_method(method, rollout, student, teacher)
    drawn = _uniforms(method, rollout, uniforms, seed)
    how = _pass(temperature, chunk)
    cotangent, _ = programs.cotangents(student, teacher, rollout, (method,), drawn, how)
    cotangent = jax.tree.map(lambda leaf: leaf[0], cotangent)
    return cotangent if isinstance(logits_student, Head) else cotangent.hidden


def statistics(
    rollout: Rollout,
    logits_student: ArrayLike | Head,
    logits_teacher: ArrayLike | Head | None = None,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> TokenStats:
    """What the vocabulary says at every position, [B, T] each, nats, masked ones included.

        logp  log pi(y_t | s_t)        entropy  -sum_v pi log pi        kl  sum_v pi log(pi / p)

    Args:
        rollout: whose tokens y.
        logits_student: [B, T, V] or a `Head`, as `gradient` takes them.
        logits_teacher: the same of the teacher; None: its fields are None.
        temperature: of student and teacher.
        chunk: tokens in one block [B, chunk, V]; None: from the shapes.

    Returns:
        TokenStats: logp_student, entropy_student, logp_teacher, entropy_teacher, kl.

    Raises:
        ValueError: other shapes than are said here, or a token outside the vocabulary.

    >>> import jax.numpy as jnp
    >>> import opd
    >>> stats = opd.statistics(opd.Rollout.of(jnp.array([[1, 0]])), jnp.zeros((1, 2, 3)))
    >>> bool(jnp.allclose(jnp.exp(stats.entropy_student), 3))
    True
    """
    student, teacher = _sides(rollout, logits_student, logits_teacher)
    return programs.statistics(student, teacher, rollout.tokens, _pass(temperature, chunk))


class DivergenceAt(NamedTuple):
    """A divergence D(pi, p) at given log-probabilities, and how it pushes.

    The gradient of -D in the student's logits is push - (sum_v push(v)) pi.
    """

    value: Array  # [...], D, nats
    weight: Array  # [..., V], w(v) = -dD/dpi(v), up to a constant: what a token drawn from pi gets
    push: Array  # [..., V], pi(v) w(v)


def divergence(
    name: str,
    logp_student: ArrayLike,
    logp_teacher: ArrayLike,
    argument: float | None = None,
) -> DivergenceAt:
    """A divergence's value, weights and pushes, of log-probabilities of the whole vocabulary.

    D(pi, p) = sum_v d(p(v), pi(v)), in nats: reverse_kl is KL(pi || p), forward_kl KL(p || pi),
    jeffreys their sum, jsd GKD's with argument beta, skew and skew_reverse DistiLLM's with alpha,
    total_variation half of sum_v |pi - p|.

    Args:
        name: one of those.
        logp_student: [..., V] nats, log pi.
        logp_teacher: [..., V] nats, log p.
        argument: beta or alpha in (0, 1), of those that have one.

    Raises:
        ValueError: another name or argument, other shapes, or probabilities whose sum is not 1.

    >>> import jax, jax.numpy as jnp
    >>> import opd
    >>> student, teacher = jax.nn.log_softmax(jnp.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]]))
    >>> found = opd.divergence("jsd", student, teacher, argument=0.5)
    >>> step = found.push - found.push.sum() * jnp.exp(student)
    >>> wanted = -jax.grad(lambda x: opd.divergence("jsd", jax.nn.log_softmax(x), teacher, 0.5)[0])(
    ...     student
    ... )
    >>> bool(jnp.allclose(step, wanted, atol=1e-6))
    True
    """
    if name not in local.DIVERGENCES:
        raise ValueError(f"no divergence {name!r}: {', '.join(local.DIVERGENCES)} are allowed")
    distance = local.DIVERGENCES[name]
    if distance.argument is None and argument is not None:
        raise ValueError(f"{name} has no argument, and {argument} is given")
    if distance.argument is not None and not (argument is not None and 0 < argument < 1):
        raise ValueError(
            f"{name} has argument={argument}: a {distance.argument} in (0, 1) is allowed"
        )
    student, teacher = jnp.asarray(logp_student), jnp.asarray(logp_teacher)
    if student.ndim < 1 or student.shape != teacher.shape:
        raise ValueError(f"shapes {student.shape} and {teacher.shape}: [..., V] twice is allowed")
    for whose, logp in (("student", student), ("teacher", teacher)):
        numbers = _numbers(logp)
        total = np.ones(()) if numbers is None else np.exp(numbers).sum(-1)
        if not np.allclose(total, 1, rtol=0, atol=1e-2):
            worst = total.flat[np.argmax(np.abs(total - 1))]
            raise ValueError(f"logp_{whose}: probabilities sum to {worst:g}, 1 is allowed")
    return DivergenceAt(
        jnp.sum(distance.value(teacher, student, argument), -1),
        distance.weight(teacher, student, argument),
        distance.push(teacher, student, argument),
    )


def ess(rollout: Rollout, logp_student: ArrayLike, kind: str = "trajectory") -> Array:
    """Effective sample size over N of a stale rollout's importance weights, a share in (0, 1].

        ESS / N = (sum w)^2 / (N sum w^2),  log w = log pi - log mu, summed as `kind` says

    Kong 1992. Over graded tokens, or over one weight a rollout where the kind is of whole rollouts;
    tokens whose behavior's log-probability is NaN are left out.

    Args:
        rollout: with logp_behavior, log mu.
        logp_student: [B, T] nats, log pi of the same tokens: `statistics(...).logp_student`.
        kind: token, prefix (t' < t), prefix_inclusive (t' <= t), trajectory (all t'), sequence (its
            mean over t').

    Raises:
        ValueError: no log-probability of the behavior is known, another shape, or another kind.

    >>> import jax.numpy as jnp
    >>> import opd
    >>> rollout = opd.Rollout.of(jnp.array([[1, 0], [2, 2]]), logp_behavior=jnp.zeros((2, 2)))
    >>> float(opd.ess(rollout, jnp.array([[0.0, 0.0], [-50.0, -50.0]])))  # one of two is left
    0.5
    """
    if kind not in importance.LOG_RATIOS:
        raise ValueError(f"no kind {kind!r}: {', '.join(importance.LOG_RATIOS)} are allowed")
    logp, shape = jnp.asarray(logp_student), rollout.tokens.shape
    if logp.shape != shape:
        raise ValueError(f"logp_student has shape {logp.shape}: {shape} is allowed")
    unknown = _unknown(rollout)
    if unknown is not None and unknown.sum() == np.asarray(rollout.mask).sum():
        raise ValueError("the rollout's logp_behavior is unknown (NaN): ess needs it")
    return metrics.ess(rollout, logp, kind)


# ---------------------------------------------------------------------------------------- checks


def _numbers(array: Any) -> np.ndarray | None:
    """An array's numbers on the host; None where it is traced and has none yet."""
    return None if isinstance(array, jax.core.Tracer) else np.asarray(array)


def _unknown(rollout: Rollout) -> np.ndarray | None:
    """The graded tokens whose behavior's log-probability is NaN, on the host, if it is there."""
    mask, logp = _numbers(rollout.mask), _numbers(rollout.logp_behavior)
    return None if mask is None or logp is None else mask & np.isnan(logp)


def _pass(temperature: float, chunk: int | None) -> Pass:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}: a number above 0 is allowed")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}: at least 1 is allowed")
    return Pass(float(temperature), None if chunk is None else int(chunk))


def _sides(
    rollout: Rollout, student: ArrayLike | Head, teacher: ArrayLike | Head | None
) -> tuple[Head, Head | None]:
    """Both sides of the vocabulary, of shapes that go together and with the rollout."""
    head = _side("logits_student", student, rollout)
    other = None if teacher is None else _side("logits_teacher", teacher, rollout)
    if other is not None and _ids(other) != _ids(head):
        raise ValueError(
            f"logits_teacher has {_ids(other)} tokens: the student's {_ids(head)} are allowed"
        )
    tokens, mask = _numbers(rollout.tokens), _numbers(rollout.mask)
    if tokens is not None and mask is not None:
        graded = tokens[mask]
        if graded.size and not (graded.min() >= 0 and graded.max() < _ids(head)):
            raise ValueError(
                f"tokens from {graded.min()} to {graded.max()}: 0 to {_ids(head) - 1} are allowed"
            )
    return head, other


def _side(name: str, side: ArrayLike | Head, rollout: Rollout) -> Head:
    head = side if isinstance(side, Head) else Head(jnp.asarray(side))
    hidden, matrix, grid = head.hidden, head.unembedding, rollout.tokens.shape
    last = "V" if matrix is None else "D"
    if hidden.ndim != 3 or hidden.shape[:2] != grid:
        raise ValueError(
            f"{name} has shape {hidden.shape}: [B, T, {last}] with [B, T] = {list(grid)}, "
            "the tokens', is allowed"
        )
    if not jnp.issubdtype(hidden.dtype, jnp.floating):
        raise ValueError(f"{name} is of {hidden.dtype}: floating-point numbers are allowed")
    if matrix is not None and (matrix.ndim != 2 or matrix.shape[1] != hidden.shape[2]):
        raise ValueError(
            f"{name} has an unembedding of shape {matrix.shape}: [V, {hidden.shape[2]}] is allowed"
        )
    return head


def _ids(head: Head) -> int:
    """How many tokens there are."""
    if head.tokens is not None:
        return head.tokens
    return head.hidden.shape[2] if head.unembedding is None else head.unembedding.shape[0]


# What only some rows ask of a rollout, and whether a term does.
ASKED: dict[str, Callable[[Term], bool]] = {
    "reward": lambda term: term.signal == "reward" or term.gate != "none",
    "version": lambda term: term.on != "all",
    "logp_reference": lambda term: term.signal == "reference",
    "value": lambda term: term.baseline == "value",
    "logp_proximal": lambda term: term.correction != "none",
}


def _check_method(method: Method, rollout: Rollout, student: Head, teacher: Head | None) -> None:
    """Refuses a method whose needs rollout and arguments lack, by name."""
    facts.fits(method, _ids(student))
    if teacher is None and not costs.GRADED.isdisjoint(facts.needs(method)):
        raise ValueError(f"{method.name} needs a teacher: logits_teacher is missing")
    for field, asked in ASKED.items():
        if getattr(rollout, field) is None and any(map(asked, method.terms)):
            raise ValueError(f"{method.name} needs {field}, and the rollout has none")
    ratio = any(term.importance != "none" for term in method.terms)
    corrected = any(term.correction != "none" for term in method.terms)
    if corrected or (ratio and rollout.logp_proximal is None):
        unknown = _unknown(rollout)
        if unknown is not None and unknown.any():
            raise ValueError(
                f"{method.name} needs logp_behavior, and the rollout's is unknown (NaN) at "
                f"{unknown.sum()} graded tokens"
            )
    grouped = any("group" in facts.compares(term) for term in method.terms)
    group = _numbers(rollout.group)
    if grouped and group is not None and len(np.unique(group)) == len(group):
        raise ValueError(
            f"{method.name} compares the rollouts of a group, and each of the rollout's groups has "
            "one: group is missing"
        )


def _uniforms(
    method: Method, rollout: Rollout, uniforms: ArrayLike | None, seed: int | None
) -> Array | None:
    """What a row's fresh candidates are drawn by; None for a row that draws none."""
    count = vocab.draws((method.rules,))
    if count == 0:
        return None
    if (uniforms is None) == (seed is None):
        raise ValueError(
            f"{method.name} draws candidates afresh: either seed or uniforms [B, T, {count}] must "
            f"be given, and {'neither is' if seed is None else 'both are'}"
        )
    if uniforms is None:
        return estimator.fresh_uniforms(seed, 0, rollout, (method,))
    given, grid = jnp.asarray(uniforms), rollout.tokens.shape
    if given.ndim != 3 or given.shape[:2] != grid or given.shape[2] < count:
        raise ValueError(f"uniforms have shape {given.shape}: {[*grid, count]} is allowed")
    return given

"""A transformer student and teacher on a tree that is enumerated whole, in float64.

Two prompts of different lengths (one left-padded), V = 4, depth 4, EOS ends branches early. The
student is the project's own decoder, its embedding tied in every other seed, so its parameters are
shared by all states; the oracle gets its logits and their Jacobian at every state and knows
nothing else of it.

Run under `jax.enable_x64(True)`.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.claims.lab import law
from opd.engine import estimator, steps, vocab
from opd.engine.vocab import Head, Pass
from opd.measure import exact
from opd.method import facts
from opd.method.table import Method
from opd.model.decoder import Decoder, DecoderConfig
from opd.types import Coefficients, Rollout, TokenStats

V, DEPTH, EOS, PAD = 4, 4, 3, 0
PROMPTS = ((1, 2, 0), (2,))
HOW = Pass(chunk=3)  # two chunks, the second padded
TREE = exact.tree(V, DEPTH, EOS, prompts=len(PROMPTS), pad=PAD)


def decoder(width: int, tied: bool) -> Decoder:
    return Decoder(
        DecoderConfig(
            vocab=V,
            width=width,
            layers=2,
            heads=2,
            kv_heads=1,
            head_dim=4,
            mlp=width,
            qk_norm=True,
            tied=tied,
            dtype="float64",
            param_dtype="float64",
            max_length=8,
        )
    )


STUDENTS, TEACHER = (decoder(6, tied=False), decoder(6, tied=True)), decoder(10, tied=True)


def every_sequence() -> Rollout:
    """Each sequence of the tree once, as a rollout."""
    longest = max(map(len, PROMPTS))
    padded = [(PAD,) * (longest - len(p)) + p for p in PROMPTS]
    real = [(False,) * (longest - len(p)) + (True,) * len(p) for p in PROMPTS]
    count = len(TREE.tokens)
    return Rollout(
        prompt=jnp.asarray(padded, jnp.int32)[TREE.prompt],
        prompt_mask=jnp.asarray(real)[TREE.prompt],
        tokens=jnp.asarray(TREE.tokens, jnp.int32),
        mask=jnp.asarray(TREE.mask),
        logp_behavior=jnp.zeros((count, DEPTH)),
        ended=jnp.asarray(TREE.ended),
        group=jnp.asarray(TREE.prompt),
        row=jnp.arange(count),
        version=jnp.zeros(count, jnp.int32),
    )


def take(rollout: Rollout, index) -> Rollout:
    return jax.tree.map(lambda leaf: leaf[index], rollout)


def spread(params, seed):
    """Larger weights than an init's, so that policies are far from uniform and from each other."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape) * 0.5, params)


@dataclasses.dataclass
class Lab:
    """One seed: parameters, every sequence, its probability, and the oracle's problem.

    `logp_reference` [S, V] is a third policy's, and `value` [S] a critic's estimates.
    """

    seed: int
    student: Decoder
    params: object
    teacher: Head
    rollout: Rollout
    problem: exact.Problem
    logp_reference: np.ndarray
    value: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        return self.problem.joint


def _at_states(head: Head):
    """Logits [S, V] at every state, each read off one sequence that passes it."""
    logits = jnp.einsum("btd,vd->btv", head.hidden, head.unembedding)
    where = [np.argwhere(TREE.visited == s)[0] for s in range(len(TREE.child))]
    rows, times = np.array(where).T
    return logits[rows, times]


@partial(jax.jit, static_argnums=0)
def _student_at_states(student, params):
    """Logits [S, V], and their Jacobian as a tree with leaves [S, V, ...]."""

    def logits(params):
        return _at_states(steps.head(student, params, every_sequence()))

    return logits(params), jax.jacrev(logits)(params)


@jax.jit
def _teacher_head(params):
    return steps.head(TEACHER, params, every_sequence())


def build(seed: int) -> Lab:
    student = STUDENTS[seed % 2]
    params = spread(student.init(jax.random.key(seed)), seed)
    teacher = _teacher_head(spread(TEACHER.init(jax.random.key(seed + 100)), seed + 100))
    logits, jacobian = _student_at_states(student, params)
    reward = np.random.default_rng(seed).uniform(size=len(TREE.tokens)).round(1)
    problem = exact.problem(
        TREE,
        np.asarray(logits),
        np.asarray(jax.nn.log_softmax(_at_states(teacher))),
        np.concatenate([np.reshape(x, (*logits.shape, -1)) for x in jax.tree.leaves(jacobian)], -1),
        reward=reward,
    )
    value = np.random.default_rng(seed + 1).normal(size=len(TREE.child))
    other = _teacher_head(spread(TEACHER.init(jax.random.key(seed + 200)), seed + 200))
    logp_reference = np.asarray(jax.nn.log_softmax(_at_states(other)))
    rollout = dataclasses.replace(
        every_sequence(),
        reward=jnp.asarray(reward),
        logp_behavior=jnp.asarray(exact.at_actions(TREE, problem.logp)),
        logp_reference=jnp.asarray(exact.at_actions(TREE, logp_reference)),
        value=jnp.asarray(exact.at_states(TREE, value)),
    )
    return Lab(seed, student, params, teacher, rollout, problem, logp_reference, value)


def spoiled(lab: Lab, seed: int) -> exact.Problem:
    """The lab's problem with another student, whose rollouts are stale or foreign to the lab's."""
    head = student_head(lab.student, spread(lab.params, seed), lab.rollout)
    return dataclasses.replace(lab.problem, logits=np.asarray(_at_states(head)))


def claim(lab: Lab, method: Method, reach: np.ndarray | None = None) -> np.ndarray:
    """What a method says it is unbiased for, [M]; on other states than the student's, if given."""
    return sum(part.coef * _claim(lab, part, reach) for part in facts.parts(method))


KINDS = {0.0: "myopic", 1.0: "sequence"}


def myopic(part: facts.Part) -> bool:
    """Whether a part is a state's own divergence."""
    return part.signal == "divergence" and part.gamma == 0


def _claim(lab: Lab, part: facts.Part, reach: np.ndarray | None) -> np.ndarray:
    teacher = lab.logp_reference if part.to == "reference" else lab.problem.logp_teacher
    problem = dataclasses.replace(lab.problem, logp_teacher=teacher)
    argument = () if part.argument is None else (part.argument,)
    loss = (part.divergence, *argument)
    if reach is None:
        kind = "reward" if part.signal == "reward" else KINDS.get(part.gamma, "discounted")
        return exact.target_gradient(problem, kind, loss, part.gamma)
    assert myopic(part), "only a state's own divergence has other states to be on"
    slope = exact.divergence_gradient(loss, problem.logits, problem.logp_teacher)
    return -np.einsum("s,sv,svm->m", reach, slope, problem.jacobian)


def batch_coefficients(lab: Lab, methods: tuple[Method, ...]) -> tuple[Coefficients, ...]:
    """The library's coefficients with every sequence as one rollout of one batch."""
    return _coefficients(methods, lab.rollout, token_stats(lab, methods))


def token_stats(lab: Lab, methods: tuple[Method, ...]) -> TokenStats:
    student = student_head(lab.student, lab.params, lab.rollout)
    how = estimator.asking(HOW, methods)
    return vocab_stats(student, lab.teacher, lab.rollout.tokens, how)


_coefficients = jax.jit(estimator.coefficients_of, static_argnums=0)


def scaled(coefs: Coefficients, factor) -> Coefficients:
    """Coefficients times a number for each rollout, or each token."""
    factor = jnp.asarray(factor)
    factor = factor[:, None] if factor.ndim == 1 else factor
    return jax.tree.map(lambda leaf: leaf * factor, coefs)


def flat_rows(gradients) -> np.ndarray:
    """[K, M] in the order of the Jacobian's columns."""
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients))


pull_back = jax.jit(steps.pull_back, static_argnums=(0, 4, 6))
vocab_stats = jax.jit(vocab.stats, static_argnums=3)
student_head = jax.jit(steps.head, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def through_body(student: Decoder, params, cotangent: Head):
    """The vjp of the student's forward on a stack [K] of cotangents."""
    _, vjp = jax.vjp(lambda params: steps.head(student, params, every_sequence()), params)
    return jax.vmap(vjp)(cotangent)[0]


def pulled(lab: Lab, methods, given) -> np.ndarray:
    """The pull-back that trainer and probe call, on coefficients that hold probabilities."""
    gradients, _ = pull_back(
        lab.student, lab.params, lab.rollout, lab.teacher, methods, None, HOW, tuple(given)
    )
    return flat_rows(gradients)


def expected(lab: Lab, methods: tuple[Method, ...], probability=None) -> np.ndarray:
    """E of each row's gradient [K, M], for rows that draw nothing afresh and look at no other."""
    probability = lab.probability if probability is None else probability
    given = batch_coefficients(lab, methods)
    count = len(lab.probability)
    given = [scaled(coefs, count * probability) for coefs in given]
    return pulled(lab, methods, given)


def expected_fresh(lab: Lab, method: Method) -> np.ndarray:
    """E [M] of a row that draws candidates: every tuple of draws at every position, weighted.

    The uniforms fed in are the midpoints of the draws' CDF intervals, in vocabulary order.
    """
    (rule,) = method.rules
    tuples = np.stack(np.meshgrid(*[np.arange(V)] * rule.draws, indexing="ij"), -1)
    tuples = tuples.reshape(-1, rule.draws)  # [R, k]
    chance_of = law(lab.problem, rule)  # [S, V]
    middle = np.cumsum(chance_of, -1) - chance_of / 2
    at = TREE.visited  # [N, T], -1 off the mask
    uniforms = middle[at][:, :, tuples]  # [N, T, R, k]
    chance = chance_of[at][:, :, tuples].prod(-1)  # [N, T, R]
    (coefs,) = batch_coefficients(lab, (method,))
    weight = len(lab.probability) * lab.probability[:, None, None] * chance
    student = student_head(lab.student, lab.params, lab.rollout)
    cotangent = _pull_draws(method, student, lab, coefs, weight, uniforms)
    return flat_rows(through_body(lab.student, lab.params, cotangent))[0]


def _pull_draws(method, student, lab, coefs, weight, uniforms) -> Head:
    """The vocabulary pass with each tuple of draws r in turn, added up: cotangents [1, ...]."""

    @jax.jit
    def run(student, teacher, rollout, coefs, weight, uniforms):
        def one(weight, uniforms):
            own = (scaled(coefs, weight),)
            return estimator.cotangents(student, teacher, rollout, (method,), uniforms, HOW, own)[0]

        many = jax.vmap(one, in_axes=2)(weight, uniforms)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), many)

    return run(student, lab.teacher, lab.rollout, coefs, weight, uniforms)


def expected_grouped(lab: Lab, methods: tuple[Method, ...], size: int = 2) -> np.ndarray:
    """E [K, M] over all ordered groups of one prompt, each a batch by itself."""
    given = group_coefficients(lab, methods, exact.groups(lab.problem, size))
    return pulled(lab, methods, given)


def group_coefficients(lab: Lab, methods: tuple[Method, ...], groups) -> list[Coefficients]:
    """Coefficients of every group, times its probability, added up by sequence."""
    members = jnp.asarray(groups.members)  # [number, size]
    found = _of_groups(methods, lab.rollout, token_stats(lab, methods), members)
    weight = groups.prob[:, None, None]

    def added(leaf):
        total = np.zeros(lab.rollout.mask.shape)
        np.add.at(total, groups.members, weight * np.asarray(leaf))
        return jnp.asarray(total)

    return [jax.tree.map(added, coefs) for coefs in found]


@partial(jax.jit, static_argnums=0)
def _of_groups(methods, rollout, stats, members) -> tuple[Coefficients, ...]:
    def one(members):
        batch, known = take(rollout, members), take(stats, members)
        batch = dataclasses.replace(batch, group=jnp.zeros_like(members))
        return _coefficients(methods, batch, known)

    return jax.vmap(one)(members)

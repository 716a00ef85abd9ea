"""E1: exposure bias: a cloned student pays eps H^2, one trained on its own rollouts eps H.

A walk on a tightrope: at each of H steps the right action keeps the walker on the rope, and off it
brings it back with probability r. A step off the rope costs 1. The student has one row of logits
on the rope and one off it, and learns from drawn rollouts until its error is eps: the chance of
a wrong action, on the states that it is trained on.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.claim import (
    CAVEAT,
    Claim,
    Effort,
    Finding,
    Judgement,
    Number,
    Numbers,
    estimated,
)
from experiments.claims.learning.training import push
from opd.method import table

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class World:
    """How likely the right action brings the walker back, and how likely the start takes it."""

    recovery: float
    habit: float


WORLDS = {
    "rope": World(0.5, 1e-4),  # off the rope the start knows one wrong action
    "cliff": World(0.0, 1e-4),
    "chance": World(0.5, 0.5),  # off the rope the start tries either action
}
# The same loss on the teacher's states and on the student's own; and distillation as it is done.
CLONED, OWN_LABELS, OWN = "soft_label@behavior=teacher", "soft_label", "opd"
HORIZONS = np.array([4, 8, 16, 32, 64, 128, 256])
ERRORS = np.geomspace(1e-4, 1e-2, 5)
ROLLOUTS, UPDATES, RATE = 16, 280, 0.1
SURE = 30.0  # the teacher's logit of the right action: it never leaves the rope
SLACK = 0.25  # of an exponent, 1 or 2: short horizons bend the line by 0.1
MIDDLE = 1.5


def teacher(world: World) -> Array:
    """Log-probabilities of the right action and the wrong one, on the rope and off it, [2, 2].

    Where there is no way back no action off the rope is better than the other.
    """
    logits = np.array([[SURE, 0.0], [SURE if world.recovery > 0 else 0.0, 0.0]])
    return logits - np.logaddexp(*logits.T)[:, None]


def start(world: World, seed: int) -> Array:
    """The student's logits [2, 2] before training."""
    logits = np.array([[0.0, 0.0], [np.log(world.habit), np.log1p(-world.habit)]])
    return logits + 0.3 * np.random.default_rng(seed).normal(size=(2, 2))


def fallen(right: jax.Array, off: jax.Array, recovery: jax.Array) -> jax.Array:
    """The chance to be off the rope at the next step, from that of now; right(on), right(off)."""
    return off * (1 - recovery * right[1]) + (1 - off) * (1 - right[0])


def cost(right: jax.Array, horizon: jax.Array, recovery: jax.Array) -> jax.Array:
    """Expected steps off the rope, of `horizon` steps that start on it: exact."""
    t, slip, back = jnp.arange(HORIZONS.max()), 1 - right[0], recovery * right[1]
    off = slip * (1 - (1 - slip - back) ** t) / (slip + back)  # solves off_{t+1} = fallen(off_t)
    return jnp.sum(jnp.where(t < horizon, off, 0.0))


def visits(key: jax.Array, right: jax.Array, horizon: jax.Array, recovery: jax.Array):
    """How often a batch of drawn rollouts is on the rope and off it, as shares of its steps [2]."""

    def step(off: jax.Array, drawn: tuple[jax.Array, jax.Array]):
        t, uniform = drawn
        chance = fallen(right, off.astype(float), recovery)
        return uniform < chance, jnp.sum(off & (t < horizon))

    uniforms = jax.random.uniform(key, (HORIZONS.max(), ROLLOUTS), jnp.float32)
    first = jnp.zeros(ROLLOUTS, bool)
    _, counts = jax.lax.scan(step, first, (jnp.arange(HORIZONS.max()), uniforms))
    off = jnp.sum(counts) / (ROLLOUTS * horizon)
    return jnp.stack([1 - off, off])


@partial(jax.jit, static_argnums=0)
def train(row: str, start, teacher, horizon, recovery, key):
    """Error and cost after each update, [walks, UPDATES]: RMSprop on the row's gradient."""
    optimizer = optax.rmsprop(RATE, decay=0.9)
    by_teacher = table.parse(row).behavior == "teacher"

    def walk(start, teacher, horizon, recovery, key):
        def update(now, count):
            logits, state = now
            right = jax.nn.softmax(logits)[:, 0]
            actor = jnp.exp(teacher[:, 0]) if by_teacher else right
            share = visits(jax.random.fold_in(key, count), actor, horizon, recovery)
            ascent = push(row, teacher, logits, share)
            change, state = optimizer.update(-ascent, state)
            paid = cost(right, horizon, recovery)
            off = 0.0 if by_teacher else paid / horizon  # the teacher never falls
            error = (1 - off) * (1 - right[0]) + off * (1 - right[1]) * (recovery > 0)
            return (optax.apply_updates(logits, change), state), (error, paid)

        return jax.lax.scan(update, (start, optimizer.init(start)), jnp.arange(UPDATES))[1]

    return jax.vmap(walk)(start, teacher, horizon, recovery, key)


def costs(row: str, seeds: range) -> dict[str, Array]:
    """What a student pays when its error has come down to each of ERRORS, by world: [seeds, H, E].

    NaN where training has not brought the error down so far.
    """
    cells = [(world, seed, h) for world in WORLDS.values() for seed in seeds for h in HORIZONS]
    given = (
        np.stack([start(world, seed) for world, seed, _ in cells]),
        np.stack([teacher(world) for world, _, _ in cells]),
        np.array([h for _, _, h in cells]),
        np.array([world.recovery for world, _, _ in cells]),
        jnp.stack([jax.random.key(1000 * seed + h) for _, seed, h in cells]),
    )
    error, paid = map(np.asarray, train(row, *map(jnp.asarray, given)))
    found = np.array([[reached(e, p, goal) for goal in ERRORS] for e, p in zip(error, paid)])
    return dict(zip(WORLDS, found.reshape(len(WORLDS), len(seeds), len(HORIZONS), len(ERRORS))))


def reached(error: Array, paid: Array, goal: float) -> float:
    """The cost where the error first comes down to the goal, between two updates on log axes."""
    if error.min() > goal:
        return np.nan
    k = int(np.argmax(error <= goal))
    last, now = np.log(error[k - 1]), np.log(error[k])
    part = (last - np.log(goal)) / (last - now)
    return float(np.exp((1 - part) * np.log(paid[k - 1]) + part * np.log(paid[k])))


def measure(effort: Effort) -> Finding:
    """Exponents in H at the least error, and in the error at a middle horizon."""
    paid = {row: costs(row, effort.seeds) for row in (CLONED, OWN_LABELS, OWN)}
    middle = int(np.flatnonzero(HORIZONS == 16)[0])

    def in_horizon(row: str, world: str, what: str) -> Number:
        name = f"exponent of {what} cost in the horizon"
        return estimated(name, fits.exponent(HORIZONS, paid[row][world][:, :, 0]))

    def in_error(row: str, what: str) -> Number:
        name = f"exponent of {what} cost in the error"
        return estimated(name, fits.exponent(ERRORS, paid[row]["rope"][:, middle]))

    numbers = {
        "cloned": in_horizon(CLONED, "rope", "the clone's"),
        "own": in_horizon(OWN, "rope", "the on-policy student's"),
        "labels": in_horizon(OWN_LABELS, "rope", "the clone's loss, on own rollouts,"),
        "cliff": in_horizon(OWN, "cliff", "the on-policy student's, no way back,"),
        "chance": in_horizon(CLONED, "chance", "the clone's, way back found by chance,"),
        "cloned_error": in_error(CLONED, "the clone's"),
        "own_error": in_error(OWN, "the on-policy student's"),
    }
    where = (
        f"a walk of 2 states and 2 actions, horizons {HORIZONS[0]} to {HORIZONS[-1]} at an error "
        f"of {ERRORS[0]:g}, errors {ERRORS[0]:g} to {ERRORS[-1]:g} at 16 steps; recovery "
        f"{WORLDS['rope'].recovery} or none; {ROLLOUTS} rollouts an update, at most {UPDATES} "
        f"updates, RMSprop at {RATE}; costs by dynamic programming"
    )
    return Finding(numbers, "own", where, effort.seeds, figure=drawn(paid, numbers))


def drawn(paid: dict[str, dict[str, Array]], numbers: Numbers) -> Figure:
    """Cost against horizon, with lines of slope 1 and 2."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    lines = {
        "cloned": (CLONED, "rope", "cloned", "o-"),
        "own": (OWN, "rope", "on own rollouts", "s-"),
        "cliff": (OWN, "cliff", "on own rollouts, no way back", "^--"),
        "chance": (CLONED, "chance", "cloned, way back by chance", "v--"),
    }
    for key, (row, world, label, style) in lines.items():
        values = paid[row][world][:, :, 0].mean(0)
        label = f"{label}: {numbers[key].value:.2f}"
        axes.loglog(HORIZONS, values, style, markersize=4, label=label)
    for order in (1, 2):
        axes.loglog(HORIZONS, ERRORS[0] * HORIZONS.astype(float) ** order / 2, ":", color="grey")
    axes.set(xlabel="horizon H, steps", ylabel=f"cost at error {ERRORS[0]:g}, steps off the rope")
    axes.legend(fontsize="small", title="exponent (dotted: 1 and 2)", title_fontsize="small")
    return figure


def judge(numbers: Numbers) -> Judgement:
    """Exponents 2 and 1 on the rope; a caveat where the other worlds have another exponent."""
    near, linear = rules.near, ("own", "labels", "cloned_error", "own_error")
    as_said = near(numbers["cloned"], 2, SLACK) and all(
        near(numbers[name], 1, SLACK) for name in linear
    )
    if as_said and rules.above(numbers["cliff"], MIDDLE):
        also = rules.below(numbers["chance"], MIDDLE)
        return Judgement(
            CAVEAT,
            "a mistake can be made good: where there is no way back, H^2 is paid on own rollouts "
            "too" + ("; and the clone's H^2 needs a start that doesn't recover by chance" * also),
        )
    unlike = rules.below(numbers["cloned"], MIDDLE) or rules.above(numbers["own"], MIDDLE)
    return Judgement(rules.settle(as_said, unlike))


CLAIM = Claim(
    "E1",
    "exposure bias: eps H^2 and eps H",
    "At an error of eps a step on the states that it was trained on, a student cloned from its "
    "teacher's rollouts pays a cost that grows like eps H^2 with the horizon, and one trained on "
    "its own rollouts pays eps H.",
    measure,
    judge,
    wrong="The exponents could come from the loss instead of the states: the clone's loss on own "
    "rollouts gives the on-policy exponent. The cost's formula was compared with all walks of 7 "
    "steps. The exponents follow from what is learnt off the rope: with a start that finds back by "
    "chance the clone is linear too, with no way back nobody is. A transformer off its teacher's "
    "states is somewhere between the two starts.",
    advice="Roll out from the student where its mistakes can be made good. Where one is final, "
    "lower the error itself: on-policy rollouts don't change the exponent there.",
)

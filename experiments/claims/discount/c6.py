"""C6: gamma = 0 is exact for the surrogate with detached states; where do refreshes lead?"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import rules
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    exactly,
    spread,
    worst,
)
from experiments.claims.discount.shared import (
    ENDLESS,
    FULL,
    MYOPIC,
    RATE,
    TRAINED,
    costs,
    train,
    twins,
)
from experiments.claims.lab import STUDENTS, Shape, lab, mean, relative, rollout, vectors

SHAPES = (Shape(depth=4, width=2), Shape(vocab=2, depth=4, eos=None, width=2))
REFRESHED = (TRAINED[1], ENDLESS)
REFRESH, UPDATES = 50, 6_000
REACHED = 1e-2  # of V at the start: a hundredth is as good as the teacher here


@partial(jax.jit, static_argnums=0)
def surrogate_slope(shape: Shape, theta, reach, logp_teacher):
    """-grad sum_s d(s) KL(pi_theta(.|s) || p(.|s)), d held, by autodiff."""

    def surrogate(theta):
        logp = jax.nn.log_softmax(STUDENTS[shape.student].logits(shape, theta))
        return -reach @ (jnp.exp(logp) * (logp - logp_teacher)).sum(-1)

    return jax.grad(surrogate)(theta)


def errors(shape: Shape, seed: int) -> tuple[float, float]:
    """Of the library's row at the last refresh, and after updates on its rollouts."""
    start = lab(shape, seed)
    here = start.problem
    theta = start.theta + np.random.default_rng(seed).normal(size=shape.size) / 3
    later = start.at(theta)
    wanted = [
        surrogate_slope(shape, at, here.reach, here.logp_teacher) for at in (start.theta, theta)
    ]
    now = mean(here, vectors(here, MYOPIC)[MYOPIC])
    stale = vectors(later, MYOPIC, batch=rollout(later, behavior=here))[MYOPIC]
    found = now, mean(later, stale, behavior=here)
    return tuple(relative(a, np.asarray(b)) for a, b in zip(found, wanted, strict=True))


def measure(effort: Effort) -> Finding:
    """The gradient by autodiff; then refreshed trainings, and what the full gradient adds."""
    fresh, stale = zip(
        *(errors(shape, seed) for shape in SHAPES for seed in effort.seeds), strict=True
    )
    left, gained, still = [], [], []
    for shape in REFRESHED:
        matched, unmatched = twins(shape, effort.trees)
        labs = matched + unmatched
        myopic = train(labs, MYOPIC, steps=UPDATES, refresh=REFRESH)[:, -1]
        again = train(labs, MYOPIC, list(myopic), steps=UPDATES, refresh=REFRESH)[:, -1]
        full = train(labs, FULL, list(myopic), steps=UPDATES)[:, -1]
        paths = np.stack([[each.theta for each in labs], myopic, again, full], 1)
        values = np.array([costs(*pair) for pair in zip(labs, paths, strict=True)])
        first, last, same, more = values.T
        left += list((last / first)[: len(matched)])
        gained += list((1 - more / last)[len(matched) :])
        still += list(np.abs(1 - same / last)[len(matched) :])
    ended = np.array(still) < rules.CLEAR  # as many updates again leave V where it is
    numbers = {
        "fresh": worst("relative error against the surrogate's gradient, at the refresh", fresh),
        "stale": worst("relative error against it after updates on the same rollouts", stale),
        "left": worst("V at the end / V at the start, a teacher in reach", left),
        "gained": spread(
            "share of V that gamma = 1 takes off after gamma = 0 has ended, teacher out of reach",
            np.array(gained)[ended],
        ),
        "ended": exactly("share of those trainings that had ended", ended.mean()),
    }
    where = (
        f"{'; '.join(map(str, SHAPES))}; refreshed: {'; '.join(map(str, REFRESHED))}, "
        f"{UPDATES} steps of plain ascent at rate {RATE}, rollouts refreshed every {REFRESH}"
    )
    return Finding(numbers, "gained", where, effort.seeds)


def judge(numbers: Numbers) -> Judgement:
    """Exact, and the optimum is reached: everywhere, or only where the teacher is in reach."""
    right = max(numbers["fresh"].high, numbers["stale"].high) <= rules.EXACT
    wrong = max(numbers["fresh"].high, numbers["stale"].high) > rules.CLEAR
    reached = rules.below(numbers["left"], REACHED)
    optimal = rules.below(numbers["gained"], rules.CLEAR)
    if right and reached and numbers["gained"].high > rules.CLEAR:
        return Judgement("holds with caveat", CAVEAT)
    return Judgement(rules.settle(right and reached and optimal, wrong))


CAVEAT = (
    "the student can match the teacher; otherwise the surrogate's gradient is as exact, but "
    "refreshes settle where V is not least"
)
CLAIM = Claim(
    "C6",
    "exact on the detached surrogate",
    "gamma = 0 is the exact gradient of the surrogate whose states are those of the last refresh, "
    "and refreshing again and again leads to the least V.",
    measure,
    judge,
    wrong="A training that was stopped too early looks like a fixed point that isn't the optimum: "
    "what gamma = 1 adds is read where as many updates of gamma = 0 again change V by less than "
    "a thousandth. Recurrent students can get stuck on the way "
    "with either gradient, so that these are linear in their parameters.",
    advice="Reuse rollouts with gamma = 0 and no ratio if you mean the surrogate, then refresh. "
    "Where the student is too small for the teacher, finish with gamma = 1 if V is the goal.",
)

"""A7: every divergence has a sampled form; a detached f(p/pi) is one for reverse KL only."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.claims import rules, trees
from experiments.claims.algebra.shared import WHERE, at_point, cosine, point_size, problems
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
from experiments.claims.lab import Shape, fresh, mean, problem, relative, vectors
from experiments.claims.search import Found, search, simplify
from opd.measure import exact
from opd.measure.exact import REVERSE, Loss, Problem
from opd.method import local

Array = np.ndarray
FORWARD: Loss = ("forward_kl",)
OTHERS: tuple[Loss, ...] = (
    FORWARD,
    ("jeffreys",),
    ("jsd", 0.1),
    ("jsd", 0.5),
    ("skew", 0.1),
    ("skew_reverse", 0.1),
)
# One state; with two tokens any falling f points the right way.
SMALLEST = tuple(Shape(vocab=v, depth=1, eos=None, student="constant") for v in (2, 3))
STEPS = 60


def row(base: str, loss: Loss) -> str:
    """The row's name with a divergence."""
    argument = "".join(f",argument={x}" for x in loss[1:])
    return f"{base}@divergence={loss[0]}{argument}"


# Forward KL's sampled token comes from the teacher, and is drawn afresh.
SAMPLED = {loss: row("opd_sampled", loss) for loss in (REVERSE, *OTHERS) if loss != FORWARD}
SOFT = "soft_label@expectation=sampled"
ENUMERATED = {loss: row("opd", loss) for loss in OTHERS} | {FORWARD: "soft_label"}


def per_token(here: Problem, loss: Loss) -> Array:
    """f [S, V] of the ratio p/pi, D = E_pi f: the divergence's summand over pi, by the library."""
    value = local.DIVERGENCES[loss[0]].value
    both = jnp.asarray(here.logp_teacher), jnp.asarray(here.logp)
    return np.asarray(value(*both, *loss[1:] or (None,))) / here.probs


def detached(here: Problem, f: Array) -> Array:
    """E of the policy gradient with -f [S, V] of the token as its reward, gamma 0: [M]."""
    return mean(here, exact.policy_gradient(here, exact.at_actions(here.tree, -f), 0.0).h)


def sampled_errors(here: Problem) -> list[float]:
    """Of the library's sampled rows against -grad D."""
    h = vectors(here, *SAMPLED.values())
    found = {loss: mean(here, h[name]) for loss, name in SAMPLED.items()}
    found[FORWARD] = mean(here, fresh(here, SOFT).h)
    return [relative(g, exact.target_gradient(here, "myopic", loss)) for loss, g in found.items()]


def detached_error(here: Problem, loss: Loss, extra: Array | float = 0.0) -> float:
    """Of the detached value, with something added to f, against -grad D."""
    wanted = exact.target_gradient(here, "myopic", loss)
    return relative(detached(here, per_token(here, loss) + extra), wanted)


def climbs(shape: Shape, loss: Loss):
    """How far the detached reward's gradient is from going down: above 0 where it climbs D."""
    summand = exact.DIVERGENCES[loss[0]]

    def value(point: Array) -> float:
        theta, logp_teacher = at_point(shape, point)  # one state: the parameters are its logits
        probs = np.exp(exact.log_softmax(theta))
        reward = -summand(probs, np.exp(logp_teacher[0]), *loss[1:]) / probs
        found = probs * (reward - probs @ reward)
        wanted = -exact.divergence_gradient(loss, theta[None], logp_teacher)[0]
        sizes = np.linalg.norm(found), np.linalg.norm(wanted)
        return -found @ wanted / np.prod(sizes) - 0.05 if min(sizes) > 0.01 else -np.inf

    return value


def looked_for(loss: Loss, effort: Effort) -> tuple[Shape, Found]:
    """On the smallest shape that has an example within the budget."""
    for shape in SMALLEST:
        found = search(climbs(shape, loss), point_size(shape), effort.starts, STEPS, seed=0)
        if found.successes:
            break
    return shape, found


def example(loss: Loss, shape: Shape, found: Found) -> tuple[Problem, float]:
    """The point made round, and the cosine of REINFORCE on -f with the library's own -grad D."""
    point = simplify(climbs(shape, loss), found.point) if found.successes else found.point
    here = problem(shape, *at_point(shape, point))
    reward = -per_token(here, loss)[0]  # one token a rollout: the reward is paid at the end
    graded = exact.problem(here.tree, here.logits, here.logp_teacher, here.jacobian, reward=reward)
    h = vectors(graded, "reinforce", *ENUMERATED.values())
    return here, cosine(mean(graded, h["reinforce"]), mean(graded, h[ENUMERATED[loss]]))


def measure(effort: Effort) -> Finding:
    """Sampled forms and detached values on random trees, and least trees where the latter climb."""
    forms, right, others, gauge = [], [], [], []
    for here in problems(effort):
        forms += sampled_errors(here)
        right.append(detached_error(here, REVERSE))
        others += [detached_error(here, loss) for loss in OTHERS]
        ratio = np.exp(here.logp_teacher) / here.probs
        gauge.append(detached_error(here, REVERSE, ratio - 1))
    hits = {loss: looked_for(loss, effort) for loss in OTHERS}
    examples = {loss: example(loss, *hit) for loss, hit in hits.items()}
    shown, cosines = examples[FORWARD][0], {loss: turn for loss, (_, turn) in examples.items()}
    f = np.round(per_token(shown, FORWARD)[0], 3)
    each = ", ".join(
        f"{' '.join(map(str, loss))} {turn:.2f} (V {hits[loss][0].vocab})"
        for loss, turn in cosines.items()
    )
    numbers = {
        "cosine": exactly(
            "cosine of detached forward KL's gradient and -grad D, example", cosines[FORWARD]
        ),
        "climb": exactly(
            f"of {len(OTHERS)} other divergences, those that a detached value climbs somewhere",
            sum(turn < 0 for turn in cosines.values()),
        ),
        "share": spread(
            "share of starts that end climbing, by divergence",
            [found.share for _, found in hits.values()],
        ),
        "others": spread("relative error of detached f, other divergences", others),
        "right": worst("relative error of detached f, reverse KL", right),
        "gauge": spread("the same with p/pi - 1 added to f, which leaves D as it is", gauge),
        "forms": worst("relative error of the sampled forms, all divergences", forms),
    }
    return Finding(
        numbers,
        "cosine",
        f"{WHERE}; {'; '.join(map(str, SMALLEST))}, {effort.starts} starts of {STEPS} steps",
        effort.seeds,
        f"Forward KL, {hits[FORWARD][0]}: f is {f}, so that REINFORCE on -f lowers the token that "
        f"the teacher wants raised. Least cosines found, by divergence: {each}.\n\n"
        f"{trees.table(shown)}",
    )


def judge(numbers: Numbers) -> Judgement:
    """Fails by one example that climbs; repaired if each has a form, and only one detached f."""
    fails = rules.below(numbers["cosine"], 0)
    errors = max(numbers["forms"].high, numbers["right"].high)
    only = rules.different(numbers["others"]) and rules.different(numbers["gauge"])
    return Judgement(
        rules.settle(numbers["others"].high <= rules.EXACT, fails),
        repaired=rules.settle(errors <= rules.EXACT and only, errors > rules.CLEAR),
    )


CLAIM = Claim(
    "A7",
    "other divergences by a detached reward",
    "For any f-divergence the token's own -f(p/pi), held fixed, can be the reward, as log p/pi "
    "is for the reverse KL.",
    measure,
    judge,
    repaired="Every divergence has a sampled form, with -dD/dpi(v) for the token's reward (forward "
    "KL: a token of the teacher's); a detached f(p/pi) is that one only for f(u) = -log u.",
    wrong="Weights that the oracle and the library derive alike: the oracle's gradient is a "
    "complex step of the divergence's value. A direction that is right after all, up to scale: "
    "the examples go up, not down.",
    advice="Don't reward a token with its own term of the divergence: f(u) and f(u) + c (u - 1) "
    "are one divergence and two rewards, and forward KL's climbs. Use the weight -dD/dpi "
    "(opd_sampled@divergence=...), or enumerate.",
)

"""A8: k1, k2 and k3 as loss and as reward: whose gradient each one has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import fits, rules
from experiments.claims.algebra.shared import SHAPES, WHERE, problems, through
from experiments.claims.claim import (
    Claim,
    Effort,
    Finding,
    Judgement,
    Numbers,
    estimated,
    spread,
    worst,
)
from experiments.claims.lab import lab, mean, relative, rollout, vectors
from opd.measure import exact
from opd.measure.exact import Problem

Array = np.ndarray
# Of the log ratio x = log pi - log p of a token drawn from pi (Schulman 2020).
KS = {
    "k1": lambda x: x,
    "k2": lambda x: x**2 / 2,
    "k3": lambda x: jnp.exp(-x) - 1 + x,
}
K3, K1 = "reinforce@reference.coef=1", "reinforce@reference.coef=1,reference.penalty=k1"
NEAR = np.geomspace(1e-4, 1e-2, 5)  # student minus teacher, as a share of where the ray starts


@jax.jit
def slopes(logits: jax.Array, logp_teacher: jax.Array, weight: jax.Array):
    """By k, d/dlogits of -k under the weight, and of -k log pi with k held fixed, [S, V] each."""

    def surrogate(logits: jax.Array, k, paid: bool) -> jax.Array:
        logp = jax.nn.log_softmax(logits)
        value = k(logp - logp_teacher)
        return -jnp.sum(weight * (jax.lax.stop_gradient(value) * logp if paid else value))

    return [
        {name: jax.grad(surrogate)(logits, k, paid) for name, k in KS.items()}
        for paid in (False, True)
    ]


def by_autodiff(here: Problem) -> list[dict[str, Array]]:
    """E over tokens of pi of each k's gradient as a loss, and as a reward; [M] by name."""
    found = slopes(here.logits, here.logp_teacher, here.reach[:, None] * here.probs)
    return [{k: through(here, np.asarray(x)) for k, x in role.items()} for role in found]


def by_library(here: Problem) -> dict[str, Array]:
    """The library's rows; penalties to a reference, which is the teacher, alone."""
    batch = rollout(here, reference=here.logp_teacher)
    h = vectors(here, "k1_loss", "opd_sampled", "reinforce", K1, K3, batch=batch)
    return {
        "k1 loss": mean(here, h["k1_loss"]),
        "k1 reward": mean(here, h["opd_sampled"]),
        "k1 penalty": mean(here, h[K1] - h["reinforce"]),
        "k3 loss": mean(here, h[K3] - h["reinforce"]),
    }


def value_error(here: Problem) -> float:
    """Of E k3 against the KL, summed over states."""
    k3 = np.asarray(KS["k3"](here.logp - here.logp_teacher))
    found = here.reach @ (here.probs * k3).sum(-1)
    wanted = here.reach @ exact.divergence(exact.REVERSE, here.logits, here.logp_teacher)
    return abs(found / wanted - 1)


def along_a_ray(effort: Effort) -> Array:
    """Relative error of k3 as a loss at distances NEAR from a realizable teacher: [trees, n]."""
    found = []
    for seed in effort.seeds:
        start = lab(SHAPES[0], seed)
        heres = [start.at(start.teacher + x * (start.theta - start.teacher)) for x in NEAR]
        found.append(
            [relative(by_library(h)["k3 loss"], exact.target_gradient(h, "myopic")) for h in heres]
        )
    return np.array(found)


def draw(error: Array) -> Figure:
    """Relative error of k3 as a loss, one line a tree."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for seed, line in enumerate(error):
        axes.loglog(
            NEAR, line, "o-", color="C0", alpha=0.6, label=None if seed else "one tree each"
        )
    axes.loglog(NEAR, NEAR * error[:, -1].mean() / NEAR[-1], "k--", label="slope 1")
    axes.set_xlabel("distance of student and teacher (share of the start's)")
    axes.set_ylabel("relative error of k3's gradient")
    axes.legend()
    return figure


def measure(effort: Effort) -> Finding:
    """Autodiff of each k in each role, the library's rows, and how k3 fares near the teacher."""
    k1, k3, reward, named, rows, value = [], [], [], [], [], []
    for here in problems(effort):
        reverse = exact.target_gradient(here, "myopic")
        forward = exact.target_gradient(here, "myopic", ("forward_kl",))
        loss, paid = by_autodiff(here)
        library, size = by_library(here), np.linalg.norm(reverse)
        k1.append(np.linalg.norm(library["k1 loss"]) / size)
        k3.append(relative(library["k3 loss"], reverse))
        reward.append(relative(paid["k3"], reverse))
        named += [
            np.linalg.norm(loss["k1"]) / size,
            relative(loss["k2"], reverse),
            relative(loss["k3"], forward),
            relative(paid["k1"], reverse),
            relative(paid["k3"], reverse - forward),
        ]
        rows += [relative(library[k], reverse) for k in ("k1 reward", "k1 penalty")]
        rows.append(relative(library["k3 loss"], loss["k3"]))
        value.append(value_error(here))
    error = along_a_ray(effort)
    numbers = {
        "k3": spread("relative error of k3's gradient as a loss, against -grad KL(pi || p)", k3),
        "reward": spread("relative error of k3 as a reward", reward),
        "k1": worst("|E grad k1| over |grad KL|", k1),
        "value": worst("relative error of E k3 as a value of the KL", value),
        "order": estimated("order of k3's error in the distance", fits.exponent(NEAR, error)),
        "named": worst("relative error of k1, k2, k3 against whose gradient they have", named),
        "rows": worst("relative error of the library's rows against those", rows),
    }
    return Finding(numbers, "k3", WHERE, effort.seeds, figure=draw(error))


def judge(numbers: Numbers) -> Judgement:
    """Holds where k3's gradient is the reverse KL's; repaired where each is what is said of it."""
    errors = max(numbers[name].high for name in ("named", "rows", "k1"))
    return Judgement(
        rules.identity(numbers["k3"]),
        repaired=rules.settle(errors <= rules.EXACT, errors > rules.CLEAR),
    )


CLAIM = Claim(
    "A8",
    "k1, k2, k3 as loss and as reward",
    "As k1, k2 and k3 all estimate KL(pi || p), each may be differentiated as a penalty, k3 best "
    "of all.",
    measure,
    judge,
    repaired="As a loss k1 has no gradient, k2 that of KL(pi || p) and k3 that of KL(p || pi); as "
    "a reward k1 has that of KL(pi || p), and k3 that of the first less the second.",
    wrong="Tokens of pi, one update a rollout: an old policy's tokens would need ratios. A gap "
    "that hardly matters: it is of the gradient's own size, and vanishes in first order only "
    "where pi is close to p.",
    advice="Put k1 into the reward or k2 into the loss; log k3 as a value. k3 as a loss is the "
    "forward KL, harmless near the reference only.",
)

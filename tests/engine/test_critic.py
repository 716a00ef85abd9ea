"""The learned baseline: its regression against one written here, and what a policy takes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scene

from opd.engine import programs, steps
from opd.engine.steps import Critic
from opd.method import table
from opd.model.scalar import Scalar

MODEL = Scalar(scene.STUDENT)
CRITIC = Critic(MODEL, scene.Ascent(1.0))
STEP = scene.Ascent(1.0)


@pytest.fixture(scope="module")
def here():
    return scene.ready(scene.mesh("one"))


@pytest.fixture(scope="module")
def state(here):
    """A critic that says something, whose rollout's values are an older one's."""
    state = programs.start(here.mesh, scene.STUDENT, STEP, here.params, CRITIC)
    width = scene.STUDENT.width
    head = {"scale": jnp.linspace(-1, 1, width), "offset": jnp.asarray(0.3)}
    judge = dataclasses.replace(state.critic, params=state.critic.params | {"head": head})
    return dataclasses.replace(state, critic=judge)


def estimates(params, rollout):
    """V(s_t): what row P - 1 + t of the sequence says, the state that token t is drawn in."""
    whole = MODEL.values(params, rollout.sequence, rollout.sequence_mask)
    prompt = rollout.prompt.shape[1]
    return whole[:, prompt - 1 : -1]


def targets(kind, rollout, value, logp, gamma, lam, rho_bar, c_bar):
    """GAE's A + V, and IMPALA's v_s by its recursion (remark 1), token by token in NumPy."""
    mask, reward = np.asarray(rollout.mask), np.asarray(rollout.reward, np.float64)
    value, found = np.where(mask, value, 0.0).astype(np.float64), np.zeros(mask.shape)
    rho = np.exp(np.where(mask, logp - np.asarray(rollout.logp_behavior, np.float64), 0))
    for row, graded in enumerate(mask):
        last, later, v_next = graded.sum() - 1, 0.0, 0.0
        for t in range(last, -1, -1):
            paid = reward[row] if t == last else 0.0
            delta = paid + gamma * v_next - value[row, t]
            if kind == "gae":
                later = delta + gamma * lam * later
            else:
                later = (
                    min(rho_bar, rho[row, t]) * delta
                    + gamma * lam * min(c_bar, rho[row, t]) * later
                )
            found[row, t], v_next = value[row, t] + later, value[row, t]
    return found


@pytest.mark.parametrize(
    ("name", "parts"), [("ppo@gamma=0.9", 1), ("ppo@gamma=0.9", 2), ("vtrace@gamma=0.9", 1)]
)
def test_the_critic_descends_its_squared_error(name, parts, here, state):
    method = table.parse(name)
    (term,) = method.terms
    old = dataclasses.replace(
        here.rollout, value=estimates(state.critic.params, here.rollout) - 0.2
    )
    # Ratios below 1, or V-trace at c = rho = 1 is the return, whatever the critic says.
    rollout = dataclasses.replace(old, logp_behavior=old.logp_behavior + 0.3)
    copy = jax.tree.map(jnp.copy, state)
    moved, metrics = programs.update(
        here.mesh, scene.STUDENT, STEP, copy, rollout, None, method, 0, scene.HOW, parts, CRITIC
    )
    now = np.asarray(estimates(state.critic.params, rollout))
    logp = np.asarray(here.stats.logp_student, np.float64)
    seen = np.asarray(rollout.value) if term.returns == "gae" else now
    target = targets(term.returns, rollout, seen, logp, term.gamma, term.lam, term.high, term.c_bar)
    mask = rollout.mask
    share = jnp.where(mask, 1 / (mask.sum() if name.startswith("ppo") else len(mask)), 0)

    def loss(params):
        return jnp.sum(share * (target - estimates(params, rollout)) ** 2) / 2

    value, gradient = jax.value_and_grad(loss)(state.critic.params)
    np.testing.assert_allclose(metrics["loss_value"].value(), value, rtol=1e-4)
    for before, after, slope in zip(
        *map(jax.tree.leaves, (state.critic.params, moved.critic.params, gradient)), strict=True
    ):
        scale = np.abs(slope).max() + 1e-6
        np.testing.assert_allclose((before - after) / scale, slope / scale, atol=2e-3)
    assert int(moved.critic.step) == 1


@pytest.mark.parametrize("name", ["vtrace", "vtrace@entropy.coef=0.1"])
def test_v_trace_takes_the_critic_s_values_of_now_beside_other_terms_too(name, here, state):
    """Whatever an older critic said of the rollout."""

    def moved(offset):
        old = estimates(state.critic.params, here.rollout) + offset
        rollout = dataclasses.replace(here.rollout, value=old)
        copy = jax.tree.map(jnp.copy, state)
        return programs.update(
            here.mesh, scene.STUDENT, STEP, copy, rollout, None, table.parse(name), 0, scene.HOW,
            1, CRITIC,
        )[0].params  # fmt: skip

    jax.tree.map(np.testing.assert_array_equal, moved(0.0), moved(3.0))


def test_values_are_of_the_state_before_the_token(here, state):
    """A token changes the values after it, and its own not."""
    rollout = here.rollout
    changed = dataclasses.replace(rollout, tokens=rollout.tokens.at[:, 2].add(1))
    before, after = (
        np.asarray(programs.values(here.mesh, MODEL, state.critic.params, one))
        for one in (rollout, changed)
    )
    np.testing.assert_allclose(
        before, estimates(state.critic.params, rollout), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    alive = np.asarray(rollout.mask)[:, 3]
    assert alive.any() and np.all(before[alive, 3] != after[alive, 3])


def test_a_clip_fraction_counts_the_tokens_whose_ratio_a_bound_changed(here, state):
    method = table.parse("dr_grpo")
    mask = np.asarray(here.rollout.mask)
    drift = np.random.default_rng(0).normal(0, 0.5, mask.shape)
    rollout = dataclasses.replace(here.rollout, logp_behavior=here.stats.logp_student - drift)
    copy = jax.tree.map(jnp.copy, state)
    _, metrics = programs.update(
        here.mesh, scene.STUDENT, STEP, dataclasses.replace(copy, critic=None), rollout, None,
        method, 0, scene.HOW,
    )  # fmt: skip
    reward, group = np.asarray(rollout.reward), np.asarray(rollout.group)
    advantage = reward - np.array([reward[group == g].mean() for g in group])
    up = (advantage[:, None] > 0) & (np.exp(drift) > 1.2)
    down = (advantage[:, None] < 0) & (np.exp(drift) < 0.8)
    wanted = ((up | down) & mask).sum() / mask.sum()
    assert 0 < wanted < 1
    np.testing.assert_allclose(metrics["clip_fraction"].value(), wanted, rtol=1e-5)
    kept = np.where(mask & ~(up | down), np.exp(drift) * advantage[:, None], 0).sum() / mask.size
    np.testing.assert_allclose(metrics["loss_reward"].value(), -kept, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["opd", "gkd@behavior=student", "sft@behavior=teacher"])
def test_losses_are_what_the_rows_descend(name, here, state):
    """KL, JSD and -log pi, in float64 from whole rows of logits."""
    head = None if name.startswith("sft") else here.head
    own = programs.head(here.mesh, scene.STUDENT, here.params, here.rollout)
    pi, p = (
        np.asarray(
            steps.vocab.log_softmax(steps.vocab.logits(side), scene.HOW.temperature), np.float64
        )
        for side in (own, here.head)
    )
    mix = np.log((np.exp(pi) + np.exp(p)) / 2)
    chosen = np.take_along_axis(pi, np.asarray(here.rollout.tokens)[..., None], -1)[..., 0]
    each = {
        "opd": (np.exp(pi) * (pi - p)).sum(-1),
        "gkd": (np.exp(p) * (p - mix) + np.exp(pi) * (pi - mix)).sum(-1) / 2,
        "sft": -chosen,
    }[name.partition("@")[0]]
    copy = dataclasses.replace(jax.tree.map(jnp.copy, state), critic=None)
    _, metrics = programs.update(
        here.mesh, scene.STUDENT, STEP, copy, here.rollout, head, table.parse(name), 0, scene.HOW
    )
    wanted = np.where(here.rollout.mask, each, 0).sum(1).mean()
    signal = "one" if name.startswith("sft") else "teacher"
    np.testing.assert_allclose(metrics[f"loss_{signal}"].value(), wanted, rtol=1e-3)

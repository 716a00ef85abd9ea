"""Branches against the oracle, on the transformer's tree that the contract tests enumerate.

The student's real sampler draws the trunks and their continuations; across, within and cross are
estimated from them, and the oracle knows the truth.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import draws
from opd.engine import programs, sharding, steps
from opd.engine.steps import Sampling
from opd.engine.vocab import Pass
from opd.measure import exact, intervals
from opd.method import table
from opd.run import branches, probe

sys.path.append(str(Path(__file__).parent.parent / "contract"))
import enumeration  # noqa: E402
from enumeration import DEPTH, EOS, PAD, PROMPTS, STUDENT, TEACHER, TREE  # noqa: E402

SEED, GROUPS, SIZE, BRANCHES, STEP = 0, 1500, 2, 3, 11
ROWS = ("opd@gamma=1", "opd_sampled@gamma=1", "opd_resampled@k=1,gamma=1", "reinforce", "rloo")
ROWS += ("grpo", "opd_sampled", "opd")
HOW = Pass(chunk=DEPTH)
SAMPLING = Sampling(length=DEPTH, eos_ids=(EOS,), pad_id=PAD)
SEQUENCE = {
    (prompt, *tokens[mask]): number
    for number, (prompt, tokens, mask) in enumerate(
        zip(TREE.prompt.tolist(), TREE.tokens, TREE.mask, strict=True)
    )
}


def sequences(rollout) -> np.ndarray:
    """Which of the tree's sequences each row is, [B]."""
    rollout = jax.device_get(rollout)
    shorter = (rollout.prompt_mask.sum(1) == len(PROMPTS[1])).astype(int)
    rows = zip(shorter.tolist(), rollout.tokens, rollout.mask, strict=True)
    return np.array([SEQUENCE[(prompt, *tokens[mask])] for prompt, tokens, mask in rows])


@dataclasses.dataclass
class Run:
    """A probe of ROWS on the tree."""

    lab: enumeration.Lab
    plan: branches.Plan
    trunk: object
    given: tuple
    extra: tuple
    moments: intervals.Moments

    def figures(self, name):
        spec = probe._spec(
            table.parse(name), [m.name for m in self.plan.methods], self.plan.parts.get(name)
        )
        return intervals.estimate(self.moments, [spec])[0]


class Player:
    """The student on the tree: draws, rewards and scores."""

    def __init__(self, lab):
        self.lab, self.mesh = lab, sharding.make_mesh(jax.devices()[:1])
        made = TEACHER.init(jax.random.key(SEED + 100))
        self.teacher = enumeration.spread(made, SEED + 100)

    def trunk(self, count: int):
        which = np.random.default_rng(SEED).integers(len(PROMPTS), size=count)
        longest = max(map(len, PROMPTS))
        padded = np.array([(PAD,) * (longest - len(p)) + p for p in PROMPTS], np.int32)
        real = np.array([(False,) * (longest - len(p)) + (True,) * len(p) for p in PROMPTS])
        rows = programs.batch_rows(padded[which], real[which], SIZE)
        return self.complete(rows, draws.key(SEED, STEP, "action"), None)

    def complete(self, rows, key, prefix):
        rows = jax.tree.map(jnp.asarray, rows)
        drawn = programs.rollout(
            self.mesh, STUDENT, self.lab.params, **rows, key=key, how=SAMPLING, prefix=prefix
        )
        reward = self.lab.problem.reward[sequences(drawn)]
        return dataclasses.replace(drawn, reward=jnp.asarray(reward))

    def score(self, rollout):
        head = programs.teacher(self.mesh, TEACHER, self.teacher, rollout)
        return head, programs.score(self.mesh, STUDENT, self.lab.params, rollout, head, HOW)

    def extend(self, trunk, prefix, key, which):
        rows = {name: getattr(trunk, name) for name in ("prompt", "prompt_mask", "group", "row")}
        drawn = self.complete(rows, key, jnp.asarray(prefix))
        return drawn, self.score(drawn)[1]


@pytest.fixture(scope="module")
def player():
    with jax.enable_x64(True):
        return Player(enumeration.build(SEED))


@pytest.fixture(scope="module")
def run(player):
    with jax.enable_x64(True):
        plan = branches.plan(tuple(map(table.parse, ROWS)), BRANCHES)
        trunk = player.trunk(GROUPS)
        head, stats = player.score(trunk)
        given = programs.coefficients_of(plan.methods, trunk, stats)
        key = draws.key(SEED, STEP, "branch")
        extra = branches.coefficients(plan, trunk, given, key, SIZE, player.extend)
        params = player.lab.params
        total, gram, sketch = programs.probe(
            player.mesh,
            STUDENT,
            params,
            trunk,
            head,
            plan.columns,
            given + extra,
            steps.fresh_uniforms(SEED, STEP, trunk, plan.methods),
            programs.no_moments(player.mesh, STUDENT, params, len(plan.columns)),
            HOW,
            SIZE,
            64,
        )
        sums = np.asarray(programs.gram(total))
        moments = probe.as_gradients(np.asarray(gram), sums, np.asarray(sketch), plan, SIZE)
        return Run(player.lab, plan, trunk, given, extra, moments)


def exact_parts(problem, name):
    score = exact.at_actions(problem.tree, problem.score)
    if name == "rloo":
        return exact.decompose_groups(problem, score, exact.groups(problem, SIZE, "leave_one_out"))
    if name == "grpo":
        return exact.decompose_groups(problem, score, exact.groups(problem, SIZE, "mean", 0, 1e-4))
    if name.startswith("opd_resampled"):
        fresh = exact.resampled(problem, 1)
        future = exact.enumerated(problem, gamma=1.0).h
        return exact.decompose(problem, future, fresh.fresh, SIZE)
    made = {
        "opd": exact.enumerated(problem),
        "opd_sampled": exact.sampled(problem),
        "opd@gamma=1": exact.enumerated(problem, gamma=1.0),
        "opd_sampled@gamma=1": exact.sampled(problem, gamma=1.0),
        "reinforce": exact.reinforce(problem),
    }[name]
    return exact.decompose(problem, made.h, made.fresh, SIZE)


BRANCHED = ROWS[:6]


@pytest.mark.parametrize("name", BRANCHED)
def test_parts_are_the_oracles(name, run):
    found, wanted = run.figures(name), exact_parts(run.lab.problem, name)
    for part in ("total", "across", "within", "cross"):
        figure, truth = found[part], getattr(wanted, part)
        print(name, part, figure, truth, wanted.total)
        reach = (figure.high - figure.low) / 2
        assert abs(truth - figure.value) < 1.5 * reach, (part, truth, figure)

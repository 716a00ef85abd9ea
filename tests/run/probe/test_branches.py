"""Branches: b_t against E[h_t | s_t] counted by hand, and the parts against the oracle."""

import dataclasses
import functools
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd import draws
from opd.data import pipeline
from opd.engine import estimator, programs, sharding, steps, vocab
from opd.engine.steps import Sampling
from opd.engine.vocab import Head, Pass
from opd.measure import exact, intervals
from opd.method import table
from opd.model.decoder import Decoder, DecoderConfig
from opd.run import drawing
from opd.run.drawing import Player
from opd.run.probe import branches, price, probe
from opd.run.probe.probe import ProbeConfig
from opd.types import Coefficients, Rollout, TokenStats

KEY = jax.random.key(5)


# ----------------------------------------------------------- b_t, on a policy that is a table

V, T, EOS, SIZE, COPIES = 3, 3, 2, 2, 300
# Two prompts of two rollouts each; EOS ends a rollout.
ROLLOUTS = ((0, 1, 0), (1, 2), (2,), (0, 0, 2))
STATES = [(row, t) for row, tokens in enumerate(ROLLOUTS) for t in range(len(tokens))]


@functools.cache
def law(prompt, prefix, who):
    """A distribution over V tokens at every state, far from uniform and one for each player."""
    number = [prompt, len(prefix), *prefix, {"student": 1, "teacher": 2}[who]]
    return np.random.default_rng(number).dirichlet(np.ones(V))


@functools.cache
def reward_of(prompt, tokens):
    return float(np.random.default_rng([prompt, 7, *tokens]).integers(3))


@functools.cache
def grade(prompt, tokens):
    """log p - log pi of each token."""
    at = [(tokens[:t], token) for t, token in enumerate(tokens)]
    ratio = [law(prompt, s, "teacher")[v] / law(prompt, s, "student")[v] for s, v in at]
    return np.log(ratio)


def complete(tokens):
    return len(tokens) == T or EOS in tokens


def leaves(prompt, prefix):
    """Every completion of a prefix, with its probability."""
    if complete(prefix):
        return [(prefix, 1.0)]
    chances = law(prompt, prefix, "student")
    return [
        (tokens, chances[v] * chance)
        for v in range(V)
        for tokens, chance in leaves(prompt, (*prefix, v))
    ]


def rollout_of(rows, row, group):
    """Rows (prompt, tokens) as a rollout."""
    mask = np.array([[t < len(tokens) for t in range(T)] for _, tokens in rows])
    padded = np.array([tokens + (0,) * (T - len(tokens)) for _, tokens in rows], np.int32)
    return Rollout(
        prompt=np.array([[prompt] for prompt, _ in rows], np.int32),
        prompt_mask=np.ones((len(rows), 1), bool),
        tokens=padded,
        mask=mask,
        logp_behavior=np.zeros(mask.shape, np.float32),
        ended=np.array([tokens[-1] == EOS for _, tokens in rows]),
        group=np.asarray(group, np.int32),
        row=np.asarray(row, np.int32),
        reward=np.array([reward_of(*row) for row in rows], np.float32),
    )


def extend(trunk, prefix, key, which):
    """Continues each row by its own counter's uniforms, one Python step a token."""
    assert trunk.reward is None, "a trunk's reward is not its continuations'"
    rows = []
    uniforms = np.asarray(draws.uniforms(key, trunk.row, T))
    for prompt, kept, uniform in zip(trunk.prompt[:, 0].tolist(), prefix.tolist(), uniforms):
        tokens = tuple(v for v in kept if v >= 0)
        while not complete(tokens):
            chances = np.cumsum(law(prompt, tokens, "student"))
            tokens += (int(np.searchsorted(chances, uniform[len(tokens)] * chances[-1])),)
        rows.append((prompt, tokens))
    drawn = rollout_of(rows, trunk.row, trunk.group)
    padded = np.zeros(drawn.mask.shape, np.float32)
    for place, row in enumerate(rows):
        padded[place, : len(row[1])] = grade(*row)
    nothing = np.zeros_like(padded)
    return drawn, TokenStats(nothing, nothing, padded, nothing, nothing)


# The weight of a row's own token at t, of a rollout and its mate (in rewards and grades).
def group_normalised(own, mate):
    reward, other = own[1], mate[1]
    return (reward - other) / 2 / (abs(reward - other) / 2 + 1e-4)


WEIGHTS = {
    "reinforce": lambda own, mate, t: own[1],
    "rloo": lambda own, mate, t: own[1] - mate[1],
    "grpo": lambda own, mate, t: group_normalised(own, mate),
    "opd_sampled@gamma=1": lambda own, mate, t: own[2][t:].sum(),
    "opd@gamma=1": lambda own, mate, t: own[2][t + 1 :].sum(),
    "opd_sampled@gamma=1,reduction=sequence_mean": lambda own, mate, t: (
        own[2][t:].sum() / len(own[0])
    ),
    "opd_sampled@gamma=1,baseline=group": lambda own, mate, t: (
        own[2][t:].sum() - (own[2].sum() + mate[2].sum()) / 2
    ),
}


def pushed_by_hand(name, row, t):
    """E and E of the square of what each token is pushed by at a state, [2, V]."""
    prompt = row // SIZE
    found = np.zeros((2, V))

    def graded(tokens):
        return tokens, reward_of(prompt, tokens), grade(prompt, tokens)

    own = [(graded(tokens), chance) for tokens, chance in leaves(prompt, ROLLOUTS[row][:t])]
    mates = [(graded(tokens), chance) for tokens, chance in leaves(prompt, ())]
    for (mine, chance), (other, chance_too) in itertools.product(own, mates):
        weight = WEIGHTS[name](mine, other, t)
        found[:, mine[0][t]] += chance * chance_too * np.array([weight, weight**2])
    return found


@pytest.fixture(scope="module")
def trunk():
    """The four rollouts, many times over: each copy is a batch row of its own."""
    rows = [(row // SIZE, tokens) for row, tokens in enumerate(ROLLOUTS)] * COPIES
    count = np.arange(len(rows))
    return rollout_of(rows, count, count // SIZE)


METHODS = tuple(map(table.parse, WEIGHTS))
PLAN = branches.plan(METHODS, 2)


def no_coefficients(trunk):
    """What the methods' own columns have; here only their shapes matter."""
    nothing = jnp.ones(trunk.mask.shape)
    return tuple(Coefficients((nothing,) * len(m.rules), nothing) for m in METHODS)


@pytest.fixture(scope="module")
def extra(trunk):
    found = branches.coefficients(PLAN, trunk, no_coefficients(trunk), KEY, SIZE, extend)
    names = [method.name for method in PLAN.columns[len(METHODS) :]]
    return dict(zip(names, jax.device_get(found), strict=True))


def copies_of(values, row, t):
    """One state's values over the copies, [COPIES]."""
    return np.asarray(values).reshape(COPIES, len(ROLLOUTS), T)[:, row, t]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("r", (1, 2))
def test_a_branch_is_unbiased_for_the_push_given_the_state(name, r, extra, trunk):
    coefs = extra[f"{name} b^{r}"]
    for row, t in STATES:
        weight = copies_of(coefs.onehot, row, t) * len(trunk.mask)
        token = copies_of(coefs.token, row, t)
        mean, square = pushed_by_hand(name, row, t)
        for v in range(V):
            found = np.where(token == v, weight, 0)
            error = np.sqrt(max(square[v] - mean[v] ** 2, 0) / COPIES)
            assert abs(found.mean() - mean[v]) <= 4.5 * error + 1e-5, (row, t, v)


def test_two_branches_of_a_state_are_independent(extra):
    for name in WEIGHTS:
        for row, t in STATES:
            first, second = (copies_of(extra[f"{name} b^{r}"].onehot, row, t) for r in (1, 2))
            if np.std(first) and np.std(second):
                assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / np.sqrt(COPIES)


def test_nothing_is_pushed_off_the_mask(extra, trunk):
    for name, coefs in extra.items():
        if "H_e" not in name:  # which is the trunk's own
            for part in (*coefs.local, coefs.onehot):
                assert np.any(part[trunk.mask]) and not np.any(part[~trunk.mask])


def test_the_local_rules_are_weighed_as_on_the_trunk(extra, trunk):
    (local,) = extra["opd@gamma=1 b^1"].local
    np.testing.assert_allclose(local, trunk.mask / len(trunk.mask), rtol=1e-6)


def test_one_random_sign_at_each_position(extra, trunk):
    graded = trunk.mask
    sign = extra["reinforce H_e"].onehot[graded]  # the trunk's own weights are ones here
    assert set(np.unique(sign)) == {-1, 1}
    assert abs(sign.mean()) < 4.5 / np.sqrt(sign.size)
    for name in WEIGHTS:
        np.testing.assert_array_equal(extra[f"{name} H_e"].onehot[graded], sign)
        for r in (1, 2):
            plain, signed = extra[f"{name} b^{r}"], extra[f"{name} B_e^{r}"]
            np.testing.assert_array_equal(signed.onehot[graded], sign * plain.onehot[graded])
            np.testing.assert_array_equal(signed.token, plain.token)


def test_noise_depends_on_row_state_and_branch_only(trunk, extra, monkeypatch):
    """Neither on how many rows are continued together, nor on the other rows of the batch."""
    monkeypatch.setattr(branches, "PIECE", 700)
    last = jax.tree.map(lambda leaf: leaf[-len(ROLLOUTS) * 100 :], trunk)
    last = dataclasses.replace(last, group=last.group - last.group[0])
    plan = branches.plan(METHODS[:2], 2)
    found = branches.coefficients(plan, last, no_coefficients(last)[:2], KEY, SIZE, extend)
    share = len(last.mask) / len(trunk.mask)
    for method, coefs in zip(plan.columns[2:], found, strict=True):
        if "H_e" in method.name:
            continue
        whole = extra[method.name]
        np.testing.assert_array_equal(coefs.token, whole.token[-len(last.mask) :])
        np.testing.assert_allclose(
            coefs.onehot * share, whole.onehot[-len(last.mask) :], rtol=1e-4, atol=1e-8
        )


# ------------------------------------------------------------------------------------ the plan


def test_which_rows_are_branched():
    asked = {
        "opd": False,
        "opd_sampled": False,
        "opd_baseline": False,
        "opd@gamma=0.5": True,
        "reinforce": True,
        "reinforce@gamma=0": True,
        "grpo": True,
        "opd_sampled@gamma=1,baseline=group": True,
        "opd_sampled@gamma=1,baseline=batch": False,
        "grpo@normaliser=whiten": False,
        "grpo@reduction=token_mean": False,
    }
    methods = tuple(map(table.parse, asked))
    found = branches.plan(methods, 2).branched
    assert [method.name for method in found] == [name for name, yes in asked.items() if yes]
    assert branches.plan(methods, 0).branched == ()


def test_without_branches_the_columns_are_the_methods():
    plan = branches.plan(METHODS, 0)
    assert plan.columns == METHODS and plan.parts == {}
    np.testing.assert_array_equal(plan.basis, np.eye(len(METHODS)))


@pytest.mark.parametrize("count", (2, 3))
def test_the_basis_makes_halves_and_spreads(count):
    methods = tuple(map(table.parse, ("opd", "reinforce", "rloo")))
    plan = branches.plan(methods, count)
    columns = np.random.default_rng(0).normal(size=len(plan.columns))
    at = {method.name: column for method, column in zip(plan.columns, columns, strict=True)}
    found = plan.basis @ columns
    np.testing.assert_array_equal(found[:3], columns[:3])
    for name in ("reinforce", "rloo"):
        parts = plan.parts[name]
        halves = (1,), tuple(range(2, count + 1))
        for half, mean, spread in zip(
            halves, (parts.first, parts.second), (parts.spread, parts.spread_second)
        ):
            wanted = np.mean([at[f"{name} b^{r}"] for r in half])
            assert found[mean] == pytest.approx(wanted)
            wanted = at[f"{name} H_e"] - np.mean([at[f"{name} B_e^{r}"] for r in half])
            assert found[spread] == pytest.approx(wanted)


def test_what_a_row_draws_afresh_is_summed_over_in_its_branches():
    (method,) = (table.parse("opd_resampled@k=3,gamma=1"),)
    columns = branches.plan((method,), 2).columns
    kinds = [[rule.expectation for rule in column.rules] for column in columns]
    assert kinds == [["resampled"], *[["enumerated"]] * 2, ["resampled"], *[["enumerated"]] * 2]


# --------------------------------------------------------------------------- in the vocabulary


def test_a_coefficients_token_takes_the_place_of_the_rollouts_own():
    rng = np.random.default_rng(1)
    side = Head(jnp.asarray(rng.normal(size=(2, 4, 3))), jnp.asarray(rng.normal(size=(5, 3))))
    tokens, others = (jnp.asarray(rng.integers(5, size=(2, 4))) for _ in range(2))
    weight = jnp.asarray(rng.normal(size=(2, 4)))

    def pull(tokens, token):
        given = (Coefficients((), weight, token=token),)
        how = Pass(chunk=3)
        return vocab.pull(side, None, tokens, ((),), lambda _, x: x, given, None, how)[0]

    found, wanted, own = pull(tokens, others), pull(others, None), pull(tokens, None)
    for a, b, c in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), jax.tree.leaves(own)):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0.1


# ------------------------------------------------------------------------- in the probe itself


def parity(text, answer):
    return float((len(text) + int(answer)) % 2 == 0)


@pytest.fixture(scope="module")
def setting():
    """A world of one-digit sums, and two untrained players."""
    config = pipeline.DataConfig(
        task="arithmetic", digits=1, tokenizer="char", train=16, validation=4, test=4, length=4
    )
    task = pipeline.load(config)
    # An untrained player has rewards of either kind where the parity of the length is all.
    graded = dataclasses.replace(task, verifier=parity)
    eos, pad = task.tokenizer.eos_id, task.tokenizer.pad_id
    world = drawing.World(
        mesh=sharding.make_mesh(jax.devices()[:1]),
        task=graded,
        sampling=Sampling(task.max_completion, (eos,), pad),
        scoring=Pass(chunk=8),
        group_size=2,
        seed=3,
    )
    player = Decoder(
        DecoderConfig(
            vocab=task.tokenizer.vocab,
            width=8,
            layers=1,
            heads=1,
            mlp=8,
            max_length=task.max_prompt + task.max_completion,
        )
    )
    params = [programs.init(world.mesh, player, seed) for seed in (0, 1)]
    return world, player, params


def test_continuations_keep_what_came_before(setting):
    """tokens[:t] are the trunk's, with the log-probabilities that a score of them gives."""
    world, player, (params, teacher) = setting
    batch = pipeline.prompts(world.task, "train", world.seed, 4)[0]
    trunk = drawing.draw(world, Player(player, params), batch, 1, world.seed, world.group_size)
    trunk = jax.device_get(trunk)
    plan = branches.plan(tuple(map(table.parse, ("opd@gamma=1",))), 2)
    extend = branches.continuing(
        world, Player(player, params), Player(player, teacher), plan, batch["answers"]
    )
    which, times = np.nonzero(trunk.mask)
    part = jax.tree.map(lambda leaf: leaf[which], dataclasses.replace(trunk, reward=None))
    before = np.arange(trunk.mask.shape[1]) < times[:, None]
    drawn, stats = extend(part, np.where(before, part.tokens, -1), KEY, which)
    np.testing.assert_array_equal(np.where(before, drawn.tokens, 0), part.tokens * before)
    assert np.any(drawn.tokens[before.sum(1) == 0] != part.tokens[before.sum(1) == 0])
    np.testing.assert_allclose(
        drawn.logp_behavior, np.where(drawn.mask, stats.logp_student, 0), atol=1e-5
    )
    wanted = [
        ended * parity(pipeline.decode_completion(world.task, tokens, mask), answer)
        for tokens, mask, ended, answer in zip(
            np.asarray(drawn.tokens),
            np.asarray(drawn.mask),
            np.asarray(drawn.ended),
            np.asarray(batch["answers"])[which // world.group_size],
        )
    ]
    np.testing.assert_array_equal(drawn.reward, wanted)


def test_a_prefix_of_another_shape_is_refused(setting):
    world, player, (params, _) = setting
    ones = jnp.ones((2, 3), jnp.int32)
    with pytest.raises(ValueError, match="prefix"):
        steps.rollout_step(
            player, params, ones, ones > 0, ones[:, 0], ones[:, 0], KEY, world.sampling, ones
        )


def test_the_probe_gives_parts_that_add_up(setting):
    world, player, (params, teacher) = setting
    rows = ("opd@gamma=1", "reinforce", "grpo")
    entries, measured = {}, {}
    for count in (0, 2):
        config = ProbeConfig(rows, groups=8, batch=4, sketch=16, branches=count)
        measured[count] = probe.measure(
            world, Player(player, params), Player(player, teacher), config
        )
        methods = measured[count].methods
        prices = {method.name: price.Price((1.0, 0.9, 1.1), 1.0, 1) for method in methods}
        entries[count] = probe.entries(measured[count], prices, "start")
    for without, branched in zip(entries[0], entries[2], strict=True):
        assert [without["variance"][part] for part in ("across", "within", "cross")] == [None] * 3
        assert "no parts" in without["note"]
        assert "no parts" not in branched["note"]
        assert "2 fresh continuations" in branched["note"]
        parts = {key: figure.value for key, figure in branched["variance"].items()}
        assert parts["total"] == pytest.approx(parts["across"] + parts["within"] + parts["cross"])
        assert parts["within"] > 0
        assert parts["total"] == pytest.approx(without["variance"]["total"].value, rel=1e-4)
    assert "group's other rollouts fresh" in entries[2][2]["note"]
    own = measured[2].moments.gram[:, :3, :3]
    np.testing.assert_allclose(own, measured[0].moments.gram, rtol=1e-3, atol=1e-5)


# ------------------------------------------------- the parts, on the contract tests' own tree

GROUPS, STEP = 1500, 11
ON_TREE = ("opd@gamma=1", "opd_sampled@gamma=1", "opd_resampled@k=1,gamma=1", "reinforce", "rloo")
ON_TREE += ("grpo",)
# Z of the worst of them; an interval is 2 on either side.
FURTHEST = 3.5


class Tree:
    """The transformer on the tree that is enumerated whole: draws, rewards, scores."""

    def __init__(self):
        sys.path.append(str(Path(__file__).parents[2] / "contract"))
        import enumeration

        self.module, self.lab = enumeration, enumeration.build(0)
        self.mesh, self.how = sharding.make_mesh(jax.devices()[:1]), Pass(chunk=enumeration.DEPTH)
        self.sampling = Sampling(enumeration.DEPTH, (enumeration.EOS,), enumeration.PAD)
        self.teacher = enumeration.spread(enumeration.TEACHER.init(jax.random.key(100)), 100)
        every = jax.device_get(enumeration.every_sequence())
        self.prompts = [every.prompt[every.group == x][0] for x in (0, 1)]
        self.real = [every.prompt_mask[every.group == x][0] for x in (0, 1)]
        self.place = {key: place for place, key in enumerate(self.keys(every))}

    def keys(self, rollout):
        rows = zip(rollout.prompt_mask, rollout.tokens, rollout.mask, strict=True)
        return [(real.sum(), *tokens[mask]) for real, tokens, mask in rows]

    def complete(self, rows, key, prefix=None):
        rows = jax.tree.map(jnp.asarray, rows)
        drawn = programs.rollout(
            self.mesh,
            self.lab.student,
            self.lab.params,
            **rows,
            key=key,
            sampling=self.sampling,
            prefix=prefix,
        )
        places = [self.place[key] for key in self.keys(jax.device_get(drawn))]
        return dataclasses.replace(drawn, reward=jnp.asarray(self.lab.problem.reward[places]))

    def score(self, rollout):
        head = programs.head(self.mesh, self.module.TEACHER, self.teacher, rollout)
        student = self.lab.student, self.lab.params
        return head, programs.score(self.mesh, *student, rollout, head, self.how)

    def extend(self, trunk, prefix, key, which):
        rows = {name: getattr(trunk, name) for name in ("prompt", "prompt_mask", "group", "row")}
        drawn = self.complete(rows, key, jnp.asarray(prefix))
        return drawn, self.score(drawn)[1]

    def trunk(self):
        which = np.random.default_rng(0).integers(2, size=GROUPS)
        prompts, real = np.stack(self.prompts)[which], np.stack(self.real)[which]
        rows = programs.batch_rows(prompts, real, SIZE)
        return self.complete(rows, draws.key(0, STEP, "action"))


@pytest.fixture(scope="module")
def on_tree():
    """The oracle's problem, a plan, and its moments."""
    with jax.enable_x64(True):
        tree = Tree()
        student = tree.lab.student, tree.lab.params
        plan = branches.plan(tuple(map(table.parse, ON_TREE)), 2)
        trunk = tree.trunk()
        head, stats = tree.score(trunk)
        given = programs.coefficients_of(plan.methods, trunk, stats)
        key = draws.key(0, STEP, "branch")
        given += branches.coefficients(plan, trunk, given, key, SIZE, tree.extend)
        uniforms = estimator.fresh_uniforms(0, STEP, trunk, plan.methods)
        total = programs.no_moments(tree.mesh, *student, len(plan.columns))
        total, gram, sketch, _ = programs.probe(
            tree.mesh,
            *student,
            trunk,
            head,
            plan.columns,
            given,
            uniforms,
            total,
            tree.how,
            SIZE,
            64,
        )
        sums = np.asarray(programs.gram(total))
        moments = probe.as_gradients(np.asarray(gram), sums, np.asarray(sketch), plan, SIZE)
        return tree.lab.problem, plan, moments


def exact_parts(problem, name):
    score = exact.at_actions(problem.tree, problem.score)
    grouped = {"rloo": ("leave_one_out",), "grpo": ("mean", 0, 1e-4)}
    if name in grouped:
        return exact.decompose_groups(problem, score, exact.groups(problem, SIZE, *grouped[name]))
    fresh = exact.resampled(problem, 1).fresh if name.startswith("opd_resampled") else 0.0
    h = {
        "opd_sampled@gamma=1": lambda: exact.sampled(problem, gamma=1.0).h,
        "reinforce": lambda: exact.reinforce(problem).h,
    }.get(name, lambda: exact.enumerated(problem, gamma=1.0).h)()
    return exact.decompose(problem, h, fresh, SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_TREE)
def test_parts_are_the_oracles(name, on_tree):
    problem, plan, moments = on_tree
    spec = probe._spec(table.parse(name), list(ON_TREE), plan.parts[name])
    found = intervals.estimate(moments, [dataclasses.replace(spec, reference=None)])[0]
    wanted = exact_parts(problem, name)
    for part in ("total", "across", "within", "cross"):
        figure, truth = found[part], getattr(wanted, part)
        error = (figure.high - figure.low) / 4
        assert abs(truth - figure.value) < FURTHEST * error, (part, truth, figure)
        assert error < 0.06 * wanted.total, "too wide to tell anything"
    parts = sum(found[part].value for part in ("across", "within", "cross"))
    assert parts == pytest.approx(found["total"].value)


@pytest.mark.parametrize(
    ("name", "scored"),
    [("rloo", False), ("dr_grpo", True), ("opd_sampled@gamma=1", True), ("opd@cut=mask", False)],
)
def test_continuations_are_scored_where_a_weight_asks(name, scored):
    """A ratio asks for the student's log-probabilities though no teacher grades."""
    assert branches.scored((table.parse(name),)) == scored

"""Log-ratios of two policies, and the effective sample size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opd.method import importance

B, T = 3, 5
LENGTHS = np.array([5, 2, 4])
MASK = np.arange(T) < LENGTHS[:, None]
RNG = np.random.default_rng(0)
NEW, OLD = (-RNG.exponential(size=(B, T)).astype(np.float32) for _ in range(2))
GAP = np.where(MASK, (NEW - OLD).astype(np.float64), 0)


# Compiled, since leak checking compiles every eager operation anew.
LOG_RATIO = jax.jit(importance.log_ratio, static_argnums=3)
ESS = jax.jit(importance.effective_sample_size)


# Each kind's logarithm at token t of a rollout: of the log-ratios `gap` of its graded tokens.
PRODUCTS = {
    "token": lambda gap, t: gap[t],
    "prefix": lambda gap, t: gap[:t].sum(),
    "prefix_inclusive": lambda gap, t: gap[: t + 1].sum(),
    "trajectory": lambda gap, t: gap.sum(),
    "sequence": lambda gap, t: gap.mean(),
}


def product(kind, b, t):
    return PRODUCTS[kind](GAP[b, : LENGTHS[b]], t)


def test_every_kind_and_every_rule_is_here():
    here = "tests/method/test_importance.py"
    assert set(PRODUCTS) == set(importance.LOG_RATIOS), f"add its product to PRODUCTS in {here}"
    assert set(PAPERS) == set(importance.RATIO_RULES), f"add its formula to PAPERS in {here}"
    assert set(HELD) == set(importance.RATIO_RULES), f"say in HELD in {here} what it holds back"


def test_which_tokens_a_kind_says_that_it_multiplies():
    """Those whose ratio moves it: `past`, `own` and `ahead` of the entry."""
    gap = RNG.normal(size=5)
    for kind, ratio in importance.LOG_RATIOS.items():
        moved = [PRODUCTS[kind](gap + np.eye(5)[i], 2) - PRODUCTS[kind](gap, 2) for i in range(5)]
        assert [bool(x) for x in np.abs(moved) > 1e-9] == [
            ratio.past, ratio.past, ratio.own, ratio.ahead, ratio.ahead,
        ]  # fmt: skip
        assert ratio.product == all(abs(x) < 1e-9 or abs(x - 1) < 1e-9 for x in moved)


def log_ratio(kind, new=NEW, old=OLD, mask=MASK):
    return np.asarray(LOG_RATIO(new, old, mask, kind))


@pytest.mark.parametrize("kind", importance.LOG_RATIOS)
def test_kinds_are_their_products(kind):
    wanted = [[product(kind, b, t) if MASK[b, t] else 0 for t in range(T)] for b in range(B)]
    np.testing.assert_allclose(log_ratio(kind), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", importance.LOG_RATIOS)
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_what_stands_off_the_mask_does_not_leak(kind, junk):
    new = np.where(MASK, NEW, np.float32(junk))
    old = np.where(MASK, OLD, np.float32(1))
    np.testing.assert_array_equal(log_ratio(kind, new, old), log_ratio(kind))


def test_prefixes_of_two_thousand_tokens_stay_finite():
    """A ratio of e^2 a token: the product itself overflows float32 at token 45."""
    new, old = np.full((1, 2000), -1, np.float32), np.full((1, 2000), -3, np.float32)
    mask = np.ones((1, 2000), bool)
    assert 44 * 2 < np.log(np.finfo(np.float32).max) < 45 * 2
    found = log_ratio("prefix", new, old, mask)
    np.testing.assert_allclose(found[0], 2.0 * np.arange(2000), rtol=1e-6)
    # The largest weights are geometric: (1 + q) / (1 - q) of 2,000, q = e^-2.
    q = np.exp(-2.0)
    np.testing.assert_allclose(2000 * ess(found), (1 + q) / (1 - q), rtol=1e-5)


WEIGHT = jax.jit(importance.weight, static_argnames=("rule", *importance.BOUNDS))
BOUNDED = jax.jit(importance.bounded, static_argnames=("rule", *importance.BOUNDS))
# Ratios below, at, between and above two bounds, with advantages of either sign and none.
LOG_RHO, SIGN = map(
    np.float32, np.meshgrid([-3, np.log(0.5), -0.1, 0, 0.1, np.log(1.5), 3], [-2, 0, 0.7])
)


def told(rule, shape, **numbers):
    """What a rule may ask: its usual numbers and others, a whole mask, a probability of 1/4."""
    own = {
        name: numbers.get(name, usual) for name, usual in importance.RATIO_RULES[rule].usual.items()
    }
    logp = np.full(shape, np.log(0.25), np.float32)
    return own | {"mask": np.ones(shape, bool), "logp": logp}


def clipped(rho, advantage, low, high):
    """The slope of min(rho A, clip(rho) A) in rho, over A."""
    return rho if rho * advantage <= np.clip(rho, low, high) * advantage else 0.0


def dual_clipped(rho, advantage, low, high, dual):
    """The slope of max(that, dual A) where A < 0."""
    return 0.0 if advantage < 0 and rho > dual else clipped(rho, advantage, low, high)


def soft(rho, advantage, tau, tau_negative):
    """The slope of (4 / tau) sigma(tau (rho - 1)) in log rho."""
    own = tau if advantage > 0 else tau_negative
    raised = np.exp(-own * (rho - 1))
    return 4 * rho * raised / (1 + raised) ** 2


def flipped(rho, advantage, low, high, dual):
    if advantage > 0:
        return min(1 / rho, dual) if rho <= high else 0.0
    return rho if advantage == 0 or rho >= low else 0.0


def within(rho, advantage, band):
    """pi is 1/4, so that mu = pi / rho."""
    moved = 0.25 - 0.25 / rho
    return rho if abs(moved) <= band or moved * advantage <= 0 else 0.0


# What each rule makes of one ratio, as its paper has it; None: of several, below.
PAPERS = {
    "none": lambda rho, advantage: rho,
    "clip": clipped,
    "dual_clip": dual_clipped,
    "clip_ungated": lambda rho, advantage, low, high: np.clip(rho, low, high),
    "truncate": lambda rho, advantage, high: min(rho, high),
    "mask": lambda rho, advantage, low, high: rho if low <= rho <= high else 0.0,
    "soft": soft,
    "band": within,
    "geometric": None,
    "taper": lambda rho, advantage, high: 1.0 if advantage > 0 else min(rho, high),
    "flip": flipped,
    "second_moment": None,
}


@pytest.mark.parametrize("rule", [rule for rule, paper in PAPERS.items() if paper])
@pytest.mark.parametrize("bounds", [(0.6, 1.3), (0.0, 1.0), (1.0, 1.4)])
def test_rules_are_their_papers(rule, bounds):
    numbers = dict(zip(("low", "high"), bounds)) | {"dual": 1.2, "tau": 0.7, "band": 0.1}
    asked = told(rule, LOG_RHO.shape, **numbers)
    found = np.asarray(WEIGHT(LOG_RHO, SIGN, rule, **asked))
    own = {name: asked[name] for name in importance.RATIO_RULES[rule].usual}
    wanted = np.vectorize(
        lambda log_rho, sign: PAPERS[rule](np.exp(np.float64(log_rho)), sign, **own)
    )(LOG_RHO, SIGN)
    # A ratio at a bound, to rounding, may fall on either side.
    edge = np.isclose(np.exp(LOG_RHO), bounds[0]) | np.isclose(np.exp(LOG_RHO), bounds[1])
    np.testing.assert_allclose(found[~edge], wanted[~edge], rtol=2e-6)
    assert rule not in ("clip", "flip") or np.any((wanted == 0) & ~edge)


def test_a_geometric_mean_is_of_the_clipped_ratios_of_its_rollout():
    """Those that were clipped count in the mean, and get nothing themselves."""
    log_rho = np.float32([[0.1, 0.9, -0.2, 7], [-0.9, 0.3, 0.2, 7]])
    advantage = np.float32([[1] * 4, [-1] * 4])
    mask = np.arange(4) < [[3], [3]]
    found = WEIGHT(log_rho, advantage, "geometric", low=0.5, high=2.0, mask=mask)
    up, down = np.exp((0.1 + np.log(2) - 0.2) / 3), np.exp((np.log(0.5) + 0.3 + 0.2) / 3)
    wanted = [[up, 0, up], [0, down, down]]
    np.testing.assert_allclose(np.asarray(found)[:, :3], wanted, rtol=1e-6)


def test_the_farthest_ratios_go_until_the_second_moment_is_small():
    """Of 0.01, 0.04, 0.09 and 1 the first three have a mean of 0.0467; what is masked has none."""
    log_rho = np.float32([[0.1, -0.2, 9.0], [0.3, -1.0, 9.0]])
    mask = np.array([[1, 1, 0], [1, 1, 0]], bool)

    def kept(tau):
        found = WEIGHT(log_rho, None, "second_moment", tau=tau, mask=mask)
        assert set(np.asarray(found).ravel()) <= {0.0, *np.asarray(jnp.exp(log_rho)).ravel()}
        return (np.asarray(found) > 0).tolist()

    assert kept(0.047) == [[True, True, False], [True, False, False]]
    assert kept(0.046) == [[True, True, False], [False, False, False]]
    assert kept(0.3) == mask.tolist()
    assert not np.any(kept(0.009))


# A ratio of 1/2, 1 or 2 with an advantage of either sign, bounds 0.8 and 1.2: who is held back.
HELD = {
    "none": ("...", "..."),
    "clip": ("..x", "x.."),
    "dual_clip": ("..x", "x.x"),
    "clip_ungated": ("x.x", "x.x"),
    "truncate": ("..x", "..x"),
    "mask": ("x.x", "x.x"),
    "soft": ("x.x", "x.x"),
    "band": ("..x", "x.."),
    "geometric": ("xxx", "xxx"),  # the mean of its rollout, whose bounds are not even
    "taper": ("x.x", "..x"),
    "flip": ("x.x", "x.."),
    "second_moment": ("x.x", "x.x"),
}


@pytest.mark.parametrize("rule", importance.RATIO_RULES)
def test_bounded_is_where_the_rule_holds_a_ratio_back(rule):
    log_rho, sign = np.meshgrid(np.log(np.float32([0.5, 1, 2])), np.float32([1, -1]))
    numbers = {"low": 0.8, "high": 1.2, "dual": 1.9, "band": 0.1}
    found = BOUNDED(log_rho, sign, rule, **told(rule, log_rho.shape, **numbers))
    np.testing.assert_array_equal(found, [[mark == "x" for mark in row] for row in HELD[rule]])


@pytest.mark.parametrize("rule", importance.RATIO_RULES)
def test_a_ratio_that_overflows_stays_a_number(rule):
    """e^4000: bounded where the rule has a bound, and times an advantage of 0 it is 0."""
    asked = told(rule, (1, 2))
    weight = WEIGHT(np.float32([[4000.0, -4000.0]]), np.float32([[0, 0]]), rule, **asked)
    assert np.isfinite(weight).all()
    if rule in ("clip_ungated", "truncate"):
        np.testing.assert_allclose(weight[0, 0], asked["high"], rtol=1e-6)


def test_an_on_policy_ratio_is_one_under_every_rule():
    """To the bit, so that a fresh rollout's update is the unclipped one."""
    for rule in importance.RATIO_RULES:
        sign = np.float32([[1, 1, 1], [-1, -1, -1]])
        found = WEIGHT(np.zeros((2, 3), np.float32), sign, rule, **told(rule, (2, 3)))
        np.testing.assert_array_equal(found, np.ones((2, 3)))


def ess(log_weight, mask=None):
    mask = np.ones(np.shape(log_weight), bool) if mask is None else mask
    return float(ESS(np.asarray(log_weight, np.float32), mask))


def test_effective_sample_size_is_its_definition():
    log_weight = RNG.normal(size=12)
    w = np.exp(log_weight)
    assert ess(log_weight) == pytest.approx(w.sum() ** 2 / (12 * (w**2).sum()), rel=1e-5)
    mask = np.arange(12) < 7
    junk = np.where(mask, log_weight, np.inf)
    assert ess(junk, mask) == pytest.approx(w[:7].sum() ** 2 / (7 * (w[:7] ** 2).sum()), rel=1e-5)


def test_effective_sample_size_between_one_and_all():
    """Equal weights count in full, one that dwarfs the others counts for one; in two axes too."""
    assert ess(np.zeros(8)) == pytest.approx(1, rel=1e-6)
    assert ess([80.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / 4, rel=1e-6)
    assert ess(np.zeros((2, 4))) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("shift", [-4000.0, -300.0, 300.0, 4000.0])
def test_effective_sample_size_has_no_scale(shift):
    """A common factor drops out, though e^4000 is no float32, to float32's own precision."""
    log_weight = np.array([0.0, 0.5, -1.0, 0.25])  # their sums with the shift are exact
    assert ess(log_weight + shift) == pytest.approx(ess(log_weight), rel=2e-6)
    assert ess(np.full(1000, shift)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("kind", importance.LOG_RATIOS)
def test_which_weights_an_effective_sample_size_counts(kind):
    """A rollout of one token counts once whatever the kind, one without tokens not at all."""
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
    found = np.asarray(importance.counted(mask, kind))
    if importance.LOG_RATIOS[kind].ahead:
        np.testing.assert_array_equal(found.sum(1), [1, 1, 0, 1])
        assert (found & ~mask).sum() == 0
    else:
        np.testing.assert_array_equal(found, mask)

"""What follows from a method's terms: its goal, its bias, what it needs, whom to compare with.

Nothing here is said of a row by name: a new row, or an old one with other axes, has its facts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp

from opd.method import baselines, importance, local, reduction, weighing
from opd.method.axes import Origin, Term, changed
from opd.method.table import Method, named

# --- goals ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    """One summand of a goal: what it is, and not how it is estimated.

    `signal` is reward, divergence (of the student `to` another policy: teacher, reference or
    dataset) or entropy. At `gamma` 0 a divergence is descended at each state, the states' law held
    fixed; else the future's counts too, discounted, up to that of whole sequences at 1.
    """

    signal: str
    divergence: str | None = None
    argument: float | None = None
    coef: float = 1.0
    gamma: float = 0.0
    to: str | None = None


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a method is unbiased for, or aims at: two methods share it iff it is equal.

    `states` says on whose states: the `current` student's, or a `behavior`'s, which is then named.
    """

    parts: tuple[Part, ...]
    states: str
    behavior: str | None = None


def goal(method: Method) -> Goal:
    """What the method is unbiased for, or would be but for what `bias` names.

    An entropy bonus is no part, unless there is nothing else. One part alone has coefficient 1.
    """
    where = states(method)
    return Goal(parts(method), where, None if where == "current" else _whose(method.origin))


def parts(method: Method) -> tuple[Part, ...]:
    """The summands of the method's goal, in one order whatever that of its terms."""
    coefs = _summed(method)
    if len(coefs) == 1:
        return tuple(coefs)
    summands = [replace(part, coef=coef) for part, coef in coefs.items()]
    return tuple(sorted(summands, key=lambda part: (part.signal != "reward", repr(part))))


def describe(goal: Goal, teacher: str = "teacher") -> str:
    """A goal in words; `teacher` says who that is."""
    words = " + ".join(_described(part, teacher) for part in goal.parts)
    where = "" if goal.behavior is None else f", on the behavior's states ({goal.behavior})"
    return words + where


def _described(part: Part, teacher: str) -> str:
    words = part.divergence or part.signal
    if part.argument is not None:
        words += f"({part.argument:g})"
    if part.to is not None:
        words += f" to the {teacher if part.to == 'teacher' else part.to}"
    if part.gamma != (1.0 if part.signal == "reward" else 0.0):
        words += f" at gamma={part.gamma:g}"
    return words if part.coef == 1 else f"{part.coef:g} x {words}"


def axes(method: Method) -> dict[str, object]:
    """Every axis of the method and of each of its terms, as JSON has it."""
    terms = [dataclasses.asdict(term) for term in method.terms]
    return {"origin": dataclasses.asdict(method.origin), "terms": terms}


def _summed(method: Method) -> dict[Part, float]:
    """Each part, without its coefficient, and what it has; terms of one part add up."""
    coefs: dict[Part, float] = {}
    for term in _graded(method):
        part = _part(term, method.origin)
        coefs[part] = coefs.get(part, 0.0) + term.coef
    coefs = _both_kls(coefs)
    return {part: coef for part, coef in coefs.items() if coef} or coefs


BOTH = tuple(Part("divergence", name, to="teacher") for name in ("forward_kl", "reverse_kl"))
JEFFREYS = Part("divergence", "jeffreys", to="teacher")


def _both_kls(coefs: dict[Part, float]) -> dict[Part, float]:
    """As much of either KL as of the other is Jeffreys's divergence, and it is as much of both."""
    if JEFFREYS not in coefs and not all(part in coefs for part in BOTH):
        return coefs
    joint = coefs.get(JEFFREYS, 0.0)
    forward, reverse = (coefs.get(part, 0.0) + joint for part in BOTH)
    rest = {part: coef for part, coef in coefs.items() if part not in (*BOTH, JEFFREYS)}
    if forward == reverse:
        return rest | {JEFFREYS: forward}
    return rest | dict(zip(BOTH, (forward, reverse)))


def _felt(method: Method) -> tuple[Term, ...]:
    """The terms that push."""
    return tuple(term for term in method.terms if term.coef)


def _graded(method: Method) -> tuple[Term, ...]:
    """The terms that push, but for entropy bonuses beside others."""
    felt = _felt(method)
    return tuple(term for term in felt if term.signal != "entropy") or felt


def _part(term: Term, origin: Origin) -> Part:
    if term.signal in ("reward", "entropy"):
        return Part(term.signal, gamma=term.gamma)
    if term.signal == "one" and _demonstrator(origin) is not None:
        return Part("divergence", "forward_kl", to=_demonstrator(origin))
    if term.signal == "reference":
        name = "forward_kl" if term.penalty == "k3" else "reverse_kl"
        return Part("divergence", name, gamma=term.gamma, to="reference")
    name = term.divergence or "reverse_kl"  # the log ratio that an own token's score forgets
    return Part("divergence", name, term.argument, gamma=term.gamma, to="teacher")


# --- whose rollouts ------------------------------------------------------------------------------


def _drawers(origin: Origin) -> dict[str, float]:
    """Who draws the rollouts, each with its share of them."""
    if origin.behavior != "mixture":
        return {origin.behavior: 1.0}
    shares = {"student": origin.share, origin.other: 1 - origin.share}
    return {who: share for who, share in shares.items() if share > 0}


def _whose(origin: Origin) -> str:
    """Whose states the rollouts visit, in words: the same where they have the same law."""
    shares = _drawers(origin)
    words = ", ".join(who if share == 1 else f"{share:g} {who}" for who, share in shares.items())
    return words + " by the token" * (origin.level == "token" and len(shares) > 1)


def _own_tokens(origin: Origin) -> bool:
    """Whether some of the rollouts' tokens are the student's, now or earlier."""
    return not {"student", "buffer"}.isdisjoint(_drawers(origin))


def _demonstrator(origin: Origin) -> str | None:
    """Who else than the student draws: whose tokens are demonstrations. None: nobody."""
    return next((who for who in _drawers(origin) if who in ("teacher", "dataset")), None)


# How tokens are drawn from whomever the behavior names, older students, teachers and both sides of
# a mixture alike: from the policy itself; at another temperature, at which every token is still
# possible; with the vocabulary cut (top-k, top-p), at whatever temperature.
LAWS = ("policy", "tempered", "truncated")
DRAWN = {"tempered": "at another temperature", "truncated": "with the vocabulary cut"}


def _other(origin: Origin, law: str) -> bool:
    """Whether the rollouts are another policy's than the current student."""
    return law != "policy" or set(_drawers(origin)) != {"student"}


# --- bias and states -----------------------------------------------------------------------------


def bias(method: Method, law: str = "policy") -> str | None:
    """Why the expectation differs from the goal; None where it doesn't.

    Of a student's own rollouts: by the current student. `stale` says what an older one's are
    unbiased for. Of other behaviors: whatever law the rollouts have. A student whose tokens are
    not drawn from the policy itself is another behavior: a row keeps its goal on the `states`
    that its ratios leave it.

    Args:
        method: which method.
        law: one of LAWS; `logp_behavior` is of the law that was sampled.
    """
    felt = _felt(method)
    reasons = [reason for term in felt for reason in _biases(method, term, law)]
    whose = {_off_policy(method, term, law) for term in felt} - {None}
    if _other(method.origin, law) and len(whose) > 1:
        reasons.append("its terms are on different policies' states")
    summed = _summed(method)
    if len(summed) == 1 and set(summed.values()) != {1.0}:
        reasons.append(f"coef={sum(summed.values()):g} scales the gradient")
    return "; ".join(dict.fromkeys(reasons)) or None


def _biases(method: Method, term: Term, law: str) -> Iterator[str]:
    origin = method.origin
    if term.signal == "teacher_kl":
        yield "the detached KL is a state baseline; only the future's is felt"
    if term.signal == "one" and _own_tokens(origin):
        yield "the score of an own token is zero on average"
    if term.signal == "one" and "teacher" in _drawers(origin) and law != "policy":
        yield f"the teacher's tokens were drawn {DRAWN[law]}"
    if term.tail is not None and local.TAILS[term.tail].leaves_out:
        yield f"tail={term.tail} leaves out what lies off the top-k set"
    if term.baseline in baselines.BASELINES:
        yield from _some(baselines.BASELINES[term.baseline].bias)
    if term.baseline in baselines.OF_SCORES:
        yield f"baseline={term.baseline} holds the rollout's own return"
    if term.normaliser != "none":
        yield f"normaliser={term.normaliser} rescales by a random number"
    if term.returns == "mean":
        yield "returns=mean divides by the number of tokens ahead"
    for axis, value in (("lam", term.lam), ("c_bar", term.c_bar)):
        if value is not None and value < 1 and term.gamma > 0:
            yield f"{axis}={value:g} trusts the critic"
    if _other(origin, law) and _off_policy(method, term, law) is None:
        yield _foreign(method, term, law)
    if term.signal == "entropy" and term not in _graded(method):
        yield "an entropy bonus is no part of the goal"
    if term.weigh != "none":
        yield f"weigh={term.weigh} {weighing.WEIGHINGS[term.weigh].says}"
    if term.gate != "none":
        yield f"gate={term.gate} weighs rollouts by their outcome"
    if term.on != "all" and not _drawers(origin).keys() == {_on(term, origin)}:
        yield f"on={term.on} leaves out the others' rollouts"
    if term.own:
        yield f"own={term.own:g} mixes the student's own logits into the teacher's"
    if term.cut == "mask":
        yield "cut=mask leaves out the rollouts that were cut"
    if origin.redraws:
        yield f"redraws={origin.redraws} draws groups of equal reward again"
    for reason in _some(reduction.REDUCTIONS[term.reduction].bias):
        yield f"reduction={term.reduction} {reason}"


def _on(term: Term, origin: Origin) -> str:
    """Whose rollouts of a mixture a term takes."""
    return "student" if term.on == "student" else origin.other


def _some(reason: str | None) -> tuple[str, ...]:
    return () if reason is None else (reason,)


def _foreign(method: Method, term: Term, law: str) -> str:
    behavior = method.origin.behavior
    reason = f"the {behavior}'s tokens were not drawn from the student"
    if not _other(method.origin, "policy"):
        reason = f"the student's tokens were drawn {DRAWN[law]}"
    if _off_policy(method, term) is not None:
        return reason + ", and no ratio brings back what was cut"
    if term.bounded:
        return reason + ", and their ratio is bounded"
    ratio = term.importance if term.correction == "none" else term.correction
    return reason if ratio == "none" else reason + f", and no ratio of kind {ratio} corrects that"


WHOLE = {"none": "none"} | {kind: kind for kind in importance.LOG_RATIOS}


def _off_policy(method: Method, term: Term, law: str = "policy", aims: bool = False) -> str | None:
    """Whose states a term is unbiased for where the behavior is not the current student.

    `current` or `behavior`; None for neither. With c_t the ratio of current policy and behavior:
    E_mu[c_1 .. c_(t-1) f(s_t)] = E_pi[f(s_t)]; an own token needs c_t besides, and a future all
    later ones. A bounded ratio is no ratio, unless we ask what the term `aims` at. Where mu is 0
    and pi is not, there is no ratio at all: a truncated law leaves what asks no own token, on the
    states that it visits.
    """
    if term.signal == "one":
        return "behavior"  # demonstrations: the data is the law
    whose: set[str | None] = set()
    if term.rule is not None:  # enumerated or fresh candidates take the state's ratio
        kind = _product(method, term, aims, importance.STATE_PART)
        whose.add({"none": "behavior", "prefix": "current"}.get(kind or ""))
    if term.onehot:
        kind = _product(method, term, aims, WHOLE)
        whose.add(_own_states(kind, term.gamma > 0))
    if law == "truncated" and (term.onehot or whose != {"behavior"}):
        return None
    return whose.pop() if len(whose) == 1 else None


def _own_states(kind: str | None, future: bool) -> str | None:
    """Whose states a ratio leaves an own token, with its future or credited with itself alone."""
    ratio = importance.LOG_RATIOS.get(kind or "")
    if ratio is None or not (ratio.product and ratio.own) or (future and not ratio.ahead):
        return None
    return "current" if ratio.past else "behavior"


def _product(method: Method, term: Term, aims: bool, part: dict[str, str]) -> str | None:
    """The kind of current / proximal times proximal / behavior; None where it is no one kind.

    `part` says what the term takes of each kind. Where no term has a correction, the behavior is
    the proximal policy.
    """
    ratio, correction = part.get(term.importance), part.get(term.correction)
    free = (None, "none")
    if not aims and ratio != "none" and term.ratio_rule not in free:
        return None
    if not aims and correction != "none" and term.correction_rule not in free:
        return None
    corrected = any(other.correction != "none" for other in method.terms)
    return ratio if not corrected or correction == ratio else None


def stale(method: Method, law: str = "policy") -> str | None:
    """Whose states the method is unbiased for where an older policy drew the rollouts, by a law.

    `behavior`: the goal holds on that policy's states; `current`: on the current student's, as if
    the rollouts were fresh; None: on neither.
    """
    if bias(method, law) is not None:
        return None
    whose = {_off_policy(method, term, law) for term in _felt(method)}
    return whose.pop() if len(whose) == 1 else None


def states(method: Method, law: str = "policy") -> str:
    """Whose states the goal is about: `current` policy's, or the `behavior`'s.

    Those that the ratios leave to all terms, were they not bounded. Where they leave none a goal
    with a future is about the current policy, since nobody else's future is anyone's goal.
    """
    if not _other(method.origin, law):
        return "current"
    future = any(term.gamma > 0 for term in _graded(method))
    return _left(method, aims=True) or ("current" if future else "behavior")


def _left(method: Method, aims: bool = False) -> str | None:
    """The states that ratios leave to all parts of the goal; None where they agree on none."""
    whose = {_off_policy(method, term, aims=aims) for term in _graded(method)}
    return whose.pop() if len(whose) == 1 else None


def weighs(method: Method) -> str:
    """The kind of log-ratio, of importance.LOG_RATIOS, whose weights the method uses.

    Of its first term that uses any; `trajectory` where none does. It names the effective sample
    size that says how far rollouts have aged for this method.
    """
    kinds = (
        term.importance if term.onehot else importance.STATE_PART[term.importance]
        for term in _felt(method)
    )
    return next((kind for kind in kinds if kind != "none"), "trajectory")


# --- what a run must have ------------------------------------------------------------------------

NEEDS = {
    "teacher_full": "the teacher's log-probabilities of the whole vocabulary",
    "teacher_logp": "the teacher's log-probability of the sampled token",
    "teacher_samples": "tokens drawn from the teacher",
    "teacher_rollouts": "completions drawn from the teacher",
    "reward": "a reward: a verifier for the task",
    "reference": "a reference policy's log-probability of the sampled token",
    "value": "a critic: a value head",
    "dataset": "demonstrations",
    "dataset_logp": "the log-probabilities that the dataset's policy gave its tokens",
    "buffer": "a buffer of the student's earlier rollouts",
}


def needs(method: Method) -> tuple[str, ...]:
    """What a run must have for this method: keys of NEEDS."""
    needed = _origin_needs(method)
    for term in method.terms:
        rule = term.rule
        if term.signal in ("reward", "reference"):
            needed.add(term.signal)
        if term.gate != "none":
            needed.add("reward")
        if term.weigh in weighing.WEIGHINGS:
            asked = weighing.WEIGHINGS[term.weigh].teacher
            needed |= {"token": {"teacher_logp"}, "full": {"teacher_full"}}.get(asked or "", set())
        if term.baseline == "value":
            needed.add("value")
        if term.signal == "teacher_kl" or term.baseline in baselines.OF_STATES:
            needed.add("teacher_full")
        if term.signal == "teacher" and term.onehot:
            needed.add("teacher_logp")
        if term.signal == "teacher" and rule is not None:
            proposal = local.DIVERGENCES[rule.divergence].proposal
            drawn = rule.expectation == "resampled" and proposal == "teacher"
            needed.add("teacher_samples" if drawn else "teacher_full")
    return tuple(need for need in NEEDS if need in needed)


def _origin_needs(method: Method) -> set[str]:
    kinds = {"teacher": "teacher_rollouts", "dataset": "dataset", "buffer": "buffer"}
    needed = {kinds[who] for who in _drawers(method.origin) if who in kinds}
    ratios = {kind for term in method.terms for kind in (term.importance, term.correction)}
    if "dataset" in needed and ratios != {"none"}:
        needed.add("dataset_logp")
    return needed | ({"reward"} if method.origin.redraws else set())


def statistics(methods: tuple[Method, ...]) -> tuple[local.Statistic, ...]:
    """What some methods ask to know of a state, each once."""
    asked = (each for method in methods for term in method.terms for each in term.asks)
    return tuple(dict.fromkeys(asked))


def require(method: Method, available: frozenset[str] | set[str]) -> None:
    """Refuses a method whose needs are absent.

    Raises:
        ValueError: names the method and what it lacks.
    """
    for need in needs(method):
        if need not in available:
            raise ValueError(f"{method.name} needs {NEEDS[need]}, and this run has none")


def fits(method: Method, vocab: int) -> None:
    """Refuses a top-k that the vocabulary is too small for.

    Raises:
        ValueError: names the method, its k and the vocabulary's size.
    """
    for rule in method.rules:
        if rule.expectation == "topk" and not 1 <= (rule.k or 0) <= vocab:
            raise ValueError(f"{method.name}: k={rule.k}; the vocabulary has {vocab} tokens")


def refused(method: Method) -> str | None:
    """Why the method is there to be measured and not to be trained with; None where it isn't so."""
    signals = {term.signal for term in method.terms}
    if "one" in signals and _demonstrator(method.origin) is None:
        return (
            "k1 as a loss has zero expected gradient: use signal=teacher, which takes the log "
            "ratio as a reward"
        )
    if "teacher_kl" in signals:
        return (
            "a detached KL as an advantage is a state baseline, whose gradient is zero: use "
            "signal=teacher, enumerated or with the sampled log ratio"
        )
    return None


def trainable(method: Method) -> None:
    """Refuses, by meaning, a method that is there to be measured and not to be trained with.

    Raises:
        ValueError: why, and what to use.
    """
    reason = refused(method)
    if reason is not None:
        raise ValueError(f"{method.name}: {reason}")


# --- what a weight holds -------------------------------------------------------------------------


def vanishes(method: Method) -> bool:
    """Whether the gradient of every single rollout is zero where the teacher is the student.

    To rounding: a spread that is rounding alone, which an advantage is divided by, leaves no zero.
    """
    return all(
        term.normaliser == "none"
        and term.baseline != "value"
        and (term.signal == "teacher_kl" or (term.signal == "teacher" and _level(term)))
        for term in _felt(method)
    )


def _level(term: Term) -> bool:
    """Whether a term of the teacher's signal pushes nothing where the teacher is the student."""
    token = local.Rule(term.divergence or "", term.argument, "resampled", 1)
    rules = ([] if term.rule is None else [term.rule]) + ([token] if term.onehot else [])
    return all(map(_pushes_nothing, rules))


@functools.cache
def _pushes_nothing(rule: local.Rule) -> bool:
    """By trying: candidates of a vocabulary with a tail, whose student is its teacher."""
    with jax.ensure_compile_time_eval():
        logp = jax.nn.log_softmax(jnp.linspace(0.0, 1.0, (rule.k or 0) + 3))
        uniforms = jnp.linspace(0.1, 0.9, rule.draws) if rule.draws else None
        pushed = local.candidate_weights(rule, logp, logp, uniforms)
        return bool(jnp.max(jnp.abs(pushed - jnp.sum(pushed) * jnp.exp(logp))) < 1e-5)


def pointwise(method: Method) -> bool:
    """Whether coefficients need a position's own statistics only, so that one pass will do.

    Of the ratios of current and proximal policy only a token's does, gate or not; a correction
    needs no statistics at all.
    """
    return all(map(_pointwise, method.terms))


def _pointwise(term: Term) -> bool:
    kinds = {importance.STATE_PART[term.importance]} if term.rule is not None else set()
    if term.onehot:
        kinds.add(term.importance)
    if not kinds <= {"none", "token"} or term.returns == "vtrace" or _others_ratios(term):
        return False
    if term.baseline in baselines.OF_SCORES:
        return False
    if baselines.NORMALISERS[term.normaliser].shared or _weighed(term) in ("rollout", "batch"):
        return False
    if not term.onehot or term.signal in ("reward", "one"):
        return True
    return (
        term.gamma == 0
        and term.baseline in ("none", *baselines.OF_STATES)
        and term.normaliser == "none"
    )


def _weighed(term: Term) -> str | None:
    """What a term's token weight holds, if it has one."""
    return None if term.weigh == "none" else weighing.WEIGHINGS[term.weigh].holds


def _others_ratios(term: Term) -> str | None:
    """Whose other ratios a term's own one is bounded by: the `rollout`'s, the `batch`'s or None."""
    rule = term.ratio_rule if term.onehot else None
    return None if rule is None else importance.RATIO_RULES[rule].of


def coupled(method: Method) -> str | None:
    """Which other rollouts a weight holds: `group`, `batch`, or None."""
    held = set()
    for term in _felt(method):
        weighed = "batch" if _weighed(term) == "batch" else None
        others = reduction.REDUCTIONS[term.reduction].of, _others_ratios(term), weighed
        held |= compares(term) | set(others)
    return "batch" if "batch" in held else "group" if "group" in held else None


def compares(term: Term) -> set[str | None]:
    """Whose outcomes a term's credit is compared with: the `group`'s, the `batch`'s, nobody's."""
    held = {baselines.NORMALISERS[term.normaliser].of}
    if term.baseline in baselines.BASELINES:
        held.add(baselines.BASELINES[term.baseline].of)
    if term.baseline in baselines.OF_SCORES:
        held.add("group")
    if term.gate != "none":
        held.add(weighing.GATES[term.gate].of)
    return held


# --- whom to compare with ------------------------------------------------------------------------

RATIOS = ("importance", "correction")


def partner(method: Method) -> Method | None:
    """The row g_t = E[h_t | s_t]: itself where nothing is drawn; None where h_t holds more.

    On the student's own rollouts, where rows are measured side by side. A row has a partner of
    this kind if each weight depends on the state and the action drawn there only. A prefix's ratio
    depends on the state, which is the prefix.
    """
    if partnerless(method) is not None:
        return None
    felt = _felt(method)
    terms = tuple(map(_enumerated, felt))
    return method if terms == felt else named(method.origin, terms)


def _enumerated(term: Term) -> Term:
    """The expectation of a term given the state; the term itself where nothing is drawn."""
    if term.rule is not None and not term.rule.draws and not term.onehot:
        return term
    ratios = {axis: importance.STATE_PART[getattr(term, axis)] for axis in RATIOS}
    return changed(term, {"expectation": "enumerated", "baseline": "none", **ratios})


def partnerless(method: Method) -> str | None:
    """Why the variance has no three parts, in words; None where it has."""
    felt = _felt(method)
    sampled = [term for term in felt if term.onehot]
    whole = [kind for kind, ratio in importance.LOG_RATIOS.items() if ratio.ahead]
    if any(term.signal == "reward" or term.gate != "none" for term in felt):
        return "its weight holds the terminal reward"
    if any(term.gamma > 0 for term in felt):
        return "its weight holds the future (gamma > 0)"
    if coupled(method):
        return "its weight holds other rollouts"
    if any(term.reduction != "sum" or term.cut != "keep" for term in felt):
        return "its weight holds the rollout's length"
    if any(_weighed(term) == "rollout" for term in felt):
        return "its weight holds the whole rollout"
    if any(_weighed(term) == "token" for term in felt):
        return "its weight holds the token"
    if any(getattr(term, axis) in whole for term in sampled for axis in RATIOS):
        return "its weight holds the whole rollout's ratio"
    if any(term.bounded for term in sampled):
        return "its weight holds a bounded ratio"
    drawn = any(term.onehot or (term.rule is not None and term.rule.draws) for term in felt)
    foreign = any(term.signal not in ("teacher", "entropy") for term in felt)
    if foreign or (drawn and len(_graded(method)) > 1):
        return "it has no enumerated partner"
    return None


def reference(method: Method) -> Method:
    """The method to compare expectations with: same goal, unbiased, enumerated where it can be.

    The method itself where there is no other: no row is unbiased for some goals.
    """
    terms = tuple(_reference_terms(method))
    origin = changed(replace(method.origin, redraws=None), {})
    if (origin, terms) == (method.origin, method.terms):
        return method
    plain = named(origin, terms)
    if plain is None or bias(plain) is not None or goal(plain) != goal(method):
        return method
    return plain


def _reference_terms(method: Method) -> Iterator[Term]:
    """A term for each part of the goal, with the ratio that leaves it on the goal's states."""
    where = states(method) if _other(method.origin, "policy") else _left(method)
    summed = _summed(method)
    first: dict[Part, Term] = {}
    for term in _graded(method):
        first.setdefault(_part(term, method.origin), term)
    for part, coef in summed.items():
        term = first.get(part, method.terms[0])  # of a sum of two: either will do
        term = _plain(term, part, method.origin, alone=len(summed) == 1)
        coef = 1.0 if len(summed) == 1 else coef
        yield changed(term, {"coef": coef, "importance": _ratio(term, where)})


def _plain(term: Term, part: Part, origin: Origin, alone: bool) -> Term:
    """The unbiased term of a part, as much of it enumerated as can be.

    Beside other parts, which a return's noise would drown, a reward has a baseline that leaves its
    expectation alone.
    """
    if part.signal == "reward":
        bare = alone or part.gamma < 1
        return Term("reward", gamma=part.gamma, baseline="none" if bare else "leave_one_out")
    if part.signal == "entropy":
        return Term("entropy")
    if part.to == "reference":
        return Term("reference", penalty=term.penalty, gamma=part.gamma)
    if term.signal == "one" and (part.to == "dataset" or not _own_tokens(origin)):
        return Term("one")  # nobody else knows what they were drawn from
    divergence, argument = part.divergence, part.argument
    return Term("teacher", divergence, argument, expectation="enumerated", gamma=part.gamma)


def _ratio(term: Term, where: str | None) -> str:
    """The kind of ratio that leaves a term unbiased on the states that are wanted, if any are."""
    if where is None or term.signal == "one":
        return "none"
    if not term.onehot:
        return "prefix" if where == "current" else "none"
    if where == "behavior":
        return "token"
    return "trajectory" if term.gamma > 0 else "prefix_inclusive"

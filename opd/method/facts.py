"""What follows from a method's terms: what it is unbiased for, what it needs, whom to compare with.

Nothing here is said of a row by name: a new row, or an old one with other axes, has its facts.
"""

from __future__ import annotations

import dataclasses
import math

from opd.method import importance, local
from opd.method.table import MIXTURE, RATIO_AXES, ROLLOUT, ROWS, Method, Term, override


@dataclasses.dataclass(frozen=True)
class Target:
    """What a method's gradient is unbiased for.

    `kind` is myopic (-grad D at each state, the states' law held fixed), discounted or sequence
    (the same plus gamma times the future's divergence; sequence is gamma = 1), reward, or the sum
    of what `parts` lists.
    """

    kind: str
    divergence: str | None
    gamma: float


@dataclasses.dataclass(frozen=True)
class Part:
    """One summand of a method's target; `to` names the policy that a divergence is to."""

    coef: float
    target: Target
    argument: float | None = None
    to: str | None = None


def parts(method: Method) -> tuple[Part, ...]:
    """What the method's gradient is the sum of, or would be but for what `bias` names.

    An entropy bonus is no part. One part alone is claimed with coefficient 1.
    """
    graded = _graded(method)
    alone = len(graded) == 1
    return tuple(
        Part(1.0 if alone else term.coef, _target(term), term.argument, _to(term))
        for term in graded
    )


def claims(method: Method) -> Target:
    """What the method is unbiased for, or would be but for what `bias` names."""
    found = parts(method)
    return found[0].target if len(found) == 1 else Target("sum", None, found[0].target.gamma)


@dataclasses.dataclass(frozen=True)
class GoalPart:
    """One summand of a goal: what `Part` says, in fields of its own."""

    signal: str
    divergence: str | None
    argument: float | None
    coef: float
    gamma: float
    to: str | None


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a method aims at, and on whose states; rows are compared within one goal only."""

    parts: tuple[GoalPart, ...]
    states: str


def goal(method: Method) -> Goal:
    """The goal of a method: two of them share one where all that they sum up is the same."""
    summands = (
        GoalPart(
            term.signal,
            part.target.divergence,
            part.argument,
            part.coef,
            part.target.gamma,
            part.to,
        )
        for term, part in zip(_graded(method), parts(method), strict=True)
    )
    return Goal(tuple(sorted(summands, key=repr)), states(method))


def axes(method: Method) -> dict[str, object]:
    """Every axis, ready for JSON: the rollouts' under `origin`, each term's under `terms`."""
    terms = [dataclasses.asdict(term) for term in method.terms]
    origin = {axis: terms[0][axis] for axis in ROLLOUT}
    return {
        "origin": origin,
        "terms": [{a: v for a, v in term.items() if a not in ROLLOUT} for term in terms],
    }


def _graded(method: Method) -> tuple[Term, ...]:
    """The terms but for entropy bonuses; all, where there is nothing else."""
    return tuple(term for term in method.terms if term.signal != "entropy") or method.terms


def _target(term: Term) -> Target:
    if term.signal == "reward":
        return Target("reward", None, term.gamma)
    if term.signal == "one":
        return Target("myopic", "reverse_kl" if _own_tokens(term) else "forward_kl", 0.0)
    kind = {0.0: "myopic", 1.0: "sequence"}.get(term.gamma, "discounted")
    if term.signal == "reference":
        return Target(kind, "forward_kl" if term.penalty == "k3" else "reverse_kl", term.gamma)
    return Target(kind, term.divergence, term.gamma)


def _to(term: Term) -> str | None:
    return {"reward": None, "reference": "reference"}.get(term.signal, "teacher")


def _own_tokens(term: Term) -> bool:
    """Whether some of the rollouts' tokens are the student's, now or earlier."""
    return term.behavior not in ("teacher", "dataset")


# How tokens are drawn from whomever the behavior names, older students, teachers and both sides of
# a mixture alike: from the policy itself; at another temperature, at which every token is still
# possible; with the vocabulary cut (top-k, top-p), at whatever temperature.
LAWS = ("policy", "tempered", "truncated")
DRAWN = {"tempered": "at another temperature", "truncated": "with the vocabulary cut"}


def bias(method: Method, law: str = "policy") -> str | None:
    """Why the expectation differs from the claim; None where it doesn't.

    Of a student's own rollouts: by the current student. `stale` says what an older one's are
    unbiased for. Of other behaviors: whatever law the rollouts have. A student whose tokens are
    not drawn from the policy itself is another behavior: a row keeps its claim on the `states`
    that its ratios leave it.

    Args:
        method: which method.
        law: one of LAWS; `logp_behavior` is of the law that was sampled.
    """
    reasons = [reason for term in method.terms for reason in _biases(term, law)]
    whose = {off_policy(term, law) for term in method.terms} - {None}
    if _other(method.behavior, law) and len(whose) > 1:
        reasons.append("its terms are on different policies' states")
    graded = _graded(method)
    if len(graded) == 1 and graded[0].coef != 1:
        reasons.append(f"coef={graded[0].coef:g} scales the gradient")
    return "; ".join(dict.fromkeys(reasons)) or None


def _other(behavior: str, law: str) -> bool:
    """Whether the rollouts are another policy's than the current student."""
    return behavior != "student" or law != "policy"


def _biases(term: Term, law: str) -> list[str]:
    found = []
    if term.signal == "teacher_kl":
        found.append("the detached KL is a state baseline; only the future's is felt")
    if term.signal == "one" and _own_tokens(term):
        found.append("the score of an own token is zero on average")
    if term.signal == "one" and term.behavior == "teacher" and law != "policy":
        found.append(f"the teacher's tokens were drawn {DRAWN[law]}")
    if term.tail not in (None, "sample"):
        found.append(f"tail={term.tail} leaves out what lies off the top-k set")
    if term.baseline in ("group", "batch"):
        found.append(f"the {term.baseline} mean holds the rollout's own return")
    if term.normaliser != "none":
        found.append(f"normaliser={term.normaliser} rescales by a random number")
    if term.returns == "mean":
        found.append("returns=mean divides by the number of tokens ahead")
    for axis in ("lam", "c_bar"):
        value = getattr(term, axis)
        if value is not None and value < 1:
            found.append(f"{axis}={value:g} trusts the critic")
    if _other(term.behavior, law) and term.signal != "one" and off_policy(term, law) is None:
        found.append(_foreign(term, law))
    if term.signal == "entropy":
        found.append("an entropy bonus is no part of the claim")
    if term.cut == "mask":
        found.append("cut=mask leaves out the rollouts that were cut")
    if term.redraws:
        found.append(f"redraws={term.redraws} draws groups of equal reward again")
    if term.reduction == "constant":
        found.append("reduction=constant divides the gradient by T")
    elif term.reduction != "sum":
        found.append(f"reduction={term.reduction} weighs tokens by the lengths drawn")
    return found


def _foreign(term: Term, law: str) -> str:
    found = f"the {term.behavior}'s tokens were not drawn from the student"
    if term.behavior == "student":
        found = f"the student's tokens were drawn {DRAWN[law]}"
    if off_policy(term) is not None:
        return found + ", and no ratio brings back what was cut"
    if term.bounded:
        return found + ", and their ratio is bounded"
    ratio = term.importance if term.correction == "none" else term.correction
    return found if ratio == "none" else found + f", and no ratio of kind {ratio} corrects that"


# Whose states an enumerated or fresh candidate is unbiased for, by the state's ratio, and whose an
# own token is, by its ratio, where it is credited with nothing but itself.
CANDIDATE_STATES = {"none": "behavior", "prefix": "current"}
OWN_STATES = {"token": "behavior", "prefix_inclusive": "current", "trajectory": "current"}


def off_policy(term: Term, law: str = "policy") -> str | None:
    """Whose states a term is unbiased for where the behavior is not the current student.

    `current` or `behavior`; None for neither. With c_t the ratio of current policy and behavior:
    E_mu[c_1 .. c_(t-1) f(s_t)] = E_pi[f(s_t)]; an own token needs c_t besides, and a future all
    later ones. A bounded ratio is no ratio. Where mu is 0 and pi is not, there is no ratio at
    all: a truncated law leaves what asks no own token, on the states that it visits.
    """
    if term.signal == "one":
        return "behavior"  # demonstrations: the data is the law
    found = set()
    if term.rule is not None:
        state = importance.STATE_PART
        found.add(
            CANDIDATE_STATES.get(_product(term, state[term.importance], state[term.correction]))
        )
    if term.onehot:
        kind = _product(term, term.importance, term.correction)
        alone = term.gamma == 0 or kind == "trajectory"
        found.add(OWN_STATES.get(kind) if alone else None)
    if law == "truncated" and (term.onehot or found != {"behavior"}):
        return None
    return found.pop() if len(found) == 1 else None


def _product(term: Term, ratio: str, correction: str) -> str | None:
    """The kind of current / proximal times proximal / behavior; None where it is no one kind.

    A term without a correction is taken to have the behavior as its proximal policy.
    """
    unbounded = (None, "none")
    if ratio != "none" and term.ratio_rule not in unbounded:
        return None
    if correction != "none" and term.correction_rule not in unbounded:
        return None
    return ratio if term.correction == "none" or correction == ratio else None


def stale(method: Method, law: str = "policy") -> str | None:
    """Whose states the method is unbiased for where an older policy drew the rollouts, by a law.

    `behavior`: the claim holds on that policy's states; `current`: on the current student's, as if
    the rollouts were fresh; None: on neither.
    """
    if bias(method, law) is not None:
        return None
    found = {off_policy(term, law) for term in method.terms}
    return found.pop() if len(found) == 1 else None


def states(method: Method, law: str = "policy") -> str:
    """Whose states the claim is about: `current` policy's, or the `behavior`'s."""
    if not _other(method.behavior, law):
        return "current"
    return off_policy(method.terms[0], law) or "behavior"


def weighs(method: Method) -> str:
    """The kind of log-ratio, of importance.LOG_RATIOS, whose weights the method uses.

    Of its first term that uses any; `trajectory` where none does. It names the effective sample
    size that says how far rollouts have aged for this method.
    """
    kinds = (
        importance.STATE_PART[term.importance] if not term.onehot else term.importance
        for term in method.terms
    )
    return next((kind for kind in kinds if kind != "none"), "trajectory")


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
    found: set[str] = set()
    for term in method.terms:
        rule = term.rule
        found |= _behavior_needs(term)
        if term.signal in ("reward", "reference"):
            found.add(term.signal)
        if term.redraws:
            found.add("reward")
        if term.baseline == "value":
            found.add("value")
        if term.signal == "teacher_kl" or term.baseline == "expected_kl":
            found.add("teacher_full")
        if term.signal == "teacher" and term.onehot:
            found.add("teacher_logp")
        if term.signal == "teacher" and rule is not None:
            proposal = local.DIVERGENCES[rule.divergence].proposal
            drawn = rule.expectation == "resampled" and proposal == "teacher"
            found.add("teacher_samples" if drawn else "teacher_full")
    return tuple(need for need in NEEDS if need in found)


def _behavior_needs(term: Term) -> set[str]:
    mixed = term.other if term.behavior == "mixture" and term.share < 1 else None
    whose = mixed or term.behavior
    found = {"teacher": {"teacher_rollouts"}, "dataset": {"dataset"}, "buffer": {"buffer"}}
    logp = whose == "dataset" and (term.importance, term.correction) != ("none", "none")
    return found.get(whose, set()) | ({"dataset_logp"} if logp else set())


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
        if rule.expectation == "topk" and not 1 <= rule.k <= vocab:
            raise ValueError(f"{method.name}: k={rule.k}; the vocabulary has {vocab} tokens")


def trainable(method: Method) -> None:
    """Refuses, by meaning, a row that is in the table to be measured and not to be trained with.

    Raises:
        ValueError: why, and what to use.
    """
    reason = ROWS[method.row].refused
    for term in method.terms:
        if term.signal == "one" and term.behavior in ("student", "buffer"):
            reason = ROWS["k1_loss"].refused
        if term.signal == "teacher_kl":
            reason = ROWS["kl_advantage"].refused
    if reason:
        raise ValueError(f"{method.name}: {reason}")


def vanishes(method: Method) -> bool:
    """Whether the gradient of every single rollout is zero where the teacher is the student."""
    return all(
        term.signal == "teacher"
        and term.tail != "truncate"
        and term.baseline != "value"
        and term.normaliser == "none"
        and (term.divergence == "reverse_kl" or term.expectation == "enumerated")
        for term in method.terms
    )


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
    if not kinds <= {"none", "token"} or term.returns == "vtrace":
        return False
    if not term.onehot or term.signal in ("reward", "one"):
        return True
    return (
        term.gamma == 0 and term.baseline in ("none", "expected_kl") and term.normaliser == "none"
    )


def coupled(method: Method) -> str | None:
    """Which other rollouts a weight holds: `group`, `batch`, or None."""
    batch = any(
        term.baseline == "batch" or term.normaliser == "whiten" or term.reduction == "token_mean"
        for term in method.terms
    )
    group = any(
        term.baseline in ("group", "leave_one_out") or term.normaliser == "group_std"
        for term in method.terms
    )
    return "batch" if batch else "group" if group else None


def partner(method: Method) -> Method | None:
    """The row g_t = E[h_t | s_t]: itself where nothing is drawn; None where h_t holds more.

    A row has a partner of this kind if each weight depends on the state and the action drawn
    there only. A prefix's ratio depends on the state, which is the prefix.
    """
    if partnerless(method) is not None:
        return None
    if all(term.rule and not term.rule.draws for term in method.terms):
        return method
    (term,) = _graded(method)
    kept: dict[str, object] = {"coef": term.coef}
    for ratio, axes in RATIO_AXES.items():
        if importance.STATE_PART[getattr(term, ratio)] == "prefix":
            kept |= {ratio: "prefix", **_used(term, axes)}
    for bonus in method.terms:
        if bonus is not term:
            axes = ("coef", "importance", *RATIO_AXES["importance"])
            kept |= {f"entropy.{axis}": value for axis, value in _used(bonus, axes).items()}
    return _enumerated(method, kept)


def partnerless(method: Method) -> str | None:
    """Why the variance has no three parts, in words; None where it has."""
    own = [term for term in method.terms if term.onehot]
    if any(term.signal == "reward" for term in method.terms):
        return "its weight holds the terminal reward"
    if any(term.gamma > 0 for term in method.terms):
        return "its weight holds the future (gamma > 0)"
    if coupled(method):
        return "its weight holds other rollouts"
    if any(term.reduction != "sum" or term.cut != "keep" for term in method.terms):
        return "its weight holds the rollout's length"
    if any({term.importance, term.correction} & {*importance.WHOLE} for term in own):
        return "its weight holds the whole rollout's ratio"
    if any(term.bounded for term in own):
        return "its weight holds a bounded ratio"
    if any(term.signal not in ("teacher", "entropy") for term in method.terms):
        return "it has no enumerated partner"
    if len(_graded(method)) > 1 and any(
        term.rule is None or term.rule.draws for term in method.terms
    ):
        return "it has no enumerated partner"
    return None


# The row that several graded signals are compared with, and what their claims are made of.
CLAIM_AXES = {
    "reward": ("gamma", "coef"),
    "teacher": ("divergence", "argument", "gamma", "coef"),
    "reference": ("penalty", "gamma", "coef"),
}
SUMS = {("reward", "teacher"): "rl_with_teacher", ("reward", "reference"): "rl_with_reference"}


def reference(method: Method) -> Method:
    """The row to compare expectations with: same claim, unbiased, as much enumerated as can be."""
    found = _reference(method)
    return method if found.terms == method.terms else found


def _reference(method: Method) -> Method:
    graded = _graded(method)
    if len(graded) > 1:
        return _sum_reference(method)
    (term,) = graded
    if term.signal in ("entropy", "reference") or (term.signal == "one" and not _own_tokens(term)):
        return method
    corrected = off_policy(term) == "current"
    if term.signal == "reward":
        wanted = {"gamma": term.gamma, **_mixture(term)}
        if corrected or term.behavior != "student":
            wanted["importance"] = "trajectory"
        row = "reinforce" if term.behavior == "student" else "offline_rl"
        return override(row, _given(ROWS[row].terms[0], wanted))
    whole = term.gamma > 0 and (corrected or term.behavior != "student")
    kind = "trajectory" if whole else "prefix" if corrected else "none"
    return _enumerated(method, {"importance": kind})


def _sum_reference(method: Method) -> Method:
    graded = _graded(method)
    row = SUMS.get(tuple(term.signal for term in graded))
    if row is None or method.behavior != "student":
        return method
    changes: dict[str, object] = {}
    for term, usual in zip(graded, ROWS[row].terms, strict=True):
        kept = _given(usual, {axis: getattr(term, axis) for axis in CLAIM_AXES[term.signal]})
        changes |= {f"{term.signal}.{axis}": value for axis, value in kept.items()}
    return override(row, changes)


def _enumerated(method: Method, kept: dict[str, object]) -> Method:
    """The unbiased row with the same claim and nothing drawn at the state, some axes kept."""
    (term,) = _graded(method)
    target = claims(method)
    row = "soft_label" if target.divergence == "forward_kl" else "opd"
    if row == "opd":
        claim = {"divergence": target.divergence, "argument": term.argument, "gamma": target.gamma}
        kept = claim | kept
    return override(row, _given(ROWS[row].terms[0], {**_mixture(term), **kept}))


def _mixture(term: Term) -> dict[str, object]:
    return {axis: getattr(term, axis) for axis in MIXTURE}


def _used(term: Term, axes: tuple[str, ...]) -> dict[str, object]:
    values = {axis: getattr(term, axis) for axis in axes}
    return {axis: value for axis, value in values.items() if value not in (None, "none")}


def _given(term: Term, axes: dict[str, object]) -> dict[str, object]:
    """The axes that differ from the term's; an added term's all do."""
    return {axis: value for axis, value in axes.items() if value != getattr(term, axis, math.nan)}

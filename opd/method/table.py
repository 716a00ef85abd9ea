"""The methods table: one row a method, each a tuple of terms over the same axes.

Everything else about a method is derived here from its terms: what it is unbiased for, what it
needs, which row is its partner and which its reference. Adding a row is one entry in ROWS.

A row is named `ROW` or `ROW@axis=value,...`: `opd_topk@k=8,tail=drop`, `opd@gamma=0.5`.
"""

from __future__ import annotations

import dataclasses
import math

from opd.method import baselines, local, reduction


@dataclasses.dataclass(frozen=True)
class Term:
    """One push on the logits: a point on the axes. Axes that a value doesn't use stay None.

    `signal` grades a token: `teacher` by log p - log pi (or a divergence's weight), `reward` by
    the rollout's terminal reward, `one` by 1 (demonstrations), `teacher_kl` by the detached
    -KL(pi || p), `entropy` by -log pi.
    """

    behavior: str = "student"
    signal: str = "teacher"
    divergence: str | None = None
    argument: float | None = None
    expectation: str = "sampled"
    k: int | None = None
    tail: str | None = None
    topk_from: str | None = None
    gamma: float = 0.0
    baseline: str = "none"
    normaliser: str = "none"
    importance: str = "none"
    reduction: str = "sum"
    coef: float = 1.0

    @property
    def rule(self) -> local.Rule | None:
        """The term's local rule; None where its sum runs over the rollout's own token only."""
        if self.signal == "entropy":
            return local.Rule("entropy")
        if self.signal != "teacher":
            return None
        from_teacher = local.DIVERGENCES[self.divergence].proposal == "teacher"
        if self.expectation == "sampled" and not from_teacher:
            return None
        drawn = self.expectation in ("sampled", "resampled")
        return local.Rule(
            self.divergence,
            self.argument,
            "resampled" if drawn else self.expectation,
            (self.k or 1) if drawn else self.k,
            self.tail,
            self.topk_from,
        )

    @property
    def onehot(self) -> bool:
        """Whether the rollout's own tokens are pushed."""
        return self.rule is None or self.gamma > 0


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. `refused` says why the trainer won't take it, where it won't."""

    terms: tuple[Term, ...]
    label: str
    paper: str
    refused: str | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """What a method's gradient is unbiased for.

    `kind` is myopic (-grad D at each state, the states' law held fixed), discounted or sequence
    (the same plus gamma times the future's divergence; sequence is gamma = 1), or reward.
    """

    kind: str
    divergence: str | None
    gamma: float


@dataclasses.dataclass(frozen=True)
class Method:
    """A row with its overrides applied. Static and hashable: it selects code."""

    name: str
    row: str
    terms: tuple[Term, ...]

    @property
    def label(self) -> str:
        _, _, overrides = self.name.partition("@")
        return ROWS[self.row].label + (f" ({overrides.replace(',', ', ')})" if overrides else "")

    @property
    def rules(self) -> tuple[local.Rule, ...]:
        """The local rules, in the order of `Coefficients.local`."""
        return tuple(term.rule for term in self.terms if term.rule is not None)


TEACHER = Term(divergence="reverse_kl")
REWARD = Term(signal="reward", gamma=1.0)


def _change(term: Term, **axes) -> tuple[Term, ...]:
    return (dataclasses.replace(term, **axes),)


ROWS: dict[str, Row] = {
    "opd": Row(
        _change(TEACHER, expectation="enumerated"),
        "on-policy distillation, enumerated",
        "Agarwal et al. 2024 (GKD), section 3; Gu et al. 2024 (MiniLLM), section 2.2",
    ),
    "opd_sampled": Row(
        (TEACHER,),
        "on-policy distillation, sampled token",
        "Thinking Machines Lab 2025, On-Policy Distillation",
    ),
    "opd_baseline": Row(
        _change(TEACHER, baseline="expected_kl"),
        "sampled token, expected-KL baseline",
        "Greensmith, Bartlett and Baxter 2004, section 3 (a state baseline)",
    ),
    "opd_resampled": Row(
        _change(TEACHER, expectation="resampled", k=4),
        "k fresh tokens from the student",
        "Metropolis and Ulam 1949; Asadi et al. 2017 (mean actor-critic), section 4",
    ),
    "opd_topk": Row(
        _change(TEACHER, expectation="topk", k=8, tail="sample", topk_from="student"),
        "top-k and a tail",
        "Kool, van Hoof and Welling 2020, section 3 (sum and sample)",
    ),
    "soft_label": Row(
        _change(TEACHER, divergence="forward_kl", expectation="enumerated"),
        "teacher's soft labels at the student's states",
        "Hinton, Vinyals and Dean 2015, section 2; Ross et al. 2011 (DAgger)",
    ),
    "reinforce": Row(
        (REWARD,),
        "REINFORCE, terminal reward",
        "Williams 1992, eq. 2",
    ),
    "rloo": Row(
        _change(REWARD, baseline="leave_one_out"),
        "REINFORCE, leave-one-out baseline",
        "Kool et al. 2019; Ahmadian et al. 2024, section 3",
    ),
    "grpo": Row(
        _change(REWARD, baseline="group", normaliser="group_std"),
        "GRPO's group-normalised advantage",
        "Shao et al. 2024 (DeepSeekMath), section 4.1",
    ),
    "sft": Row(
        (Term(behavior="dataset", signal="one"),),
        "supervised fine-tuning",
        "Radford et al. 2018, eq. 1; forward KL to the data",
    ),
    "k1_loss": Row(
        (Term(signal="one", coef=-1.0),),
        "autodiff of log pi/p at the sampled token",
        "Schulman 2020, Approximating KL divergence (k1)",
        refused="k1 as a loss has zero expected gradient: use opd_sampled, "
        "which takes the log ratio as a reward",
    ),
    "kl_advantage": Row(
        _change(TEACHER, signal="teacher_kl"),
        "a detached -KL as the advantage",
        "a state baseline (Sutton et al. 2000, theorem 1)",
        refused="a detached KL as an advantage is a state baseline, whose gradient is zero: "
        "use opd, or opd_sampled, which takes the sampled log ratio",
    ),
}

SIGNALS = ("teacher", "reward", "one", "teacher_kl", "entropy")
BEHAVIORS = ("student", "dataset")
EXPECTATIONS = ("sampled", *sorted(local.EXPECTATIONS))
TERM_BASELINES = (*baselines.BASELINES, "expected_kl")
CHOICES: dict[str, tuple[str, ...]] = {
    "behavior": BEHAVIORS,
    "signal": SIGNALS,
    "divergence": tuple(local.DIVERGENCES),
    "expectation": EXPECTATIONS,
    "tail": tuple(local.TAILS),
    "topk_from": local.TOPK_FROM,
    "baseline": TERM_BASELINES,
    "normaliser": tuple(baselines.NORMALISERS),
    "importance": ("none",),
    "reduction": tuple(reduction.REDUCTIONS),
}
NUMBERS = {"argument": float, "k": int, "gamma": float, "coef": float}
AXES = tuple(field.name for field in dataclasses.fields(Term))


def parse(name: str) -> Method:
    """The method that a name stands for: `ROW` or `ROW@axis=value,...`.

    Raises:
        ValueError: unknown row, axis or value, or a combination that means nothing.
    """
    row, at, overrides = name.strip().partition("@")
    if row not in ROWS:
        raise ValueError(f"unknown method {row!r}; the rows are {', '.join(ROWS)}")
    changes: dict[str, object] = {}
    for change in overrides.split(",") if at else ():
        axis, equals, text = (part.strip() for part in change.partition("="))
        if axis not in AXES or not equals:
            raise ValueError(
                f"{name}: {change!r} is not axis=value; the axes are {', '.join(AXES)}"
            )
        if axis in changes:
            raise ValueError(f"{name}: {axis} is given twice")
        changes[axis] = _value(name, axis, text)
    return override(row, changes)


def override(row: str, changes: dict[str, object]) -> Method:
    """A row with some axes changed, in every term that uses the axis, and checked."""
    base = ROWS[row].terms
    terms = tuple(_changed(term, changes) for term in base)
    unused = [axis for axis in changes if all(getattr(term, axis) is None for term in terms)]
    name = row + ("@" if changes else "") + ",".join(f"{a}={_text(v)}" for a, v in changes.items())
    for axis in unused:
        raise ValueError(f"{name}: {axis} means nothing there")
    for term in terms:
        _check(name, term, changes)
    return Method(name, row, terms)


def _changed(term: Term, changes: dict[str, object]) -> Term:
    """The term with its changes; an axis that the result doesn't use goes, one it does is set."""
    term = dataclasses.replace(term, **changes)
    usual: dict[str, object] = {"k": None, "tail": None, "topk_from": None}
    if term.expectation == "resampled":
        usual["k"] = 4
    if term.expectation == "topk":
        usual = {"k": 8, "tail": "sample", "topk_from": "student"}
    settled = {
        axis: value if value is None or getattr(term, axis) is None else getattr(term, axis)
        for axis, value in usual.items()
    }
    divergence = local.DIVERGENCES.get(term.divergence or "")
    if divergence is None or divergence.argument is None:
        settled["argument"] = None
    return dataclasses.replace(term, **settled)


def _value(name: str, axis: str, text: str) -> object:
    if axis in CHOICES:
        if text not in CHOICES[axis]:
            raise ValueError(f"{name}: {axis}={text}; it is one of {', '.join(CHOICES[axis])}")
        return text
    try:
        return NUMBERS[axis](text)
    except ValueError:
        kind = "a whole number" if NUMBERS[axis] is int else "a number"
        raise ValueError(f"{name}: {axis}={text} is not {kind}") from None


def _text(value: object) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _check(name: str, term: Term, changes: dict[str, object]) -> None:
    """Refuses what means nothing; says what was given and what is allowed."""

    def refuse(what: str) -> None:
        raise ValueError(f"{name}: {what}")

    if not 0 <= term.gamma <= 1:  # NaN included
        refuse(f"gamma={term.gamma:g}; it lies in [0, 1]")
    if not math.isfinite(term.coef):
        refuse(f"coef={term.coef:g}; it is finite")
    if term.k is not None and term.k < 1:
        refuse(f"k={term.k}; it is at least 1")
    graded = term.signal in ("teacher", "teacher_kl")
    if term.signal == "teacher" and term.divergence is None:
        refuse("a teacher signal needs a divergence")
    if not graded and "divergence" in changes:
        refuse(f"divergence belongs to a teacher signal, not to {term.signal}")
    if term.signal != "teacher" and term.expectation != "sampled":
        refuse(f"expectation={term.expectation} needs a teacher signal, not {term.signal}")
    if term.signal == "teacher":
        wanted = local.DIVERGENCES[term.divergence].argument
        if wanted and (term.argument is None or not 0 < term.argument < 1):
            refuse(f"divergence={term.divergence} needs argument={wanted} in (0, 1)")
        if term.gamma > 0 and term.divergence != "reverse_kl":
            refuse(f"gamma={term.gamma:g} needs divergence=reverse_kl, not {term.divergence}")
    if term.signal in ("one", "entropy") and term.gamma > 0:
        refuse(f"gamma={term.gamma:g} needs a reward or a teacher signal, not {term.signal}")
    if term.baseline == "expected_kl" and (
        term.signal != "teacher" or term.divergence != "reverse_kl" or term.gamma > 0
    ):
        refuse("baseline=expected_kl needs a teacher signal, divergence=reverse_kl and gamma=0")
    if term.rule is not None and (term.baseline != "none" or term.normaliser != "none"):
        refuse(f"a baseline or normaliser needs a sampled token, not {term.expectation}")


def claims(method: Method) -> Target:
    """What the method is unbiased for, or would be but for what `bias` names."""
    first = method.terms[0]
    if first.signal == "reward":
        return Target("reward", None, first.gamma)
    if first.signal == "one":
        return Target("myopic", "forward_kl" if first.behavior == "dataset" else "reverse_kl", 0.0)
    kind = {0.0: "myopic", 1.0: "sequence"}.get(first.gamma, "discounted")
    return Target(kind, first.divergence, first.gamma)


def bias(method: Method) -> str | None:
    """Why the expectation differs from the claim; None where it doesn't."""
    reasons = [reason for term in method.terms for reason in _biases(term)]
    return "; ".join(dict.fromkeys(reasons)) or None


def _biases(term: Term) -> list[str]:
    found = []
    if term.signal == "teacher_kl":
        found.append("the detached KL is a state baseline; only the future's is felt")
    if term.signal == "one" and term.behavior == "student":
        found.append("the score of an own token is zero on average")
    if term.tail not in (None, "sample"):
        found.append(f"tail={term.tail} leaves out what lies off the top-k set")
    if term.baseline in ("group", "batch"):
        found.append(f"the {term.baseline} mean holds the rollout's own return")
    if term.normaliser != "none":
        found.append(f"normaliser={term.normaliser} rescales by a random number")
    if term.behavior == "dataset" and term.signal in ("teacher", "reward") and term.onehot:
        found.append("the dataset's tokens were not drawn from the student")
    if term.coef != 1:
        found.append(f"coef={term.coef:g} scales the gradient")
    if term.signal == "entropy":
        found.append("an entropy bonus is no part of the claim")
    if term.reduction == "constant":
        found.append("reduction=constant divides the gradient by T")
    elif term.reduction != "sum":
        found.append(f"reduction={term.reduction} weighs tokens by the lengths drawn")
    return found


def states(method: Method) -> str:
    """Whose states the claim is about: `current` policy's, or the `behavior`'s."""
    return "current" if method.terms[0].behavior == "student" else "behavior"


NEEDS = {
    "teacher_full": "the teacher's log-probabilities of the whole vocabulary",
    "teacher_logp": "the teacher's log-probability of the sampled token",
    "teacher_samples": "tokens drawn from the teacher",
    "reward": "a reward: a verifier for the task",
    "dataset": "demonstrations",
}


def needs(method: Method) -> tuple[str, ...]:
    """What a run must have for this method: keys of NEEDS."""
    found: set[str] = set()
    for term in method.terms:
        rule = term.rule
        if term.signal == "reward":
            found.add("reward")
        if term.behavior == "dataset":
            found.add("dataset")
        if term.signal == "teacher_kl" or term.baseline == "expected_kl":
            found.add("teacher_full")
        if term.signal == "teacher" and term.onehot:
            found.add("teacher_logp")
        if term.signal == "teacher" and rule is not None:
            proposal = local.DIVERGENCES[rule.divergence].proposal
            drawn = rule.expectation == "resampled" and proposal == "teacher"
            found.add("teacher_samples" if drawn else "teacher_full")
    return tuple(need for need in NEEDS if need in found)


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
        if term.signal == "one" and term.behavior == "student":
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
        and (term.divergence == "reverse_kl" or term.expectation == "enumerated")
        for term in method.terms
    )


def pointwise(method: Method) -> bool:
    """Whether coefficients need a position's own statistics only, so that one pass will do."""
    return all(
        term.signal not in ("teacher", "teacher_kl")
        or not term.onehot
        or (
            term.gamma == 0
            and term.baseline in ("none", "expected_kl")
            and term.normaliser == "none"
        )
        for term in method.terms
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
    there only.
    """
    if partnerless(method) is not None:
        return None
    if all(
        term.signal == "entropy" or (term.rule and not term.rule.draws) for term in method.terms
    ):
        return method
    return _enumerated(method)


def partnerless(method: Method) -> str | None:
    """Why the variance has no three parts, in words; None where it has."""
    if any(term.signal == "reward" for term in method.terms):
        return "its weight holds the terminal reward"
    if any(term.gamma > 0 for term in method.terms):
        return "its weight holds the future (gamma > 0)"
    if coupled(method):
        return "its weight holds other rollouts"
    if any(term.reduction != "sum" for term in method.terms):
        return "its weight holds the rollout's length"
    if any(term.signal not in ("teacher", "entropy") for term in method.terms):
        return "it has no enumerated partner"
    return None


def reference(method: Method) -> Method:
    """The row to compare expectations with: same claim, unbiased, as much enumerated as can be."""
    if method.terms[0].signal == "reward":
        return override("reinforce", _given(REWARD, {"gamma": method.terms[0].gamma}))
    if method.terms[0].signal == "entropy" or method.terms[0].behavior == "dataset":
        return method
    return _enumerated(method)


def _enumerated(method: Method) -> Method:
    """The unbiased row with the same claim and nothing drawn at the state."""
    term = method.terms[0]
    assert len(method.terms) == 1, "a row of several terms states its own partner"
    if claims(method).divergence == "forward_kl":
        return override("soft_label", {})
    kept = {
        "divergence": claims(method).divergence,
        "argument": term.argument,
        "gamma": term.gamma,
    }
    return override("opd", _given(TEACHER, kept))


def _given(term: Term, axes: dict[str, object]) -> dict[str, object]:
    return {axis: value for axis, value in axes.items() if value != getattr(term, axis)}

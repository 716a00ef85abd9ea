"""The methods table: one row a method, each a tuple of terms over the same axes.

Everything else about a method is derived here from its terms: what it is unbiased for, on which
states, what it needs, which row is its partner and which its reference. Adding a row is one entry
in ROWS.

A row is named `ROW` or `ROW@axis=value,...`: `opd_topk@k=8,tail=drop`, `opd@gamma=0.5`. In a row of
several terms `SIGNAL.axis=value` changes the terms of one signal: `rl_with_teacher@teacher.coef=2`.
"""

from __future__ import annotations

import dataclasses
import math

from opd.method import baselines, importance, local, reduction


@dataclasses.dataclass(frozen=True)
class Term:
    """One push on the logits: a point on the axes. Axes that a value doesn't use stay None.

    `behavior` says whose rollouts: the student's, the teacher's, a dataset's, a buffer of the
    student's at all iterations, or a mixture, in which the student draws the `share` of each
    `level` (batch, sequence or token) and the `other` policy draws the rest.

    `signal` grades a token: `teacher` by log p - log pi (or a divergence's weight), `reward` by
    the rollout's terminal reward, `one` by 1 (demonstrations), `teacher_kl` by the detached
    -KL(pi || p), `entropy` by -log pi, `reference` by a `penalty` for leaving a reference policy.

    `importance` is the ratio of current and proximal policy, `correction` that of proximal policy
    and behavior; each has a kind, a rule and bounds. Where a rollout keeps no proximal policy's
    log-probabilities the behavior is the proximal policy.
    """

    behavior: str = "student"
    share: float | None = None
    level: str | None = None
    other: str | None = None
    signal: str = "teacher"
    divergence: str | None = None
    argument: float | None = None
    penalty: str | None = None
    expectation: str = "sampled"
    k: int | None = None
    tail: str | None = None
    topk_from: str | None = None
    gamma: float = 0.0
    returns: str = "sum"
    lam: float | None = None
    c_bar: float | None = None
    baseline: str = "none"
    normaliser: str = "none"
    importance: str = "none"
    ratio_rule: str | None = None
    low: float | None = None
    high: float | None = None
    correction: str = "none"
    correction_rule: str | None = None
    correction_low: float | None = None
    correction_high: float | None = None
    reduction: str = "sum"
    cut: str = "keep"
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

    @property
    def bounded(self) -> bool:
        """Whether a ratio is clipped, truncated or masked."""
        return not {self.ratio_rule, self.correction_rule} <= {None, "none"}


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

    @property
    def behavior(self) -> str:
        """Whose rollouts: one behavior for all terms."""
        return self.terms[0].behavior


TEACHER = Term(divergence="reverse_kl")
REWARD = Term(signal="reward", gamma=1.0)
CLIPPED: dict[str, object] = {
    "importance": "token",
    "ratio_rule": "clip",
    "low": 0.8,
    "high": 1.2,
}


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
    "dr_grpo": Row(
        _change(REWARD, baseline="group", reduction="constant", **CLIPPED),
        "GRPO without its two normalisers, clipped",
        "Liu et al. 2025 (Dr. GRPO), section 3.2",
    ),
    "dapo": Row(
        _change(
            REWARD,
            baseline="group",
            normaliser="group_std",
            reduction="token_mean",
            cut="mask",
            **{**CLIPPED, "high": 1.28},
        ),
        "DAPO: unequal clips, token mean, overlong masking",
        "Yu et al. 2025 (DAPO), eq. 8 and sections 3.1, 3.3, 3.4",
    ),
    "gspo": Row(
        _change(
            REWARD,
            baseline="group",
            normaliser="group_std",
            reduction="sequence_mean",
            importance="sequence",
            ratio_rule="clip",
            low=1 - 3e-4,
            high=1 + 4e-4,
        ),
        "GSPO: one clipped ratio a sequence",
        "Zheng et al. 2025 (GSPO), eq. 5 and 7",
    ),
    "ppo": Row(
        _change(
            REWARD,
            baseline="value",
            returns="gae",
            lam=0.95,
            reduction="token_mean",
            **CLIPPED,
        ),
        "PPO with a learned value and GAE",
        "Schulman et al. 2017 (PPO), eq. 7; Schulman et al. 2016 (GAE), eq. 16",
    ),
    "vtrace": Row(
        _change(
            REWARD,
            baseline="value",
            returns="vtrace",
            lam=1.0,
            c_bar=1.0,
            importance="token",
            ratio_rule="truncate",
            high=1.0,
        ),
        "V-trace actor-critic",
        "Espeholt et al. 2018 (IMPALA), eq. 1 and section 4.2",
    ),
    "offline_rl": Row(
        _change(REWARD, behavior="dataset"),
        "policy gradient on fixed rollouts",
        "Levine et al. 2020, section 3; Precup, Sutton and Singh 2000 (its correction)",
    ),
    "sft": Row(
        (Term(behavior="dataset", signal="one"),),
        "supervised fine-tuning",
        "Radford et al. 2018, eq. 1; forward KL to the data",
    ),
    "dagger": Row(
        _change(TEACHER, divergence="forward_kl", expectation="enumerated", behavior="buffer"),
        "soft labels on a growing buffer of the student's states",
        "Ross, Gordon and Bagnell 2011 (DAgger), algorithm 3.1",
    ),
    "gkd": Row(
        _change(
            TEACHER,
            divergence="jsd",
            argument=0.5,
            expectation="enumerated",
            behavior="mixture",
            share=0.5,
            level="batch",
            other="dataset",
        ),
        "generalised JSD on own and given sequences",
        "Agarwal et al. 2024 (GKD), algorithm 1 and eq. 1",
    ),
    "skew": Row(
        _change(TEACHER, divergence="skew", argument=0.1, expectation="enumerated"),
        "skew KL to the teacher",
        "Ko et al. 2024 (DistiLLM), section 3.1",
    ),
    "minillm": Row(
        _change(TEACHER, expectation="enumerated", gamma=1.0),
        "single step enumerated, sampled future",
        "Gu et al. 2024 (MiniLLM), section 2.2 (its length norm is returns=mean)",
    ),
    "teacher_behavior": Row(
        _change(TEACHER, expectation="enumerated", behavior="teacher"),
        "reverse KL on the teacher's states",
        "Precup, Sutton and Singh 2000, section 3 (importance=prefix corrects the states)",
    ),
    "rl_with_teacher": Row(
        (
            dataclasses.replace(REWARD, baseline="leave_one_out"),
            dataclasses.replace(TEACHER, expectation="enumerated", coef=0.1),
        ),
        "reward and distillation in one gradient",
        "Schmitt et al. 2018 (kickstarting), section 3; reverse KL for its cross entropy",
    ),
    "rl_with_reference": Row(
        (
            dataclasses.replace(REWARD, baseline="leave_one_out"),
            Term(signal="reference", penalty="k3", coef=0.04),
        ),
        "reward and a penalty for leaving a reference",
        "Shao et al. 2024 (DeepSeekMath), eq. 3 and 4; Schulman 2020 (k3)",
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

SIGNALS = ("teacher", "reward", "one", "teacher_kl", "entropy", "reference")
BEHAVIORS = ("student", "teacher", "mixture", "dataset", "buffer")
EXPECTATIONS = ("sampled", *sorted(local.EXPECTATIONS))
RATIOS = ("none", *importance.LOG_RATIOS)
CHOICES: dict[str, tuple[str, ...]] = {
    "behavior": BEHAVIORS,
    "level": ("batch", "sequence", "token"),
    "other": ("dataset", "teacher"),
    "signal": SIGNALS,
    "divergence": tuple(local.DIVERGENCES),
    # k3, as a loss, is sampled forward KL: accepted from a reference by that name only.
    "penalty": ("k1", "k3"),
    "expectation": EXPECTATIONS,
    "tail": tuple(local.TAILS),
    "topk_from": local.TOPK_FROM,
    "returns": ("sum", "mean", "gae", "vtrace"),
    "baseline": (*baselines.BASELINES, "expected_kl", "value"),
    "normaliser": tuple(baselines.NORMALISERS),
    "importance": RATIOS,
    "ratio_rule": tuple(importance.RATIO_RULES),
    "correction": RATIOS,
    "correction_rule": tuple(rule for rule in importance.RATIO_RULES if rule != "clip"),
    "reduction": tuple(reduction.REDUCTIONS),
    "cut": ("keep", "mask"),
}
NUMBERS = {
    "share": float,
    "argument": float,
    "k": int,
    "gamma": float,
    "lam": float,
    "c_bar": float,
    "low": float,
    "high": float,
    "correction_low": float,
    "correction_high": float,
    "coef": float,
}
AXES = tuple(field.name for field in dataclasses.fields(Term))
# Each ratio's kind, and its rule and bounds.
RATIO_AXES = {
    "importance": ("ratio_rule", "low", "high"),
    "correction": ("correction_rule", "correction_low", "correction_high"),
}
# Of the rollout, and so the same for all terms.
MIXTURE = ("behavior", "share", "level", "other")
# Terms that any row may be given, by naming one of their axes: `grpo@entropy.coef=0.01`.
ADDED = {"entropy": Term(signal="entropy"), "reference": Term(signal="reference", penalty="k3")}


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
        key, equals, text = (part.strip() for part in change.partition("="))
        signal, axis = _addressed(key)
        if axis not in AXES or (signal and axis in (*MIXTURE, "signal")) or not equals:
            raise ValueError(
                f"{name}: {change!r} is not axis=value; the axes are {', '.join(AXES)}"
            )
        if signal and signal not in SIGNALS:
            raise ValueError(f"{name}: {signal!r} is no signal; they are {', '.join(SIGNALS)}")
        if key in changes:
            raise ValueError(f"{name}: {key} is given twice")
        changes[key] = _value(name, axis, text)
    return override(row, changes)


def override(row: str, changes: dict[str, object]) -> Method:
    """A row with some axes changed, in every term that the change addresses, and checked."""
    name = row + ("@" if changes else "") + ",".join(f"{a}={_text(v)}" for a, v in changes.items())
    base = ROWS[row].terms
    own = [_own(term, changes, base) for term in base]
    for signal, term in ADDED.items():
        asked = any(_addressed(key)[0] == signal for key in changes)
        if asked and signal not in (other.signal for other in base):
            kept = {axis: getattr(base[0], axis) for axis in (*MIXTURE, "reduction", "cut")}
            kept |= {axis: own[0][axis] for axis in kept if axis in own[0]}
            base += (term,)
            own.append(kept | _own(term, changes, ()))
    terms = tuple(_changed(term, axes) for term, axes in zip(base, own, strict=True))
    for key in changes:
        signal, axis = _addressed(key)
        addressed = (
            new for old, new in zip(base, terms, strict=True) if signal in ("", old.signal)
        )
        if all(getattr(term, axis) is None for term in addressed):
            raise ValueError(f"{name}: {key} means nothing there")
    for term, axes in zip(terms, own, strict=True):
        _check(name, term, axes)
    if sum(term.baseline == "value" for term in terms) > 1:
        raise ValueError(f"{name}: baseline=value in several terms; one critic learns one return")
    return Method(name, row, terms)


def _addressed(key: str) -> tuple[str, str]:
    """The signal that an override is for, empty for all, and its axis."""
    signal, _, axis = key.rpartition(".")
    return signal, axis


def _own(term: Term, changes: dict[str, object], everyone: tuple[Term, ...]) -> dict[str, object]:
    """The changes that address a term; its own signal's come before everyone's.

    A change for everyone goes to those of `everyone` that use the axis, or to all if none does.
    """
    found: dict[str, object] = {}
    for key, value in changes.items():
        used = [getattr(other, key, None) is not None for other in everyone]
        if key in AXES and everyone and (getattr(term, key) is not None or not any(used)):
            found[key] = value
    for key, value in changes.items():
        signal, axis = _addressed(key)
        if signal == term.signal:
            found[axis] = value
    return found


def _changed(term: Term, changes: dict[str, object]) -> Term:
    """The term with its changes; an axis that the result doesn't use goes, one it does is set."""
    for rule, low, high in RATIO_AXES.values():
        if changes.get(rule, getattr(term, rule)) != getattr(term, rule):
            term = dataclasses.replace(term, **{low: None, high: None})  # another rule's bounds
    term = dataclasses.replace(term, **changes)
    for usual in (_usual, _usual_bounds):  # bounds go by the rule, once that is settled
        settled = {
            axis: value if value is None or getattr(term, axis) is None else getattr(term, axis)
            for axis, value in usual(term).items()
        }
        term = dataclasses.replace(term, **settled)
    return term


def _usual(term: Term) -> dict[str, object]:
    """Axes that only some values of others use: their usual value, or None where unused."""
    usual: dict[str, object] = {"k": None, "tail": None, "topk_from": None}
    if term.expectation == "resampled":
        usual["k"] = 4
    if term.expectation == "topk":
        usual = {"k": 8, "tail": "sample", "topk_from": "student"}
    mixed = term.behavior == "mixture"
    usual |= {
        "share": 0.5 if mixed else None,
        "level": "batch" if mixed else None,
        "other": "dataset" if mixed else None,
        "penalty": "k3" if term.signal == "reference" else None,
        "lam": {"gae": 0.95, "vtrace": 1.0}.get(term.returns),
        "c_bar": 1.0 if term.returns == "vtrace" else None,
        "ratio_rule": None if term.importance == "none" else "none",
        "correction_rule": None if term.correction == "none" else "truncate",
    }
    divergence = local.DIVERGENCES.get(term.divergence or "")
    if divergence is None or divergence.argument is None:
        usual["argument"] = None
    return usual


def _usual_bounds(term: Term) -> dict[str, object]:
    found: dict[str, object] = {}
    for rule, *bounds in RATIO_AXES.values():
        usual = importance.BOUNDS[getattr(term, rule) or "none"]
        found |= dict(zip(bounds, usual, strict=True))
    return found


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

    for axis in ("gamma", "share", "lam"):
        value = getattr(term, axis)
        if value is not None and not 0 <= value <= 1:  # NaN included
            refuse(f"{axis}={value:g}; it lies in [0, 1]")
    if not math.isfinite(term.coef):
        refuse(f"coef={term.coef:g}; it is finite")
    if term.k is not None and term.k < 1:
        refuse(f"k={term.k}; it is at least 1")
    graded = term.signal in ("teacher", "teacher_kl")
    if term.signal == "teacher" and term.divergence is None:
        refuse("a teacher signal needs a divergence")
    if term.signal == "teacher_kl" and term.divergence != "reverse_kl":
        refuse("signal=teacher_kl is a reverse KL: it needs divergence=reverse_kl")
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
    if term.penalty == "k3" and term.gamma > 0:
        refuse(f"gamma={term.gamma:g} needs penalty=k1, a reward: k3 is a loss")
    if term.baseline == "expected_kl" and (
        term.signal != "teacher" or term.divergence != "reverse_kl" or term.gamma > 0
    ):
        refuse("baseline=expected_kl needs a teacher signal, divergence=reverse_kl and gamma=0")
    if term.baseline == "expected_kl" and term.normaliser != "none":
        refuse(f"normaliser={term.normaliser} needs a return, not baseline=expected_kl")
    counted = term.baseline in baselines.OF_ROLLOUTS or term.normaliser == "group_std"
    if counted and term.gamma != 1:
        refuse(
            f"baseline={term.baseline}, normaliser={term.normaliser} with gamma={term.gamma:g}; "
            "statistics of whole rollouts need gamma=1, at which a return is one"
        )
    if term.rule is not None and (term.baseline != "none" or term.normaliser != "none"):
        refuse(f"a baseline or normaliser needs a sampled token, not {_sum(term)}")
    if (term.penalty == "k3" or term.signal == "one") and (
        term.baseline != "none" or term.normaliser != "none"
    ):
        refuse(f"a baseline or normaliser needs a return, not {term.penalty or 'signal=one'}")
    if (term.returns in ("gae", "vtrace")) != (term.baseline == "value"):
        refuse(
            f"returns={term.returns} with baseline={term.baseline}; "
            "returns=gae or vtrace go with baseline=value"
        )
    if term.returns == "mean" and term.gamma == 0:
        refuse("returns=mean needs gamma > 0: there is no future to average")
    if term.returns == "vtrace" and (term.importance, term.ratio_rule) != ("token", "truncate"):
        refuse("returns=vtrace needs importance=token and ratio_rule=truncate")
    if term.c_bar is not None and not 0 < term.c_bar < math.inf:
        refuse(f"c_bar={term.c_bar:g}; it is more than 0")
    if term.level == "token" and term.other == "dataset":
        refuse("level=token needs other=teacher: a dataset has no next token to give")
    _check_ratios(refuse, term)


def _check_ratios(refuse, term: Term) -> None:
    for kind, low, high in (
        (term.importance, term.low, term.high),
        (term.correction, term.correction_low, term.correction_high),
    ):
        if kind != "none" and term.signal == "one":
            refuse(f"a ratio of kind {kind} means nothing for signal=one: the data is the law")
        if kind not in importance.STATE_PART and term.rule is not None:
            refuse(f"a ratio of kind {kind} needs a sampled token, not {_sum(term)}")
        if low is not None and not 0 <= low <= 1:
            refuse(f"a ratio's lower bound is {low:g}; it lies in [0, 1]")
        if high is not None and not 1 <= high < math.inf:
            refuse(f"a ratio's upper bound is {high:g}; it is at least 1, and finite")
    if term.ratio_rule == "clip" and term.rule is not None:
        refuse(f"ratio_rule=clip gates by a sampled token's advantage, not {_sum(term)}")


def _sum(term: Term) -> str:
    """What stands in the place of a sampled token."""
    return "signal=entropy" if term.signal == "entropy" else f"expectation={term.expectation}"


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


def bias(method: Method) -> str | None:
    """Why the expectation differs from the claim; None where it doesn't.

    Of a student's own rollouts: by the current student. `stale` says what an older one's are
    unbiased for. Of other behaviors: whatever law the rollouts have.
    """
    reasons = [reason for term in method.terms for reason in _biases(term)]
    graded = _graded(method)
    if len(graded) == 1 and graded[0].coef != 1:
        reasons.append(f"coef={graded[0].coef:g} scales the gradient")
    return "; ".join(dict.fromkeys(reasons)) or None


def _biases(term: Term) -> list[str]:
    found = []
    if term.signal == "teacher_kl":
        found.append("the detached KL is a state baseline; only the future's is felt")
    if term.signal == "one" and _own_tokens(term):
        found.append("the score of an own token is zero on average")
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
    if term.behavior != "student" and term.signal != "one" and off_policy(term) is None:
        found.append(_foreign(term))
    if term.signal == "entropy":
        found.append("an entropy bonus is no part of the claim")
    if term.cut == "mask":
        found.append("cut=mask leaves out the rollouts that were cut")
    if term.reduction == "constant":
        found.append("reduction=constant divides the gradient by T")
    elif term.reduction != "sum":
        found.append(f"reduction={term.reduction} weighs tokens by the lengths drawn")
    return found


def _foreign(term: Term) -> str:
    found = f"the {term.behavior}'s tokens were not drawn from the student"
    if term.bounded:
        return found + ", and their ratio is bounded"
    ratio = term.importance if term.correction == "none" else term.correction
    return found if ratio == "none" else found + f", and no ratio of kind {ratio} corrects that"


# Whose states an enumerated or fresh candidate is unbiased for, by the state's ratio, and whose an
# own token is, by its ratio, where it is credited with nothing but itself.
CANDIDATE_STATES = {"none": "behavior", "prefix": "current"}
OWN_STATES = {"token": "behavior", "prefix_inclusive": "current", "trajectory": "current"}


def off_policy(term: Term) -> str | None:
    """Whose states a term is unbiased for where the behavior is not the current student.

    `current` or `behavior`; None for neither. With c_t the ratio of current policy and behavior:
    E_mu[c_1 .. c_(t-1) f(s_t)] = E_pi[f(s_t)]; an own token needs c_t besides, and a future all
    later ones. A bounded ratio is no ratio.
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


def stale(method: Method) -> str | None:
    """Whose states the method is unbiased for where an older policy drew the rollouts.

    `behavior`: the claim holds on that policy's states; `current`: on the current student's, as if
    the rollouts were fresh; None: on neither.
    """
    if bias(method) is not None:
        return None
    found = {off_policy(term) for term in method.terms}
    return found.pop() if len(found) == 1 else None


def states(method: Method) -> str:
    """Whose states the claim is about: `current` policy's, or the `behavior`'s."""
    if method.behavior == "student":
        return "current"
    return off_policy(method.terms[0]) or "behavior"


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

"""The methods table: one row a method, each a tuple of terms over the same axes.

Adding a row is one entry in ROWS: everything else about a method follows from its terms (`facts`).

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
    `level` (batch, sequence or token) and the `other` policy draws the rest. Groups whose rewards
    are all equal are drawn again, from other prompts, up to `redraws` times.

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
    redraws: int | None = None
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
            redraws=3,
            **{**CLIPPED, "high": 1.28},
        ),
        "DAPO: unequal clips, dynamic sampling, token mean, overlong masking",
        "Yu et al. 2025 (DAPO), eq. 8 and sections 3.1 to 3.4",
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
    "redraws": int,
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
# Of the rollout, and so the same for all terms: whose it is, and which of its groups are left.
MIXTURE = ("behavior", "share", "level", "other")
ROLLOUT = (*MIXTURE, "redraws")
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
        if axis not in AXES or (signal and axis in (*ROLLOUT, "signal")) or not equals:
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
            kept = {axis: getattr(base[0], axis) for axis in (*ROLLOUT, "reduction", "cut")}
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
    if not _redrawn(term):
        usual["redraws"] = None
    return usual


def _redrawn(term: Term) -> bool:
    """Whether groups of equal reward can be drawn again: not what is given or kept.

    A whole batch of given solutions has equal rewards, and a mixture would lose it.
    """
    given = term.level in (None, "batch") and term.other in (None, "dataset")
    return term.behavior == "student" or (term.behavior == "mixture" and not given)


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
    if term.redraws is not None and term.redraws < 0:
        refuse(f"redraws={term.redraws}; it is at least 0")
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
    counted = term.baseline in baselines.OF_ROLLOUTS or term.normaliser == "group_std"
    if counted and term.gamma != 1:
        refuse(
            f"baseline={term.baseline}, normaliser={term.normaliser} with gamma={term.gamma:g}; "
            "statistics of whole rollouts need gamma=1, at which a return is one"
        )
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

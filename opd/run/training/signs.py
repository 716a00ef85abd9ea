"""Signs of a run that learns nothing: one table, a line of metrics at a time.

A sign is the case once it has shown for some updates in a row. It is said when it begins, and every
update's line has the names of those that are the case. What is remembered between updates is plain
JSON, so that a run that goes on from a checkpoint says what it would have said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from opd.engine.optimizer import ROUNDING, OptimizerConfig
from opd.method import baselines, importance
from opd.method.table import Method

Line = Mapping[str, Any]  # figures of an update by name; those that a run doesn't have are absent
Memory = dict[str, dict[str, int]]  # by sign: its `streak`, and the `last` update it was the case

# Nats a token. Rounding leaves 1e-6 or less of equal policies; a student that came so near by
# learning has learned.
SAME_POLICY = 1e-5
# Nats a completion: one completion of a prompt has 99.9 % of its probability or more, and all of
# a group are alike.
NO_ENTROPY = 0.01
# Nats a demonstration, or a pair: what is left is 1e-4 of what it was, and less.
NO_LOSS = 1e-4
# The least that an effective sample size can be is 1; below 2 one weight is most of the sum.
ESS_FLOOR = 2.0
ESS_OF = 8  # weights, so that their floor is well below what they are without a fault
# Nearly all: a bound is there for the few.
BOUNDED = 0.99
# Times the clip. Adam takes steps of one length whatever the scale, so that clipping always does no
# harm (configs/ learn with 1 to 150 times): with a thousandth left, its epsilon begins to count.
CLIPPED = 1000.0
# Updates on one batch. Up to sixteen were seen to do no harm (experiments/reuse).
USED_UP = 32
# Updates without a sign after which it is said again: what comes and goes is said once.
QUIET = 20


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What a line of metrics doesn't say of its run."""

    clip: float = math.inf  # norm that a gradient is clipped to
    still_after: float = math.inf  # updates, after which the learning rate is 0
    groups: int = 0  # prompt groups of an update
    cap: int = 0  # tokens, T
    grouped: bool = False  # rewards are compared within a group
    weighed: bool = False  # by ratios of policies

    @staticmethod
    def of(
        optimizer: OptimizerConfig, method: Method | None, groups: int, cap: int
    ) -> Circumstances:
        """Those of a run of a method; of a reward model's training None."""
        terms = () if method is None else tuple(term for term in method.terms if term.coef)
        ends = optimizer.decay is not None and optimizer.floor == 0
        return Circumstances(
            clip=math.inf if optimizer.clip is None else optimizer.clip,
            still_after=optimizer.warmup + optimizer.decay if ends else math.inf,
            groups=groups,
            cap=cap,
            grouped=any(
                term.signal == "reward"
                and term.baseline in baselines.BASELINES
                and baselines.BASELINES[term.baseline].of == "group"
                for term in terms
            ),
            weighed=any({term.importance, term.correction} != {"none"} for term in terms),
        )


@dataclasses.dataclass(frozen=True)
class Sign:
    """A line of the table.

    `shows` is None of a line that can't tell: it stays as it was. `says` is what to read and what
    to change, with fields of the line and of the circumstances. It isn't said where one of
    `follows` is the case, which it follows from.
    """

    shows: Callable[[Line, Circumstances], bool | None]
    updates: int  # in a row that it must show
    says: str
    follows: tuple[str, ...] = ()


def _fresh(line: Line) -> bool:
    """Whether rollouts are looked at for the first time."""
    return line.get("uses", 1) == 1


def _equal_rewards(line: Line, run: Circumstances) -> bool | None:
    if "loss_reward" not in line:
        return False
    return line.get("reward_range") == 0 if _fresh(line) else None


def _equal_groups(line: Line, run: Circumstances) -> bool | None:
    if not run.grouped:
        return False
    return line["degenerate"] == 1 if "degenerate" in line else None


def _all_redrawn(line: Line, run: Circumstances) -> bool | None:
    return line.get("redrawn", 0) >= max(run.groups, 1) if _fresh(line) else None


def _all_cut(line: Line, run: Circumstances) -> bool | None:
    cut = line.get("truncated") == 1 and run.cap > 1  # one token alone has no room for an end
    return cut if _fresh(line) else None


def _all_empty(line: Line, run: Circumstances) -> bool | None:
    empty = line.get("length_max") == 1 and line.get("truncated") == 0
    return empty if _fresh(line) else None


def _skipped(line: Line, run: Circumstances) -> bool:
    norms = (line.get(name, 0.0) for name in ("gradient_norm", "critic_gradient_norm"))
    return not all(map(math.isfinite, norms))


def _no_gradient(line: Line, run: Circumstances) -> bool:
    return line["gradient_norm"] <= ROUNDING


def _clipped(line: Line, run: Circumstances) -> bool:
    return CLIPPED * run.clip < line["gradient_norm"] < math.inf


def _unchanged(line: Line, run: Circumstances) -> bool:
    return line.get("unchanged", 0.0) > 0.5  # most of what was asked for


def _still(line: Line, run: Circumstances) -> bool:
    return line["update"] > run.still_after


def _same_policy(line: Line, run: Circumstances) -> bool:
    graded = "loss_teacher" in line and "kl" in line
    return graded and line["kl"] <= SAME_POLICY * line["length"]


def _learned(line: Line, run: Circumstances) -> bool:
    losses = [name for name in line if name.startswith("loss_")]
    return losses == ["loss_one"] and line["loss_one"] <= NO_LOSS


def _told_apart(line: Line, run: Circumstances) -> bool:
    return line.get("loss", math.inf) <= NO_LOSS


def _no_entropy(line: Line, run: Circumstances) -> bool:
    nats = line.get("entropy_student", math.inf) * line.get("length", 1.0)
    return "loss_reward" in line and nats <= NO_ENTROPY


def _ess(line: Line, run: Circumstances) -> bool:
    if not run.weighed or "ess_rule" not in line:
        return False
    ahead = importance.LOG_RATIOS[line["ess_of"]].ahead  # one weight a rollout, else one a token
    count = line["tokens"] / line["length"] if ahead else line["tokens"]
    return count >= ESS_OF and line["ess_rule"] * count < ESS_FLOOR


def _all_bounded(line: Line, run: Circumstances) -> bool:
    return line.get("clip_fraction", 0.0) >= BOUNDED


def _used_up(line: Line, run: Circumstances) -> bool:
    return line.get("uses", 0) >= USED_UP


SIGNS: dict[str, Sign] = {
    "equal_rewards": Sign(
        _equal_rewards, 3,
        "every completion earns {reward:g}, so that no reward tells one from another: look into "
        "samples.jsonl and at what the verifier takes for right; take easier prompts where all "
        "fail, harder ones where none does, or more completions of a prompt (config.group_size)",
    ),
    "equal_groups": Sign(
        _equal_groups, 3,
        "the completions of each prompt all earn the same, so that a group has nothing to compare: "
        "take prompts that are solved now and then, or raise config.group_size",
        follows=("equal_rewards",),
    ),
    "all_redrawn": Sign(
        _all_redrawn, 3,
        "every group had equal rewards and was drawn again, at twice the rollouts or more: take "
        "prompts that are solved now and then, or raise config.group_size",
        follows=("equal_rewards", "equal_groups"),
    ),
    "all_cut": Sign(
        _all_cut, 3,
        "every completion is cut at data.max_completion = {cap} tokens, and none ends by itself: "
        "raise it, or see whether the student knows the chat template and its end",
    ),
    "all_empty": Sign(
        _all_empty, 3,
        "every completion ends at its first token: see whether the prompts are in the student's "
        "chat template (the first one is shown at the start), and what ends a completion",
    ),
    "skipped": Sign(
        _skipped, 1,
        "the gradient is infinite or NaN and the update is skipped, {skipped:g} so far: lower "
        "config.optimizer.learning_rate, or look for the figure that isn't finite in metrics.jsonl",
    ),
    "same_policy": Sign(
        _same_policy, 3,
        "the student's policy is the teacher's (KL {kl:.2g} nats a completion): nothing is left "
        "to learn; see whether config.teacher and config.student name the same model",
    ),
    "learned": Sign(
        _learned, 3,
        "the demonstrations are certain (loss {loss_one:.2g} nats): nothing is left to learn; take "
        "fewer updates or more demonstrations",
    ),
    "told_apart": Sign(
        _told_apart, 3,
        "all pairs are told apart for certain (loss {loss:.2g} nats): nothing is left to learn; "
        "take fewer updates or more pairs",
    ),
    "no_entropy": Sign(
        _no_entropy, 3,
        "the student's completions of a prompt are all alike (entropy {entropy_student:.2g} nats a "
        "token), and a reward has nothing to choose from: lower config.optimizer.learning_rate, or "
        "add entropy (config.method.name=ROW@entropy.coef=0.01) or a reference",
    ),
    "no_gradient": Sign(
        _no_gradient, 3,
        "the gradient is zero ({gradient_norm:.2g}): nothing in the rollouts teaches; see which "
        "loss, reward or KL in metrics.jsonl is zero",
        follows=("equal_rewards", "equal_groups", "same_policy", "learned", "told_apart"),
    ),
    "clipped": Sign(
        _clipped, 3,
        "the gradient's norm is {gradient_norm:.3g}, and config.optimizer.clip = {clip:g} leaves "
        "less than a thousandth of it: raise the clip to about the norm, leave it out "
        "(config.optimizer.spike limits a norm by those before it), or take a mean over tokens "
        "(config.method.name=ROW@reduction=token_mean)",
    ),
    "unchanged": Sign(
        _unchanged, 3,
        "{unchanged:.0%} of the update is rounded away, because it is smaller than what the "
        "parameters' dtype can add: raise config.optimizer.learning_rate, or train in a wider "
        "dtype (config.student.dtype=float32)",
    ),
    "still": Sign(
        _still, 1,
        "the learning rate is 0 since update {still_after:g}, where its cosine ends: raise "
        "config.optimizer.decay or config.optimizer.floor, or end there (config.updates)",
    ),
    "ess_floor": Sign(
        _ess, 3,
        "one weight of kind {ess_of} is nearly the sum of all (ESS {ess_rule:.2g} of their "
        "number): the rollouts are too old or too foreign for it; draw them more often "
        "(config.reuse.updates, config.reuse.ess) or take config.method.importance=token",
    ),
    "all_bounded": Sign(
        _all_bounded, 3,
        "a bound changes {clip_fraction:.0%} of the ratios: lower config.optimizer.learning_rate, "
        "draw rollouts more often (config.reuse.updates), or widen config.method.low and .high",
    ),
    "used_up": Sign(
        _used_up, 1,
        "one batch of rollouts has served {uses:g} updates: lower config.reuse.updates, or give "
        "config.reuse.kl or config.reuse.ess, by which a batch is given up",
    ),
}  # fmt: skip


def look(
    memory: Memory, line: Line, run: Circumstances, update: int
) -> tuple[Memory, list[str], list[str]]:
    """What one more line of metrics shows.

    Returns what to remember, the names of the signs that are the case, and what is to be said of
    those that begin.
    """
    line = _plain(line) | {"update": update}
    after: Memory = {}
    for name, sign in SIGNS.items():
        before, shows = memory.get(name, {}), sign.shows(line, run)
        streak = before.get("streak", 0)
        after[name] = before | {"streak": streak if shows is None else (streak + 1) * shows}
    names = [name for name, sign in SIGNS.items() if after[name]["streak"] >= sign.updates]
    begun = []
    for name in names:
        sign, last = SIGNS[name], after[name].get("last")
        if not set(sign.follows).isdisjoint(names):
            continue
        if last is None or update - last > QUIET:
            begun.append(sign.says.format_map(dataclasses.asdict(run) | line))
        after[name]["last"] = update
    return {name: seen for name, seen in after.items() if any(seen.values())}, names, begun


def _plain(line: Line) -> dict[str, Any]:
    """A line's words and single numbers."""
    single = {name: value for name, value in line.items() if np.ndim(value) == 0}
    return {
        name: float(value) if np.asarray(value).dtype.kind in "biuf" else value
        for name, value in single.items()
    }

"""Made-up results in the form of `results.json`: 16 rows, two probes, four arms. Seeded."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np

from opd.disk import strict
from opd.method import facts, table

NO_PARTS = "its weight holds the future; parts need probe.branches"
PROBES = ("start", "late")
# Parameters that the start's rollouts are weighed under -> log-ratio -> ESS / N.
ESS = {
    "start": {"token": 1.0, "prefix": 1.0, "prefix_inclusive": 1.0, "trajectory": 1.0},
    "start's rollouts, late parameters": {
        "token": 0.873,
        "prefix": 0.412,
        "prefix_inclusive": 0.354,
        "trajectory": 0.0621,
    },
}

# name, SNR, biased; the rest follows from the name
TABLE = """
opd                            0.42
opd_sampled                    0.07
opd_baseline                   0.09
opd_resampled@k=4              0.2
opd_topk@k=8                   0.40
opd_topk@k=8,tail=drop         0.44   b
opd_topk@k=8,tail=renormalise  0.45   b
opd_topk@k=8,tail=bucket       0.43   b
opd@gamma=0.9                  0.02
opd_sampled@gamma=0.9          0.012
opd@gamma=1                    0.012
opd_sampled@gamma=1            0.009
soft_label                     0.5
soft_label@expectation=sampled 0.11
reinforce                      0.0011
grpo                           0.004  b
"""


def rows() -> list[tuple[str, float, bool]]:
    """Name, SNR and whether the row is biased."""
    lines = [line.split() for line in TABLE.strip().splitlines()]
    return [(name, float(snr), rest == ["b"]) for name, snr, *rest in lines]


# By gamma, then by divergence (none: a reward); a row with the future is compared with one without.
REFERENCES = {
    (0.0, "reverse_kl"): "opd",
    (0.0, "forward_kl"): "soft_label",
    (0.9, "reverse_kl"): "opd@gamma=0.9",
    (1.0, "reverse_kl"): "opd",
    (1.0, None): "reinforce",
}


def around(value: float, spread: float) -> dict:
    """A figure and an interval of half width `spread`."""
    return {"value": value, "low": value - spread, "high": value + spread}


def described(name: str) -> dict:
    """What an entry says of a row whatever was measured: its goal and its axes."""
    method = table.parse(name)
    return strict({"goal": dataclasses.asdict(facts.goal(method)), "axes": facts.axes(method)})


def entry(row: tuple, probe: str, random: np.random.Generator) -> dict:
    name, snr, biased = row
    (term,) = described(name)["axes"]["terms"]
    expectation, gamma, k, tail = (term[axis] for axis in ("expectation", "gamma", "k", "tail"))
    graded = term["signal"] == "teacher"
    noise = 0.02 + 0.15 / (1 + 40 * snr)
    snr = snr * (1.0 if probe == "start" else 0.2) * random.uniform(0.95, 1.05)
    seconds = (0.0034 if graded else 0.0021) * (1.2 if k else 1.0)
    mean = 4.0 if probe == "start" else 0.5
    total = mean / snr
    parts = expectation != "enumerated" and gamma == 0 and not biased
    parts = parts or name in ("opd", "soft_label")
    sampled = 0.0 if expectation == "enumerated" else 1.0
    within = sampled * max(total - mean / 0.42, 0.1) * 1.08
    cross = sampled * -0.08 * within
    reference = REFERENCES[gamma, term["divergence"]]
    alone = reference == name
    sequence = graded and gamma == 1
    off = {"drop": 0.18, "renormalise": 0.22, "bucket": 0.03}.get(tail, 0.0)
    off = 0.6 if name == "grpo" else 1.2 if sequence else off
    cosine = {"grpo": 0.8}.get(name, 0.55 if sequence else 1.0 - off / 4)
    note = None
    if not parts:
        note = "biased: no partner of this kind" if biased else NO_PARTS
    if name == "grpo":
        note = "one draw per group; the group's standard deviation biases it"
    return described(name) | {
        "name": name,
        "label": name.replace("_", " "),
        "row": name.split("@")[0],
        "probe": probe,
        "biased": biased,
        "note": note,
        "reference": None if alone else reference,
        "cosine": None if alone else around(cosine + random.normal() * noise / 4, noise),
        "relative_error": None if alone else around(off + random.normal() * noise / 2, noise * 1.5),
        "twins": {},  # `pair` fills these two in
        "snr_ratio": None,
        "variance": {
            "total": around(total, total * noise),
            "across": around(total - within - cross, total * noise / 2) if parts else None,
            "within": around(within, total * noise / 2) if parts else None,
            "cross": around(cross, abs(cross) * 0.8) if parts else None,
        },
        "logit_square": around(total / 7, total / 7 * noise / 3),
        "total_per_logit_square": around(7.0, 7.0 * noise),
        "snr": around(snr, snr * noise * 1.4),
        "snr_per_second": around(snr / seconds, snr / seconds * noise * 1.5),
        "seconds": around(seconds, seconds * 0.04),
        "flops": 2.4e8 if graded else 1.6e8,
        "bytes": 3.1e8 * (1.3 if k else 1.0),
        "trusted": True,
        "trusted_from": 128,
        "effective_groups": 80.0,
        "heavy_tail": False,
    }


def spread(value: float, part: float) -> dict:
    """A ratio with an interval that is even on the log scale."""
    return {"value": value, "low": value / (1 + part), "high": value * (1 + part)}


def pair(entries: list[dict]) -> list[dict]:
    """The entries with what they have with another row, closer than two intervals tell."""
    rows = {(e["probe"], e["name"]): e for e in entries}

    def over(e: dict, other: dict, *keys: str) -> dict:
        for key in keys:
            e, other = e[key], other[key]
        return spread(e["value"] / other["value"], 0.05)

    for e in entries:
        reference = rows.get((e["probe"], e["reference"]))
        if reference is not None:
            e["snr_ratio"] = over(e, reference, "snr")
        twins = {"gamma": e["row"] if "gamma" in e["name"] else None}
        twins["signal"] = "reinforce" if e["name"] == "opd_sampled@gamma=1" else None
        for axis, name in twins.items():
            if name is not None and (e["probe"], name) in rows:
                twin = rows[e["probe"], name]
                e["twins"][name] = {
                    "axis": axis,
                    "cosine": around(0.55, 0.1),
                    "total_ratio": over(e, twin, "variance", "total"),
                    "snr_ratio": over(e, twin, "snr"),
                }
    return entries


def choices(entries: list[dict], part: float = 0.08) -> list[dict]:
    """The pairs of the unbiased rows of each goal, as the entries' own figures have them."""
    goals: dict[tuple, list[dict]] = {}
    for e in entries:
        if not e["biased"]:
            goals.setdefault((e["probe"], json.dumps(e["goal"])), []).append(e)
    return [
        {
            "probe": probe,
            "goal": json.loads(key),
            "level": 0.95,
            "count": len(members) * (len(members) - 1) // 2,
            "untrusted": [],
            "batch": 64,
            "batches": [1, 64, 4096],
            "pairs": [
                {
                    "rows": [a["name"], b["name"]],
                    "snr_ratio": spread(a["snr"]["value"] / b["snr"]["value"], part / 2),
                    "snr_per_second_ratio": spread(
                        a["snr_per_second"]["value"] / b["snr_per_second"]["value"], part
                    ),
                    "rollouts_ratio": [
                        spread(
                            (size + 1 / b["snr"]["value"]) / (size + 1 / a["snr"]["value"]),
                            part / 2,
                        )
                        for size in (1, 64, 4096)
                    ],
                }
                for a, b in itertools.combinations(members, 2)
            ],
        }
        for (probe, key), members in goals.items()
        if len(members) > 1
    ]


def arm(name: str, rate: float, seed: int, random: np.random.Generator) -> dict:
    steps = np.arange(0, 9)
    rollouts = (steps * 512).tolist()
    accuracy = 0.35 + 0.6 * (1 - np.exp(-rate * steps)) + random.normal(size=9) * 0.01
    kl = (3.0 * np.exp(-0.6 * rate * steps) + 0.02) * np.exp(random.normal() * 0.04)
    return {
        "name": name,
        "seed": seed,
        "learning_rate": 3e-4,
        "rollouts": rollouts,
        "seconds": (steps * (2.2 if name == "grpo" else 3.1)).tolist(),
        "accuracy": [around(float(a), 0.03) for a in accuracy.clip(0, 1)],
        "accuracy_greedy": [around(float(a), 0.03) for a in (accuracy + 0.03).clip(0, 1)],
        "kl": [around(float(value), 0.05 * float(value)) for value in kl],
        "length": [6.1] * 9,
    }


def results(seed: int = 0, seeds: int = 1) -> dict:
    """A whole `results.json`."""
    random = np.random.default_rng(seed)
    positions = list(range(12))
    falling = np.exp(-np.arange(12) / 6)
    by_position = {
        probe: {
            "position": positions,
            "count": [int(2048 * 0.9**t) for t in positions],
            "kl": [around(0.6 * scale * f, 0.03 * scale) for f in falling],
            "entropy_student": [around(1.4 * f + 0.1, 0.04) for f in falling],
            "entropy_teacher": [around(0.7 * f + 0.05, 0.03) for f in falling],
        }
        for probe, scale in (("start", 1.0), ("late", 0.1))
    }
    entries = pair([entry(row, probe, random) for probe in PROBES for row in rows()])
    rates = {"opd": 0.5, "opd_sampled": 0.3, "opd_topk": 0.48, "grpo": 0.12}
    return {
        "schema": 2,
        "config": {
            "seeds": seeds,
            "model": {"layers": 2, "width": 64},
            "probe": {"rollouts": 2048, "group_size": 8, "branches": 0},
            "data": {"task": "arithmetic", "digits": 2},
            "compare": {"arms": list(rates), "learning_rates": []},
        },
        "environment": {
            "python": "3.11.2",
            "versions": {"jax": "0.10.2", "flax": "0.12.8"},
            "device": "cpu",
            "cores": 2,
        },
        "rollouts": {
            "count": 2048,
            "digest": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            "mean_length": 6.1,
            "group_size": 8,
            "groups": 256,
            "truncated": 0.004,
        },
        "by_position": by_position,
        "ess": {where: dict(found) for where, found in ESS.items()},
        "estimators": entries,
        "choices": choices(entries),
        "training": [arm(n, r, s, random) for n, r in rates.items() for s in range(seeds)],
        "learning_rate": "one for all arms",
        "models": {
            "teacher": {"accuracy": around(0.96, 0.02)},
            "student": {"accuracy": around(0.35, 0.04)},
        },
        "warnings": [],
        "advice": [],
    }


def rough() -> dict:
    """Twenty rows with everything that can be missing, negative or out of scale."""
    found = results(seed=1, seeds=3)
    start = [e for e in found["estimators"] if e["probe"] == "start"]
    by_name = {e["name"]: e for e in start}
    for index in range(4):
        by_name["opd_baseline"] |= {"heavy_tail": True, "effective_groups": 11.4}
        by_name["opd@gamma=1"] |= {"trusted": False, "trusted_from": 512}
        start.append(by_name["grpo"] | {"name": f"grpo@expectation=sampled,gamma=0.{index + 1}"})
    by_name["reinforce"] |= {
        "snr": around(-0.0004, 0.002),
        "snr_per_second": around(-0.2, 0.9),
        "relative_error": {"value": 3.0, "low": 0.2, "high": None},
        "reference": "opd_sampled",
        "cosine": None,
        "snr_ratio": None,
    }
    by_name["grpo"] |= {
        "snr": None,
        "snr_per_second": None,
        "cosine": {"value": None, "low": -1, "high": 1},
    }
    by_name["grpo"]["snr_ratio"] = None
    by_name["opd_sampled"]["snr_ratio"] = around(0.17, 0.2)
    by_name["opd_resampled@k=4"] |= {"snr": around(0.02, 0.05), "snr_per_second": around(6.0, 15.0)}
    by_name["opd_topk@k=8"] |= {"snr": 0.4, "snr_per_second": 110.0, "seconds": 0.0041}
    by_name["opd_sampled"]["variance"]["cross"] = around(-80.0, 9.0)
    by_name["opd_sampled"]["variance"]["within"] = around(60.0, 9.0)
    by_name["opd_sampled"]["variance"]["across"] = around(78.0, 9.0)
    by_name["opd"]["variance"]["total"] = float("nan")
    by_name["soft_label"]["variance"] = None
    found["estimators"] = start
    found["by_position"] = {"start": found["by_position"]["start"], "late": None}
    found["by_position"]["start"]["entropy_teacher"] = [None] * 12
    found["by_position"]["start"]["kl"][3] = None
    for arm_ in found["training"]:
        arm_["accuracy"] = [None] * 9
        arm_["kl"] = [f["value"] for f in arm_["kl"]]
        arm_.pop("accuracy_greedy")
    found["models"] = {"teacher": {"accuracy": None}, "student": {"accuracy": None}}
    found["rollouts"]["truncated"] = 0.31
    found["warnings"] = ["the student solves <none> of the prompts & more"]
    found["ess"]["start's rollouts, late parameters"] |= {"trajectory": None, "token": 3.1e-4}
    found.pop("advice")
    return found

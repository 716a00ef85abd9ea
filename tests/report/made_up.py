"""Made-up results in the form of `results.json`: 16 rows, two probes, four arms. Seeded."""

from __future__ import annotations

import numpy as np

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

# name, divergence (none: a reward), expectation, gamma, k, tail, baseline, biased, SNR
TABLE = """
opd                            reverse_kl enumerated 0   - -           -           - 0.42
opd_sampled                    reverse_kl sampled    0   - -           -           - 0.07
opd_baseline                   reverse_kl sampled    0   - -           expected_kl - 0.09
opd_resampled@k=4              reverse_kl resampled  0   4 -           -           - 0.2
opd_topk@k=8                   reverse_kl topk       0   8 sample      -           - 0.40
opd_topk@k=8,tail=drop         reverse_kl topk       0   8 drop        -           b 0.44
opd_topk@k=8,tail=renormalise  reverse_kl topk       0   8 renormalise -           b 0.45
opd_topk@k=8,tail=bucket       reverse_kl topk       0   8 bucket      -           b 0.43
opd@gamma=0.9                  reverse_kl enumerated 0.9 - -           -           - 0.02
opd_sampled@gamma=0.9          reverse_kl sampled    0.9 - -           -           - 0.012
opd@gamma=1                    reverse_kl enumerated 1   - -           -           - 0.012
opd_sampled@gamma=1            reverse_kl sampled    1   - -           -           - 0.009
soft_label                     forward_kl enumerated 0   - -           -           - 0.5
soft_label@expectation=sampled forward_kl sampled    0   - -           -           - 0.11
reinforce                      -          sampled    1   - -           -           - 0.0011
grpo                           -          sampled    1   - -           group       b 0.004
"""


def rows() -> list[tuple]:
    """The table's lines with numbers as numbers and dashes as None."""
    found = []
    for line in TABLE.strip().splitlines():
        cells = [None if cell == "-" else cell for cell in line.split()]
        name, divergence, expectation, gamma, k, tail, baseline, biased, snr = cells
        signal = "teacher" if divergence else "reward"
        kind = {"0": "myopic", "1": "sequence"}.get(gamma, "discounted") if divergence else "reward"
        numbers = float(gamma), k and int(k)
        rest = (tail, baseline or "none", kind, biased == "b", float(snr))
        found.append((name, signal, divergence, expectation, *numbers, *rest))
    return found


REFERENCES = {
    "myopic": {"reverse_kl": "opd", "forward_kl": "soft_label"},
    "discounted": {"reverse_kl": "opd@gamma=0.9"},
    "sequence": {"reverse_kl": "opd"},
    "reward": {None: "reinforce"},
}


def around(value: float, spread: float) -> dict:
    """A figure and an interval of half width `spread`."""
    return {"value": value, "low": value - spread, "high": value + spread}


def entry(row: tuple, probe: str, random: np.random.Generator) -> dict:
    name, signal, divergence, expectation, gamma, k, tail, baseline, kind, biased, snr = row
    noise = 0.02 + 0.15 / (1 + 40 * snr)
    snr = snr * (1.0 if probe == "start" else 0.2) * random.uniform(0.95, 1.05)
    seconds = (0.0021 if signal == "reward" else 0.0034) * (1.2 if k else 1.0)
    mean = 4.0 if probe == "start" else 0.5
    total = mean / snr
    parts = expectation != "enumerated" and gamma == 0 and not biased
    parts = parts or name in ("opd", "soft_label")
    sampled = 0.0 if expectation == "enumerated" else 1.0
    within = sampled * max(total - mean / 0.42, 0.1) * 1.08
    cross = sampled * -0.08 * within
    reference = REFERENCES[kind][divergence]
    own = reference == name
    off = {"drop": 0.18, "renormalise": 0.22, "bucket": 0.03}.get(tail, 0.0)
    off = 0.6 if name == "grpo" else 1.2 if kind == "sequence" else off
    cosine = {"grpo": 0.8}.get(name, 0.55 if kind == "sequence" else 1.0 - off / 4)
    note = None
    if not parts:
        note = "biased: no partner of this kind" if biased else NO_PARTS
    if name == "grpo":
        note = "one draw per group; the group's standard deviation biases it"
    return {
        "name": name,
        "label": name.replace("_", " "),
        "row": name.split("@")[0],
        "probe": probe,
        "axes": {
            "behavior": "student",
            "signal": signal,
            "divergence": divergence,
            "expectation": expectation,
            "k": k,
            "tail": tail,
            "gamma": gamma,
            "baseline": baseline,
            "importance": "none",
        },
        "target": {"kind": kind, "divergence": divergence, "gamma": gamma},
        "states": "current",
        "biased": biased,
        "note": note,
        "reference": None if own else reference,
        "cosine": None if own else around(cosine + random.normal() * noise / 4, noise),
        "relative_error": None if own else around(off + random.normal() * noise / 2, noise * 1.5),
        "cosines": {},
        "snr_ratio": None,  # `pair` fills it in
        "variance": {
            "total": around(total, total * noise),
            "across": around(total - within - cross, total * noise / 2) if parts else None,
            "within": around(within, total * noise / 2) if parts else None,
            "cross": around(cross, abs(cross) * 0.8) if parts else None,
        },
        "snr": around(snr, snr * noise * 1.4),
        "snr_per_second": around(snr / seconds, snr / seconds * noise * 1.5),
        "seconds": around(seconds, seconds * 0.04),
        "flops": 2.4e8 if signal == "teacher" else 1.6e8,
        "bytes": 3.1e8 * (1.3 if k else 1.0),
        "trusted": True,
        "trusted_from": 170 if gamma else 128,
    }


def pair(entries: list[dict]) -> list[dict]:
    """The entries with their SNR over their reference's, closer than the two intervals tell."""
    rows = {(e["probe"], e["name"]): e for e in entries}
    for e in entries:
        reference = rows.get((e["probe"], e["reference"]))
        if reference is not None:
            value = e["snr"]["value"] / reference["snr"]["value"]
            e["snr_ratio"] = around(value, 0.05 * value)
    return entries


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
    rates = {"opd": 0.5, "opd_sampled": 0.3, "opd_topk": 0.48, "grpo": 0.12}
    return {
        "schema": 1,
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
        "estimators": pair([entry(row, probe, random) for probe in PROBES for row in rows()]),
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
        by_name["opd_baseline"] |= {"trusted": False, "trusted_from": 410}
        start.append(by_name["grpo"] | {"name": f"grpo@expectation=sampled,gamma=0.{index + 1}"})
    by_name["reinforce"] |= {
        "snr": around(-0.0004, 0.002),
        "snr_per_second": around(-0.2, 0.9),
        "relative_error": around(-2.0, 30.0),
        "reference": "opd_sampled",
        "cosine": None,
        "snr_ratio": None,
    }
    by_name["grpo"] |= {"snr": None, "snr_per_second": None, "cosine": around(0.2, 3.0)}
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

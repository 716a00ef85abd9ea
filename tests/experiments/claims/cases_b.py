"""What the rules of part B say of made-up numbers."""

from claim_case import Case, n

EXACTLY = {"error": n(1e-12), "extra": n(0.5, 0.2, 0.8), "agree": n(0.0), "alike": n(1e-20)}
NOISY = {name: n(-0.5, -0.7, -0.3) for name in ("sum_none", "token_none", "token_batch")}
NOISY |= {name: n(-1.0, -1.1, -0.9) for name in ("token_others", "token_critic")}
NOISY |= {name: n(0.0, -0.1, 0.1) for name in ("sum_batch", "sum_others", "sum_critic")}
HORIZON = {
    "sampled": n(1.0, 0.9, 1.1),
    "sum_local": n(0.5, 0.4, 0.6),
    "token_local": n(0.0, -0.1, 0.1),
    "longest": n(50, 20, 90),
    "short": n(0.0),
    "noise": n(1.0, 0.9, 1.1),
    "sigma": n(2.0),
    "check": n(1e-14),
    **NOISY,
}
TAILS = {"biased": n(0.4, 0.1, 1.0), "unbiased": n(1e-15), "fresh": n(0.5), "own": n(0.9)}
ORDERS = {
    "sampled": n(2.0, 1.98, 2.01),
    "enumerated": n(2.0, 1.98, 2.01),
    "snr": n(0.0, -0.01, 0.01),
    "gain": n(0.0, -0.01, 0.01),
}
BASELINE = {
    "ratio": n(2.5),
    "order": n(1.0, 0.9, 1.1),
    "near": n(0.01),
    "bias": n(1e-15),
}
BITS = {"reward": n(1.0, 0.8, 1.0), "count": n(300, 90, 900), "worth": n(0.5, 0.3, 0.9)}
BRANCHED = {
    "variance": n(0.2, 0.1, 0.4),
    "error": n(1e-14),
    "deep": n(3.0, 2.0, 4.0),
    "small": n(1.3, 1.1, 1.5),
}

CASES = {
    "B1": [
        Case(EXACTLY, "holds"),
        Case({**EXACTLY, "error": n(0.1)}, "fails"),
        Case({**EXACTLY, "alike": n(0.1)}, "fails"),
        Case({**EXACTLY, "extra": n(0.5, 0.0, 0.8)}, "not settled"),
    ],
    "B2": [Case({"error": n(1e-14)}, "holds"), Case({"error": n(0.02)}, "fails")],
    "B3": [
        Case({"ratio": n(0.4), "position": n(0.5, 0.2, 1.0)}, "fails", "holds"),
        Case({"ratio": n(1.1), "position": n(0.5, 0.2, 1.1)}, "not settled", "fails"),
    ],
    "B4": [
        Case({"trace": n(0.0), "least": n(-0.1)}, "holds"),
        Case({"trace": n(0.1), "least": n(-0.1)}, "fails"),
        Case({"trace": n(0.0), "least": n(0.0)}, "not settled"),
    ],
    "B5": [
        Case({"error": n(1e-14), "own": n(0.1, 0.01, 0.2)}, "holds"),
        Case({"error": n(0.05), "own": n(0.1, 0.01, 0.2)}, "fails"),
        Case({"error": n(1e-14), "own": n(0.1, 0.0, 0.2)}, "not settled"),
    ],
    "B7": [
        Case({"teacher": n(1.0), "total": n(1.0), "compiled": n(1.01)}, "holds"),
        Case({"teacher": n(8.0), "total": n(4.0), "compiled": n(1.01)}, "fails"),
        Case({"teacher": n(1.0), "total": n(1.0), "compiled": n(1.4)}, "not settled"),
    ],
    "B8": [
        Case(
            {"ratio": n(0.5), "redrawn": n(5, 1, 9), "topk": n(2, 1, 3), "fresh": n(1.0)},
            "fails",
            "holds",
        ),
        Case(
            {"ratio": n(1.5), "redrawn": n(5, 0.9, 9), "topk": n(2, 1, 3), "fresh": n(1.0)},
            "not settled",
            "fails",
        ),
    ],
    "B9": [
        Case(HORIZON, "holds"),
        Case({**HORIZON, "sum_local": n(1.0, 0.9, 1.1)}, "holds with caveat"),
        Case({**HORIZON, "short": n(0.2)}, "holds with caveat"),
        Case({**HORIZON, "sum_batch": n(1.5, 1.3, 1.7)}, "fails"),
        Case({**HORIZON, "sum_batch": n(1.0, 0.8, 1.2)}, "not settled"),
        Case({**HORIZON, "check": n(0.1)}, "not settled"),
    ],
    "B10": [
        Case(TAILS, "holds"),
        Case({**TAILS, "own": n(1.6)}, "holds with caveat"),
        Case({**TAILS, "unbiased": n(0.1)}, "fails"),
        Case({**TAILS, "fresh": n(1.2)}, "fails"),
    ],
    "B11": [
        Case(ORDERS, "holds"),
        Case({**ORDERS, "sampled": n(1.0, 0.9, 1.1)}, "fails"),
        Case({**ORDERS, "gain": n(0.0, -0.4, 0.4)}, "not settled"),
    ],
    "B12": [
        Case(BASELINE, "fails", "holds"),
        Case({**BASELINE, "ratio": n(0.8), "bias": n(0.1)}, "not settled", "fails"),
    ],
    "B14": [
        Case(BITS, "holds"),
        Case({**BITS, "worth": n(2.0, 0.1, 90)}, "holds with caveat"),
        Case({**BITS, "count": n(3.0, 2.0, 5.0)}, "fails"),
        Case({**BITS, "count": n(30, 5, 90)}, "not settled"),
    ],
    "B15": [
        Case(BRANCHED, "holds"),
        Case({**BRANCHED, "small": n(0.7, 0.4, 1.2)}, "holds with caveat"),
        Case({**BRANCHED, "deep": n(0.5, 0.4, 0.6)}, "fails"),
        Case({**BRANCHED, "deep": n(1.0, 0.8, 1.2)}, "not settled"),
    ],
    "B16": [
        Case({"ratio": n(0.6), "position": n(0.8, 0.0, 1.0), "bias": n(0.0)}, "fails", "holds"),
        Case(
            {"ratio": n(1.6), "position": n(0.8, 0.0, 1.3), "bias": n(0.0)}, "not settled", "fails"
        ),
    ],
    "B17": [
        Case({"error": n(0.4), "random": n(0.1), "three": n(1e-15)}, "fails", "holds"),
        Case({"error": n(1e-15), "random": n(1e-14), "three": n(0.1)}, "holds", "fails"),
    ],
}

"""What the rules of part A say of made-up numbers."""

from claim_case import Case, n

ZERO, SMALL, LARGE = n(1e-12), n(1e-5), n(0.5, 0.2, 0.9)  # of an error: none, neither, clear
ORDER = n(-1.0, -1.02, -0.98)
CAVEAT = "holds with caveat"

A3 = {
    "own": ZERO,
    "drawn": n(1.0, 0.98, 1.02),
    "tempered": LARGE,
    "cut": LARGE,
    "ratio": ZERO,
    "lost": LARGE,
}
A7 = {"cosine": n(-0.9), "others": LARGE, "gauge": LARGE, "forms": ZERO, "right": ZERO}
A8 = {"k3": LARGE, "named": ZERO, "rows": ZERO, "k1": ZERO}
A10 = {"length": LARGE, "constant": ZERO, "two": ZERO, "bias": ORDER, "order": ORDER}
A11 = dict.fromkeys(("published", "sft", "right"), ZERO) | dict.fromkeys(
    ("std", "length", "critic"), LARGE
)
UNTURNED = A11 | dict.fromkeys(("std", "length", "critic"), ZERO)
A13 = {"on": ZERO, "named": ZERO, "off": LARGE, "ratio": ZERO}

CASES = {
    "A1": [
        Case({"error": ZERO, "sum": ZERO}, "holds"),
        Case({"error": ZERO, "sum": LARGE}, "fails"),
        Case({"error": SMALL, "sum": ZERO}, "not settled"),
    ],
    "A2": [
        Case({"whole": ZERO, "subset": LARGE, "named": ZERO}, CAVEAT, "holds"),
        Case({"whole": ZERO, "subset": ZERO, "named": SMALL}, "holds", "not settled"),
        Case({"whole": LARGE, "subset": LARGE, "named": LARGE}, "fails", "fails"),
    ],
    "A3": [
        Case(A3, CAVEAT, "holds"),
        Case(A3 | {"drawn": n(1.0, 0.8, 1.2)}, "not settled", "holds"),
        Case(A3 | {"own": LARGE, "ratio": LARGE}, "fails", "fails"),
        Case(A3 | {"tempered": ZERO, "lost": ZERO}, "holds", "not settled"),
    ],
    "A4": [
        Case({"error": ZERO, "missing": n(0)}, "holds"),
        Case({"error": ZERO, "missing": n(1)}, "not settled"),
        Case({"error": LARGE, "missing": n(0)}, "fails"),
    ],
    "A5": [
        Case({"share": n(0), "repaired": ZERO}, "fails", "holds"),
        Case({"share": n(1), "repaired": LARGE}, "holds", "fails"),
    ],
    "A6": [
        Case({"apart": LARGE, "named": ZERO, "later": ZERO}, "fails", "holds"),
        Case({"apart": ZERO, "named": ZERO, "later": LARGE}, "holds", "fails"),
    ],
    "A7": [
        Case(A7, "fails", "holds"),
        Case(A7 | {"cosine": n(1.0), "others": ZERO}, "holds", "not settled"),
        Case(A7 | {"cosine": n(0.4), "forms": LARGE}, "not settled", "fails"),
    ],
    "A8": [
        Case(A8, "fails", "holds"),
        Case(A8 | {"k3": ZERO, "named": LARGE}, "holds", "fails"),
    ],
    "A9": [
        Case({"error": ZERO}, "holds"),
        Case({"error": LARGE}, "fails"),
    ],
    "A10": [
        Case(A10, "fails", "holds"),
        Case(A10 | {"length": ZERO, "constant": LARGE}, "holds", "fails"),
        Case(A10 | {"order": n(-0.5, -0.6, -0.4)}, "fails", "not settled"),
    ],
    "A11": [
        Case(A11, CAVEAT),
        Case(UNTURNED, "holds"),
        Case(UNTURNED | {"length": LARGE}, CAVEAT),
        Case(A11 | {"right": LARGE}, "fails"),
    ],
    "A12": [
        Case({"elsewhere": n(0.5), "onehot": ZERO, "enumerated": LARGE}, "fails", "holds"),
        Case({"elsewhere": n(0), "onehot": LARGE, "enumerated": LARGE}, "holds", "fails"),
    ],
    "A13": [
        Case(A13, CAVEAT, "holds"),
        Case(A13 | {"off": ZERO, "ratio": LARGE}, "holds", "fails"),
        Case(A13 | {"on": LARGE}, "fails", "holds"),
    ],
}

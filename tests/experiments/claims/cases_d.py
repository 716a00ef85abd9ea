"""What the rules of part D say of made-up numbers."""

from claim_case import Case, n

ZERO, OFF = n(1e-12), n(0.3, 0.1, 0.9)

D1 = {"source": OFF, "right": ZERO, "same": ZERO, "wrong": OFF}
D2 = {
    "trajectory": n(0.2, 0.1, 0.3),
    "prefix": n(0.3, 0.2, 0.4),
    "rate": n(0.4, 0.2, 0.6),
    "late": n(0.4, 0.3, 0.5),
    "moment": ZERO,
    "small": n(1.9),
}
ORDERS = {f"order {row}": n(1.0, 0.95, 1.05) for row in ("opd", "opd_sampled", "reinforce")}
SIZES = {f"size {row}": n(0.04, 0.02, 0.06) for row in ("opd", "opd_sampled", "reinforce")}
D3 = ORDERS | SIZES
WEIGHTED = ("opd_sampled@importance=token", "opd_sampled@importance=trajectory")
D5 = {row: n(0.9, 0.85, 0.95) for row in ("opd", "opd_sampled", *WEIGHTED)} | {
    "sharp": n(0.9, 0.85, 0.95),
    "half": n(5, 1, 50),
}
D6 = {
    "inside": n(0.6, 0.5, 0.8),
    "some": n(0.9, 0.8, 1.0),
    "ends": n(1.0),
    "token": n(0.7),
    "rest": ZERO,
    "row": ZERO,
}
D7 = {
    "explosion": n(1000, 500, 9000),
    "nll": ZERO,
    "enumerated": ZERO,
    "corrected": ZERO,
    "turned": OFF,
    "states": OFF,
}
D8 = {"left": n(0.5, 0.1, 1.0), "enumerated": n(0.5, 0.1, 1.0), "same": ZERO, "prefix": ZERO}
D9 = {
    "variance": n(1000),
    "growth": n(5, 1.2, 10),
    "broken": n(0.999, 0.99, 0.999),
    "integrand": n(1.0),
    "largest": n(1.0),
}

CASES = {
    "D1": [
        Case(D1, "fails", "holds"),
        Case(D1 | {"source": ZERO}, "holds", "holds"),
        Case(D1 | {"right": OFF}, "fails", "fails"),
        Case(D1 | {"wrong": n(0.1, 1e-12, 0.3)}, "fails", "not settled"),
    ],
    "D2": [
        Case(D2, "holds"),
        Case(D2 | {"small": n(1.0)}, "holds with caveat"),
        Case(D2 | {"late": n(0.3, 0.001, 0.5)}, "holds with caveat"),
        Case(D2 | {"trajectory": n(2, 1.5, 3)}, "fails"),
        Case(D2 | {"prefix": n(1, 0.5, 1.5)}, "not settled"),
        Case(D2 | {"rate": n(0.1, -0.2, 0.4)}, "not settled"),
    ],
    "D3": [
        Case(D3, "holds"),
        Case(D3 | {"size opd_sampled": n(0.1, 0.05, 0.3)}, "holds with caveat"),
        Case(D3 | {"order reinforce": n(0.1, 0.0, 0.2)}, "fails"),
        Case(D3 | {"order opd": n(1.0, 0.7, 1.3)}, "not settled"),
    ],
    "D5": [
        Case(D5, "holds", "holds"),
        Case(D5 | {"sharp": n(0.3, -0.5, 0.9)}, "fails", "holds"),
        Case(D5 | {WEIGHTED[0]: n(0.5, 0.1, 0.9)}, "not settled", "holds"),
        Case(D5 | dict.fromkeys(("opd", "opd_sampled"), n(0.1, 0, 0.2)), "not settled", "fails"),
    ],
    "D6": [
        Case(D6, "holds with caveat"),
        Case(D6 | {"inside": n(1.0)}, "holds"),
        Case(D6 | {"some": n(0.1, 0.0, 0.2)}, "fails"),
        Case(D6 | {"ends": n(0.9)}, "fails"),
        Case(D6 | {"rest": OFF}, "fails"),
        Case(D6 | {"rest": n(1e-6)}, "not settled"),
    ],
    "D7": [
        Case(D7, "holds with caveat", "holds"),
        Case(D7 | {"turned": ZERO}, "holds", "holds"),
        Case(D7 | {"nll": OFF}, "fails", "fails"),
        Case(D7 | {"explosion": n(2, 1, 3)}, "fails", "fails"),
        Case(D7 | {"explosion": n(20, 5, 90)}, "not settled", "not settled"),
    ],
    "D8": [
        Case(D8, "fails", "holds"),
        Case(D8 | {"left": n(0.05), "enumerated": n(0.05)}, "holds", "holds"),
        Case(D8 | {"left": n(0.3), "enumerated": n(0.3)}, "not settled", "holds"),
        Case(D8 | {"same": OFF}, "fails", "fails"),
    ],
    "D9": [
        Case(D9, "fails", "holds"),
        Case(D9 | {"variance": n(0.02), "growth": n(0.9, 0.8, 1.0)}, "holds", "holds"),
        Case(D9 | {"variance": n(0.02)}, "not settled", "holds"),
        Case(D9 | {"broken": n(1.2, 0.99, 1.2)}, "fails", "fails"),
        Case(D9 | {"largest": n(1.3)}, "fails", "fails"),
        Case(D9 | {"broken": n(0.5, 0.1, 0.5)}, "fails", "not settled"),
    ],
}

"""What the rules of part C say of made-up numbers."""

from claim_case import Case, n

C1 = {"error": n(1e-12), "row": n(1e-12), "share": n(0.4, 0.1, 0.9)}
C2 = {"apart": n(1.0, 0.3, 4.0), "credit": n(1e-12)}
C3 = {"ratio": n(1.0, 0.98, 1.02), "off": n(1e-9)}
C4 = {"largest": n(0.4, 0.1, 8.0), "worse": n(0.0, -0.05, 0.05)}
C5 = {
    "gap": n(1.5),
    "myopic": n(1e-16),
    "full": n(0.1),
    "rise": n(1.06),
    "cosine": n(-0.3),
    "vanish": n(1e-16),
    "most": n(0.9, 0.3, 0.99),
}
C6 = {"fresh": n(1e-12), "stale": n(1e-12), "left": n(1e-6), "gained": n(0.05, 0.01, 0.1)}
C7 = {"earlier": n(0.0), "first": n(0.0), "long": n(0.6, 0.5, 0.7), "all": n(0.5, 0.4, 0.6)}
C8 = {"zero": n(0.4, 0.3, 0.5), "half": n(0.2, 0.1, 0.3), "one": n(1e-12), "traced": n(1e-14)}
C9 = {
    "shorter": n(-0.02, -0.03, -0.01),
    "recurrent": n(-0.06, -0.09, -0.04),
    "within": n(-0.001, -0.003, 0.0),
    "first": n(6.0, 4.0, 8.0),
    "easy": n(-0.15, -0.2, -0.1),
}
C10 = {
    "soft": n(1e-14),
    "value": n(1e-14),
    "shaped": n(1e-14),
    "other": n(0.8, 0.4, 0.9),
    "regret": n(0.7, 0.4, 1.5),
    "moved": n(0.7, 0.2, 1.0),
    "short": n(0.2, 0.1, 0.3),
}
CASES = {
    "C1": [
        Case(C1, "holds"),
        Case({**C1, "row": n(1e-2)}, "fails"),
        Case({**C1, "share": n(0.1, 0.0, 0.2)}, "not settled"),
    ],
    "C2": [
        Case(C2, "fails", "holds"),
        Case({"apart": n(1e-12), "credit": n(1e-2)}, "holds", "fails"),
        Case({**C2, "apart": n(0.5, 0.0, 1.0)}, "not settled", "holds"),
    ],
    "C3": [
        Case(C3, "holds with caveat"),
        Case({**C3, "off": n(2.0)}, "holds"),
        Case({**C3, "ratio": n(0.0, -0.1, 0.1)}, "fails"),
        Case({**C3, "ratio": n(1.0, 0.5, 1.5)}, "not settled"),
    ],
    "C4": [
        Case(C4, "fails", "holds"),
        Case({"largest": n(0.4, 0.1, 0.8), "worse": n(0.3, 0.2, 0.4)}, "holds", "fails"),
        Case({**C4, "worse": n(0.1, 0.0, 0.2)}, "fails", "not settled"),
    ],
    "C5": [
        Case(C5, "fails", "holds"),
        Case({**C5, "gap": n(1.0), "most": n(1.5, 0.3, 2.0)}, "fails", "fails"),
        Case({**C5, "gap": n(1.0), "cosine": n(0.2)}, "not settled", "holds"),
        Case({**C5, "full": n(0.0), "rise": n(1.0)}, "not settled", "holds"),
        Case({**C5, "vanish": n(1e-5)}, "fails", "not settled"),
    ],
    "C6": [
        Case(C6, "holds with caveat"),
        Case({**C6, "gained": n(1e-5)}, "holds"),
        Case({**C6, "stale": n(1e-1)}, "fails"),
        Case({**C6, "left": n(0.3)}, "not settled"),
    ],
    "C7": [
        Case(C7, "holds with caveat"),
        Case({**C7, "all": n(0.0)}, "holds"),
        Case({**C7, "first": n(0.2)}, "fails"),
        Case({**C7, "long": n(0.0)}, "not settled"),
    ],
    "C8": [
        Case(C8, "fails", "holds"),
        Case({**C8, "zero": n(1e-12)}, "holds", "not settled"),
        Case({**C8, "one": n(1e-2)}, "fails", "fails"),
        Case({**C8, "traced": n(1e-2)}, "not settled", "not settled"),
    ],
    "C9": [
        Case(C9, "holds with caveat"),
        Case({**C9, "within": n(-0.1, -0.2, -0.05)}, "holds"),
        Case({**C9, "shorter": n(0.02, 0.01, 0.03)}, "fails"),
        Case({**C9, "easy": n(0.0, -0.1, 0.1)}, "not settled"),
    ],
    "C10": [
        Case(C10, "holds with caveat"),
        Case({**C10, "short": n(0.0)}, "holds"),
        Case({**C10, "soft": n(0.1)}, "fails"),
        Case({**C10, "moved": n(0.1, 0.0, 0.2)}, "not settled"),
    ],
}

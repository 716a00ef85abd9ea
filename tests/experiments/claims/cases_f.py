"""What the rules of part F say of made-up numbers."""

from claim_case import Case, n

from experiments.claims.instrument.f2 import FIGURES, GROUPS
from experiments.claims.instrument.f3 import PAIRS

GOOD, SHORT, WIDE = n(0.955, 0.94, 0.97), n(0.8, 0.7, 0.9), n(0.93, 0.85, 0.99)
F2 = {name: GOOD for name in ("many", *FIGURES)}
F2 |= {f"{kind} {groups}": GOOD for kind in ("light", "heavy") for groups in GROUPS}
F3 = {" ".join(pair): n(5, 3, 9) for pair in PAIRS}
F3 |= {"library": n(0, -0.2, 0.2), "loses": n(0.1)}
FIRST = " ".join(PAIRS[0])

CASES = {
    "F2": [
        Case(F2, "holds"),
        Case(F2 | {"heavy 32": SHORT}, "holds with caveat"),
        Case(F2 | {"light 32": SHORT}, "holds with caveat"),
        Case(F2 | {"cross": SHORT}, "fails"),
        Case(F2 | {"many": WIDE}, "not settled"),
    ],
    "F3": [
        Case(F3, "holds"),
        Case(F3 | {FIRST: n(1.5, 0.8, 4)}, "holds with caveat"),
        Case(F3 | {" ".join(pair): n(1.2, 0.8, 4) for pair in PAIRS}, "fails"),
        Case(F3 | {"library": n(1.5, 1, 2)}, "not settled"),
    ],
}

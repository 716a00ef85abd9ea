"""What the rules of part A say of made-up numbers."""

from made_up import Case, n

CASES = {
    "A1": [
        Case({"error": n(1e-12)}, "holds"),
        Case({"error": n(1e-2)}, "fails"),
        Case({"error": n(1e-5)}, "not settled"),
    ],
}

"""What the rules of part B say of made-up numbers."""

from made_up import Case, n

CASES = {
    "B3": [
        Case({"ratio": n(0.4), "position": n(0.5, 0.2, 1.0)}, "fails", "holds"),
        Case({"ratio": n(1.1), "position": n(0.5, 0.2, 1.1)}, "not settled", "fails"),
    ],
}

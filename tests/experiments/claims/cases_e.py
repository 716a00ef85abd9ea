"""What the rules of part E say of made-up numbers."""

from claim_case import Case, n


def e1(**changes):
    usual = {
        "cloned": n(2, 1.9, 2.1),
        "own": n(1.1, 1.0, 1.2),
        "labels": n(1.1, 1.0, 1.2),
        "cliff": n(2, 1.9, 2.1),
        "chance": n(1.2, 1.1, 1.3),
        "cloned_error": n(1, 0.9, 1.1),
        "own_error": n(1, 0.9, 1.1),
    }
    return usual | changes


def e7(**changes):
    usual = {
        "seeks": n(0.01),
        "covers": n(1.0, 0.9, 1.1),
        "near": n(0.05),
        "free": n(1e-5),
        "limited": n(1e-5),
        "reverse": n(0.9, 0.85, 0.95),
        "forward": n(0.1, 0.05, 0.15),
    }
    return usual | changes


def e10(**changes):
    usual = {
        f"{what}_{where}": number
        for where in ("reach", "limited")
        for what, number in (
            ("refresh", n(2, 1.5, 2.5)),
            ("backup", n(1, 0.9, 1.1)),
            ("both", n(1, 0.9, 1.1)),
        )
    }
    return usual | changes


def e12(**changes):
    usual = {
        "swapped": n(1e-14),
        "clipped": n(1e-15),
        "turn": n(0.1, 0.05, 0.2),
        "scaled": n(0.0, -0.1, 0.1),
    }
    return usual | changes


CASES = {
    "E1": [
        Case(e1(), "holds with caveat"),
        Case(e1(cliff=n(1.1, 1.0, 1.2)), "holds"),
        Case(e1(own=n(1.9, 1.8, 2.0)), "fails"),
        Case(e1(cloned=n(1.2, 1.1, 1.3)), "fails"),
        Case(e1(own=n(1.4, 1.1, 1.7)), "not settled"),
        Case(e1(labels=n(float("nan"))), "not settled"),
    ],
    "E5": [
        Case({"gain": n(0.3), "distilled": n(1e-3), "rl": n(0.99, 0.9, 1.0)}, "fails", "holds"),
        Case({"gain": n(0.0), "distilled": n(0.3), "rl": n(0.99)}, "not settled", "fails"),
        Case({"gain": n(0.3), "distilled": n(1e-3), "rl": n(0.1)}, "fails", "fails"),
        Case({"gain": n(0.3), "distilled": n(0.05), "rl": n(0.9)}, "fails", "not settled"),
    ],
    "E7": [
        Case(e7(), "holds", "holds"),
        Case(e7(near=n(1.0), limited=n(0.4)), "holds with caveat", "holds"),
        Case(e7(seeks=n(0.9)), "fails", "holds"),
        Case(e7(seeks=n(0.3), reverse=n(0.2, 0.1, 0.3)), "not settled", "fails"),
        Case(e7(free=n(0.5), reverse=n(0.7, 0.6, 0.8)), "fails", "not settled"),
    ],
    "E10": [
        Case(e10(), "holds"),
        Case(e10(both_limited=n(1.5, 1.2, 1.8)), "holds with caveat"),
        Case(e10(refresh_reach=n(0.8, 0.7, 0.9)), "fails"),
        Case(e10(backup_limited=n(1.9, 1.8, 2.0)), "fails"),
        Case(e10(refresh_limited=n(1.2, 0.9, 1.6)), "not settled"),
    ],
    "E12": [
        Case(e12(), "holds with caveat", "holds"),
        Case(e12(turn=n(1e-12), scaled=n(1.0, 0.9, 1.1)), "holds", "holds"),
        Case(e12(swapped=n(0.1)), "fails", "fails"),
        Case(e12(clipped=n(0.1)), "fails", "holds"),
        Case(e12(clipped=n(1e-5)), "not settled", "holds"),
    ],
}

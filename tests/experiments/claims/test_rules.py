"""Every rule of a verdict on made-up numbers: it must be able to say at least two things."""

import cases_a
import cases_b
import cases_c
import cases_d
import cases_e
import cases_f
import pytest

from experiments.claims.ledger import CLAIMS

CASES = {
    id: cases
    for part in (cases_a, cases_b, cases_c, cases_d, cases_e, cases_f)
    for id, cases in part.CASES.items()
}
EACH = [(id, case) for id, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("id", "case"), EACH, ids=[f"{id}-{c.verdict}" for id, c in EACH])
def test_the_rule_says(id, case):
    said = CLAIMS[id].judge(case.numbers)
    assert (said.verdict, said.repaired) == (case.verdict, case.repaired)


def test_every_rule_can_say_two_things():
    """Of the claim, and of its repaired form where there is one."""
    assert CASES.keys() == {id for id, claim in CLAIMS.items() if claim.judge}
    for id, cases in CASES.items():
        assert len({case.verdict for case in cases}) > 1, id
        repaired = {case.repaired for case in cases}
        assert repaired == {None} if CLAIMS[id].repaired is None else len(repaired - {None}) > 1, id
